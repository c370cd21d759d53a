"""What a rule made of a trace, in figures."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from meshq.simulate.cluster import Cluster
from meshq.simulate.traces import Trace

REVERSED_WITHIN = 600.0
"""Seconds: a change in the other direction so soon after the last is a reversal."""
DEMAND_EVERY = 30
"""Seconds over which arriving work is averaged, to say how many replicas it would have kept busy."""


class Change(NamedTuple):
    at: float
    replicas: int


class Point(NamedTuple):
    """For the plots."""

    at: float
    replicas: int
    ready: int
    waiting: int


@dataclass(frozen=True, slots=True)
class Outcome:
    trace: str
    controller: str
    messages: int
    """That came into the queue, retries among them."""
    missed: float
    """Percent of them that waited longer than the target."""
    p50: float
    """Seconds of waiting."""
    p99: float
    pod_seconds: float
    """From the order of each replica to its end."""
    over_bound: float | None
    """`pod_seconds` over those of replicas that are always busy; None: there is no work."""
    under: float
    """Replica-seconds that were missing while arriving work would have kept more busy, per replica-second of that work."""
    over: float
    """Replica-seconds that were there beyond that."""
    reversals: float
    """An hour."""
    moved: int
    """Replicas ordered and ended."""
    killed: int
    """Messages that were worked on when a replica's grace was over."""
    first_useful: float | None
    """Seconds from the rise of load to the first new replica's first message, the worst of the trace; None: no rise, or none came."""
    cold_starts: int
    """Times that it went up from zero."""
    points: tuple[Point, ...]


def outcome(
    trace: Trace, controller: str, cluster: Cluster, changes: Sequence[Change], points: Sequence[Point]
) -> Outcome:
    """Of a cluster that is closed. `changes` begins with what was there at the start; `points` come every second."""
    waits = sorted(cluster.waits)
    bound = trace.work / trace.slots
    under, over = _provision(trace, points)
    return Outcome(
        trace=trace.name,
        controller=controller,
        messages=len(waits),
        missed=100 * sum(wait > trace.policy.wait for wait in waits) / len(waits) if waits else 0.0,
        p50=_quantile(waits, 0.5),
        p99=_quantile(waits, 0.99),
        pod_seconds=cluster.pod_seconds,
        over_bound=cluster.pod_seconds / bound if bound else None,
        under=under / bound if bound else 0.0,
        over=over / bound if bound else 0.0,
        reversals=reversals(changes) * 3600 / trace.lasts,
        moved=sum(abs(now.replicas - last.replicas) for last, now in itertools.pairwise(changes)),
        killed=cluster.killed,
        first_useful=_first_useful(trace.steps, cluster.starts),
        cold_starts=sum(last.replicas == 0 for last in changes[:-1]),
        points=tuple(points[::5]),
    )


def reversals(changes: Sequence[Change]) -> int:
    """Changes up so soon after one down, or down after one up."""
    found = 0
    last_up: bool | None = None
    last_at = -math.inf
    for before, now in itertools.pairwise(changes):
        up = now.replicas > before.replicas
        found += last_up is not None and up is not last_up and now.at - last_at <= REVERSED_WITHIN
        last_up, last_at = up, now.at
    return found


def _quantile(ordered: Sequence[float], part: float) -> float:
    """The nearest rank."""
    return ordered[max(0, math.ceil(part * len(ordered)) - 1)] if ordered else 0.0


def _provision(trace: Trace, points: Sequence[Point]) -> tuple[float, float]:
    """Replica-seconds missing, and beyond need."""
    demand = [0.0] * (math.ceil(trace.lasts / DEMAND_EVERY) + 1)
    for at, service in trace.arrivals:
        demand[int(at // DEMAND_EVERY)] += service / trace.slots / DEMAND_EVERY
    differences = [point.ready - demand[int(point.at // DEMAND_EVERY)] for point in points]
    return -sum(each for each in differences if each < 0), sum(each for each in differences if each > 0)


def _first_useful(steps: Sequence[float], starts: Sequence[float]) -> float | None:
    found = [min((start - step for start in starts if start > step), default=None) for step in steps]
    known = [each for each in found if each is not None]
    return max(known) if known else None
