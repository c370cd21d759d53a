"""What the embedded broker does beyond the contract suite: exact figures, bounds, fairness, what a broken consumer costs."""

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

import pytest
import uvloop

from meshq.adapters.clock import ManualClock
from meshq.adapters.embedded_broker import EmbeddedHub
from meshq.adapters.embedded_client import EmbeddedBroker
from meshq.adapters.embedded_delivery import OVERHEAD
from meshq.adapters.embedded_turns import TURN
from meshq.adapters.store import StoreUnusable
from meshq.core import topology
from meshq.core.topology import Binding, ExchangeSpec, Queue, Topology
from meshq.ports import Delivery, Publication, Published, QueueStats
from tests.contract.broker_rigs import Recorder, Replies, message, published, queue

NAME = "meshq.orders.v1.work"
Story = Callable[[EmbeddedHub, ManualClock], Awaitable[None]]


def tell(story: Story, **limits: int) -> None:
    async def told() -> None:
        clock = ManualClock()
        hub = EmbeddedHub(None, clock, **limits)
        try:
            await asyncio.wait_for(story(hub, clock), 20)
        finally:
            await hub.close()

    uvloop.run(told())


async def client(hub: EmbeddedHub, user: str = "orders") -> EmbeddedBroker:
    broker = hub.connect(user)
    await broker.open()
    await broker.declare(queue(NAME))
    return broker


def test_figures_are_exact() -> None:
    async def story(hub: EmbeddedHub, clock: ManualClock) -> None:
        broker = await client(hub)
        assert await broker.stats([NAME]) == [QueueStats(NAME, 0, 0, 0, done=0.0, single=False)]
        clock.advance(1.0)
        for n in range(10):
            assert broker.send(message(NAME, b"", f"m{n}"))
        clock.advance(1.0)
        inbox = Recorder[Delivery]()
        broker.subscribe(NAME, 4, inbox)
        for delivery in (await inbox.count(4))[:2]:
            delivery.ack()
        await inbox.count(6)
        clock.advance(1.0)
        assert await broker.stats([NAME]) == [QueueStats(NAME, 4, 4, 1, 2.0, 10 / 2, 2 / 2, 2.0, False)]
        clock.advance(10.0)
        assert await broker.stats([NAME]) == [QueueStats(NAME, 4, 4, 1, 12.0, 0.0, 0.0, 2.0, False)]

    tell(story)


def test_single_messages_go_to_consumers_in_turn() -> None:
    async def story(hub: EmbeddedHub, clock: ManualClock) -> None:
        brokers = [await client(hub) for _ in range(3)]
        order = Recorder[int]()

        def take(number: int, delivery: Delivery) -> None:
            delivery.ack()
            order(number)

        for n, broker in enumerate(brokers):
            broker.subscribe(NAME, 10, partial(take, n))
        for n in range(6):
            brokers[0].send(message(NAME))
            await order.count(n + 1)
        assert order.seen == [0, 1, 2, 0, 1, 2]

    tell(story)


def test_priorities_are_strict_and_order_holds_within_each() -> None:
    async def story(hub: EmbeddedHub, clock: ManualClock) -> None:
        broker = await client(hub)
        for n, priority in enumerate([1, None, 9, 4, 1, 9]):
            broker.send(message(NAME, b"%d" % n, priority=priority))
        inbox = Recorder[Delivery]()
        broker.subscribe(NAME, 10, inbox)
        assert [d.body for d in await inbox.count(6)] == [b"2", b"5", b"1", b"3", b"0", b"4"]

    tell(story)


def test_the_user_is_the_publishers_own() -> None:
    async def story(hub: EmbeddedHub, clock: ManualClock) -> None:
        orders, billing = await client(hub, "orders"), await client(hub, "billing")
        inbox = Recorder[Delivery]()
        orders.subscribe(NAME, 10, inbox)
        await published(billing, message(NAME))
        await published(orders, message(NAME))
        assert [d.user_id for d in await inbox.count(2)] == ["billing", "orders"]

    tell(story)


