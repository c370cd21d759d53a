"""Nothing is acknowledged before what follows from it is the broker's: what happens when the broker does not take that."""

from itertools import pairwise
from typing import Any

import pytest

from meshq.core import topology
from meshq.core.delivery import Bury
from meshq.core.http import HttpResponse
from meshq.core.message import DeadLetter, Request, Response, decode
from meshq.core.packing import PACK_BYTES
from meshq.ports import Delivery, Published
from meshq_sidecar import settling
from meshq_sidecar.identity import Sender
from meshq_sidecar.settling import FULL_AGAIN, MOST_AGAIN, PACK_RECORDS, Move
from tests.doubles import settle
from tests.durable import DEAD, OTHER, SENDER, WORK, Instance, World, story
from tests.virtual_time import pass_time, until

SENT = Request("m1", "POST", b"/", [], b"x", SENDER, accepted_ms=1)
ENDS = [
    (HttpResponse(200, []), topology.REPLIES),
    (HttpResponse(500, []), topology.DELAY),
    (HttpResponse(400, []), topology.DEAD),
]


@pytest.mark.parametrize(
    ("answer", "exchange", "fate"),
    [
        (answer, exchange, fate)
        for answer, exchange in ENDS
        for fate in Published
        if fate is not Published.CONFIRMED and (exchange, fate) != (topology.REPLIES, Published.UNROUTABLE)
    ],
)
def test_nothing_is_acknowledged_until_it_is_taken(answer: HttpResponse, exchange: str, fate: Published) -> None:
    async def test(world: World) -> None:
        one = world.one
        one.broker.fates[exchange] = [fate] * 8
        world.send(SENT)
        (await one.next()).answer(answer)
        while one.broker.fates[exchange]:
            assert await world.ready() == (0, 1)
            assert not one.settler.idle
            await pass_time(0.5)
        await until(lambda: one.settler.idle)
        await world.nothing_left()
        made = [publication for publication in one.broker.published if publication.exchange == exchange]
        assert len(made) == 1
        assert one.app.asked == []

    story(test)


def test_a_result_that_no_queue_takes_has_nobody_who_waits_for_it() -> None:
    async def test(world: World) -> None:
        world.send(SENT, reply_to="gone.results")
        (await world.one.next()).ok()
        await world.nothing_left()
        assert world.one.metrics.events["result_unroutable"] == 1

    story(test)


def test_a_dead_letter_is_not_over_before_its_result_is_taken() -> None:
    async def test(world: World) -> None:
        one = world.one
        one.broker.fates[topology.REPLIES] = [Published.REFUSED] * 3
        world.send(SENT)
        (await one.next()).ok(b"", 400)
        await settle()
        assert (await world.ready(), await world.ready(DEAD)) == ((0, 1), (1, 0))
        assert (await world.result()).id == "m1"
        await world.nothing_left()
        assert (await world.ready(DEAD))[0] == 1, "and it is there once"

    story(test)


def test_pauses_between_attempts_grow_to_a_bound() -> None:
    async def test(world: World) -> None:
        one = world.one
        times: list[float] = []
        publish = one.broker.publish

        def watched(*args: Any) -> None:
            times.append(world.clock.monotonic())
            publish(*args)

        one.broker.publish = watched
        one.broker.fates[topology.DEAD] = [Published.REFUSED] * 7
        world.send(SENT, reply_to="")
        (await one.next()).ok(b"", 400)
        await until(lambda: one.settler.idle)
        pauses = [round(later - earlier, 2) for earlier, later in pairwise(times)]
        assert pauses == [1, 2, 4, 8, MOST_AGAIN, MOST_AGAIN, MOST_AGAIN]

    story(test)


def test_a_full_window_is_tried_again_soon() -> None:
    async def test(world: World) -> None:
        one = world.one
        one.broker.fates[topology.DEAD] = [Published.FULL] * 4
        world.send(SENT, reply_to="")
        began = world.clock.monotonic()
        (await one.next()).ok(b"", 400)
        await until(lambda: one.settler.idle)
        assert world.clock.monotonic() - began < 10 * FULL_AGAIN

    story(test)


def test_what_was_not_taken_before_the_connection_was_lost_is_given_after_it() -> None:
    async def test(world: World) -> None:
        one = world.one
        one.broker.fates[topology.DEAD] = [Published.UNKNOWN, Published.AWAY, Published.AWAY]
        world.send(SENT)
        (await one.next()).ok(b"no", 400)
        await one.cut()
        assert await world.ready() == (0, 1)
        letter = await world.dead()
        assert (letter.id, letter.excerpt) == ("m1", b"no")
        await world.nothing_left(WORK, DEAD)
        assert one.app.asked == []

    story(test)


