"""Durable calls on every broker: 202 says that the message is there, whatever happens to the connection in between."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Self

import pytest

from meshq.adapters.clock import SystemClock
from meshq.calling import Caller
from meshq.core import topology
from meshq.core.callreq import Call, Durable
from meshq.core.http import HttpResponse, header
from meshq.core.instances import Service, Snapshot
from meshq.core.message import Request, Response, decode, encode
from meshq.core.names import parse_version
from meshq.core.selectors import parse_address
from meshq.ports import Broker, Delivery, Publication
from meshq.sending import Sender
from meshq.tasks import Tasks
from tests.contract.broker_rigs import BrokerRig, Recorder, eventually
from tests.doubles import Counted

ONE = parse_version("1.0.0")
PICTURE = Snapshot(1, {name: Service(name, {1: ONE}) for name in ("orders", "stock")})
OK = Response("", 200, [], b"done", "orders/1.0.0/i")


class World:
    """Somebody who sends, and what comes to `orders.v1`, which takes keys; `stock.v1` takes none."""

    def __init__(self, rig: BrokerRig, broker: Broker, orders: Broker) -> None:
        self.rig, self.broker, self.orders = rig, broker, orders
        clock, metrics = SystemClock(), Counted()
        self.tasks = Tasks()
        # The rig's clients are one user, so nothing is proved here; tests/unit has that.
        self.caller = Caller(broker, clock, metrics, lambda: PICTURE, "checkout", "c-1")
        self.sender = Sender(
            broker, clock, metrics, lambda: PICTURE, "checkout", self.caller, self.tasks, lambda *_: None, has_app=True
        )
        self.answers = Recorder[HttpResponse]()
        self.arrived = Recorder[tuple[Delivery, Request]]()

    @classmethod
    async def make(cls, rig: BrokerRig) -> Self:
        broker, orders = rig.client(), await rig.connect()
        world = cls(rig, broker, orders)
        await orders.declare(
            topology.shared() + topology.service("orders.v1", ordered=True) + topology.service("stock.v1")
        )
        await broker.open()
        return world

    def consume(self) -> None:
        names = [topology.key_queue("orders.v1", partition) for partition in range(topology.PARTITIONS)]
        for queue in (topology.work_queue("orders.v1"), *names):
            self.orders.subscribe(queue, 500, self._take)

    def _take(self, delivery: Delivery) -> None:
        (message,) = decode(delivery.body)
        assert isinstance(message, Request)
        delivery.ack()
        self.arrived((delivery, message))

    def send(self, address: str = "orders@1", *, durable: Durable | None = None, **more: object) -> None:
        call = Call(parse_address(address), "POST", b"/a", [], b"body", 30_000, None, False)
        self.sender.send(call._replace(durable=durable or Durable(), **more), self.answers)  # type: ignore[arg-type]

    async def has_50(self) -> bool:
        (figures,) = await self.orders.stats([topology.work_queue("orders.v1")])
        return figures.ready == 50


@asynccontextmanager
async def sending(rig: BrokerRig) -> AsyncIterator[World]:
    world = await World.make(rig)
    yield world
    await world.tasks.close()


def code(response: HttpResponse) -> str:
    value = header(response.headers, b"meshq-error")
    return value.decode() if value is not None else str(response.status)


def ident(response: HttpResponse) -> str:
    assert response.status == 202
    return str(json.loads(response.body)["id"])


async def test_accepted_is_what_the_queue_has(rig: BrokerRig) -> None:
    async with sending(rig) as world:
        for _ in range(50):
            world.send()
        ids = [ident(response) for response in await world.answers.count(50)]
        await eventually(world.has_50)  # RabbitMQ's figures are a moment old
        assert len(set(ids)) == 50
        world.consume()
        arrived = await world.arrived.count(50)
        assert [request.id for _, request in arrived] == ids
        delivery, request = arrived[0]
        assert (request.durable, request.body, request.caller) == (True, b"body", "checkout")
        assert (delivery.message_id, delivery.reply_to) == (request.id, "checkout.results")


async def test_a_key_goes_to_its_own_queue(rig: BrokerRig) -> None:
    async with sending(rig) as world:
        world.consume()
        world.send(key="customer-7")
        await world.answers.count(1)
        ((delivery, request),) = await world.arrived.count(1)
        partition = topology.partition_of("customer-7")
        assert (delivery.queue, request.key) == (topology.key_queue("orders.v1", partition), "customer-7")


@pytest.mark.parametrize("delay", [0, 1])
async def test_a_key_to_a_service_that_takes_none(rig: BrokerRig, delay: int) -> None:
    async with sending(rig) as world:
        world.send("stock@1", key="customer-7", durable=Durable(delay))
        (response,) = await world.answers.count(1)
        assert (code(response), b"MESHQ_ORDERED" in response.body) == ("bad-header", True)


@pytest.mark.parametrize(("address", "expected"), [("nobody@1", "unknown-service"), ("orders@7", "no-such-version")])
async def test_what_no_queue_takes(rig: BrokerRig, address: str, expected: str) -> None:
    async with sending(rig) as world:
        world.send(address)
        (response,) = await world.answers.count(1)
        assert code(response) == expected


@pytest.mark.parametrize("key", ["", "customer-7"])
async def test_a_delayed_one_comes_later(rig: BrokerRig, key: str) -> None:
    async with sending(rig) as world:
        world.consume()
        clock = SystemClock()
        since = clock.monotonic()
        world.send(durable=Durable(delay=1), key=key, target=b"/later")
        world.send()
        assert {response.status for response in await world.answers.count(2)} == {202}
        first, second = await world.arrived.count(2)
        assert (first[1].target, second[1].target) == (b"/a", b"/later")
        assert clock.monotonic() - since >= 1
        assert second[0].reply_to == "checkout.results", "the way through the delay levels changes nothing"


async def test_a_waited_call_with_a_key(rig: BrokerRig) -> None:
    async with sending(rig) as world:
        world.consume()
        call = Call(parse_address("orders@1"), "POST", b"/a", [], b"body", 30_000, None, False, key="customer-7")
        world.caller.call(call, world.answers)
        ((delivery, request),) = await world.arrived.count(1)
        answer = encode(OK._replace(id=request.id))
        world.orders.send(Publication(topology.REPLIES, delivery.reply_to, answer, request.id, "reply"))
        assert (await world.answers.count(1))[0].body == b"done"
        world.caller.call(call._replace(address=parse_address("stock@1")), world.answers)
        assert code((await world.answers.count(2))[1]) == "bad-header"


async def test_an_answer_in_time(rig: BrokerRig) -> None:
    async with sending(rig) as world:
        world.consume()
        world.send(durable=Durable(wait=20))
        ((_, request),) = await world.arrived.count(1)
        answer = encode(OK._replace(id=request.id))
        world.orders.send(Publication(topology.REPLIES, request.answer_to, answer, request.id, "reply"))
        (response,) = await world.answers.count(1)
        assert (response.status, response.body) == (200, b"done")
        assert header(response.headers, b"preference-applied") == b"respond-async, wait=20"


async def test_with_the_connection_cut_nothing_accepted_is_lost(rig: BrokerRig) -> None:
    async with sending(rig) as world:
        world.consume()
        for number in range(6):
            for _ in range(100):
                world.send()
            if number % 2:
                await rig.cut(world.broker)
            await world.answers.count(100 * (number + 1))
        assert {response.status for response in world.answers.seen} == {202}
        ids = {ident(response) for response in world.answers.seen}
        await world.arrived.until(lambda seen: ids <= {request.id for _, request in seen})
        assert len(ids) == 600


async def test_before_there_is_a_connection(rig: BrokerRig) -> None:
    orders = await rig.connect()
    await orders.declare(topology.shared() + topology.service("orders.v1"))
    world = World(rig, rig.client(), orders)
    world.send()
    assert not world.answers.seen
    await world.broker.open()
    assert (await world.answers.count(1))[0].status == 202
    await world.tasks.close()


async def test_after_a_while_without_the_broker_it_is_unavailable(rig: BrokerRig) -> None:
    world = World(rig, rig.client(), rig.client())
    world.send()
    (response,) = await world.answers.count(1)
    assert (code(response), header(response.headers, b"retry-after")) == ("unavailable", b"1")
    world.send()
    assert code(world.answers.seen[1]) == "unavailable", "at once, now that it is away for longer"
