"""Signals as people and scripts see them: the JSON of `meshq scale status` and `meshq scale explain`. camelCase keys; what is not
known is None, never 0."""

import math
from typing import Any

from meshq.core.scaling_policy import policy_as_json
from meshq.core.scaling_values import Sample
from meshq.core.views import timestamp
from meshq.signals.figures import Signal
from meshq.signals.known import ARRIVAL_RATE, OLDEST_AGE, SERVICE_SECONDS, term


def status(signal: Signal) -> dict[str, Any]:
    """INTERFACE part 9. `desired` of stale figures is what stays there."""
    sample, decision = signal.sample, signal.decision
    return {
        "service": signal.service,
        "version": signal.version,
        "topic": signal.topic,
        "replicas": sample.replicas,
        "desired": decision.desired,
        "reason": decision.reason,
        "ready": sample.waiting,
        "inFlight": sample.in_flight,
        "arrivalRate": _rounded(term(signal, ARRIVAL_RATE)),
        "serviceSeconds": _rounded(term(signal, SERVICE_SECONDS), 6),
        "oldestAgeSeconds": _rounded(term(signal, OLDEST_AGE)),
        "stale": decision.stale,
    }


def explain(signal: Signal) -> dict[str, Any]:
    """`status`, and what it was decided by. `oldestAgeIsBound`: it is at most
    so old, because waited calls wait too, which others overtake that expire. `countedAt` is when the broker counted, `reportedAt` when the first of the instances'
    reports in it was made. `counts` are sums since some start, for who looks twice; they may begin anew."""
    sample, decision = signal.sample, signal.decision
    return {
        **status(signal),
        "held": decision.held,
        "oldestAgeIsBound": sample.age_is_bound,
        "policy": policy_as_json(signal.policy),
        "counts": _counts(sample),
        "terms": {name: _rounded(value, 6) for name, value in decision.terms.items()},
        "decidedAt": timestamp(signal.at_ms),
        "countedAt": _date(signal, sample.counted_at),
        "reportedAt": _date(signal, sample.reported_at),
    }


def _counts(sample: Sample) -> dict[str, float | None]:
    """`arrived`: what left, and what is there. The rest is of what instances reported."""
    known = None if sample.counted_at is None else (sample.done, sample.waiting, sample.in_flight)
    return {
        "arrived": None if known is None or None in known else sum(each or 0 for each in known),
        "handled": sample.handled,
        "busySeconds": sample.busy,
        "busySquares": sample.busy_squares,
        "failed": sample.failed,
    }


def _date(signal: Signal, at: float | None) -> str | None:
    """A time of the sample, of which only the distance to the others says anything."""
    return None if at is None else timestamp(signal.at_ms - round((signal.sample.at - at) * 1000))


def _rounded(value: float | None, digits: int = 3) -> float | None:
    """None also for what JSON has no word for."""
    return None if value is None or not math.isfinite(value) else round(value, digits)
