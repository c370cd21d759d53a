"""Which instances of a topic drain, since when, and which of them have nothing left, for the direct mode.

What is in flight comes with renewals, and that somebody drains does not wait for one: the first renewal after that counts. Who was told
to drain is in the registry's picture, so that another leader goes on with it.
"""

import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple

from meshq.core.cluster import Occupant
from meshq.core.instances import Instance, State
from meshq.ports import Clock

log = logging.getLogger(__name__)

PATIENCE = 21 * 60.0
"""Seconds that an instance may drain: the 20 min that an app may take for a message at most, and one in which that is heard."""


class _Drain(NamedTuple):
    generation: int
    """Of the process that drains."""
    since: float
    """When it was told to, or seen to."""
    renewed_ms: int | None = None
    """Its last renewal when it was first seen to."""
    said: bool = False
    """That it takes too long."""


class Drains:
    """`instances`: those of a topic, as they were last known. `order` tells one of a service to drain; False: there is none; raises
    RegistryAway."""

    def __init__(
        self,
        instances: Callable[[str], Sequence[Instance]],
        order: Callable[[str, str], Awaitable[bool]],
        clock: Clock,
    ) -> None:
        self._instances = instances
        self._order = order
        self._clock = clock
        self._drains: dict[str, dict[str, _Drain]] = {}
        """Topic -> instance id -> what is known of it."""

    def occupants(self, topic: str) -> list[Occupant]:
        """Those that are there now."""
        before, now = self._drains.get(topic, {}), self._clock.monotonic()
        there = [instance for instance in self._instances(topic) if instance.state is not State.DOWN]
        known = {instance.id: _followed(instance, before.get(instance.id), now) for instance in there}
        self._drains[topic] = {ident: drain for ident, drain in known.items() if drain is not None}
        return [self._occupant(topic, instance, known[instance.id], now) for instance in there]

    async def order(self, topic: str, occupant: Occupant) -> None:
        """Raises RegistryAway."""
        now = self._clock.monotonic()
        if await self._order(occupant.service, occupant.id):
            for instance in self._instances(topic):
                if instance.id == occupant.id:
                    self._drains[topic][instance.id] = _Drain(instance.generation, now)

    def _occupant(self, topic: str, instance: Instance, drain: _Drain | None, now: float) -> Occupant:
        in_flight = instance.load.in_flight
        late = drain is not None and now - drain.since >= PATIENCE
        if drain is not None and late and in_flight and not drain.said:
            log.warning(
                "%s has had %d messages in flight for %g min since it was told to drain: its pod goes, and another does them again",
                instance.id,
                in_flight,
                PATIENCE / 60,
            )
            self._drains[topic][instance.id] = drain._replace(said=True)
        return Occupant(
            instance.service,
            instance.id,
            instance.address.rpartition(":")[0].strip("[]"),
            in_flight,
            drains=drain is not None,
            done=late or (drain is not None and _is_idle(instance, drain)),
        )


def _followed(instance: Instance, before: _Drain | None, now: float) -> _Drain | None:
    """None: it does not drain."""
    drain = before if before is not None and before.generation == instance.generation else None
    if drain is None and (instance.orders.drain or instance.state is State.DRAINING):
        drain = _Drain(instance.generation, now)
    if drain is not None and drain.renewed_ms is None and instance.state is State.DRAINING:
        return drain._replace(renewed_ms=instance.last_seen_ms)
    return drain


def _is_idle(instance: Instance, drain: _Drain) -> bool:
    renewed = drain.renewed_ms is not None and instance.last_seen_ms > drain.renewed_ms
    return renewed and not instance.load.in_flight
