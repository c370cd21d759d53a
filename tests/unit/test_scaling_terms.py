"""The terms of a scaling decision, against Erlang's formula as it is written down and what can be worked out by hand."""

import math
from fractions import Fraction
from itertools import count

import pytest

from meshq.core.scaling_memory import Arrivals
from meshq.core.scaling_terms import BURST_MARGIN, MOST_ERLANG, MOST_USED, Needs, Work, burst_memory, drain, flow

WORK = Work(
    rate=10.0, service=0.1, variation=1.0, slots=1.0, waiting=0.0, at_work=0.0, age=0.0, ready=1.0, pending=0.0, lead=12.0,
    wait=10.0, quantile=0.95,
)  # fmt: skip


# --- flow ---------------------------------------------------------------------------------------------------------------------


def waits(servers: int, load: int) -> float:
    """Erlang C with its factorials: the part of all messages that find every server busy."""
    top = Fraction(load**servers, math.factorial(servers)) * Fraction(servers, servers - load)
    return float(top / (sum(Fraction(load**n, math.factorial(n)) for n in range(servers)) + top))


@pytest.mark.parametrize(
    ("answered_in_time", "agents"), [(0.79, 13), (0.795, 13), (0.88, 14), (0.8883, 14), (0.889, 15)]
)
def test_the_example_of_every_call_centre(answered_in_time: float, agents: int) -> None:
    """100 calls in half an hour of 180 s each: with 14 agents 17.41 % wait, and 88.8 % are answered within 20 s."""
    assert waits(14, 10) == pytest.approx(0.1741, abs=5e-5)
    assert flow(WORK._replace(rate=100 / 1800, service=180.0, wait=20.0, quantile=answered_in_time)) == agents


@pytest.mark.parametrize("load", [1, 2, 5, 17, 60, 150])
@pytest.mark.parametrize("wait", [0.01, 1.0, 3.0])
@pytest.mark.parametrize("quantile", [0.5, 0.95, 0.9999])
def test_as_many_as_erlang_says_and_never_fuller_than_they_may_be(load: int, wait: float, quantile: float) -> None:
    def enough(servers: int) -> bool:
        return waits(servers, load) * math.exp(-(servers - load) * wait) <= 1 - quantile

    least = math.ceil(load / MOST_USED)
    expected = next(n for n in count(max(least, load + 1)) if enough(n))
    assert flow(WORK._replace(rate=load, service=1.0, wait=wait, quantile=quantile)) == expected


def test_above_the_formula_they_are_as_full_as_they_may_be() -> None:
    assert flow(WORK._replace(rate=MOST_ERLANG * 10 + 1.0, service=0.1)) == math.ceil((MOST_ERLANG + 0.1) / MOST_USED)
    below, above = (flow(WORK._replace(rate=MOST_ERLANG + more, service=1.0)) for more in (-0.5, 0.5))
    assert 0 <= above - below <= 2, "no step where the formula ends"


def test_slots_are_filled_before_there_are_more_replicas() -> None:
    one_each = flow(WORK._replace(rate=100.0))
    assert [flow(WORK._replace(rate=100.0, slots=slots)) for slots in (2.0, 5.0, 100.0)] == [
        math.ceil(one_each / slots) for slots in (2, 5, 100)
    ]


def test_service_times_that_vary_need_more_and_even_ones_fewer() -> None:
    tight = WORK._replace(rate=20.0, service=1.0, wait=0.3, quantile=0.99)
    even, usual, wild = (flow(tight._replace(variation=variation)) for variation in (0.0, 1.0, 10.0))
    assert even < usual < wild


def test_nothing_that_comes_needs_nobody() -> None:
    assert flow(WORK._replace(rate=0.0)) == 0
    assert flow(WORK._replace(rate=1e-300, service=1e-4)) == 1, "one a century needs one while it is there"


# --- drain --------------------------------------------------------------------------------------------------------------------


