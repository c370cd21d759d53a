"""Signals for whoever asks now and then: the looks begin with the first question and end when nobody has asked for a while."""

import asyncio
from typing import Any

from meshq.ports import Clock
from meshq.signals import views
from meshq.signals.figures import Signals
from meshq.signals.sampler import Sampler
from meshq.tasks import Tasks

KEEP = 600.0
"""Seconds after the last question for which it goes on looking: what was counted before makes a better answer."""
LOOKS = 2
"""From one look alone nobody knows a rate."""


def rows(signals: Signals, service: str | None) -> list[dict[str, Any]]:
    """`views.status` of everything, `views.explain` of one service. Raises OSError where nothing is known."""
    found = signals.all() if service is None else signals.of_service(service)
    if not found and signals.fault:
        raise OSError(signals.fault)
    return [views.status(each) if service is None else views.explain(each) for each in found]


class Following:
    """Of signals that are made anyway."""

    def __init__(self, signals: Signals) -> None:
        self._signals = signals

    async def rows(self, service: str | None) -> list[dict[str, Any]]:
        return rows(self._signals, service)

    async def close(self) -> None:
        """They are not ours."""


class OnDemand:
    def __init__(self, sampler: Sampler, clock: Clock) -> None:
        self._sampler = sampler
        self._clock = clock
        self._tasks = Tasks()
        self._asked_at = 0.0
        self._looking = False
        self._looks = 0
        self._looked = asyncio.Event()
        """Set, and replaced by a new one, after each look."""

    async def rows(self, service: str | None) -> list[dict[str, Any]]:
        """As `rows` makes them; the first answer takes as long as two looks. Raises OSError."""
        self._asked_at = self._clock.monotonic()
        if not self._looking:
            self._looking = True
            self._tasks.start(self._look(), "look at the queues")
        while self._looks < LOOKS and self._looking:
            await self._looked.wait()
        return rows(self._sampler, service)

    async def close(self) -> None:
        await self._tasks.close()
        self._looking = False  # also where the looks had not begun yet
        self._tell()

    async def _look(self) -> None:
        try:
            while self._clock.monotonic() - self._asked_at < KEEP:
                await self._sampler.look()
                self._looks += 1
                self._tell()
                await asyncio.sleep(self._sampler.every)
        finally:
            self._looking, self._looks = False, 0
            self._tell()

    def _tell(self) -> None:
        self._looked.set()
        self._looked = asyncio.Event()
