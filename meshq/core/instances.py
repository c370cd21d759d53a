"""Who is there, as values: instances with their states, and the picture of the mesh that routing reads.

A picture is immutable; the registry adapters make a new one when something changed, and everything that routes holds the
latest. It is small (hundreds of services, thousands of instances), so a whole one is exchanged, never a difference.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from functools import cached_property
from types import MappingProxyType
from typing import NamedTuple

from meshq.core.names import Version
from meshq.core.policy import Policy

TTL_MS = 15_000
"""A lease not renewed for this long makes its instance `suspect`; for twice this long, `down`."""
RENEW_EVERY = 5.0
"""Seconds between renewals, with +-10 % jitter, so that two may be lost before the lease runs out."""
FORGET_AFTER_MS = 600_000
"""An instance that is down is deleted after this long."""


class State(Enum):
    STARTING = "starting"  # its app has not answered a probe yet
    READY = "ready"
    UNHEALTHY = "unhealthy"  # its app fails the probe
    PAUSED = "paused"
    DRAINING = "draining"
    SUSPECT = "suspect"  # its lease ran out: still used, as the last choice
    DOWN = "down"


LIVE = frozenset({State.READY, State.SUSPECT})
"""The states whose instances routing counts on."""


class Load(NamedTuple):
    """What an instance reports with every renewal."""

    in_flight: int = 0
    capacity: int = 0


class Pause(NamedTuple):
    """Somebody does not want an instance to be given anything for a while. Its lease goes on."""

    reason: str = ""
    until_ms: int | None = None
    """By the registry's clock; None: until it is lifted."""

    def holds(self, now_ms: int) -> bool:
        return self.until_ms is None or now_ms < self.until_ms


class Orders(NamedTuple):
    """What an operator wants of an instance. It obeys, and cannot lift it itself."""

    pause: Pause | None = None
    """Stays when another process registers under the same id."""
    drain: bool = False
    """For the process that is registered now."""


@dataclass(frozen=True, slots=True)
class Instance:
    """One registered instance. Times are Unix milliseconds of the registry's own clock."""

    service: str
    id: str
    version: Version
    majors: tuple[int, ...]
    """The majors it serves; () for one that only calls out."""
    state: State
    """What it says of itself when it registers; in a picture what readers are to make of it (`visible_state`)."""
    address: str = ""
    """Where its sidecar is, for people; meshq never dials it."""
    metadata: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    load: Load = Load()  # noqa: RUF009 - a NamedTuple: immutable
    last_seen_ms: int = 0
    generation: int = 0
    endpoints: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    """Name of the protocol -> `host:port` or a URL where the app itself is, for DNS and for people."""
    ttl_ms: int = 0
    """Of its lease; 0: the registry's own."""
    pause: Pause | None = None
    """Its own."""
    orders: Orders = Orders()  # noqa: RUF009


@dataclass(frozen=True, slots=True)
class Service:
    """One service: the majors it ever had a topic for, and its instances."""

    name: str
    majors: Mapping[int, Version]
    """Major -> the lowest version that was ready in the major's last non-empty state (the first registered before there was
    one). What a selector is held against while the major has no instance."""
    instances: tuple[Instance, ...] = ()

    def of_major(self, major: int) -> list[Instance]:
        return [i for i in self.instances if major in i.majors]


class Renewal(NamedTuple):
    """The registry's answer to a renewal."""

    now_ms: int
    revision: int
    """The picture's revision now: a watcher that holds another one is behind."""


@dataclass(frozen=True)
class Snapshot:
    """The picture of the mesh at one moment. `revision` grows with every visible change (never by a renewal alone)."""

    revision: int
    services: Mapping[str, Service]
    stale: bool = False
    """The registry was away when this was last asked for: it may be old."""
    policies: Mapping[str, Policy] = field(default_factory=lambda: MappingProxyType({}))
    """By service; those without one are not in it."""
    epoch: str = ""
    """Of the registry's data: another one means that it was lost and begun anew."""
    holding: bool = False
    """So many leases ran out at once that it is rather the registry's doing: they stay `suspect` (core/eviction.py)."""

    @cached_property
    def instance_count(self) -> int:
        return sum(len(s.instances) for s in self.services.values())


EMPTY = Snapshot(-1, MappingProxyType({}))
"""Before the registry answered for the first time. An empty mesh has revision 0."""


def carried_over(before: Snapshot, after: Snapshot) -> Snapshot:
    """The picture while those that a registry forgot register again: `after`, and of `before` what is missing there, route policies
    too."""
    services = dict(before.services)
    for name, service in after.services.items():
        old = services.get(name)
        services[name] = service if old is None else _joined(old, service)
    policies = {**before.policies, **after.policies}
    return replace(after, services=MappingProxyType(services), policies=MappingProxyType(policies), stale=True)


def at_zero(before: Snapshot) -> Snapshot:
    """Of `before` the services that have a queue, with their route policies and without their instances: what is left of a service
    that nobody registers again, because it is scaled to zero."""
    services = {name: replace(service, instances=()) for name, service in before.services.items() if service.majors}
    policies = {name: policy for name, policy in before.policies.items() if name in services}
    return replace(before, services=MappingProxyType(services), policies=MappingProxyType(policies))


def still_forgotten(forgotten: Snapshot, after: Snapshot) -> Snapshot:
    """`forgotten` without the services that `after` knows."""
    services = {name: service for name, service in forgotten.services.items() if name not in after.services}
    policies = {name: policy for name, policy in forgotten.policies.items() if name in services}
    return replace(forgotten, services=MappingProxyType(services), policies=MappingProxyType(policies))


def with_what_was_lost(seen: Snapshot, before: Snapshot | None, forgotten: Snapshot | None) -> Snapshot:
    """What a registry that lost its data says now, with what it should know: all of `before` while those register again, else the
    services of `forgotten` that nobody registers because they are at zero. None: nothing is to be added of that."""
    if before is not None:
        return carried_over(before, seen)
    if forgotten is None or not forgotten.services:
        return seen
    return replace(carried_over(forgotten, seen), stale=seen.stale)


def _joined(before: Service, after: Service) -> Service:
    there = {instance.id for instance in after.instances}
    missing = (instance for instance in before.instances if instance.id not in there)
    return Service(after.name, {**before.majors, **after.majors}, (*after.instances, *missing))


def visible_state(
    told: State, pause: Pause | None, orders: Orders, now_ms: int, *, expired: bool, evicted: bool
) -> State:
    """What a reader is to see of an instance that says it is `told`. `expired`: its lease ran out; `evicted`: it was found to be
    gone for good (core/eviction.py). Only a ready one becomes suspect, because suspects are still used."""
    if evicted:
        return State.DOWN
    if told is State.DRAINING:
        return told
    if any(each is not None and each.holds(now_ms) for each in (pause, orders.pause)):
        return State.PAUSED
    return State.SUSPECT if expired and told is State.READY else told


def lowest_ready(instances: Iterable[Instance], major: int) -> Version | None:
    """The lowest version among the ready instances of a major, None when there is none."""
    ready = [i.version for i in instances if major in i.majors and i.state is State.READY]
    return min(ready, key=Version.key, default=None)
