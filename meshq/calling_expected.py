"""Answers that somebody waits for a while, to requests that are durable whether they wait or not: nothing is asked again here,
nothing is refused, and who waited too long learns just that."""

import asyncio
from collections.abc import Callable
from typing import NamedTuple

from meshq.core.calls import PendingCalls
from meshq.core.message import Fault, Response
from meshq.ports import Clock

MAX_EXPECTED = 10_000

Told = Callable[[Response | Fault | None], None]
"""None: the time is over."""


class _Waiting(NamedTuple):
    service: str
    told: Told


class Expected:
    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._waiting: PendingCalls[_Waiting] = PendingCalls(MAX_EXPECTED, 0)
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0

    def __len__(self) -> int:
        return len(self._waiting)

    def expect(self, message_id: str, service: str, seconds: float, told: Told) -> Callable[[], None]:
        """Wait for the answer of `service`; `told` is called once. Returns a function to give up waiting, after which `told`
        is not called. Raises meshq.core.calls.Full."""
        deadline = self._clock.monotonic() + seconds
        self._waiting.open(message_id, deadline, 0, _Waiting(service, told))
        self._watch(deadline)
        return lambda: self._give_up(message_id)

    def service(self, message_id: str) -> str:
        """Whose answer is waited for, "" where none is."""
        waiting = self._waiting.get(message_id)
        return "" if waiting is None else waiting.service

    def tell(self, answer: Response | Fault) -> None:
        waiting = self._waiting.resolve(answer.id)
        if waiting is not None:
            waiting.told(answer)

    def _give_up(self, message_id: str) -> None:
        self._waiting.resolve(message_id)

    def _watch(self, deadline: float) -> None:
        if self._timer is None or deadline < self._timer_at:
            if self._timer is not None:
                self._timer.cancel()
            self._timer_at = deadline
            delay = max(0.0, deadline - self._clock.monotonic())
            self._timer = asyncio.get_running_loop().call_later(delay, self._expire)

    def _expire(self) -> None:
        self._timer = None
        for waiting in self._waiting.expire(self._clock.monotonic()):
            waiting.told(None)
        following = self._waiting.next_deadline()
        if following is not None:
            self._watch(following)
