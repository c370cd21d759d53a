"""What else comes in durably: events of subscriptions, results of our own calls with their callbacks, messages with an
idempotency key."""

from typing import Any

import pytest

from meshq.core import topology
from meshq.core.errors import Code
from meshq.core.http import Failed, Failure, HttpResponse
from meshq.core.message import Fault, Request, Response, encode
from meshq.core.outcomes import as_callback
from meshq.ports import Publication
from meshq_sidecar.job import Source
from meshq_sidecar.ways_out import NOT_NOW_SECONDS
from meshq_sidecar.work import LAST_RESULTS
from tests.doubles import settle
from tests.durable import DEAD, OTHER, SENDER, WORK, World, story
from tests.receiver import TOPIC
from tests.virtual_time import pass_time, until

WHO = "orders/2.1.0/i-1"
EVENT = "payments.settled.v1"
SETTLED = Request(
    "e1", "POST", b"/", [(b"Host", b"localhost"), (b"ce-type", b"settled")], b"{}", SENDER, accepted_ms=1, event=EVENT
)
ON = topology.subscription_queue(TOPIC, "settled")


async def subscribe(world: World, name: str = "settled", **more: Any) -> None:
    await world.one.client.declare(topology.subscription(TOPIC, name, EVENT))
    queue = topology.subscription_queue(TOPIC, name)
    world.one.work.add(Source(queue, TOPIC, path=f"/on/{name}".encode(), name=name)._replace(**more))


def emit(world: World, *events: Request) -> None:
    for event in events:
        world.publish(Publication(topology.EVENTS, topology.event_key(EVENT), encode(event), event.id, "event"))


# --- subscriptions ---------------------------------------------------------------------------------------------------------------


def test_an_event_is_posted_to_the_subscriptions_path_and_has_no_result() -> None:
    async def test(world: World) -> None:
        await subscribe(world)
        emit(world, SETTLED)
        (asked,) = await world.one.asked(1)
        assert (asked.request.method, asked.request.target) == (b"POST", b"/on/settled")
        assert asked.headers == {
            "Host": "localhost",
            "ce-type": "settled",
            "Meshq-Message-Id": "e1",
            "Meshq-Attempt": "1",
            "Meshq-Topic": EVENT,
            "Meshq-Caller": SENDER,
            "Idempotency-Key": "e1",
        }
        asked.ok(b"whatever")
        await world.nothing_left(ON)
        assert world.one.broker.published == []

    story(test)


def test_each_subscription_gets_it_and_each_tries_it_again_for_itself() -> None:
    async def test(world: World) -> None:
        await subscribe(world)
        await subscribe(world, "audit")
        emit(world, SETTLED)
        first = {asked.request.target: asked for asked in await world.one.asked(2)}
        world.one.app.asked = []
        first[b"/on/settled"].ok(b"", 500)
        first[b"/on/audit"].ok()
        again = await world.one.next()
        assert (again.request.target, again.headers["Meshq-Attempt"]) == (b"/on/settled", "2")
        again.ok()
        await pass_time(60)
        await world.one.asked(0)
        await world.nothing_left(ON, topology.subscription_queue(TOPIC, "audit"), DEAD)

    story(test)


def test_what_the_filter_does_not_take_is_over() -> None:
    async def test(world: World) -> None:
        await subscribe(world, accepts=lambda request: (b"ce-type", b"settled") in request.headers)
        emit(world, SETTLED._replace(id="e0", headers=[(b"ce-type", b"refunded")]), SETTLED)
        (asked,) = await world.one.asked(1)
        assert asked.headers["Meshq-Message-Id"] == "e1"
        assert await world.ready(ON) == (0, 1)
        assert world.one.metrics.events["event_filtered"] == 1

    story(test)


def test_an_event_that_is_dead_is_among_the_services_dead_letters() -> None:
    async def test(world: World) -> None:
        await subscribe(world)
        emit(world, SETTLED)
        (await world.one.next()).ok(b"never", 400)
        letter = await world.dead()
        assert (letter.id, letter.queue, letter.reason, letter.sender) == ("e1", ON, "rejected", SENDER)
        await world.nothing_left(ON, DEAD)
        assert world.results == []

    story(test)


# --- results of our own calls ----------------------------------------------------------------------------------------------------

