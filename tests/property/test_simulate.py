"""The simulated service, whatever comes and however it is scaled: nothing is lost, nothing is done twice at once, order holds."""

from hypothesis import given, settings
from hypothesis import strategies as st

from meshq.simulate.cluster import Cluster
from meshq.simulate.outcomes import Change, reversals
from meshq.simulate.traces import BadTrace, Failing, Span, Trace, parse

LASTS = 120
ARRIVALS = st.lists(st.tuples(st.floats(0, LASTS), st.floats(0, 30)), max_size=40).map(
    lambda found: tuple(sorted(found))
)
TRACES = st.builds(
    Trace,
    name=st.just("t"),
    arrivals=ARRIVALS,
    lasts=st.just(float(LASTS)),
    slots=st.integers(1, 3),
    replicas=st.integers(0, 3),
    startup=st.floats(0.5, 30),
    grace=st.sampled_from((0.0, 5.0, 1000.0)),
    failing=st.sampled_from(((), (Failing(Span(0, LASTS), 0.5),))),
)
Order = tuple[int, int, bool, bool]
"""When, how many, whether the busy are spared, and whether those that go drain."""
ORDERS = st.lists(st.tuples(st.integers(0, LASTS), st.integers(0, 6), st.booleans(), st.booleans()), max_size=12).map(
    sorted
)


def driven(trace: Trace, orders: list[Order], seed: int = 0) -> Cluster:
    cluster = Cluster(trace, seed)
    for at, wanted, spares_busy, drains in orders:
        cluster.run_until(at)
        cluster.report(at)
        cluster.scale(wanted, at, spares_busy=spares_busy, drains=drains)
        assert len(cluster.pods) == wanted
        assert 0 <= cluster.ready <= wanted
    cluster.run_until(LASTS)
    return cluster


@given(TRACES, ORDERS)
def test_every_message_is_done_waits_or_is_worked_on(trace: Trace, orders: list[Order]) -> None:
    cluster = driven(trace, orders)
    assert cluster.published == cluster.done + len(cluster.queue) + cluster.in_flight
    assert cluster.done == cluster.handled >= cluster.failed
    assert cluster.published >= len(trace.arrivals)
    if not trace.failing:
        assert cluster.published == len(trace.arrivals)
    cluster.close(LASTS)
    assert len(cluster.waits) == cluster.published
    assert all(0 <= wait <= LASTS for wait in cluster.waits)


@given(TRACES, ORDERS)
def test_work_takes_replicas_and_nothing_waits_while_one_is_free(trace: Trace, orders: list[Order]) -> None:
    cluster = driven(trace, orders)
    if cluster.queue:
        assert all(pod.in_flight == trace.slots for pod in cluster.pods[: cluster.ready] if pod.ready_at <= LASTS)
    assert all(0 <= pod.in_flight <= trace.slots for pod in cluster.pods)
    cluster.close(LASTS)
    assert cluster.busy <= cluster.pod_seconds * trace.slots + 1e-6
    most = max([trace.replicas, *(wanted for _, wanted, *_ in orders)])
    assert cluster.pod_seconds <= (most + len(orders) * 6) * LASTS + 1e-6


@given(TRACES, ORDERS)
def test_with_grace_enough_nothing_is_killed(trace: Trace, orders: list[Order]) -> None:
    cluster = driven(trace, orders)
    if trace.grace >= 30:
        assert cluster.killed == 0


@given(TRACES, ORDERS)
def test_those_that_drain_are_never_killed(trace: Trace, orders: list[Order]) -> None:
    cluster = driven(trace, [(at, wanted, spares_busy, True) for at, wanted, spares_busy, _ in orders])
    assert cluster.killed == 0


@given(TRACES)
def test_one_replica_with_one_slot_keeps_the_order(trace: Trace) -> None:
    cluster = Cluster(Trace("t", trace.arrivals, trace.lasts, replicas=1), 0)
    cluster.run_until(LASTS)
    begins = [at + wait for (at, _), wait in zip(trace.arrivals, cluster.waits, strict=False)]
    assert begins == sorted(begins)


@given(TRACES, ORDERS, st.integers(0, 3))
def test_the_same_again(trace: Trace, orders: list[Order], seed: int) -> None:
    first, second = driven(trace, orders, seed), driven(trace, orders, seed)
    assert first.waits == second.waits
    assert (first.pod_seconds, first.killed, first.starts) == (second.pod_seconds, second.killed, second.starts)


@given(st.lists(st.tuples(st.floats(0, 700), st.integers(0, 9)), max_size=20))
def test_there_are_fewer_reversals_than_changes(gaps: list[tuple[float, int]]) -> None:
    at, changes = 0.0, [Change(0.0, 5)]
    for gap, replicas in gaps:
        at += gap
        if replicas != changes[-1].replicas:
            changes.append(Change(at, replicas))
    assert 0 <= reversals(changes) <= max(0, len(changes) - 2)
    upside_down = [Change(change.at, -change.replicas) for change in changes]
    assert reversals(upside_down) == reversals(changes)


@settings(max_examples=200)
@given(st.lists(st.text(max_size=30), max_size=6))
def test_no_text_breaks_the_reader(lines: list[str]) -> None:
    found = outcome_of(lines)
    assert found.lasts > 0 if isinstance(found, Trace) else found.startswith("t.csv, line ")


def outcome_of(lines: list[str]) -> Trace | str:
    try:
        return parse(lines, "t", "t.csv")
    except BadTrace as error:
        return str(error)
