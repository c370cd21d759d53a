"""What comes in and how old the oldest is, from counts alone (statement A3); see tests/property/test_scaling.py for queues at work."""

import math
from dataclasses import replace
from random import Random

import pytest

from meshq.core.scaling_arrivals import counted, expected_rate, growing_rate, most_within, oldest_age, total_at
from meshq.core.scaling_memory import REMEMBERED, Arrivals
from meshq.core.scaling_values import EVERY
from tests.scaling_group import BEGIN, NOTHING

LEAD, WAIT = 12.0, 10.0


def look(arrivals: Arrivals, at: float, done: float | None, waiting: int = 0, in_flight: int = 0) -> Arrivals:
    return counted(arrivals, replace(NOTHING, at=at, counted_at=at, done=done, waiting=waiting, in_flight=in_flight))


def looks(*figures: tuple[float | None, int]) -> Arrivals:
    """(done, waiting) every five seconds."""
    arrivals = Arrivals()
    for number, (done, waiting) in enumerate(figures):
        arrivals = look(arrivals, BEGIN + number * EVERY, done, waiting)
    return arrivals


def steady(rate: float, seconds: float, arrivals: Arrivals = Arrivals()) -> Arrivals:  # noqa: B008 - frozen
    """So many more a second, each done at once."""
    for _ in range(round(seconds / EVERY)):
        at = arrivals.times[-1] + EVERY if arrivals.times else BEGIN
        arrivals = look(arrivals, at, arrivals.done + (rate * EVERY if arrivals.times else 0.0))
    return arrivals


# --- conservation ---------------------------------------------------------------------------------------------------------------


def test_what_was_done_and_what_is_there_came_in() -> None:
    assert looks((100, 50), (100, 70), (130, 40), (130, 40)).totals == (0, 20, 20, 20)
    handed_out = look(looks((100, 50)), BEGIN + EVERY, 100, waiting=30, in_flight=20)
    assert handed_out.totals == (0, 0), "from the queue to an app"


def test_a_look_that_does_not_know_takes_nothing_away() -> None:
    known = looks((100, 0), (150, 0), (200, 0), (250, 0))
    gap = looks((100, 0), (None, 0), (None, 0), (250, 0))
    assert gap.times == (BEGIN, BEGIN + 3 * EVERY)
    assert gap.totals[-1] == known.totals[-1] == 150
    assert gap.slow == known.slow == 10.0


def test_a_counter_that_begins_anew_changes_no_rate() -> None:
    arrivals = steady(10.0, 120)
    again = look(arrivals, arrivals.times[-1] + EVERY, 3.0)
    assert again.slow == pytest.approx(10.0)
    assert expected_rate(again, LEAD, WAIT) == pytest.approx(10.0)
    assert expected_rate(steady(10.0, 60, again), LEAD, WAIT) == pytest.approx(10.0)


def test_messages_counted_twice_for_a_moment_are_taken_back() -> None:
    """50 are gone and still in the queue, as far as one listing knows."""
    arrivals = looks((100, 80), (150, 80), (150, 30), (160, 30))
    assert arrivals.totals == (0, 50, 50, 50)
    assert arrivals.owed == 40


def test_a_queue_that_was_purged_hides_nothing_that_comes_after() -> None:
    arrivals = looks((100, 5000), (110, 5000), (120, 0), (170, 0), (220, 0))
    assert arrivals.totals[-1] - arrivals.totals[-3] == 100 - 20, "but what may have been counted twice"
    assert arrivals.owed == 0


def test_only_so_much_is_remembered() -> None:
    arrivals = steady(1.0, 2 * REMEMBERED)
    assert arrivals.times[-1] - arrivals.times[0] <= REMEMBERED + EVERY
    assert len(arrivals.times) <= REMEMBERED / EVERY + 2
    assert steady(0.0, 2 * REMEMBERED).totals[-1] == 0
    unknown = arrivals
    for number in range(500):
        unknown = look(unknown, unknown.times[-1] + number * EVERY, None)
    assert len(unknown.times) == len(arrivals.times)


@pytest.mark.parametrize("after", [0.0, -60.0])
def test_two_looks_at_one_time_and_a_clock_that_goes_back_change_nothing(after: float) -> None:
    arrivals = steady(10.0, 60)
    assert look(arrivals, arrivals.times[-1] + after, arrivals.done + 1000.0) == arrivals


def test_totals_between_looks_are_in_proportion() -> None:
    arrivals = looks((0, 0), (10, 0), (30, 0))
    assert [total_at(arrivals, BEGIN + after) for after in (-9.0, 0.0, 2.5, 5.0, 7.5, 10.0, 99.0)] == [
        0,
        0,
        5,
        10,
        20,
        30,
        30,
    ]


# --- the rate ---------------------------------------------------------------------------------------------------------------------


def test_one_look_says_nothing_of_a_rate() -> None:
    assert expected_rate(Arrivals(), LEAD, WAIT) is None
    assert expected_rate(looks((0, 10)), LEAD, WAIT) is None


@pytest.mark.parametrize("rate", [0.0, 0.02, 1.0, 100.0, 1e6])
def test_a_steady_rate_is_expected_to_go_on(rate: float) -> None:
    assert expected_rate(steady(rate, 300), LEAD, WAIT) == pytest.approx(rate)


def test_chance_alone_changes_little() -> None:
    """A Poisson process of one in two seconds: counted in the last ten alone, it would be anything from 0 to 1.5."""
    random, arrivals = Random(1), steady(0.5, 300)
    seen = []
    for _ in range(400):
        came = sum(random.random() < 0.05 for _ in range(50)) * 1.0
        arrivals = look(arrivals, arrivals.times[-1] + EVERY, arrivals.done + came)
        seen.append(expected_rate(arrivals, LEAD, WAIT) or 0.0)
    assert sum(0.25 <= each <= 1.0 for each in seen) >= 0.97 * len(seen)


