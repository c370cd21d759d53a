"""What goes into the scaling of one consumer group (a topic of a service: all queues that its instances share) and what comes out.

Everything that was counted says when; what nobody knows is None, which is never 0. Times are seconds of one clock that never goes
backwards.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

EVERY = 5.0
"""Seconds between two samples: what RabbitMQ's own statistics are collected in, and registry renewals come in."""
STALE_AFTER = 3 * EVERY
"""Figures older than this are no reason to take anything away."""

DEFAULT_WAIT = 10.0
DEFAULT_QUANTILE = 0.95
DEFAULT_MAX = 20
DEFAULT_LEAD = 12.0
"""Until a start was measured."""


@dataclass(frozen=True, slots=True)
class ScalingPolicy:
    """What is wanted of one version of a service."""

    wait: float = DEFAULT_WAIT
    """Seconds that a message may wait before an instance takes it..."""
    quantile: float = DEFAULT_QUANTILE
    """...for this part of all messages, above 0 and below 1."""
    min: int = 0
    max: int = DEFAULT_MAX
    lead: float | None = None
    """Seconds from the order of a replica to its first message; None: as measured, DEFAULT_LEAD before there was one."""
    idle: float | None = None
    """Seconds without any work before the last replica goes; None: 180, or ten times what a message takes if that is more."""
    stabilization: float | None = None
    """Seconds for which a need is remembered before fewer replicas will do; None: 300, or twice the lead if that is more."""


@dataclass(frozen=True, slots=True)
class Scaling:
    """Of all versions of a service."""

    usual: ScalingPolicy = ScalingPolicy()
    versions: Mapping[int, ScalingPolicy] = field(default_factory=lambda: MappingProxyType({}))
    """Major -> its own, where it differs."""

    def of(self, major: int) -> ScalingPolicy:
        return self.versions.get(major, self.usual)


USUAL = Scaling()
"""Where nobody said anything."""


@dataclass(frozen=True, slots=True)
class Sample:
    """What was known of one consumer group at `at`."""

    at: float
    counted_at: float | None
    """When the broker's counts were taken; None: they are not known now, and what stands here is of no use."""
    waiting: int | None
    """Messages ready in its queues, on all nodes."""
    in_flight: int | None
    """Messages handed out and not settled."""
    done: float | None
    """Messages that left its queues since some start: acknowledged, dead-lettered, expired. A counter: it may begin anew."""
    reported_at: float | None
    """When the oldest of the instances' reports counted in here was made; None: nobody reported."""
    replicas: int | None
    """Instances that are there or were ordered; draining ones are not."""
    ready: int | None
    """Of them those that take messages."""
    slots: float | None
    """Messages that one instance works on at once."""
    busy: float | None
    """Seconds that instances' apps have worked on messages, all together, since some start. A counter."""
    busy_squares: float | None
    """The sum of the squares of those times, s^2: for how much they differ."""
    handled: float | None
    """Messages behind `busy`. A counter."""
    failed: float | None = None
    """Of `handled` those that failed and are tried again or dead. A counter."""
    spooled: int = 0
    """Messages for it that its senders still keep on their own disks."""
    lead: float | None = None
    """Seconds that a replica took from its order to its first message, p90 of those measured."""
    single: bool = False
    """Its queues have a single active consumer: a second replica would only wait."""
    age_is_bound: bool = False
    """Waited calls are among what waits, whose place in the queue others may take that expire: an age is an upper bound."""
    oldest_call: float | None = None
    """Seconds that the one of them waits that waits longest, says its caller; None where other messages wait too, or nobody says so."""


@dataclass(frozen=True, slots=True)
class Decision:
    """How many replicas there should be, and why."""

    desired: int | None
    """None: nothing is known yet, and what is there should stay."""
    reason: str
    """One sentence for people."""
    held: str = ""
    """The guard that kept the answer from what the terms alone would say: `stale`, `failing`, `saturated`, `damped`, `burst-memory`,
    `not-idle`, `max`, `min`, `single`; "" for none."""
    stale: bool = False
    """Figures are missing or too old; `desired` is not below what is there."""
    terms: Mapping[str, float | None] = field(default_factory=lambda: MappingProxyType({}))
    """What it was made of, by camelCase name, rates in messages a second, times in seconds."""
