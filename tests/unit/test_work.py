"""Durable messages in, over the embedded broker, with an app whose answers the test gives: INTERFACE part 4, the column
"durable message"."""

from typing import Any

import pytest

from meshq.core import topology
from meshq.core.breaker import Circuit
from meshq.core.dead import read
from meshq.core.dead_replay import Resend, resend
from meshq.core.errors import Code
from meshq.core.http import Failed, Failure, HttpResponse
from meshq.core.message import CONTENT_TYPE, Fault, Request, Response, decode, encode, encode_dead_letter
from meshq.core.policy import Retry
from meshq.ports import Delivery, Publication
from meshq_sidecar.job import Source
from meshq_sidecar.ways_out import OFTEN
from tests.doubles import settle
from tests.durable import DEAD, OTHER, SENDER, WORK, World, story
from tests.receiver import APP_TIMEOUT, TOPIC
from tests.virtual_time import pass_time, until

SENT = Request(
    "m1", "POST", b"/a?b", [(b"Host", b"orders.mesh"), (b"X", b"1")], b"x", SENDER, accepted_ms=1_700_000_000_000
)
WHO = "orders/2.1.0/i-1"


def numbered(count: int, **more: Any) -> list[Request]:
    return [SENT._replace(id=f"m{number}", **more) for number in range(count)]


# --- it works ------------------------------------------------------------------------------------------------------------------


def test_a_message_is_handed_to_the_app_and_its_answer_is_the_result() -> None:
    async def test(world: World) -> None:
        one = world.one
        world.send(SENT)
        (asked,) = await one.asked(1)
        assert (asked.request.method, asked.request.target, asked.request.body) == (b"POST", b"/a?b", b"x")
        assert asked.timeout == APP_TIMEOUT
        assert asked.request.headers == [
            (b"Host", b"orders.mesh"),
            (b"X", b"1"),
            (b"Meshq-Message-Id", b"m1"),
            (b"Meshq-Attempt", b"1"),
            (b"Meshq-Topic", b"orders.v2"),
            (b"Meshq-Caller", b"checkout"),
            (b"Idempotency-Key", b"m1"),
        ]
        assert (await world.ready(), one.work.in_flight) == ((0, 1), 1)
        asked.answer(HttpResponse(201, [(b"A", b"b"), (b"Meshq-Error", b"x")], b"done"))
        assert await world.result() == Response("m1", 201, [(b"A", b"b")], b"done", WHO)
        await world.nothing_left()
        assert (one.work.in_flight, one.metrics.done) == (0, {("orders.v2", "201"): 1})

    story(test)


def test_it_is_acknowledged_once_its_result_is_confirmed_and_not_before() -> None:
    async def test(world: World) -> None:
        one = world.one
        one.broker.held[topology.REPLIES] = []
        world.send(SENT)
        (await one.asked(1))[0].ok()
        await world.result()
        assert await world.ready() == (0, 1)
        assert (one.settler.idle, len(one.settler)) == (False, 1)
        one.broker.tell(topology.REPLIES)
        await world.nothing_left()
        assert one.settler.idle

    story(test)


def test_a_message_without_a_sender_to_tell_has_no_result() -> None:
    async def test(world: World) -> None:
        world.send(SENT, reply_to="")
        (await world.one.asked(1))[0].ok()
        await world.nothing_left()
        assert (world.results, world.one.broker.published) == ([], [])

    story(test)


def test_results_of_one_moment_travel_together() -> None:
    async def test(world: World) -> None:
        for request in numbered(5):
            world.send(request)
        for asked in list(await world.one.asked(5)):
            asked.ok()
        await until(lambda: len(world.results) == 5)
        assert world.packs == [5]
        assert [result.id for result in world.results] == ["m0", "m1", "m2", "m3", "m4"]
        await world.nothing_left()

    story(test, concurrency=5)


def test_results_of_one_moment_to_two_senders_do_not() -> None:
    async def test(world: World) -> None:
        world.send(SENT)
        world.send(SENT._replace(id="m2"), reply_to="nobody.results")
        for asked in list(await world.one.asked(2)):
            asked.ok()
        assert (await world.result()).id == "m1"
        await world.nothing_left()
        assert world.one.metrics.events["result_unroutable"] == 1, "and nobody is left to tell"

    story(test)


