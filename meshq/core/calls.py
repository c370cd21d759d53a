"""The table of calls that wait for a reply: bounded in number and bytes, every entry with a deadline.

Deadlines lie in one heap. A call that was answered leaves a stale entry there until its time comes, so the heap is rebuilt
when most of it is stale: amortised, an answered call costs O(1) and the heap never holds more than twice the live calls
plus a constant.
"""

import heapq
from typing import Generic, NamedTuple, TypeVar

T = TypeVar("T")

_SLACK = 256


class Full(Exception):
    """The table is at its bound."""


class Pending(NamedTuple, Generic[T]):
    deadline: float
    """On the monotonic clock, seconds."""
    size: int
    entry: T


class PendingCalls(Generic[T]):
    def __init__(self, limit: int, limit_bytes: int) -> None:
        self._limit = limit
        self._limit_bytes = limit_bytes
        self._calls: dict[str, Pending[T]] = {}
        self._heap: list[tuple[float, str]] = []
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._calls)

    @property
    def bytes(self) -> int:
        return self._bytes

    def open(self, call: str, deadline: float, size: int, entry: T) -> None:
        """Wait for `call`. Raises Full at the bound, KeyError when it already waits."""
        if call in self._calls:
            raise KeyError(call)
        if len(self._calls) >= self._limit or self._bytes + size > self._limit_bytes:
            raise Full
        self._calls[call] = Pending(deadline, size, entry)
        self._bytes += size
        heapq.heappush(self._heap, (deadline, call))

    def get(self, call: str) -> T | None:
        pending = self._calls.get(call)
        return None if pending is None else pending.entry

    def replace(self, call: str, entry: T) -> None:
        """Put another entry in the place of a waiting call's. Raises KeyError when it does not wait."""
        self._calls[call] = self._calls[call]._replace(entry=entry)

    def resolve(self, call: str) -> T | None:
        """Take the call out; None when it does not wait (answered, expired or never asked)."""
        pending = self._calls.pop(call, None)
        if pending is None:
            return None
        self._bytes -= pending.size
        if len(self._heap) > 2 * len(self._calls) + _SLACK:
            self._heap = [(p.deadline, c) for c, p in self._calls.items()]
            heapq.heapify(self._heap)
        return pending.entry

    def expire(self, now: float) -> list[T]:
        """Take out every call whose deadline has come, the earliest first."""
        due: list[T] = []
        while self._heap and self._heap[0][0] <= now:
            deadline, call = heapq.heappop(self._heap)
            pending = self._calls.get(call)
            if pending is not None and pending.deadline == deadline:
                entry = self.resolve(call)
                assert entry is not None
                due.append(entry)
        return due

    def next_deadline(self) -> float | None:
        """When to call `expire` next; it may be that of a call answered since."""
        return self._heap[0][0] if self._heap else None

    def entries(self) -> list[tuple[str, T]]:
        return [(call, pending.entry) for call, pending in self._calls.items()]
