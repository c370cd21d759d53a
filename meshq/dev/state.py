"""`.meshq/` beside a mesh.yaml: what a running dev mesh keeps there, and how others find it."""

import contextlib
import fcntl
import json
import os
import secrets
from dataclasses import asdict, dataclass
from pathlib import Path

FOLDER = ".meshq"
FILE = "dev.json"
LOCK = "dev.lock"
SECRET = "control.secret"


@dataclass(frozen=True, slots=True)
class Running:
    """A dev mesh that runs."""

    control: str
    """The URL of its control API."""
    pid: int
    file: str
    mesh: str = "default"


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

    def secret(self) -> str:
        """Of which tokens for registrations are made: drawn once and kept, so that tokens outlast a run. Raises OSError."""
        file = self.path / SECRET
        if kept := read_secret(self.path):
            return kept
        made = secrets.token_hex(32)
        file.unlink(missing_ok=True)
        with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "w") as opened:
            opened.write(made + "\n")
        return made

    def release(self) -> None:
        (self.path / FILE).unlink(missing_ok=True)
        os.close(self._lock)


@dataclass(frozen=True, slots=True)
class Found:
    running: Running | None
    hint: str
    """What else was found on the way, for a message; "" for nothing."""
    folder: Path | None = None
    """Its `.meshq/`."""


def find(start: Path) -> Found:
    """The dev mesh of `start` or the nearest folder above it that has one."""
    hint = ""
    for folder in (start, *start.parents):
        file = folder / FOLDER / FILE
        running = _read(file)
        if running is None:
            continue
        if _alive(running.pid):
            return Found(running, hint, file.parent)
        hint = f"{file} is of a dev mesh that was killed (process {running.pid})"
    return Found(None, hint)


def read_secret(folder: Path) -> str:
    """That of `Folder.secret`; "" where there is none."""
    with contextlib.suppress(OSError, ValueError):
        return (folder / SECRET).read_text("utf-8").strip()
    return ""


def _read(file: Path) -> Running | None:
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        kept = json.loads(file.read_text("utf-8"))
        return Running(str(kept["control"]), int(kept["pid"]), str(kept["file"]), str(kept.get("mesh", "default")))
    return None


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
