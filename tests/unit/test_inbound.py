"""Calls of others in, over the embedded broker, with an app whose answers the test gives."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any, Self

import pytest

from meshq.adapters.clock import ManualClock
from meshq.adapters.embedded_broker import EmbeddedHub
from meshq.adapters.embedded_store import EmbeddedStoreHub
from meshq.core import topology
from meshq.core.errors import Code
from meshq.core.http import Failed, Failure, HttpResponse
from meshq.core.message import DeadLetter, Fault, Message, Request, Response, decode, encode
from meshq.core.policy import Retry
from meshq.ports import BrokerState, Delivery, Once, Publication
from tests.doubles import App, settle, until
from tests.durable import AwayStore
from tests.receiver import APP_TIMEOUT, TOPIC, Receiver

QUEUE = "meshq.orders.v2.call"
GET = Request("m1", "GET", b"/a?b", [(b"Host", b"orders.mesh"), (b"X", b"1")], None, "checkout")
POST = GET._replace(method="POST", body=b"x")


class World:
    """The sidecar of `orders`, and a caller called `checkout`."""

    def __init__(self, users: str = "orders", concurrency: int = 2, attempts: int = 3, token: str = "") -> None:
        self.clock = ManualClock()
        self.hub = EmbeddedHub(None, self.clock)
        self.broker = self.hub.connect(users)
        self.checkout = self.hub.connect("checkout")
        self.app = App()
        self.store = AwayStore(EmbeddedStoreHub(self.clock))
        self.receiver = Receiver(
            self.broker,
            self.store,
            self.clock,
            self.app,
            concurrency=concurrency,
            retry=Retry(attempts),
            token=token,
        )
        self.inbound, self.metrics = self.receiver.inbound, self.receiver.metrics
        self.replies: list[Message] = []
        self.lost: list[str] = []

    @property
    def refused(self) -> int:
        return self.receiver.refused

    async def __aenter__(self) -> Self:
        self.checkout.open_replies("checkout", "c-1", self)
        await self.broker.open()
        await self.checkout.open()
        await self.broker.declare(topology.service(TOPIC))
        self.inbound.resume()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.receiver.close()
        await self.hub.close()

    def on_reply(self, correlation_id: str, delivery: Delivery) -> None:
        messages = decode(delivery.body)
        assert messages[0].id == correlation_id
        assert delivery.user_id == self.broker.user
        self.replies += messages

    def on_unroutable(self, message_id: str) -> None:
        raise AssertionError(f"{message_id} found no queue")

    def on_replies_lost(self) -> None: ...
    def on_sends_lost(self) -> None: ...
    def on_refused(self, key: str, reason: str) -> None: ...

    def send(self, *requests: Message, **more: Any) -> None:
        body = b"".join(map(encode, requests))
        made = Publication(
            topology.CALLS, topology.call_key(TOPIC), body, requests[0].id, "call", self.checkout.reply_to
        )
        assert self.checkout.send(made._replace(**more))

    async def asked(self, count: int) -> None:
        await until(lambda: len(self.app.asked) >= count)
        await settle()
        assert len(self.app.asked) == count

    async def reply(self) -> Message:
        await until(lambda: self.replies)
        return self.replies.pop(0)

    async def ready(self, queue: str = QUEUE) -> tuple[int | None, int | None]:
        """(waiting in the queue, handed out)"""
        await settle()
        (stats,) = await self.checkout.stats([queue])
        return stats.ready, stats.in_flight

    async def dead(self) -> DeadLetter:
        letters: list[Message] = []

        def take(delivery: Delivery) -> None:
            letters.extend(decode(delivery.body))
            delivery.ack()

        subscription = self.checkout.subscribe("meshq.orders.v2.dead", 1, take)
        await until(lambda: letters)
        subscription.cancel()
        (letter,) = letters
        assert isinstance(letter, DeadLetter)
        return letter


def run(test: Callable[[World], Awaitable[None]], **options: Any) -> None:
    async def inside() -> None:
        async with World(**options) as world:
            await test(world)

    asyncio.run(inside())


def test_a_call_is_handed_to_the_app_and_answered() -> None:
    async def test(world: World) -> None:
        world.send(GET._replace(deadline_ms=world.clock.mesh_ms() + 9000, left_ms=9000))
        await world.asked(1)
        (asked,) = world.app.asked
        assert (asked.request.method, asked.request.target, asked.request.body) == (b"GET", b"/a?b", None)
        assert asked.timeout == APP_TIMEOUT
        assert asked.request.headers == [
            (b"Host", b"orders.mesh"),
            (b"X", b"1"),
            (b"Meshq-Message-Id", b"m1"),
            (b"Meshq-Attempt", b"1"),
            (b"Meshq-Topic", b"orders.v2"),
            (b"Meshq-Caller", b"checkout"),
            (b"Meshq-Deadline", b"%d" % (world.clock.mesh_ms() + 9000)),
            (b"Idempotency-Key", b"m1"),
        ]
        assert (await world.ready(), world.inbound.in_flight) == ((0, 1), 1)
        asked.answer(HttpResponse(201, [(b"A", b"b"), (b"Meshq-Error", b"x"), (b"Connection", b"close")], b"done"))
        assert await world.reply() == Response("m1", 201, [(b"A", b"b")], b"done", "orders/2.1.0/i-1")
        assert (await world.ready(), world.inbound.in_flight) == ((0, 0), 0)
        assert world.metrics.done == {("orders.v2", "201"): 1}

    run(test)


def test_what_another_app_wrote_is_not_passed_on_as_the_meshs() -> None:
    async def test(world: World) -> None:
        forged = [
            (b"Meshq-Caller", b"admin"),
            (b"meshq-token", b"t"),
            (b"Transfer-Encoding", b"chunked"),
            (b"Content-Length", b"9"),
        ]
        world.send(POST._replace(headers=[*forged, (b"Idempotency-Key", b"mine")], proved_caller="admin"))
        await world.asked(1)
        assert world.app.asked[0].request.headers == [
            (b"Idempotency-Key", b"mine"),
            (b"Meshq-Message-Id", b"m1"),
            (b"Meshq-Attempt", b"1"),
            (b"Meshq-Topic", b"orders.v2"),
            (b"Meshq-Caller", b"checkout"),
            (b"Meshq-Token", b"s3cret"),
        ]

    run(test, token="s3cret")


@pytest.mark.parametrize(
    ("request_", "claimed"),
    [(GET._replace(caller="admin"), "admin"), (GET._replace(caller="admin", proved_caller="admin"), "admin")],
)
def test_a_caller_that_is_not_proved_is_only_claimed(request_: Request, claimed: str) -> None:
    async def test(world: World) -> None:
        world.send(request_)
        await world.asked(1)
        headers = world.app.asked[0].headers
        assert headers["Meshq-Caller-Claimed"] == claimed
        assert "Meshq-Caller" not in headers

    run(test)


def test_a_caller_stays_proved_when_its_call_is_given_back() -> None:
    async def test(world: World) -> None:
        world.send(GET)
        await world.asked(1)
        world.app.asked[0].fail(Failure.BROKEN)
        await world.asked(2)
        headers = world.app.asked[1].headers
        assert (headers["Meshq-Caller"], headers["Meshq-Attempt"]) == ("checkout", "2")

    run(test)


def test_the_app_has_at_most_as_many_as_it_can_do() -> None:
    async def test(world: World) -> None:
        for number in range(5):
            world.send(GET._replace(id=f"m{number}"))
        await world.asked(2)
        world.app.asked[0].ok()
        await world.asked(3)
        assert [a.headers["Meshq-Message-Id"] for a in world.app.asked] == ["m0", "m1", "m2"]
        assert world.inbound.in_flight == 2

    run(test)


def test_what_it_holds_is_bounded_too() -> None:
    async def test(world: World) -> None:
        for number in range(20):
            world.send(GET._replace(id=f"m{number}"))
        assert await world.ready() == (12, 8)

    run(test)


# --- before it starts ------------------------------------------------------------------------------------------------------------


def test_what_is_over_its_time_is_not_started() -> None:
    async def test(world: World) -> None:
        for number in range(3):
            world.send(GET._replace(id=f"m{number}", left_ms=1000))
        await world.asked(2)
        world.clock.advance(1)
        world.app.asked[0].ok()
        await until(lambda: world.metrics.events["expired"] == 1)
        await world.asked(2)
        assert await world.ready() == (0, 1)

    run(test)


async def lose_one(world: World, request: Request, **more: Any) -> None:
    """Somebody else takes it and is gone before it answers: the next consumer sees it redelivered."""
    world.inbound.pause()
    world.send(request, **more)
    other = world.hub.connect("orders")
    await other.open()
    held: list[Delivery] = []
    other.subscribe(QUEUE, 1, held.append)
    await until(lambda: held)
    other.drop("killed by the test")
    world.inbound.resume()


def test_what_may_have_been_done_is_not_done_again() -> None:
    async def test(world: World) -> None:
        await lose_one(world, POST)
        fault = await world.reply()
        assert isinstance(fault, Fault)
        assert (fault.code, fault.retryable, fault.served_by) == (Code.BAD_GATEWAY, False, "orders/2.1.0/i-1")
        assert not world.app.asked
        assert await world.ready() == (0, 0)

    run(test)


@pytest.mark.parametrize("request_", [GET, POST._replace(headers=[(b"Idempotency-Key", b"k")])])
def test_what_is_safe_is_done_again(request_: Request) -> None:
    async def test(world: World) -> None:
        await lose_one(world, request_)
        await world.asked(1)

    run(test)


def test_what_was_known_not_to_have_started_is_started() -> None:
    async def test(world: World) -> None:
        for number in range(3):
            world.send(POST._replace(id=f"m{number}"))
        await world.asked(2)
        world.broker.drop("cut by the test")
        for asked in list(world.app.asked):
            asked.ok()
        await world.broker.open()
        await world.asked(3)
        assert world.app.asked[2].headers["Meshq-Message-Id"] == "m2"
        world.app.asked[2].ok()
        await until(lambda: len(world.replies) == 3)
        assert {type(message) for message in world.replies} == {Response}
        assert await world.ready() == (0, 0)

    run(test)


def test_what_still_runs_when_it_comes_again_runs_once() -> None:
    async def test(world: World) -> None:
        world.send(POST)
        await world.asked(1)
        world.broker.drop("cut by the test")
        await world.broker.open()
        assert await world.ready() == (0, 1)
        world.app.asked[0].ok()
        assert isinstance(await world.reply(), Response)
        assert len(world.app.asked) == 1
        assert await world.ready() == (0, 0)

    run(test)


@pytest.mark.parametrize("publishing", [True, False])
def test_replies_are_kept_while_the_broker_takes_none(publishing: bool) -> None:
    async def test(world: World) -> None:
        world.send(POST)
        await world.asked(1)
        idle: list[bool] = []
        world.broker.drop("cut by the test")
        world.app.asked[0].ok(b"once")
        world.inbound.when_idle(lambda: idle.append(True))
        await settle()
        assert (world.replies, idle) == ([], [])
        world.inbound._on_broker_state(BrokerState(publishing, publishing, ""))  # sending fails all the same
        assert idle == []
        await world.broker.open()
        reply = await world.reply()
        assert isinstance(reply, Response)
        assert reply.body == b"once"
        await until(lambda: idle)
        assert await world.ready() == (0, 0), "what comes again for it is known to have been answered"
        assert len(world.app.asked) == 1

    run(test)


# --- the selector --------------------------------------------------------------------------------------------------------------


def test_outside_the_selector_it_goes_back_three_times() -> None:
    async def test(world: World) -> None:
        world.send(POST._replace(selector="^2.2"))
        fault = await world.reply()
        assert isinstance(fault, Fault)
        assert fault.code is Code.NO_SUCH_VERSION
        assert world.metrics.events["given_back:selector"] == 3
        assert not world.app.asked

    run(test)


def test_inside_the_selector_it_starts() -> None:
    async def test(world: World) -> None:
        world.send(POST._replace(selector=">=2.1,<3"))
        await world.asked(1)

    run(test)


# --- what the app made of it -----------------------------------------------------------------------------------------------------


def test_an_app_that_refuses_burns_no_attempt_and_is_told_of() -> None:
    async def test(world: World) -> None:
        world.send(POST)
        for times in range(1, 8):
            await world.asked(times)
            assert world.app.asked[-1].headers["Meshq-Attempt"] == "1"
            world.app.asked[-1].fail(Failure.REFUSED)
            assert world.refused == times
        await world.asked(8)
        world.app.asked[-1].ok()
        assert isinstance(await world.reply(), Response)
        assert world.metrics.events["given_back:not-ready"] == 7

    run(test)


@pytest.mark.parametrize(("failure", "code"), [(Failure.BROKEN, Code.BAD_GATEWAY), (Failure.TIMEOUT, Code.DEADLINE)])
def test_an_unknown_outcome_is_tried_again_only_where_that_is_safe(failure: Failure, code: Code) -> None:
    async def test(world: World) -> None:
        world.send(GET)
        for attempt in (1, 2, 3):
            await world.asked(attempt)
            assert world.app.asked[-1].headers["Meshq-Attempt"] == str(attempt)
            world.app.asked[-1].fail(failure, "why")
        assert await world.reply() == Fault("m1", code, "why", True, "orders/2.1.0/i-1")
        world.send(POST._replace(id="m2"))
        await world.asked(4)
        world.app.asked[-1].fail(failure, "why")
        assert await world.reply() == Fault("m2", code, "why", False, "orders/2.1.0/i-1")
        assert await world.ready() == (0, 0)

    run(test)


def test_a_length_without_a_body_arrives() -> None:
    async def test(world: World) -> None:
        world.send(GET._replace(method="HEAD"))
        await world.asked(1)
        world.app.asked[0].answer(HttpResponse(200, [(b"Content-Length", b"99")], b""))
        reply = await world.reply()
        assert isinstance(reply, Response)
        assert reply.headers == [(b"Content-Length", b"99")]

    run(test)


# --- pause, drain ------------------------------------------------------------------------------------------------------------------


def test_a_pause_gives_back_what_waits_and_lets_run_what_runs() -> None:
    async def test(world: World) -> None:
        for number in range(4):
            world.send(POST._replace(id=f"m{number}", left_ms=5000))
        await world.asked(2)
        world.clock.advance(1)
        world.inbound.pause()
        world.inbound.pause()
        assert not world.inbound.consuming
        assert await world.ready() == (2, 2)
        for asked in world.app.asked:
            asked.ok()
        await until(lambda: len(world.replies) == 2)
        await world.asked(2)
        world.inbound.resume()
        world.inbound.resume()
        await world.asked(4)
        assert [asked.headers["Meshq-Attempt"] for asked in world.app.asked] == ["1"] * 4

    run(test)


async def by_hand(world: World) -> Delivery:
    """The next message of the queue, taken past the sidecar, as if it had been on its way when it paused."""
    deliveries: list[Delivery] = []
    subscription = world.broker.subscribe(QUEUE, 1, deliveries.append)
    await until(lambda: deliveries)
    subscription.cancel()
    return deliveries[0]


def test_what_was_on_its_way_at_a_pause_is_given_back_and_then_handled() -> None:
    async def test(world: World) -> None:
        world.inbound.pause()
        world.send(POST._replace(left_ms=5000))
        delivery = await by_hand(world)
        world.inbound._on_delivery(TOPIC, delivery)
        assert not delivery.live
        assert world.app.asked == []
        again = await by_hand(world)
        assert not again.redelivered, "else whoever has it next would have to refuse it"
        again.requeue()
        assert world.metrics.events["given_back:not-ready"] == 1

    run(test)


async def taken_and_lost(world: World, request: Request) -> None:
    """Somebody else took it and is gone; nobody has it now."""
    world.send(request)
    other = world.hub.connect("orders")
    await other.open()
    held: list[Delivery] = []
    other.subscribe(QUEUE, 1, held.append)
    await until(lambda: held)
    other.drop("killed by the test")


@pytest.mark.parametrize("when", ["it waits for room", "it was on its way"])
def test_a_pause_does_not_hide_that_a_call_may_have_been_started(when: str) -> None:
    """A copy of it would be started by the next instance (promise 3)."""

    async def test(world: World) -> None:
        for number in range(2):
            world.send(GET._replace(id=f"m{number}"))
        await world.asked(2)
        world.inbound.pause()
        await taken_and_lost(world, POST._replace(id="lost"))
        if when == "it waits for room":
            world.inbound.resume()
            await settle()
            world.inbound.pause()
        else:
            world.inbound._on_delivery(TOPIC, await by_hand(world))
        fault = await world.reply()
        assert isinstance(fault, Fault)
        assert (fault.id, fault.code, fault.retryable) == ("lost", Code.BAD_GATEWAY, False)
        assert await world.ready() == (0, 2)
        await world.asked(2)

    run(test)


def test_idle_is_told_when_nothing_runs() -> None:
    async def test(world: World) -> None:
        told: list[str] = []
        world.inbound.when_idle(lambda: told.append("at once"))
        assert told == ["at once"]
        world.send(GET)
        await world.asked(1)
        world.inbound.when_idle(lambda: told.append("later"))
        assert told == ["at once"]
        world.app.asked[0].ok()
        await until(lambda: told == ["at once", "later"])

    run(test)


# --- once per key ------------------------------------------------------------------------------------------------------------------

PAY = POST._replace(headers=[(b"Idempotency-Key", b"k-1")])


async def answered(world: World, count: int) -> list[Message]:
    await until(lambda: len(world.replies) >= count)
    return world.replies


def test_a_key_is_handled_once_and_every_caller_gets_that_answer() -> None:
    async def test(world: World) -> None:
        world.send(PAY)
        await world.asked(1)
        assert world.app.asked[0].headers["Idempotency-Key"] == "k-1"
        world.app.asked[0].ok(b"paid", 201)
        world.send(PAY._replace(id="m2"))
        first, second = await answered(world, 2)
        assert first == Response("m1", 201, [(b"Content-Type", b"text/plain")], b"paid", "orders/2.1.0/i-1")
        assert second == first._replace(id="m2")
        await world.asked(1)
        assert await world.ready() == (0, 0)

    run(test)


def test_who_comes_while_the_first_is_handled_waits_for_its_answer() -> None:
    async def test(world: World) -> None:
        for number in range(3):
            world.send(PAY._replace(id=f"m{number}"))
        world.send(GET._replace(id="other"))
        await world.asked(2)
        asked = {asked.headers["Meshq-Message-Id"]: asked for asked in world.app.asked}
        assert "other" in asked, "those that wait take no place at the app"
        del asked["other"]
        (first,) = asked.values()
        first.ok(b"paid")
        replies = await answered(world, 3)
        assert {(r.id, r.body) for r in replies if isinstance(r, Response)} == {(f"m{n}", b"paid") for n in range(3)}
        await world.asked(2)

    run(test)


@pytest.mark.parametrize("how", ["broken", "503"])
def test_when_the_first_failed_the_next_is_handled(how: str) -> None:
    async def test(world: World) -> None:
        world.send(PAY)
        await world.asked(1)
        world.send(PAY._replace(id="m2"))
        await world.asked(1)
        if how == "503":
            world.app.asked[0].ok(b"no", 503)
        else:
            world.app.asked[0].fail(Failure.BROKEN)
        await world.asked(2)
        assert isinstance(await world.reply(), Fault if how == "broken" else Response)
        world.app.asked[1].ok(b"paid")
        reply = await world.reply()
        assert isinstance(reply, Response)
        assert reply.body == b"paid"

    run(test, attempts=1)


@pytest.mark.parametrize(
    ("body", "second", "code"),
    [
        (b"paid", PAY._replace(body=b"other"), Code.KEY_REUSED),
        (b"paid", PAY._replace(target=b"/a?other"), Code.KEY_REUSED),
        (b"x" * 65_537, PAY, Code.ANSWER_NOT_KEPT),
    ],
)
def test_a_key_that_cannot_be_answered_for(body: bytes, second: Request, code: Code) -> None:
    async def test(world: World) -> None:
        world.send(PAY)
        await world.asked(1)
        world.app.asked[0].ok(body)
        await world.reply()
        world.send(second._replace(id="m2"))
        fault = await world.reply()
        assert isinstance(fault, Fault)
        assert (fault.id, fault.code, fault.retryable) == ("m2", code, False)
        await world.asked(1)
        assert await world.ready() == (0, 0)

    run(test)


def test_with_the_store_away_a_key_is_not_handled_and_all_else_is() -> None:
    async def test(world: World) -> None:
        world.store.away = True
        world.send(PAY)
        fault = await world.reply()
        assert isinstance(fault, Fault)
        assert (fault.code, fault.retryable) == (Code.UNAVAILABLE, True)
        world.send(POST._replace(id="m2"))
        await world.asked(1)
        assert await world.ready() == (0, 1)

    run(test)


def test_with_the_store_gone_meanwhile_the_answer_is_given_all_the_same() -> None:
    async def test(world: World) -> None:
        world.send(PAY)
        await world.asked(1)
        world.store.away = True
        world.app.asked[0].ok(b"paid")
        assert isinstance(await world.reply(), Response)
        world.store.away = False
        world.send(PAY._replace(id="m2"))
        reply = await world.reply()
        assert isinstance(reply, Response)
        assert (reply.id, reply.body, len(world.app.asked)) == ("m2", b"paid", 1)

    run(test)


def test_the_answer_is_kept_before_it_is_given() -> None:
    """Else whoever has it and asks another instance could be handled again."""

    async def test(world: World) -> None:
        done, go_on = world.store.done, asyncio.Event()

        async def slow(*args: Any) -> None:
            await go_on.wait()
            await done(*args)

        world.store.done = slow
        world.send(PAY)
        await world.asked(1)
        idle: list[bool] = []
        world.inbound.when_idle(lambda: idle.append(True))
        world.app.asked[0].ok()
        assert (await world.ready(), world.inbound.in_flight, world.replies, idle) == ((0, 1), 1, [], [])
        go_on.set()
        await world.reply()
        await until(lambda: idle)

    run(test)


def test_a_pause_gives_back_who_waits_for_a_key_and_claims_nothing_for_him() -> None:
    async def test(world: World) -> None:
        world.send(PAY)
        await world.asked(1)
        world.send(PAY._replace(id="m2"))
        assert await world.ready() == (0, 2)
        world.inbound.pause()
        assert await world.ready() == (1, 1)
        world.app.asked[0].fail(Failure.BROKEN)
        await world.reply()
        world.inbound.resume()
        await world.asked(2)
        world.app.asked[1].ok()
        reply = await world.reply()
        assert isinstance(reply, Response)
        assert (reply.id, reply.attempt) == ("m2", 1)

    run(test, attempts=1)


def test_one_that_comes_again_while_its_key_is_asked_about_is_handled_once() -> None:
    async def test(world: World) -> None:
        once, go_on = world.store.once, asyncio.Event()

        async def slow(*args: Any) -> Once:
            await go_on.wait()
            return await once(*args)

        world.store.once = slow
        world.send(PAY)
        assert await world.ready() == (0, 1)
        world.broker.drop("cut by the test")
        await world.broker.open()
        assert await world.ready() == (0, 1)
        go_on.set()
        await world.asked(1)
        world.app.asked[0].ok()
        assert isinstance(await world.reply(), Response)
        await world.asked(1)
        assert await world.ready() == (0, 0)

    run(test)


# --- calls with an ordering key, whose next of key waits to be told --------------------------------------------------------------------


class Kept:
    """A consumer that keeps what it is given."""

    def __init__(self, world: World, queue: str) -> None:
        self.deliveries: list[Delivery] = []
        self.subscription = world.broker.subscribe(queue, 10, self.deliveries.append)

    async def next(self) -> Delivery:
        await until(lambda: self.deliveries)
        return self.deliveries.pop(0)


async def keyed(world: World, **more: Any) -> tuple[Kept, Delivery, list[str]]:
    """A call taken off a queue of keys, where it would come again; and what is told when it is over."""
    queue = topology.key_queue(TOPIC, topology.partition_of("k"))
    await world.broker.declare(topology.service(TOPIC, ordered=True))
    kept = Kept(world, queue)
    world.send(POST._replace(key="k"), key=topology.key_key(TOPIC, topology.partition_of("k")), **more)
    return kept, await kept.next(), []


@pytest.mark.parametrize(
    ("outcome", "reply"),
    [
        (HttpResponse(200, []), Response),
        (HttpResponse(500, []), Response),
        (Failed(Failure.BROKEN, "why"), Fault),
        (Failed(Failure.REFUSED, "why"), None),
    ],
)
def test_when_it_is_settled_the_next_is_told(outcome: HttpResponse | Failed, reply: type | None) -> None:
    async def test(world: World) -> None:
        _, delivery, told = await keyed(world)
        world.inbound.take(TOPIC, delivery, POST._replace(key="k"), None, lambda: told.append("over"))
        await world.asked(1)
        assert told == []
        assert world.app.asked[0].headers["Meshq-Key"] == "k"
        world.app.asked[0].answer(outcome)
        await settle()
        assert told == ["over"]
        assert [type(r) for r in world.replies] == ([] if reply is None else [reply])

    run(test)


def test_when_it_is_given_back_the_next_is_told_and_it_comes_to_its_own_queue() -> None:
    async def test(world: World) -> None:
        _, delivery, told = await keyed(world)
        for number in range(2):
            world.send(GET._replace(id=f"m{number}"))
        await world.asked(2)
        world.inbound.take(TOPIC, delivery, POST._replace(key="k"), None, lambda: told.append("over"))
        world.inbound.pause()
        assert told == ["over"]
        assert await world.ready(delivery.queue) == (0, 1), "it was given back to the one that keeps what it is given"

    run(test)


@pytest.mark.parametrize("reply_to", ["", None])
def test_when_it_cannot_be_repeated_the_next_is_told(reply_to: str | None) -> None:
    async def test(world: World) -> None:
        kept, _, told = await keyed(world, **({} if reply_to is None else {"reply_to": reply_to}))
        world.broker.drop("cut by the test")
        await world.broker.open()
        again = await kept.next()
        assert again.redelivered
        world.inbound.take(TOPIC, again, POST._replace(key="k"), None, lambda: told.append("over"))
        await settle()
        assert told == ["over"]
        if reply_to is None:
            assert isinstance(await world.reply(), Fault)
        else:
            assert (await world.dead()).reason == "bad-gateway"

    run(test)


def test_one_whose_connection_is_gone_is_not_started_and_starts_when_it_comes_again() -> None:
    async def test(world: World) -> None:
        kept, delivery, told = await keyed(world)
        world.broker.drop("cut by the test")
        world.inbound.take(TOPIC, delivery, POST._replace(key="k"), None, lambda: told.append("first"))
        assert (told, world.app.asked) == (["first"], [])
        await world.broker.open()
        again = await kept.next()
        world.inbound.take(TOPIC, again, POST._replace(key="k"), None, lambda: told.append("second"))
        await world.asked(1)
        world.app.asked[0].ok()
        assert isinstance(await world.reply(), Response)
        assert told == ["first", "second"]

    run(test)


@pytest.mark.parametrize("when", ["while it runs", "after it was answered"])
def test_what_comes_a_second_time_is_over_for_who_waits_behind_it(when: str) -> None:
    async def test(world: World) -> None:
        kept, delivery, told = await keyed(world)
        call = POST._replace(key="k")
        world.inbound.take(TOPIC, delivery, call, None, lambda: told.append("first"))
        await world.asked(1)
        world.broker.drop("cut by the test")
        if when == "after it was answered":
            world.app.asked[0].ok()
        await world.broker.open()
        world.inbound.take(TOPIC, await kept.next(), call, None, lambda: told.append("second"))
        if when == "while it runs":
            assert told == ["second"]
            world.app.asked[0].ok()
        assert isinstance(await world.reply(), Response)
        assert sorted(told) == ["first", "second"]
        assert await world.ready(delivery.queue) == (0, 0)
        await world.asked(1)

    run(test)


def test_a_copy_of_what_runs_ends_and_leaves_the_other_its_own_delivery() -> None:
    """Who gave it back could not acknowledge it, so it is there twice."""

    async def test(world: World) -> None:
        world.send(GET)
        await world.asked(1)
        await lose_one(world, GET)
        await until(lambda: world.metrics.events["redelivered"] == 1)
        assert await world.ready() == (0, 1)
        world.app.asked[0].ok()
        await world.reply()
        assert await world.ready() == (0, 0)
        await world.asked(1)

    run(test)


# --- what is no call ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "ident", "letter_id", "detail"),
    [
        (b"garbage!!", "m1", "m1", "wire version 103"),
        (b"", "no id / at all", "unknown", "cut off"),
        (b"\xff" * 9, "é" * 64, "unknown", "wire version 255"),
        (encode(Response("m1", 200, [], b"", "")), "m1", "m1", "a Response lies in a queue for requests"),
        (encode(GET._replace(selector="nonsense")), "m1", "m1", "field s"),
    ],
)
def test_what_cannot_be_read_is_dead_with_the_reason(body: bytes, ident: str, letter_id: str, detail: str) -> None:
    async def test(world: World) -> None:
        world.send(GET, body=body, message_id=ident)
        letter = await world.dead()
        assert (letter.id, letter.reason, letter.queue, letter.body) == (letter_id, "undecodable", QUEUE, body)
        assert detail in letter.detail
        assert (letter.at_ms, letter.instance) == (world.clock.mesh_ms(), "orders/2.1.0/i-1")
        assert await world.ready() == (0, 0)
        assert world.metrics.events["dead_lettered:undecodable"] == 1

    run(test)


def test_a_refusal_that_nobody_waits_for_is_dead_and_not_gone() -> None:
    async def test(world: World) -> None:
        await lose_one(world, POST, reply_to="")
        letter = await world.dead()
        assert (letter.reason, letter.body) == ("bad-gateway", encode(POST))
        assert await world.ready() == (0, 0)

    run(test)


def test_an_answer_that_nobody_waits_for_ends_the_message() -> None:
    async def test(world: World) -> None:
        world.send(POST, reply_to="")
        await world.asked(1)
        world.app.asked[0].ok()
        assert await world.ready() == (0, 0)

    run(test)


def test_a_pack_is_acknowledged_once_all_of_it_is_done() -> None:
    async def test(world: World) -> None:
        world.send(GET, POST._replace(id="m2"), POST._replace(id="m3"))
        await world.asked(2)
        world.app.asked[1].ok()
        await world.asked(3)
        world.app.asked[0].ok()
        assert await world.ready() == (0, 1)
        world.app.asked[2].ok()
        await until(lambda: len(world.replies) == 3)
        assert {message.id for message in world.replies} == {"m1", "m2", "m3"}
        assert await world.ready() == (0, 0)

    run(test)


class Foreign:
    """A delivery of another publisher; the embedded broker has none."""

    body, message_id, content_type, reply_to, user_id = b"raw", "order 7", "text/plain", "", "legacy"
    redelivered, queue, live = False, QUEUE, True
    acks = 0

    def properties(self) -> dict[str, Any]:
        return {"content_type": "text/plain", "headers": {"Content-Length": "99", "X": "1", "meshq-caller": "admin"}}

    def ack(self) -> None:
        self.acks += 1

    def requeue(self) -> None:
        raise AssertionError("it was done")


def test_a_foreign_message_is_posted_to_the_root() -> None:
    async def test(world: World) -> None:
        delivery = Foreign()
        world.inbound._on_delivery(TOPIC, delivery)
        (asked,) = world.app.asked
        assert (asked.request.method, asked.request.target, asked.request.body) == (b"POST", b"/", b"raw")
        headers = asked.headers
        assert headers.pop("Meshq-Message-Id") == headers.pop("Idempotency-Key")
        assert headers == {
            "Host": "localhost",
            "Content-Type": "text/plain",
            "X": "1",
            "Meshq-Attempt": "1",
            "Meshq-Topic": "orders.v2",
        }
        asked.ok()
        assert delivery.acks == 1

    run(test)


def test_what_fails_says_so_in_words_that_are_json() -> None:
    async def test(world: World) -> None:
        world.send(POST)
        await world.asked(1)
        world.app.asked[0].fail(Failure.BROKEN, 'a "quote" and é')
        fault = await world.reply()
        assert isinstance(fault, Fault)
        assert json.loads(fault.as_problem().as_response().body)["detail"] == 'a "quote" and é'

    run(test)


def test_a_foreign_message_that_cannot_be_handled_is_kept_so_that_it_can_be_brought_back() -> None:
    async def test(world: World) -> None:
        delivery = Foreign()
        world.inbound._on_delivery(TOPIC, delivery)
        world.app.asked[0].fail(Failure.BROKEN)
        letter = await world.dead()
        (request,) = decode(letter.body)
        assert isinstance(request, Request)
        assert (request.id, request.body, letter.reason) == (letter.id, b"raw", "bad-gateway")
        assert delivery.acks == 1

    run(test)


@pytest.mark.parametrize(("status", "kept"), [(200, True), (404, True), (503, False), (None, False)])
def test_an_answer_that_is_too_large_ends_its_key_all_the_same(status: int | None, kept: bool) -> None:
    """It was handled, and a repeat must not be: of the answer only the status is known."""

    async def test(world: World) -> None:
        keyed = POST._replace(headers=[(b"Idempotency-Key", b"k")])
        world.send(keyed)
        await world.asked(1)
        world.app.asked[0].answer(Failed(Failure.TOO_LARGE, "it is over the limit", status))
        first = await world.reply()
        assert isinstance(first, Fault)
        assert (first.code, first.retryable) == (Code.BAD_GATEWAY, False)
        world.send(keyed._replace(id="m2"))
        if kept:
            second = await world.reply()
            assert isinstance(second, Fault)
            assert second.code is Code.ANSWER_NOT_KEPT
            assert str(status) in second.detail
            await world.asked(1)
        else:
            await world.asked(2)

    run(test)
