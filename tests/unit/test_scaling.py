"""The decision: what is needed, and every guard that holds it back (statement A1)."""

from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest

from meshq.core.scaling import DRAINED, FORGIVEN, IDLE, REGRET, STABILIZATION, STEP_EVERY, advance, desired, woken
from meshq.core.scaling_memory import REMEMBERED, START
from meshq.core.scaling_terms import MOST_USED
from meshq.core.scaling_values import DEFAULT_LEAD, EVERY, STALE_AFTER, Decision, ScalingPolicy
from tests.scaling_group import BEGIN, NO_COUNTS, NO_REGISTRY, NO_REPORTS, NOTHING, Group

BUSY_RATE = 50
"""Messages a second of 0.1 s each: five replicas' work, so that six or seven are needed."""


WIDE = ScalingPolicy(max=100)


def busy(policy: ScalingPolicy = WIDE, replicas: int = 10, seconds: float = 120, **told: Any) -> Group:
    """Replicas that keep up with a steady rate."""
    group = Group(policy, replicas=replicas, ready=replicas, in_flight=5, **told)
    group.pass_time(seconds, done=BUSY_RATE * EVERY)
    return group


def settled() -> Group:
    """As many replicas as a steady rate needs, for long enough that all of it is known."""
    group = Group(WIDE, replicas=7, ready=7)
    group.pass_time(3 * REMEMBERED, done=BUSY_RATE * EVERY, in_flight=5, follows=True)
    return group


def overrun() -> Group:
    """More waits than seven can do, and thirty do no more: something behind them is full."""
    group = busy(ScalingPolicy(max=1000), replicas=7, waiting=5000)
    group.pass_time(12 * EVERY, done=BUSY_RATE * EVERY, replicas=30, ready=30)
    return group


def long(seconds: float) -> dict[str, Any]:
    """A hundred messages that took so long each."""
    return {"handled": 100.0, "busy": 100 * seconds, "busy_squares": 100 * seconds**2}


def held(decision: Decision) -> tuple[int | None, str]:
    return decision.desired, decision.held


# --- what is known --------------------------------------------------------------------------------------------------------------


def test_of_no_sample_nothing_is_known() -> None:
    assert desired([], ScalingPolicy()) == Decision(None, "nothing was counted yet", stale=True)


def test_a_history_is_decided_as_its_samples_one_after_the_other() -> None:
    samples = [replace(NOTHING, at=BEGIN + n * EVERY, counted_at=BEGIN + n * EVERY, waiting=n * 40) for n in range(9)]
    memory = START
    for sample in samples:
        memory, decision = advance(memory, sample, ScalingPolicy())
    assert desired(samples, ScalingPolicy()) == decision
    assert desired(iter(samples), ScalingPolicy()) == decision


@pytest.mark.parametrize(
    "lacks",
    [
        NO_COUNTS,
        {"waiting": None},
        {"in_flight": None},
        {"counted_at": BEGIN},
        NO_REGISTRY,
        {"ready": None},
        NO_REPORTS,
        {"reported_at": BEGIN},
        {"busy": None},
        {"handled": None},
    ],
)
def test_what_is_missing_or_old_takes_nothing_away(lacks: dict[str, Any]) -> None:
    group = busy(replicas=10, seconds=STABILIZATION - 60)
    for _ in range(100):
        told = group.look(lacks=lacks)
        assert (told.desired, told.stale, told.held) == (10, True, "stale")
    assert (group.pass_time(STABILIZATION + 60).desired or 0) < 10, "it goes on once it is known again"


def test_old_is_what_three_looks_did_not_renew() -> None:
    group = busy()
    age = replace(group.sample, at=group.sample.at + STALE_AFTER)
    assert not advance(group.memory, age, group.policy)[1].stale
    assert advance(group.memory, replace(age, at=age.at + 0.1), group.policy)[1].stale


def test_a_rate_that_nobody_knows_takes_nothing_away_and_still_adds() -> None:
    group = busy(replicas=10, seconds=60)
    for _ in range(200):
        told = group.look(lacks={"done": None})
        assert held(told) == (10, "stale")
        assert not told.stale, "what it says may be done"
    assert (group.look(lacks={"done": None}, waiting=100_000).desired or 0) > 10


def test_old_reports_do_not_keep_more_from_coming() -> None:
    group = busy(replicas=10)
    told = group.look(lacks=NO_REGISTRY, waiting=100_000)
    assert (told.desired or 0) > 10
    assert told.stale


