"""One queue of the embedded broker, and what goes in and out of it."""

import heapq
import logging
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

from meshq.core.message import CONTENT_TYPE
from meshq.core.topology import Queue
from meshq.ports import Delivery, Publication, QueueStats

log = logging.getLogger(__name__)

NO_PRIORITY = 4
"""What a message without a priority counts as, in a RabbitMQ quorum queue and here."""
RATE_WINDOW = 5
"""Whole seconds that a rate is the mean of."""
OVERHEAD = 512
"""Bytes that a message without a body takes, about."""


class Entry:
    """One message in one queue, from when it was taken in until it is acknowledged or expired."""

    __slots__ = ("arrived", "deliveries", "expires", "publication", "queue", "seq", "stored", "user")

    def __init__(
        self, seq: int, queue: "EmbeddedQueue", publication: Publication, user: str, arrived: float, stored: bool
    ) -> None:
        """`arrived` is by the monotonic clock. `stored`: it is on disk too."""
        self.seq = seq
        self.queue = queue
        self.publication = publication
        self.user = user
        self.arrived = arrived
        self.expires = None if publication.expiration_ms is None else arrived + publication.expiration_ms / 1000
        self.deliveries = 0
        """How often it was delivered and came back."""
        self.stored = stored

    @property
    def size(self) -> int:
        return OVERHEAD + len(self.publication.body)


class EmbeddedDelivery:
    """`ports.Delivery`. It belongs to its holder until it is settled or the holder loses it."""

    __slots__ = ("_entry", "deliveries", "holder")

    def __init__(self, entry: Entry, holder: "Holder") -> None:
        self._entry = entry
        self.deliveries = entry.deliveries
        self.holder: Holder | None = holder

    @property
    def entry(self) -> Entry:
        return self._entry

    @property
    def body(self) -> bytes:
        return self._entry.publication.body

    @property
    def message_id(self) -> str:
        return self._entry.publication.message_id

    @property
    def content_type(self) -> str:
        return CONTENT_TYPE

    @property
    def reply_to(self) -> str:
        return self._entry.publication.reply_to

    @property
    def user_id(self) -> str:
        return self._entry.user

    @property
    def redelivered(self) -> bool:
        return self.deliveries > 0

    @property
    def queue(self) -> str:
        return self._entry.queue.spec.name

    @property
    def live(self) -> bool:
        return self.holder is not None

    def properties(self) -> dict[str, Any]:
        publication = self._entry.publication
        found = {
            "message_id": publication.message_id,
            "type": publication.kind,
            "content_type": CONTENT_TYPE,
            "reply_to": publication.reply_to,
            "user_id": self._entry.user,
            "expiration": None if publication.expiration_ms is None else str(publication.expiration_ms),
            "priority": publication.priority,
        }
        return {name: value for name, value in found.items() if value is not None and value != ""}

    def ack(self) -> None:
        holder, self.holder = self.holder, None
        if holder is not None:
            holder.settle(self, requeue=False)

    def requeue(self) -> None:
        holder, self.holder = self.holder, None
        if holder is not None:
            holder.settle(self, requeue=True)


class Holder:
    """A consumer: what it was given and has not settled, at most `prefetch` at once."""

    __slots__ = ("_on_delivery", "_prefetch", "queue", "unsettled")

    def __init__(self, prefetch: int, on_delivery: Callable[[Delivery], None]) -> None:
        self._prefetch = prefetch
        self._on_delivery = on_delivery
        self.queue: EmbeddedQueue | None = None
        """Where it consumes; None before the queue is there, and after the consumer is gone."""
        self.unsettled: dict[int, EmbeddedDelivery] = {}

    @property
    def free(self) -> bool:
        return len(self.unsettled) < self._prefetch

    def take(self, entry: Entry) -> None:
        delivery = EmbeddedDelivery(entry, self)
        self.unsettled[entry.seq] = delivery
        try:
            self._on_delivery(delivery)
        except Exception:
            # A broken consumer must not keep others from their messages. What it did with this one is unknown.
            log.exception("a consumer of %s raised; the message stays unsettled", entry.queue.spec.name)

    def settle(self, delivery: EmbeddedDelivery, *, requeue: bool) -> None:
        entry = delivery.entry
        del self.unsettled[entry.seq]
        if requeue:
            entry.queue.put_back(entry)
        else:
            entry.queue.done(entry)

    def lose(self) -> None:
        """Everything unsettled goes back; what still holds a delivery can no longer settle it."""
        lost, self.unsettled = self.unsettled, {}
        for delivery in lost.values():
            delivery.holder = None
            delivery.entry.queue.put_back(delivery.entry)


