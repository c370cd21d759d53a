"""The picture of the mesh in a file, for a sidecar that starts while the registry is away.

It is a cache: never needed, written behind, not synced. Whatever is wrong with it is said in the log, and it is left out. Who can
write it can tell this sidecar where services are, so one that others could have written is not read.
"""

import hashlib
import logging
import os
import stat
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from meshq.core.instances import Snapshot
from meshq.core.picture_format import Kept, decode_picture, encode_picture

logger = logging.getLogger(__name__)

MAX_BYTES = 32 * 2**20
"""About 100,000 instances."""


def cache_folder(environment: Mapping[str, str]) -> Path | None:
    """This user's own folder for what can be lost (the XDG base directory specification); None where no home is set."""
    base = environment.get("XDG_CACHE_HOME", "")
    if os.path.isabs(base):
        return Path(base) / "meshq"
    home = environment.get("HOME", "")
    return Path(home) / ".cache" / "meshq" if os.path.isabs(home) else None


class PictureFile:
    """The file of one mesh at one registry in `folder`. Several sidecars may share it: the last one to write wins. `private`: the
    folder is to be this user's own; a volume of a pod may be open to others. `load` and `save` do I/O, and may be called from any
    one thread at a time; neither raises."""

    def __init__(self, folder: Path, registry_url: str, mesh: str, *, private: bool) -> None:
        # The URL may hold a password.
        name = hashlib.sha256(f"{registry_url}\n{mesh}".encode()).hexdigest()[:32]
        self._path = folder / f"picture-{name}"
        self._private = private
        self._fault = ""
        """What was said last of writing it."""

    def load(self) -> Kept | None:
        """None where there is none that can be used."""
        try:
            return decode_picture(self._read())
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            logger.warning("the picture of the mesh in %s is not used: %s", self._path, error)
            return None

    def save(self, picture: Snapshot, saved_ms: int) -> None:
        try:
            self._write(encode_picture(picture, saved_ms))
        except OSError as error:
            self._say(f"{error.strerror or error}")
        except ValueError as error:
            self._say(str(error))
        else:
            self._fault = ""

    def _say(self, fault: str) -> None:
        if fault != self._fault:
            self._fault = fault
            logger.warning(
                "the picture of the mesh cannot be kept in %s (%s), so a start without the registry begins with none; "
                "set MESHQ_SPOOL_DIR to a directory that can be written",
                self._path,
                fault,
            )

    def _read(self) -> bytes:
        """Raises OSError, ValueError."""
        self._check_folder()
        descriptor = os.open(self._path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as file:
            found = os.fstat(descriptor)
            _check_ours(found, "it")
            if not stat.S_ISREG(found.st_mode) or found.st_size > MAX_BYTES:
                raise ValueError("it is no file, or far too large")
            return file.read(MAX_BYTES)

    def _write(self, data: bytes) -> None:
        """All of it or nothing. Raises OSError, ValueError."""
        if len(data) > MAX_BYTES:
            raise ValueError(f"it would take {len(data)} bytes, and {MAX_BYTES} is the most")
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._check_folder()
        new = self._path.with_name(f"{self._path.name}.{os.getpid()}.new")
        with suppress(FileNotFoundError):
            new.unlink()
        descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
            new.replace(self._path)
        except BaseException:
            with suppress(OSError):
                new.unlink()
            raise

    def _check_folder(self) -> None:
        if self._private:
            _check_ours(os.stat(self._path.parent), "its directory")


def _check_ours(found: os.stat_result, what: str) -> None:
    """Raises ValueError."""
    if found.st_uid != os.geteuid() or found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise ValueError(f"{what} belongs to another user, or others may write to it")
