"""Looking at what waits in the embedded broker, single active consumers and taking back, beyond the contract suite."""

import asyncio
from pathlib import Path

import pytest

from meshq.core import topology
from meshq.core.topology import CALLS, Binding, Queue, Topology
from meshq.ports import BrokerAway, Delivery, Priorities, Publication
from tests.contract.broker_rigs import Recorder, message, queue
from tests.unit.embedded_hub import Life, bodies, live

NAME = "meshq.orders.v1.dead"
PARKED = queue(NAME)
SINGLE = Topology(
    queues=(Queue("single", (("x-queue-type", "quorum"), ("x-single-active-consumer", True))),),
    bindings=(Binding(CALLS, "single", "single"),),
)


@pytest.fixture(params=["in memory", "on disk"])
def file(request: pytest.FixtureRequest, tmp_path: Path) -> Path | None:
    return tmp_path / "broker.db" if request.param == "on disk" else None


def numbered(name: str, number: int) -> list[Publication]:
    return [message(name, b"%d" % n) for n in range(number)]


def test_each_look_counts_as_a_delivery(file: Path | None) -> None:
    async def story(life: Life) -> None:
        await life.confirm(*numbered(NAME, 3))
        for time in range(5):
            held = await life.broker.hold(NAME, 2)
            assert [(d.deliveries, d.redelivered) for d in held.deliveries] == [(time, time > 0)] * 2
            await held.release()
        everything = await life.broker.hold(NAME, 10)
        assert [delivery.deliveries for delivery in everything.deliveries] == [5, 5, 0]

    live(story, file, PARKED)


def test_any_of_what_is_held_comes_back_to_its_place(file: Path | None) -> None:
    async def story(life: Life) -> None:
        await life.confirm(*numbered(NAME, 6))
        first, second = await life.broker.hold(NAME, 2), await life.broker.hold(NAME, 2)
        (figures,) = await life.broker.stats([NAME])
        assert (figures.ready, figures.in_flight, figures.consumers) == (2, 4, 0)
        assert (first.behind, second.behind) == (4, 2)
        second.deliveries[0].requeue()
        await second.release()
        await first.release()
        assert bodies(await life.inbox(NAME).count(6)) == [b"%d" % n for n in range(6)]

    live(story, file, PARKED)


def test_what_is_over_its_time_is_not_held(file: Path | None) -> None:
    async def story(life: Life) -> None:
        await life.confirm(message(NAME, b"short", expiration_ms=1000), message(NAME, b"long"))
        life.clock.advance(1)
        held = await life.broker.hold(NAME, 10)
        assert bodies(list(held.deliveries)) == [b"long"]

    live(story, file, PARKED)


def test_nothing_is_held_without_a_connection_or_of_anothers_queue() -> None:
    async def story(life: Life) -> None:
        other = life.hub.connect("billing")
        with pytest.raises(BrokerAway, match="not opened yet"):
            await other.hold(NAME, 1)
        await other.open()
        await life.broker.declare(Topology(queues=(Queue("mine", (), durable=False, exclusive=True),)))
        assert life.broker.send(Publication("", "mine", b"", "m1", "event"))
        assert (await other.hold("mine", 1)).deliveries == []
        assert len((await life.broker.hold("mine", 1)).deliveries) == 1
        assert (await life.broker.hold(NAME, 0)).deliveries == []

    live(story, None, PARKED)


def test_priorities_are_known_from_the_first_connection_on() -> None:
    async def story(life: Life) -> None:
        other = life.hub.connect("billing")
        assert other.priorities is None
        await other.open()
        await other.close()
        assert other.priorities is Priorities.STRICT

    live(story)


def test_one_consumer_gets_everything_until_it_has_settled_the_last(file: Path | None) -> None:
    async def story(life: Life) -> None:
        inboxes = [Recorder[Delivery]() for _ in range(3)]
        subscriptions = [life.broker.subscribe("single", 4, inbox) for inbox in inboxes]
        await life.confirm(*numbered("single", 7))
        held = await inboxes[0].count(4)
        subscriptions[1].cancel()  # it has nothing, so it is gone
        subscriptions[0].cancel()
        held[1].requeue()
        held[0].ack()
        held[2].requeue()
        await life.pass_time(1)
        assert [len(inbox.seen) for inbox in inboxes] == [4, 0, 0]
        (figures,) = await life.broker.stats(["single"])
        assert (figures.ready, figures.in_flight, figures.consumers) == (3, 3, 2)
        held[3].ack()
        found = await inboxes[2].count(4)
        assert bodies(found) == [b"1", b"2", b"4", b"5"]
        assert [delivery.redelivered for delivery in found] == [True, True, False, False]

    live(story, file, SINGLE)


def test_what_a_leaving_consumer_has_comes_back_when_its_connection_goes(file: Path | None) -> None:
    async def story(life: Life) -> None:
        leaver = life.hub.connect("leaver")
        await leaver.open()
        first, second = Recorder[Delivery](), Recorder[Delivery]()
        subscription = leaver.subscribe("single", 3, first)
        life.broker.subscribe("single", 10, second)
        await life.confirm(*numbered("single", 5))
        (_, middle, _) = await first.count(3)
        subscription.cancel()
        middle.requeue()
        leaver.drop("cut")
        assert bodies(await second.count(5)) == [b"%d" % n for n in range(5)]
        middle.ack()
        first.seen[0].ack()
        assert [figures.consumers for figures in await life.broker.stats(["single"])] == [1]

    live(story, file, SINGLE)


def test_what_was_withdrawn_is_not_there_after_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "broker.db"
    left = topology.subscription("orders.v1", "left", "a.b.v1")

    async def first(life: Life) -> None:
        await life.broker.declare(topology.service("orders.v1"))
        await life.broker.declare(left)
        await life.broker.withdraw(left)

    async def second(life: Life) -> None:
        assert await life.ready(topology.subscription_queue("orders.v1", "left")) == []
        assert await life.ready(topology.dead_queue("orders.v1"), topology.work_queue("orders.v1")) == [0, 0]
        await life.confirm(Publication(CALLS, topology.work_key("orders.v1"), b"", "m1", "call"))

    live(first, path)
    live(second, path)


def test_a_queue_with_something_on_its_way_in_is_not_deleted(tmp_path: Path) -> None:
    async def story(life: Life) -> None:
        told = asyncio.Event()
        life.broker.publish(message(NAME, b"kept"), lambda _: told.set())
        await life.broker.withdraw(PARKED)
        await told.wait()
        assert bodies(await life.inbox(NAME).count(1)) == [b"kept"]

    live(story, tmp_path / "broker.db", PARKED)


def test_what_another_connection_owns_is_not_withdrawn() -> None:
    async def story(life: Life) -> None:
        mine = Topology(queues=(Queue("mine", (), durable=False, exclusive=True),))
        other = life.hub.connect("billing")
        await other.open()
        await life.broker.declare(mine)
        await other.withdraw(mine)
        assert await life.ready("mine") == [0]
        await life.broker.withdraw(mine)
        assert await life.ready("mine") == []

    live(story)
