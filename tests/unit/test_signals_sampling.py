"""From the broker's counts, the registry's picture and the sidecars' reports to samples: what is not known is None, never 0."""

from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from meshq.core.instances import Instance, Load, Service, Snapshot, State
from meshq.core.names import parse_version
from meshq.core.reports import Calls, Report, Reported, Work
from meshq.core.scaling_values import EVERY, Sample
from meshq.ports import QueueStats
from meshq.signals.sampling import Counts, Sampling, Seen, by_topic, topics
from meshq.signals.sums import FORGOTTEN, Sum

TOPIC, OTHER = "orders.v2", "shop.v1"
CALL, WORK, KEY, EVENT = (f"meshq.{TOPIC}.{rest}" for rest in ("call", "work", "key.3", "on.audit"))


def instance(
    ident: str, state: State = State.READY, version: str = "2.1.0", service: str = "orders", **more: Any
) -> Instance:
    known = parse_version(version)
    return Instance(service, ident, known, (known.major,), state, **more)


def picture(*instances: Instance, majors: Sequence[int] = (2,)) -> Snapshot:
    lowest = {major: parse_version(f"{major}.0.0") for major in majors}
    return Snapshot(1, {"orders": Service("orders", lowest, instances)})


def queue(
    name: str, ready: int | None = 0, in_flight: int | None = 0, done: float | None = 0.0, **more: Any
) -> QueueStats:
    return QueueStats(name, ready, in_flight, done=done, **more)


def reported(ident: str, report: Report, at_ms: int = 1, service: str = "orders") -> Reported:
    return Reported(service, ident, at_ms, report)


def work(busy: float, handled: int, failed: int = 0, topic: str = TOPIC, slots: int = 16) -> Report:
    return Report(work={topic: Work(busy, busy**2, handled, failed)}, slots=slots)


class Looks:
    """Of a mesh in which only `orders` is."""

    def __init__(self, there: Snapshot) -> None:
        self.there = there
        self.at = 1000.0
        self._sampling = Sampling()

    def look(
        self,
        queues: Sequence[QueueStats] | None = (),
        reports: Sequence[Reported] | None = (),
        *,
        away: bool = False,
        leads: Mapping[str, float | None] = {TOPIC: 9.0},
    ) -> Sample:
        """`away`: the registry does not say who is there."""
        self.at += EVERY
        seen = Seen(self.at, queues, None if away else self.there, reports)
        return self._sampling.samples(topics(self.there), seen, leads)[TOPIC]


# --- topics ---------------------------------------------------------------------------------------------------------------------


def test_every_major_of_every_service_is_a_topic() -> None:
    there = Snapshot(
        1,
        {
            "shop": Service("shop", {1: parse_version("1.4.0")}),
            "orders": picture(instance("a"), instance("b", version="2.3.0"), instance("c", version="10.0.0"), majors=(10, 2)).services["orders"],
        },
    )  # fmt: skip
    assert [(each.name, each.version, len(each.instances)) for each in topics(there)] == [
        ("orders.v2", "2.3.0", 2),
        ("orders.v10", "10.0.0", 1),
        ("shop.v1", "1.4.0", 0),
    ]


def test_who_counts_as_there() -> None:
    states = {state: Looks(picture(instance("a", state))).look() for state in State}
    assert {state for state, sample in states.items() if sample.replicas} == set(State) - {State.DRAINING, State.DOWN}
    assert {state for state, sample in states.items() if sample.ready} == {State.READY, State.SUSPECT}


# --- the broker -----------------------------------------------------------------------------------------------------------------


def test_the_queues_that_replicas_share_are_one() -> None:
    looks = Looks(picture(instance("a")))
    for more, done in ((0.0, 0.0), (1.0, 1000.0)):
        sample = looks.look(
            [
                queue(CALL, 1, 10, 5 + more * 100),
                queue(WORK, 2, 20, 5 + more * 200),
                queue(KEY, 3, 30, 5 + more * 300),
                queue(EVENT, 4, 40, 5 + more * 400),
            ]
        )
        assert (sample.waiting, sample.in_flight, sample.done) == (10, 100, done)
        assert sample.counted_at == sample.at


@pytest.mark.parametrize(
    "name",
    [
        f"meshq.{TOPIC}.dead",
        "meshq.orders.results",
        "meshq.orders.reply.i.1",
        "meshq.lost",
        "somebody.else",
        "meshq.log.orders.v2",
    ],
)
def test_other_queues_are_nobodys_work(name: str) -> None:
    assert by_topic([queue(name, 99, 99, 99.0)]) == {}