def test_a_caller_that_waits_a_while_has_a_copy_at_once() -> None:
    async def test(world: World) -> None:
        replies: list[Any] = []

        class Replies:
            def on_reply(self, ident: str, delivery: Any) -> None:
                replies.append((ident, delivery.body))

            def __getattr__(self, name: str) -> Any:
                return lambda *_: None

        world.checkout.open_replies(SENDER, "c-1", Replies())
        world.send(SENT._replace(answer_to=world.checkout.reply_to))
        world.send(SENT._replace(id="m2", answer_to=world.checkout.reply_to))
        first, second = await world.one.asked(2)
        first.ok(b"yes")
        second.ok(b"no", 422)
        done = Response("m1", 200, [(b"Content-Type", b"text/plain")], b"yes", WHO)
        dead = Response("m2", 422, [(b"Content-Type", b"text/plain")], b"no", WHO, 1, "rejected")
        await until(lambda: len(replies) == 2)
        assert dict(replies) == {"m1": encode(done), "m2": encode(dead)}

    story(test)


def test_the_app_has_at_most_as_many_as_it_can_do_and_the_sidecar_as_many_as_it_may_fetch() -> None:
    async def test(world: World) -> None:
        for request in numbered(20):
            world.send(request)
        await world.one.asked(2)
        assert await world.ready() == (12, 8)
        world.one.app.asked[0].ok()
        await world.one.asked(3)
        assert world.one.idents() == ["m0", "m1", "m2"]

    story(test)


def test_waited_calls_and_durable_messages_share_the_app_and_neither_shuts_out_the_other() -> None:
    async def test(world: World) -> None:
        one = world.one
        one.inbound.resume()
        for number in range(6):
            world.send(SENT._replace(id=f"d{number}", key="k"))
            world.send(
                SENT._replace(id=f"w{number}", accepted_ms=None), key=topology.call_key(TOPIC), reply_to="nobody.i.1"
            )
        one.work.add(Source(topology.key_queue(TOPIC, topology.partition_of("k")), TOPIC, ordered=True))
        handled = []
        for _ in range(12):
            asked = await one.next()
            handled.append(asked.headers["Meshq-Message-Id"][0])
            await settle()
            asked.ok()
        assert "www" not in "".join(handled)
        assert "ddd" not in "".join(handled)

    story(test, concurrency=1, prefetch=20)


# --- it fails ------------------------------------------------------------------------------------------------------------------


def test_5xx_is_tried_again_after_a_while_in_the_broker() -> None:
    async def test(world: World) -> None:
        one = world.one
        world.send(SENT, priority=7)
        for attempt, delay in [(1, 1), (2, 5)]:
            asked = await one.next()
            assert asked.headers["Meshq-Attempt"] == str(attempt)
            assert asked.headers["Meshq-Caller"] == "checkout", "as its sender proved"
            asked.ok(b"out of stock", 500)
            await world.nothing_left()
            copy = one.broker.published[-1]
            assert copy == Publication(
                topology.DELAY,
                topology.delay_key(delay, WORK),
                encode(SENT._replace(attempt=attempt + 1, proved_caller="checkout")),
                "m1",
                "retry",
                "checkout.results",
                None,
                7,
            )
            await pass_time(delay - 0.1)
            assert one.app.asked == []
            await pass_time(0.2)
        asked = await one.next()
        assert asked.headers["Meshq-Attempt"] == "3"
        asked.ok()
        assert await world.result() == Response("m1", 200, [(b"Content-Type", b"text/plain")], b"done", WHO, 3)
        await world.nothing_left(WORK, DEAD)
        assert one.metrics.events["retried"] == 2

    story(test)


@pytest.mark.parametrize("failure", [Failure.BROKEN, Failure.TIMEOUT])
def test_an_unknown_outcome_is_tried_again_then_dead(failure: Failure) -> None:
    async def test(world: World) -> None:
        world.send(SENT)
        for attempt in (1, 2, 3):
            asked = await world.one.next()
            assert asked.headers["Meshq-Attempt"] == str(attempt)
            asked.fail(failure, "why")
        letter = await world.dead()
        assert (letter.reason, letter.attempts, letter.status, letter.excerpt) == ("attempts", 3, None, b"")
        assert letter.detail == "why (the last of 3 attempts)"
        result = await world.result()
        assert result == Fault("m1", Code.BAD_GATEWAY, letter.detail, False, WHO, "attempts")
        await world.nothing_left(WORK, DEAD)

    story(test)


