"""What one message takes: true processing time, never throughput, which the number of replicas would change (DS2, OSDI 2018)."""

import itertools
import math
from dataclasses import replace

from meshq.core.scaling_memory import Effort
from meshq.core.scaling_values import Sample

FORGOTTEN = 60.0
"""Seconds after which a message counts for 1/e, unless fewer than FEW are known."""
FEW = 20.0
AT_FIRST = 50.0
"""Messages' worth of a history that began before the first sample."""
SLOWER_WITHIN = 10.0
"""Seconds over which it is looked whether messages take longer than they did, and..."""
SURPRISE = 3.0
"""...standard deviations of a Poisson process by which fewer are settled then."""
MOST_SLOWER = 5.0
"""Beyond, an app rather hangs than works, and more of it would hang too."""
SHORTEST = 1e-4
"""Seconds: no app answers sooner, and a clock that says 0 must not make a replica infinitely fast."""


def learnt(effort: Effort, before: Sample | None, sample: Sample) -> Effort:
    """With one more sample. Where nobody reported, or a counter began anew, nothing is learnt."""
    if sample.handled is None or sample.busy is None:
        return _stuck(effort, sample)
    if before is None or before.handled is None or before.busy is None:
        if effort.messages > 0:
            return effort
        share = min(1.0, AT_FIRST / sample.handled) if sample.handled > 0 else 0.0
        return _stuck(_with(Effort(), sample, 0.0, None, share), sample)
    if sample.handled < before.handled or sample.busy < before.busy:
        return effort
    kept = 1.0
    if effort.messages > FEW:
        kept = max(FEW / effort.messages, math.exp(-max(0.0, sample.at - before.at) / FORGOTTEN))
    return _stuck(_with(effort, sample, kept, before, 1.0), sample)


def watched(effort: Effort, sample: Sample) -> Effort:
    """With how many are worked on, and were settled, while all instances are busy: else the first says little about the second."""
    if sample.done is None or not sample.waiting:
        return replace(effort, recent=())
    at_work = min(float(sample.in_flight or 0), (sample.slots or 1.0) * (sample.ready or 0))
    kept = [each for each in effort.recent if each[0] >= sample.at - 2 * SLOWER_WITHIN]
    return replace(effort, recent=(*kept, (sample.at, at_work, sample.done)))


def _slower(effort: Effort, usual: float) -> float:
    """Seconds that a message takes now: `usual`, unless so few were settled of those worked on in the last seconds that it must be
    more (Little's law). The mean over those that were settled would show it only once they are."""
    recent = [each for each in effort.recent if each[0] >= effort.recent[-1][0] - SLOWER_WITHIN]
    if len(recent) < 3:
        return usual
    seconds, settled = recent[-1][0] - recent[0][0], recent[-1][2] - recent[0][2]
    at_work = sum(min(then[1], now[1]) * (now[0] - then[0]) for then, now in itertools.pairwise(recent))
    expected = at_work / usual
    if expected <= 0 or (expected - settled) / math.sqrt(max(1.0, expected)) < SURPRISE or seconds <= 0:
        return usual
    return min(MOST_SLOWER * usual, at_work / max(1.0, settled))


def _with(effort: Effort, sample: Sample, kept: float, before: Sample | None, share: float) -> Effort:
    def more(name: str) -> float:
        now, then = getattr(sample, name), 0.0 if before is None else getattr(before, name)
        return 0.0 if now is None or then is None else max(0.0, now - then) * share

    return Effort(
        effort.messages * kept + more("handled"),
        effort.busy * kept + more("busy"),
        effort.squares * kept + more("busy_squares"),
        effort.failed * kept + more("failed"),
        effort.stuck_since,
        effort.recent,
    )


def _stuck(effort: Effort, sample: Sample) -> Effort:
    if effort.messages > 0 or not sample.in_flight:
        return replace(effort, stuck_since=None)
    return effort if effort.stuck_since is not None else replace(effort, stuck_since=sample.at)


def service_seconds(effort: Effort, now: float) -> float | None:
    """Seconds of work a message, on average; None where nothing was handled and nothing is being. Of a first message that is still
    worked on, as long as it has taken."""
    if effort.messages > 0:
        return _slower(effort, max(SHORTEST, effort.busy / effort.messages))
    return None if effort.stuck_since is None or now <= effort.stuck_since else now - effort.stuck_since


def variation(effort: Effort) -> float:
    """The squared coefficient of variation of the service time; 1, as of an exponential distribution, where it is not known."""
    if effort.messages < FEW / 2 or effort.busy < SHORTEST * effort.messages or effort.squares <= 0:
        return 1.0
    mean = effort.busy / effort.messages
    return min(10.0, max(0.0, effort.squares / effort.messages / mean**2 - 1.0))


def failing(effort: Effort) -> float:
    """The part of messages that fail."""
    return effort.failed / effort.messages if effort.messages > 0 else 0.0
