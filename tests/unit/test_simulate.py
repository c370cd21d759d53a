"""The simulated service, and the rules that meshq is measured against, each on what can be worked out by hand."""

import itertools
from collections.abc import Sequence
from random import Random
from typing import Any

import pytest

from meshq.core.scaling_values import Decision, Sample, ScalingPolicy
from meshq.simulate.baselines import Aws, Keda, Usage
from meshq.simulate.cluster import Cluster
from meshq.simulate.hpa import Hpa, of_average, of_utilisation
from meshq.simulate.ours import Ours, OursThroughHpa, Rule
from meshq.simulate.outcomes import Change, Outcome, reversals
from meshq.simulate.runs import run
from meshq.simulate.seen import Counts, Seen
from meshq.simulate.traces import Failing, Outage, Slow, Span, Trace

NO_CHOICE = Random(0)


class Told:
    """Does at each second what it is told, and keeps what it saw."""

    every = 1

    def __init__(self, orders: dict[int, int], spares_busy: bool = False, drains: bool = False) -> None:
        self.orders = orders
        self.spares_busy = spares_busy
        self.drains = drains
        self.saw: list[Seen] = []
        self.woken: list[float] = []

    def step(self, seen: Seen) -> int | None:
        self.saw.append(seen)
        return self.orders.get(int(seen.now))

    def wake(self, now: float) -> None:
        self.woken.append(now)


def told(trace: Trace, orders: dict[int, int], spares_busy: bool = False, drains: bool = False) -> tuple[Outcome, Told]:
    controller = Told(orders, spares_busy, drains)
    return run(trace, lambda *_: controller), controller


def trace(
    *arrivals: tuple[float, float], lasts: float = 100.0, wait: float = 10.0, most: int = 20, **other: Any
) -> Trace:
    return Trace("t", arrivals, lasts, policy=ScalingPolicy(wait=wait, max=most), **other)


# --- the service ----------------------------------------------------------------------------------------------------------------


def test_messages_wait_for_a_slot_first_in_first_out() -> None:
    cluster = Cluster(trace((1, 10), (2, 10), (3, 10), (4, 1), replicas=1, slots=2), 0)
    cluster.run_until(50)
    assert cluster.waits == [0, 0, 11 - 3, 12 - 4], "the third waits for the first, the fourth for the second"
    assert (cluster.done, cluster.busy, cluster.busy_squares) == (4, 31, 301)


def test_replicas_cost_from_their_order_to_their_end_and_take_time_to_start() -> None:
    outcome, controller = told(trace((0, 1), lasts=100), {10: 1, 90: 0})
    ready = next(seen.now for seen in controller.saw if seen.ready)
    assert 10 < ready - 1 < 60
    assert outcome.pod_seconds == 80
    assert (outcome.cold_starts, outcome.moved, outcome.killed) == (1, 2, 0)
    assert outcome.missed == 100
    assert outcome.p50 > 10


def test_what_is_not_started_at_the_end_is_judged_as_if_it_was_started_then() -> None:
    outcome, _ = told(trace((0, 1), (95, 1), lasts=100), {})
    assert (outcome.messages, outcome.missed, outcome.p99) == (2, 50, 100)


def test_a_replica_that_is_ended_does_what_it_has_begun() -> None:
    outcome, _ = told(trace((1, 20), (30, 1), replicas=1, grace=30), {5: 0})
    assert outcome.killed == 0
    assert outcome.pod_seconds == 21, "until its message is done"
    assert outcome.messages == 2
    assert outcome.p99 == 70, "it takes nothing new"


def test_what_is_not_done_within_the_grace_is_put_back_and_counted() -> None:
    outcome, _ = told(trace((1, 60), (2, 1), replicas=2, grace=30, lasts=200), {5: 0, 10: 1})
    assert outcome.killed == 1
    assert outcome.p99 == 34, "it waits from when it first came, for what it was worked on is lost"


def test_one_that_drains_is_never_killed_and_costs_until_it_has_said_that_it_is_done() -> None:
    outcome, controller = told(trace((1, 60), replicas=1, grace=30, lasts=200), {5: 0}, drains=True)
    assert outcome.killed == 0
    assert 61 + 5 <= outcome.pod_seconds <= 61 + 10
    assert (controller.saw[6].replicas, controller.saw[6].ready) == (0, 0), "it is no replica any more"


