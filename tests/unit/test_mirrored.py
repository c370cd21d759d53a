"""Mirrored copies at the version that they go to: handled once, answered to nobody, and what fails of them is only counted."""

import pytest

from meshq.core import topology
from meshq.core.http import Failed, Failure, HttpResponse
from meshq.core.message import Request
from meshq.core.mirroring import copy_of
from meshq.core.policy import Policy
from meshq_sidecar.job import Source
from tests.doubles import settle
from tests.durable import DEAD, SENDER, WORK, World, story
from tests.receiver import TOPIC
from tests.unit import test_inbound
from tests.virtual_time import pass_time

CALL = copy_of(Request("m1", "GET", b"/a", [], None, SENDER), "c1")
SENT = CALL._replace(method="POST", accepted_ms=1)
CALL_DEAD = topology.dead_queue(TOPIC)


async def nothing_came_of_it(world: test_inbound.World, failure: str = "") -> None:
    await settle()
    await settle()
    assert world.replies == []
    assert await world.ready() == (0, 0)
    assert await world.ready(CALL_DEAD) == (0, 0)
    failed = {event: count for event, count in world.metrics.events.items() if event.startswith("mirror_failed")}
    assert failed == ({f"mirror_failed:{failure}": 1} if failure else {})


# --- waited calls -------------------------------------------------------------------------------------------------------------------


def test_the_app_is_told_that_it_is_a_copy_and_nobody_gets_its_answer() -> None:
    async def test(world: test_inbound.World) -> None:
        world.send(CALL)  # says where an answer would go, which a copy does not
        await world.asked(1)
        headers = world.app.asked[0].headers
        assert (headers["Meshq-Mirror"], headers["Meshq-Caller"]) == ("1", SENDER)
        world.app.asked[0].ok(b"", 500)
        await nothing_came_of_it(world)
        assert world.metrics.done == {(TOPIC, "500"): 1}

    test_inbound.run(test)


def test_other_calls_do_not_say_so() -> None:
    async def test(world: test_inbound.World) -> None:
        world.send(CALL._replace(mirrored=False, headers=[(b"Meshq-Mirror", b"1")]))
        await world.asked(1)
        assert "Meshq-Mirror" not in world.app.asked[0].headers

    test_inbound.run(test)


@pytest.mark.parametrize(
    ("failure", "code"),
    [(Failure.BROKEN, "bad-gateway"), (Failure.TIMEOUT, "deadline"), (Failure.TOO_LARGE, "bad-gateway")],
)
@pytest.mark.parametrize("reply_to", ["", "checkout.c-1.x"])
def test_a_failure_is_counted_and_nothing_is_tried_again(failure: Failure, code: str, reply_to: str) -> None:
    async def test(world: test_inbound.World) -> None:
        world.send(CALL, reply_to=reply_to)
        await world.asked(1)
        world.app.asked[0].answer(Failed(failure, "the test says so"))
        await nothing_came_of_it(world, code)
        await world.asked(1)

    test_inbound.run(test)


def test_one_that_was_lost_with_another_instance_is_not_started_again() -> None:
    async def test(world: test_inbound.World) -> None:
        await test_inbound.lose_one(world, CALL, reply_to="")
        await nothing_came_of_it(world, "bad-gateway")
        await world.asked(0)

    test_inbound.run(test)


def test_one_that_the_app_did_not_take_goes_to_another_instance() -> None:
    async def test(world: test_inbound.World) -> None:
        world.send(CALL, reply_to="")
        await world.asked(1)
        world.app.asked[0].fail(Failure.REFUSED)
        await world.asked(2)
        world.app.asked[1].ok()
        await nothing_came_of_it(world)

    test_inbound.run(test)


def test_one_of_a_caller_that_is_not_allowed_is_counted() -> None:
    async def test(world: test_inbound.World) -> None:
        world.receiver.policy = Policy("orders", allow=frozenset({"shop"}))
        world.send(CALL, reply_to="")
        await nothing_came_of_it(world, "denied")
        await world.asked(0)

    test_inbound.run(test)


# --- durable calls ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reply_to", ["", topology.results_key(SENDER)])
def test_a_durable_one_has_no_result_and_cancels_nothing(reply_to: str) -> None:
    async def test(world: World) -> None:
        world.send(SENT._replace(answer_to="checkout.c-1.x"), reply_to=reply_to)
        asked = await world.one.next()
        assert asked.headers["Meshq-Mirror"] == "1"
        asked.ok()
        await world.nothing_left(WORK, DEAD)
        assert (world.results, world.one.broker.published) == ([], [])
        assert world.one.store.asked == 0

    story(test)


@pytest.mark.parametrize(("status", "reason"), [(422, "rejected"), (500, "attempts")])
def test_one_that_fails_is_counted_neither_kept_nor_tried_again(status: int, reason: str) -> None:
    async def test(world: World) -> None:
        world.send(SENT)
        (await world.one.next()).answer(HttpResponse(status, []))
        await pass_time(1)
        await world.nothing_left(WORK, DEAD)
        events = world.one.metrics.events
        assert (events[f"mirror_failed:{reason}"], events[f"dead_lettered:{reason}"]) == (1, 0)
        assert world.results == []

    story(test)


def test_an_ordered_one_lets_its_key_go_on() -> None:
    async def test(world: World) -> None:
        queue = topology.key_queue(TOPIC, topology.partition_of("k"))
        world.one.work.add(Source(queue, TOPIC, ordered=True))
        world.send(SENT._replace(key="k"))
        world.send(SENT._replace(id="c2", key="k"))
        (await world.one.next()).ok(b"", 422)
        (await world.one.next()).ok()
        await world.nothing_left(queue, DEAD)

    story(test)
