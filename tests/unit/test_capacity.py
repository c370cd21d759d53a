"""How much an instance takes at once can change at any time; what was fetched goes back only where it must, and burns no attempt."""

from typing import Any

import pytest

from meshq.core import topology
from meshq.core.http import HttpResponse
from meshq.core.message import Request, Response, encode
from meshq.ports import Publication
from meshq_sidecar.capacity import MOST_PREFETCH, Capacity, prefetch_of, worth_it
from meshq_sidecar.gate import Gate
from meshq_sidecar.job import Source
from tests.doubles import settle
from tests.durable import OTHER, SENDER, WORK, Instance, World, story
from tests.receiver import TOPIC
from tests.virtual_time import pass_time, until

CALLS = topology.call_queue(TOPIC)
SENT = Request("m1", "GET", b"/a", [], None, SENDER, accepted_ms=1)
MOST = 8
PREFETCH = 32


def send(world: World, count: int) -> None:
    """So many durable messages and as many waited calls."""
    for number in range(count):
        world.send(SENT._replace(id=f"d{number}"))
        made = SENT._replace(id=f"w{number}", accepted_ms=None)
        world.send(made, key=topology.call_key(TOPIC), reply_to="nobody.i.1")


async def with_calls(world: World, count: int) -> Instance:
    world.one.inbound.resume()
    send(world, count)
    await world.one.asked(MOST)
    return world.one


async def handed_out(world: World) -> tuple[int | None, int | None]:
    """(durable, waited)"""
    return (await world.ready())[1], (await world.ready(CALLS))[1]


def tell(test: Any) -> None:
    story(test, concurrency=MOST, prefetch=PREFETCH)


# --- the figures ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("capacity", "prefetch"), [(0, 0), (1, 4), (16, 64), (125, 500), (126, MOST_PREFETCH), (900, 500)]
)
def test_what_is_fetched_for_a_capacity(capacity: int, prefetch: int) -> None:
    assert prefetch_of(capacity) == prefetch


@pytest.mark.parametrize(
    ("now", "wanted", "worth"),
    [
        (64, 64, False),
        (64, 60, False),
        (64, 33, False),
        (64, 32, True),
        (64, 0, True),
        (0, 4, True),
        (4, 7, False),
        (4, 8, True),
        (36, 64, True),
        (36, 60, False),
    ],
)
def test_when_another_prefetch_is_worth_a_subscription(now: int, wanted: int, worth: bool) -> None:
    assert worth_it(now, wanted, 64) is worth


class Told:
    """Whoever fetches."""

    def __init__(self) -> None:
        self.told: list[int] = []

    def set_prefetch(self, prefetch: int) -> None:
        self.told.append(prefetch)


def test_a_capacity_that_swings_is_left_to_the_gate() -> None:
    gate, inbound, work = Gate(16), Told(), Told()
    capacity = Capacity(gate, inbound, work, 16)
    for wanted in (15, 12, 9, 12, 15):
        capacity.set(wanted)
        assert capacity.now == wanted
    assert inbound.told == work.told == []
    for wanted in (8, 4, 7, 8, 16, -3, 99):
        capacity.set(wanted)
    assert capacity.now == 16
    assert inbound.told == work.told == [32, 16, 32, 64, 0, 64]


def test_the_gate_lets_in_as_many_as_its_limit_is_now() -> None:
    gate, began = Gate(1), list[int]()

    def pull() -> bool:
        gate.enter()
        began.append(len(began))
        return True

    gate.pull(pull)
    gate.fill()
    gate.set_limit(3)
    assert len(began) == 3, "at once"
    gate.set_limit(1)
    for left in (2, 1):
        gate.leave()
        gate.fill()
        assert (gate.in_flight, gate.free) == (left, False)
    gate.leave()
    gate.fill()
    assert (gate.in_flight, len(began)) == (1, 4)
    gate.set_limit(0)
    gate.leave()
    gate.fill()
    assert (gate.in_flight, gate.free) == (0, False)


# --- lower ------------------------------------------------------------------------------------------------------------------------


def test_a_little_less_gives_nothing_back() -> None:
    async def test(world: World) -> None:
        one = await with_calls(world, 60)
        assert await handed_out(world) == (PREFETCH, PREFETCH)
        one.receiver.capacity.set(5)
        assert await handed_out(world) == (PREFETCH, PREFETCH)
        for asked in one.app.asked[:3]:
            asked.ok()
        await one.asked(MOST)
        one.app.asked[3].ok()
        await one.asked(MOST + 1)
        assert one.metrics.events["given_back:not-ready"] == 0

    tell(test)


def test_much_less_gives_back_what_came_last_and_fetches_less() -> None:
    async def test(world: World) -> None:
        one = await with_calls(world, 60)
        one.receiver.capacity.set(2)
        given_back = 2 * (PREFETCH - prefetch_of(2))
        assert one.metrics.events["given_back:not-ready"] == given_back, "and not all of it"
        durable, waited = await handed_out(world)
        assert durable is not None
        assert waited is not None
        assert durable <= 16
        assert waited <= 16
        began = len(one.app.asked)
        for asked in list(one.app.asked):
            asked.ok()
        await settle()
        running = len(one.app.asked) - began
        assert (running, one.work.in_flight + one.inbound.in_flight) == (2, 2)
        one.receiver.capacity.set(MOST)
        await one.asked(began + MOST)
        assert one.metrics.events["given_back:not-ready"] == given_back, "more takes nothing back"

    tell(test)