def test_nothing_known_at_all_is_said_so() -> None:
    group = Group(**NO_COUNTS, **NO_REGISTRY)
    assert held(group.decision) == (None, "stale")
    group = Group(**NO_REGISTRY)
    assert held(group.decision) == (None, "stale")
    assert Group(**NO_COUNTS, replicas=4).desired == 4, "it stays"


def test_a_counter_that_begins_anew_changes_nothing() -> None:
    group = settled()
    before = group.desired
    again = group.look(done=BUSY_RATE * EVERY, lacks={"done": 3.0, "handled": 3.0, "busy": 0.3, "busy_squares": 0.03})
    assert again.desired == before
    assert again.terms["arrivalRate"] == pytest.approx(BUSY_RATE)
    assert again.terms["serviceSeconds"] == pytest.approx(0.1)


# --- up -------------------------------------------------------------------------------------------------------------------------


def test_a_cold_start_from_nothing() -> None:
    group = Group(replicas=0, ready=0)
    assert group.desired == 0
    assert group.look(waiting=1).desired == 1
    assert group.look(waiting=500).desired == 1, "one shows what a message takes"


def test_those_that_come_from_zero_are_taken_to_have_as_many_slots_as_those_that_were_there() -> None:
    """5,000 of 0.05 s: 250 s of work, of which a replica does 16 at once."""
    group = Group(ScalingPolicy(max=50), service=0.05, slots=16.0, in_flight=8)
    group.pass_time(60, done=800)
    group.look(replicas=0, ready=0, slots=None, in_flight=0)
    told = group.look(waiting=5000, replicas=0, ready=0, slots=None)
    assert 2 <= (told.desired or 0) <= 5


def test_a_backlog_is_answered_at_once() -> None:
    group = busy(ScalingPolicy(max=1000), replicas=7)
    told = group.look(done=BUSY_RATE * EVERY, waiting=3000)
    assert (told.desired or 0) >= 20
    assert told.terms["drain"] == told.desired


def test_a_small_change_up_is_not_worth_it() -> None:
    group = Group(WIDE, replicas=40, ready=40, in_flight=33)
    group.pass_time(60, done=345 * EVERY)
    assert group.desired == 40
    told = group.pass_time(300, done=372 * EVERY)
    assert held(told) == (40, "damped")
    assert int(told.terms["flow"] or 0) in (41, 42, 43)


def test_more_do_not_help_where_something_behind_them_is_full() -> None:
    group = overrun()
    before = group.desired or 0
    told = group.look(done=BUSY_RATE * EVERY, waiting=9000)
    assert held(told) == (before, "saturated")
    assert (told.terms["drain"] or 0) > before


def test_failing_messages_are_not_answered_by_more_failures() -> None:
    def told(fails: float) -> Decision:
        group = Group(WIDE, replicas=6, ready=6, in_flight=5, waiting=3000)
        return group.look(done=BUSY_RATE * EVERY, fails=fails)

    most, some, none = told(0.5), told(0.1), told(0.0)
    assert most.held == "failing"
    assert 6 < (most.desired or 0) <= 9 < (none.desired or 0), "half as many again work off what comes again"
    assert most.terms["failing"] == 0.5
    assert held(some) == held(none)


def test_long_work_holds_its_replicas() -> None:
    """Each of six has one message of ten minutes; none came for half of that."""
    group = Group(replicas=6, ready=6, in_flight=6, **long(600.0))
    told = group.pass_time(300)
    assert held(told) == (6, "")
    assert told.terms["atWork"] == 6
    assert told.terms["flow"] == 1
    assert group.look(in_flight=2, done=4).terms["atWork"] == 2


def test_long_work_is_counted_in_slots_when_it_waits() -> None:
    """Four at work and six waiting, of ten minutes each, to begin within a minute."""
    group = Group(ScalingPolicy(wait=60.0), replicas=4, ready=4, in_flight=4, waiting=6, **long(600.0))
    assert group.look().desired == 10


# --- limits ---------------------------------------------------------------------------------------------------------------------


def test_no_more_than_the_most() -> None:
    group = busy(ScalingPolicy(max=8), replicas=8)
    assert held(group.look(done=BUSY_RATE * EVERY, waiting=10_000)) == (8, "max")


def test_no_fewer_than_the_least() -> None:
    group = Group(ScalingPolicy(min=3), replicas=3, ready=3)
    assert held(group.pass_time(2 * IDLE)) == (3, "min")
    assert held(Group(ScalingPolicy(min=3), replicas=0, ready=0).decision) == (3, "min")


