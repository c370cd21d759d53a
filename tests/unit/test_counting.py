"""Counters over time, and what came to a queue: each rule by itself. See tests/property/test_counting.py for queues at work."""

import pytest

from meshq.core.counting import FORGET_AFTER, Arrivals, Counter, Counters, Increase
from meshq.core.head_age import SETTLED_AFTER, Age
from meshq.core.scaling_values import EVERY


def whole(amount: float, since: float) -> Increase:
    return Increase(amount, since, whole=True)


def at_least(amount: float, since: float) -> Increase:
    return Increase(amount, since, whole=False)


# --- one counter ------------------------------------------------------------------------------------------------------------


def test_the_first_look_tells_nothing_and_each_further_one_what_was_added() -> None:
    counter = Counter()
    assert counter.read(0.0, 100.0) is None
    assert counter.read(5.0, 130.0) == whole(30.0, 0.0)
    assert counter.read(10.0, 130.0) == whole(0.0, 5.0)


def test_a_look_without_a_figure_takes_nothing_away() -> None:
    counter = Counter()
    assert counter.read(0.0, None) is None
    counter.read(5.0, 100.0)
    assert counter.read(10.0, None) is None
    assert counter.read(15.0, 120.0) == whole(20.0, 5.0), "of both intervals"


def test_a_counter_that_begins_anew_makes_one_interval_unsure_and_the_next_is_good() -> None:
    counter = Counter()
    counter.read(0.0, 100.0)
    assert counter.read(5.0, 7.0) == at_least(0.0, 0.0)
    assert counter.read(10.0, 19.0) == whole(12.0, 5.0)


def test_half_an_answer_is_not_counted_again_when_the_other_half_is_back() -> None:
    counter = Counter()
    counter.read(0.0, 500.0)
    counter.read(5.0, 30.0)
    assert counter.read(10.0, 34.0) == whole(4.0, 5.0)
    assert counter.read(15.0, 20.0) == at_least(0.0, 10.0)
    assert counter.read(20.0, 510.0) == at_least(0.0, 15.0), "480 of them were counted long ago"
    assert counter.read(25.0, 515.0) == whole(5.0, 20.0)


# --- several ----------------------------------------------------------------------------------------------------------------


def test_several_counters_are_added_up() -> None:
    counters = Counters()
    assert counters.read(0.0, {"a": 10.0, "b": 1.0}) is None
    assert counters.read(5.0, {"a": 12.0, "b": 4.0}) == whole(5.0, 0.0)
    assert counters.read(10.0, None) is None
    assert counters.read(15.0, {"a": 13.0, "b": 4.0}) == whole(1.0, 5.0)


def test_a_new_one_counts_from_nothing() -> None:
    counters = Counters()
    assert counters.read(0.0, {}) is None
    assert counters.read(5.0, {"a": 3.0}) == whole(3.0, 0.0)
    assert counters.read(10.0, {"a": 4.0, "b": 7.0}) == whole(8.0, 5.0)


def test_one_that_is_gone_makes_one_interval_unsure() -> None:
    counters = Counters()
    counters.read(0.0, {"a": 3.0, "b": 7.0})
    assert counters.read(5.0, {"a": 5.0}) == at_least(2.0, 0.0), "what b counted before it went nobody knows"
    assert counters.read(10.0, {"a": 6.0}) == whole(1.0, 5.0)


def test_one_that_is_back_brings_what_it_counted_meanwhile() -> None:
    counters = Counters()
    counters.read(0.0, {"a": 3.0, "b": 7.0})
    counters.read(5.0, {"a": 3.0})
    assert counters.read(10.0, {"a": 4.0, "b": 27.0}) == at_least(21.0, 5.0), "not all of it since the last look"


def test_one_that_is_gone_for_long_is_forgotten() -> None:
    counters = Counters()
    counters.read(0.0, {"a": 3.0})
    counters.read(5.0, {})
    later = FORGET_AFTER + 10.0
    counters.read(later, {})
    assert counters.read(later + 5.0, {"a": 4.0}) == whole(4.0, later)


# --- what came to a queue ---------------------------------------------------------------------------------------------------


def test_what_came_is_what_left_and_what_is_there_more() -> None:
    arrivals = Arrivals()
    assert arrivals.read(0.0, 100.0, 40) is None
    assert arrivals.read(5.0, 130.0, 35) == 25.0
    assert arrivals.read(10.0, 130.0, 35) == 0.0


