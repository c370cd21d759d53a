"""How many replicas a version of a service should have: a pure function of what was counted and what is wanted.

`advance` takes one more sample, and reads in order: what is known, what the work needs, how far to go towards it. `desired` does so for
a whole history. The terms are in scaling_terms, rates and ages in scaling_arrivals, what a message takes in scaling_effort, what is
remembered in scaling_memory, the words in scaling_words.
"""

import math
from collections.abc import Iterable
from dataclasses import replace

from meshq.core import scaling_terms as terms
from meshq.core import scaling_words as words
from meshq.core.scaling_arrivals import counted, expected_rate, growing_rate, oldest_age
from meshq.core.scaling_effort import failing, learnt, service_seconds, variation, watched
from meshq.core.scaling_growth import grown, is_saturated
from meshq.core.scaling_memory import START, Memory
from meshq.core.scaling_terms import Needs, Work
from meshq.core.scaling_values import DEFAULT_LEAD, EVERY, STALE_AFTER, Decision, Sample, ScalingPolicy

STABILIZATION = 300.0
"""Seconds, or twice the lead if that is more: what was needed within them is needed still."""
DRAINED = 60.0
"""The same, or twice the lead, of what works off a backlog."""
REGRET = 600.0
"""Seconds: more replicas so soon after fewer were one change too many in each direction..."""
MOST_PATIENT = 3.0
"""...and make needs be remembered longer, up to so many times..."""
FORGIVEN = 1800.0
"""...until nothing was regretted for so many seconds."""
STEP_DOWN = 0.5
STEP_EVERY = 15.0
"""At most this part of the replicas, and at least one, goes within so many seconds."""
WORTH = 0.10
"""A change of a smaller part is not worth it."""
BLIND = 120.0
"""Seconds for which a trend is believed while nothing is counted."""
FAILING = 0.20
"""Where more than this part of the messages fails, more replicas only make more failures."""
MORE_WHILE_FAILING = 1.5
"""...but what comes again has to be worked off too: by so many times what keeps up with it at most."""
LONG_WORK = 5.0
"""Seconds of service time from which messages at work hold their replicas."""
IDLE = 180.0
"""Seconds without work before the last replica goes, or the time of ten messages if that is more. KEDA's cooldownPeriod of 300 s begins
anew only with a message that one of its looks, every 30 s, happens to find."""
IDLE_SERVICES = 10.0


def desired(history: Iterable[Sample], policy: ScalingPolicy) -> Decision:
    """Of samples, the oldest first. Of none it is not known."""
    memory, decision = START, words.NOTHING_YET
    for sample in history:
        memory, decision = advance(memory, sample, policy)
    return decision


def woken(memory: Memory, at: float, policy: ScalingPolicy) -> tuple[Memory, Decision]:
    """Somebody sends to it while it has no replicas: one comes at once, and what else there is to do will be counted."""
    number = min(policy.max, max(memory.desired or 0, policy.min, 1))
    memory = replace(memory, desired=number, busy_at=max(at, memory.busy_at or at))
    return memory, words.woken(number)


def advance(memory: Memory, sample: Sample, policy: ScalingPolicy) -> tuple[Memory, Decision]:
    """The decision with one more sample, and what is to be remembered for the next. Raises nothing: a figure that is missing or makes
    no sense leaves things as they are."""
    if not _counts_are_known(sample):
        return _held(memory, sample, policy)
    if sample.slots is None and memory.last is not None:
        sample = replace(sample, slots=memory.last.slots)  # those that come will be like those that were there
    memory = _with(memory, sample)
    work = _work(memory, sample, policy)
    needs = _first_needs(sample) if work is None else _needs(work, memory, sample, policy)
    return _decided(memory, sample, policy, work, needs)


# --- what is known ------------------------------------------------------------------------------------------------------------


def _counts_are_known(sample: Sample) -> bool:
    return (
        sample.counted_at is not None
        and sample.at - sample.counted_at <= STALE_AFTER
        and sample.waiting is not None
        and sample.in_flight is not None
    )


def _reports_are_known(sample: Sample) -> bool:
    """What instances say of themselves. Where there is none, there is nothing to say."""
    if sample.replicas is None or sample.ready is None:
        return False
    if sample.ready == 0:
        return True
    if sample.reported_at is None or sample.at - sample.reported_at > STALE_AFTER:
        return False
    return sample.busy is not None and sample.handled is not None


def _grown(memory: Memory, sample: Sample, policy: ScalingPolicy) -> int:
    """Replicas that the trend asks for while nothing is counted; 0 where it asks for none, or is too old."""
    if memory.last is None or sample.at - memory.last.at > BLIND:
        return 0
    rate = growing_rate(memory.arrivals, sample.at, lead(sample, policy))
    work = None if rate is None else _work(memory, replace(memory.last, at=sample.at), policy)
    return 0 if work is None or rate is None else terms.flow(work._replace(rate=rate))