def test_a_figure_that_is_missing_of_one_queue_is_missing_of_the_topic() -> None:
    looks = Looks(picture(instance("a")))
    sample = looks.look([queue(CALL, 1, 1, 1.0), queue(WORK, None, 2, 2.0)])
    assert (sample.waiting, sample.in_flight, sample.done) == (None, 3, 0.0)
    sample = looks.look([queue(CALL, 1, None, None), queue(WORK, 1, 2, 2.0)])
    assert (sample.waiting, sample.in_flight, sample.done) == (2, None, None)


def test_keda_7180_a_broker_that_does_not_answer_has_no_empty_queues() -> None:
    looks = Looks(picture(instance("a")))
    looks.look([queue(CALL, 50, 5, 100.0)])
    sample = looks.look(None)
    assert (sample.counted_at, sample.waiting, sample.in_flight, sample.done) == (None, None, None, None)


def test_a_topic_without_a_queue_has_nothing_to_do() -> None:
    sample = Looks(picture(instance("a"))).look([queue("meshq.shop.v1.call", 5, 5, 5.0)])
    assert (sample.waiting, sample.in_flight, sample.done) == (0, 0, 0.0)
    assert sample.counted_at is not None


def test_one_queue_that_begins_anew_is_not_all_of_them() -> None:
    looks = Looks(picture(instance("a")))
    first = looks.look([queue(CALL, done=1_000_000.0), queue(WORK, done=500.0)])
    assert looks.look([queue(CALL, done=1_000_010.0), queue(WORK, done=4.0)]).done is None, "more may have left"
    again = looks.look([queue(CALL, done=1_000_015.0), queue(WORK, done=7.0)])
    assert (again.done or 0) - (first.done or 0) == 10 + 5 + 3


def test_half_an_answer_is_not_counted_again_when_the_other_half_is_back() -> None:
    looks = Looks(picture(instance("a")))
    told = [looks.look([queue(CALL, done=done)]).done for done in (500.0, 30.0, 510.0, 512.0)]
    assert told == [0.0, None, None, 2.0]


def test_a_queue_that_is_gone_takes_nothing_away_and_brings_nothing_back() -> None:
    looks = Looks(picture(instance("a")))
    first = looks.look([queue(CALL, done=100.0), queue(EVENT, done=5000.0)])
    assert looks.look([queue(CALL, done=100.0)]).done is None, "something may have left it"
    back = [queue(CALL, done=100.0), queue(EVENT, done=5007.0)]
    assert looks.look(back).done is None
    assert looks.look(back).done == (first.done or 0) + 7


def test_what_every_instance_gets_is_no_work_that_more_of_them_share() -> None:
    broadcast, ordered = f"meshq.{TOPIC}.on.audit.orders-7d9f-k3m2qa", f"meshq.{TOPIC}.on.audit.k3"
    assert by_topic([queue(broadcast, 5, 5, 5.0)]) == {}
    assert by_topic([queue(ordered, 5, 5, 5.0)])[TOPIC].waiting == 5


def test_a_single_active_consumer_counts_where_there_is_no_other_queue() -> None:
    looks = Looks(picture(instance("a")))
    assert looks.look([queue(WORK, single=True)]).single
    assert not looks.look([queue(WORK, single=True), queue(CALL)]).single
    assert not looks.look([queue(WORK)]).single
    assert not looks.look(None).single


def test_of_no_queue_the_counts_are_zero() -> None:
    assert Counts() == Counts(0, 0, {}, False, 0)


# --- the instances --------------------------------------------------------------------------------------------------------------


def test_what_instances_report_is_summed_up() -> None:
    looks = Looks(picture(instance("a"), instance("b"), instance("gone", State.DOWN)))
    sample = looks.look(
        [],
        [
            reported("a", work(10.0, 100, 1)),
            reported("b", work(2.0, 20, 2, slots=8)),
            reported("gone", work(9.0, 9, 9)),
        ],
    )
    assert (sample.busy, sample.busy_squares, sample.handled, sample.failed) == (12.0, 104.0, 120.0, 3.0)
    assert (sample.slots, sample.replicas, sample.ready) == (12.0, 2, 2)
    assert sample.lead == 9.0
    assert looks.look([], [reported("b", work(3.0, 30, 3))]).handled == 130.0, "what others did is done"
    assert looks.look([], [reported("a", work(1.0, 5)), reported("b", work(3.0, 30, 3))]).handled == 135.0, (
        "it began anew"
    )


def test_work_of_another_topic_is_not_its_own() -> None:
    sample = Looks(picture(instance("a"))).look([], [reported("a", work(10.0, 100, topic="orders.v1"))])
    assert (sample.busy, sample.handled) == (0.0, 0.0)


