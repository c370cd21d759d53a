"""The thread that writes the spool. Whoever appends hands over what gathered in one turn of the event loop; while that is written
and synced the next gathers, so the busier it is the more share one sync. A record that comes when nothing is under way is
written at once.

The files are opened with O_DSYNC: writing a group and syncing it is one system call, so the thread waits for Python's
lock once a group, not three times.

A group that cannot be written is taken back as a whole: the file is cut to what it was, so that no half record lies before
those that come later. If the disk was only full the file goes on from there; after any other error it is not trusted any
more (what is unsynced after a failed sync is unknown) and a new one is begun. Whatever was handed over behind the failed group was
laid out to follow it, so it is refused too: the plan is an `epoch`, and a failure ends it.
"""

import asyncio
import errno
import logging
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import NamedTuple

from meshq.adapters.spool_progress import Progress, ProgressFile
from meshq.adapters.spool_segments import Segment
from meshq.ports import Spooled

logger = logging.getLogger(__name__)

GROUP_BYTES = 4 * 2**20
"""Batches are written and synced together up to this; one may be larger."""
PROBE_SECONDS = 1.0
"""How often it is tried whether a disk that failed works again."""
PROBE_BYTES = 2**20
DSYNC = getattr(os, "O_DSYNC", os.O_SYNC)
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@dataclass(slots=True)
class Batch:
    """Consecutive records of one segment."""

    epoch: int
    segment: Segment
    first: int
    """Number of the first."""
    begin: int
    """Offset of the first."""
    end: int
    most: int = 0
    """How far it may go, and how many there may be in it."""
    most_records: int = 0
    offsets: list[int] = field(default_factory=list)
    pieces: list[bytes] = field(default_factory=list)
    """Their bytes, joined."""
    done: list[Callable[[Spooled], None]] = field(default_factory=list)


class Outcome(NamedTuple):
    """What became of some batches of one epoch and segment; `error` is None when they are on the disk."""

    batches: list[Batch]
    error: Exception | None = None
    usable: bool = True
    """After an error: whether the segment can be gone on with."""


