"""Answers that somebody waits for a while, to requests that are durable whether they wait or not: nothing is asked again here,
nothing is refused, and who waited too long learns just that."""

from collections.abc import Callable
from typing import NamedTuple

from meshq.calling_timer import DeadlineTimer
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
        self._timer = DeadlineTimer(clock, self._expire)

    def __len__(self) -> int:
        return len(self._waiting)

    def expect(self, message_id: str, service: str, seconds: float, told: Told) -> Callable[[], None]:
        """Wait for the answer of `service`; `told` is called once. Returns a function to give up waiting, after which `told`
        is not called. Raises meshq.core.calls.Full."""
        deadline = self._clock.monotonic() + seconds
        self._waiting.open(message_id, deadline, 0, _Waiting(service, told))
        self._timer.watch(deadline)
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

    def _expire(self) -> float | None:
        for waiting in self._waiting.expire(self._clock.monotonic()):
            waiting.told(None)
        return self._waiting.next_deadline()