def test_reports_are_as_old_as_the_oldest_of_those_that_take_messages() -> None:
    looks = Looks(picture(instance("a"), instance("b"), instance("c", State.STARTING), instance("d", State.SUSPECT)))
    first = looks.look([], [reported("a", work(1, 1), 1), reported("b", work(1, 1), 1)])
    assert first.reported_at == first.at
    second = looks.look([], [reported("a", work(2, 2), 2), reported("b", work(1, 1), 1)])
    assert second.reported_at == first.at, "b said nothing new"
    third = looks.look([], [reported("a", work(2, 2), 2), reported("b", work(3, 3), 3)])
    assert third.reported_at == second.at
    assert looks.look([], [reported("a", work(2, 2), 2)]).reported_at is None, (
        "b never said anything, as far as is known"
    )


def test_where_nobody_takes_messages_there_is_nothing_to_say() -> None:
    sample = Looks(picture(instance("a", State.STARTING))).look()
    assert (sample.reported_at, sample.ready, sample.replicas) == (sample.at, 0, 1)


def test_reports_that_are_not_known() -> None:
    looks = Looks(picture(instance("a", load=Load(1, 4))))
    looks.look([], [reported("a", work(5.0, 50))])
    sample = looks.look([], None)
    assert (sample.reported_at, sample.busy, sample.busy_squares, sample.handled, sample.failed) == (None,) * 5
    assert sample.slots == 4.0, "its lease says so too"
    assert (sample.replicas, sample.ready) == (1, 1)


def test_a_registry_that_is_away() -> None:
    looks = Looks(picture(instance("a")))
    sample = looks.look([queue(CALL, 7, 0, 0.0)], None, away=True)
    assert (sample.replicas, sample.ready, sample.reported_at, sample.waiting) == (None, None, None, 7)


def test_no_slots_is_not_known() -> None:
    assert Looks(picture(instance("a"))).look([], [reported("a", work(1, 1, slots=0))]).slots is None


# --- the senders ----------------------------------------------------------------------------------------------------------------


def calls(expired: int = 0, oldest: float = 0.0, spooled: int = 0) -> Report:
    return Report(calls={TOPIC: Calls(100, 50, expired, 50 - expired, oldest)}, spooled={TOPIC: spooled})


def test_messages_on_their_senders_disks() -> None:
    looks = Looks(picture(instance("a")))
    sent = [reported("x", calls(spooled=3), service="shop"), reported("y", calls(spooled=4), service="desk")]
    assert looks.look([], sent).spooled == 7


def test_waited_calls_that_expired_are_done() -> None:
    looks = Looks(picture(instance("a")))
    first = looks.look([queue(CALL, 10, 0, 100.0)], [reported("x", calls(5), service="shop")])
    second = looks.look([queue(CALL, 10, 0, 100.0)], [reported("x", calls(9), service="shop")])
    assert (second.done or 0) - (first.done or 0) == 4


def test_those_that_expired_long_ago_do_not_come_all_at_once() -> None:
    looks = Looks(picture(instance("a")))
    assert looks.look([queue(CALL, done=100.0)], None).done is None, "nobody told of them yet"
    first = looks.look([queue(CALL, done=100.0)], [reported("x", calls(10_000), service="shop")])
    second = looks.look([queue(CALL, done=101.0)], [reported("x", calls(10_002), service="shop")])
    assert (second.done or 0) - (first.done or 0) == 3


def test_the_oldest_call_is_the_oldest_where_nothing_else_waits() -> None:
    looks = Looks(picture(instance("a")))
    sent = [reported("x", calls(oldest=2.5), service="shop"), reported("y", calls(oldest=4.0), service="desk")]
    assert looks.look([queue(CALL, 10)], sent).oldest_call == 4.0
    assert looks.look([queue(CALL, 10), queue(WORK, 1)], sent).oldest_call is None
    assert looks.look([queue(CALL, 0)], sent).oldest_call is None
    assert looks.look([queue(CALL, 10)], None).oldest_call is None
    assert looks.look([queue(CALL, 10)], sent).age_is_bound
    assert not looks.look([queue(WORK, 10)], sent).age_is_bound


# --- sums -----------------------------------------------------------------------------------------------------------------------


def test_a_sum_only_grows() -> None:
    found = Sum()
    assert not found.begun
    totals = []
    for parts in ({"a": 10.0}, {"a": 12.0, "b": 3.0}, {"b": 4.0}, {"a": 13.0}, {"a": 2.0}, {}):
        found.add(parts)
        totals.append(found.total)
    assert totals == [10, 15, 16, 17, 19, 19]
    assert found.begun


def test_a_part_that_is_gone_for_long_is_forgotten() -> None:
    found = Sum()
    found.add({"a": 100.0, "b": 1.0})
    for _ in range(FORGOTTEN - 1):
        found.add({"b": 1.0})
    found.add({"a": 101.0, "b": 1.0})
    assert found.total == 102
    for _ in range(FORGOTTEN):
        found.add({"b": 1.0})
    found.add({"a": 101.0, "b": 1.0})
    assert found.total == 203