def test_one_that_has_not_started_does_not_drain() -> None:
    outcome, _ = told(trace((1, 1), lasts=50, startup=1000), {10: 1, 20: 0}, drains=True)
    assert outcome.pod_seconds == 10


@pytest.mark.parametrize(("spares_busy", "killed"), [(True, 0), (False, 1)])
def test_who_is_ended(spares_busy: bool, killed: int) -> None:
    """The first replica is busy; without costs Kubernetes ends the newest, of equals the first."""
    of = trace((0.5, 50), replicas=2, lasts=40, grace=0)
    assert told(of, {20: 1}, spares_busy)[0].killed == killed


def test_starting_replicas_are_ended_first() -> None:
    outcome, controller = told(trace((0.5, 50), replicas=1, lasts=90, grace=0), {20: 3, 21: 1})
    assert outcome.killed == 0
    assert controller.saw[80].ready == 1


def test_costs_are_as_old_as_the_last_report() -> None:
    """Both replicas were idle in the last report: the one that has begun since is as good a victim as the other."""
    of = trace(*((at + 0.5, 0.4) for at in range(60)), replicas=2, lasts=60)
    cluster = Cluster(of, 0)
    cluster.report(0)
    cluster.run_until(0.6)
    assert [pod.in_flight for pod in cluster.pods] == [1, 0]
    cluster.scale(1, 0.6, spares_busy=True, drains=False)
    assert [pod.in_flight for pod in cluster.pods] == [0]
    assert cluster.in_flight == 1, "it ends what it has"


def test_failures_come_back_after_their_delays_and_die_at_last() -> None:
    of = trace((0, 0.5), replicas=1, lasts=300, failing=(Failing(Span(0, 300), 0.999999),))
    cluster = Cluster(of, 0)
    cluster.run_until(300)
    assert (cluster.handled, cluster.failed, cluster.published, cluster.done) == (5, 5, 5, 5)
    cluster = Cluster(of, 0)
    cluster.run_until(1.4)
    assert cluster.handled == 1
    cluster.run_until(1.6)
    assert cluster.published == 2


def test_what_starts_while_it_is_slow_takes_longer() -> None:
    cluster = Cluster(trace((0, 1), (10, 1), (20, 1), replicas=1, slow=(Slow(Span(10, 20), 4.0),)), 0)
    cluster.run_until(50)
    assert cluster.busy == 6


def test_statistics_are_up_to_five_seconds_old_and_away_in_an_outage() -> None:
    of = trace(*((each / 4, 0.1) for each in range(400)), replicas=1, outages=(Outage(Span(40, 60)),))
    _, controller = told(of, {})
    ages = {seen.now - seen.counts.at for seen in controller.saw if seen.counts is not None}
    assert ages == {0, 1, 2, 3, 4}
    away = [seen.now for seen in controller.saw if seen.counts is None and seen.now > 10]
    assert 15 <= len(away) <= 25
    assert all(40 <= at < 65 for at in away)
    assert not any(seen.reads_zero for seen in controller.saw)
    rates = [seen.counts.rate for seen in controller.saw[20:39] if seen.counts is not None]
    assert rates == pytest.approx([4.0] * len(rates))


def test_the_figures_of_a_run() -> None:
    """Two replicas for a service that keeps one half busy: nothing waits, and three quarters are too much."""
    of = trace(*((float(at), 0.5) for at in range(300)), replicas=2, lasts=300)
    outcome, _ = told(of, {})
    assert (outcome.messages, outcome.missed, outcome.p50, outcome.p99) == (300, 0, 0, 0)
    assert outcome.pod_seconds == 600
    assert outcome.over_bound == 4
    assert outcome.under == 0
    assert outcome.over == pytest.approx((2 - 0.5) * 300 / 150)


def test_seconds_to_the_first_replica_after_a_step() -> None:
    outcome, controller = told(trace((0, 1), replicas=1, lasts=100, steps=(20.0,)), {25: 2})
    ready = next(seen.now for seen in controller.saw if seen.ready == 2)
    assert outcome.first_useful == pytest.approx(ready - 20, abs=1)