RESULTS = topology.results_queue("orders")
RESULT = Response("r1", 201, [(b"Content-Type", b"text/plain")], b"made", "billing/1.0.0/b-1")
CALLBACK = as_callback(RESULT._replace(callback=b"/made?x"), b"orders.mesh", "billing", 1)


async def take_results(world: World) -> Any:
    """A client of the service that answers."""
    world.one.work.add(Source(RESULTS, TOPIC, results=True))
    billing = world.hub.connect("billing")
    await billing.open()
    return billing


def answer(billing: Any, *results: Response | Fault | Request) -> None:
    body = b"".join(map(encode, results))
    fates: list[Any] = []
    billing.publish(
        Publication(topology.REPLIES, topology.results_key("orders"), body, results[0].id, "result"), fates.append
    )


def test_a_result_is_acknowledged_once_it_is_stored() -> None:
    async def test(world: World) -> None:
        one = world.one
        answer(await take_results(world), RESULT, Fault("r2", Code.DEADLINE, "late", True, "billing/1.0.0/b-1"))
        await until(lambda: len(one.receiver.results) == 2)
        (first, user, stored), (second, _, stored_too) = one.receiver.results
        assert (first, user, second.id) == (RESULT, "billing", "r2")
        stored(None)
        assert await world.ready(RESULTS) == (0, 1)
        stored_too(None)
        await world.nothing_left(RESULTS)
        assert one.app.asked == []

    story(test)


def test_idle_waits_for_what_is_being_stored() -> None:
    async def test(world: World) -> None:
        one, told = world.one, list[bool]()
        answer(await take_results(world), RESULT)
        await until(lambda: one.receiver.results)
        one.work.stop()
        one.work.when_idle(lambda: told.append(True))
        assert told == []
        one.receiver.results[0][2](None)
        assert told == [True]
        await world.nothing_left(RESULTS)

    story(test)


def test_a_result_is_posted_to_the_app_that_asked_for_that() -> None:
    async def test(world: World) -> None:
        one = world.one
        answer(await take_results(world), RESULT)
        await until(lambda: one.receiver.results)
        one.receiver.results[0][2](CALLBACK)
        asked = await one.next()
        assert (asked.request.method, asked.request.target, asked.request.body) == (b"POST", b"/made?x", b"made")
        assert asked.headers == {
            "Host": "orders.mesh",
            "Content-Type": "text/plain",
            "Meshq-Message-Id": "r1-callback",
            "Meshq-Attempt": "1",
            "Meshq-Topic": TOPIC,
            "Meshq-Caller": "billing",
            "Idempotency-Key": "r1-callback",
            "Meshq-Request-Id": "r1",
            "Meshq-Request-Status": "done",
            "Meshq-Request-Code": "201",
        }
        assert await world.ready(RESULTS) == (0, 1)
        asked.ok()
        await world.nothing_left(RESULTS)
        assert one.broker.published == []

    story(test)


def test_what_another_app_says_of_a_result_is_not_passed_on() -> None:
    async def test(world: World) -> None:
        forged = [(b"Meshq-Request-Status", b"done"), (b"meshq-request-id", b"r1")]
        world.send(SETTLED._replace(event="", headers=forged))
        assert not any("request" in name.lower() for name in (await world.one.next()).headers)

    story(test)


def test_a_callback_is_tried_again_and_then_dead() -> None:
    async def test(world: World) -> None:
        one = world.one
        answer(await take_results(world), RESULT)
        await until(lambda: one.receiver.results)
        one.receiver.results[0][2](CALLBACK)
        for attempt in (1, 2, 3):
            asked = await one.next()
            headers = asked.headers
            assert (headers["Meshq-Attempt"], headers["Meshq-Request-Id"], headers["Meshq-Caller"]) == (
                str(attempt),
                "r1",
                "billing",
            )
            asked.ok(b"", 503)
        letter = await world.dead()
        assert (letter.id, letter.reason, letter.queue, letter.attempts) == ("r1-callback", "attempts", RESULTS, 3)
        assert len(one.receiver.results) == 1
        await world.nothing_left(RESULTS, DEAD)

    story(test)


