"""Trying again, as the mesh says: what is `retryable`, no sooner than `Retry-After`, with jitter, inside the time there is."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

from meshq.sdk.context import current
from meshq.sdk.problem import Problem

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Retry:
    """How often, and how soon.

    Pauses are drawn from 0 to `first` seconds, then to twice that, at most to `most` ("full jitter": Brooker, Exponential Backoff And
    Jitter, AWS Architecture Blog 2015); where the problem says how long to wait, that comes on top.

    Example:
        >>> Retry(attempts=3).pause(1, Problem("overloaded", retry_after=2.0), left=10.0, random=lambda: 0.5)
        2.05
        >>> Retry(attempts=3).pause(1, Problem("denied"), left=10.0, random=lambda: 0.5) is None
        True
    """

    attempts: int = 3
    """In all."""
    within: float | None = None
    """Seconds after which no further one begins. None: the call's own timeout, or the deadline of what is handled here."""
    first: float = 0.1
    """Seconds."""
    most: float = 5.0
    """Seconds."""

    def pause(self, attempt: int, problem: Problem, left: float | None, random: Callable[[], float]) -> float | None:
        """Seconds to wait after the failed `attempt` (from 1); None: give up. `left` is the time there still is, in seconds."""
        if attempt >= self.attempts or not problem.retryable:
            return None
        pause = random() * min(self.most, self.first * 2.0 ** (attempt - 1)) + (problem.retry_after or 0.0)
        return None if left is not None and pause >= left else pause


async def retrying(call: Callable[[], Awaitable[T]], retry: Retry | None = None) -> T:
    """Call until it succeeds, or `retry` says that it is enough; then the last Problem is raised.

    Example:
        >>> calls = []
        >>> async def flaky() -> str:
        ...     calls.append(1)
        ...     if len(calls) < 3:
        ...         raise Problem("unavailable")
        ...     return "done"
        >>> asyncio.run(retrying(flaky, Retry(first=0.001)))
        'done'
    """
    retry = retry or Retry()
    loop = asyncio.get_running_loop()
    until = _until(loop.time(), retry.within)
    attempt = 1
    while True:
        try:
            return await call()
        except Problem as problem:
            left = None if until is None else until - loop.time()
            pause = retry.pause(attempt, problem, left, random.random)
            if pause is None:
                raise
        await asyncio.sleep(pause)
        attempt += 1


def _until(now: float, within: float | None) -> float | None:
    context = current()
    left = None if context is None else context.time_left
    given = [seconds for seconds in (within, left) if seconds is not None]
    return now + min(given) if given else None