@pytest.mark.parametrize(("done", "there"), [(None, 50), (140.0, None), (None, None)])
def test_a_look_that_knows_not_both_tells_nothing_and_nothing_is_lost(done: float | None, there: int | None) -> None:
    arrivals = Arrivals()
    arrivals.read(0.0, 100.0, 40)
    assert arrivals.read(5.0, done, there) is None
    assert arrivals.read(10.0, 150.0, 30) == 40.0


def test_after_a_counter_began_anew_one_interval_is_not_known() -> None:
    arrivals = Arrivals()
    arrivals.read(0.0, 100.0, 40)
    assert arrivals.read(5.0, 3.0, 90) is None
    assert arrivals.read(10.0, 13.0, 85) == 5.0


def test_messages_counted_twice_are_taken_back() -> None:
    """Acknowledged already, and in the queue still, by figures of an earlier moment."""
    arrivals = Arrivals()
    arrivals.read(0.0, 0.0, 10)
    assert arrivals.read(5.0, 6.0, 10) == 6.0
    for at in (10.0, 15.0):
        assert arrivals.read(at, 6.0, 4) == 0.0, "it might be missing for a moment only"
    assert arrivals.read(20.0, 6.0, 4) == -6.0
    assert arrivals.history.oldest_age(20.0, 4) == (20.0, None), "there from the start, not for 15 s"


def test_messages_missed_for_a_moment_are_no_new_ones_when_they_are_back() -> None:
    arrivals = Arrivals()
    arrivals.read(0.0, 0.0, 10)
    arrivals.read(SETTLED_AFTER + EVERY, 0.0, 10)
    assert arrivals.read(20.0, 0.0, 4) == 0.0
    assert arrivals.read(25.0, 6.0, 4) == 0.0


def test_messages_that_left_uncounted_make_no_one_blind() -> None:
    """A thousand expire. What comes later counts again after a moment."""
    arrivals = Arrivals()
    at = 0.0
    arrivals.read(at, 0.0, 1000)
    for _ in range(4):
        at += EVERY
        assert arrivals.read(at, 0.0, 0) == 0.0
    at += EVERY
    assert arrivals.read(at, 0.0, 7) == 7.0
    assert arrivals.history.oldest_age(at, 7) == (EVERY, EVERY)


# --- the oldest -------------------------------------------------------------------------------------------------------------


def queue(*counts: int) -> Arrivals:
    """That many had come by each look, an interval apart, and nobody took any."""
    arrivals = Arrivals()
    for look, count in enumerate(counts):
        arrivals.read(look * EVERY, 0.0, count)
    return arrivals


def test_the_oldest_came_when_those_before_it_had() -> None:
    history = queue(0, 10, 10, 20).history
    assert history.oldest_age(15.0, 20) == (15.0, 15.0)
    assert history.oldest_age(15.0, 15) == (12.5, 12.5), "in the middle of the first interval"
    assert history.oldest_age(15.0, 10) == (5.0, 5.0), "after the interval in which none came"
    assert history.oldest_age(15.0, 1) == (0.5, 0.5)


def test_where_nothing_waits_nothing_is_old() -> None:
    assert queue(0, 10).history.oldest_age(5.0, 0) == (0.0, 0.0)


def test_before_the_first_look_no_age_is_known() -> None:
    assert Arrivals().history.oldest_age(5.0, 3) is None


def test_of_what_was_there_at_the_first_look_only_the_least_age_is_known() -> None:
    history = queue(5, 5, 8).history
    assert history.oldest_age(10.0, 4) == Age(10.0, None)
    assert history.oldest_age(10.0, 3) == (5.0, 5.0), "and of what came later, all"


def test_it_grows_while_there_are_no_new_figures() -> None:
    assert queue(0, 10).history.oldest_age(65.0, 10) == (65.0, 65.0)


def test_across_an_unsure_interval_the_age_is_between_bounds() -> None:
    arrivals = queue(0, 10, 20)
    arrivals.read(15.0, 10.0, 20)
    arrivals.read(20.0, 2.0, 30)  # the counter began anew, and 10 are there that were not
    arrivals.read(25.0, 2.0, 40)
    history = arrivals.history
    assert history.oldest_age(25.0, 10) == (5.0, 5.0), "it came after the unsure interval"
    assert history.oldest_age(25.0, 15) == (5.0, 10.0), "it came in it, or later if more came in it"
    assert history.oldest_age(25.0, 25) == (5.0, 12.5), "it came before it, or later"
