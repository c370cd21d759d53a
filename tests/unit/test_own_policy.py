"""The receiver's side of the route policy: who may call, and how often a message is tried. It counts from the next message on."""

from typing import Any

import pytest

from meshq.core import topology
from meshq.core.errors import Code
from meshq.core.http import Failure
from meshq.core.message import Fault, Request, Response, encode
from meshq.core.names import OPERATOR
from meshq.core.policy import Policy, Retry
from meshq.ports import Publication
from meshq_sidecar.identity import Sender, sender_of
from meshq_sidecar.job import Source
from meshq_sidecar.own_policy import OwnPolicy
from tests.doubles import settle
from tests.durable import DEAD, SENDER, WORK, World, story
from tests.receiver import RETRY, TOPIC
from tests.unit import test_inbound
from tests.unit.test_work import Foreign
from tests.virtual_time import pass_time

SENT = Request("m1", "POST", b"/a", [], b"x", SENDER, accepted_ms=1)
WAITED = SENT._replace(accepted_ms=None)


def allows(*services: str) -> Policy:
    return Policy("orders", allow=frozenset(services))


# --- by itself ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sender", "proves", "allowed"),
    [
        (Sender("shop", True), True, True),
        (Sender("shop", True), False, True),
        (Sender("admin", True), True, False),
        (Sender("admin", True), False, False),
        (Sender("shop", False), True, False),
        (Sender("shop", False), False, True),
        (Sender("admin", False), False, False),
        (Sender("", False), False, False),
    ],
)
def test_who_may_call(sender: Sender, proves: bool, allowed: bool) -> None:
    problem = OwnPolicy(lambda: allows("shop", "gateway"), RETRY, proves=proves).refusal(sender)
    assert (problem is None) == allowed
    assert problem is None or problem.code is Code.DENIED


@pytest.mark.parametrize("policy", [None, Policy("orders")])
def test_without_a_list_all_may(policy: Policy | None) -> None:
    assert OwnPolicy(lambda: policy, RETRY, proves=True).refusal(Sender("", False)) is None


def test_an_empty_list_lets_nobody_call() -> None:
    assert OwnPolicy(allows, RETRY, proves=False).refusal(Sender("shop", True)) is not None


@pytest.mark.parametrize(
    ("policy", "retry"), [(None, RETRY), (Policy("orders"), RETRY), (Policy("orders", retry=Retry(7)), Retry(7))]
)
def test_how_often_it_is_tried(policy: Policy | None, retry: Retry) -> None:
    assert OwnPolicy(lambda: policy, RETRY, proves=True).retry == retry


@pytest.mark.parametrize(
    ("user", "proves", "sender"),
    [
        ("orders", True, Sender("shop", True)),
        (OPERATOR, True, Sender("shop", True)),
        (OPERATOR, False, Sender("claimed", False)),
        ("other", True, Sender("claimed", False)),
    ],
)
def test_whose_word_counts_for_who_sent_it_first(user: str, proves: bool, sender: Sender) -> None:
    request = SENT._replace(caller="claimed", proved_caller="shop")
    assert sender_of(request, user, "orders", proves) == sender


# --- durable messages -------------------------------------------------------------------------------------------------------------


def test_a_durable_call_of_one_that_is_not_allowed_is_dead() -> None:
    async def test(world: World) -> None:
        world.one.receiver.policy = allows("shop")
        world.send(SENT)
        letter = await world.dead()
        assert (letter.reason, letter.sender, letter.attempts) == ("denied", SENDER, 0)
        assert letter.detail == "orders takes no calls of checkout: its route policy does not allow it"
        assert await world.result() == Fault("m1", Code.DENIED, letter.detail, False, "orders/2.1.0/i-1", "denied")
        await world.nothing_left(WORK, DEAD)
        assert world.one.app.asked == []
        assert world.one.metrics.events["dead_lettered:denied"] == 1

    story(test)