def test_retry_after_is_honoured() -> None:
    async def test(world: World) -> None:
        world.send(SENT)
        asked = await world.one.next()
        asked.answer(HttpResponse(503, [(b"Retry-After", b"77")]))
        await pass_time(76)
        assert world.one.app.asked == []
        await pass_time(2)
        await world.one.asked(1)

    story(test)


def test_4xx_is_dead_at_once_and_says_all_that_is_known() -> None:
    async def test(world: World) -> None:
        one = world.one
        sent = SENT._replace(callback=b"/done")
        world.send(sent)
        (await one.asked(1))[0].answer(HttpResponse(422, [(b"A", b"b")], b"no such customer"))
        died_ms = world.clock.mesh_ms()
        letter = await world.dead()
        assert letter._asdict() == {
            "id": "m1",
            "reason": "rejected",
            "detail": "the app answered 422: the message is wrong",
            "queue": WORK,
            "at_ms": died_ms,
            "instance": WHO,
            "body": encode(sent),
            "status": 422,
            "excerpt": b"no such customer",
            "attempts": 1,
            "sender": "checkout",
        }
        assert await world.result() == Response(
            "m1", 422, [(b"A", b"b")], b"no such customer", WHO, 1, "rejected", b"/done"
        )
        await world.nothing_left(WORK, DEAD)
        assert one.metrics.events["dead_lettered:rejected"] == 1

    story(test)


def test_a_poison_message_is_dead_after_exactly_the_attempts_set() -> None:
    async def test(world: World) -> None:
        world.send(SENT)
        for _ in range(5):
            (await world.one.next()).ok(b"boom", 500)
        letter = await world.dead()
        assert (letter.reason, letter.status, letter.excerpt, letter.attempts) == ("attempts", 500, b"boom", 5)
        await pass_time(3600)
        assert world.one.app.asked == []
        await world.nothing_left(WORK, DEAD)

    story(test, retry=Retry())


def test_the_sender_of_a_dead_message_is_named_only_if_that_is_proved() -> None:
    async def test(world: World) -> None:
        world.send(SENT._replace(caller="admin", proved_caller="admin"))
        asked = await world.one.next()
        assert asked.headers["Meshq-Caller-Claimed"] == "admin"
        assert "Meshq-Caller" not in asked.headers
        asked.ok(b"", 400)
        assert (await world.dead()).sender == ""

    story(test)


@pytest.mark.parametrize("failure", [Failure.REFUSED, Failure.CANCELLED])
def test_an_app_that_does_not_take_it_burns_no_attempt(failure: Failure) -> None:
    async def test(world: World) -> None:
        one = world.one
        world.send(SENT)
        for _ in range(OFTEN + 5):
            asked = await one.next()
            assert asked.headers["Meshq-Attempt"] == "1"
            assert asked.headers["Meshq-Caller"] == "checkout"
            asked.fail(failure)
            one.work._consuming.breaker.succeeded()
        (asked,) = await one.asked(1)
        assert asked.headers["Meshq-Attempt"] == "1"
        asked.ok()
        assert isinstance(await world.result(), Response)
        await world.nothing_left(WORK, DEAD)
        assert one.receiver.refused == (OFTEN + 5 if failure is Failure.REFUSED else 0)
        assert one.metrics.events["given_back:not-ready"] == OFTEN + 5

    story(test)


# --- it does not start -----------------------------------------------------------------------------------------------------------