@pytest.mark.parametrize(
    ("replicas", "found"),
    [([1, 2, 3, 4], 0), ([1, 5, 2], 1), ([1, 5, 2, 3, 1], 3)],
)
def test_reversals(replicas: Sequence[int], found: int) -> None:
    assert reversals([Change(100 * at, count) for at, count in enumerate(replicas)]) == found
    assert reversals([Change(601 * at, count) for at, count in enumerate(replicas)]) == 0


# --- HPA ------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("total", "current", "wanted"),
    [(11, 10, 10), (12, 11, 11), (12, 10, 12), (9, 10, 10), (8.9, 10, 9), (0, 3, 0)],
)
def test_an_average_value_of_one(total: float, current: int, wanted: int) -> None:
    assert of_average(total, 1.0, current, 0.1 + 1e-12) == wanted


def test_no_tolerance_lets_one_more_through() -> None:
    assert of_average(12, 1.0, 11, tolerance=0.0) == 12


@pytest.mark.parametrize(
    ("used", "current", "ready", "wanted"),
    [(1.0, 4, 4, 8), (0.5, 4, 4, 4), (0.53, 4, 4, 4), (0.25, 4, 4, 2), (1.0, 4, 2, 4), (1.0, 4, 3, 6)],
)
def test_utilisation(used: float, current: int, ready: int, wanted: int) -> None:
    """Target one half. Who is not ready counts as idle where it would grow."""
    assert of_utilisation(used, 0.5, current, ready) == wanted


def test_stabilization_and_policies() -> None:
    hpa = Hpa(0, 50, window=300.0)
    assert hpa.step(0, 1, 40) == 5, "four more, or twice as many"
    assert hpa.step(15, 5, 40) == 10
    assert hpa.step(30, 10, 2) == 10, "it wanted more within five minutes"
    assert hpa.step(331, 10, 2) == 2
    assert hpa.step(346, 2, 0) == 2, "as 15 seconds ago"
    assert hpa.step(700, 2, 0) == 1, "to zero goes KEDA"
    assert Hpa(0, 50, window=0.0).step(0, 40, 60) == 50


# --- baselines ------------------------------------------------------------------------------------------------------------------

KNOWN = trace((0, 0.1), slots=1, wait=10.0, most=50)
"""A replica does 10 messages a second, and 100 in the target wait."""


def seen(
    now: float, replicas: int, waiting: int = 0, in_flight: int = 0, rate: float = 0.0, known: bool = True
) -> Seen:
    counts = Counts(now, waiting, in_flight, 0, 0, rate) if known else None
    return Seen(now, replicas, replicas, in_flight, counts, not known, None, None)


def orders(controller: Any, of: Seen, seconds: int = 60) -> set[int]:
    """All that it orders within some seconds of the same sight."""
    found = {controller.step(of._replace(now=of.now + second)) for second in range(seconds)}
    return found - {None}


def test_the_backlog_rule_as_aws_gives_it() -> None:
    """1500 messages, 10 instances, 0.1 s each, 10 s: five more."""
    assert orders(Aws(KNOWN, NO_CHOICE, backlog=1.0, period=60, calm=300), seen(0, 10, waiting=1500)) == {15}


def test_the_backlog_rule_waits_until_it_is_calm() -> None:
    rule = Aws(KNOWN, NO_CHOICE, backlog=1.0, period=15, calm=300)
    assert orders(rule, seen(0, 10, waiting=200), 290) == set()
    assert 2 in orders(rule, seen(290, 10, waiting=200), 60)
    assert orders(rule, seen(700, 1, waiting=0), 400) == {1}, "never below one"


def test_keda_counts_what_is_worked_on_and_takes_the_most_of_two_triggers() -> None:
    assert orders(Keda(KNOWN, NO_CHOICE, depth=1.0, window=0), seen(0, 10, waiting=1000, in_flight=500)) == {15}
    both = Keda(KNOWN, NO_CHOICE, depth=1.0, load=0.5, window=0)
    assert orders(both, seen(0, 10, waiting=0, in_flight=8, rate=100.0)) == {20}


