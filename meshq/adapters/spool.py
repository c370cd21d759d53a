"""The spool on disk: an append log of segments. Its directory holds, and nothing in it is named by what is in a message:

    <sequence>-<first>-<marker>.v1   a segment: records back to back (spool_format.py). `sequence` grows with every file, 10
                                     digits; `first` is the number of its first record, 20 digits; `marker` is random, 16
                                     hexadecimal digits, and stays the same as long as `progress` can be read
    progress                         which records are removed (spool_progress.py)
    lost-<time>-<number>.json        what could not be read any more: {"at", "lost": [{"segment", "first", "last",
                                     "message_id", "why"}]}
    lock                             held by the process that uses the directory
    probe                            for a moment, while it is tried whether a full disk has room again

Records are numbered one by one without a gap, so that whatever is missing shows. A segment grows to an eighth of the limit or
SEGMENT_BYTES, and is deleted once everything in it is removed; a new process begins a new one. `progress` is written behind,
unsynced, every PROGRESS_SECONDS: what was removed after that comes again after a crash, so a message may be sent twice;
none is skipped, because it is only about the spool whose marker it bears.

At the start every segment is read once. A write that was cut off in the middle is dropped, for nobody was told that it is there.
Damage loses the record it is in and no other; what was acknowledged and cannot be read is a Loss.

The bound is on what lies on the disk, so removed records count until their segment goes.
"""

import asyncio
import logging
import os
from collections.abc import Callable
from pathlib import Path

from meshq.adapters import lock, spool_losses
from meshq.adapters.spool_format import Unreadable
from meshq.adapters.spool_intake import Intake
from meshq.adapters.spool_loading import load
from meshq.adapters.spool_losses import Loss
from meshq.adapters.spool_segments import Reader, Segment, Segments
from meshq.adapters.spool_writer import Writer
from meshq.ports import Clock, Publication, Spooled, SpoolRecord

logger = logging.getLogger(__name__)

MAX_RECORDS = 1_000_000
"""Each takes five bytes of memory."""
MAX_LOSSES = 10_000
"""Those beyond are in the reports."""
PROGRESS_SECONDS = 0.1
REPORT_SECONDS = 1.0
"""What turns out to be damaged within this time goes into one report."""


class SpoolUnusable(Exception):
    """The directory cannot be used; the message says why and what to do."""


class DiskSpool:
    """ports.Spool. Opened by its constructor, which reads what is there (about 3 microseconds a record); used from one event
    loop. `limit` is bytes on the disk. Raises SpoolUnusable."""

    def __init__(self, directory: Path, limit: int, clock: Clock, *, max_records: int = MAX_RECORDS) -> None:
        self._directory = directory
        self._clock = clock
        self.losses: list[Loss] = []
        """What was lost and not reported by an earlier process; at most MAX_LOSSES."""
        self.lost = 0
        """Records in all of them."""
        self._unreported: list[Loss] = []
        self._lock = _lock(directory)
        try:
            found = load(directory)
        except OSError as error:
            os.close(self._lock)
            raise SpoolUnusable(
                f"the spool in {directory} cannot be read ({error}): repair the disk, or move the file away to start without it"
            ) from error
        self._lost_before(found.losses)
        self._marker = found.marker
        self._segments = Segments(found.segments, found.removed)
        self._reader = Reader(directory)
        self._intake = Intake(
            directory, self._segments, found.marker, found.sequence, found.number, limit, max_records,
            self._thread, self._note_now,
        )  # fmt: skip
        self._writer: Writer | None = None
        self._noting = False
        """What was removed last is not noted yet."""
        self._closed = False

    def append(self, publication: Publication, done: Callable[[Spooled], None]) -> None:
        if self._closed:
            done(Spooled.FAILED)
        else:
            self._intake.append(publication, done)

    # --- out --------------------------------------------------------------------------------------------------------------

    def take(self) -> SpoolRecord | None:
        """Reads from the disk, a chunk at a time."""
        while (place := self._segments.take()) is not None:
            segment, index = place
            try:
                return SpoolRecord(segment.first + index, self._reader.read(segment, index))
            except (Unreadable, OSError) as error:
                self._unreadable(segment, segment.first + index, str(error))
        return None

    def remove(self, record: SpoolRecord) -> None:
        self._removed(record.number)

    def rewind(self) -> None:
        self._segments.rewind()

    def _removed(self, number: int) -> None:
        self._segments.remove(number)
        if self._closed:
            return
        if not self._noting:
            self._noting = True
            asyncio.get_running_loop().call_later(PROGRESS_SECONDS, self._note_now)
        if not self._segments.waiting:
            self._reader.close()
            self._intake.retire()

    def _note_now(self) -> None:
        if self._noting and not self._closed:
            self._note()

    def _note(self) -> None:
        """Write down what was removed, and delete what is over."""
        self._noting = False
        progress = self._segments.progress(self._marker)
        over = self._segments.take_off(self._intake.growing, progress.upto)
        if self._reader.segment in over:
            self._reader.close()
        self._thread().note(progress, over)

    # --- what was lost ----------------------------------------------------------------------------------------------------

    def _lost_before(self, losses: list[Loss]) -> None:
        """Found at the start: report what no earlier process did."""
        known = spool_losses.known(self._directory) if losses else set()
        self._lose([loss for loss in losses if (loss.segment, loss.first) not in known])
        self._report()

    def _unreadable(self, segment: Segment, number: int, why: str) -> None:
        """It was well at the start, or when it was written."""
        if not self._unreported:
            asyncio.get_running_loop().call_later(REPORT_SECONDS, self._report)
        self._lose([Loss(segment.name, number, number, "", why)])
        self._removed(number)

    def _lose(self, losses: list[Loss]) -> None:
        self.losses += losses[: MAX_LOSSES - len(self.losses)]
        self.lost += sum(loss.records for loss in losses)
        self._unreported += losses

    def _report(self) -> None:
        losses, self._unreported = self._unreported, []
        if losses:
            spool_losses.report(self._directory, losses, self._clock.mesh_ms())

    # --- the rest ---------------------------------------------------------------------------------------------------------

    @property
    def waiting(self) -> int:
        return self._segments.waiting

    @property
    def bytes(self) -> int:
        return self._segments.bytes

    @property
    def fault(self) -> str:
        return self._intake.fault

    async def close(self) -> None:
        """Sync what was appended, note what was removed, and let go of the directory."""
        if self._closed:
            return
        self._intake.hand_over()
        self._closed = True
        self._intake.growing = None
        if self._noting or self._writer is not None:
            self._note()
            await asyncio.to_thread(self._thread().close)
        self._report()
        self._reader.close()
        os.close(self._lock)

    def _thread(self) -> Writer:
        if self._writer is None:
            loop = asyncio.get_running_loop()
            self._writer = Writer(self._directory, loop, self._intake.told, self._intake.recovered)
        return self._writer


def _lock(directory: Path) -> int:
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        return lock.hold(directory / "lock", directory)
    except OSError as error:
        raise SpoolUnusable(f"the spool's directory {directory} cannot be made: {error}") from error
    except lock.InUse as error:
        raise SpoolUnusable(f"the spool's directory {error}") from error