def test_a_step_is_believed_at_once_and_extrapolated_within_bounds() -> None:
    arrivals = steady(100.0, EVERY, steady(10.0, 300))
    first = expected_rate(arrivals, LEAD, WAIT) or 0.0
    assert 50.0 <= first <= 1.5 * 55.0, "of ten seconds, five were so busy"
    second = expected_rate(steady(100.0, EVERY, arrivals), LEAD, WAIT) or 0.0
    assert 100.0 <= second <= 150.0
    assert expected_rate(steady(100.0, 60, arrivals), LEAD, WAIT) == pytest.approx(100.0, rel=0.1), "no slope any more"


def test_a_rate_that_falls_is_followed_by_half_of_what_it_was_at_most() -> None:
    arrivals = steady(0.0, 2 * EVERY, steady(100.0, 300))
    assert expected_rate(arrivals, LEAD, WAIT) == pytest.approx((arrivals.slow or 0.0) / 2)
    assert (expected_rate(steady(0.0, 600, arrivals), LEAD, WAIT) or 0.0) < 1.0


def test_a_burst_that_is_over_is_no_rate() -> None:
    burst = steady(1000.0, EVERY, steady(10.0, 300))
    over = steady(10.0, 2 * EVERY, burst)
    assert (expected_rate(over, LEAD, 10.0) or 0.0) < 150.0
    assert (expected_rate(burst, LEAD, 10.0) or 0.0) > 400.0


def test_a_burst_like_an_earlier_one_may_stand_in_the_queue_in_part() -> None:
    calm = steady(10.0, 240, steady(1000.0, 2 * EVERY, steady(10.0, 300)))
    again, larger = steady(1000.0, 2 * EVERY, calm), steady(2000.0, 2 * EVERY, calm)
    known, new = (expected_rate(each, LEAD, WAIT) or 0.0 for each in (again, larger))
    assert 500.0 < known < 1000.0
    assert new > 1900.0
    longer = steady(1000.0, 4 * EVERY, again)
    assert (expected_rate(longer, LEAD, WAIT) or 0.0) > 990.0, "it goes on for longer than the other did"


def test_a_burst_may_stand_in_the_queue_in_part_where_replicas_come_in_time() -> None:
    burst = steady(1000.0, 60, steady(10.0, 900))
    assert (expected_rate(burst, LEAD, 60.0) or 0.0) < 800.0 < (expected_rate(burst, LEAD, 10.0) or 0.0)


def test_growth_goes_on() -> None:
    arrivals = steady(10.0, 300)
    assert growing_rate(arrivals, arrivals.times[-1], LEAD) is None
    for rate in range(10, 50):
        arrivals = steady(float(rate), EVERY, arrivals)
    now = arrivals.times[-1]
    assert growing_rate(arrivals, now, 0.0) == pytest.approx(49.0, rel=0.1)
    assert growing_rate(arrivals, now + 60.0, 0.0) == pytest.approx(61.0, rel=0.1), "also while nothing is counted"
    assert (expected_rate(arrivals, LEAD, WAIT) or 0.0) > (arrivals.slow or 0.0) + 5.0


# --- the oldest -------------------------------------------------------------------------------------------------------------------


def test_the_oldest_of_n_is_the_one_that_came_as_the_nth_last() -> None:
    arrivals = looks((0, 0), (0, 100), (0, 150))
    now = BEGIN + 2 * EVERY
    assert [oldest_age(arrivals, waiting, now) for waiting in (0, 25, 50, 100, 150)] == [0.0, 2.5, 5.0, 7.5, 10.0]
    assert oldest_age(arrivals, 50, now + 3.0) == 8.0, "it goes on waiting between two looks"


def test_what_was_there_before_is_older_than_anybody_knows() -> None:
    assert oldest_age(looks((0, 30), (0, 40)), 11, BEGIN + EVERY) is None
    assert oldest_age(looks((0, 30), (0, 40)), 10, BEGIN + EVERY) == EVERY
    assert oldest_age(Arrivals(), 1, BEGIN) is None
    assert oldest_age(looks((1e17, 0), (1e17, 0)), 1, BEGIN + EVERY) is None


def test_what_nobody_takes_gets_older() -> None:
    arrivals = steady(10.0, 60)
    since = arrivals.times[-1]
    for number in range(1, 100):
        at = since + number * EVERY
        arrivals = look(arrivals, at, arrivals.done, waiting=50 * number)
        assert oldest_age(arrivals, 50 * number, at) == pytest.approx(at - since)


# --- bursts -----------------------------------------------------------------------------------------------------------------------


def test_the_most_within_a_window() -> None:
    arrivals = looks((0, 0), (10, 0), (40, 0), (40, 0), (45, 0))
    assert most_within(arrivals, 5.0) == 30
    assert most_within(arrivals, 10.0) == 40
    assert most_within(arrivals, 1.0) == 6, "of a single interval its part"
    assert most_within(arrivals, 1000.0) == 45
    assert most_within(Arrivals(), 5.0) == most_within(looks((7, 7)), 5.0) == 0


def test_the_most_within_a_window_is_that_of_trying_all() -> None:
    random, figures, done = Random(2), [], 0.0
    for _ in range(150):
        done += random.choice([0, 1, 5, 100])
        figures.append((done, 0))
    arrivals = looks(*figures)
    for window in (5.0, 20.0, 160.0):
        starts = arrivals.times
        tried = max(total_at(arrivals, start + window) - total_at(arrivals, start) for start in starts)
        assert math.isclose(most_within(arrivals, window), tried)
