"""What an earlier process left in the spool's directory."""

import logging
import os
import secrets
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from meshq.adapters import spool_progress
from meshq.adapters.spool_format import MARKER, scan
from meshq.adapters.spool_losses import Loss
from meshq.adapters.spool_progress import Progress
from meshq.adapters.spool_segments import Segment, named

logger = logging.getLogger(__name__)


class Found(NamedTuple):
    segments: list[Segment]
    """In order."""
    losses: list[Loss]
    marker: bytes
    removed: int
    """Number up to which `progress` tells."""
    sequence: int
    """Of the next segment."""
    number: int
    """Of the next record."""


def load(directory: Path) -> Found:
    """Read every segment, and delete those that are over. Raises OSError."""
    segments = sorted(filter(None, map(named, os.listdir(directory))), key=lambda segment: segment.sequence)
    progress = spool_progress.read(directory)
    known = bool(progress.marker) and (not segments or segments[-1].marker == progress.marker)
    if not known:  # it is damaged, or of a spool that was here before: numbers go on under another marker
        progress = Progress(secrets.token_bytes(MARKER), 0)
    removed = _Removed(progress)
    losses = list[Loss]()
    expected = 1 if known or not segments else segments[0].first
    for at, segment in enumerate(segments):
        losses += removed.missing(segment.name, expected, segment.first - 1)
        stop = segments[at + 1].first if at + 1 < len(segments) else None
        losses += _read(directory, segment, stop, removed)
        expected = segment.last + 1
    losses += removed.missing("", expected, progress.upto)
    kept = [segment for segment in segments if not _over(directory, segment, progress.upto)]
    sequence = segments[-1].sequence + 1 if segments else 1
    return Found(kept, losses, progress.marker, progress.upto, sequence, max(expected, progress.upto + 1))


def _over(directory: Path, segment: Segment, upto: int) -> bool:
    """Nothing is left in it, and nothing will be missed."""
    # Damage that is not behind `upto` keeps the place of its numbers.
    if segment.live or (segment.offsets and segment.last > upto):
        return False
    with suppress(OSError):  # so it will be next time
        os.unlink(directory / segment.name)
    return True


class _Removed:
    def __init__(self, progress: Progress) -> None:
        self.upto = progress.upto
        self.left = set(progress.left)

    def live(self, first: int, last: int) -> Iterator[tuple[int, int]]:
        """Ranges of numbers between those that are not removed."""
        yield from ((number, number) for number in sorted(self.left) if first <= number <= last)
        if last >= max(first, self.upto + 1):
            yield max(first, self.upto + 1), last

    def missing(self, segment: str, first: int, last: int) -> list[Loss]:
        """What should lie before this segment, or behind the last one ("")."""
        why = "missing: a file was cut or deleted"
        return [Loss(segment, *lost, "", why) for lost in self.live(first, last)]


def _read(directory: Path, segment: Segment, stop: int | None, removed: _Removed) -> list[Loss]:
    fd = os.open(directory / segment.name, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    with os.fdopen(fd, "rb") as file:
        data = file.read()
    found = scan(data, segment.marker, segment.first, stop)
    segment.restore(found.offsets, found.gone, found.size)
    segment.drop_all_but(removed.upto, removed.left)
    if found.size < len(data):
        logger.info(
            "%s: the last write was cut off; %d bytes that nobody was told of are dropped",
            segment.name, len(data) - found.size,
        )  # fmt: skip
        with suppress(OSError):  # it is recognised again if it stays
            os.truncate(directory / segment.name, found.size)
    # What was removed before it was damaged is no loss.
    return [
        Loss(segment.name, *lost, damage.message_id, damage.why)
        for damage in found.damages
        for lost in removed.live(damage.first, damage.last)
    ]
