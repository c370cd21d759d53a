"""An SQLite file that one process at a time has open: in WAL mode, synced at every commit."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from meshq.adapters import lock


class StoreUnusable(Exception):
    """The file cannot be used; the message says why and what to do."""


def lock_file(path: Path) -> int:
    """Hold `<path>.lock` as long as this process lives or until the descriptor returned is closed. Raises StoreUnusable."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return lock.hold(path.with_name(path.name + ".lock"), path)
    except OSError as error:
        raise StoreUnusable(f"{path} cannot be opened: {error}") from error
    except lock.InUse as error:
        raise StoreUnusable(str(error)) from error


def open_file(path: Path, tables: str) -> sqlite3.Connection:
    """A connection for any one thread at a time. `tables` makes what is not there. Raises StoreUnusable."""
    with translated(path):
        db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        try:
            db.execute("PRAGMA journal_mode = WAL")
            db.execute("PRAGMA synchronous = FULL")
            db.executescript(tables)
        except BaseException:
            db.close()
            raise
        return db


@contextmanager
def translated(path: Path) -> Iterator[None]:
    """SQLite's own errors as StoreUnusable."""
    try:
        yield
    except sqlite3.Error as error:
        raise StoreUnusable(
            f"{path} cannot be used ({error}): move it away to start empty, or put a good copy in its place"
        ) from error