@pytest.mark.parametrize(("user", "reason"), [("orders", "denied"), ("all", "")])
def test_a_claim_has_to_do_where_nothing_is_proved_and_only_there(user: str, reason: str) -> None:
    async def test(world: World) -> None:
        world.one.receiver.policy = allows("shop")
        world.send(SENT._replace(caller="shop"))
        if reason:
            letter = await world.dead()
            assert (letter.reason, letter.sender) == (reason, "")
            assert "does not prove that this one is of shop" in letter.detail
        else:
            (await world.one.next()).ok()
            assert isinstance(await world.result(), Response)

    story(test, user=user)


def test_one_that_is_allowed_stays_so_through_its_retries_and_a_change_counts_at_once() -> None:
    async def test(world: World) -> None:
        world.one.receiver.policy = allows(SENDER)
        world.send(SENT)
        (await world.one.next()).ok(b"", 500)
        asked = await world.one.next()
        assert asked.headers["Meshq-Attempt"] == "2"
        world.one.receiver.policy = allows("shop")
        asked.ok(b"", 500)
        assert (await world.dead()).reason == "denied"

    story(test)


def test_of_an_ordered_queue_too_and_its_key_goes_on() -> None:
    async def test(world: World) -> None:
        queue = topology.key_queue(TOPIC, topology.partition_of("k"))
        world.one.work.add(Source(queue, TOPIC, ordered=True))
        world.one.receiver.policy = allows(SENDER)
        world.send(SENT._replace(key="k"))
        asked = await world.one.next()
        world.one.receiver.policy = allows()
        world.send(SENT._replace(id="m2", key="k"))
        world.send(SENT._replace(id="m3", key="k"))
        asked.ok()
        assert [(await world.dead()).id, (await world.dead()).id] == ["m2", "m3"]
        world.one.receiver.policy = None
        world.send(SENT._replace(id="m4", key="k"))
        assert (await world.one.next()).headers["Meshq-Message-Id"] == "m4"

    story(test)


def test_an_event_is_no_call_but_a_call_does_not_become_one_by_saying_so() -> None:
    async def test(world: World) -> None:
        event = "payments.settled.v1"
        await world.one.client.declare(topology.subscription(TOPIC, "settled", event))
        world.one.work.add(Source(topology.subscription_queue(TOPIC, "settled"), TOPIC, path=b"/on", name="settled"))
        world.one.receiver.policy = allows("shop")
        emitted = SENT._replace(id="e1", event=event)
        world.publish(Publication(topology.EVENTS, topology.event_key(event), encode(emitted), "e1", "event"))
        (await world.one.next()).ok()
        world.send(SENT._replace(event=event))
        assert (await world.dead()).reason == "denied"
        assert world.one.app.asked == []

    story(test)


def test_a_foreign_message_has_no_sender_that_could_be_allowed_and_is_kept_so_that_it_can_be_brought_back() -> None:
    async def test(world: World) -> None:
        one, delivery = world.one, Foreign()
        one.receiver.policy = allows("legacy")
        one.work._on_delivery(one.work._consuming.consumers[WORK], delivery)
        letter = await world.dead()
        assert (letter.reason, letter.sender) == ("denied", "")

    story(test)


@pytest.mark.parametrize(("attempts", "delays"), [(2, (7.0,)), (5, (0.0, 0.0))])
def test_the_policy_says_how_often_a_durable_message_is_tried_and_when(attempts: int, delays: Any) -> None:
    async def test(world: World) -> None:
        world.one.receiver.policy = Policy("orders", retry=Retry(attempts, delays))
        world.send(SENT)
        for attempt in range(attempts):
            if attempt:
                await pass_time(max(0.0, delays[0] - 0.1))
                assert not delays[0] or world.one.app.asked == []
            (await world.one.next()).ok(b"", 500)
        letter = await world.dead()
        assert (letter.reason, letter.attempts) == ("attempts", attempts)

    story(test)