def _there(memory: Memory, sample: Sample) -> int | None:
    """Replicas that are there, and those that were asked for: somebody is starting them. None where neither is known."""
    return max((each for each in (sample.replicas, memory.desired) if each is not None), default=None)


def _with(memory: Memory, sample: Sample) -> Memory:
    busy_at = sample.at if memory.busy_at is None or _was_busy(memory.last, sample) else memory.busy_at
    return replace(
        grown(memory, sample),
        arrivals=counted(memory.arrivals, sample),
        effort=watched(learnt(memory.effort, memory.last, sample), sample),
        last=sample,
        busy_at=busy_at,
        begun_at=sample.at if memory.begun_at is None else memory.begun_at,
    )


def _was_busy(before: Sample | None, sample: Sample) -> bool:
    """There is work, or was since the sample before: short work between two samples shows in `done` alone."""
    if sample.waiting or sample.in_flight or sample.spooled:
        return True
    return sample.done is None or (before is not None and sample.done != before.done)


def lead(sample: Sample, policy: ScalingPolicy) -> float:
    """Seconds from the decision for a replica to its first message."""
    if policy.lead is not None:
        return policy.lead
    return EVERY + (DEFAULT_LEAD if sample.lead is None else sample.lead)


def _work(memory: Memory, sample: Sample, policy: ScalingPolicy) -> Work | None:
    """None while it is not known what a message takes or how many come."""
    ahead = lead(sample, policy)
    rate = expected_rate(memory.arrivals, ahead, policy.wait)
    service = service_seconds(memory.effort, sample.at)
    if rate is None or service is None:
        return None
    slots = max(1.0, sample.slots or 1.0)
    ready = float(sample.ready or 0)
    ordered = _there(memory, sample) or 0
    at_work = min(float(sample.in_flight or 0), slots * max(1.0, ready))
    waiting = float(sample.waiting or 0) + (sample.in_flight or 0) - at_work + sample.spooled
    age = _age(memory, sample)
    return Work(
        rate,
        service,
        variation(memory.effort),
        slots,
        waiting,
        at_work,
        math.inf if age is None else age,
        ready,
        max(0.0, ordered - ready),
        max(EVERY, ahead),
        policy.wait,
        policy.quantile,
    )


def _age(memory: Memory, sample: Sample) -> float | None:
    """Of the oldest message that waits; None where it is older than all that is remembered."""
    age = oldest_age(memory.arrivals, sample.waiting or 0, sample.at)
    if sample.oldest_call is None:
        return age
    return sample.oldest_call if age is None else min(age, sample.oldest_call)


# --- what the work needs --------------------------------------------------------------------------------------------------------


def _first_needs(sample: Sample) -> Needs:
    """One shows what a message takes; those that are there already stay."""
    there = sample.waiting or sample.in_flight or sample.spooled
    return Needs(0, max(1, sample.replicas or 0) if there else 0, 0)


def _needs(work: Work, memory: Memory, sample: Sample, policy: ScalingPolicy) -> Needs:
    flow = terms.flow(work)
    drain = terms.drain(work)
    if _is_failing(memory):
        drain = min(drain, max(flow + 1, math.ceil(MORE_WHILE_FAILING * flow)))
    at_work = math.ceil(work.at_work / work.slots) if work.service >= LONG_WORK else 0
    if work.waiting > 0 or work.at_work > 0:
        flow = max(1, flow)
    elif _is_idle(memory, sample, policy, work.service):
        flow = 0
    return Needs(flow, drain, at_work)


def _is_failing(memory: Memory) -> bool:
    return failing(memory.effort) > FAILING


def _is_idle(memory: Memory, sample: Sample, policy: ScalingPolicy, service: float) -> bool:
    if memory.busy_at is None or memory.busy_at >= sample.at:
        return False
    idle = max(IDLE, IDLE_SERVICES * service) if policy.idle is None else policy.idle
    return sample.at - memory.busy_at >= idle


# --- how far to go ----------------------------------------------------------------------------------------------------------------


def _held(memory: Memory, sample: Sample, policy: ScalingPolicy) -> tuple[Memory, Decision]:
    there = _there(memory, sample)
    if there is None:
        return memory, words.unknown(sample)
    stays = _clamped(max(there, _grown(memory, sample, policy)), sample, policy)
    return replace(memory, desired=stays), words.stale(stays, sample)


def _look_back(sample: Sample, policy: ScalingPolicy) -> float:
    if policy.stabilization is not None:
        return policy.stabilization
    return max(STABILIZATION, 2 * lead(sample, policy))