def test_while_the_app_is_not_ready_results_are_stored_and_callbacks_wait_in_the_broker() -> None:
    async def test(world: World) -> None:
        one = world.one
        billing = await take_results(world)
        one.work.pause()
        answer(billing, RESULT)
        await until(lambda: one.receiver.results)
        one.receiver.results[0][2](CALLBACK)
        await world.nothing_left(RESULTS)
        await pass_time(NOT_NOW_SECONDS + 1)
        assert one.app.asked == []
        one.work.resume()
        asked = await one.next()
        assert asked.headers["Meshq-Attempt"] == "1", "and no attempt is burnt"
        asked.ok()
        await world.nothing_left(RESULTS)

    story(test)


def test_a_stop_while_a_result_is_stored_leaves_its_callback_to_another() -> None:
    async def test(world: World) -> None:
        one = world.one
        answer(await take_results(world), RESULT)
        await until(lambda: one.receiver.results)
        one.work.stop()
        one.receiver.results[0][2](CALLBACK)
        await pass_time(NOT_NOW_SECONDS + 1)
        assert one.app.asked == []
        assert await world.ready(RESULTS) == (1, 0)

    story(test)


def test_of_a_pack_of_results_only_the_callback_that_was_not_made_comes_again() -> None:
    async def test(world: World) -> None:
        one = world.one
        answer(await take_results(world), RESULT, RESULT._replace(id="r2"))
        await until(lambda: len(one.receiver.results) == 2)
        one.receiver.results[0][2](CALLBACK)
        one.receiver.results[1][2](None)
        (await one.next()).fail(Failure.REFUSED)
        (await one.next()).ok()
        await world.nothing_left(RESULTS)
        assert len(one.receiver.results) == 2

    story(test)


@pytest.mark.parametrize("when", ["before it is stored", "while the callback is made", "after the callback"])
def test_a_result_that_comes_again_after_a_lost_connection(when: str) -> None:
    async def test(world: World) -> None:
        one = world.one
        answer(await take_results(world), RESULT)
        await until(lambda: one.receiver.results)
        stored = one.receiver.results[0][2]
        if when == "before it is stored":
            await one.cut()
            stored(CALLBACK)
            assert one.app.asked == [], "it is the broker's again"
        else:
            stored(CALLBACK)
            asked = await one.next()
            one.client.drop("cut by the test")
            if when == "after the callback":
                asked.ok()
            await one.client.open()
        await until(lambda: len(one.receiver.results) == 2)
        one.receiver.results[1][2](CALLBACK)
        if when == "before it is stored":
            asked = await one.next()
        asked.ok()
        await world.nothing_left(RESULTS)
        assert one.app.asked == [], "the app is told once"

    story(test)


def test_one_stored_while_there_was_no_connection_is_acknowledged_when_it_comes_again() -> None:
    async def test(world: World) -> None:
        one = world.one
        answer(await take_results(world), RESULT)
        await until(lambda: one.receiver.results)
        one.client.drop("cut by the test")
        one.receiver.results[0][2](None)
        await one.client.open()
        await world.nothing_left(RESULTS)
        assert len(one.receiver.results) == 1

    story(test)


@pytest.mark.parametrize(("user", "proves"), [("orders", True), ("guest", False)])
def test_a_request_among_the_results_is_ours_or_dead(user: str, proves: bool) -> None:
    """Whoever may answer us must not make our sidecar ask our app for anything."""

    async def test(world: World) -> None:
        answer(await take_results(world), CALLBACK._replace(id="forged", target=b"/admin", caller="orders"))
        if proves:
            letter = await world.dead()
            assert letter.reason == "undecodable"
            assert "a Request of 'billing' lies in the queue for results" in letter.detail
            assert world.one.app.asked == []
        else:
            assert (await world.one.next()).headers["Meshq-Caller-Claimed"] == "orders"

    story(test, user=user)


# --- once per key ----------------------------------------------------------------------------------------------------------------

PAY = Request("m1", "POST", b"/pay", [(b"Idempotency-Key", b"k-1")], b"5 EUR", SENDER, accepted_ms=1)


