"""What one message takes: true processing time, never throughput, which the number of replicas would change (DS2, OSDI 2018)."""

import math
from dataclasses import replace

from meshq.core.scaling_memory import Effort
from meshq.core.scaling_values import Sample

FORGOTTEN = 60.0
"""Seconds after which a message counts for 1/e, unless fewer than FEW are known."""
FEW = 20.0
AT_FIRST = 50.0
"""Messages' worth of a history that began before the first sample."""
SHORTEST = 1e-4
"""Seconds: no app answers sooner, and a clock that says 0 must not make a replica infinitely fast."""


def learnt(effort: Effort, before: Sample | None, sample: Sample) -> Effort:
    """With one more sample. Where nobody reported, or a counter began anew, nothing is learnt."""
    if sample.handled is None or sample.busy is None:
        return _stuck(effort, sample)
    if before is None or before.handled is None or before.busy is None:
        share = min(1.0, AT_FIRST / sample.handled) if sample.handled > 0 else 0.0
        return _stuck(_with(Effort(), sample, 0.0, None, share), sample)
    if sample.handled < before.handled or sample.busy < before.busy:
        return effort
    kept = math.exp(-(sample.at - before.at) / FORGOTTEN) if effort.messages > FEW else 1.0
    return _stuck(_with(effort, sample, kept, before, 1.0), sample)


def _with(effort: Effort, sample: Sample, kept: float, before: Sample | None, share: float) -> Effort:
    def more(name: str) -> float:
        now, then = getattr(sample, name), None if before is None else getattr(before, name)
        return 0.0 if now is None else max(0.0, now - (then or 0.0)) * share

    return Effort(
        effort.messages * kept + more("handled"),
        effort.busy * kept + more("busy"),
        effort.squares * kept + more("busy_squares"),
        effort.failed * kept + more("failed"),
        effort.stuck_since,
    )


def _stuck(effort: Effort, sample: Sample) -> Effort:
    if effort.messages > 0 or not sample.in_flight:
        return replace(effort, stuck_since=None)
    return effort if effort.stuck_since is not None else replace(effort, stuck_since=sample.at)


def service_seconds(effort: Effort, now: float) -> float | None:
    """Seconds of work a message, on average; None where nothing was handled and nothing is being. Of a first message that is still
    worked on, as long as it has taken."""
    if effort.messages > 0:
        return max(SHORTEST, effort.busy / effort.messages)
    return None if effort.stuck_since is None or now <= effort.stuck_since else now - effort.stuck_since


def variation(effort: Effort) -> float:
    """The squared coefficient of variation of the service time; 1, as of an exponential distribution, where it is not known."""
    if effort.messages < FEW / 2 or effort.busy <= 0 or effort.squares <= 0:
        return 1.0
    mean = effort.busy / effort.messages
    return min(10.0, max(0.0, effort.squares / effort.messages / mean**2 - 1.0))


def failing(effort: Effort) -> float:
    """The part of messages that fail."""
    return effort.failed / effort.messages if effort.messages > 0 else 0.0
