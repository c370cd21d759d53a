"""Which records there are, which were taken and which removed: five bytes of memory a record. The records themselves stay
on the disk."""

import os
import re
from array import array
from bisect import bisect_right
from collections.abc import Sequence
from pathlib import Path

from meshq.adapters.spool_format import MARKER, OVERHEAD, Unreadable, payload_of, read_head, unpack
from meshq.adapters.spool_progress import MOST, Progress
from meshq.ports import Publication

_NAME = re.compile(rf"(\d{{10}})-(\d{{20}})-([0-9a-f]{{{2 * MARKER}}})\.v1", re.ASCII)
CHUNK = 256 * 1024
"""Bytes read at once."""


class Segment:
    """One file. `size` is what of it is written and synced."""

    __slots__ = ("first", "gone", "live", "marker", "offsets", "sequence", "size", "unsynced")

    def __init__(self, sequence: int, first: int, marker: bytes) -> None:
        self.sequence = sequence
        self.first = first
        self.marker = marker
        self.size = 0
        self.unsynced = 0
        """Records on their way into it."""
        self.offsets = array("I")
        self.gone = bytearray()
        """1 for each record that was removed or cannot be read."""
        self.live = 0

    @property
    def name(self) -> str:
        return f"{self.sequence:010}-{self.first:020}-{self.marker.hex()}.v1"

    @property
    def last(self) -> int:
        """Number of its last record; one less than `first` where it has none."""
        return self.first + len(self.offsets) - 1

    def add(self, offsets: Sequence[int], end: int) -> None:
        """Records at these offsets, up to `end`, are on the disk."""
        self.offsets.extend(offsets)
        self.gone.extend(bytes(len(offsets)))
        self.live += len(offsets)
        self.size = end

    def restore(self, offsets: "array[int]", gone: bytearray, size: int) -> None:
        """This is what was found in its file."""
        self.offsets, self.gone, self.size = offsets, gone, size
        self.live = gone.count(0)

    def drop(self, number: int) -> bool:
        """False: it was gone already."""
        index = number - self.first
        if not 0 <= index < len(self.gone) or self.gone[index]:
            return False
        self.gone[index] = 1
        self.live -= 1
        return True

    def drop_all_but(self, upto: int, left: set[int]) -> None:
        """Of the records up to that number."""
        count = min(max(upto - self.first + 1, 0), len(self.gone))
        found = bytes(self.gone[:count])
        self.gone[:count] = b"\1" * count
        for number in left:
            if 0 <= number - self.first < count:
                self.gone[number - self.first] = found[number - self.first]
        self.live = self.gone.count(0)


def named(name: str) -> Segment | None:
    """The segment, empty yet, that a file of this name is; None for another file."""
    found = _NAME.fullmatch(name)
    return None if found is None else Segment(int(found[1]), int(found[2]), bytes.fromhex(found[3]))


class Segments:
    """All segments in order, and how far they were taken."""

    def __init__(self, found: list[Segment], removed: int) -> None:
        self._all = found
        self._firsts = [segment.first for segment in found]
        self._taken = 0
        """Number of the last that was taken."""
        # What was damaged counts: it is reported, and need not be again.
        self._removed = max(removed, *(segment.first + segment.gone.rfind(1) for segment in found), 0)
        """The highest number that is gone."""
        self.waiting = sum(segment.live for segment in found)
        self.bytes = sum(segment.size for segment in found)

    def written(self, segment: Segment, offsets: Sequence[int], end: int) -> None:
        """Records at these offsets, up to `end`, are on the disk; `segment` is the last one, or new."""
        if not segment.size:
            self._all.append(segment)
            self._firsts.append(segment.first)
        self.waiting += len(offsets)
        self.bytes += end - segment.size
        segment.add(offsets, end)

    def take(self) -> tuple[Segment, int] | None:
        """(segment, index) of the next that is not removed."""
        number = self._taken + 1
        for at in range(max(self._of(number), 0), len(self._all)):
            segment = self._all[at]
            index = segment.gone.find(0, max(number - segment.first, 0))
            if index >= 0:
                self._taken = segment.first + index
                return segment, index
        return None

    def rewind(self) -> None:
        self._taken = 0

    def remove(self, number: int) -> None:
        at = self._of(number)
        if at >= 0 and self._all[at].drop(number):
            self.waiting -= 1
            self._removed = max(self._removed, number)

    def _of(self, number: int) -> int:
        """Index of the segment that has this number, if any has."""
        return bisect_right(self._firsts, number) - 1

    def progress(self, marker: bytes) -> Progress:
        left: list[int] = []
        for segment in self._all:
            index = segment.gone.find(0)
            while index >= 0:
                number = segment.first + index
                if number > self._removed:
                    return Progress(marker, self._removed, tuple(left))
                if len(left) == MOST:
                    return Progress(marker, number - 1, tuple(left))
                left.append(number)
                index = segment.gone.find(0, index + 1)
        return Progress(marker, self._removed, tuple(left))

    def take_off(self, growing: Segment | None, upto: int) -> list[Segment]:
        """Take out the segments in which nothing is left, among those with numbers up to `upto`. `growing` stays: more will come
        into it."""
        off = [
            segment
            for segment in self._all
            if not (segment.live or segment.unsynced or segment is growing or segment.last > upto)
        ]
        if off:
            self._all = [segment for segment in self._all if segment not in off]
            self._firsts = [segment.first for segment in self._all]
            self.bytes -= sum(segment.size for segment in off)
        return off


class Reader:
    """Reads records back, a chunk at a time: they were written lately or are read in order."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.segment: Segment | None = None
        self._fd = -1
        self._chunk = b""
        self._begin = 0

    def read(self, segment: Segment, index: int) -> Publication:
        """Raises Unreadable, OSError."""
        if segment is not self.segment:
            self._open(segment)
        try:
            return unpack(self._payload(segment, index))
        except Unreadable:
            self._chunk = b""  # look at the disk itself before giving up
            return unpack(self._payload(segment, index))

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
        self._fd, self.segment, self._chunk = -1, None, b""

    def _open(self, segment: Segment) -> None:
        self.close()
        self._fd = os.open(self._directory / segment.name, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        self.segment = segment

    def _payload(self, segment: Segment, index: int) -> bytes:
        offset = segment.offsets[index]
        at = self._at(segment, offset, OVERHEAD)
        head = read_head(self._chunk, at, segment.marker)
        if head is None or head.number != segment.first + index:
            raise Unreadable("its head is damaged")
        at = self._at(segment, offset, OVERHEAD + head.length)
        return payload_of(self._chunk, at, head)

    def _at(self, segment: Segment, offset: int, length: int) -> int:
        """Where in the chunk so many bytes of the file at `offset` are, read if need be."""
        at = offset - self._begin
        if at < 0 or at + length > len(self._chunk):
            # Not beyond what is synced: what is being written there now must not be kept as it looks now.
            self._begin, at = offset, 0
            self._chunk = os.pread(self._fd, min(max(CHUNK, length), segment.size - offset), offset)
        return at