class EmbeddedQueue:
    """Messages in order of priority, then of arrival. A message that comes back takes the place it had: the front."""

    def __init__(self, spec: Queue, hooks: "QueueHooks", now: float) -> None:
        self.spec = spec
        self.closed = False
        self.due = False
        """The hub will look at it in the next turn of the loop."""
        self._hooks = hooks
        self._ready: list[tuple[int, int, Entry]] = []
        self._out: dict[int, Entry] = {}
        self._holders: deque[Holder] = deque()
        self._arrivals = Rate(now)
        self._departures = Rate(now)

    @property
    def stored(self) -> bool:
        """Its durable messages are to be kept on disk."""
        return self.spec.durable and not self.spec.exclusive

    # --- messages ---------------------------------------------------------------------------------------------------------

    def put(self, entry: Entry, now: float) -> None:
        self._arrivals.count(now)
        self._push(entry)

    def put_back(self, entry: Entry) -> None:
        if not self.closed:
            self._out.pop(entry.seq, None)
            entry.deliveries += 1
            self._push(entry)

    def done(self, entry: Entry) -> None:
        if not self.closed:
            self._out.pop(entry.seq, None)
            self._departures.count(self._hooks.now())
            self._hooks.gone(entry)
            self._wake()

    def restore(self, entry: Entry) -> None:
        """Put in what an earlier process left."""
        heapq.heappush(self._ready, _place(entry))

    def expire(self, now: float) -> None:
        """Drop what is over its time at the head. What is behind the head waits for its turn, as in RabbitMQ."""
        ready = self._ready
        while ready and (expires := ready[0][2].expires) is not None and expires <= now:
            self._hooks.gone(heapq.heappop(ready)[2])

    def close(self) -> None:
        """The queue is deleted, with what is in it. It has no consumers any more."""
        self.closed = True
        for entry in [*(place[2] for place in self._ready), *self._out.values()]:
            self._hooks.gone(entry)
        self._ready.clear()
        self._out.clear()

    # --- consumers --------------------------------------------------------------------------------------------------------

    def attach(self, holder: Holder) -> None:
        holder.queue = self
        self._holders.append(holder)
        self._wake()

    def detach(self, holder: Holder) -> None:
        holder.queue = None
        self._holders.remove(holder)

    def deliver(self, now: float, most: int) -> bool:
        """Give out at most `most` messages, to consumers in turn. Returns whether more could be given out now."""
        while True:
            self.expire(now)
            if not self._ready or (holder := self._free_holder()) is None:
                return False
            if most == 0:
                return True
            most -= 1
            entry = heapq.heappop(self._ready)[2]
            self._out[entry.seq] = entry
            if entry.stored and entry.deliveries == 0:
                self._hooks.given_out(entry)
            holder.take(entry)

    def _free_holder(self) -> Holder | None:
        holders = self._holders
        for _ in range(len(holders)):
            holder = holders[0]
            holders.rotate(-1)
            if holder.free:
                return holder
        return None

    def _push(self, entry: Entry) -> None:
        heapq.heappush(self._ready, _place(entry))
        self._wake()

    def _wake(self) -> None:
        if self._holders and self._ready:
            self._hooks.wake(self)

    # --- figures ----------------------------------------------------------------------------------------------------------

    def stats(self, now: float) -> QueueStats:
        self.expire(now)
        oldest = min((entry.arrived for _, _, entry in self._ready), default=None)
        return QueueStats(
            self.spec.name,
            ready=len(self._ready),
            in_flight=len(self._out),
            consumers=len(self._holders),
            oldest_age_seconds=None if oldest is None else max(0.0, now - oldest),
            in_rate=self._arrivals.per_second(now),
            out_rate=self._departures.per_second(now),
        )


class QueueHooks(Protocol):
    """What a queue asks of the broker it is in."""

    def now(self) -> float: ...
    def wake(self, queue: EmbeddedQueue) -> None:
        """There may be something to deliver: look at it in the next turn of the loop."""

    def gone(self, entry: Entry) -> None:
        """It was acknowledged, expired or deleted."""

    def given_out(self, entry: Entry) -> None:
        """A stored message goes to a consumer for the first time."""


class Rate:
    """Events a second, over the last RATE_WINDOW whole seconds."""

    __slots__ = ("_buckets", "_start")

    def __init__(self, now: float) -> None:
        self._start = int(now) + 1
        """The first second that is counted from its beginning."""
        self._buckets: deque[list[int]] = deque(maxlen=RATE_WINDOW + 1)

    def count(self, now: float) -> None:
        second = int(now)
        if self._buckets and self._buckets[-1][0] == second:
            self._buckets[-1][1] += 1
        else:
            self._buckets.append([second, 1])

    def per_second(self, now: float) -> float | None:
        """None until one whole second was seen."""
        end = int(now)
        begin = max(self._start, end - RATE_WINDOW)
        if begin >= end:
            return None
        return sum(n for second, n in self._buckets if begin <= second < end) / (end - begin)


def _place(entry: Entry) -> tuple[int, int, Entry]:
    priority = entry.publication.priority
    return -(NO_PRIORITY if priority is None else priority), entry.seq, entry
