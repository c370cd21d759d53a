"""The waited calls that have no answer yet: a bounded table, with one timer for all deadlines."""

from collections.abc import Callable
from typing import NamedTuple

from meshq.calling_timer import DeadlineTimer
from meshq.core.callreq import Call
from meshq.core.calls import Full, PendingCalls
from meshq.core.errors import Code, Problem
from meshq.core.http import HttpResponse
from meshq.core.message import Request
from meshq.core.routing import Route
from meshq.ports import Clock

MAX_PENDING = 10_000
MAX_PENDING_BYTES = 128 * 2**20
"""Calls that wait at once, and the request bodies kept with them to ask again. Beyond either: `overloaded`."""
SHARE_PER_SERVICE = 0.5
"""The part of MAX_PENDING that calls to one service may take, so that one slow service cannot shut out all others."""

Done = Callable[[HttpResponse], None]


class Waiting(NamedTuple):
    call: Call
    request: Request
    route: Route
    key: str
    """Routing key."""
    done: Done
    since: float


class WaitingCalls:
    """`ended` is called with each call that is taken out, `expired` after that with one whose deadline has come."""

    def __init__(self, clock: Clock, ended: Callable[[Waiting], None], expired: Callable[[Waiting], None]) -> None:
        self._clock = clock
        self._ended = ended
        self._expired = expired
        self._pending: PendingCalls[Waiting] = PendingCalls(MAX_PENDING, MAX_PENDING_BYTES)
        self._by_service: dict[str, int] = {}
        self._timer = DeadlineTimer(clock, self._expire)
        self.get = self._pending.get
        self.replace = self._pending.replace
        self.entries = self._pending.entries

    def __len__(self) -> int:
        return len(self._pending)

    def open(self, message_id: str, deadline: float, waiting: Waiting) -> Problem | None:
        """Wait for the answer to it, until `deadline` of the monotonic clock. Returns why that cannot be."""
        service = waiting.call.address.service
        count = self._by_service.get(service, 0)
        if count >= MAX_PENDING * SHARE_PER_SERVICE:
            return Problem(Code.OVERLOADED, f"{count} calls to {service} already wait for an answer")
        try:
            self._pending.open(message_id, deadline, len(waiting.request.body or b""), waiting)
        except Full:
            return Problem(Code.OVERLOADED, f"{len(self._pending)} calls already wait for an answer")
        self._by_service[service] = count + 1
        self._timer.watch(deadline)
        return None

    def take(self, message_id: str) -> Waiting | None:
        """It waits no more. None where it did not."""
        waiting = self._pending.resolve(message_id)
        if waiting is not None:
            self._forget(waiting)
        return waiting

    def _forget(self, waiting: Waiting) -> None:
        service = waiting.call.address.service
        left = self._by_service[service] - 1
        if left:
            self._by_service[service] = left
        else:
            del self._by_service[service]
        self._ended(waiting)

    def _expire(self) -> float | None:
        for waiting in self._pending.expire(self._clock.monotonic()):
            self._forget(waiting)
            self._expired(waiting)
        return self._pending.next_deadline()