def test_beyond_the_bound_nothing_is_taken() -> None:
    async def story(hub: EmbeddedHub, clock: ManualClock) -> None:
        broker = await client(hub)
        await published(broker, message(NAME), message(NAME, expiration_ms=1000))
        assert broker.send(message(NAME, expiration_ms=1000))
        assert not broker.send(message(NAME))
        assert await published(broker, message(NAME)) == [Published.FULL]
        inbox = Recorder[Delivery]()
        subscription = broker.subscribe(NAME, 1, inbox)
        (first,) = await inbox.count(1)
        subscription.cancel()
        assert not broker.send(message(NAME)), "what is unsettled counts too"
        first.ack()
        assert broker.send(message(NAME))
        assert not broker.send(message(NAME))
        clock.advance(1.0)
        assert await published(broker, message(NAME)) == [Published.CONFIRMED], "those over their time made room"

    tell(story, max_messages=3)


def test_bytes_are_bounded_too() -> None:
    async def story(hub: EmbeddedHub, clock: ManualClock) -> None:
        broker = await client(hub)
        assert not broker.send(message(NAME, bytes(1001)))
        assert broker.send(message(NAME, bytes(1000)))
        assert not broker.send(message(NAME, b""))

    tell(story, max_bytes=OVERHEAD + 1000)


def test_an_exclusive_queue_gives_its_room_back_when_its_client_goes() -> None:
    async def story(hub: EmbeddedHub, clock: ManualClock) -> None:
        owner, other = await client(hub), await client(hub)
        mine = Topology(queues=(Queue("mine", (), durable=False, exclusive=True),))
        await owner.declare(mine)
        inbox = Recorder[Delivery]()
        owner.subscribe("mine", 1, inbox)
        other.send(Publication("", "mine", b"", "m1", "event"))
        other.send(Publication("", "mine", b"", "m2", "event"))
        (held,) = await inbox.count(1)
        assert not other.send(message(NAME))
        elsewhere = Recorder[Delivery]()
        other.subscribe("mine", 10, elsewhere)
        await other.declare(mine)
        assert "'mine' belongs to another connection" in other.state.fault
        owner.drop("gone")
        held.ack()
        assert await other.stats(["mine"]) == []
        assert elsewhere.seen == []
        await other.declare(mine)
        assert other.state.fault == ""
        assert [s.consumers for s in await other.stats(["mine"])] == [1], "it is the other's own now"
        assert other.send(message(NAME))
        assert other.send(message(NAME))
        assert not other.send(message(NAME))

    tell(story, max_messages=2)


def test_a_consumer_that_raises_harms_nobody(caplog: pytest.LogCaptureFixture) -> None:
    async def story(hub: EmbeddedHub, clock: ManualClock) -> None:
        broker = await client(hub)
        await broker.declare(queue("meshq.billing.v1.work"))

        def broken(_: object) -> None:
            raise RuntimeError("broken")

        inbox = Recorder[Delivery]()
        broker.subscribe(NAME, 1, broken)
        broker.subscribe("meshq.billing.v1.work", 1, inbox)
        broker.on_state(broken)
        broker.publish(message(NAME), broken)
        broker.send(message("meshq.billing.v1.work"))
        await inbox.count(1)
        broker.drop("gone")
        assert not broker.state.publishing

    tell(story)
    assert [record.exc_info[1].args for record in caplog.records if record.exc_info] == [("broken",)] * 3  # type: ignore[union-attr]


def test_a_long_queue_lets_others_have_their_turn() -> None:
    async def story(hub: EmbeddedHub, clock: ManualClock) -> None:
        broker = await client(hub)
        for _ in range(10 * TURN):
            broker.send(message(NAME))
        seen: list[str] = []
        inbox = Recorder[Delivery]()

        def take(delivery: Delivery) -> None:
            if not seen:
                asyncio.get_running_loop().call_soon(seen.append, "other")
            seen.append("message")
            delivery.ack()
            inbox(delivery)

        broker.subscribe(NAME, 1, take)
        await inbox.count(10 * TURN)
        assert seen.index("other") <= TURN

    tell(story)


def test_consumers_run_in_a_turn_of_their_own() -> None:
    async def story(hub: EmbeddedHub, clock: ManualClock) -> None:
        broker = await client(hub)
        inbox, fates = Recorder[Delivery](), Recorder[Published]()
        broker.subscribe(NAME, 10, inbox)
        assert broker.send(message(NAME))
        broker.publish(message(NAME), fates)
        assert inbox.seen == []
        await inbox.count(2)

    tell(story)