def test_keda_wakes_at_its_next_poll_and_goes_to_zero_after_its_cooldown() -> None:
    rule = Keda(KNOWN, NO_CHOICE, depth=1.0, window=0)
    assert orders(rule, seen(0, 0, waiting=1), 30) == {1}
    assert 0 not in orders(rule, seen(30, 1), 270)
    assert 0 in orders(rule, seen(300, 1), 60)
    assert rule.wake(0) is None


def test_keda_reads_what_is_missing_as_nothing_and_keeps_still_on_errors() -> None:
    """keda#7180."""
    away = seen(400, 10, known=False)
    assert 0 in orders(Keda(KNOWN, NO_CHOICE, depth=1.0, window=0), away)
    assert orders(Keda(KNOWN, NO_CHOICE, depth=1.0, window=0), away._replace(reads_zero=False)) == set()


def test_a_rule_on_usage() -> None:
    assert orders(Usage(KNOWN, NO_CHOICE, used=0.5, window=0), seen(0, 4, in_flight=4), 120) == {8}
    assert orders(Usage(KNOWN, NO_CHOICE, used=0.5, window=0), seen(0, 4, in_flight=0), 120) == {1}


# --- ours -----------------------------------------------------------------------------------------------------------------------


def rule_of(samples: list[Sample], desired: int) -> Rule:
    """Wants the same always, one when it is woken, and keeps what it was given."""

    def advance(memory: int, sample: Sample, _: ScalingPolicy) -> tuple[int, Decision]:
        samples.append(sample)
        return memory + 1, Decision(desired, f"{memory}")

    return Rule(0, advance, lambda memory, at, policy: (memory, Decision(1, "woken")))


def test_our_rule_is_given_samples_every_five_seconds_as_they_would_be_known() -> None:
    samples: list[Sample] = []
    of = trace(*((each / 2, 0.2) for each in range(180)), replicas=2, slots=3, outages=(Outage(Span(50, 70)),))
    run(of, lambda tr, random: Ours(tr, random, rule=rule_of(samples, 2)))
    assert len(samples) == 20
    assert {round(b.at - a.at, 6) for a, b in itertools.pairwise(samples)} == {5}
    late = samples[4:9]
    assert all(sample.replicas == sample.ready == 2 and sample.slots == 3 for sample in late)
    assert all(sample.counted_at is not None and 0 <= sample.at - sample.counted_at < 5 for sample in late)
    assert all(sample.reported_at is not None and 0 <= sample.at - sample.reported_at < 5 for sample in late)
    away = [sample for sample in samples if sample.counted_at is None and sample.at > 20]
    assert len(away) in (3, 4, 5)
    assert all(sample.waiting is sample.in_flight is sample.done is None for sample in away)
    last = samples[-1]
    assert last.busy is not None
    assert last.handled is not None
    assert last.busy / last.handled == pytest.approx(0.2, rel=0.1)
    assert last.busy / last.handled != pytest.approx(0.2, rel=1e-6), "measured with an error"


def test_our_rule_is_woken_within_a_second() -> None:
    samples: list[Sample] = []
    outcome = run(trace((30.2, 1), lasts=100), lambda tr, random: Ours(tr, random, rule=rule_of(samples, 0)))
    assert outcome.cold_starts >= 1
    changed = next(point for point in outcome.points if point.replicas)
    assert 30 <= changed.at <= 35


def test_our_rule_through_an_hpa_is_no_faster_than_that() -> None:
    samples: list[Sample] = []
    of = trace((0, 1), replicas=1, lasts=100)
    outcome = run(of, lambda tr, random: OursThroughHpa(tr, random, rule=rule_of(samples, 18)))
    steps = [point.replicas for point in outcome.points]
    assert sorted(set(steps)) == [1, 18]
    assert steps.index(18) >= 1
    assert len(samples) == 20


def test_the_same_run_twice_and_another_with_another_seed() -> None:
    of = trace(*((each / 3, 1.0) for each in range(240)), slots=2)

    def once(seed: int) -> Outcome:
        return run(of, lambda tr, random: Keda(tr, random, depth=0.5, window=0), seed)

    assert once(1) == once(1)
    assert once(1) != once(2)
