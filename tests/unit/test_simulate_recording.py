"""Recordings: what is counted, every few seconds, as a trace of messages."""

from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshq.core.scaling_values import ScalingPolicy
from meshq.signals import views
from meshq.simulate import drawn
from meshq.simulate.drawn import Takes
from meshq.simulate.recorded import look_of, recorded
from meshq.simulate.recording import Counts, Look, Recorded, Recording, Work
from meshq.simulate.traces import Outage, Span, Trace, read, write
from tests.told_signals import never_counted, signal

ABOUT = Recorded("orders.v2", ScalingPolicy(wait=5.0), slots=4, replicas=2, startup=7.0, takes=None)
WORK = Work(0.0, 0.0, 0.0)
USUAL = Takes(1.0)


def counted(at: float, arrived: float, waiting: float = 0, in_flight: float = 0, work: Work | None = None) -> Look:
    return Look(at, Counts(arrived, waiting, in_flight), work)


def unknown(at: float) -> Look:
    return Look(at, None, None)


def handled(messages: int, mean: float, variation: float = 0.0, before: Work = WORK) -> Work:
    busy = messages * mean
    return Work(before.handled + messages, before.busy + busy, before.squares + busy * mean * (1 + variation))


def recording_of(*looks: Look) -> Recording:
    recording = Recording()
    for look in looks:
        recording.take(look)
    return recording


def trace_of(*looks: Look, takes: Takes | None = USUAL) -> Trace:
    about = Recorded(ABOUT.name, ABOUT.policy, ABOUT.slots, ABOUT.replicas, ABOUT.startup, takes)
    trace = recording_of(*looks).trace(about)
    assert trace is not None
    return trace


def came(trace: Trace, begins: float, ends: float) -> int:
    return sum(begins <= at < ends for at, _ in trace.arrivals)


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


def variation(values: list[float]) -> float:
    return mean([value * value for value in values]) / mean(values) ** 2 - 1


# --- what came ------------------------------------------------------------------------------------------------------------------


def test_messages_come_between_the_looks_that_counted_them() -> None:
    trace = trace_of(counted(100, 50), counted(105, 80, 20, 4), counted(110, 80), counted(115, 87))
    assert [came(trace, at, at + 5) for at in (0, 5, 10)] == [30, 0, 7]
    assert (len(trace.arrivals), trace.lasts, trace.outages) == (37, 15.0, ())
    assert (trace.name, trace.slots, trace.replicas, trace.startup) == ("orders.v2", 4, 2, 7.0)
    assert trace.policy == ScalingPolicy(wait=5.0)


def test_what_waits_at_the_first_look_comes_then() -> None:
    trace = trace_of(counted(100, 50, 12, 3), counted(105, 51))
    assert [at for at, _ in trace.arrivals][:15] == [0.0] * 15
    assert len(trace.arrivals) == 16


def test_a_look_that_is_shown_again_says_nothing_new() -> None:
    recording = Recording()
    assert [recording.take(counted(at, 50 + at)) for at in (0, 0, 5, 5, 4, 10)] == [
        True, False, True, False, False, True,
    ]  # fmt: skip
    assert recording.messages == 10


def test_while_figures_are_not_known_there_is_an_outage_and_what_came_is_spread_over_it() -> None:
    trace = trace_of(counted(0, 0), counted(5, 10), unknown(10), unknown(15), counted(20, 40), counted(25, 50))
    assert trace.outages == (Outage(Span(10, 20)),)
    assert [came(trace, *span) for span in ((0, 5), (5, 20), (20, 25))] == [10, 30, 10]
    assert came(trace, 5, 12) > 5


def test_a_recording_may_begin_and_end_without_figures() -> None:
    recording = recording_of(unknown(0), counted(5, 100, 2), counted(10, 103), unknown(15), unknown(20))
    assert (recording.unknown_seconds, recording.seconds, recording.known) == (10, 20, True)
    trace = trace_of(unknown(0), counted(5, 100, 2), counted(10, 103), unknown(15), unknown(20))
    assert trace.outages == (Outage(Span(0, 5)), Outage(Span(15, 20)))
    assert (len(trace.arrivals), trace.lasts) == (5, 20.0)
    assert not recording_of(unknown(0), unknown(5)).known