def test_what_nobody_may_publish_to_is_refused() -> None:
    async def story(hub: EmbeddedHub, clock: ManualClock) -> None:
        broker = await client(hub)
        inside = Publication(topology.RETURN, NAME, b"", "m1", "call")
        nowhere = Publication("meshq.unknown", NAME, b"", "m1", "call")
        assert await published(broker, inside, nowhere) == [Published.REFUSED] * 2
        assert not broker.send(inside)
        default = Publication("", "later", b"", "m1", "call")
        assert await published(broker, default, default._replace(key=NAME)) == [
            Published.UNROUTABLE,
            Published.CONFIRMED,
        ]
        await broker.declare(queue("later"))
        assert await published(broker, default) == [Published.CONFIRMED]

    tell(story)


def test_the_parts_of_the_mesh_are_there_from_the_start() -> None:
    async def story(hub: EmbeddedHub, clock: ManualClock) -> None:
        broker = hub.connect("orders")
        await broker.open()
        names = [q.name for q in topology.shared().queues]
        assert [s.queue for s in await broker.stats(names)] == names
        five_seconds = ".".join("00000000000000000101")
        fates = await published(broker, Publication(topology.DELAY, f"{five_seconds}.{NAME}", b"", "m1", "call"))
        assert fates == [Published.CONFIRMED]
        assert [s.ready for s in await broker.stats(["meshq.delay.2", "meshq.delay.0"])] == [1, 0]

    tell(story)


def test_what_cannot_be_declared_is_said_and_the_rest_is_made() -> None:
    async def story(hub: EmbeddedHub, clock: ManualClock) -> None:
        broker = await client(hub)
        await broker.declare(
            Topology(
                (ExchangeSpec(topology.CALLS, "fanout"),),
                queue("meshq.billing.v1.work").queues,
                (Binding("meshq.absent", NAME, "a"), Binding(topology.CALLS, "meshq.missing", "b")),
            )
        )
        fault = broker.state.fault
        assert "exchange 'meshq.calls' is topic, this needs fanout" in fault
        assert "'meshq.absent' does not exist" in fault
        assert "'meshq.missing' does not exist" in fault
        assert len(await broker.stats(["meshq.billing.v1.work"])) == 1

    tell(story)


def test_a_reply_that_comes_too_late_is_told_to_nobody() -> None:
    async def story(hub: EmbeddedHub, clock: ManualClock) -> None:
        broker = await client(hub)
        replies = Replies()
        broker.open_replies("orders", "a", replies)
        assert broker.send(Publication(topology.REPLIES, "orders.b.1", b"", "late", "reply"))
        assert broker.send(message("nowhere", ident="lost"))
        assert await replies.unroutable.count(1) == ["lost"]

    tell(story)


def test_a_consumer_must_be_able_to_hold_something() -> None:
    async def story(hub: EmbeddedHub, clock: ManualClock) -> None:
        with pytest.raises(ValueError, match="prefetch 0"):
            (await client(hub)).subscribe(NAME, 0, lambda _: None)

    tell(story)


def test_a_client_that_comes_and_goes_leaves_nothing() -> None:
    async def story(hub: EmbeddedHub, clock: ManualClock) -> None:
        broker = await client(hub)
        broker.open_replies("orders", "a", Replies())
        addresses = set()
        for _ in range(50):
            addresses.add(broker.reply_to)
            broker.drop("cut")
            await broker.open()
            broker.subscribe(NAME, 1, partial(Delivery.ack)).cancel()
        assert len(addresses) == 50
        old = [topology.reply_queue("orders", "a", address.rpartition(".")[2]) for address in addresses]
        assert await broker.stats(old) == []
        assert [s.consumers for s in await broker.stats([NAME])] == [0]

    tell(story)


def test_a_path_that_is_a_directory_is_named(tmp_path: Path) -> None:
    path = tmp_path / "broker.db"
    path.mkdir()
    with pytest.raises(StoreUnusable, match=str(path)):
        EmbeddedHub(path, ManualClock())