class Writer:
    """`told` and `recovered` are called on the loop."""

    def __init__(
        self,
        directory: Path,
        loop: asyncio.AbstractEventLoop,
        told: Callable[[Outcome], None],
        recovered: Callable[[], None],
    ) -> None:
        self._directory = directory
        self._loop = loop
        self._told = told
        self._recovered = recovered
        self._queue: SimpleQueue[Batch | Callable[[], None] | None] = SimpleQueue()
        # The thread's own:
        self._segment: Segment | None = None
        self._fd = -1
        self._good = 0
        """Bytes of the open file that are written and synced."""
        self._ended_epoch = -1
        self._failing = 0
        """While the disk fails: how many bytes it would not take."""
        self._progress = ProgressFile(directory)
        self._chore_fault = ""
        self._thread = threading.Thread(target=self._run, name="meshq-spool", daemon=True)
        self._thread.start()

    # --- what to do, from the loop ----------------------------------------------------------------------------------------

    def write(self, batch: Batch) -> None:
        self._queue.put(batch)

    def note(self, progress: Progress, over: list[Segment]) -> None:
        """Note what was removed, and delete the segments that are over."""
        self._queue.put(lambda: self._note(progress, over))

    def close(self) -> None:
        """Finish what was asked, and wait for it."""
        self._queue.put(None)
        self._thread.join()

    # --- the thread -------------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        closing = False
        while not closing:
            batches, chores, closing = self._gather()
            for group in _groups(batches):
                self._write(group)
            for chore in chores:
                self._do(chore)
        self._close_file()
        self._progress.close()

    def _gather(self) -> tuple[list[Batch], list[Callable[[], None]], bool]:
        """Everything that waits, at least one thing unless the disk fails."""
        batches, chores = list[Batch](), list[Callable[[], None]]()
        while True:
            try:
                item = self._queue.get(timeout=PROBE_SECONDS if self._failing else None)
            except Empty:
                self._probe()
                return batches, chores, False
            if item is None:
                return batches, chores, True
            if isinstance(item, Batch):
                batches.append(item)
            else:
                chores.append(item)
            if self._queue.empty():
                return batches, chores, False

    def _do(self, chore: Callable[[], None]) -> None:
        """What does not work is made good at the next start, or some messages are sent twice."""
        try:
            chore()
        except OSError as error:
            if str(error) != self._chore_fault:
                logger.warning("the spool in %s cannot be tidied up: %s", self._directory, error)
            self._chore_fault = str(error)

    def _write(self, group: list[Batch]) -> None:
        first, last = group[0], group[-1]
        if first.epoch == self._ended_epoch:
            self._tell(Outcome(group, OSError(errno.EIO, "what came before it could not be written"), False))
            return
        try:
            self._open(first.segment, first.begin)
            _write_all(self._fd, b"".join([piece for batch in group for piece in batch.pieces]), first.begin)
            if not os.fstat(self._fd).st_nlink:
                raise FileNotFoundError(errno.ENOENT, f"{first.segment.name} was deleted")
            self._good = last.end
        except (OSError, MemoryError) as error:
            self._ended_epoch = first.epoch
            self._failing = last.end - first.begin
            self._tell(Outcome(group, error, self._take_back(error)))
            return
        if self._failing:
            self._failing = 0
            self._call_soon(self._recovered)
        self._tell(Outcome(group))

    def _open(self, segment: Segment, begin: int) -> None:
        if segment is self._segment:
            return
        self._close_file()
        path = self._directory / segment.name
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW | DSYNC
        self._fd, self._segment, self._good = os.open(path, flags, 0o600), segment, begin
        self._sync_directory()

    def _take_back(self, error: Exception) -> bool:
        """Cut the file to what is good of it. False: it cannot be gone on with."""
        if self._segment is None:
            return False
        try:
            os.ftruncate(self._fd, self._good)
            os.fsync(self._fd)
            usable = self._good > 0 and isinstance(error, OSError) and error.errno in FULL
        except OSError:
            usable = False
        if not usable:
            path = self._directory / self._segment.name
            self._close_file()
            if not self._good:
                with suppress(OSError):
                    path.unlink()
        return usable

    def _close_file(self) -> None:
        if self._fd >= 0:
            with suppress(OSError):  # all that counts was synced
                os.close(self._fd)
        self._fd, self._segment = -1, None

    def _sync_directory(self) -> None:
        fd = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def _probe(self) -> None:
        """Try whether there is room again: nobody may append for a long time."""
        path = self._directory / "probe"
        size = min(self._failing, PROBE_BYTES)
        try:
            fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW | DSYNC, 0o600)
            try:
                _write_all(fd, bytes(size), 0)
            finally:
                os.close(fd)
                os.unlink(path)
        except OSError:
            return
        self._failing = 0
        self._call_soon(self._recovered)

    def _note(self, progress: Progress, over: list[Segment]) -> None:
        try:
            # It says that what is deleted is not missing, so it must be there first.
            self._progress.write(progress, sync=bool(over))
        finally:
            self._delete(over)

    def _delete(self, segments: list[Segment]) -> None:
        for segment in segments:
            if segment is self._segment:
                self._close_file()
            with suppress(FileNotFoundError):
                os.unlink(self._directory / segment.name)
        if segments:
            self._sync_directory()

    # --- back to the loop -------------------------------------------------------------------------------------------------

    def _tell(self, outcome: Outcome) -> None:
        self._call_soon(self._told, outcome)

    def _call_soon(self, function: Callable[..., None], *arguments: object) -> None:
        try:
            self._loop.call_soon_threadsafe(function, *arguments)
        except RuntimeError:  # the loop was closed before this spool: nobody is left to tell
            logger.debug("no event loop to report to")


def _write_all(fd: int, data: bytes, offset: int) -> None:
    written = os.pwrite(fd, data, offset)
    while written < len(data):
        written += os.pwrite(fd, memoryview(data)[written:], offset + written)


def _groups(batches: list[Batch]) -> Iterator[list[Batch]]:
    """What is written together: of one epoch and one segment, up to GROUP_BYTES."""
    group: list[Batch] = []
    for batch in batches:
        if group and (
            batch.epoch != group[0].epoch
            or batch.segment is not group[0].segment
            or batch.end - group[0].begin > GROUP_BYTES
        ):
            yield group
            group = []
        group.append(batch)
    if group:
        yield group