def test_of_a_time_in_which_a_counter_began_anew_nothing_is_known() -> None:
    trace = trace_of(counted(0, 1000), counted(5, 1010), counted(10, 30), counted(15, 35))
    assert trace.outages == (Outage(Span(5, 10)),)
    assert [came(trace, at, at + 5) for at in (0, 5, 10)] == [10, 0, 5]
    after_an_outage = trace_of(counted(0, 1000), counted(5, 1010), unknown(10), counted(15, 30), counted(20, 35))
    assert after_an_outage.outages == (Outage(Span(5, 15)),)


def test_messages_that_were_counted_twice_come_once() -> None:
    """In the queue and as gone: figures are not of one moment."""
    trace = trace_of(counted(0, 100), counted(5, 130, 10, 5), counted(10, 125, 0, 0), counted(15, 135))
    assert len(trace.arrivals) == 35


def test_a_queue_that_is_purged_takes_nothing_from_what_comes_then() -> None:
    trace = trace_of(counted(0, 100), counted(5, 600, 500), counted(10, 100), counted(15, 160), counted(20, 200))
    assert len(trace.arrivals) == 600


# --- what it took -----------------------------------------------------------------------------------------------------------------


def test_each_group_has_the_mean_and_the_variation_that_were_measured() -> None:
    first = handled(400, 0.2, 0.5)
    second = handled(100, 3.0, 2.0, first)
    trace = trace_of(
        counted(0, 0, work=WORK), counted(5, 400, work=first), counted(10, 500, work=second), takes=None
    )  # fmt: skip
    services = [service for _, service in trace.arrivals]
    for part, takes in ((services[:400], Takes(0.2, 0.5)), (services[400:], Takes(3.0, 2.0))):
        assert mean(part) == pytest.approx(takes.mean, rel=1e-4)
        assert variation(part) == pytest.approx(takes.variation, rel=1e-3)
    assert trace.work == pytest.approx(second.busy, rel=1e-4)


def test_reports_that_come_late_belong_to_the_messages_that_left_before() -> None:
    first, second = handled(100, 1.0), handled(100, 4.0, before=handled(100, 1.0))
    trace = trace_of(
        counted(0, 0, work=WORK), counted(5, 100, work=WORK), counted(10, 200, work=first),
        counted(15, 200, work=second), counted(20, 200, work=second), takes=None,
    )  # fmt: skip
    assert [service for _, service in trace.arrivals] == [1.0] * 100 + [4.0] * 100


def test_reports_that_come_before_the_counts_wait_for_them() -> None:
    work = handled(50, 2.0)
    trace = trace_of(counted(0, 7, work=WORK), counted(5, 7, work=work), counted(10, 57, work=work), takes=None)
    assert [service for _, service in trace.arrivals] == [2.0] * 50


def test_what_left_long_ago_without_any_report_is_not_waited_for() -> None:
    """Calls that expired: 900 of 1,000. What is handled a minute later is of those that came then."""
    first, second = handled(100, 1.0), handled(10, 5.0, before=handled(100, 1.0))
    trace = trace_of(
        counted(0, 0, work=WORK), counted(5, 1000, work=first), counted(10, 1000, work=first),
        counted(60, 1010, work=second), takes=None,
    )  # fmt: skip
    assert [service for _, service in trace.arrivals][-10:] == [5.0] * 10


def test_what_nobody_has_done_yet_takes_as_long_as_the_last_or_as_before() -> None:
    work = handled(10, 2.0)
    trace = trace_of(counted(0, 0, work=WORK), counted(5, 30, 16, 4, work), takes=Takes(9.0))
    assert [service for _, service in trace.arrivals] == [2.0] * 30
    assert trace_of(counted(0, 0), counted(5, 3, 3), takes=Takes(9.0)).service == 9.0
    assert recording_of(counted(0, 0), counted(5, 3, 3)).trace(ABOUT) is None


def test_sums_that_begin_anew_are_left_out() -> None:
    first, anew = handled(10, 2.0, before=handled(900, 7.0)), handled(10, 5.0)
    later = handled(10, 3.0, before=anew)
    trace = trace_of(
        counted(0, 0, work=handled(900, 7.0)), counted(5, 10, work=first), counted(10, 20, work=anew),
        counted(15, 30, work=later), takes=None,
    )  # fmt: skip
    services = [service for _, service in trace.arrivals]
    assert (services[:10], services[10:20]) == ([2.0] * 10, [3.0] * 10)
    assert 5.0 not in services


# --- as a file --------------------------------------------------------------------------------------------------------------------


