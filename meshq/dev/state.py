"""`.meshq/` beside a mesh.yaml: what a running dev mesh keeps there, and how others find it."""

import contextlib
import fcntl
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

FOLDER = ".meshq"
FILE = "dev.json"
LOCK = "dev.lock"


@dataclass(frozen=True, slots=True)
class Running:
    """A dev mesh that runs."""

    control: str
    """The URL of its control API."""
    pid: int
    file: str


class AlreadyRunning(Exception):
    """Another `meshq dev` has this folder; the message says which and what to do."""


class Folder:
    """`.meshq/` of the mesh.yaml in `beside`, held by this process until `release`. Raises AlreadyRunning, OSError."""

    def __init__(self, beside: Path) -> None:
        self.path = beside / FOLDER
        self.path.mkdir(exist_ok=True)
        # The lock goes with the process, however that ends; the file may be left behind.
        self._lock = os.open(self.path / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._lock)
            other = _read(self.path / FILE)
            who = f" (process {other.pid}, {other.control})" if other is not None else ""
            raise AlreadyRunning(
                f"a `meshq dev` runs in {beside} already{who}: stop it first, or work on a copy of the folder"
            ) from error
        self.left_behind = (self.path / FILE).exists()
        """Whether an earlier process was killed before it could tidy up."""

    def announce(self, running: Running) -> None:
        new = self.path / f"{FILE}.new"
        new.write_text(json.dumps(asdict(running), indent=1) + "\n", "utf-8")
        new.replace(self.path / FILE)

    def release(self) -> None:
        (self.path / FILE).unlink(missing_ok=True)
        os.close(self._lock)


@dataclass(frozen=True, slots=True)
class Found:
    running: Running | None
    hint: str
    """What else was found on the way, for a message; "" for nothing."""


def find(start: Path) -> Found:
    """The dev mesh of `start` or the nearest folder above it that has one."""
    hint = ""
    for folder in (start, *start.parents):
        file = folder / FOLDER / FILE
        running = _read(file)
        if running is None:
            continue
        if _alive(running.pid):
            return Found(running, hint)
        hint = f"{file} is of a dev mesh that was killed (process {running.pid})"
    return Found(None, hint)


def _read(file: Path) -> Running | None:
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        kept = json.loads(file.read_text("utf-8"))
        return Running(str(kept["control"]), int(kept["pid"]), str(kept["file"]))
    return None


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
