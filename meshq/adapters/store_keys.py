"""What the embedded store (embedded_store.py) knows, on disk: keys with values and the times at which they end, in one SQLite
file like that of the embedded broker's queues (store.py).

A change is noted at once and written by a thread in the background; while one batch of changes is being committed the next
one gathers, so that many share one sync. A batch that cannot be written is kept and tried again with the next change, and
whoever waits for it is told.
"""

import asyncio
import os
import sqlite3
from pathlib import Path
from typing import NamedTuple

from meshq.adapters.store_file import StoreUnusable, lock_file, open_file, translated
from meshq.tasks import Tasks

_SCHEMA = "CREATE TABLE IF NOT EXISTS key (name TEXT PRIMARY KEY, value BLOB, until_ms INTEGER);"


class StoredKey(NamedTuple):
    name: str
    value: bytes
    until_ms: int | None
    """Mesh time, Unix milliseconds; None: for ever."""


class KeyStore:
    """Opened by its constructor (raises StoreUnusable), read once with `load`, then changed from one event loop."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock_fd = lock_file(path)
        try:
            self._db = open_file(path, _SCHEMA)
        except BaseException:
            os.close(self._lock_fd)
            raise
        self._changes: dict[str, StoredKey | None] = {}
        """By name, not yet given to the thread; None: it is to be deleted."""
        self._waiting: list[asyncio.Future[None]] = []
        self._writing = False
        self._tasks = Tasks()

    def load(self, now_ms: int) -> list[StoredKey]:
        """What has not ended; the rest is deleted."""
        with translated(self._path), self._db:
            self._db.execute("DELETE FROM key WHERE until_ms <= ?", (now_ms,))
            return [StoredKey(*row) for row in self._db.execute("SELECT name, value, until_ms FROM key")]

    def put(self, name: str, value: bytes, until_ms: int | None) -> None:
        self._change(name, StoredKey(name, value, until_ms))

    def delete(self, name: str) -> None:
        self._change(name, None)

    async def sync(self) -> None:
        """Return when every change made so far is on the disk. Raises StoreUnusable."""
        if self._changes or self._writing:
            written: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.append(written)
            self._wake()
            await written

    async def close(self) -> None:
        """Write what is noted, if it can be written, then let go of the file. Raises StoreUnusable."""
        try:
            await self.sync()
        finally:
            await self._tasks.close()
            self._db.close()
            os.close(self._lock_fd)

    # --- writing ------------------------------------------------------------------------------------------------------------

    def _change(self, name: str, key: StoredKey | None) -> None:
        self._changes[name] = key
        self._wake()

    def _wake(self) -> None:
        if not self._writing:
            self._writing = True
            self._tasks.start(self._write(), "write what the store knows")

    async def _write(self) -> None:
        try:
            while self._changes or self._waiting:
                changes, self._changes = self._changes, {}
                waiting, self._waiting = self._waiting, []
                try:
                    await asyncio.to_thread(self._commit, changes)
                except StoreUnusable as error:
                    self._changes = changes | self._changes
                    _tell(waiting + self._waiting, error)
                    self._waiting = []
                    return
                _tell(waiting, None)
        finally:
            self._writing = False

    def _commit(self, changes: dict[str, StoredKey | None]) -> None:
        puts = [key for key in changes.values() if key is not None]
        deletions = [(name,) for name, key in changes.items() if key is None]
        try:
            with self._db:
                self._db.execute("BEGIN IMMEDIATE")
                self._db.executemany("INSERT OR REPLACE INTO key VALUES (?, ?, ?)", puts)
                self._db.executemany("DELETE FROM key WHERE name = ?", deletions)
        except sqlite3.Error as error:
            raise StoreUnusable(f"{self._path} cannot be written ({error}): free some space there") from error


def _tell(waiting: list[asyncio.Future[None]], error: StoreUnusable | None) -> None:
    for written in waiting:
        if written.done():
            continue
        if error is None:
            written.set_result(None)
        else:
            written.set_exception(error)