def test_one_consumer_at_a_time_is_one_replica() -> None:
    group = busy(replicas=7, single=True)
    assert held(group.look(done=BUSY_RATE * EVERY, waiting=5000)) == (1, "single")


def test_a_policy_that_changes_holds_at_once() -> None:
    group = busy(WIDE, replicas=10)
    assert group.desired == 10
    group.policy = ScalingPolicy(max=4)
    assert group.look(done=BUSY_RATE * EVERY).desired == 4
    group.policy = ScalingPolicy(min=30, max=100)
    assert group.look(done=BUSY_RATE * EVERY).desired == 30
    group.policy = ScalingPolicy(max=4)
    assert group.look(lacks=NO_COUNTS).desired == 4, "whatever is known"


def test_the_least_is_kept_by_every_guard() -> None:
    saturated = overrun()
    assert saturated.look(done=BUSY_RATE * EVERY, waiting=9000).held == "saturated"
    saturated.policy = ScalingPolicy(min=90, max=100)
    assert saturated.look(done=BUSY_RATE * EVERY).desired == 90
    damped = busy(ScalingPolicy(min=20, max=100), replicas=20)
    damped.policy = ScalingPolicy(min=21, max=100)
    assert damped.look(done=BUSY_RATE * EVERY).desired == 21


# --- down -----------------------------------------------------------------------------------------------------------------------


def test_fewer_wait_until_it_is_known_for_long_enough() -> None:
    group = Group(WIDE, replicas=20, ready=20)
    story = [group.look(done=BUSY_RATE * EVERY, in_flight=5) for _ in range(round(STABILIZATION / EVERY))]
    assert {held(each) for each in story[:-1]} == {(20, "damped")}
    assert (group.look(done=BUSY_RATE * EVERY).desired or 0) < 20


def test_what_was_needed_lately_is_needed_still() -> None:
    group = settled()
    least = group.desired or 0
    peak = group.pass_time(60, done=4 * BUSY_RATE * EVERY, follows=True).desired or 0
    assert peak > least + 5
    told = group.pass_time(STABILIZATION - 60, done=BUSY_RATE * EVERY)
    assert held(told) == (peak, "damped")
    assert (group.pass_time(120, done=BUSY_RATE * EVERY, follows=True).desired or 0) < peak


def test_a_backlog_that_is_worked_off_is_over_sooner() -> None:
    group = settled()
    told = group.look(done=BUSY_RATE * EVERY, waiting=2500)
    drain, flow = round(told.terms["drain"] or 0), round(told.terms["flow"] or 0)
    assert drain > flow > 10
    working_off = {"waiting": 0, "replicas": told.desired, "ready": told.desired}
    told = group.look(done=BUSY_RATE * EVERY + 2500, **working_off)
    assert held(group.pass_time(DRAINED - 2 * EVERY, done=BUSY_RATE * EVERY)) == (told.desired, "damped")
    assert (group.memory.backlogs[0][1], group.memory.needs[0][1]) == (drain, flow)
    group.pass_time(3 * EVERY, done=BUSY_RATE * EVERY)
    assert group.memory.backlogs[0][1] == 0
    assert group.memory.needs[0][1] == flow, "a rate may come again"


def test_an_order_to_go_stands_while_those_that_are_to_go_are_still_there() -> None:
    """Kubernetes looks every 15 s: were the number up again in between, it might never see the lower one."""
    group = busy(replicas=64, seconds=60)
    told = [group.look(done=BUSY_RATE * EVERY) for _ in range(100)]
    first = next(n for n, each in enumerate(told) if (each.desired or 0) < 64)
    assert {each.desired for each in told[first:]} == {32}


def test_half_of_them_go_at_a_time() -> None:
    group, story = busy(replicas=64, seconds=60), [(BEGIN, 64)]
    for _ in range(100):
        told = group.look(done=BUSY_RATE * EVERY, replicas=group.desired, ready=group.desired)
        if told.desired != story[-1][1]:
            story.append((group.sample.at, told.desired or 0))
    assert [number for _, number in story] == [64, 32, 16, 8, 6]
    assert all(after - before >= STEP_EVERY for (before, _), (after, _) in pairwise(story))


def test_a_small_change_down_is_not_worth_it_and_says_so() -> None:
    group = Group(ScalingPolicy(max=100, stabilization=60.0), replicas=40, ready=40)
    told = group.pass_time(600, done=344 * EVERY, in_flight=32)
    assert int(told.terms["flow"] or 0) in (37, 38, 39)
    assert held(told) == (40, "damped")


