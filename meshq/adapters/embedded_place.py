"""What messages lie in in the embedded broker, a queue or a log, as the rest of the broker sees it."""

from abc import ABC, abstractmethod
from collections import deque
from typing import Any, Protocol

from meshq.adapters.embedded_dead import DeadLetters
from meshq.adapters.embedded_delivery import EmbeddedDelivery, Entry, Holder
from meshq.core.topology import Queue
from meshq.ports import QueueStats

RATE_WINDOW = 5
"""Whole seconds that a rate is the mean of."""


class Hooks(Protocol):
    """What a place asks of the broker that it is in."""

    def now(self) -> float: ...
    def mesh_ms(self) -> int: ...
    def wake(self, place: "Place") -> None:
        """There may be something to deliver: look at it in the next turn of the loop."""

    def arm(self, place: "Place", when: float) -> None:
        """Look at it at `when`, by the monotonic clock; forget what was asked before."""

    def read(self, entry: Entry) -> bytes | None:
        """The body of a message that is not in memory. None: it cannot be read now, which was said to whom it concerns."""

    def given_out(self, entry: Entry) -> None:
        """A message that is on disk goes to a consumer."""

    def gone(self, entry: Entry) -> None:
        """It was acknowledged, or deleted with its queue."""

    def dead(self, entry: Entry, reason: str) -> None:
        """The queue gives it up, for a reason of `x-death`."""


class Place(ABC):
    """A queue or a log."""

    ttl_ms: int | None = None
    """How long a message may wait here at most."""
    dead_letters: DeadLetters | None = None
    is_log = False

    def __init__(self, spec: Queue, hooks: Hooks, now: float) -> None:
        self.spec = spec
        self.closed = False
        self.due = False
        """It will be looked at in the next turn of the loop."""
        self.armed: float | None = None
        """When it will be looked at because something in it is over its time then."""
        self.coming = 0
        """Messages on their way in: being written."""
        self.leaving = 0
        """Dead ones that are not where they go yet."""
        self._hooks = hooks
        self._arrivals = Rate(now)
        self._departures = Rate(now)

    @property
    def lasting(self) -> bool:
        """It outlives the process, with what was published to it durably."""
        return self.spec.durable and not self.spec.exclusive

    @property
    def unused(self) -> bool:
        """Nobody consumes it and nothing is in it, nor comes in or goes out."""
        figures = self.stats(self._hooks.now())
        return not (self.coming or self.leaving or figures.ready or figures.in_flight or figures.consumers)

    @abstractmethod
    def put(self, entry: Entry, now: float) -> None: ...
    @abstractmethod
    def put_back(self, entry: Entry) -> None: ...
    @abstractmethod
    def done(self, entry: Entry) -> None: ...
    @abstractmethod
    def headers(self, delivery: EmbeddedDelivery) -> dict[str, Any]: ...
    @abstractmethod
    def attach(self, holder: Holder) -> None: ...
    @abstractmethod
    def detach(self, holder: Holder) -> None:
        """It gets nothing more; what it has it can still settle."""

    @abstractmethod
    def left(self, holder: Holder) -> None:
        """It was said to be `leaving`, and has nothing left."""

    @abstractmethod
    def deliver(self, now: float, most: int) -> bool:
        """Give out at most `most` messages. Returns whether more could be given out now."""

    @abstractmethod
    def expire(self, now: float) -> None:
        """Give up what is over its time."""

    @abstractmethod
    def close(self) -> None:
        """It is deleted, with what is in it. It has no consumers any more."""

    @abstractmethod
    def stats(self, now: float) -> QueueStats: ...


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
