"""What the AMQP adapter makes of a broker that is short of memory or disk, and of queues and channels that it takes away: over a
node of its own, because alarms and time limits are a whole node's."""

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import pytest
import uvloop

from meshq.adapters import amqp, amqp_channel
from meshq.adapters.amqp import AmqpBroker
from meshq.adapters.amqp_publisher import WINDOW_BYTES, WINDOW_MESSAGES
from meshq.adapters.clock import SystemClock
from meshq.ports import BrokerAway, BrokerState, Delivery, Published
from tests.contract.broker_rigs import Recorder, eventually, message, published, queue
from tests.servers.processes import NoServer
from tests.servers.rabbitmq import Cluster, installed, local_cluster

pytestmark = [pytest.mark.rabbitmq, pytest.mark.timeout(200)]

ORDERS = "meshq.orders.v1.work"
ALARMS = {
    "memory": (("set_vm_memory_high_watermark", "0.000001"), ("set_vm_memory_high_watermark", "0.1")),
    "disk": (("set_disk_free_limit", "900GB"), ("set_disk_free_limit", "50MB")),
}


@pytest.fixture(scope="module")
def node() -> Iterator[Cluster]:
    """One node that is nobody else's."""
    script = installed()
    if script is None:
        raise NoServer("an alarm needs a node of its own: install RabbitMQ on this machine")
    with local_cluster(script, size=1) as cluster:
        yield cluster


def run(cluster: Cluster, test: Callable[..., Coroutine[Any, Any, None]], *more: Any) -> None:
    """`test(client, other, *more)` with two clients in a virtual host of its own."""
    vhost = cluster.new_vhost()

    async def body() -> None:
        clients = [AmqpBroker(cluster.url(vhost), name=name, clock=SystemClock()) for name in ("one", "other")]
        try:
            async with asyncio.timeout(120):
                for client in clients:
                    await client.open()
                await test(*clients, *more)
        finally:
            for client in clients:
                await client.close()

    try:
        uvloop.run(body())
    finally:
        cluster.delete_vhost(vhost)


@pytest.mark.parametrize("alarm", ALARMS)
def test_an_alarm_blocks_publishers_at_once_and_nobody_else(node: Cluster, alarm: str) -> None:
    on, off = ALARMS[alarm]

    async def test(client: AmqpBroker, other: AmqpBroker) -> None:
        await client.declare(queue(ORDERS))
        assert (
            await published(client, *(message(ORDERS, b"%d" % n, f"m{n}") for n in range(5)))
            == [Published.CONFIRMED] * 5
        )
        states, fates = Recorder[BrokerState](), Recorder[Published]()
        client.on_state(states)
        await asyncio.to_thread(node.nodes[0].ctl, *on)
        try:
            # The broker says so at the first publication under the alarm, which it may or may not have read.
            client.publish(message(ORDERS, b"first", "first"), fates)
            await states.until(lambda seen: any("blocks publishers" in state.fault for state in seen))
            assert (client.state.publishing, client.state.consuming) == (False, True)
            assert not client.send(message(ORDERS))
            assert (
                await published(client, *(message(ORDERS, bytes(2**20)) for _ in range(100))) == [Published.AWAY] * 100
            )
            found = Recorder[Delivery]()
            other.subscribe(ORDERS, 2, lambda delivery: (delivery.ack(), found(delivery))[1])
            assert [delivery.body for delivery in await found.count(5)][:5] == [b"%d" % n for n in range(5)]
        finally:
            await asyncio.to_thread(node.nodes[0].ctl, *off)
        await states.until(lambda seen: seen[-1] == BrokerState(True, True, ""))
        assert await fates.count(1) == [Published.CONFIRMED], "it was not given up, so nobody repeats it"
        assert await published(client, message(ORDERS, b"after", "after")) == [Published.CONFIRMED]
        await found.until(
            lambda seen: [d.body for d in seen if d.message_id in ("first", "after")] == [b"first", b"after"]
        )

    run(node, test)


