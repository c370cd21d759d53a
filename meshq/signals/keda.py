"""What KEDA's external scaler contract is answered with, without its wire (meshq/adapters/keda_grpc.py).

One metric, `desired_replicas`, of which one replica is for 1: the HPA that KEDA makes of it then has nothing left to decide. What
is stale or not known is refused as unavailable, on which KEDA leaves the replicas as they are.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import contextmanager

from meshq.core.errors import Code, refuse
from meshq.core.names import BadName, parse_topic, topic
from meshq.signals.figures import Signal, Signals
from meshq.signals.keda_metadata import Asked, read
from meshq.signals.known import desired, why_missing, why_unknown


class Scaler:
    """`metadata` is that of the trigger that asks; what is wrong with it raises Refused (bad-request)."""

    metric = "desired_replicas"
    target = 1
    """Of the metric, for one replica."""

    def __init__(self, signals: Signals) -> None:
        self._signals = signals
        self._watchers: dict[str, set[asyncio.Event]] = {}
        """By service."""
        self._closing = False
        self._unwatch = signals.on_change(self._changed)

    def close(self) -> None:
        """Every `activity` ends."""
        if self._closing:
            return
        self._closing = True
        self._unwatch()
        for watchers in self._watchers.values():
            for changed in watchers:
                changed.set()

    def check(self, metadata: Mapping[str, str]) -> None:
        """Only whether it makes sense: the metric is the same for all."""
        read(metadata)

    def desired(self, metadata: Mapping[str, str]) -> int:
        """Replicas. Raises Refused (unavailable) where that is stale or not known."""
        asked = read(metadata)
        signal = self._signal(asked)
        if signal is None:
            raise refuse(Code.UNAVAILABLE, why_missing(self._signals, asked.service, asked.major))
        if signal.policy.min > signal.policy.max:
            raise refuse(
                Code.BAD_REQUEST,
                f"the trigger's metadata: with the scaling policy of {asked.service} min is {signal.policy.min} and max "
                f"{signal.policy.max}; give both",
            )
        replicas = desired(signal)
        if replicas is None:
            raise refuse(Code.UNAVAILABLE, why_unknown(self._signals, signal))
        return replicas

    def is_active(self, metadata: Mapping[str, str]) -> bool:
        """Whether there should be any replica. Raises as `desired`."""
        return self.desired(metadata) > 0

    async def activity(self, metadata: Mapping[str, str]) -> AsyncIterator[bool]:
        """`is_active` as it changes, first what is known now; nothing for as long as nothing is known."""
        asked = read(metadata)
        told: bool | None = None
        with self._watching(asked.service) as changed:
            while not self._closing:
                changed.clear()  # before the look: what comes during it, or while the client is slow, is looked at again
                signal = self._signal(asked)
                active = None if signal is None else _active(signal)
                if signal is not None and active is not None and (active is not told or _asleep(signal)):
                    told = active
                    yield active
                await changed.wait()

    @contextmanager
    def _watching(self, service: str) -> Iterator[asyncio.Event]:
        changed = asyncio.Event()
        self._watchers.setdefault(service, set()).add(changed)
        try:
            yield changed
        finally:
            watchers = self._watchers[service]
            watchers.discard(changed)
            if not watchers:
                del self._watchers[service]

    def _changed(self, of_topic: str) -> None:
        try:
            service, _ = parse_topic(of_topic)
        except BadName:
            return
        for changed in self._watchers.get(service, ()):
            changed.set()

    def _signal(self, asked: Asked) -> Signal | None:
        major = asked.major
        if major is None:
            majors = self._signals.of_service(asked.service)
            if not majors:
                return None
            major = majors[-1].major
        return self._signals.of_topic(topic(asked.service, major), asked.wishes)


def _active(signal: Signal) -> bool | None:
    """Stale figures may wake, and never put to sleep: what is decided on them is not below what is there."""
    replicas = desired(signal)
    if replicas is None:
        return True if signal.decision.desired else None
    return replicas > 0


def _asleep(signal: Signal) -> bool:
    """A wake is told again at each look until somebody is there: whoever heard it may have failed at it."""
    return bool(signal.decision.desired) and signal.sample.replicas == 0
