"""An event loop whose time is a ManualClock: when nothing is left to do, the clock goes to when something is due. So a test of
minutes takes milliseconds, everything happens in the same order every time, and a test that would wait for ever says so.

For what runs in this loop alone: a thread or a socket would have no time to do anything.
"""

import asyncio
import selectors
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from meshq.adapters.clock import ManualClock

T = TypeVar("T")

LONGEST = 600.0
"""Seconds of this time that a test may wait for something."""


class NothingWillHappen(Exception):
    """Nothing is left to do and nothing is due, but the test waits."""


class _Jumping(selectors.SelectSelector):
    def __init__(self, clock: ManualClock, idle: Callable[[], bool]) -> None:
        super().__init__()
        self._clock = clock
        self._idle = idle

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout != 0 and self._idle():
            return super().select(0)
        if timeout is None:
            raise NothingWillHappen
        if timeout > 0:
            self._clock.advance(timeout)
        return super().select(0)


class VirtualLoop(asyncio.SelectorEventLoop):
    """`idle` is asked when nothing is left to do before the next deadline: whether it did something that changes this."""

    def __init__(self, clock: ManualClock, idle: Callable[[], bool] = lambda: False) -> None:
        super().__init__(_Jumping(clock, idle))
        self._manual = clock

    def time(self) -> float:
        return self._manual.monotonic()

    def run_in_executor(self, executor: Any, function: Callable[..., T], *args: Any) -> "asyncio.Future[T]":
        """At once: there are no threads here."""
        future = self.create_future()
        try:
            future.set_result(function(*args))
        except Exception as error:  # noqa: BLE001 - for whoever waits
            future.set_exception(error)
        return future


def run(clock: ManualClock, story: Coroutine[Any, Any, T], idle: Callable[[], bool] = lambda: False) -> T:
    with asyncio.Runner(loop_factory=lambda: VirtualLoop(clock, idle)) as runner:
        return runner.run(story)


async def pass_time(seconds: float) -> None:
    """Let so much time pass, and everything happen that is due in it."""
    await asyncio.sleep(seconds)


async def until(holds: Callable[[], object]) -> None:
    """Let time pass until it holds. Raises TimeoutError."""
    async with asyncio.timeout(LONGEST):
        while not holds():
            await pass_time(0.01)
