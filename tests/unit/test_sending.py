"""Durable calls over the embedded broker: accepted with 202, and in the queue of the service that is called."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Self

import pytest

from meshq import calling_expected
from meshq.adapters.clock import ManualClock
from meshq.adapters.embedded_broker import EmbeddedHub
from meshq.calling import Caller
from meshq.core import topology
from meshq.core.callreq import Call, Durable
from meshq.core.errors import Code, Problem
from meshq.core.http import HttpResponse, header
from meshq.core.instances import EMPTY, Service, Snapshot
from meshq.core.message import Fault, Message, Request, Response, decode, encode
from meshq.core.names import parse_version
from meshq.core.selectors import parse_address
from meshq.ports import Delivery, Publication, Published
from meshq.sending import Sender
from meshq.tasks import Tasks
from tests.doubles import Counted, settle, until
from tests.told_broker import ToldBroker

ORDERS = Snapshot(
    1,
    {
        "orders": Service("orders", {1: parse_version("1.0.0")}),
        "stock": Service("stock", {1: parse_version("1.0.0")}),
    },
)
ORDERED, PLAIN = "orders.v1", "stock.v1"


def call(address: str = "orders@1", *, durable: Durable | None = None, **more: object) -> Call:
    made = Call(parse_address(address), "POST", b"/a?b", [(b"X", b"1")], b"body", 30_000, None, False)
    return made._replace(durable=durable or Durable(), **more)  # type: ignore[arg-type]


class World:
    """A sender called `checkout`; `orders` takes keys, `stock` does not; somebody takes what comes to either."""

    def __init__(self, has_app: bool = True) -> None:
        self.clock = ManualClock()
        self.hub = EmbeddedHub(None, self.clock)
        self.broker = self.hub.connect("checkout")
        self.others = self.hub.connect("orders")
        self.metrics = Counted()
        self.tasks = Tasks()
        self.picture = ORDERS
        self.full: Problem | None = None
        self.looked: list[tuple[str, str]] = []
        self.accepted: list[tuple[str, str]] = []
        self.caller = Caller(self.broker, self.clock, self.metrics, lambda: self.picture, "checkout", "c-1")
        self.sender = Sender(
            self.broker,
            self.clock,
            self.metrics,
            lambda: self.picture,
            "checkout",
            self.caller,
            self.tasks,
            lambda ident, called: self.accepted.append((ident, called)),
            has_app=has_app,
            backlog=self._backlog,
        )
        self.taken: list[tuple[Delivery, Request]] = []
        self.answers: list[HttpResponse] = []

    async def __aenter__(self) -> Self:
        await self.broker.open()
        await self.others.open()
        await self.others.declare(topology.service(ORDERED, ordered=True) + topology.service(PLAIN))
        queues = [topology.work_queue(ORDERED), topology.work_queue(PLAIN)]
        for queue in (*queues, *(topology.key_queue(ORDERED, p) for p in range(topology.PARTITIONS))):
            self.others.subscribe(queue, 100, self._take)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.tasks.close()
        await self.hub.close()

    def _backlog(self, service: str, queue: str) -> Problem | None:
        self.looked.append((service, queue))
        return self.full

    def _take(self, delivery: Delivery) -> None:
        (message,) = decode(delivery.body)
        assert isinstance(message, Request)
        delivery.ack()
        self.taken.append((delivery, message))

    def send(self, made: Call | None = None) -> Callable[[], None]:
        return self.sender.send(made or call(), self.answers.append)

    async def answer(self) -> HttpResponse:
        await until(lambda: self.answers)
        return self.answers.pop(0)

    async def arrived(self) -> tuple[Delivery, Request]:
        await until(lambda: self.taken)
        return self.taken.pop(0)

    def reply(self, to: str, message: Message, user: str = "orders") -> None:
        broker = self.others if user == "orders" else self.broker
        broker.send(Publication(topology.REPLIES, to, encode(message), message.id, "reply"))


def run(test: Callable[[World], Awaitable[None]], **options: bool) -> None:
    async def inside() -> None:
        async with World(**options) as world:
            await test(world)
            await settle()
            assert not world.answers, "one answer a call"
            assert len(world.sender) == 0

    asyncio.run(inside())


def code(response: HttpResponse) -> str:
    value = header(response.headers, b"meshq-error")
    return value.decode() if value is not None else str(response.status)


def test_a_durable_call_is_accepted() -> None:
    async def test(world: World) -> None:
        world.send(call(durable=Durable(callback=b"/done"), priority=8))
        response = await world.answer()
        delivery, request = await world.arrived()
        assert request == Request(
            request.id, "POST", b"/a?b", [(b"X", b"1")], b"body", "checkout",
            accepted_ms=world.clock.mesh_ms(), callback=b"/done",
        )  # fmt: skip
        assert delivery.queue == "meshq.orders.v1.work"
        assert (delivery.user_id, delivery.reply_to) == ("checkout", "checkout.results")
        assert (delivery.message_id, delivery.properties()["priority"]) == (request.id, 8)
        assert response.status == 202
        assert response.headers == [
            (b"Content-Type", b"application/json"),
            (b"Location", b"/v1/requests/" + request.id.encode()),
            (b"Preference-Applied", b"respond-async"),
            (b"Meshq-Message-Id", request.id.encode()),
        ]
        assert json.loads(response.body) == {"id": request.id, "status": "accepted", "topic": "orders.v1"}
        assert world.accepted == [(request.id, "orders")]
        assert world.metrics.answered == {("orders", "202"): 1}

    run(test)


def test_its_deadline_goes_with_it_and_its_timeout_does_not() -> None:
    async def test(world: World) -> None:
        deadline = world.clock.mesh_ms() + 60_000
        world.send(call(deadline_ms=deadline, timeout_ms=5))
        assert (await world.answer()).status == 202
        _, request = await world.arrived()
        assert (request.deadline_ms, request.left_ms) == (deadline, None)
        world.send(call(deadline_ms=world.clock.mesh_ms()))
        assert code(await world.answer()) == "deadline"
        await settle()
        assert not world.taken

    run(test)


def test_a_trace_begins_where_there_is_none() -> None:
    async def test(world: World) -> None:
        world.send(call(needs_trace=True))
        assert (await world.answer()).status == 202
        _, request = await world.arrived()
        assert [name for name, _ in request.headers] == [b"X", b"traceparent"]

    run(test)


def test_a_selector_travels_with_it() -> None:
    async def test(world: World) -> None:
        world.send(call("orders@^1"))
        assert (await world.answer()).status == 202
        assert (await world.arrived())[1].selector == "^1"

    run(test)


# --- keys and delays --------------------------------------------------------------------------------------------------------------


def test_a_key_has_its_queue() -> None:
    async def test(world: World) -> None:
        queues = set()
        for key in ("a", "b", "a"):
            world.send(call(key=key))
            assert (await world.answer()).status == 202
            delivery, request = await world.arrived()
            assert (request.key, delivery.queue) == (key, topology.key_queue(ORDERED, topology.partition_of(key)))
            queues.add(delivery.queue)
        assert len(queues) == 2

    run(test)


@pytest.mark.parametrize("delay", [0, 5])
def test_a_key_to_a_service_that_takes_none(delay: int) -> None:
    async def test(world: World) -> None:
        world.send(call("stock", key="a", durable=Durable(delay)))
        response = await world.answer()
        assert (code(response), b"MESHQ_ORDERED" in response.body) == ("bad-header", True)
        assert not world.accepted

    run(test)


def test_a_key_to_nobody() -> None:
    async def test(world: World) -> None:
        world.send(call("nobody@1", key="a"))
        assert code(await world.answer()) == "unknown-service"
        world.send(call("stock@7", key="a"))
        assert code(await world.answer()) == "no-such-version"

    run(test)


@pytest.mark.parametrize("key", ["", "a"])
def test_a_delay_goes_up_the_ladder(key: str) -> None:
    async def test(world: World) -> None:
        world.send(call(durable=Durable(delay=5), key=key))
        assert (await world.answer()).status == 202
        (figures,) = await world.broker.stats(["meshq.delay.2"])
        assert figures.ready == 1
        assert not world.taken

    run(test)


def test_which_service_takes_keys_is_asked_once_in_a_while() -> None:
    async def test(world: World) -> None:
        for _ in range(3):
            world.send(call(durable=Durable(delay=5), key="a"))
        for _ in range(3):
            assert (await world.answer()).status == 202
        world.send(call("stock", durable=Durable(delay=5), key="a"))
        assert code(await world.answer()) == "bad-header"
        world.send(call("stock", durable=Durable(delay=5), key="a"))
        assert code(world.answers.pop()) == "bad-header", "at once: it is known"
        await world.others.declare(topology.service(PLAIN, ordered=True))
        world.clock.advance(30)
        world.send(call("stock", durable=Durable(delay=5), key="a"))
        assert (await world.answer()).status == 202

    run(test)


@pytest.mark.parametrize(("address", "expected"), [("nobody@1", "unknown-service"), ("stock@7", "no-such-version")])
def test_a_delayed_call_to_what_nobody_knows(address: str, expected: str) -> None:
    async def test(world: World) -> None:
        world.send(call(address, durable=Durable(delay=5)))
        assert code(await world.answer()) == expected
        world.picture = EMPTY
        world.send(call(address, durable=Durable(delay=5)))
        assert (await world.answer()).status == 202, "while nothing is known of anybody, a major is believed"

    run(test)


# --- refused ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("address", "picture", "expected"),
    [
        ("nobody", ORDERS, "unknown-service"),
        ("nobody@1", ORDERS, "unknown-service"),
        ("orders@9", ORDERS, "no-such-version"),
        ("orders@^9", ORDERS, "no-such-version"),
        ("orders", EMPTY, "unavailable"),
        ("nobody@1", EMPTY, "unavailable"),
        ("orders@1", EMPTY, "202"),
    ],
)
def test_what_goes_nowhere(address: str, picture: Snapshot, expected: str) -> None:
    async def test(world: World) -> None:
        world.picture = picture
        world.send(call(address))
        response = await world.answer()
        assert code(response) == expected
        assert header(response.headers, b"meshq-message-id") is not None
        assert sum(world.metrics.answered.values()) == 1

    run(test)


def test_too_much_waits_there_already() -> None:
    async def test(world: World) -> None:
        world.full = Problem(Code.OVERLOADED, "too much")
        world.send()
        response = await world.answer()
        assert (code(response), header(response.headers, b"retry-after")) == ("overloaded", b"1")
        world.send(call(key="a"))
        assert code(await world.answer()) == "overloaded"
        partition = topology.partition_of("a")
        assert world.looked == [("orders", "meshq.orders.v1.work"), ("orders", f"meshq.orders.v1.key.{partition}")]

    run(test)


def test_a_callback_needs_an_app() -> None:
    async def test(world: World) -> None:
        world.send(call(durable=Durable(callback=b"/done")))
        assert code(await world.answer()) == "bad-header"

    run(test, has_app=False)


def test_what_this_service_may_not_send() -> None:
    async def test(world: World) -> None:
        later = Durable(delay=5)
        world.caller.on_refused(topology.CALLS, "orders.v1.work", "no right")
        world.caller.on_refused(topology.DELAY, topology.delay_key(7, "meshq.stock.v1.work"), "no right")
        for made, expected in [
            (call(), "denied"),
            (call("stock"), "202"),
            (call(durable=later), "202"),
            (call("stock", durable=later), "denied"),
        ]:
            world.send(made)
            assert code(await world.answer()) == expected

    run(test)


def test_the_broker_is_away_for_a_moment() -> None:
    async def test(world: World) -> None:
        world.broker.drop("cut by the test")
        world.send()
        assert not world.answers
        await world.broker.open()
        assert (await world.answer()).status == 202
        await world.arrived()

    run(test)


def test_a_sender_that_hangs_up_has_still_sent_it() -> None:
    async def test(world: World) -> None:
        world.broker.drop("cut by the test")
        give_up = world.send()
        give_up()
        give_up()
        await world.broker.open()
        _, request = await world.arrived()
        assert world.accepted == [(request.id, "orders")]
        assert world.metrics.answered == {("orders", "hung-up"): 1}

    run(test)


# --- for who would wait a while -----------------------------------------------------------------------------------------------------

OK = Response("", 201, [(b"A", b"b")], b"done", "orders/1.0.0/i", 2)
WAIT = Durable(wait=10)
SHORT = Durable(wait=1)


def test_an_answer_in_time_is_the_answer() -> None:
    async def test(world: World) -> None:
        world.send(call(durable=WAIT))
        delivery, request = await world.arrived()
        assert (request.answer_to, delivery.reply_to) == (world.broker.reply_to, "checkout.results")
        await settle()
        assert not world.answers
        world.reply(request.answer_to, OK._replace(id=request.id))
        response = await world.answer()
        assert (response.status, response.body) == (201, b"done")
        assert response.headers == [
            (b"A", b"b"),
            (b"Meshq-Attempt", b"2"),
            (b"Meshq-Served-By", b"orders/1.0.0/i"),
            (b"Meshq-Request-Status", b"done"),
            (b"Preference-Applied", b"respond-async, wait=10"),
            (b"Meshq-Message-Id", request.id.encode()),
        ]
        assert world.accepted == [(request.id, "orders")]
        assert world.metrics.answered == {("orders", "201"): 1}
        world.clock.advance(10)

    run(test)


@pytest.mark.parametrize(
    ("result", "status", "error"),
    [
        (OK._replace(status=500, failed="attempts"), 500, None),
        (Fault("", Code.DEADLINE, "too late", False, "orders/1.0.0/i", "deadline"), 504, b"deadline"),
    ],
)
def test_a_dead_one_is_answered_as_it_would_be_when_asked_for(
    result: Response | Fault, status: int, error: bytes | None
) -> None:
    async def test(world: World) -> None:
        world.send(call(durable=WAIT))
        _, request = await world.arrived()
        world.reply(request.answer_to, result._replace(id=request.id))
        response = await world.answer()
        assert (response.status, header(response.headers, b"meshq-error")) == (status, error)
        assert header(response.headers, b"meshq-request-status") == b"failed"
        assert header(response.headers, b"meshq-request-reason") == result.failed.encode()

    run(test)


def test_no_answer_in_time() -> None:
    async def test(world: World) -> None:
        world.send(call(durable=SHORT))
        _, request = await world.arrived()
        world.clock.advance(1)
        response = await world.answer()
        assert (response.status, header(response.headers, b"preference-applied")) == (202, b"respond-async")
        world.reply(request.answer_to, OK._replace(id=request.id))
        await until(lambda: world.metrics.events["late_reply"] == 1)

    run(test)


def test_no_answer_and_not_accepted_either_in_time() -> None:
    async def test(world: World) -> None:
        broker = ToldBroker()
        sender = Sender(
            broker,  # type: ignore[arg-type]
            world.clock, world.metrics, lambda: ORDERS, "checkout", world.caller, world.tasks,
            lambda ident, called: world.accepted.append((ident, called)), has_app=True,
        )  # fmt: skip
        sender.send(call(durable=SHORT), world.answers.append)
        world.clock.advance(1)
        await until(lambda: len(world.caller) == 0)
        assert not world.answers, "nobody knows yet whether it was accepted"
        broker.say(Published.CONFIRMED)
        assert (await world.answer()).status == 202
        sender.send(call(durable=SHORT), world.answers.append)
        broker.say(Published.UNROUTABLE)
        assert code(await world.answer()) == "no-such-version"
        assert len(world.caller) == 0

    run(test)


def test_who_gives_up_waiting_frees_his_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calling_expected, "MAX_EXPECTED", 1)

    async def test(world: World) -> None:
        give_up = world.send(call(durable=WAIT))
        world.send(call(durable=WAIT))
        assert code(await world.answer()) == "overloaded"
        give_up()
        world.send(call(durable=SHORT))
        await settle()
        assert not world.answers
        world.clock.advance(1)
        assert (await world.answer()).status == 202

    run(test)


def test_an_answer_of_another_service_is_dropped() -> None:
    async def test(world: World) -> None:
        world.send(call(durable=WAIT))
        _, request = await world.arrived()
        world.reply(request.answer_to, OK._replace(id=request.id, status=500), user="checkout")
        await until(lambda: world.metrics.events["forged_reply"] == 1)
        world.reply(request.answer_to, OK._replace(id=request.id))
        assert (await world.answer()).status == 201

    run(test)


def test_without_a_place_for_answers_nobody_waits() -> None:
    async def test(world: World) -> None:
        world.broker.drop("cut by the test")
        world.send(call(durable=WAIT))
        await world.broker.open()
        assert (await world.answer()).status == 202
        assert (await world.arrived())[1].answer_to == ""

    run(test)
