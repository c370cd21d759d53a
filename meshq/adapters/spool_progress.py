"""The file `progress`: which records are removed. Two slots, written in turns, so that one is whole whenever a write breaks off:

    8 bytes  the spool's marker
    u64      how many times this was written
    u64      number up to which every record is removed, but for
    u32      so many,
    u64 ...  whose numbers follow
    u32      CRC-32 of all before

Numbers are big-endian. It is written behind and unsynced: what it does not tell is sent again after a crash.
"""

import os
import struct
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple
from zlib import crc32

from meshq.adapters.spool_format import MARKER

NAME = "progress"
SLOT = 8192
MOST = 1000
"""Records that may be left behind others that are removed."""
_HEAD = struct.Struct(f">{MARKER}sQQI")
_CHECK = struct.Struct(">I")


class Progress(NamedTuple):
    marker: bytes
    upto: int
    left: tuple[int, ...] = ()
    """Numbers up to `upto` that are not removed, in order; at most MOST."""


class ProgressFile:
    """Written by one thread."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / NAME
        self._times = _newest(self._path)[0]
        self._fd = -1

    def write(self, progress: Progress, sync: bool) -> None:
        """Raises OSError."""
        if self._fd < 0:
            self._fd = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        self._times += 1
        data = _HEAD.pack(progress.marker, self._times, progress.upto, len(progress.left))
        data += b"".join([number.to_bytes(8, "big") for number in progress.left])
        os.pwrite(self._fd, data + _CHECK.pack(crc32(data)), self._times % 2 * SLOT)
        if sync:
            os.fdatasync(self._fd)

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)


def read(directory: Path) -> Progress:
    """The last that was written whole; nothing removed where there is none."""
    return _newest(directory / NAME)[1]


def _newest(path: Path) -> tuple[int, Progress]:
    data = b""
    with suppress(OSError):
        data = path.read_bytes()
    return max(_slot(data[:SLOT]), _slot(data[SLOT:]), key=lambda slot: slot[0])


def _slot(data: bytes) -> tuple[int, Progress]:
    nothing = 0, Progress(b"", 0)
    if len(data) < _HEAD.size:
        return nothing
    marker, times, upto, count = _HEAD.unpack_from(data)
    end = _HEAD.size + 8 * count
    if len(data) < end + _CHECK.size or _CHECK.unpack_from(data, end)[0] != crc32(data[:end]):
        return nothing
    return times, Progress(marker, upto, struct.unpack_from(f">{count}Q", data, _HEAD.size))