def test_after_its_deadline_it_is_dead_and_was_not_started() -> None:
    async def test(world: World) -> None:
        deadline = world.clock.mesh_ms() + 5000
        for request in numbered(3, deadline_ms=deadline):
            world.send(request)
        await world.one.asked(2)
        assert world.one.app.asked[0].headers["Meshq-Deadline"] == str(deadline)
        await pass_time((deadline + 1500 - world.clock.mesh_ms()) / 1000)
        world.one.app.asked[0].ok()
        letter = await world.dead()
        assert (letter.id, letter.reason, letter.attempts) == ("m2", "deadline", 0)
        assert letter.detail == "its deadline passed 1.5 s before it could be started"
        await until(lambda: len(world.results) == 2)
        fault = next(result for result in world.results if result.id == "m2")
        assert fault == Fault("m2", Code.DEADLINE, letter.detail, False, WHO, "deadline")
        await world.one.asked(2)

    story(test)


def test_outside_the_selector_it_goes_back_three_times_and_no_attempt_is_burnt() -> None:
    async def test(world: World) -> None:
        world.send(SENT._replace(selector="^2.2"))
        letter = await world.dead()
        assert (letter.reason, letter.attempts) == ("no-such-version", 0)
        assert isinstance(await world.result(), Fault)
        assert [p.exchange for p in world.one.broker.published[:3]] == [topology.DELAY] * 3
        assert world.one.app.asked == []
        world.send(SENT._replace(selector="^2.1"))
        await world.one.asked(1)

    story(test)


def test_what_was_cancelled_is_not_started() -> None:
    async def test(world: World) -> None:
        assert await world.one.store.cancel("orders", "m1")
        world.send(SENT)
        world.send(SENT._replace(id="m2"))
        await world.one.asked(1)
        assert world.one.idents() == ["m2"]
        assert (await world.ready(), world.results) == ((0, 1), [])
        assert not await world.one.store.cancel("orders", "m2"), "it has started"
        assert world.one.metrics.events["cancelled"] == 1

    story(test)


def test_with_the_store_away_it_is_started() -> None:
    async def test(world: World) -> None:
        world.one.store.away = True
        world.send(SENT)
        await world.one.asked(1)

    story(test)


def test_the_store_is_asked_once_for_all_of_one_moment_and_not_of_those_that_nobody_can_cancel() -> None:
    async def test(world: World) -> None:
        world.send(SENT, reply_to="")
        world.send(SENT._replace(id="m2", attempt=2))
        await world.one.asked(2)
        assert world.one.store.asked == 0
        for asked in list(world.one.app.asked):
            asked.ok()
        for request in numbered(8):
            world.send(request)
        await world.one.asked(4)
        assert world.one.store.asked == 1

    story(test)


@pytest.mark.parametrize(
    ("body", "ident", "letter_id", "detail"),
    [
        (b"garbage!!", "m1", "m1", "wire version 103"),
        (b"", "no id / at all", "unknown", "cut off"),
        (encode(Response("m1", 200, [], b"", "")), "m1", "m1", "a Response lies in a queue for requests"),
        (encode(SENT._replace(selector="nonsense")), "m1", "m1", "field s"),
        (encode(SENT) + encode(SENT)[:-1], "m1", "m1", "record at offset"),
    ],
)
def test_what_cannot_be_read_is_dead_with_the_reason(body: bytes, ident: str, letter_id: str, detail: str) -> None:
    async def test(world: World) -> None:
        world.send(SENT, body=body, message_id=ident)
        letter = await world.dead()
        assert (letter.id, letter.reason, letter.queue, letter.body) == (letter_id, "undecodable", WORK, body)
        assert detail in letter.detail
        await world.nothing_left(WORK, DEAD)

    story(test)


class Foreign:
    """A delivery of another publisher; the embedded broker has none."""

    body, message_id, content_type, user_id = b"raw", "order 7", "text/plain", "legacy"
    redelivered, deliveries, live = False, 0, True

    def __init__(self, queue: str = WORK, reply_to: str = "") -> None:
        self.queue = queue
        self.reply_to = reply_to
        self.acks = 0

    def properties(self) -> dict[str, Any]:
        return {"content_type": "text/plain", "headers": {"X": "1", "meshq-caller": "admin"}}

    def ack(self) -> None:
        self.acks += 1

    def requeue(self) -> None:
        raise AssertionError("it was done")


