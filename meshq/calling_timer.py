"""One timer of the event loop for all the deadlines of a table."""

import asyncio
from collections.abc import Callable

from meshq.ports import Clock


class DeadlineTimer:
    """`due` is called when a watched deadline has passed, and returns the next one of its table, None where there is none.
    Deadlines are seconds of the clock's monotonic time."""

    def __init__(self, clock: Clock, due: Callable[[], float | None]) -> None:
        self._clock = clock
        self._due = due
        self._timer: asyncio.TimerHandle | None = None
        self._at = 0.0

    def watch(self, deadline: float) -> None:
        if self._timer is None or deadline < self._at:
            if self._timer is not None:
                self._timer.cancel()
            self._at = deadline
            delay = max(0.0, deadline - self._clock.monotonic())
            self._timer = asyncio.get_running_loop().call_later(delay, self._fire)

    def _fire(self) -> None:
        self._timer = None
        following = self._due()
        if following is not None:
            self.watch(following)