def test_what_goes_back_is_handled_by_another_with_its_first_attempt_and_nothing_is_handled_twice() -> None:
    async def test(world: World) -> None:
        one = await with_calls(world, 20)
        one.receiver.capacity.set(1)
        two = world.instance(OTHER, concurrency=100)
        await two.open()
        two.inbound.resume()
        await settle()
        for _ in range(200):
            for asked in one.app.asked[:] + two.app.asked[:]:
                asked.ok()
            await settle()
            if len(one.app.asked) + len(two.app.asked) == 40:
                break
        idents = one.idents() + two.idents()
        assert sorted(idents) == sorted(f"{kind}{number}" for kind in "dw" for number in range(20))
        assert {asked.headers["Meshq-Attempt"] for asked in one.app.asked + two.app.asked} == {"1"}
        assert len(two.app.asked) > 0

    tell(test)


def test_an_ordered_queue_keeps_what_nobody_else_could_take() -> None:
    async def test(world: World) -> None:
        queue = topology.key_queue(TOPIC, topology.partition_of("k"))
        world.one.work.add(Source(queue, TOPIC, ordered=True))
        for number in range(20):
            world.send(SENT._replace(id=f"k{number}", key="k"))
        await world.one.asked(1)
        world.one.receiver.capacity.set(1)
        assert await world.ready(queue) == (0, 20)
        assert world.one.metrics.events["given_back:not-ready"] == 0
        handled = []
        for _ in range(20):
            asked = await world.one.next()
            handled.append(asked.headers["Meshq-Message-Id"])
            asked.ok()
        assert handled == [f"k{number}" for number in range(20)]

    tell(test)


# --- none -------------------------------------------------------------------------------------------------------------------------


def test_with_none_nothing_is_consumed_and_what_runs_goes_on() -> None:
    async def test(world: World) -> None:
        one = await with_calls(world, 20)
        one.receiver.capacity.set(0)
        assert (one.work.consuming, one.inbound.consuming) == (0, False)
        assert await handed_out(world) == (one.work.in_flight, one.inbound.in_flight)
        for asked in list(one.app.asked):
            asked.ok()
        await pass_time(60)
        await one.asked(MOST)
        assert await handed_out(world) == (0, 0)
        one.work.resume()
        one.inbound.resume()
        assert (one.work.consuming, one.inbound.consuming) == (0, False), "ready it is, but it has no room"
        one.receiver.capacity.set(3)
        await until(lambda: len(one.app.asked) == MOST + 3)
        assert {asked.headers["Meshq-Attempt"] for asked in one.app.asked} == {"1"}

    tell(test)


def test_a_capacity_opens_no_door_that_a_pause_has_closed() -> None:
    async def test(world: World) -> None:
        one = await with_calls(world, 10)
        one.work.pause()
        one.inbound.pause()
        for capacity in (0, 8, 1, 8):
            one.receiver.capacity.set(capacity)
            assert (one.work.consuming, one.inbound.consuming) == (0, False)
        one.receiver.capacity.set(0)
        one.work.resume()
        one.inbound.resume()
        one.receiver.capacity.set(8)
        assert (one.work.consuming, one.inbound.consuming) == (1, True)

    tell(test)


def test_a_result_is_stored_and_its_callback_comes_later() -> None:
    async def test(world: World) -> None:
        one, results = world.one, topology.results_queue("orders")
        one.work.add(Source(results, TOPIC, results=True))
        one.receiver.capacity.set(0)
        result = encode(Response("r1", 200, [], b"", "shop/1.0.0/i"))
        world.publish(Publication(topology.REPLIES, "orders.results", result, "r1", "result"))
        await until(lambda: one.receiver.results)
        _, _, stored = one.receiver.results.pop()
        stored(SENT._replace(id="r1-callback", method="POST", target=b"/told", caller="shop"))
        await pass_time(30)
        assert one.app.asked == []
        one.receiver.capacity.set(1)
        await until(lambda: one.app.asked)
        (asked,) = await one.asked(1)
        assert (asked.request.target, asked.headers["Meshq-Attempt"]) == (b"/told", "1")
        asked.answer(HttpResponse(200, []))
        await world.nothing_left(results)

    tell(test)


def test_callbacks_that_wait_for_room_when_there_is_none_any_more_do_not_hold_their_results() -> None:
    async def test(world: World) -> None:
        one, results = world.one, topology.results_queue("orders")
        one.work.add(Source(results, TOPIC, results=True))
        for number in range(MOST):
            world.send(SENT._replace(id=f"d{number}"))
        await one.asked(MOST)
        result = encode(Response("r1", 200, [], b"", "shop/1.0.0/i"))
        world.publish(Publication(topology.REPLIES, "orders.results", result, "r1", "result"))
        await until(lambda: one.receiver.results)
        callback = SENT._replace(id="r1-callback", method="POST", target=b"/told", caller="shop")
        one.receiver.results.pop()[2](callback)
        one.receiver.capacity.set(0)
        await until(lambda: one.receiver.results)
        one.receiver.results.pop()[2](callback)
        assert await world.ready(results) == (0, 0), "it waits in the broker, as a copy"

    tell(test)


@pytest.mark.parametrize("capacity", [0, 1, 4])
def test_it_is_told_before_anything_was_consumed(capacity: int) -> None:
    async def test(world: World) -> None:
        world.one.work.pause()
        world.one.receiver.capacity.set(capacity)
        send(world, 40)
        world.one.work.resume()
        world.one.inbound.resume()
        await settle()
        assert len(world.one.app.asked) == capacity
        assert await handed_out(world) == (prefetch_of(capacity), prefetch_of(capacity))
        assert (await world.ready(WORK))[0] == 40 - prefetch_of(capacity)

    tell(test)