@pytest.mark.parametrize("queue", [WORK, topology.key_queue(TOPIC, 0)])
def test_a_foreign_message_is_posted_to_the_root_and_retried_as_one_of_ours(queue: str) -> None:
    async def test(world: World) -> None:
        one, delivery = world.one, Foreign(queue)
        one.work.add(Source(topology.key_queue(TOPIC, 0), TOPIC, ordered=True))
        consumer = one.work._consuming.consumers[queue]
        one.work._on_delivery(consumer, delivery)
        asked = await one.next()
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
        asked.ok(b"", 503)
        again = await one.next()
        assert again.headers["Meshq-Attempt"] == "2"
        assert again.request.body == b"raw"
        again.ok()
        await settle()
        assert delivery.acks == 1
        await world.nothing_left(queue)

    story(test)


@pytest.mark.parametrize(("status", "attempts"), [(400, 1), (503, 3)])
def test_a_foreign_message_that_is_dead_is_kept_so_that_it_can_be_brought_back(status: int, attempts: int) -> None:
    async def test(world: World) -> None:
        one, delivery = world.one, Foreign()
        one.work._on_delivery(one.work._consuming.consumers[WORK], delivery)
        for _ in range(attempts):
            (await one.next()).ok(b"", status)
        letter = await world.dead()
        assert letter.attempts == attempts
        (request,) = decode(letter.body)
        assert isinstance(request, Request)
        assert (request.id, request.method, request.target, request.body) == (letter.id, "POST", b"/", b"raw")
        assert (b"Content-Type", b"text/plain") in request.headers
        found = read(encode_dead_letter(letter), DEAD, CONTENT_TYPE, letter.id, "orders", "", {})
        plan = resend(found, None, world.clock.mesh_ms(), False)
        assert isinstance(plan, Resend)
        assert plan.queue == WORK

    story(test)


# --- pause, stop -------------------------------------------------------------------------------------------------------------------


def test_a_pause_gives_back_what_has_not_started_and_lets_run_what_runs() -> None:
    async def test(world: World) -> None:
        one = world.one
        for request in numbered(8):
            world.send(request)
        await one.asked(2)
        one.work.pause()
        one.work.pause()
        assert one.work.consuming == 0
        assert await world.ready() == (6, 2)
        for asked in list(one.app.asked):
            asked.ok()
        await until(lambda: len(world.results) == 2)
        await one.asked(2)
        one.work.resume()
        one.work.resume()
        await one.asked(4)
        assert one.idents() == ["m0", "m1", "m2", "m3"]
        assert {asked.headers["Meshq-Attempt"] for asked in one.app.asked} == {"1"}

    story(test)


def test_a_pause_while_the_store_is_asked_starts_nothing() -> None:
    async def test(world: World) -> None:
        one = world.one
        go_on: list[Any] = []
        start = one.store.start

        async def slow(*args: Any) -> list[bool]:
            await until(lambda: go_on)
            return await start(*args)

        one.store.start = slow
        world.send(SENT)
        assert await world.ready() == (0, 1)
        one.work.pause()
        go_on.append(True)
        await pass_time(1)
        assert (await world.ready(), one.app.asked) == ((1, 0), [])

    story(test)


def test_what_was_on_its_way_at_a_pause_stays_in_its_queue() -> None:
    async def test(world: World) -> None:
        one, deliveries = world.one, list[Delivery]()
        one.work.pause()
        world.send(SENT)
        one.client.subscribe(WORK, 1, deliveries.append)
        await until(lambda: deliveries)
        one.work._on_delivery(one.work._consuming.consumers[WORK], deliveries[0])
        assert not deliveries[0].live
        await pass_time(1)
        assert one.app.asked == []

    story(test)


def test_a_message_that_is_put_back_often_goes_back_as_a_copy() -> None:
    """Before RabbitMQ 4.3 a requeue counts toward the broker's own limit, beyond which the message is dead."""

    async def test(world: World) -> None:
        world.send(SENT, priority=7)
        for _ in range(3 * topology.BACKSTOP_DELIVERIES):
            await until(lambda: world.one.app.asked)
            world.one.work.pause()
            world.one.app.asked.pop().fail(Failure.REFUSED)
            world.one.work._consuming.breaker.succeeded()
            await pass_time(1)
            world.one.work.resume()
        asked = await world.one.next()
        assert (asked.headers["Meshq-Attempt"], asked.headers["Meshq-Caller"]) == ("1", "checkout")
        assert {copy.priority for copy in world.one.broker.published} == {7}
        asked.ok()
        assert isinstance(await world.result(), Response)
        await world.nothing_left(WORK, DEAD)

    story(test)