def _clamped(number: int, sample: Sample, policy: ScalingPolicy) -> int:
    most = min(policy.max, 1) if sample.single else policy.max
    return max(min(policy.min, most), min(number, most))


def _decided(
    memory: Memory, sample: Sample, policy: ScalingPolicy, work: Work | None, needs: Needs
) -> tuple[Memory, Decision]:
    known = _reports_are_known(sample)
    there = _there(memory, sample)
    if there is None:
        return memory, words.unknown(sample)
    need = _clamped(needs.most, sample, policy)
    memory = _forgiven(memory, sample)
    look_back = _look_back(sample, policy) * memory.patience
    memory = _noted(memory, sample, policy, needs, look_back)
    limit = _clamped(there, sample, policy)
    if need > there:
        number, held = _up(memory, sample, there, need, needs)
        number = max(number, limit)
    elif not known or sample.done is None:
        number, held = limit, "stale" if need < there else ""
    elif limit < there or need == there:
        number, held = limit, ""
    else:
        number, held = _down(memory, sample, policy, work, there, need, look_back)
    if not held and work is not None and needs.most <= number < terms.drain(work) and _is_failing(memory):
        held = "failing"
    memory = _moved(memory, sample, there, number)
    return memory, words.decided(number, held, sample, policy, work, needs, failing(memory.effort), not known)


def _noted(memory: Memory, sample: Sample, policy: ScalingPolicy, needs: Needs, look_back: float) -> Memory:
    """What was needed: a rate may come again, a backlog that is worked off is over sooner."""
    soon = min(look_back, max(DRAINED, 2 * lead(sample, policy)))
    lasting = _clamped(max(needs.flow, needs.at_work), sample, policy)
    passing = _clamped(needs.drain, sample, policy)
    return replace(
        memory,
        needs=_with_need(memory.needs, sample.at, lasting, look_back),
        backlogs=_with_need(memory.backlogs, sample.at, passing, soon),
    )


def _with_need(
    before: tuple[tuple[float, int], ...], at: float, need: int, seconds: float
) -> tuple[tuple[float, int], ...]:
    """Of the last `seconds`, without what a later need is not below: the first is the largest."""
    return (*(each for each in before if each[0] > at - seconds and each[1] > need), (at, need))


def _moved(memory: Memory, sample: Sample, there: int, number: int) -> Memory:
    if number < there and number != memory.desired:
        return replace(memory, desired=number, lowered_at=sample.at)
    soon = memory.lowered_at is not None and sample.at - memory.lowered_at <= REGRET
    if number <= there or not soon or memory.regretted_at == memory.lowered_at:
        return replace(memory, desired=number)
    patience = min(MOST_PATIENT, memory.patience + 1.0)
    return replace(memory, desired=number, regretted_at=memory.lowered_at, patience=patience)


def _forgiven(memory: Memory, sample: Sample) -> Memory:
    if memory.regretted_at is None or sample.at - memory.regretted_at <= FORGIVEN:
        return memory
    return replace(memory, regretted_at=None, patience=1.0)


def _up(memory: Memory, sample: Sample, there: int, need: int, needs: Needs) -> tuple[int, str]:
    if is_saturated(memory, sample):
        return there, "saturated"
    if there == 0 or max(needs.drain, needs.at_work) > there or need - there >= WORTH * there:
        return need, ""
    return there, "damped"


def _down(
    memory: Memory, sample: Sample, policy: ScalingPolicy, work: Work | None, there: int, need: int, look_back: float
) -> tuple[int, str]:
    if _is_idle(memory, sample, policy, 0.0 if work is None else work.service):
        return need, ""
    if memory.arrivals.slow is None or memory.begun_at is None or memory.begun_at > sample.at - look_back:
        return there, "damped"  # what is remembered does not reach back so far yet
    floor, held = (need, "") if need else (1, "not-idle")
    recently = max(memory.needs[0][1], memory.backlogs[0][1])
    if recently > floor:
        floor, held = recently, "damped"
    if work is not None and floor < there:
        burst = min(policy.max, terms.burst_memory(memory.arrivals, work, policy.max))
        if burst > floor:
            floor, held = burst, "burst-memory"
    if there - floor < max(1.0, WORTH * there):
        return there, held or ("damped" if floor < there else "")
    if memory.lowered_at is not None and sample.at - memory.lowered_at < STEP_EVERY:
        # Those that were to go may be there still.
        return max(floor, min(there, memory.desired or 0)), "damped"
    lowest = there - max(1, math.floor(STEP_DOWN * there))
    return (lowest, "damped") if lowest > floor else (floor, held)
