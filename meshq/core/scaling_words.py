"""Decisions in words, with their terms: what `meshq scale explain` prints."""

import math
from collections.abc import Mapping
from types import MappingProxyType

from meshq.core.scaling_terms import Needs, Work
from meshq.core.scaling_values import Decision, Sample, ScalingPolicy

NOTHING_YET = Decision(None, "nothing was counted yet", stale=True)


def unknown(sample: Sample) -> Decision:
    return Decision(None, f"{_missing(sample)}, and it was not known before either", "stale", True, _figures(sample))


def stale(stays: int, sample: Sample) -> Decision:
    return Decision(stays, f"{_missing(sample)}: what is there stays", "stale", True, _figures(sample))


def woken(number: int) -> Decision:
    return Decision(number, "a message came while there was no replica")


def _missing(sample: Sample) -> str:
    if sample.counted_at is None or sample.waiting is None or sample.in_flight is None:
        return "the broker does not say how many messages there are"
    if sample.replicas is None:
        return "the registry does not say how many instances there are"
    return f"the broker's counts are {sample.at - sample.counted_at:.0f} s old"


def decided(
    number: int,
    held: str,
    sample: Sample,
    policy: ScalingPolicy,
    work: Work | None,
    needs: Needs,
    failing: float,
    stale: bool,
) -> Decision:
    """`number` replicas."""
    held = held or _limit(number, needs.most, sample, policy)
    figures = {
        **_figures(sample),
        "flow": float(needs.flow),
        "drain": float(needs.drain),
        "atWork": float(needs.at_work),
        "failing": failing,
    }
    if work is not None:
        figures |= {
            "arrivalRate": work.rate,
            "serviceSeconds": work.service,
            "variation": work.variation,
            "oldestAgeSeconds": work.age if math.isfinite(work.age) else None,
            "leadSeconds": work.lead,
            "eachRate": work.each,
        }
    said = _because(needs, work, sample)
    if held:
        said = f"{said}; {_GUARDS[held]}"
    return Decision(number, said, held, stale, MappingProxyType(figures))


def _limit(number: int, need: int, sample: Sample, policy: ScalingPolicy) -> str:
    if need > number:
        return "single" if sample.single else "max"
    return "min" if need < number == policy.min else ""


def _figures(sample: Sample) -> Mapping[str, float | None]:
    return {
        "waiting": sample.waiting,
        "inFlight": sample.in_flight,
        "spooled": sample.spooled,
        "replicas": sample.replicas,
        "ready": sample.ready,
        "slots": sample.slots,
        "arrivalRate": None,
        "serviceSeconds": None,
        "oldestAgeSeconds": None,
    }


_GUARDS = {
    "stale": "figures are missing or old, so that nothing goes",
    "failing": "too many messages fail for more replicas to help",
    "saturated": "the replicas added last did not help, so that no more come",
    "damped": "a change waits until it is needed for a while and large enough",
    "burst-memory": "a burst like the last ones could not be met otherwise",
    "not-idle": "it was not idle for long enough to go to zero",
    "max": "the policy allows no more",
    "min": "the policy allows no fewer",
    "single": "its queues have a single active consumer",
}


def _because(needs: Needs, work: Work | None, sample: Sample) -> str:
    there = (sample.waiting or 0) + (sample.in_flight or 0) + sample.spooled
    if work is None:
        if not there:
            return "there is nothing to do"
        is_there = "1 message is" if there == 1 else f"{there} messages are"
        return f"{is_there} there, and what one takes is not known yet"
    if needs.most == 0:
        return "there is nothing to do"
    if needs.drain >= max(needs.flow, needs.at_work):
        return (
            f"{_wait(work)}, the oldest for {_age(work)}, and {_come(work.rate)}: "
            f"{_do(needs.drain, 'work')} off in time what is there"
        )
    if needs.at_work > needs.flow:
        busy = f"{_replicas(needs.at_work)} busy"
        if round(work.at_work) == 1:
            return f"1 message of {work.service:.3g} s keeps {busy}"
        return f"{work.at_work:.0f} messages of {work.service:.3g} s each keep {busy}"
    return (
        f"{_messages(work.rate)} a second of {work.service:.3g} s each, {work.slots:g} at once a replica: "
        f"{_do(needs.flow, 'keep')} up"
    )


def _wait(work: Work) -> str:
    return "1 message waits" if round(work.waiting) == 1 else f"{work.waiting:.0f} messages wait"


def _age(work: Work) -> str:
    return f"{work.age:.1f} s of {work.wait:g} s" if math.isfinite(work.age) else "longer than is remembered"


def _replicas(number: int) -> str:
    return "1 replica" if number == 1 else f"{number} replicas"


def _do(number: int, verb: str) -> str:
    return f"{_replicas(number)} {verb}{'s' if number == 1 else ''}"


def _messages(number: float) -> str:
    return f"{number:.3g} {'message' if f'{number:.3g}' == '1' else 'messages'}"


def _come(rate: float) -> str:
    return f"{rate:.3g} a second {'comes' if f'{rate:.3g}' == '1' else 'come'}"