def test_idle_is_told_when_nothing_runs_and_all_is_settled() -> None:
    async def test(world: World) -> None:
        one, told = world.one, list[str]()
        one.work.when_idle(lambda: told.append("at once"))
        assert told == ["at once"]
        one.broker.held[topology.REPLIES] = []
        for request in numbered(3):
            world.send(request)
        await one.asked(2)
        one.work.stop()
        one.work.when_idle(lambda: told.append("later"))
        for asked in list(one.app.asked):
            asked.ok()
        await settle()
        assert told == ["at once"]
        one.broker.tell(topology.REPLIES)
        assert told == ["at once", "later"]
        assert await world.ready() == (1, 0)
        one.work.resume()
        await pass_time(60)
        assert (await world.ready(), len(one.app.asked)) == ((1, 0), 2), "stopped is stopped"

    story(test)


def test_idle_is_told_when_the_last_one_was_put_back() -> None:
    async def test(world: World) -> None:
        told: list[bool] = []
        world.send(SENT)
        (asked,) = await world.one.asked(1)
        world.one.work.stop()
        world.one.work.when_idle(lambda: told.append(True))
        asked.fail(Failure.CANCELLED)
        assert told == [True]
        assert await world.ready() == (1, 0)

    story(test)


def test_a_source_that_is_removed_gives_back_what_has_not_started() -> None:
    async def test(world: World) -> None:
        for request in numbered(4):
            world.send(request)
        await world.one.asked(2)
        world.one.work.remove(WORK)
        world.one.work.remove(WORK)
        assert await world.ready() == (2, 2)
        for asked in list(world.one.app.asked):
            asked.ok(b"", 500)
        await pass_time(2)
        assert await world.ready() == (4, 0), "what it ran is tried again by whoever takes it next"

    story(test)


def test_a_source_that_is_replaced_goes_on_as_the_new_one_says() -> None:
    async def test(world: World) -> None:
        for request in numbered(3):
            world.send(request)
        await world.one.asked(2)
        world.one.work.add(Source(WORK, TOPIC, path=b"/new"))
        for asked in list(world.one.app.asked):
            asked.ok()
        await world.one.asked(3)
        assert [asked.request.target for asked in world.one.app.asked] == [b"/a?b", b"/a?b", b"/new"]

    story(test)


# --- the circuit -------------------------------------------------------------------------------------------------------------------


def test_ten_failures_in_a_row_open_the_circuit_and_one_success_closes_it() -> None:
    async def test(world: World) -> None:
        one = world.one
        for request in numbered(30):
            world.send(request)
        for _ in range(10):
            assert one.work.consuming == 1
            (await one.next()).ok(b"", 503)
        assert (one.work.circuit, one.work.consuming) == (Circuit.OPEN, 0)
        assert one.metrics.events["circuit_opened"] == 1
        late = list(one.app.asked)
        one.app.asked.clear()
        assert len(late) == 1, "what was at the app already"
        late[0].ok(b"", 503)
        await pass_time(0.9)
        assert one.app.asked == []
        await pass_time(0.2)
        assert one.work.circuit is Circuit.HALF_OPEN
        await one.asked(1)
        assert (await world.ready())[1] == 1, "one message is tried"
        (await one.next()).ok(b"", 503)
        assert one.work.circuit is Circuit.OPEN
        await pass_time(1.9)
        assert one.app.asked == []
        (await one.next()).ok()
        assert (one.work.circuit, one.work.consuming) == (Circuit.CLOSED, 1)
        await one.asked(2)
        assert (await world.ready())[1] == 8

    story(test, retry=Retry(50, (100.0,)))


def test_while_the_circuit_is_open_messages_stay_and_results_are_taken() -> None:
    async def test(world: World) -> None:
        one = world.one
        results = topology.results_queue("orders")
        one.work.add(Source(results, TOPIC, results=True))
        for request in numbered(10):
            world.send(request)
        for _ in range(10):
            (await one.next()).ok(b"", 503)
        world.publish(
            Publication(topology.REPLIES, "orders.results", encode(Response("r1", 200, [], b"", "")), "r1", "result")
        )
        world.send(SENT._replace(id="new"))
        await settle()
        assert len(one.receiver.results) == 1
        assert await world.ready() == (1, 0)

    story(test, retry=Retry(50, (100.0,)))


