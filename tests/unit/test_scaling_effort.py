"""What a message takes, how much that varies, and which part fails, from the instances' own clocks."""

from dataclasses import replace
from typing import Any

import pytest

from meshq.core.scaling_effort import FEW, MOST_SLOWER, SHORTEST, failing, learnt, service_seconds, variation, watched
from meshq.core.scaling_memory import Effort
from meshq.core.scaling_values import EVERY, Sample
from tests.scaling_group import BEGIN, NO_REPORTS, NOTHING


class App:
    """What its instances report, all together."""

    def __init__(self, **first: Any) -> None:
        self.sample = replace(NOTHING, **first)
        self.effort = learnt(Effort(), None, self.sample)

    def do(self, messages: float, seconds: float, fails: float = 0.0, after: float = EVERY, **told: Any) -> None:
        last = self.sample
        sample = replace(
            last,
            at=last.at + after,
            handled=(last.handled or 0.0) + messages,
            busy=(last.busy or 0.0) + messages * seconds,
            busy_squares=(last.busy_squares or 0.0) + messages * seconds**2,
            failed=(last.failed or 0.0) + messages * fails,
        )
        self.look(replace(sample, **told))

    def look(self, sample: Sample) -> None:
        self.effort = learnt(self.effort, self.sample, sample)
        self.sample = sample

    @property
    def takes(self) -> float | None:
        return service_seconds(self.effort, self.sample.at)


def test_the_mean_of_what_was_worked_on() -> None:
    app = App()
    assert app.takes is None
    app.do(10, 0.2)
    app.do(30, 0.4)
    assert app.takes == pytest.approx((10 * 0.2 + 30 * 0.4) / 40)


def test_what_was_long_ago_counts_for_less() -> None:
    app = App()
    app.do(10_000, 0.1)
    for _ in range(60):
        app.do(100, 0.5)
    assert app.takes == pytest.approx(0.5, rel=0.1)


def test_a_few_are_never_forgotten() -> None:
    app = App()
    app.do(FEW - 1, 0.3)
    app.do(0, 0.0, after=86_400.0)
    assert app.effort.messages == FEW - 1
    app.do(1000, 0.3)
    app.do(0, 0.0, after=86_400.0)
    assert app.effort.messages == pytest.approx(FEW)
    assert app.takes == pytest.approx(0.3)


def test_a_history_from_before_counts_as_little_as_a_few_messages() -> None:
    app = App(handled=1e6, busy=1e5, busy_squares=1e4)
    assert app.takes == pytest.approx(0.1)
    app.do(50, 0.5)
    assert app.takes == pytest.approx(0.3, rel=0.05)


def test_reports_that_are_missing_once_teach_and_unteach_nothing() -> None:
    app = App(handled=1e6, busy=1e4, busy_squares=200.0)
    for _ in range(60):
        app.do(100, 0.5, fails=0.1)
    known, whole = app.effort, app.sample
    app.look(replace(whole, at=whole.at + EVERY, **NO_REPORTS))
    assert app.effort == known
    app.look(replace(whole, at=whole.at + 2 * EVERY))
    assert app.effort == known, "not the million messages of before"
    app.do(100, 0.5, fails=0.1)
    assert app.takes == pytest.approx(0.5, rel=0.05)
    assert failing(app.effort) == pytest.approx(0.1, rel=0.1)


@pytest.mark.parametrize("missing", ["busy_squares", "failed"])
def test_a_single_figure_that_comes_back_does_not_come_all_at_once(missing: str) -> None:
    app = App()
    for _ in range(10):
        app.do(100, 0.1, fails=0.5)
    usual = [variation(app.effort), failing(app.effort)]
    whole, lacks = app.sample, dict[str, Any]({missing: None})
    app.look(replace(whole, at=whole.at + EVERY, **lacks))
    app.look(replace(whole, at=whole.at + 2 * EVERY))
    assert [variation(app.effort), failing(app.effort)] == pytest.approx(usual)


def test_counters_that_begin_anew_teach_nothing() -> None:
    app = App()
    app.do(100, 0.1)
    known = app.effort
    app.look(replace(app.sample, at=app.sample.at + EVERY, handled=5.0, busy=50.0, busy_squares=500.0))
    assert app.effort == known
    app.do(100, 0.1)
    assert app.takes == pytest.approx(0.1)


def test_a_clock_that_goes_back_breaks_nothing() -> None:
    app = App()
    app.do(1000, 0.1)
    app.do(1000, 0.1, after=-1e6)
    assert app.takes == pytest.approx(0.1)


def test_a_first_message_takes_as_long_as_it_has_taken() -> None:
    app = App()
    app.do(0, 0.0, in_flight=1)
    assert app.takes is None, "it may have begun just now"
    app.do(0, 0.0, after=30.0)
    assert app.takes == 30.0
    app.do(1, 40.0, in_flight=0)
    assert app.takes == 40.0
    none = App()
    none.do(0, 0.0, in_flight=1)
    none.do(0, 0.0, in_flight=0)
    assert none.takes is None


def test_no_message_takes_no_time() -> None:
    app = App()
    app.do(1000, 1e-9)
    assert (app.takes, variation(app.effort)) == (SHORTEST, 1.0)
    app = App()
    app.do(1000, 0.0)
    assert (app.takes, variation(app.effort)) == (SHORTEST, 1.0)


def test_how_much_it_varies() -> None:
    app = App()
    assert variation(app.effort) == 1.0, "as of an exponential distribution, where nobody knows"
    app.do(100, 0.1)
    assert variation(app.effort) == pytest.approx(0.0, abs=1e-9)
    app = App()
    app.do(99, 0.1)
    app.do(1, 10.1)
    assert variation(app.effort) == pytest.approx(10.0), "no more is believed"


def test_the_part_that_fails() -> None:
    app = App()
    assert failing(app.effort) == 0.0
    app.do(100, 0.1, fails=0.25)
    assert failing(app.effort) == 0.25


# --- slower than they were ------------------------------------------------------------------------------------------------------


def settling(usual: float, rate: float, *, waiting: int = 100, looks: int = 4) -> float | None:
    """Of ten messages at once that took `usual` before, while `rate` a second are settled."""
    effort, done = Effort(messages=100.0, busy=100 * usual), 0.0
    for number in range(looks):
        at = BEGIN + number * EVERY
        sample = replace(NOTHING, at=at, done=done, waiting=waiting, in_flight=10, slots=10.0, ready=1)
        effort = watched(effort, sample)
        done += rate * EVERY
    return service_seconds(effort, at)


def test_messages_that_take_longer_show_before_they_are_done() -> None:
    assert settling(0.1, 100.0) == 0.1
    assert settling(0.1, 95.0) == 0.1, "by chance"
    assert settling(0.1, 50.0) == pytest.approx(0.2)
    assert settling(0.1, 200.0) == 0.1
    assert settling(0.1, 0.0) == pytest.approx(MOST_SLOWER * 0.1), "rather hanging than working"


def test_what_does_not_wait_says_nothing_of_how_long_it_takes() -> None:
    assert settling(0.1, 10.0, waiting=0) == 0.1
    assert settling(0.1, 10.0, looks=2) == 0.1


def test_settled_ones_whose_counter_begins_anew_are_none() -> None:
    assert settling(0.1, -1000.0) == pytest.approx(MOST_SLOWER * 0.1)
