"""The route policy of a service, as a value (INTERFACE part 6): how calls to it are spread over its versions, what happens when a
version has nobody ready, who may call it. `policy_parsing` reads one and shows it; `routing` applies it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from types import MappingProxyType
from typing import NamedTuple

from meshq.core.scaling_values import Scaling


class WhenAbsent(Enum):
    """What becomes of a call when the version it goes to has no ready instance."""

    WAIT = "wait"  # in its queue
    FALLBACK = "fallback"  # to the first version of `fallback` that has one; else it waits
    FAIL = "fail"  # `no-instance`


class Mirror(NamedTuple):
    """Copies of calls, whose answers are dropped."""

    to: int
    """Major."""
    percent: float


class Deprecation(NamedTuple):
    """What callers of a version are told with every answer (RFC 9745, RFC 8594)."""

    since_ms: int
    """Unix milliseconds: when it was said first."""
    sunset_ms: int | None = None
    """When it is to end."""
    link: str = ""
    """Where it is said what to do."""


class Retry(NamedTuple):
    """Attempts in all, and the delays in seconds before the second, third, ...; the last repeats."""

    attempts: int = 5
    delays: tuple[float, ...] = (1.0, 5.0, 30.0, 120.0)


@dataclass(frozen=True, slots=True)
class Policy:
    """What is not said is None or empty, and leaves things as they are without a policy."""

    service: str
    weights: Mapping[int, int] = field(default_factory=lambda: MappingProxyType({}))
    """Major -> share of the calls that name no version. A major that is not in it gets none of them."""
    sticky: str = ""
    """Lower-case name of a header field: calls with the same value of it go to the same version."""
    mirror: Mirror | None = None
    fallback: tuple[int, ...] = ()
    """Majors, the first choice first. Looked at only with WhenAbsent.FALLBACK, and only for calls that leave the version open."""
    when_absent: WhenAbsent = WhenAbsent.WAIT
    deprecated: Mapping[int, Deprecation] = field(default_factory=lambda: MappingProxyType({}))
    timeout_ms: int | None = None
    """For callers that name none."""
    retry: Retry | None = None
    backlog_limit: int | None = None
    allow: frozenset[str] | None = None
    """Services that may call it; None: all."""
    scale: Scaling | None = None
    """How many replicas it is to have. None: as where nobody said anything (scaling_values.USUAL)."""
