"""Telling whoever scales services that something is sent to one that nobody is there for: at once, and beside the message's way. What
the registry does not take is dropped, because the broker's counts show the same a few seconds later.
"""

from contextlib import suppress

from meshq.ports import Clock, Registry, RegistryAway
from meshq.tasks import Tasks

EVERY = 1.0
"""Seconds between two times that the same topic is told of at the least."""
MAX_TOPICS = 1000
"""Told of within that time: callers may make names up."""


class Waking:
    def __init__(self, registry: Registry, clock: Clock, tasks: Tasks) -> None:
        self._registry = registry
        self._clock = clock
        self._tasks = tasks
        self._told: dict[str, float] = {}
        """topic -> when it was told of last; the oldest first"""
        self._due: list[str] = []
        self._telling = False

    def wake(self, topic: str) -> None:
        """Something is sent there."""
        now = self._clock.monotonic()
        last = self._told.get(topic)
        if last is not None and now < last + EVERY:
            return
        self._forget(now)
        if len(self._told) >= MAX_TOPICS:
            return
        self._told[topic] = now
        self._due.append(topic)
        if not self._telling:
            self._telling = True
            self._tasks.start(self._tell(), "wake what is asleep")

    def _forget(self, now: float) -> None:
        while self._told and self._told[oldest := next(iter(self._told))] + EVERY <= now:
            del self._told[oldest]

    async def _tell(self) -> None:
        try:
            while self._due:
                due, self._due = self._due, []
                with suppress(RegistryAway):
                    await self._registry.wake(due)
        finally:
            self._telling = False