def test_a_key_is_handled_once_over_instances_and_every_sender_gets_that_answer() -> None:
    async def test(world: World) -> None:
        one, two = world.one, world.instance(OTHER)
        world.send(PAY)
        asked = await one.next()
        one.work.pause()
        await two.open()
        world.send(PAY._replace(id="m2"))
        assert await world.ready() == (0, 2)
        await pass_time(2)
        assert two.app.asked == [], "it waits for the first"
        asked.ok(b"paid", 201)
        await until(lambda: len(world.results) == 2)
        first = Response("m1", 201, [(b"Content-Type", b"text/plain")], b"paid", WHO)
        assert world.results == [first, first._replace(id="m2")]
        assert (one.app.asked, two.app.asked) == ([], [])
        await world.nothing_left()

    story(test)


def test_those_that_wait_for_a_key_take_no_place_at_the_app() -> None:
    async def test(world: World) -> None:
        for number in range(4):
            world.send(PAY._replace(id=f"m{number}"))
        world.send(PAY._replace(id="other", headers=[]))
        assert {asked.headers["Meshq-Message-Id"] for asked in await world.one.asked(2)} == {"m0", "other"}

    story(test)


def test_when_the_first_is_tried_again_the_second_is_handled_and_the_first_gets_its_answer() -> None:
    async def test(world: World) -> None:
        world.send(PAY)
        world.send(PAY._replace(id="m2"))
        asked = await world.one.next()
        asked.ok(b"", 500)
        other = await world.one.next()
        assert {asked.headers["Meshq-Message-Id"], other.headers["Meshq-Message-Id"]} == {"m1", "m2"}
        await pass_time(3)
        assert world.one.app.asked == []
        other.ok(b"paid")
        await until(lambda: len(world.results) == 2)
        assert {result.body for result in world.results if isinstance(result, Response)} == {b"paid"}
        await world.nothing_left()

    story(test)


def test_with_the_store_away_it_stays_queued_and_burns_no_attempt() -> None:
    async def test(world: World) -> None:
        one = world.one
        one.store.away = True
        world.send(PAY)
        for _ in range(20):
            await pass_time(NOT_NOW_SECONDS)
            assert one.app.asked == []
        assert (await world.ready(DEAD))[0] == 0
        one.store.away = False
        asked = await one.next()
        assert (asked.headers["Meshq-Attempt"], asked.headers["Meshq-Caller"]) == ("1", SENDER)

    story(test)


@pytest.mark.parametrize("other", [PAY._replace(body=b"6 EUR"), PAY._replace(target=b"/pay?more")])
def test_a_key_used_with_another_body_or_query_is_dead(other: Request) -> None:
    async def test(world: World) -> None:
        world.send(PAY)
        (await world.one.next()).ok()
        await world.result()
        world.send(other._replace(id="m2"))
        letter = await world.dead()
        assert (letter.id, letter.reason, letter.attempts) == ("m2", "key-reused", 0)
        fault = await world.result()
        assert isinstance(fault, Fault)
        assert (fault.code, fault.failed) == (Code.KEY_REUSED, "key-reused")
        await world.nothing_left(WORK, DEAD)

    story(test)


def test_an_answer_that_was_not_kept_is_known_to_have_been_given() -> None:
    async def test(world: World) -> None:
        world.send(PAY)
        (await world.one.next()).ok(b"x" * 65_537)
        await world.result()
        world.send(PAY._replace(id="m2"))
        fault = await world.result()
        assert isinstance(fault, Fault)
        assert (fault.id, fault.code, fault.failed) == ("m2", Code.ANSWER_NOT_KEPT, "")
        assert world.one.app.asked == []

    story(test)


def test_a_message_that_is_wrong_frees_its_key_for_when_it_is_brought_back() -> None:
    async def test(world: World) -> None:
        world.send(PAY)
        (await world.one.next()).ok(b"", 422)
        assert (await world.dead()).reason == "rejected"
        world.send(PAY._replace(replays=1))
        (await world.one.next()).ok()
        await world.nothing_left()

    story(test)


def test_the_answer_is_stored_before_the_message_is_over() -> None:
    async def test(world: World) -> None:
        one = world.one
        go_on: list[bool] = []
        done = one.store.done

        async def slow(*args: Any) -> None:
            await until(lambda: go_on)
            await done(*args)

        one.store.done = slow
        world.send(PAY)
        (await one.next()).ok()
        await pass_time(1)
        assert (await world.ready(), world.results, one.work.in_flight) == ((0, 1), [], 1)
        await one.cut()
        await pass_time(1)
        assert (await world.ready(), one.app.asked) == ((0, 1), []), "it comes again meanwhile, and is known"
        go_on.append(True)
        assert isinstance(await world.result(), Response)
        await world.nothing_left()
        assert one.app.asked == []

    story(test)


