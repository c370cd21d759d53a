"""`meshq.signals.figures.Signals` whose decisions a test sets."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from meshq.core.names import topic
from meshq.core.scaling_values import Decision, Sample, ScalingPolicy
from meshq.signals.figures import NO_WISHES, Signal, Wishes

NOW_MS = 2_000_000_000_000
TERMS: Mapping[str, float | None] = {"arrivalRate": 12.5, "serviceSeconds": 0.05, "oldestAgeSeconds": 1.5}
SAMPLE = Sample(
    at=100.0, counted_at=98.0, waiting=7, in_flight=3, done=1000.0, reported_at=95.0, replicas=2, ready=2, slots=16.0,
    busy=50.0, busy_squares=3.0, handled=1000.0,
)  # fmt: skip
NOT_COUNTED = replace(SAMPLE, counted_at=None, waiting=None, in_flight=None)
AWAY = "the broker does not say how many messages there are: is its management plugin on?"


def signal(
    service: str = "orders", major: int = 2, desired: int | None = 3, *, terms: Any = TERMS, **sample: Any
) -> Signal:
    return Signal(
        service,
        major,
        topic(service, major),
        f"{major}.1.0",
        ScalingPolicy(),
        replace(SAMPLE, **sample),
        Decision(desired, "12.5 messages a second come", terms=terms),
        NOW_MS,
    )


def stale(service: str = "orders", major: int = 2, desired: int | None = 3) -> Signal:
    """As the core decides while the broker's statistics are missing: what was known before stands there still."""
    return replace(signal(service, major), decision=Decision(desired, AWAY, "stale", stale=True, terms=TERMS))


def never_counted(service: str = "orders", major: int = 2) -> Signal:
    """The same where they were never there."""
    return replace(signal(service, major), sample=NOT_COUNTED, decision=Decision(None, AWAY, "stale", stale=True))


class ToldSignals:
    def __init__(self, *signals: Signal) -> None:
        self.fault = ""
        self.leading: bool | None = None
        self.leader = ""
        self.wishes: list[Wishes] = []
        """All that were heard."""
        self.looked = asyncio.Event()
        """Somebody asked for a topic or a service."""
        self.watchers: list[Callable[[str], None]] = []
        self._told = {each.topic: each for each in signals}

    def tell(self, *signals: Signal) -> None:
        for each in signals:
            self._told[each.topic] = each
            for watcher in list(self.watchers):
                watcher(each.topic)

    async def tell_one_by_one(self, *signals: Signal) -> None:
        """Each is looked at before the next."""
        for each in signals:
            self.looked.clear()
            self.tell(each)
            await self.looked.wait()

    def forget(self) -> None:
        self._told.clear()

    def of_topic(self, topic: str, wishes: Wishes = NO_WISHES) -> Signal | None:
        self.wishes.append(wishes)
        self.looked.set()
        found = self._told.get(topic)
        return None if found is None else replace(found, policy=wishes.applied(found.policy))

    def of_service(self, service: str) -> Sequence[Signal]:
        self.looked.set()
        return sorted((each for each in self._told.values() if each.service == service), key=lambda each: each.major)

    def all(self) -> Sequence[Signal]:
        return list(self._told.values())

    def on_change(self, callback: Callable[[str], None]) -> Callable[[], None]:
        self.watchers.append(callback)
        return lambda: self.watchers.remove(callback)
