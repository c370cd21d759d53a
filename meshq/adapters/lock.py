"""One process at a time: a lock on a file, for what is kept on disk."""

import errno
import fcntl
import os
from contextlib import suppress
from pathlib import Path


class InUse(Exception):
    """Another process has it, or it cannot be locked; the message says which and what to do."""


def hold(lock: Path, what: Path) -> int:
    """Lock the file `lock`, made where there is none, for as long as this process lives or until the descriptor returned is
    closed. The file stays; the lock goes with its holder, however that ends. `what` is what it protects, for the message.
    Raises InUse."""
    try:
        fd = _open(lock)
    except OSError as error:
        raise InUse(f"{what} cannot be opened: {error}") from error
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        holder = os.pread(fd, 20, 0).decode(errors="replace").strip()
        os.close(fd)
        raise InUse(
            f"{what} is in use by process {holder or '(unknown)'}: stop that one, or use another directory"
        ) from error
    except OSError as error:
        os.close(fd)
        raise InUse(f"{what} cannot be locked: {error}") from error
    with suppress(OSError):  # the number is only for the message; the disk may be full, or read-only
        os.ftruncate(fd, 0)
        os.pwrite(fd, b"%d\n" % os.getpid(), 0)
    return fd


def _open(lock: Path) -> int:
    try:
        return os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        if error.errno != errno.EROFS:
            raise
        return os.open(lock, os.O_RDONLY | os.O_CLOEXEC)  # what is there can still be read
