"""What the servers of `meshq signals` read: the latest decision of every topic, however it came about."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import NamedTuple, Protocol

from meshq.core.scaling_values import Decision, Sample, ScalingPolicy


class Wishes(NamedTuple):
    """Of one who asks: what differs from the service's own scaling policy. Field names are ScalingPolicy's; None leaves a field."""

    wait: float | None = None
    quantile: float | None = None
    min: int | None = None
    max: int | None = None
    lead: float | None = None
    idle: float | None = None
    stabilization: float | None = None

    def applied(self, policy: ScalingPolicy) -> ScalingPolicy:
        changes = {each.name: value for each in fields(policy) if (value := getattr(self, each.name)) is not None}
        return replace(policy, **changes)


NO_WISHES = Wishes()


@dataclass(frozen=True, slots=True)
class Signal:
    """One topic of a service at one moment."""

    service: str
    major: int
    topic: str
    version: str
    """The highest version among its instances, the lowest that is known of the major where there is none."""
    policy: ScalingPolicy
    sample: Sample
    decision: Decision
    at_ms: int
    """Mesh time of the decision, Unix milliseconds."""


class Signals(Protocol):
    def of_topic(self, topic: str, wishes: Wishes = NO_WISHES) -> Signal | None:
        """None: no such topic is known, or it was not looked at yet. Whose wishes were not heard before is answered from the samples
        that are there; they are remembered for ten minutes after they were last heard."""

    def of_service(self, service: str) -> Sequence[Signal]:
        """Of all its majors, the lowest first."""

    def all(self) -> Sequence[Signal]: ...

    @property
    def fault(self) -> str:
        """Why there are no figures, and what to do; "" when all is well."""

    @property
    def leading(self) -> bool | None:
        """Whether this replica of the server is the one that acts; None where nobody acts."""

    @property
    def leader(self) -> str:
        """Name of the replica that leads, "" where it is not known."""

    def on_change(self, callback: Callable[[str], None]) -> Callable[[], None]:
        """Call back with a topic whenever its decision is made anew: after each pass, and at once when a message came for a topic without
        replicas. Returns what ends that."""
