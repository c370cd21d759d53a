"""What may be told of a signal: what is stale or not known is no figure, and never 0 (KEDA issue 7180)."""

from meshq.core.names import topic
from meshq.signals.figures import Signal, Signals

ARRIVAL_RATE = "arrivalRate"
SERVICE_SECONDS = "serviceSeconds"
OLDEST_AGE = "oldestAgeSeconds"
"""Names of terms of a Decision."""

NEVER_SEEN = "nothing is known of it: no instance of it was registered and it has no queue, or it was not looked at yet"


def desired(signal: Signal) -> int | None:
    """Replicas; None where nobody should act on what is known."""
    return None if signal.decision.stale else signal.decision.desired


def term(signal: Signal, name: str) -> float | None:
    return signal.decision.terms.get(name)


def why_unknown(signals: Signals, signal: Signal) -> str:
    """Why it has no `desired`."""
    return ". ".join(part for part in (f"{signal.topic}: {signal.decision.reason}", signals.fault) if part)


def why_missing(signals: Signals, service: str, major: int | None) -> str:
    """Why there is no signal at all of a service, or of one major of it."""
    what = service if major is None else topic(service, major)
    if signals.fault:
        return f"{what}: {signals.fault}"
    others = ", ".join(str(signal.major) for signal in signals.of_service(service))
    return f"{what}: {NEVER_SEEN}" + (f"; {service} has majors {others}" if others else "")
