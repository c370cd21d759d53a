"""A log of the embedded broker: what RabbitMQ calls a stream. Records stay when they were read; every reader has its own
place in it, and what it has not settled bounds what it is given. Old ones go by age and size, a segment at a time.

There is nothing to put back: what a reader requeues is settled, and it stays in the log anyway.
"""

from collections import deque
from collections.abc import Iterable
from typing import Any, NamedTuple, Protocol

from meshq.adapters.embedded_delivery import OVERHEAD, EmbeddedDelivery, Entry, Holder
from meshq.adapters.embedded_offset import Since
from meshq.adapters.embedded_place import Hooks, Place
from meshq.core.topology import Queue
from meshq.ports import Publication, QueueStats

SEGMENT_BYTES = 1024 * 1024
"""A segment is no smaller than this when the next begins; of a small log, an eighth of the log."""
READ_AT_ONCE = 64
"""Records."""
_SECONDS = {"s": 1, "m": 60, "h": 3600, "D": 86_400, "M": 30 * 86_400, "Y": 365 * 86_400}


class Record(NamedTuple):
    number: int
    at_ms: int
    """When it was written, in mesh time."""
    publication: Publication
    user: str


class Records(Protocol):
    """Where the records of one log are."""

    def add(self, record: Record) -> None:
        """It is readable from now on. What is on disk was written before."""

    def read(self, start: int, most: int) -> list[Record]:
        """From the number `start` on, at most `most`, fewer where they are large."""

    def since(self, start: int, at_ms: int) -> int | None:
        """The number of the first record from `start` on that was written at this time or later."""

    def cut(self, start: int) -> None:
        """Those before this number go."""


class _Segment:
    __slots__ = ("bytes", "first", "last_ms", "records")

    def __init__(self, first: int) -> None:
        self.first = first
        self.last_ms = 0
        self.bytes = 0
        self.records = 0