def test_a_pause_gives_back_who_waits_for_a_key_and_claims_nothing_for_him() -> None:
    async def test(world: World) -> None:
        one = world.one
        world.send(PAY)
        asked = await one.next()
        world.send(PAY._replace(id="m2"))
        await pass_time(1)
        one.work.pause()
        assert await world.ready() == (1, 1)
        asked.ok(b"", 500)
        await pass_time(30)
        one.work.resume()
        first = await one.next()
        assert first.headers["Meshq-Attempt"] in "12"
        first.ok()
        await until(lambda: len(world.results) == 2)
        assert one.app.asked == []

    story(test)


def test_two_subscriptions_to_one_event_do_not_share_its_key() -> None:
    async def test(world: World) -> None:
        await subscribe(world)
        await subscribe(world, "audit")
        emit(world, SETTLED._replace(headers=[(b"Idempotency-Key", b"k")]))
        for asked in list(await world.one.asked(2)):
            asked.ok()
        emit(world, SETTLED._replace(id="e2", headers=[(b"Idempotency-Key", b"k")]))
        await pass_time(2)
        await world.one.asked(2)
        await world.nothing_left(ON)

    story(test)


def test_in_an_ordered_queue_the_next_of_key_waits_for_the_claim_too() -> None:
    async def test(world: World) -> None:
        one = world.one
        queue = topology.key_queue(TOPIC, topology.partition_of("k"))
        one.work.add(Source(queue, TOPIC, ordered=True))
        one.store.away = True
        world.send(PAY._replace(key="k"))
        world.send(PAY._replace(id="m2", key="k", headers=[]))
        await pass_time(3 * NOT_NOW_SECONDS)
        assert one.app.asked == []
        one.store.away = False
        asked = await one.next()
        assert (asked.headers["Meshq-Message-Id"], asked.headers["Meshq-Attempt"]) == ("m1", "1")
        asked.answer(HttpResponse(200, []))
        assert (await one.next()).headers["Meshq-Message-Id"] == "m2"
        await settle()

    story(test)


@pytest.mark.parametrize(("status", "kept"), [(200, True), (503, False)])
def test_an_answer_that_is_too_large_ends_the_key_of_a_durable_call(status: int, kept: bool) -> None:
    async def test(world: World) -> None:
        keyed = Request("m1", "POST", b"/a", [(b"Idempotency-Key", b"k")], b"x", SENDER, accepted_ms=1)
        world.send(keyed)
        (await world.one.next()).answer(Failed(Failure.TOO_LARGE, "it is over the limit", status))
        if not kept:
            assert (await world.one.next()).headers["Meshq-Attempt"] == "2"
            return
        first = await world.result()
        assert isinstance(first, Fault)
        assert first.code is Code.BAD_GATEWAY
        world.send(keyed._replace(id="m2"))
        second = await world.result()
        assert isinstance(second, Fault)
        assert (second.id, second.code, second.failed) == ("m2", Code.ANSWER_NOT_KEPT, "")
        assert world.one.app.asked == []

    story(test)


def test_results_that_cannot_be_stored_do_not_hold_up_the_end() -> None:
    async def test(world: World) -> None:
        one, results, told = world.one, topology.results_queue("orders"), list[str]()
        one.work.add(Source(results, TOPIC, results=True))
        for number in range(2):
            record = encode(Response(f"r{number}", 200, [], b"", ""))
            world.publish(Publication(topology.REPLIES, "orders.results", record, f"r{number}", "result"))
        await until(lambda: len(one.receiver.results) == 2)
        one.work.stop()
        one.work.when_idle(lambda: told.append("idle"))
        await pass_time(LAST_RESULTS / 2)
        one.receiver.results[0][2](None)
        assert (await world.ready(results), told) == ((0, 1), [])
        await pass_time(LAST_RESULTS)
        assert (await world.ready(results), told) == ((1, 0), ["idle"])
        one.receiver.results[1][2](None)
        await settle()
        assert await world.ready(results) == (1, 0), "it is somebody else's now"

    story(test)