def test_a_delivery_that_is_kept_too_long_comes_to_another(node: Cluster) -> None:
    """The broker closes the channel with PRECONDITION_FAILED and takes back all that was on it; consuming goes on."""

    async def test(client: AmqpBroker, other: AmqpBroker) -> None:
        await client.declare(queue(ORDERS))
        await published(client, *(message(ORDERS, b"%d" % n, f"m{n}") for n in range(3)))
        found = Recorder[Delivery]()
        client.subscribe(ORDERS, 2, found)
        first, second = await found.count(2)
        again = (await found.count(4))[2:]
        assert [(delivery.body, delivery.redelivered) for delivery in again] == [(b"0", True), (b"1", True)]
        assert not first.live
        assert not second.live
        first.ack()
        for delivery in again:
            delivery.ack()
        third = (await found.until(lambda seen: seen[-1].body == b"2"))[-1]
        third.ack()
        assert client.state == BrokerState(True, True, "")

    limits = (
        "application:set_env(rabbit, consumer_timeout, {}), application:set_env(rabbit, channel_tick_interval, {})."
    )
    node.nodes[0].ctl("eval", limits.format(1000, 300))
    try:
        run(node, test)
    finally:
        node.nodes[0].ctl("eval", limits.format(1_800_000, 60_000))


def test_what_waits_for_its_confirm_is_bounded(node: Cluster) -> None:
    async def test(client: AmqpBroker, other: AmqpBroker) -> None:
        await client.declare(queue(ORDERS))
        await eventually(lambda: _taken(client))
        fates = Recorder[Published]()
        for n in range(WINDOW_MESSAGES + 10):
            client.publish(message(ORDERS, b"x", f"m{n}"), fates)
        assert fates.seen == [Published.FULL] * 10
        await fates.count(WINDOW_MESSAGES + 10)
        assert fates.seen.count(Published.CONFIRMED) == WINDOW_MESSAGES
        fates = Recorder[Published]()
        large, count = bytes(2**22), 0
        while not fates.seen:
            client.publish(message(ORDERS, large, f"l{count}"), fates)
            count += 1
        assert fates.seen[0] in (Published.FULL, Published.AWAY)  # the window, or before it what the socket takes
        assert (count - 1) * len(large) <= WINDOW_BYTES
        await fates.count(count)

    run(node, test)


async def _taken(client: AmqpBroker) -> bool:
    return await published(client, message(ORDERS)) == [Published.CONFIRMED]


def test_a_queue_that_goes_without_a_word_is_missed(node: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """As it happens to a quorum queue whose members the broker cannot ask when it is deleted."""
    monkeypatch.setattr(amqp, "LOOK_EVERY", 0.5)

    async def test(client: AmqpBroker, other: AmqpBroker) -> None:
        await client.declare(queue(ORDERS))
        found = Recorder[Delivery]()
        client.subscribe(ORDERS, 2, found)
        await published(client, message(ORDERS, b"before"))
        (await found.count(1))[0].ack()
        vhost = client._url.vhost
        forget = (
            f'{{ok, Q}} = rabbit_amqqueue:lookup(rabbit_misc:r(<<"{vhost}">>, queue, <<"{ORDERS}">>)), '
            "ok = ra:force_delete_server(quorum_queues, amqqueue:get_pid(Q)), "
            'rabbit_amqqueue:internal_delete(amqqueue:get_name(Q), <<"test">>).'
        )
        await asyncio.to_thread(node.nodes[0].ctl, "eval", forget)

        async def there_again() -> bool:
            return await published(other, message(ORDERS, b"after", "m2")) == [Published.CONFIRMED]

        await eventually(there_again)
        await found.until(lambda seen: b"after" in [delivery.body for delivery in seen])

    run(node, test)


def test_a_queue_that_cannot_say_what_is_in_it_is_left_alone(node: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """Asked for its figures while it has no leader, a quorum queue is empty and unused, says the broker."""
    monkeypatch.setattr(amqp_channel, "OPERATION_TIMEOUT", 2.0)

    async def test(client: AmqpBroker, other: AmqpBroker) -> None:
        await client.declare(queue(ORDERS))
        await eventually(lambda: _taken(client))
        vhost = client._url.vhost
        leader = (
            f'{{ok, Q}} = rabbit_amqqueue:lookup(rabbit_misc:r(<<"{vhost}">>, queue, <<"{ORDERS}">>)), '
            "sys:{}(element(1, amqqueue:get_pid(Q)))."
        )
        await asyncio.to_thread(node.nodes[0].ctl, "eval", leader.replace("{}", "suspend"))
        try:
            assert [(stats.ready, stats.consumers) for stats in await other.stats([ORDERS])] == [(0, 0)]
            await client.withdraw(queue(ORDERS))
            with pytest.raises(BrokerAway, match=r"does not answer"):
                await other.hold(ORDERS, 10)
        finally:
            await asyncio.to_thread(node.nodes[0].ctl, "eval", leader.replace("{}", "resume"))

        async def held() -> bool:
            found = await other.hold(ORDERS, 10)
            await found.release()
            return len(found.deliveries) == 1

        await eventually(held)

    run(node, test)