def test_a_recording_is_written_and_read_as_the_same_and_the_same_again(tmp_path: Path) -> None:
    looks = [counted(0.123, 0, work=WORK), unknown(2.5), counted(7.777, 300, work=handled(300, 0.02, 0.3))]
    trace = trace_of(*looks)
    write(trace, tmp_path / "trace.csv")
    assert read(tmp_path / "trace.csv") == trace == trace_of(*looks)


# --- from rows of `meshq scale explain` -----------------------------------------------------------------------------------------


def row(**sample: Any) -> dict[str, Any]:
    return views.explain(signal(terms={"slots": 15.6, "ready": 2, "leadSeconds": 9.5, "variation": 0.4}, **sample))


def test_a_row_is_a_look_at_the_time_of_its_counts() -> None:
    first, later = look_of(row()), look_of(row(counted_at=99.5))
    assert (first.counts, first.work) == (Counts(1010, 7, 3), Work(1000, 50, 3))
    assert later.at - first.at == pytest.approx(1.5)
    assert look_of(row(busy=None)).work is None
    assert look_of(row(done=None)).counts is None
    nothing = look_of(views.explain(never_counted()))
    assert (nothing.counts, nothing.at - first.at) == (None, pytest.approx(2.0))


def test_what_is_no_row_of_this_version_is_refused() -> None:
    old = {key: value for key, value in row().items() if key != "counts"}
    with pytest.raises(ValueError, match="older version"):
        look_of(old)


def test_the_rest_of_a_trace_comes_from_the_rows() -> None:
    known = {**row(), "serviceSeconds": 0.05}
    assert recorded(row(), known) == Recorded(
        "orders.v2-20330518-033320", ScalingPolicy(), 16, 2, 4.5, Takes(0.05, 0.4)
    )
    own = {**row(), "policy": {"wait": "3s", "quantile": 0.9, "min": 1, "max": 7, "lead": "20s", "later": "1s"}}
    found = recorded(row(), own)
    assert (found.policy, found.startup) == (ScalingPolicy(wait=3.0, quantile=0.9, min=1, max=7, lead=20.0), 20.0)
    assert found.takes is None
    bare = recorded({**row(), "terms": {}}, {**row(), "terms": {}})
    assert (bare.slots, bare.replicas, bare.startup) == (1, 0, 12.0)


# --- whatever comes -----------------------------------------------------------------------------------------------------------------


@given(st.integers(1, 300), st.floats(0.001, 100), st.floats(0, 20), st.integers(0, 5))
def test_services_have_the_mean_and_the_variation_that_are_wanted(
    count: int, wanted: float, spread: float, seed: int
) -> None:
    values = drawn.services(Random(seed), count, Takes(wanted, spread))
    assert len(values) == count
    assert min(values) >= 0
    assert mean(values) == pytest.approx(wanted, rel=1e-9)
    assert variation(values) == pytest.approx(min(spread, 0.99 * (count - 1)), rel=1e-6, abs=1e-9)


STEPS = st.lists(
    st.tuples(st.integers(0, 50), st.integers(0, 50), st.booleans(), st.floats(0.01, 3), st.integers(0, 2)),
    min_size=1,
    max_size=30,
)
"""Of each five seconds: how many come and leave at most, whether counts are known, how long those that leave took, how late reports
are."""


@given(STEPS)
def test_as_many_come_as_were_counted_with_as_much_work_as_was_measured(
    steps: list[tuple[int, int, bool, float, int]],
) -> None:
    arrived = left = 0
    works = [WORK]
    looks = [counted(0, 0, work=WORK)]
    for number, (more, most, known, takes, late) in enumerate(steps, 1):
        arrived += more
        leave = min(most, arrived - left)
        left += leave
        works.append(handled(leave, takes, 0.0, works[-1]))
        told = max((works[max(0, number - late)], looks[-1].work or WORK), key=lambda work: work.handled)
        counts = Counts(arrived, arrived - left, 0) if known else None
        looks.append(Look(5.0 * number, counts, told))
    end = 5.0 * len(looks)
    work = handled(arrived - left, 1.0, 0.0, works[-1])
    looks.append(counted(end, arrived, work=work))
    trace = trace_of(*looks)
    times = [at for at, _ in trace.arrivals]
    assert len(times) == arrived
    assert times == sorted(times)
    assert all(0 <= at <= trace.lasts == end for at in times)
    known_at = [(look.at, look.counts.arrived) for look in looks if look.counts is not None]
    for at, so_far in known_at:
        assert sum(time < at for time in times) <= so_far <= sum(time <= at for time in times)
    if arrived:
        assert trace.work == pytest.approx(work.busy, abs=1e-5 * arrived)