def test_a_result_of_a_pack_is_acknowledged_for_each_message_that_is_in_it() -> None:
    async def test(world: World) -> None:
        one = world.one
        one.broker.fates[topology.REPLIES] = [Published.REFUSED, Published.AWAY]
        for number in range(4):
            world.send(SENT._replace(id=f"m{number}"))
        for asked in list(await one.asked(4)):
            asked.ok()
        await settle()
        assert await world.ready() == (0, 4)
        await until(lambda: world.packs)
        assert world.packs == [4]
        await world.nothing_left()

    story(test, concurrency=4)


def test_packs_are_bounded_in_records_and_bytes() -> None:
    async def test(world: World) -> None:
        one = world.one
        for number in range(PACK_RECORDS + 10):
            world.send(SENT._replace(id=f"m{number}"))
        for asked in list(await one.asked(PACK_RECORDS + 10)):
            asked.ok()
        await until(lambda: len(world.results) == PACK_RECORDS + 10)
        assert world.packs == [PACK_RECORDS, 10]
        one.app.asked = []
        for number in range(3):
            world.send(SENT._replace(id=f"large{number}"))
        for asked in list(await one.asked(3)):
            asked.ok(b"x" * (PACK_BYTES // 2))
        await until(lambda: len(world.results) == PACK_RECORDS + 13)
        assert world.packs[2:] == [1, 1, 1]
        assert [result.id for result in world.results[-3:]] == ["large0", "large1", "large2"]

    story(test, concurrency=100, prefetch=100)


# --- a move by itself ------------------------------------------------------------------------------------------------------------


async def taken(world: World, count: int = 1) -> list[Delivery]:
    """Messages taken off the queue by hand."""
    world.one.work.remove(WORK)
    deliveries: list[Delivery] = []
    for number in range(count):
        world.send(SENT._replace(id=f"m{number}"))
    world.one.client.subscribe(WORK, 10_000, deliveries.append)
    await until(lambda: len(deliveries) == count)
    return deliveries


async def again(instance: Instance, deliveries: list[Delivery], count: int = 1) -> list[Delivery]:
    """The same after a lost connection."""
    deliveries.clear()
    await instance.cut()
    await until(lambda: len(deliveries) == count)
    return list(deliveries)


def test_who_is_told_that_it_ended_is_told_once_and_after_it_was_acknowledged() -> None:
    async def test(world: World) -> None:
        (delivery,) = await taken(world)
        told: list[int] = []

        def ended() -> None:
            (stats,) = world.hub.stats([WORK])
            told.append(stats.in_flight or 0)

        world.one.settler.finish(Move("m0", 1, delivery, "orders.v2", ended), "checkout.results", b"record")
        assert told == []
        await settle()
        assert told == [0]
        world.one.settler.end(Move("m1", 1, delivery, "orders.v2", ended))
        assert told == [0, 0]

    story(test)


def test_what_is_over_without_having_been_acknowledged_is_known_once() -> None:
    async def test(world: World) -> None:
        settler, deliveries = world.one.settler, await taken(world)
        (delivery,) = deliveries
        world.one.client.drop("cut by the test")
        settler.end(Move("m0", 1, delivery))
        (second,) = await again(world.one, deliveries)
        assert not settler.goes_on("m0", 2, second), "another attempt is another message"
        assert not settler.goes_on("other", 1, second)
        assert settler.goes_on("m0", 1, second)
        assert not second.live or await world.ready() == (0, 0)
        assert not settler.goes_on("m0", 1, second), "once"

    story(test)


def test_how_many_of_those_are_known_has_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settling, "REMEMBERED", 3)

    async def test(world: World) -> None:
        settler, deliveries = world.one.settler, await taken(world, 5)
        first = list(deliveries)
        world.one.client.drop("cut by the test")
        for number, delivery in enumerate(first):
            settler.end(Move(f"m{number}", 1, delivery))
        second = await again(world.one, deliveries, 5)
        known = [settler.goes_on(f"m{number}", 1, delivery) for number, delivery in enumerate(second)]
        assert known == [False, False, True, True, True]

    story(test)


def test_a_move_whose_delivery_is_still_ours_keeps_it() -> None:
    """Another message with its id is a sender's repetition."""

    async def test(world: World) -> None:
        settler, (first, second) = world.one.settler, await taken(world, 2)
        world.one.broker.held[topology.DEAD] = []
        settler.bury(Move("m0", 1, first, "orders.v2"), Bury("rejected", "no"), 1, Sender("", False), None)
        assert not settler.goes_on("m0", 1, second)
        world.one.broker.tell(topology.DEAD)
        assert not first.live or await world.ready() == (0, 1)

    story(test)


def test_what_could_not_be_read_is_buried_as_it_was() -> None:
    async def test(world: World) -> None:
        (delivery,) = await taken(world)
        world.one.settler.bury_unread(delivery, "orders.v2", Bury("undecodable", "why"))
        letter = await world.dead()
        assert isinstance(letter, DeadLetter)
        assert (letter.id, letter.body, letter.attempts, letter.sender) == ("m0", delivery.body, 0, "")
        assert decode(letter.body)[0].id == "m0"

    story(test)


def test_several_that_could_not_be_read_do_not_stand_for_each_other() -> None:
    async def test(world: World) -> None:
        for body in (b"one", b"two", b"three"):
            world.send(SENT, body=body, message_id="no id / at all")
        letters = [await world.dead() for _ in range(3)]
        assert {letter.body for letter in letters} == {b"one", b"two", b"three"}
        await world.nothing_left(WORK, DEAD)

    story(test)


def test_the_settler_says_when_nothing_is_on_its_way() -> None:
    async def test(world: World) -> None:
        one, told = world.one, list[int]()
        one.settler._emptied = lambda: told.append(len(one.settler))
        one.broker.held[topology.REPLIES] = []
        world.send(SENT)
        world.send(SENT._replace(id="m2"))
        first, second = await one.asked(2)
        first.ok()
        await settle()
        second.ok()
        await settle()
        assert (told, len(one.settler)) == ([], 2)
        one.broker.tell(topology.REPLIES)
        assert told == [0]
        assert [type(result) for result in (await world.result(), await world.result())] == [Response] * 2

    story(test)


def test_a_retry_whose_delivery_is_gone_may_come_to_another_and_none_is_lost() -> None:
    async def test(world: World) -> None:
        one, two = world.one, world.instance(OTHER)
        one.broker.fates[topology.DELAY] = [Published.AWAY] * 2
        world.send(SENT)
        (await one.next()).ok(b"", 500)
        one.client.drop("cut by the test")
        await two.open()
        (await two.next()).ok()
        await one.client.open()
        await until(lambda: one.settler.idle)
        await pass_time(10)
        for asked in one.app.asked + two.app.asked:
            assert asked.headers["Meshq-Attempt"] == "2"
            asked.ok()
        await pass_time(1)
        await world.nothing_left()

    story(test)


# --- what may not be published ---------------------------------------------------------------------------------------------------


def test_a_result_that_may_not_be_sent_becomes_a_dead_letter_and_its_message_is_over() -> None:
    async def test(world: World) -> None:
        one = world.one
        one.broker.fates[topology.REPLIES] = [Published.REFUSED]
        one.receiver.denied["checkout.results"] = "no right to write there"
        world.send(SENT)
        (await one.next()).ok(b"yes")
        letter = await world.dead()
        assert (letter.id, letter.reason, letter.queue, letter.attempts) == ("m1", "unsendable", "checkout.results", 1)
        assert letter.detail == "its message was handled, and its result may not be sent: no right to write there"
        (record,) = decode(letter.body)
        assert isinstance(record, Response)
        assert (record.id, record.body) == ("m1", b"yes")
        await world.nothing_left(WORK, DEAD)
        assert one.settler.idle
        assert one.app.asked == []

    story(test)


def test_it_is_given_up_once_the_broker_has_said_why() -> None:
    """Its refusal comes first, and the reason for it a moment later."""

    async def test(world: World) -> None:
        one = world.one
        one.broker.fates[topology.REPLIES] = [Published.REFUSED]
        world.send(SENT)
        (await one.next()).ok()
        await settle()
        assert await world.ready() == (0, 1)
        one.receiver.denied["checkout.results"] = "no right"
        assert (await world.dead()).reason == "unsendable"
        await world.nothing_left(WORK, DEAD)

    story(test)


def test_of_a_pack_of_results_each_has_its_own() -> None:
    async def test(world: World) -> None:
        one = world.one
        one.receiver.denied["checkout.results"] = "no right"
        for number in range(3):
            world.send(SENT._replace(id=f"m{number}"))
        for number, asked in enumerate(list(await one.asked(3))):
            asked.ok(b"%d" % number)
        letters = [await world.dead() for _ in range(3)]
        bodies = {
            letter.id: [record.body for record in decode(letter.body) if isinstance(record, Response)]
            for letter in letters
        }
        assert bodies == {"m0": [b"0"], "m1": [b"1"], "m2": [b"2"]}
        await world.nothing_left(WORK, DEAD)

    story(test, concurrency=3)


def test_of_a_dead_message_whose_result_may_not_be_sent_there_is_one_letter() -> None:
    async def test(world: World) -> None:
        one = world.one
        one.receiver.denied["checkout.results"] = "no right"
        world.send(SENT)
        (await one.next()).ok(b"", 400)
        assert (await world.dead()).reason == "rejected"
        await world.nothing_left(WORK, DEAD)
        assert one.settler.idle

    story(test)


def test_after_the_close_nothing_is_tried_again() -> None:
    async def test(world: World) -> None:
        one = world.one
        one.broker.fates[topology.REPLIES] = [Published.REFUSED]
        world.send(SENT)
        (await one.next()).ok()
        await settle()
        await one.work.close()
        await pass_time(60)
        assert (one.broker.published, world.results) == ([], [])
        assert await world.ready() == (0, 1), "the end of its connection gives it back"

    story(test)