def test_an_operators_replay_counts_as_its_first_senders() -> None:
    async def test(world: World) -> None:
        operator = world.hub.connect(OPERATOR)
        await operator.open()
        world.one.receiver.policy = allows(SENDER)
        replay = SENT._replace(proved_caller=SENDER, replays=1)
        world.publish = lambda publication: operator.publish(publication, lambda fate: None)  # type: ignore[method-assign]
        world.send(replay)
        asked = await world.one.next()
        assert asked.headers["Meshq-Caller"] == SENDER
        asked.ok(b"", 500)
        again = await world.one.next()
        assert (again.headers["Meshq-Caller"], again.headers["Meshq-Attempt"]) == (SENDER, "2")
        again.ok()
        world.send(replay._replace(id="m2", proved_caller=""))
        assert (await world.dead()).reason == "denied", (
            "of an operator's own calls nothing else is believed than of others'"
        )
        world.send(SENT._replace(id="m3", caller=OPERATOR))
        assert (await world.dead()).id == "m3"
        world.one.receiver.policy = allows(OPERATOR)
        world.send(SENT._replace(id="m4", caller=OPERATOR))
        assert (await world.one.next()).headers["Meshq-Caller"] == OPERATOR

    story(test)


# --- waited calls -------------------------------------------------------------------------------------------------------------------


def test_a_waited_call_of_one_that_is_not_allowed_is_answered_at_once() -> None:
    async def test(world: test_inbound.World) -> None:
        for number in range(2):
            world.send(WAITED._replace(id=f"a{number}"))
        await world.asked(2)
        world.receiver.policy = allows("shop")
        world.send(WAITED)
        fault = await world.reply()
        assert isinstance(fault, Fault)
        assert (fault.id, fault.code, fault.retryable) == ("m1", Code.DENIED, False)
        await world.asked(2)
        world.receiver.policy = allows("checkout")
        world.app.asked[0].ok()
        world.send(WAITED._replace(id="m2"))
        await world.asked(3)

    test_inbound.run(test)


@pytest.mark.parametrize(("users", "code"), [("orders", Code.DENIED), ("all", None)])
def test_a_claim_of_a_waited_call_counts_where_nothing_is_proved(users: str, code: Code | None) -> None:
    async def test(world: test_inbound.World) -> None:
        world.receiver.policy = allows("shop")
        world.send(WAITED._replace(caller="shop"))
        if code is None:
            await world.asked(1)
        else:
            fault = await world.reply()
            assert isinstance(fault, Fault)
            assert fault.code is code
            assert await world.ready() == (0, 0)

    test_inbound.run(test, users=users)


def test_what_may_have_been_started_before_the_change_is_not_said_to_have_been_refused() -> None:
    async def test(world: test_inbound.World) -> None:
        world.receiver.policy = allows("shop")
        await test_inbound.lose_one(world, test_inbound.POST)
        fault = await world.reply()
        assert isinstance(fault, Fault)
        assert fault.code is Code.BAD_GATEWAY

    test_inbound.run(test)


def test_a_waited_call_with_an_ordering_key_is_refused_too() -> None:
    async def test(world: World) -> None:
        queue = topology.key_queue(TOPIC, topology.partition_of("k"))
        world.one.work.add(Source(queue, TOPIC, ordered=True))
        world.one.receiver.policy = allows("shop")
        world.send(WAITED._replace(key="k"))
        fault = await world.result()
        assert isinstance(fault, Fault)
        assert fault.code is Code.DENIED
        world.one.receiver.policy = None
        world.send(WAITED._replace(id="m2", key="k"))
        await world.one.next()

    story(test)


def test_the_policy_says_how_often_a_waited_call_is_tried() -> None:
    async def test(world: test_inbound.World) -> None:
        world.receiver.policy = Policy("orders", retry=Retry(2))
        world.send(test_inbound.GET)
        for attempt in (1, 2):
            await world.asked(attempt)
            world.app.asked[attempt - 1].fail(Failure.BROKEN)
        assert isinstance(await world.reply(), Fault)
        await settle()
        await world.asked(2)

    test_inbound.run(test)


def test_one_that_nobody_waits_for_and_may_not_be_made_is_dead() -> None:
    async def test(world: test_inbound.World) -> None:
        world.receiver.policy = allows("shop")
        world.send(WAITED, reply_to="")
        letter = await world.dead()
        assert (letter.reason, letter.sender) == ("denied", "checkout")

    test_inbound.run(test)