def test_a_burst_that_comes_again_is_held_for() -> None:
    group = Group(ScalingPolicy(max=60, wait=2.0, stabilization=30.0), replicas=40, ready=40)
    group.pass_time(60, done=10 * EVERY, in_flight=1)
    group.look(done=3000)
    told = group.pass_time(300, done=10 * EVERY, in_flight=1, follows=True)
    assert told.held == "burst-memory"
    assert 20 <= (told.desired or 0) <= 60
    later = group.pass_time(REMEMBERED, done=10 * EVERY, in_flight=1, follows=True)
    assert (later.desired or 0) < 5, "it did not come again"


@pytest.mark.parametrize("stabilization", [REMEMBERED, 3600.0])
def test_needs_are_remembered_for_longer_than_arrivals_are(stabilization: float) -> None:
    group = busy(ScalingPolicy(max=100, stabilization=stabilization), replicas=40, seconds=stabilization - 60)
    assert held(group.decision) == (40, "damped")
    told = group.pass_time(180, done=BUSY_RATE * EVERY, follows=True)
    assert (told.desired or 0) < 20


def test_looks_that_are_not_quite_even_keep_nothing() -> None:
    group = busy(ScalingPolicy(max=100, stabilization=REMEMBERED), replicas=40)
    for number in range(round((REMEMBERED + 120) / EVERY)):
        group.look(done=BUSY_RATE * EVERY, after=EVERY + (0.01, 0.002, 0.03)[number % 3])
    assert (group.desired or 0) < 40


def test_a_regret_makes_needs_last_longer_and_is_forgiven() -> None:
    group = settled()
    assert group.memory.patience == 1.0

    def peak() -> int:
        return group.pass_time(60, done=4 * BUSY_RATE * EVERY, follows=True).desired or 0

    first = peak()
    group.pass_time(STABILIZATION + 120, done=BUSY_RATE * EVERY, follows=True)
    assert (group.desired or 0) < first
    again = peak()
    assert again > 10
    assert group.memory.patience == 2.0
    told = group.pass_time(STABILIZATION + 120, done=BUSY_RATE * EVERY, follows=True)
    assert held(told) == (again, "damped"), "for twice as long"
    assert (group.pass_time(STABILIZATION + 60, done=BUSY_RATE * EVERY, follows=True).desired or 0) < again
    group.pass_time(FORGIVEN, done=BUSY_RATE * EVERY, follows=True)
    assert group.memory.patience == 1.0


def test_more_after_a_long_time_is_nothing_to_regret() -> None:
    group = settled()
    group.look(done=BUSY_RATE * EVERY, waiting=3000)
    group.sample = replace(group.sample, waiting=0)
    group.pass_time(REMEMBERED + STABILIZATION + 60 + REGRET, done=BUSY_RATE * EVERY, follows=True)
    group.look(done=BUSY_RATE * EVERY, waiting=3000)
    assert group.memory.patience == 1.0


def test_what_is_remembered_stays_small() -> None:
    group = Group(ScalingPolicy(max=10_000, stabilization=86_400.0), replicas=1, ready=1)
    for number in range(3000):
        group.look(done=number % 7, waiting=number % 100, in_flight=1)
    memory = group.memory
    assert len(memory.needs) < 100
    assert len(memory.arrivals.times) <= REMEMBERED / EVERY + 2
    assert len(memory.effort.recent) < 10


# --- zero -----------------------------------------------------------------------------------------------------------------------


def test_the_last_goes_only_when_it_is_idle_for_long_enough() -> None:
    group = Group()
    group.look(done=5, in_flight=1)
    group.sample = replace(group.sample, in_flight=0)
    assert group.pass_time(IDLE - EVERY).desired == 1
    assert group.look().desired == 0


def test_it_says_that_it_waits_to_be_idle() -> None:
    assert held(Group(ScalingPolicy(stabilization=0.0)).look()) == (1, "not-idle")


def test_a_service_that_works_between_the_looks_is_not_idle() -> None:
    """One message a second of a few milliseconds: whoever looks every five seconds finds nothing there."""
    group = Group(service=0.005)
    for _ in range(round(3 * IDLE / EVERY)):
        told = group.look(done=5)
        assert told.desired == 1
    assert group.pass_time(IDLE).desired == 0


