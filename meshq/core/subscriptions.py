"""Subscriptions: which events an app gets, on which path, and how its instances share them (INTERFACE part 5)."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any, NamedTuple

from meshq.core import topology
from meshq.core.cloudevents import percent_encoded
from meshq.core.desired import without
from meshq.core.events import EventAddress
from meshq.core.message import Request
from meshq.core.topology import Topology

ANY_NUMBER = ("**", "#")
"""Wildcards for any number of labels."""


class Mode(Enum):
    """Who gets a message."""

    SHARED = "shared"  # one instance of the service
    BROADCAST = "broadcast"  # every instance connected at that moment
    ORDERED = "ordered"  # one instance at a time per ordering key
    EXCLUSIVE = "exclusive"  # one instance for the whole subscription
    REPLAY = "replay"  # like shared, from a point in the event's log


class Pattern(NamedTuple):
    """Which events: `payments.settled`, or with wildcards `payments.*` (one label), `payments.**` or `payments.#` (any number of
    them, also none), of one major version."""

    text: str
    major: int = 1

    @property
    def wild(self) -> bool:
        return any(label == "*" or label in ANY_NUMBER for label in self.text.split("."))

    @property
    def binding(self) -> str:
        """As a topic exchange takes it: `payments.*.v1`."""
        labels = ("#" if label in ANY_NUMBER else label for label in self.text.split("."))
        return f"{'.'.join(labels)}.v{self.major}"

    @property
    def event(self) -> EventAddress:
        """Of a pattern without wildcards."""
        return EventAddress(self.text, self.major)

    def __str__(self) -> str:
        return f"{self.text}@{self.major}"


Start = int | str
"""Where a replay begins: the number of a message in the log, "first", "next" (what comes from now on), or a time in UTC."""


@dataclass(frozen=True, slots=True)
class Subscription:
    name: str
    """Of its queue: the instances of a service that name one alike share it."""
    events: Pattern
    path: str
    """At the app, to which its events are posted."""
    mode: Mode = Mode.SHARED
    filter: tuple[tuple[str, str], ...] = ()
    """Lower-cased header names and values: an event that has not all of them is acknowledged unseen."""
    start: Start = "first"

    def as_json(self) -> dict[str, Any]:
        """What `parse` makes this subscription of."""
        body: dict[str, Any] = {
            "name": self.name,
            "events" if self.events.wild else "event": str(self.events),
            "path": self.path,
            "mode": self.mode.value,
        }
        if self.filter:
            body["filter"] = dict(self.filter)
        if self.mode is Mode.REPLAY:
            body["from"] = self.start
        return body


# --- on the broker ----------------------------------------------------------------------------------------------------------


def queues(subscription: Subscription, topic: str, instance: str) -> list[str]:
    """What an instance of the service behind `topic` consumes for it."""
    name = subscription.name
    match subscription.mode:
        case Mode.ORDERED:
            return [topology.partition_queue(topic, name, p) for p in range(topology.PARTITIONS)]
        case Mode.BROADCAST:
            return [topology.broadcast_queue(topic, name, instance)]
    return [topology.subscription_queue(topic, name)]


def declarations(subscription: Subscription, topic: str, instance: str) -> Topology:
    """What it needs on the broker, besides the dead letters of `topic`, which are the service's and not its alone."""
    whole = _declarations(subscription, topic, instance)
    return without(whole, topology.dead(topic))


def _declarations(subscription: Subscription, topic: str, instance: str) -> Topology:
    name, pattern = subscription.name, subscription.events.binding
    match subscription.mode:
        case Mode.SHARED:
            return topology.subscription(topic, name, pattern)
        case Mode.EXCLUSIVE:
            return topology.subscription(topic, name, pattern, exclusive=True)
        case Mode.ORDERED:
            return topology.ordered_subscription(topic, name, pattern)
        case Mode.BROADCAST:
            return topology.broadcast_subscription(topic, name, pattern, instance)
        case Mode.REPLAY:
            return topology.replay_subscription(topic, name)


# --- filters ----------------------------------------------------------------------------------------------------------------


def admission(subscription: Subscription) -> Callable[[Request], bool] | None:
    """Whether an event is wanted; None where every one is."""
    if not subscription.filter:
        return None
    wanted = {name.encode(): _written(name, value) for name, value in subscription.filter}

    def admits(event: Request) -> bool:
        met = set()
        for name, value in event.headers:
            lowered = name.lower()
            if value in wanted.get(lowered, ()):
                met.add(lowered)
        return len(met) == len(wanted)

    return admits


def _written(name: str, value: str) -> tuple[bytes, ...]:
    """How a field may write this value: attributes of CloudEvents are percent-encoded by most publishers, not by all."""
    plain = value.encode()
    return (plain, percent_encoded(value).encode()) if name.startswith("ce-") else (plain,)
