"""What comes into the spool: each record gets its number and its place in a segment here, before it is written, so that records
are made ready while others are being synced."""

import asyncio
import errno
import logging
from collections.abc import Callable, Sequence
from pathlib import Path

from meshq.adapters.spool_format import OVERHEAD, head_of, pack
from meshq.adapters.spool_segments import Segment, Segments
from meshq.adapters.spool_writer import Batch, Outcome, Writer
from meshq.ports import Publication, Spooled

logger = logging.getLogger(__name__)

SEGMENT_BYTES = 8 * 2**20
MAX_UNSYNCED = 64 * 2**20
"""Bytes that wait for the disk."""


class Intake:
    """Batches of records on their way to the disk, from one event loop. `make_room` deletes what can be deleted; `limit` is
    bytes on the disk."""

    def __init__(
        self,
        directory: Path,
        segments: Segments,
        marker: bytes,
        sequence: int,
        number: int,
        limit: int,
        max_records: int,
        writer: Callable[[], Writer],
        make_room: Callable[[], None],
    ) -> None:
        self._directory = directory
        self._segments = segments
        self._marker = marker
        self._limit = limit
        self._max_records = max_records
        self._segment_bytes = min(SEGMENT_BYTES, max(limit // 8, 4096))
        self._writer = writer
        self._make_room = make_room
        self.fault = ""
        # The plan: where the next record goes.
        self._epoch = 0
        self._sequence = sequence
        self._number = number
        self.growing: Segment | None = None
        self._end = 0
        """Planned bytes of the segment that grows."""
        # On their way:
        self._unsynced = 0
        """Records that were handed over."""
        self._unsynced_bytes = 0
        # One turn of the loop:
        self._batch: Batch | None = None
        self._telling = False
        """Callbacks are running; what they append is handed over after them."""

    def append(self, publication: Publication, done: Callable[[Spooled], None]) -> None:
        payload = pack(publication)
        size = OVERHEAD + len(payload)
        batch = self._batch
        if batch is None or batch.end + size > batch.most or len(batch.done) == batch.most_records:
            batch = self._place(size)
            if batch is None:
                done(Spooled.FULL)
                return
        number = batch.first + len(batch.done)
        batch.pieces += (head_of(payload, self._marker, number), payload)
        batch.offsets.append(batch.end)
        batch.done.append(done)
        batch.end += size

    def _place(self, size: int) -> Batch | None:
        """Where there is place for a record of this size; None where there is none."""
        batch = self._batch or self._begin()
        if batch.end and batch.end + size > self._segment_bytes:  # one larger than that has a segment of its own
            self.hand_over()
            self.growing = None
            batch = self._begin()
        if not self._fits(batch, size):
            self._make_room()
            if not self._fits(batch, size):
                return None
        return batch

    def _begin(self) -> Batch:
        """What is appended in this turn of the loop goes to the disk together."""
        if self.growing is None:
            self.growing, self._end = Segment(self._sequence, self._number, self._marker), 0
            self._sequence += 1
        self._batch = Batch(self._epoch, self.growing, self._number, self._end, self._end)
        if not self._telling:
            asyncio.get_running_loop().call_soon(self.hand_over)
        return self._batch

    def _fits(self, batch: Batch, size: int) -> bool:
        """Also measures again how much may be added to the batch."""
        bytes_left = min(self._limit - self._segments.bytes, MAX_UNSYNCED) - self._unsynced_bytes
        batch.most = min(max(self._segment_bytes, size), batch.begin + bytes_left)
        batch.most_records = max(self._max_records - self._segments.waiting - self._unsynced, 0)
        return batch.end + size <= batch.most and len(batch.done) < batch.most_records

    def hand_over(self) -> None:
        """What was appended in this turn of the loop goes to the disk."""
        batch, self._batch = self._batch, None
        if batch is not None and batch.done:
            self._count(batch, 1)
            self._end = batch.end
            self._number += len(batch.done)
            self._writer().write(batch)

    def _count(self, batch: Batch, sign: int) -> None:
        batch.segment.unsynced += sign * len(batch.done)
        self._unsynced += sign * len(batch.done)
        self._unsynced_bytes += sign * (batch.end - batch.begin)

    def retire(self) -> None:
        """Nothing waits: begin another segment if this one is worth deleting. A file for every message would cost two more
        syncs."""
        if self._batch is None and self._end > self._segment_bytes // 4:
            self.growing = None

    # --- what became of it ------------------------------------------------------------------------------------------------

    def told(self, outcome: Outcome) -> None:
        batches = outcome.batches
        for batch in batches:
            self._count(batch, -1)
        if outcome.error is None:
            for batch in batches:
                self._segments.written(batch.segment, batch.offsets, batch.end)
            self._tell(batches, Spooled.WRITTEN)
        else:
            gathered = self._plan_anew(outcome) if batches[0].epoch == self._epoch else []
            self._tell(batches + gathered, Spooled.FAILED)

    def _tell(self, batches: Sequence[Batch], fate: Spooled) -> None:
        self._telling = True
        for batch in batches:
            for done in batch.done:
                try:
                    done(fate)
                except Exception:
                    logger.exception("the callback of an append failed")
        self._telling = False
        self.hand_over()  # who waited for these has given the next ones by now, and the disk is idle

    def _plan_anew(self, outcome: Outcome) -> list[Batch]:
        """The first of these could not be written, and nothing after it: the next record takes its place and number. Returns
        what was gathered to follow it."""
        first = outcome.batches[0]
        assert outcome.error is not None
        self._epoch += 1
        self._number = first.segment.last + 1
        self.growing, self._end = (first.segment, first.begin) if outcome.usable else (None, 0)
        gathered, self._batch = self._batch, None
        self._say(outcome.error)
        return [] if gathered is None else [gathered]

    def _say(self, error: Exception) -> None:
        advice = _ADVICE.get(error.errno or 0, _REPAIR) if isinstance(error, OSError) else _REPAIR
        fault = (
            f"the spool in {self._directory} cannot be written ({error}): {advice}; "
            "messages that need it are refused until then, and it goes on by itself"
        )
        if fault != self.fault:
            logger.error("%s", fault)
        self.fault = fault

    def recovered(self) -> None:
        self.fault = ""
        logger.info("the spool in %s can be written again", self._directory)


_REPAIR = "look at the disk"
_ADVICE = {
    errno.ENOSPC: "free some space there",
    errno.EDQUOT: "free some space there, or raise the quota",
    errno.EFBIG: "raise the limit on the size of files (ulimit -f)",
    errno.EROFS: "mount it so that it can be written",
    errno.EACCES: "give this process the right to write there",
    errno.EPERM: "give this process the right to write there",
    errno.ENOENT: "make the directory again",
}