def test_a_late_success_closes_the_circuit_for_good() -> None:
    async def test(world: World) -> None:
        one = world.one
        for request in numbered(12):
            world.send(request)
        slow = await one.next()
        for _ in range(10):
            (await one.next()).ok(b"", 503)
        assert one.work.circuit is Circuit.OPEN
        slow.ok()
        assert one.work.circuit is Circuit.CLOSED
        await pass_time(2)
        assert one.work.circuit is Circuit.CLOSED
        (await one.next()).ok(b"", 503)
        assert one.work.circuit is Circuit.CLOSED

    story(test, retry=Retry(50, (100.0,)))


def test_a_pause_and_the_circuit_do_not_open_each_others_door() -> None:
    async def test(world: World) -> None:
        one = world.one
        for request in numbered(12):
            world.send(request)
        for _ in range(10):
            (await one.next()).ok(b"", 503)
        one.work.pause()
        one.work.resume()
        assert one.work.consuming == 0, "the circuit is open"
        one.work.pause()
        await pass_time(2)
        assert one.work.consuming == 0, "it is paused"
        one.work.resume()
        assert (one.work.circuit, one.work.consuming) == (Circuit.HALF_OPEN, 1)

    story(test, retry=Retry(50, (100.0,)))


def test_half_open_one_message_is_tried_whatever_queues_there_are() -> None:
    async def test(world: World) -> None:
        one, event = world.one, "payments.settled.v1"
        queues = [WORK]
        for name in ("a", "b"):
            await one.client.declare(topology.subscription(TOPIC, name, event))
            queues.append(topology.subscription_queue(TOPIC, name))
            one.work.add(Source(queues[-1], TOPIC, path=b"/on", name=name))
        for number in range(12):
            world.send(SENT._replace(id=f"m{number}"))
        for _ in range(10):
            (await one.next()).ok(b"", 503)
        for asked in list(one.app.asked):
            asked.ok(b"", 503)
        one.app.asked.clear()
        for number in range(3):
            emitted = SENT._replace(id=f"e{number}", event=event)
            world.publish(Publication(topology.EVENTS, topology.event_key(event), encode(emitted), emitted.id, "event"))
        for _ in range(2):
            await until(lambda: one.work.circuit is Circuit.HALF_OPEN)
            await one.asked(1)
            await pass_time(5)
            await one.asked(1)
            assert [(await world.ready(queue))[1] for queue in queues] == [1, 1, 1]
            (await one.next()).ok(b"", 503)
            assert (one.work.circuit, one.work.consuming) == (Circuit.OPEN, 0)
            assert [(await world.ready(queue))[1] for queue in queues] == [0, 0, 0]
        (await one.next()).ok()
        assert one.work.circuit is Circuit.CLOSED
        await until(lambda: len(one.app.asked) == 2)
        for _ in range(6):
            (await one.next()).ok()
        await settle()

    story(test, retry=Retry(50, (100.0,)))


# --- the connection is lost ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("outcome", "exchange"),
    [
        (HttpResponse(200, []), topology.REPLIES),
        (HttpResponse(500, []), topology.DELAY),
        (HttpResponse(400, []), topology.DEAD),
        (Failed(Failure.BROKEN, "why"), topology.DELAY),
    ],
)
def test_lost_before_the_confirm_it_is_not_handled_again_here(outcome: HttpResponse | Failed, exchange: str) -> None:
    async def test(world: World) -> None:
        one = world.one
        one.broker.held[exchange] = []
        world.send(SENT)
        (await one.next()).answer(outcome)
        assert await world.ready() == (0, 1)
        await one.cut()
        assert (await world.ready(), one.app.asked) == ((0, 1), [])
        one.broker.tell(exchange)
        await world.nothing_left()
        assert one.app.asked == []
        assert one.metrics.events["redelivered"] == 1

    story(test)