class EmbeddedLog(Place):
    is_log = True

    def __init__(self, spec: Queue, hooks: Hooks, records: Records, most_bytes: int | None, now: float) -> None:
        """`most_bytes`: keep no more than this whatever the log's arguments say."""
        super().__init__(spec, hooks, now)
        arguments = dict(spec.arguments)
        bounds = [int(bound) for bound in (arguments.get("x-max-length-bytes"), most_bytes) if bound is not None]
        self._most_bytes = min(bounds, default=None)
        self._max_age_ms = _age_ms(str(arguments["x-max-age"])) if "x-max-age" in arguments else None
        self._segment_bytes = min(SEGMENT_BYTES, (self._most_bytes or 8 * SEGMENT_BYTES) // 8)
        self._records = records
        self._readers: dict[Holder, int] = {}
        """Each with the number that it reads next."""
        self._segments: deque[_Segment] = deque()
        self._bytes = 0
        self._end = 0
        """The number after the last record."""
        self._numbered = 0

    # --- records ----------------------------------------------------------------------------------------------------------

    def next_number(self) -> int:
        """For a record on its way in. If it never comes, the number stays out."""
        number, self._numbered = self._numbered, self._numbered + 1
        return number

    def put(self, entry: Entry, now: float) -> None:
        at_ms = self._hooks.mesh_ms()
        self._arrivals.count(now)
        self._records.add(Record(entry.seq, at_ms, entry.publication, entry.user))
        self._count(entry.seq, at_ms, entry.size)
        self._trim(at_ms)
        self._hooks.gone(entry)
        self._wake()

    def restore(self, records: Iterable[tuple[int, int, int]]) -> None:
        """Count what an earlier process left: number, time and bytes of the body of each record, in order."""
        for number, at_ms, size in records:
            self._count(number, at_ms, OVERHEAD + size)
        self._numbered = self._end
        self._trim(self._hooks.mesh_ms())

    def _count(self, number: int, at_ms: int, size: int) -> None:
        if not self._segments or self._segments[-1].bytes >= self._segment_bytes:
            self._segments.append(_Segment(number))
        segment = self._segments[-1]
        segment.last_ms = max(segment.last_ms, at_ms)
        segment.bytes += size
        segment.records += 1
        self._bytes += size
        self._end = number + 1

    def _trim(self, now_ms: int) -> None:
        """The last segment stays, as in RabbitMQ."""
        first = self._first
        while len(self._segments) > 1 and self._too_much(now_ms):
            self._bytes -= self._segments.popleft().bytes
        if self._first != first:
            self._records.cut(self._first)

    def _too_much(self, now_ms: int) -> bool:
        too_large = self._most_bytes is not None and self._bytes > self._most_bytes
        return too_large or (self._max_age_ms is not None and self._segments[0].last_ms < now_ms - self._max_age_ms)

    @property
    def _first(self) -> int:
        return self._segments[0].first if self._segments else self._end

    # --- readers ----------------------------------------------------------------------------------------------------------

    def attach(self, holder: Holder) -> None:
        holder.place = self
        self._trim(self._hooks.mesh_ms())
        self._readers[holder] = self._begin(holder)
        self._wake()

    def _begin(self, holder: Holder) -> int:
        match holder.offset:
            case int(number):
                return number
            case Since(at_ms):
                return self._since(at_ms)
            case "first":
                return self._first
        return self._end

    def _since(self, at_ms: int) -> int:
        for segment in self._segments:
            if segment.last_ms >= at_ms:
                found = self._records.since(segment.first, at_ms)
                return self._end if found is None else found
        return self._end

    def detach(self, holder: Holder) -> None:
        holder.place = None
        self.left(holder)

    def left(self, holder: Holder) -> None:
        del self._readers[holder]

    def deliver(self, now: float, most: int) -> bool:
        more = [self._feed(holder, now, most) for holder in list(self._readers)]
        return any(more)

    def _feed(self, holder: Holder, now: float, most: int) -> bool:
        start = max(self._readers.get(holder, self._end), self._first)
        if start >= self._end or holder.room <= 0:
            return False
        records = self._records.read(start, min(most, holder.room, READ_AT_ONCE))
        for number, _, publication, user in records:
            if holder not in self._readers:  # gone while it was given the one before
                return False
            self._readers[holder] = number + 1
            holder.take(Entry(number, self, publication, user, now), publication.body)
        # Without a record nothing could be read: not again before there is something new.
        return bool(records) and self._readers.get(holder, self._end) < self._end and holder.room > 0

    def done(self, entry: Entry) -> None:
        self._departures.count(self._hooks.now())
        self._wake()

    def put_back(self, entry: Entry) -> None:
        self._wake()

    def headers(self, delivery: EmbeddedDelivery) -> dict[str, Any]:
        return {"x-stream-offset": delivery.entry.seq}

    def _wake(self) -> None:
        if self._readers and not self.closed:
            self._hooks.wake(self)

    # --- the rest ---------------------------------------------------------------------------------------------------------

    def expire(self, now: float) -> None:
        """Nothing in a log is over its time by itself; see `_trim`."""

    def close(self) -> None:
        self.closed = True
        self._records.cut(self._end)

    def stats(self, now: float) -> QueueStats:
        """What is ready is what is in the log. Nothing waits in it, so no age is known."""
        return QueueStats(
            self.spec.name,
            ready=sum(segment.records for segment in self._segments),
            in_flight=sum(len(holder.unsettled) for holder in self._readers),
            consumers=len(self._readers),
            in_rate=self._arrivals.per_second(now),
            out_rate=self._departures.per_second(now),
        )


class MemoryRecords:
    """Records of a broker that has no file."""

    def __init__(self) -> None:
        self._records: list[Record] = []

    def add(self, record: Record) -> None:
        self._records.append(record)

    def read(self, start: int, most: int) -> list[Record]:
        at = self._at(start)
        return self._records[at : at + most]

    def since(self, start: int, at_ms: int) -> int | None:
        return next((record.number for record in self._records[self._at(start) :] if record.at_ms >= at_ms), None)

    def cut(self, start: int) -> None:
        del self._records[: self._at(start)]

    def _at(self, number: int) -> int:
        """No number is ever missing between two."""
        return max(0, number - self._records[0].number) if self._records else 0


def _age_ms(text: str) -> int:
    """`7D` -> milliseconds; the units are RabbitMQ's."""
    return int(text[:-1]) * _SECONDS[text[-1]] * 1000
