"""The gauges of `/metrics`, and what they show of one signal. What is not known has no series: Prometheus, and who asks it, would take
a 0 for one."""

import math
from collections.abc import Iterator, Mapping

from meshq.signals.figures import Signal, Signals
from meshq.signals.known import ARRIVAL_RATE, OLDEST_AGE, SERVICE_SECONDS, desired, term

LABELS = ("service", "version", "topic")

GAUGES = {
    "desired_replicas": "Replicas that there should be; absent while that is not known",
    "replicas": "Instances that are there or were ordered",
    "ready_messages": "Messages that wait in its queues",
    "in_flight_messages": "Messages that were handed out and are not settled",
    "arrival_rate": "Messages that come in a second",
    "service_seconds": "What the app takes for a message",
    "oldest_age_seconds": "How long the oldest message has waited",
    "signal_stale": "1 while figures are missing or too old; all others of the topic are absent then",
}
"""Name, without its prefix -> what it shows."""


def labels(signal: Signal) -> tuple[str, str, str]:
    """Values of LABELS. The version is the major, so that a series and a selector outlive a new release."""
    return signal.service, str(signal.major), signal.topic


def rows(signals: Signals) -> Iterator[tuple[tuple[str, ...], Mapping[str, float]]]:
    """Labels, and what is known by name of the gauge, of every topic."""
    for signal in signals.all():
        yield labels(signal), values(signal)


def values(signal: Signal) -> dict[str, float]:
    if signal.decision.stale:
        return {"signal_stale": 1.0}
    sample = signal.sample
    all_there_is = {
        "desired_replicas": desired(signal),
        "replicas": sample.replicas,
        "ready_messages": sample.waiting,
        "in_flight_messages": sample.in_flight,
        "arrival_rate": term(signal, ARRIVAL_RATE),
        "service_seconds": term(signal, SERVICE_SECONDS),
        "oldest_age_seconds": term(signal, OLDEST_AGE),
        "signal_stale": 0.0,
    }
    return {name: float(value) for name, value in all_there_is.items() if value is not None and math.isfinite(value)}
