"""What holds of every scaling decision (statement A1), and the oldest age of queues that are simulated message by message (A3)."""

import math
from dataclasses import replace
from typing import Any, NamedTuple

from hypothesis import given
from hypothesis import strategies as st

from meshq.core.scaling import advance, desired
from meshq.core.scaling_arrivals import counted, oldest_age
from meshq.core.scaling_memory import REMEMBERED, START, Arrivals, Memory
from meshq.core.scaling_terms import Needs, Work, drain, flow
from meshq.core.scaling_values import EVERY, Decision, Sample, ScalingPolicy
from tests.scaling_group import BEGIN, NO_COUNTS, NO_REGISTRY, NO_REPORTS, NOTHING

# --- the terms ------------------------------------------------------------------------------------------------------------------

works = st.builds(
    Work,
    rate=st.sampled_from([0.0, 1e-9, 0.01, 0.5, 7.0, 300.0, 1e5]),
    service=st.sampled_from([1e-4, 0.003, 0.1, 2.0, 11.0, 90.0, 1e4]),
    variation=st.sampled_from([0.0, 0.5, 1.0, 10.0]),
    slots=st.sampled_from([1.0, 2.5, 16.0]),
    waiting=st.sampled_from([0.0, 1.0, 40.0, 1e4, 1e8]),
    at_work=st.sampled_from([0.0, 1.0, 50.0]),
    age=st.sampled_from([0.0, 3.0, 9.9, 10.0, 55.0, 1e5]),
    ready=st.sampled_from([0.0, 1.0, 20.0, 10_000.0]),
    pending=st.sampled_from([0.0, 3.0]),
    lead=st.sampled_from([EVERY, 12.0, 100.0]),
    wait=st.sampled_from([0.001, 1.0, 10.0, 60.0, 86_400.0]),
    quantile=st.sampled_from([0.001, 0.5, 0.95, 0.9999]),
)
times_more = st.sampled_from([1.0, 1.01, 1.5, 10.0, 1e4])


def needed(work: Work) -> int:
    return Needs(flow(work), drain(work), 0).most


@given(works, times_more)
def test_more_messages_a_second_never_need_fewer(work: Work, times: float) -> None:
    more = work._replace(rate=work.rate * times)
    assert flow(more) >= flow(work) >= 0
    assert needed(more) >= needed(work)


@given(works, times_more)
def test_more_waiting_messages_never_need_fewer(work: Work, times: float) -> None:
    assert drain(work._replace(waiting=work.waiting * times)) >= drain(work) >= 0


@given(works, times_more)
def test_longer_work_never_needs_fewer(work: Work, times: float) -> None:
    longer = work._replace(service=work.service * times)
    assert flow(longer) >= flow(work)
    if (longer.service > work.lead) == (work.service > work.lead):  # from there on another rule counts slots
        assert drain(longer) >= drain(work)


@given(works)
def test_replicas_that_are_there_never_need_more(work: Work) -> None:
    assert drain(work._replace(ready=work.ready + 5.0)) <= drain(work)
    assert drain(work._replace(pending=work.pending + 5.0)) <= drain(work)


# --- whole stories --------------------------------------------------------------------------------------------------------------


class Step(NamedTuple):
    """What happened within an interval, and which figures a look at its end did not get."""

    came: int
    done: int
    fails: float
    seconds: float
    """Of work a message."""
    after: float
    lacks: dict[str, Any]
    spooled: int
    single: bool
    begins_anew: bool
    """All counters do."""


ANYTHING = (
    "counted_at", "waiting", "in_flight", "done", "reported_at", "replicas", "ready", "slots", "busy", "busy_squares", "handled",
    "failed", "lead", "oldest_call",
)  # fmt: skip
lacking = st.one_of(
    st.just({}),
    st.just({}),
    st.sampled_from([NO_COUNTS, NO_REPORTS, NO_REGISTRY, {**NO_COUNTS, **NO_REGISTRY}]),
    st.sets(st.sampled_from(ANYTHING)).map(lambda names: dict.fromkeys(names)),
)


def steps(lacks: st.SearchStrategy[dict[str, Any]] = lacking) -> st.SearchStrategy[list[Step]]:
    one = st.builds(
        Step,
        came=st.sampled_from([0, 0, 1, 30, 5000, 10**12]),
        done=st.sampled_from([0, 0, 1, 30, 5000, 10**9]),
        fails=st.sampled_from([0.0, 0.0, 0.5, 1.0]),
        seconds=st.sampled_from([0.0, 1e-9, 0.05, 8.0, 3600.0]),
        after=st.sampled_from([EVERY, EVERY, 4.9, 0.0, 60.0, 2000.0]),
        lacks=lacks,
        spooled=st.sampled_from([0, 0, 7]),
        single=st.sampled_from([False, False, False, True]),
        begins_anew=st.sampled_from([False] * 9 + [True]),
    )
    several = st.tuples(one, st.sampled_from([1, 1, 3, 40])).map(lambda pair: [pair[0]] * pair[1])
    return st.lists(several, max_size=12).map(lambda parts: [step for part in parts for step in part])


policies = st.builds(
    lambda least, more, **other: ScalingPolicy(min=least, max=max(1, least + more), **other),
    st.sampled_from([0, 0, 1, 40]),
    st.sampled_from([0, 3, 10_000]),
    wait=st.sampled_from([0.001, 10.0, 86_400.0]),
    quantile=st.sampled_from([0.001, 0.95, 0.9999]),
    lead=st.sampled_from([None, 0.0, 300.0]),
    idle=st.sampled_from([None, 0.0, 30.0]),
    stabilization=st.sampled_from([None, 0.0, 60.0, 86_400.0]),
)


class Story:
    """The group of the steps so far. As many replicas are there as were decided last, unless `replicas` says how many."""

    def __init__(self, policy: ScalingPolicy, replicas: int) -> None:
        self.policy = policy
        self.memory: Memory = START
        self.decision: Decision | None = None
        self.sample = replace(NOTHING, replicas=replicas, ready=replicas)
        self.told: list[Sample] = []

    def take(self, step: Step) -> Decision:
        last = self.sample
        at = last.at + step.after
        done = min(step.done, (last.waiting or 0) + step.came)
        in_flight = min(5, (last.waiting or 0) + step.came - done)
        replicas = last.replicas if self.memory.desired is None else self.memory.desired

        def total(counter: float | None, more: float) -> float:
            return (0.0 if step.begins_anew else counter or 0.0) + more

        self.sample = replace(
            last,
            at=at,
            counted_at=at,
            waiting=(last.waiting or 0) + (last.in_flight or 0) + step.came - done - in_flight,
            in_flight=in_flight,
            done=total(last.done, done),
            reported_at=at,
            replicas=replicas,
            ready=replicas,
            busy=total(last.busy, done * step.seconds),
            busy_squares=total(last.busy_squares, done * step.seconds**2),
            handled=total(last.handled, done),
            failed=total(last.failed, done * step.fails),
            spooled=step.spooled,
            single=step.single,
        )
        return self.tell(replace(self.sample, **step.lacks))

    def tell(self, sample: Sample) -> Decision:
        self.told.append(sample)
        self.memory, self.decision = advance(self.memory, sample, self.policy)
        return self.decision


def most(policy: ScalingPolicy, sample: Sample) -> int:
    return min(policy.max, 1) if sample.single else policy.max


@given(steps(), policies, st.sampled_from([0, 1, 30]))
def test_every_decision_keeps_to_the_policy_and_makes_sense(
    story: list[Step], policy: ScalingPolicy, replicas: int
) -> None:
    group = Story(policy, replicas)
    for step in story:
        before = group.memory.desired
        told = group.take(step)
        sample = group.told[-1]
        assert all(value is None or math.isfinite(value) for value in told.terms.values())
        assert told.reason
        if told.desired is None:
            assert told.stale
            assert before is None
            assert sample.replicas is None
            continue
        assert min(policy.min, most(policy, sample)) <= told.desired <= most(policy, sample)
        if told.stale:
            there = max(each for each in (before, sample.replicas) if each is not None)
            assert told.desired >= min(there, most(policy, sample))
    assert desired(group.told, policy) == (group.decision or desired([], policy)), "the same history, the same decision"


ESSENTIAL = (
    "counted_at", "waiting", "in_flight", "done", "reported_at", "replicas", "ready", "busy", "handled",
)  # fmt: skip


@given(
    steps(st.just({})),
    policies,
    st.sampled_from([1, 30]),
    st.sets(st.sampled_from(ESSENTIAL), min_size=1),
    st.sampled_from([EVERY, 60.0, 2000.0]),
)
def test_what_is_not_known_never_takes_anything_away(
    story: list[Step], policy: ScalingPolicy, replicas: int, missing: set[str], after: float
) -> None:
    group = Story(policy, replicas)
    for step in story:
        group.take(step)
    before = group.memory.desired or 0
    last = replace(group.sample, replicas=max(1, before), ready=max(1, before), single=False)
    for number in (1, 2, 3):
        at = last.at + number * after
        known = {"at": at, "counted_at": at, "reported_at": at}
        lacks: dict[str, Any] = {**known, **dict.fromkeys(missing)}
        assert (group.tell(replace(last, **lacks)).desired or 0) >= min(before, policy.max)


# --- the oldest age -------------------------------------------------------------------------------------------------------------


class Phase(NamedTuple):
    """Of a queue: so many seconds, so many messages a second that come, and that are done while there are any; 0: a pause."""

    seconds: int
    comes: float
    leaves: float


phases = st.lists(
    st.builds(
        Phase,
        st.integers(5, 300),
        st.sampled_from([0.0, 0.05, 0.7, 5.0, 40.0]),
        st.sampled_from([0.0, 0.0, 0.3, 6.0, 60.0]),
    ),
    min_size=1,
    max_size=8,
)


@given(phases, st.integers(0, 200), st.sampled_from([set(), {2}, {3, 4, 5}]))
def test_the_oldest_age_is_told_to_within_two_intervals_or_five_percent(
    story: list[Phase], there_before: int, not_counted: set[int]
) -> None:
    """`not_counted`: in these looks of every ten, nobody knew how many were done."""
    came, taken, arrivals, now = [BEGIN] * there_before, 0, Arrivals(), BEGIN
    comes = leaves = 0.0
    for phase in story:
        for _ in range(phase.seconds):
            if (now - BEGIN) % EVERY == 0:
                known = (now - BEGIN) // EVERY % 10 not in not_counted
                waiting = len(came) - taken
                done = float(taken) if known else None
                arrivals = counted(arrivals, replace(NOTHING, at=now, counted_at=now, waiting=waiting, done=done))
                if known:
                    interval = EVERY * (1 + len(not_counted))
                    _check(arrivals, waiting, now, came[taken] if waiting else now, 2 * interval)
            now += 1.0
            comes += phase.comes
            came += [now] * int(comes)
            comes -= int(comes)
            leaves = min(leaves + phase.leaves, phase.leaves + 1)
            taken, leaves = min(len(came), taken + int(leaves)), leaves - int(leaves)


def _check(arrivals: Arrivals, waiting: int, now: float, came: float, slack: float) -> None:
    told, true = oldest_age(arrivals, waiting, now), now - came
    if told is None:
        assert came == BEGIN or true >= REMEMBERED - slack, (
            "it is from before the first look, or older than what is remembered"
        )
    else:
        assert abs(told - true) <= max(slack, 0.05 * true)
