"""Counters over time, and what came to a queue: each rule by itself. See tests/property/test_counting.py for queues at work."""

from meshq.core.counting import FORGET_AFTER, Counter, Counters, Increase


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