@pytest.mark.parametrize("there", [{"waiting": 1}, {"in_flight": 1}, {"spooled": 1}])
def test_nothing_may_be_anywhere(there: dict[str, Any]) -> None:
    group = Group(handled=100.0, busy=10.0, busy_squares=1.0)
    assert group.pass_time(3 * IDLE, **there).desired == 1
    group.look(**dict.fromkeys(there, 0))
    assert group.pass_time(IDLE - EVERY).desired == 0


def test_it_is_not_idle_while_nobody_knows() -> None:
    group = Group()
    for lacks in (NO_COUNTS, NO_REGISTRY, NO_REPORTS, {"done": None}):
        for _ in range(round(2 * IDLE / EVERY)):
            assert group.look(lacks=lacks).desired == 1


def test_of_many_replicas_none_is_left_when_it_is_idle() -> None:
    group = busy(replicas=10)
    group.sample = replace(group.sample, in_flight=0)
    assert (group.pass_time(IDLE - EVERY).desired or 0) > 0
    assert group.look().desired == 0


def test_long_work_is_waited_for_longer() -> None:
    group = Group(service=120.0, in_flight=1, **long(120.0))
    group.look(done=1, in_flight=0)
    assert group.pass_time(10 * 120.0 - EVERY).desired == 1
    assert group.look().desired == 0


def test_idle_at_once_is_idle_between_messages_only() -> None:
    group = busy(ScalingPolicy(idle=0.0, max=100), replicas=10)
    assert held(group.look(done=BUSY_RATE * EVERY, in_flight=1)) == (10, "damped"), "it works"
    group.look(in_flight=0)
    assert group.look().desired == 0


def test_without_any_look_back() -> None:
    policy = ScalingPolicy(stabilization=0.0, max=100)
    assert Group(policy, replicas=10, ready=10).desired == 10, "one look says nothing of a rate"
    group = busy(policy, replicas=10)
    assert (group.desired or 0) < 10


# --- a wake ---------------------------------------------------------------------------------------------------------------------


def test_a_wake_orders_one_at_once_which_stays_until_its_message_is_there() -> None:
    group = Group(replicas=0, ready=0)
    group.pass_time(2 * IDLE)
    group.memory, told = woken(group.memory, group.sample.at + 2.0, group.policy)
    assert (told.desired, told.stale) == (1, False)
    assert group.pass_time(IDLE - 2 * EVERY).desired == 1
    assert group.pass_time(3 * EVERY).desired == 0, "none came"


@pytest.mark.parametrize(
    ("before", "policy", "after"),
    [
        (None, ScalingPolicy(), 1),
        (0, ScalingPolicy(), 1),
        (4, ScalingPolicy(), 4),
        (0, ScalingPolicy(min=3), 3),
        (9, ScalingPolicy(max=5), 5),
    ],
)
def test_a_wake_keeps_to_the_policy(before: int | None, policy: ScalingPolicy, after: int) -> None:
    memory, told = woken(replace(START, desired=before), BEGIN, policy)
    assert (told.desired, memory.desired, memory.busy_at) == (after, after, BEGIN)


# --- leads ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("policy", "measured", "lead"),
    [(None, None, DEFAULT_LEAD + EVERY), (None, 40.0, 40.0 + EVERY), (30.0, 40.0, 30.0), (0.0, None, EVERY)],
)
def test_how_long_a_replica_takes(policy: float | None, measured: float | None, lead: float) -> None:
    group = Group(ScalingPolicy(lead=policy), lead=measured)
    assert group.look(done=100, in_flight=1).terms["leadSeconds"] == lead


def test_slow_starts_are_looked_back_upon_for_longer() -> None:
    group = busy(ScalingPolicy(max=100, lead=300.0), replicas=20, seconds=500)
    assert held(group.decision) == (20, "damped")
    assert (group.pass_time(300, done=BUSY_RATE * EVERY).desired or 0) < 20


# --- extremes -------------------------------------------------------------------------------------------------------------------


def test_ten_thousand_replicas() -> None:
    rate = 10_000 * MOST_USED * 10
    group = Group(ScalingPolicy(max=10_000), replicas=9000, ready=9000)
    group.pass_time(60, done=rate * EVERY, in_flight=8500)
    assert group.look(done=rate * EVERY, waiting=10**9).desired == 10_000


def test_a_strict_quantile_and_quick_messages() -> None:
    group = Group(ScalingPolicy(wait=0.001, quantile=0.9999, max=10_000), service=1e-9)
    told = group.pass_time(60, done=100)
    assert told.desired == 1
    told = group.pass_time(60, done=1e6, waiting=10**6, in_flight=1)
    assert 1 <= (told.desired or 0) <= 10_000
