"""The TLS context for the broker and the registry, from files that may be renewed while we run."""

import logging
import ssl
from pathlib import Path

logger = logging.getLogger(__name__)

Files = tuple[Path | None, Path | None, Path | None]
"""Of MESHQ_TLS_CA, MESHQ_TLS_CERT, MESHQ_TLS_KEY."""
SYSTEM: Files = (None, None, None)
"""The system's authorities, and no certificate of our own."""


def context(ca: Path | None, cert: Path | None, key: Path | None) -> ssl.SSLContext:
    """Server certificates are checked against `ca`, by default the system's authorities; `cert` and `key` say who we are.
    Raises OSError for a file that cannot be read, ssl.SSLError for one that holds no certificate or another's key."""
    made = ssl.create_default_context(cafile=None if ca is None else str(ca))
    made.minimum_version = ssl.TLSVersion.TLSv1_2
    if cert is not None:
        made.load_cert_chain(str(cert), None if key is None else str(key))
    return made


class Renewed:
    """The context of files as they are now. Raises as `context` does when it is made; later, files that do not fit (they are being
    renewed) leave it as it was."""

    def __init__(self, files: Files) -> None:
        self._files = files
        self._stamps = self._look()
        self._context = context(*files)

    def __call__(self) -> ssl.SSLContext:
        stamps = self._look()
        if stamps != self._stamps:
            try:
                self._context = context(*self._files)
                self._stamps = stamps
            except OSError as error:
                logger.warning("the renewed TLS files are not used: %s", error)
        return self._context

    def _look(self) -> list[tuple[int, int, int] | None]:
        """What changes with a file's content, also where a link in its place is turned to another one."""
        return [None if file is None else _stamp(file) for file in self._files]


def _stamp(file: Path) -> tuple[int, int, int] | None:
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns
