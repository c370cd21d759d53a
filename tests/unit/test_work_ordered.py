"""Order per key: one of a key at a time, in the order in which they came, through retries, pauses and lost connections
(promise 6 of DESIGN part 5)."""

from collections import defaultdict
from typing import Any

import pytest

from meshq.core import topology
from meshq.core.errors import Code
from meshq.core.http import Failure, HttpResponse
from meshq.core.message import Fault, Message, Request, Response, decode, encode
from meshq.core.policy import Retry
from meshq.ports import Delivery, Publication
from meshq_sidecar.job import Source
from tests.doubles import Asked, settle
from tests.durable import DEAD, OTHER, SENDER, Instance, World
from tests.durable import story as plain_story
from tests.receiver import TOPIC
from tests.virtual_time import pass_time, until

KEYS = "a", "b6"
"""Of one partition."""
PARTITION = topology.partition_of(KEYS[0])
QUEUE = topology.key_queue(TOPIC, PARTITION)


def message(ident: str, key: str = KEYS[0], **more: Any) -> Request:
    return Request(ident, "POST", b"/a", [], b"x", SENDER, accepted_ms=1, key=key)._replace(**more)


def take(instance: Instance) -> None:
    instance.work.add(Source(QUEUE, TOPIC, ordered=True))


def story(told: Any, **options: Any) -> None:
    async def inside(world: World) -> None:
        take(world.one)
        await told(world)

    plain_story(inside, **({"concurrency": 4, "prefetch": 10} | options))


def send(world: World, *idents: str, key: str = KEYS[0], **more: Any) -> None:
    for ident in idents:
        world.send(message(ident, key, **more))


async def next_of(instance: Instance, ident: str, attempt: int = 1) -> Asked:
    asked = await instance.next()
    assert (asked.headers["Meshq-Message-Id"], asked.headers["Meshq-Attempt"]) == (ident, str(attempt))
    return asked


def test_the_keys_are_of_one_partition() -> None:
    assert {topology.partition_of(key) for key in KEYS} == {PARTITION}


def test_one_of_a_key_at_a_time_in_order_and_other_keys_beside_it() -> None:
    async def test(world: World) -> None:
        one = world.one
        send(world, "a1", "a2", "a3")
        send(world, "b1", "b2", key=KEYS[1])
        first, other = list(await one.asked(2))
        assert one.idents() == ["a1", "b1"]
        first.ok()
        await one.asked(3)
        other.ok()
        await one.asked(4)
        assert one.idents() == ["a1", "b1", "a2", "b2"]
        one.app.asked[2].ok()
        await one.asked(5)
        for asked in one.app.asked:
            asked.ok()
        await until(lambda: len(world.results) == 5)
        await world.nothing_left(QUEUE)

    story(test)


def test_the_next_starts_when_the_one_before_is_settled_and_not_before() -> None:
    async def test(world: World) -> None:
        one = world.one
        one.broker.held[topology.REPLIES] = []
        send(world, "a1", "a2")
        (await one.next()).ok()
        await settle()
        assert one.app.asked == []
        one.broker.tell(topology.REPLIES)
        await next_of(one, "a2")

    story(test)


def test_order_holds_through_retries_while_followers_wait_and_other_keys_go_on() -> None:
    async def test(world: World) -> None:
        one = world.one
        send(world, "a1", "a2", "a3")
        (await next_of(one, "a1")).ok(b"", 500)
        send(world, "b1", key=KEYS[1])
        (await next_of(one, "b1")).ok()
        await pass_time(0.9)
        assert one.app.asked == []
        (await next_of(one, "a1", 2)).fail(Failure.TIMEOUT)
        await pass_time(4.9)
        assert one.app.asked == []
        (await next_of(one, "a1", 3)).ok()
        (await next_of(one, "a2")).ok()
        (await next_of(one, "a3")).ok()
        await until(lambda: len(world.results) == 4)
        assert [result.id for result in world.results] == ["b1", "a1", "a2", "a3"]
        assert [p for p in one.broker.published if p.exchange == topology.DELAY] == [], "it never left its place"
        await world.nothing_left(QUEUE)

    story(test)


def test_a_poison_message_blocks_its_own_key_alone_and_only_until_its_attempts_end() -> None:
    async def test(world: World) -> None:
        one = world.one
        send(world, "a1", "a2")
        send(world, "b1", key=KEYS[1])
        for attempt in (1, 2, 3):
            asked = await one.next()
            if asked.headers["Meshq-Message-Id"] == "b1":
                asked.ok()
                asked = await one.next()
            assert (asked.headers["Meshq-Message-Id"], asked.headers["Meshq-Attempt"]) == ("a1", str(attempt))
            asked.ok(b"boom", 500)
        letter = await world.dead()
        assert (letter.id, letter.reason, letter.attempts, letter.status) == ("a1", "attempts", 3, 500)
        (await next_of(one, "a2")).ok()
        await until(lambda: len(world.results) == 3)
        await world.nothing_left(QUEUE, DEAD)

    story(test)


@pytest.mark.parametrize("status", [400, 422])
def test_a_message_that_is_wrong_lets_the_next_go_on(status: int) -> None:
    async def test(world: World) -> None:
        send(world, "a1", "a2")
        (await next_of(world.one, "a1")).ok(b"", status)
        await next_of(world.one, "a2")
        assert (await world.dead()).id == "a1"

    story(test)


def test_an_app_that_is_not_ready_is_asked_again_and_burns_no_attempt() -> None:
    async def test(world: World) -> None:
        send(world, "a1", "a2")
        for _ in range(5):
            (await next_of(world.one, "a1")).fail(Failure.REFUSED)
        (await next_of(world.one, "a1")).ok()
        await next_of(world.one, "a2")

    story(test)


def test_pauses_burn_no_attempt() -> None:
    """Each of them returns messages to the broker, which counts that."""

    async def test(world: World) -> None:
        one = world.one
        send(world, "a0", "a1", "a2", "a3")
        (await next_of(one, "a0")).ok()
        for _ in range(9):
            asked = await one.next()
            one.work.pause()
            asked.fail(Failure.REFUSED)
            await settle()
            assert await world.ready(QUEUE) == (3, 0)
            one.work.resume()
        for attempt in (1, 2, 3):
            (await next_of(one, "a1", attempt)).ok(b"", 500)
        assert (await world.dead()).attempts == 3
        (await next_of(one, "a2")).ok()
        await next_of(one, "a3")

    story(test)


def test_what_was_cancelled_lets_the_next_go_on() -> None:
    async def test(world: World) -> None:
        for ident in ("a1", "a2", "a4"):
            assert await world.one.store.cancel("orders", ident)
        send(world, "a1", "a2", "a3", "a4", "a5")
        (await next_of(world.one, "a3")).ok()
        (await next_of(world.one, "a5")).ok()
        assert {(await world.result()).id, (await world.result()).id} == {"a3", "a5"}
        await world.nothing_left(QUEUE)

    story(test)


def test_hundreds_that_are_over_at_once_are_no_depth() -> None:
    """Each ends as soon as it has its turn, and gives the turn to the next."""

    async def test(world: World) -> None:
        deadline = world.clock.mesh_ms() + 1000
        send(world, "a0")
        for number in range(450):
            send(world, f"late{number}", deadline_ms=deadline)
        send(world, "last")
        asked = await next_of(world.one, "a0")
        await pass_time(2)
        asked.ok()
        await next_of(world.one, "last")
        await until(lambda: len(world.results) == 451)
        assert await world.ready(QUEUE) == (0, 1)
        assert (await world.ready(DEAD))[0] == 450

    story(test, prefetch=500)


# --- stop, take-over -------------------------------------------------------------------------------------------------------------


def test_to_stop_waits_for_what_runs_and_starts_nothing_more() -> None:
    """Only then may another instance go on with the keys."""

    async def test(world: World) -> None:
        one, two, told = world.one, world.instance(OTHER, concurrency=4, prefetch=10), list[bool]()
        await two.open()
        take(two)
        send(world, "a1", "a2", "a3")
        send(world, "b1", "b2", key=KEYS[1])
        a1, b1 = await one.asked(2)
        one.app.asked = []
        one.work.stop()
        one.work.when_idle(lambda: told.append(True))
        send(world, "c1", key="b14")
        a1.ok()
        await settle()
        assert (one.app.asked, two.app.asked, told) == ([], [], [])
        b1.ok()
        await until(lambda: told)
        assert one.app.asked == []
        for ident in ("a2", "b2"):
            (await next_of(two, ident)).ok()
        await until(lambda: len(two.app.asked) == 2)
        assert set(two.idents()) == {"a3", "c1"}

    story(test)


def test_under_load_it_stops_all_the_same() -> None:
    async def test(world: World) -> None:
        one = world.one
        for number in range(40):
            send(world, f"m{number}", key=KEYS[number % 2])
        running = list(await one.asked(2))
        one.work.pause()
        for asked in running:
            await settle()
            asked.ok()
        await settle()
        assert (len(one.app.asked), one.work.consuming) == (2, 0)
        assert await world.ready(QUEUE) == (38, 0)

    story(test)


def test_one_that_is_tried_again_does_not_hold_up_a_stop() -> None:
    async def test(world: World) -> None:
        one, two = world.one, world.instance(OTHER)
        send(world, "a1", "a2")
        (await next_of(one, "a1")).ok(b"", 500)
        one.work.pause()
        await settle()
        assert await world.ready(QUEUE) == (2, 0)
        await two.open()
        take(two)
        (await next_of(two, "a1")).ok()
        await next_of(two, "a2")
        await pass_time(60)
        assert one.app.asked == [], "its timer is over too"

    story(test)


def test_it_stops_when_what_runs_fails() -> None:
    async def test(world: World) -> None:
        one = world.one
        send(world, "a1", "a2")
        asked = await next_of(one, "a1")
        one.work.pause()
        await settle()
        assert await world.ready(QUEUE) == (0, 2)
        asked.ok(b"", 500)
        assert await world.ready(QUEUE) == (2, 0)
        one.work.resume()
        (await next_of(one, "a1")).ok()
        await next_of(one, "a2")

    story(test)


def test_it_stops_only_when_the_result_of_what_ran_is_confirmed() -> None:
    async def test(world: World) -> None:
        one, two = world.one, world.instance(OTHER)
        one.broker.held[topology.REPLIES] = []
        send(world, "a1", "a2")
        (await next_of(one, "a1")).ok()
        one.work.pause()
        await two.open()
        take(two)
        await settle()
        assert two.app.asked == []
        one.broker.tell(topology.REPLIES)
        await next_of(two, "a2")
        await settle()
        assert await world.ready(QUEUE) == (0, 1)

    story(test)


def test_to_resume_before_it_has_stopped_goes_on_in_order() -> None:
    async def test(world: World) -> None:
        one = world.one
        send(world, "a1", "a2", "a3")
        asked = await next_of(one, "a1")
        one.work.pause()
        one.work.resume()
        asked.ok()
        (await next_of(one, "a2")).ok()
        (await next_of(one, "a3")).ok()
        await until(lambda: len(world.results) == 3)
        await world.nothing_left(QUEUE)

    story(test)


def test_the_circuit_keeps_the_order() -> None:
    async def test(world: World) -> None:
        one = world.one
        for number in range(12):
            send(world, f"m{number:02}")
        for attempt in range(1, 11):
            (await next_of(one, "m00", attempt)).ok(b"", 503)
        assert await world.ready(QUEUE) == (12, 0), "all of it is in its place"
        await pass_time(1.1)
        (await next_of(one, "m00")).ok()
        for number in range(1, 12):
            (await next_of(one, f"m{number:02}")).ok()

    story(test, retry=Retry(50, (0.0,)))


@pytest.mark.parametrize("attempts_before", [0, 1])
def test_on_take_over_the_first_may_run_twice_and_order_holds(attempts_before: int) -> None:
    async def test(world: World) -> None:
        one, two = world.one, world.instance(OTHER)
        await two.open()
        take(two)
        send(world, "a1", "a2", "a3")
        asked = await next_of(one, "a1")
        if attempts_before:
            asked.ok(b"", 500)
            asked = await next_of(one, "a1", 2)
        one.client.drop("killed by the test")
        (await next_of(two, "a1")).ok()
        (await next_of(two, "a2")).ok()
        asked.ok()
        await pass_time(60)
        assert one.app.asked == [], "what it had fetched is another's"
        (await next_of(two, "a3")).ok()

    story(test)


def test_its_own_messages_come_again_and_keep_their_places() -> None:
    async def test(world: World) -> None:
        one = world.one
        send(world, "a1", "a2", "a3")
        asked = await next_of(one, "a1")
        await one.cut()
        await settle()
        assert await world.ready(QUEUE) == (0, 3)
        asked.ok()
        (await next_of(one, "a2")).ok()
        (await next_of(one, "a3")).ok()
        await until(lambda: len(world.results) == 3)
        await pass_time(60)
        assert one.app.asked == []
        await world.nothing_left(QUEUE)

    story(test)


def test_one_that_waits_to_be_tried_again_keeps_its_attempts_when_the_connection_is_lost() -> None:
    async def test(world: World) -> None:
        one = world.one
        send(world, "a1", "a2")
        (await next_of(one, "a1")).ok(b"", 500)
        await one.cut()
        (await next_of(one, "a1", 2)).ok(b"", 500)
        await one.cut()
        (await next_of(one, "a1", 3)).ok(b"", 500)
        assert (await world.dead()).attempts == 3
        (await next_of(one, "a2")).ok()
        assert await world.ready(QUEUE) == (0, 0)

    story(test)


def test_while_there_is_no_connection_nothing_that_was_fetched_is_started() -> None:
    async def test(world: World) -> None:
        one, two = world.one, world.instance(OTHER)
        for number in range(8):
            send(world, f"a{number}")
        asked = await next_of(one, "a0")
        one.client.drop("cut by the test")
        asked.ok()
        await pass_time(30)
        assert one.app.asked == []
        await two.open()
        take(two)
        for number in range(8):
            (await next_of(two, f"a{number}")).ok()

    story(test)


# --- waited calls with a key -------------------------------------------------------------------------------------------------------


class Caller:
    """Waits for replies, at the sender's."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.replies: dict[str, Message] = {}
        world.checkout.open_replies(SENDER, "c-1", self)

    def call(self, ident: str, key: str = KEYS[0], **more: Any) -> None:
        request = message(ident, key, accepted_ms=None, **more)
        self.world.send(request, reply_to=self.world.checkout.reply_to, expiration_ms=request.left_ms)

    def on_reply(self, ident: str, delivery: Delivery) -> None:
        for each in decode(delivery.body):
            self.replies[each.id] = each

    def __getattr__(self, name: str) -> Any:
        return lambda *_: None


def test_waited_calls_and_durable_messages_of_a_key_are_in_one_order() -> None:
    async def test(world: World) -> None:
        one, caller = world.one, Caller(world)
        send(world, "a1")
        caller.call("a2")
        send(world, "a3")
        caller.call("b1", KEYS[1])
        for asked in list(await one.asked(2)):
            asked.ok(b"call")
        one.app.asked = []
        (await next_of(one, "a2")).ok(b"call")
        (await next_of(one, "a3")).ok()
        await until(lambda: len(caller.replies) == 2 and len(world.results) == 2)
        assert {ident: reply.body for ident, reply in caller.replies.items()} == {"a2": b"call", "b1": b"call"}
        await world.nothing_left(QUEUE)

    story(test)


def test_a_waited_call_that_failed_is_not_tried_again_and_lets_the_next_go_on() -> None:
    async def test(world: World) -> None:
        one, caller = world.one, Caller(world)
        caller.call("a1")
        send(world, "a2")
        (await next_of(one, "a1")).fail(Failure.BROKEN)
        await next_of(one, "a2")
        await until(lambda: caller.replies)
        fault = caller.replies["a1"]
        assert isinstance(fault, Fault)
        assert (fault.code, fault.retryable) == (Code.BAD_GATEWAY, False)

    story(test)


@pytest.mark.parametrize("how", ["pause", "the connection is lost"])
def test_a_waited_call_that_had_not_started_is_handled_by_the_next_instance(how: str) -> None:
    """Not refused because of the flag of what was handed out before."""

    async def test(world: World) -> None:
        one, two, caller = world.one, world.instance(OTHER), Caller(world)
        send(world, "a1")
        caller.call("a2", left_ms=60_000)
        asked = await next_of(one, "a1")
        await settle()
        if how == "pause":
            one.work.pause()
            one.inbound.pause()
            await two.open()
            take(two)
            asked.ok()
            (await next_of(two, "a2")).ok()
        else:
            await one.cut()
            await settle()
            asked.ok()
            (await next_of(one, "a2")).ok()
        await until(lambda: caller.replies)
        assert isinstance(caller.replies["a2"], Response)

    story(test)


def test_a_waited_call_at_the_gate_lets_the_next_go_on_when_it_is_given_back() -> None:
    async def test(world: World) -> None:
        one, two, caller = world.one, world.instance(OTHER), Caller(world)
        send(world, "b1", key=KEYS[1])
        asked = await next_of(one, "b1")
        caller.call("a1", left_ms=60_000)
        send(world, "a2")
        await settle()
        one.inbound.pause()
        one.work.pause()
        await two.open()
        take(two)
        await settle()
        assert two.app.asked == []
        asked.ok()
        handled = defaultdict(list)
        for _ in range(2):
            asked = await two.next()
            handled[asked.headers["Meshq-Message-Id"]].append(asked)
            asked.ok()
        assert set(handled) == {"a1", "a2"}
        await until(lambda: caller.replies)
        assert isinstance(caller.replies["a1"], Response)
        assert one.app.asked == []

    story(test, concurrency=1)


def test_a_waited_call_that_comes_twice_does_not_block_its_key() -> None:
    async def test(world: World) -> None:
        one, caller = world.one, Caller(world)
        caller.call("a1")
        send(world, "a2")
        asked = await next_of(one, "a1")
        await one.cut()
        await settle()
        asked.ok()
        (await next_of(one, "a2")).ok()
        await until(lambda: caller.replies and world.results)
        assert isinstance(caller.replies["a1"], Response)
        await world.nothing_left(QUEUE)

    story(test)


# --- subscriptions ---------------------------------------------------------------------------------------------------------------


def test_an_ordered_subscription_gets_each_publishers_keys_in_order() -> None:
    async def test(world: World) -> None:
        one, event = world.one, "payments.settled.v1"
        await one.client.declare(topology.ordered_subscription(TOPIC, "settled", event))
        for p in range(topology.PARTITIONS):
            one.work.add(
                Source(topology.partition_queue(TOPIC, "settled", p), TOPIC, path=b"/on/settled", ordered=True)
            )
        sent: dict[str, list[str]] = defaultdict(list)
        for number in range(60):
            key = f"customer-{number % 7}"
            sent[key].append(f"e{number}")
            request = message(f"e{number}", key, event=event, target=b"/")
            routing = topology.event_key(event, topology.partition_of(key))
            world.publish(Publication(topology.EVENTS, routing, encode(request), request.id, "event"))
        handled: dict[str, list[str]] = defaultdict(list)
        failed = set()
        while sum(map(len, handled.values())) < 60:
            asked = await one.next()
            key, ident = asked.headers["Meshq-Key"], asked.headers["Meshq-Message-Id"]
            assert (asked.request.target, asked.headers["Meshq-Topic"]) == (b"/on/settled", event)
            if int(ident[1:]) % 5 == 0 and ident not in failed:
                failed.add(ident)
                asked.answer(HttpResponse(500, []))
            else:
                handled[key].append(ident)
                asked.ok()
        assert handled == sent

    story(test)