def test_half_of_what_comes_in_the_wait_may_stand() -> None:
    """Little: where the average message waits half of what it may, that much stands in the queue."""
    assert drain(WORK._replace(waiting=10 * 10.0 / 2)) == 0
    assert drain(WORK._replace(waiting=10 * 10.0 / 2 + 1)) == 2, "what keeps up, and a little more"
    assert drain(WORK._replace(waiting=0.0, ready=0.0)) == 0, "what will come is not there yet"


def test_a_backlog_is_to_be_gone_before_its_oldest_waited_too_long() -> None:
    """1,000 of 0.1 s within the 48 s that are left of a minute."""
    work = WORK._replace(rate=0.0, waiting=1000.0, ready=0.0, wait=60.0, age=12.0)
    assert drain(work) == math.ceil(1000 * 0.1 / 48)
    assert drain(work._replace(age=40.0)) == math.ceil(1000 * 0.1 / 20)
    assert drain(work._replace(age=55.0)) == math.ceil(1000 * 0.1 / 12), "nobody is there sooner than in the lead"
    assert drain(work._replace(age=61.0)) == math.ceil(1000 * 0.1 / 60), "too late: within another wait"
    assert drain(work._replace(age=61.0, wait=10.0)) == math.ceil(1000 * 0.1 / 24), "or two leads"


def test_what_those_that_are_there_will_have_done_needs_nobody() -> None:
    """Ten of them do 100 a second: 1,200 are gone before a new one is ready; of ten that are starting half as many."""
    work = WORK._replace(rate=0.0, waiting=1200.0, ready=10.0)
    assert drain(work) == 0
    assert drain(work._replace(ready=9.0)) == math.ceil(120 / 12 / 10)
    assert drain(work._replace(ready=0.0, pending=10.0)) == math.ceil(600 / 12 / 10)


def test_with_a_wait_that_is_almost_over_more_messages_a_second_need_more() -> None:
    late = WORK._replace(waiting=1000.0, ready=0.0, wait=60.0, age=55.0)
    needed = [drain(late._replace(rate=rate)) for rate in (0.0, 10.0, 20.0, 40.0)]
    assert needed == [9, 9 + 1, 9 + 2, 9 + 4]


def test_long_work_is_counted_in_slots() -> None:
    work = WORK._replace(rate=1.0, service=60.0, waiting=8.0, at_work=12.0, slots=2.0, wait=60.0)
    assert drain(work._replace(age=48.0)) == 10, "none of them is done in time"
    assert drain(work._replace(waiting=100.0)) == math.ceil((12 + 100 - 12 * 48 / 60) / 2)
    assert drain(work._replace(waiting=9.0)) == 6, "those that become free in time take all nine"


def test_the_most_is_needed() -> None:
    assert Needs(3, 5, 4).most == 5
    assert Needs(0, 0, 0).most == 0


# --- bursts -------------------------------------------------------------------------------------------------------------------


def arrivals(*counts: float) -> Arrivals:
    """Messages of every five seconds."""
    totals = [float(sum(counts[:n])) for n in range(len(counts) + 1)]
    return Arrivals(tuple(1000.0 + 5 * n for n in range(len(totals))), tuple(totals))


def test_a_burst_that_others_would_come_too_late_for_is_remembered() -> None:
    """600 in five seconds, to be taken within 2 s. Others are there after 12 s."""
    work = WORK._replace(wait=2.0)
    remembered = arrivals(10, 0, 600, 0, 0)
    assert burst_memory(remembered, work, 20) == math.ceil(BURST_MARGIN * 600 * 0.1 / 7)
    assert burst_memory(remembered, work._replace(slots=4.0), 20) == math.ceil(BURST_MARGIN * 600 * 0.1 / 4 / 7)


def test_where_others_come_early_enough_no_burst_is_held_for() -> None:
    assert burst_memory(arrivals(10, 0, 600, 0, 0), WORK._replace(wait=60.0), 20) == 0
    assert burst_memory(Arrivals(), WORK, 20) == 0
    assert burst_memory(arrivals(0, 0, 0), WORK, 20) == 0
