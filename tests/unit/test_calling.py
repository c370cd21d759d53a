"""Waited calls over the embedded broker: every call has one answer, whatever becomes of it."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Self

import pytest

from meshq import calling_holding, calling_waiting
from meshq.adapters.clock import ManualClock
from meshq.adapters.embedded_broker import EmbeddedHub
from meshq.adapters.embedded_client import EmbeddedBroker
from meshq.calling import Caller
from meshq.core import topology
from meshq.core.callreq import Call
from meshq.core.errors import Code, Problem
from meshq.core.http import HttpResponse, header
from meshq.core.instances import EMPTY, Instance, Service, Snapshot, State
from meshq.core.message import Fault, Message, Request, Response, decode, encode
from meshq.core.names import parse_version
from meshq.core.selectors import parse_address
from meshq.ports import Delivery, Publication
from tests.doubles import Counted, settle, until

ORDERS = Snapshot(1, {"orders": Service("orders", {1: parse_version("1.0.0")})})
WITH_ORDERS = Snapshot(
    2,
    {
        "orders": Service(
            "orders", {1: parse_version("1.0.0")}, (Instance("orders", "i", parse_version("1.0.0"), (1,), State.READY),)
        )
    },
)


def call(address: str = "orders@1", method: str = "GET", *, timeout_ms: int = 30_000, **more: object) -> Call:
    made = Call(parse_address(address), method, b"/a?b", [(b"X", b"1")], None, timeout_ms, None, False)
    return made._replace(**more)  # type: ignore[arg-type]


class World:
    """A caller called `checkout`, and the queue of `orders.v1` with somebody who takes what comes."""

    def __init__(self, callers_user: str = "checkout", consume: bool = True, room: int = 100_000) -> None:
        self.clock = ManualClock()
        self.hub = EmbeddedHub(None, self.clock, max_messages=room)
        self.broker = self.hub.connect(callers_user)
        self.orders = self.hub.connect("orders")
        self.metrics = Counted()
        self.picture = ORDERS
        self.caller = Caller(self.broker, self.clock, self.metrics, lambda: self.picture, "checkout", "c-1")
        self.taken: list[tuple[Delivery, Request]] = []
        self.answers: list[HttpResponse] = []
        self._consume = consume

    async def __aenter__(self) -> Self:
        await self.broker.open()
        await self.orders.open()
        if self._consume:
            await self.orders.declare(topology.service("orders.v1"))
            self.orders.subscribe("meshq.orders.v1.call", 20_000, self._take)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.hub.close()

    def _take(self, delivery: Delivery) -> None:
        (message,) = decode(delivery.body)
        assert isinstance(message, Request)
        delivery.ack()
        self.taken.append((delivery, message))

    def ask(self, made: Call | None = None) -> Callable[[], None]:
        return self.caller.call(made or call(), self.answers.append)

    async def ask_one(self, made: Call | None = None) -> tuple[str, Request]:
        """(where the reply goes, what was asked)"""
        before = len(self.taken)
        self.ask(made)
        await until(lambda: len(self.taken) > before)
        delivery, request = self.taken[-1]
        return delivery.reply_to, request

    def reply(self, to: str, message: Message, broker: EmbeddedBroker | None = None) -> None:
        (broker or self.orders).send(Publication(topology.REPLIES, to, encode(message), message.id, "reply"))

    async def answer(self) -> HttpResponse:
        await until(lambda: self.answers)
        return self.answers.pop(0)


def run(test: Callable[[World], Awaitable[None]], **options: object) -> None:
    async def inside() -> None:
        async with World(**options) as world:  # type: ignore[arg-type]
            await test(world)
            await settle()
            assert not world.answers, "one answer a call"

    asyncio.run(inside())


def code(response: HttpResponse) -> str:
    value = header(response.headers, b"meshq-error")
    return value.decode() if value is not None else str(response.status)


def retryable(response: HttpResponse) -> bool:
    return bool(json.loads(response.body)["retryable"])


OK = Response("", 201, [(b"A", b"b")], b"done", "orders/1.0.0/i", 2)


def test_a_call_is_answered() -> None:
    async def test(world: World) -> None:
        to, request = await world.ask_one(call(deadline_ms=world.clock.mesh_ms() + 5000))
        assert request == Request(
            request.id, "GET", b"/a?b", [(b"X", b"1")], None, "checkout", "", world.clock.mesh_ms() + 5000, 5000
        )
        assert world.taken[0][0].user_id == "checkout"
        world.reply(to, OK._replace(id=request.id))
        response = await world.answer()
        assert (response.status, response.body) == (201, b"done")
        assert response.headers == [
            (b"A", b"b"),
            (b"Meshq-Attempt", b"2"),
            (b"Meshq-Served-By", b"orders/1.0.0/i"),
            (b"Meshq-Message-Id", request.id.encode()),
        ]
        assert (len(world.caller), world.metrics.answered) == (0, {("orders", "201"): 1})

    run(test)


def test_a_fault_is_answered_as_a_problem() -> None:
    async def test(world: World) -> None:
        to, request = await world.ask_one()
        world.reply(to, Fault(request.id, Code.NO_SUCH_VERSION, "none here", False, "orders/1.0.0/i"))
        response = await world.answer()
        assert (response.status, code(response), json.loads(response.body)["detail"]) == (
            404,
            "no-such-version",
            "none here",
        )
        assert header(response.headers, b"meshq-served-by") == b"orders/1.0.0/i"
        assert world.metrics.answered == {("orders", "no-such-version"): 1}

    run(test)


def test_a_trace_begins_where_there_is_none() -> None:
    async def test(world: World) -> None:
        _, request = await world.ask_one(call(needs_trace=True))
        assert [name for name, _ in request.headers] == [b"X", b"traceparent"]
        _, other = await world.ask_one(call(needs_trace=True))
        assert request.headers[1] != other.headers[1]

    run(test)


def test_whoever_answers_does_not_speak_as_the_mesh() -> None:
    async def test(world: World) -> None:
        to, request = await world.ask_one()
        forged = [
            (b"Meshq-Error", b"\xff"),
            (b"Transfer-Encoding", b"chunked"),
            (b"Content-Length", b"99"),
            (b"B", b"2"),
        ]
        world.reply(to, OK._replace(id=request.id, headers=forged))
        response = await world.answer()
        assert [n for n, _ in response.headers] == [b"B", b"Meshq-Attempt", b"Meshq-Served-By", b"Meshq-Message-Id"]

    run(test)


def test_the_length_of_a_body_that_is_not_there_arrives() -> None:
    async def test(world: World) -> None:
        to, request = await world.ask_one(call(method="HEAD"))
        world.reply(to, OK._replace(id=request.id, headers=[(b"Content-Length", b"99")], body=b""))
        assert header((await world.answer()).headers, b"content-length") == b"99"

    run(test)


# --- nowhere to go -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("address", "picture", "expected"),
    [
        ("nobody", ORDERS, "unknown-service"),
        ("nobody@1", ORDERS, "unknown-service"),
        ("orders@9", ORDERS, "no-such-version"),
        ("orders@^9", ORDERS, "no-such-version"),
        ("orders", EMPTY, "unavailable"),
    ],
)
def test_what_goes_nowhere(address: str, picture: Snapshot, expected: str) -> None:
    async def test(world: World) -> None:
        world.picture = picture
        world.ask(call(address))
        response = await world.answer()
        assert code(response) == expected
        assert header(response.headers, b"meshq-message-id") is not None
        assert (len(world.caller), sum(world.metrics.answered.values())) == (0, 1)

    run(test)


# --- time ------------------------------------------------------------------------------------------------------------------------


def test_no_answer_in_time() -> None:
    async def test(world: World) -> None:
        to, request = await world.ask_one(call(timeout_ms=20))
        _, unsafe = await world.ask_one(call(method="POST", timeout_ms=21))
        world.clock.advance(0.021)
        first, second = await world.answer(), await world.answer()
        assert (code(first), retryable(first)) == ("deadline", True)
        assert (code(second), retryable(second)) == ("deadline", False)
        assert "no instance of orders is ready" in json.loads(first.body)["detail"]
        world.reply(to, OK._replace(id=request.id))
        world.reply(to, OK._replace(id=unsafe.id))
        await until(lambda: world.metrics.events["late_reply"] == 2)
        assert len(world.caller) == 0

    run(test)


def test_deadlines_come_in_their_own_order() -> None:
    async def test(world: World) -> None:
        world.picture = WITH_ORDERS
        for ms in (3_600_000, 10, 7_200_000):
            await world.ask_one(call(timeout_ms=ms))
        world.clock.advance(0.01)
        assert json.loads((await world.answer()).body)["detail"] == "no answer from orders.v1 within 0.01 s"
        assert len(world.caller) == 2

    run(test)


def test_a_deadline_that_has_passed_sends_nothing() -> None:
    async def test(world: World) -> None:
        world.ask(call(deadline_ms=world.clock.mesh_ms()))
        response = await world.answer()
        assert (code(response), retryable(response)) == ("deadline", False)
        await settle()
        assert not world.taken

    run(test)


def test_a_caller_that_hangs_up_frees_its_place() -> None:
    async def test(world: World) -> None:
        give_up = world.ask()
        await until(lambda: world.taken)
        assert len(world.caller) == 1
        give_up()
        give_up()
        assert (len(world.caller), world.metrics.answered) == (0, {("orders", "hung-up"): 1})
        world.reply(world.taken[0][0].reply_to, OK._replace(id=world.taken[0][1].id))
        await until(lambda: world.metrics.events["late_reply"])

    run(test)


# --- bounds ------------------------------------------------------------------------------------------------------------------------


def test_one_service_cannot_take_every_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calling_waiting, "MAX_PENDING", 6)

    async def test(world: World) -> None:
        await world.orders.declare(topology.service("billing.v1") + topology.service("stock.v1"))
        for _ in range(3):
            world.ask()
        assert not world.answers
        world.ask()
        full = await world.answer()
        assert (code(full), header(full.headers, b"retry-after")) == ("overloaded", b"1")
        for _ in range(3):
            world.ask(call("billing@1"))
        world.ask(call("stock@1"))
        assert code(await world.answer()) == "overloaded"
        await until(lambda: len(world.taken) == 3)
        world.reply(world.taken[0][0].reply_to, OK._replace(id=world.taken[0][1].id))
        assert (await world.answer()).status == 201
        world.ask()
        assert len(world.caller) == 6

    run(test)


def test_bodies_that_wait_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calling_waiting, "MAX_PENDING_BYTES", 100)

    async def test(world: World) -> None:
        world.ask(call(method="POST", body=b"x" * 60))
        world.ask(call(method="POST", body=b"x" * 60))
        assert code(await world.answer()) == "overloaded"
        assert len(world.caller) == 1

    run(test)


# --- answers that are none ---------------------------------------------------------------------------------------------------------


def test_an_answer_counts_once() -> None:
    async def test(world: World) -> None:
        to, request = await world.ask_one()
        for _ in range(3):
            world.reply(to, OK._replace(id=request.id))
        assert (await world.answer()).status == 201
        await until(lambda: world.metrics.events["late_reply"] == 2)

    run(test)


def test_an_answer_of_another_service_is_dropped() -> None:
    async def test(world: World) -> None:
        to, request = await world.ask_one()
        mallory = world.hub.connect("mallory")
        await mallory.open()
        world.reply(to, OK._replace(id=request.id, status=500), mallory)
        await until(lambda: world.metrics.events["forged_reply"] == 1)
        world.reply(to, OK._replace(id=request.id))
        assert (await world.answer()).status == 201

    run(test)


def test_where_all_share_one_user_nothing_is_proved() -> None:
    async def test(world: World) -> None:
        to, request = await world.ask_one()
        world.reply(to, OK._replace(id=request.id), world.broker)
        assert (await world.answer()).status == 201

    run(test, callers_user="everybody")


def test_an_answer_that_cannot_be_read_is_dropped() -> None:
    async def test(world: World) -> None:
        to, request = await world.ask_one()
        world.orders.send(Publication(topology.REPLIES, to, b"garbage", request.id, "reply"))
        world.reply(to, request)
        await until(lambda: world.metrics.events["undecodable"] == 2)
        world.reply(to, OK._replace(id=request.id))
        assert (await world.answer()).status == 201

    run(test)


# --- the broker goes -------------------------------------------------------------------------------------------------------------


def test_when_replies_are_lost_what_is_safe_is_asked_again() -> None:
    async def test(world: World) -> None:
        _, safe = await world.ask_one(call(method="PUT", body=b"x"))
        await world.ask_one(call(method="POST", body=b"x"))
        world.clock.advance(1)
        world.broker.drop("cut by the test")
        refused = await world.answer()
        assert (code(refused), retryable(refused)) == ("bad-gateway", False)
        assert len(world.caller) == 1
        await world.broker.open()
        await until(lambda: len(world.taken) == 3)
        delivery, again = world.taken[2]
        assert again == safe._replace(left_ms=29_000, attempt=2)
        assert world.metrics.events["asked_again"] == 1
        world.reply(delivery.reply_to, OK._replace(id=again.id))
        assert (await world.answer()).status == 201

    run(test)


def test_when_sends_are_lost_what_is_safe_is_asked_again_and_the_rest_waits() -> None:
    async def test(world: World) -> None:
        await world.ask_one()
        to, unsafe = await world.ask_one(call(method="POST"))
        world.caller.on_sends_lost()
        world.caller._outgoing.on_broker_state()
        await until(lambda: len(world.taken) == 3)
        assert world.taken[2][1].method == "GET"
        world.reply(to, OK._replace(id=unsafe.id))
        assert (await world.answer()).status == 201
        assert len(world.caller) == 1

    run(test)


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_calls_are_held_while_another_node_is_found(method: str) -> None:
    async def test(world: World) -> None:
        world.broker.drop("cut by the test")
        for body in (b"1", b"2"):
            world.ask(call(method=method, body=body))
        # The connection for replies may go after the one that sends: what was never sent is neither lost nor sent twice.
        world.caller.on_sends_lost()
        world.caller.on_replies_lost()
        await settle()
        assert (len(world.caller), world.answers) == (2, [])
        await world.broker.open()
        await until(lambda: len(world.taken) == 2)
        await settle()
        assert [(request.body, request.attempt) for _, request in world.taken] == [(b"1", 1), (b"2", 1)]
        for delivery, request in list(world.taken):
            world.reply(delivery.reply_to, OK._replace(id=request.id))
        assert [(await world.answer()).status, (await world.answer()).status] == [201, 201]

    run(test)


def test_patience_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calling_holding, "PATIENCE", 0.02)

    async def test(world: World) -> None:
        world.broker.drop("cut by the test")
        world.ask()
        assert not world.answers
        world.clock.advance(0.02)
        response = await world.answer()
        assert (code(response), retryable(response)) == ("unavailable", True)
        assert "cut by the test" in json.loads(response.body)["detail"]
        world.ask()
        assert code(world.answers.pop()) == "unavailable", "at once, now that the broker is away for longer"
        assert len(world.caller) == 0

    run(test)


def test_patience_begins_anew_with_each_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calling_holding, "PATIENCE", 0.02)

    async def test(world: World) -> None:
        world.broker.drop("cut by the test")
        world.ask(call(body=b"first"))
        await world.broker.open()
        world.clock.advance(0.01)
        world.broker.drop("cut again")
        world.ask(call(body=b"second"))
        fired = asyncio.Event()
        asyncio.get_running_loop().call_later(0.03, fired.set)  # past the first loss's own timer
        await fired.wait()
        assert (len(world.caller), world.answers) == (2, [])
        world.clock.advance(0.02)
        assert code(await world.answer()) == "unavailable"
        assert len(world.caller) == 1, "the first was sent, and waits to be asked again"

    run(test)


def test_a_held_call_that_gives_up_is_not_sent() -> None:
    async def test(world: World) -> None:
        world.broker.drop("cut by the test")
        give_up = world.ask()
        give_up()
        await world.broker.open()
        await settle()
        assert (world.taken, len(world.caller)) == ([], 0)

    run(test)


def test_a_held_call_whose_time_is_over_is_not_sent() -> None:
    async def test(world: World) -> None:
        world.broker.drop("cut by the test")
        world.ask(call(timeout_ms=10))
        world.clock.advance(0.01)
        await world.broker.open()
        assert code(await world.answer()) == "deadline"
        await settle()
        assert not world.taken

    run(test)


def test_a_held_call_that_cannot_be_sent_even_then_is_answered() -> None:
    async def test(world: World) -> None:
        world.broker.drop("cut by the test")
        world.ask()
        await world.broker.open()
        assert code(await world.answer()) == "overloaded"

    run(test, room=0)


def test_a_caller_made_on_an_open_connection_holds_calls_too() -> None:
    async def test(world: World) -> None:
        broker = world.hub.connect("late")
        await broker.open()
        caller = Caller(broker, world.clock, world.metrics, lambda: world.picture, "late", "l-1")
        world.clock.advance(60)
        broker.drop("cut by the test")
        caller.call(call(), world.answers.append)
        assert (len(caller), world.answers) == (1, [])

    run(test)


def test_more_than_the_broker_takes() -> None:
    async def test(world: World) -> None:
        world.ask()
        response = await world.answer()
        assert (code(response), len(world.caller)) == ("overloaded", 0)

    run(test, room=0)


# --- keys, priorities, backlog -----------------------------------------------------------------------------------------------------


def test_a_call_with_a_key_has_its_queue() -> None:
    async def test(world: World) -> None:
        partition = topology.partition_of("customer-7")
        await world.orders.declare(topology.service("orders.v1", ordered=True))
        world.orders.subscribe(topology.key_queue("orders.v1", partition), 10, world._take)
        to, request = await world.ask_one(call(key="customer-7"))
        assert (request.key, request.durable) == ("customer-7", False)
        world.reply(to, OK._replace(id=request.id))
        assert (await world.answer()).status == 201

    run(test)


@pytest.mark.parametrize(
    ("address", "picture", "expected"),
    [
        ("orders@1", ORDERS, "bad-header"),
        ("orders", ORDERS, "bad-header"),
        ("orders@1", EMPTY, "bad-header"),
        ("orders@9", ORDERS, "no-such-version"),
        ("nobody@1", ORDERS, "unknown-service"),
    ],
)
def test_a_key_to_who_takes_none(address: str, picture: Snapshot, expected: str) -> None:
    async def test(world: World) -> None:
        world.picture = picture
        world.ask(call(address, key="customer-7"))
        response = await world.answer()
        assert code(response) == expected
        assert (b"MESHQ_ORDERED" in response.body) == (expected == "bad-header")

    run(test)


def test_a_priority_goes_with_the_message() -> None:
    async def test(world: World) -> None:
        await world.ask_one(call(priority=8))
        await world.ask_one()
        assert [delivery.properties().get("priority") for delivery, _ in world.taken] == [8, None]

    run(test)


def test_a_right_that_is_missing_for_keys_is_missing_for_keys_only() -> None:
    async def test(world: World) -> None:
        world.caller.on_refused(topology.CALLS, topology.key_key("orders.v1", topology.partition_of("a")), "no right")
        world.ask(call(key="a"))
        assert code(await world.answer()) == "denied"
        await world.ask_one()

    run(test)


def test_too_much_waits_there_already() -> None:
    async def test(world: World) -> None:
        asked = []

        def full(service: str, queue: str) -> Problem | None:
            asked.append((service, queue))
            return Problem(Code.OVERLOADED, "too much")

        broker = world.hub.connect("late")
        caller = Caller(broker, world.clock, world.metrics, lambda: world.picture, "late", "l-1", full)
        caller.call(call(), world.answers.append)
        caller.call(call(key="a"), world.answers.append)
        assert [code(await world.answer()) for _ in range(2)] == ["overloaded"] * 2
        partition = topology.partition_of("a")
        assert asked == [("orders", "meshq.orders.v1.call"), ("orders", f"meshq.orders.v1.key.{partition}")]

    run(test)


def test_a_service_that_nobody_knows_is_no_label_of_a_metric() -> None:
    async def test(world: World) -> None:
        world.ask(call("made-up-7"))
        assert code(await world.answer()) == "unknown-service"
        assert world.metrics.answered == {("unknown", "unknown-service"): 1}

    run(test)
