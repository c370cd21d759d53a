"""Calls of one moment go together: how many may, what becomes of them, and that each still has one answer."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Self

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshq.adapters.clock import ManualClock
from meshq.adapters.embedded_broker import EmbeddedHub
from meshq.calling import Caller
from meshq.core import topology
from meshq.core.callreq import Call
from meshq.core.http import HttpResponse, header
from meshq.core.instances import Instance, Load, Service, Snapshot, State
from meshq.core.message import Request, Response, decode, encode
from meshq.core.names import parse_version
from meshq.core.packing import MAX_CALLS, PACK_BYTES, groups, room_for_calls
from meshq.core.selectors import parse_address
from meshq.ports import Delivery, Publication
from tests.doubles import Counted, settle, until

ONE = parse_version("1.0.0")


def picture(*capacities: int, state: State = State.READY) -> Snapshot:
    """A mesh where orders.v1 has an instance of each capacity."""
    members = tuple(
        Instance("orders", f"i{number}", ONE, (1,), state, load=Load(0, capacity))
        for number, capacity in enumerate(capacities)
    )
    return Snapshot(1, {"orders": Service("orders", {1: ONE}, members)})


# --- how many -----------------------------------------------------------------------------------------------------------------


@given(st.lists(st.integers(0, 2 * PACK_BYTES)), st.integers(1, 20))
def test_groups_keep_the_order_and_the_bounds(sizes: list[int], most: int) -> None:
    found = list(groups(sizes, lambda size: size, most))
    assert [size for group in found for size in group] == sizes
    assert all(len(group) == 1 or (len(group) <= most and sum(group) <= PACK_BYTES) for group in found)
    assert all(found)


@pytest.mark.parametrize(
    ("snapshot", "room"),
    [
        (picture(16), 4),
        (picture(64), 16),
        (picture(10_000), MAX_CALLS),
        (picture(3), 1),
        (picture(64, 8), 2),
        (picture(), 1),
        (picture(64, state=State.DOWN), 1),
        (Snapshot(1, {}), 1),
    ],
)
def test_a_pack_takes_a_quarter_of_the_smallest_instance(snapshot: Snapshot, room: int) -> None:
    assert room_for_calls("orders.v1", snapshot) == room


# --- calls --------------------------------------------------------------------------------------------------------------------


class World:
    """A caller, and the messages that arrive for orders.v1, each as the requests in it."""

    def __init__(self, capacity: int) -> None:
        self.clock = ManualClock()
        self.hub = EmbeddedHub(None, self.clock)
        self.broker = self.hub.connect("checkout")
        self.orders = self.hub.connect("orders")
        self.picture = picture(capacity)
        self.caller = Caller(self.broker, self.clock, Counted(), lambda: self.picture, "checkout", "c-1")
        self.messages: list[list[Request]] = []
        self.reply_to = ""
        self.answers: list[HttpResponse] = []

    async def __aenter__(self) -> Self:
        await self.broker.open()
        await self.orders.open()
        await self.orders.declare(topology.service("orders.v1"))
        self.orders.subscribe("meshq.orders.v1.call", 1000, self._take)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.hub.close()

    def _take(self, delivery: Delivery) -> None:
        self.messages.append([message for message in decode(delivery.body) if isinstance(message, Request)])
        self.reply_to = delivery.reply_to
        delivery.ack()

    def ask(
        self, target: bytes = b"/", address: str = "orders@1", timeout_ms: int = 30_000, **more: object
    ) -> Callable[[], None]:
        made = Call(parse_address(address), "POST", target, [], b"x", timeout_ms, None, False)
        return self.caller.call(made._replace(**more), self.answers.append)  # type: ignore[arg-type]

    def targets(self) -> list[list[bytes]]:
        return [[request.target for request in message] for message in self.messages]


def run(test: Callable[[World], Awaitable[None]], capacity: int = 16) -> None:
    async def inside() -> None:
        async with World(capacity) as world:
            await test(world)

    asyncio.run(inside())


def test_calls_of_one_moment_are_one_message_and_each_is_answered() -> None:
    async def test(world: World) -> None:
        for number in range(3):
            world.ask(b"/%d" % number)
        await until(lambda: world.messages)
        assert world.targets() == [[b"/0", b"/1", b"/2"]]
        requests = world.messages[0]
        body = b"".join(encode(Response(r.id, 200, [], r.target, "orders/1.0.0/i")) for r in reversed(requests))
        world.orders.send(Publication(topology.REPLIES, world.reply_to, body, requests[0].id, "reply"))
        await until(lambda: len(world.answers) == 3)
        assert [answer.body for answer in world.answers] == [b"/2", b"/1", b"/0"]
        ids = [header(answer.headers, b"meshq-message-id") for answer in world.answers]
        assert ids == [request.id.encode() for request in reversed(requests)]
        assert len(world.caller) == 0

    run(test)


def test_more_than_the_room_are_more_messages() -> None:
    async def test(world: World) -> None:
        for number in range(6):
            world.ask(b"/%d" % number)
        await until(lambda: len(world.messages) == 2)
        assert world.targets() == [[b"/0", b"/1", b"/2", b"/3"], [b"/4", b"/5"]]

    run(test)


def test_an_app_that_takes_few_at_once_gets_them_one_by_one() -> None:
    async def test(world: World) -> None:
        for number in range(3):
            world.ask(b"/%d" % number)
        await until(lambda: len(world.messages) == 3)
        assert world.targets() == [[b"/0"], [b"/1"], [b"/2"]]

    run(test, capacity=4)


def test_only_calls_with_the_same_time_left_go_together() -> None:
    async def test(world: World) -> None:
        world.ask(b"/a", timeout_ms=1000)
        world.ask(b"/b", timeout_ms=2000)
        world.ask(b"/c", timeout_ms=1000)
        await until(lambda: len(world.messages) == 2)
        assert world.targets() == [[b"/a", b"/c"], [b"/b"]]

    run(test)


def test_calls_with_a_priority_or_a_key_go_alone() -> None:
    async def test(world: World) -> None:
        await world.orders.declare(topology.service("orders.v1", ordered=True))
        world.orders.subscribe(topology.key_queue("orders.v1", topology.partition_of("k")), 10, world._take)
        for more in ({"priority": 8}, {"key": "k"}, {}):
            world.ask(b"/a", **more)
            world.ask(b"/b", **more)
        await until(lambda: len(world.messages) == 5)
        assert sorted(world.targets()) == [[b"/a"], [b"/a"], [b"/a", b"/b"], [b"/b"], [b"/b"]]

    run(test)


def test_a_call_given_up_in_its_own_moment_is_not_sent() -> None:
    async def test(world: World) -> None:
        world.ask(b"/a")
        world.ask(b"/b")()
        await until(lambda: world.messages)
        await settle()
        assert world.targets() == [[b"/a"]]

    run(test)


def test_a_pack_that_no_queue_takes_answers_all_its_calls() -> None:
    async def test(world: World) -> None:
        gone = Service("orders", {3: ONE}, (Instance("orders", "i", ONE, (3,), State.READY, load=Load(0, 64)),))
        world.picture = Snapshot(2, {"orders": gone})
        for _ in range(3):
            world.ask(address="orders@3")
        await until(lambda: len(world.answers) == 3)
        assert {header(answer.headers, b"meshq-error") for answer in world.answers} == {b"no-such-version"}
        assert len(world.caller) == 0

    run(test)


def test_calls_of_the_moment_in_which_the_broker_goes_are_held_and_sent_when_it_is_back() -> None:
    async def test(world: World) -> None:
        for number in range(2):
            world.ask(b"/%d" % number)
        world.broker.drop("cut by the test")
        await settle()
        assert not world.messages
        assert not world.answers
        await world.broker.open()
        await until(lambda: sum(map(len, world.messages)) == 2)
        assert sorted(target for message in world.targets() for target in message) == [b"/0", b"/1"]

    run(test)