@pytest.mark.parametrize("status", [200, 500, 400])
def test_settled_while_there_is_no_connection_it_is_not_handled_again_here(status: int) -> None:
    async def test(world: World) -> None:
        one = world.one
        world.send(SENT)
        asked = await one.next()
        one.client.drop("cut by the test")
        asked.ok(b"", status)
        await pass_time(3)
        assert not one.settler.idle
        await one.client.open()
        await until(lambda: one.settler.idle)
        await pass_time(0.5)
        await world.nothing_left()
        assert (await world.ready(DEAD))[0] == (status == 400)
        if status == 500:
            assert (await one.next()).headers["Meshq-Attempt"] == "2"
        else:
            assert (await world.result()).id == "m1"
        assert one.app.asked == []

    story(test)


def test_an_event_that_was_handled_while_there_was_no_connection_is_not_handled_again_here() -> None:
    async def test(world: World) -> None:
        world.send(SENT, reply_to="")
        asked = await world.one.next()
        world.one.client.drop("cut by the test")
        asked.ok()
        assert world.one.settler.idle
        await world.one.client.open()
        await world.nothing_left()
        assert world.one.app.asked == []

    story(test)


def test_what_still_runs_when_it_comes_again_runs_once() -> None:
    async def test(world: World) -> None:
        world.send(SENT)
        (asked,) = await world.one.asked(1)
        await world.one.cut()
        assert await world.ready() == (0, 1)
        asked.ok()
        assert isinstance(await world.result(), Response)
        await world.nothing_left()
        await world.one.asked(1)

    story(test)


def test_what_waited_when_the_connection_was_lost_starts_once_in_its_order() -> None:
    async def test(world: World) -> None:
        for request in numbered(6):
            world.send(request)
        await world.one.asked(2)
        await world.one.cut()
        await settle()
        for _ in range(6):
            (await world.one.next()).ok()
            await settle()
        await until(lambda: len(world.results) == 6)
        assert [result.id for result in world.results] == [f"m{n}" for n in range(6)]
        await world.nothing_left()
        assert world.one.app.asked == []

    story(test)


def test_what_waits_for_room_and_is_not_ours_any_more_is_not_started() -> None:
    async def test(world: World) -> None:
        for request in numbered(4):
            world.send(request)
        first, second = list(await world.one.asked(2))
        world.one.client.drop("cut by the test")
        two = world.instance(OTHER)
        await two.open()
        await two.asked(2)
        first.ok()
        second.ok()
        await pass_time(1)
        assert world.one.idents() == ["m0", "m1"]
        for asked in list(two.app.asked):
            asked.ok()
        await two.asked(4)

    story(test)


def test_a_senders_repetition_is_another_message() -> None:
    """It has the id of the first, which must keep its own delivery."""

    async def test(world: World) -> None:
        one, two = world.one, world.instance(OTHER)
        world.send(SENT)
        await one.asked(1)
        one.work.pause()
        world.send(SENT)
        await two.open()
        await two.asked(1)
        two.client.drop("killed by the test")
        one.work.resume()
        first, second = list(await one.asked(2))
        assert await world.ready() == (0, 2)
        first.ok()
        second.ok()
        await world.nothing_left()
        assert one.work.in_flight == 0

    story(test)


# --- packs ---------------------------------------------------------------------------------------------------------------------


def test_a_pack_is_acknowledged_once_all_of_it_is_done() -> None:
    async def test(world: World) -> None:
        world.send(*numbered(3))
        first, second = list(await world.one.asked(2))
        second.ok(b"", 400)
        third = list(await world.one.asked(3))[2]
        first.ok()
        assert (await world.dead()).id == "m1"
        assert await world.ready() == (0, 1)
        third.ok()
        await until(lambda: len(world.results) == 3)
        await world.nothing_left()

    story(test)


def test_of_a_pack_only_what_was_not_done_comes_again() -> None:
    async def test(world: World) -> None:
        world.send(*numbered(3))
        first, second = list(await world.one.asked(2))
        first.ok()
        second.fail(Failure.REFUSED)
        third, again = list(await world.one.asked(4))[2:]
        third.ok()
        assert (again.headers["Meshq-Message-Id"], again.headers["Meshq-Attempt"]) == ("m1", "1")
        again.ok()
        await until(lambda: len(world.results) == 3)
        await world.nothing_left()

    story(test)
