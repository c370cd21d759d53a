"""Route policies at the caller's sidecar, over the embedded broker: what calls bear, what is refused, what is copied."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any, Self

import pytest

from meshq.adapters.clock import ManualClock
from meshq.adapters.embedded_broker import EmbeddedHub
from meshq.calling import Caller
from meshq.core import topology
from meshq.core.callreq import Call, Durable
from meshq.core.errors import Code, Problem
from meshq.core.http import HttpResponse, header
from meshq.core.instances import Instance, Load, Service, Snapshot, State
from meshq.core.message import Message, Request, Response, decode, encode
from meshq.core.names import parse_version
from meshq.core.policy_parsing import parse_policy
from meshq.core.selectors import parse_address
from meshq.ports import Delivery, Publication
from meshq.sending import Sender
from meshq.tasks import Tasks
from tests.doubles import Counted, settle, until

READY, PAUSED = State.READY, State.PAUSED
TOPICS = ("orders.v1", "orders.v2", "orders.v3")
OK = Response("", 200, [], b"done", "orders/1.0.0/i")


def call(address: str = "orders", **more: Any) -> Call:
    made = Call(parse_address(address), "POST", b"/a?b", [(b"X", b"1")], b"body", None, None, False)
    return made._replace(**more)


class World:
    """A caller called `checkout`, and the queues of three versions of `orders`, the first two of which take keys."""

    def __init__(self, capacity: int = 0) -> None:
        self.clock = ManualClock()
        self.hub = EmbeddedHub(None, self.clock)
        self.broker = self.hub.connect("checkout")
        self.orders = self.hub.connect("orders")
        self.metrics = Counted()
        self.tasks = Tasks()
        self.full: set[str] = set()
        """Queues with too much in them."""
        self._capacity = capacity
        self.set_policy()
        self.caller = Caller(
            self.broker, self.clock, self.metrics, lambda: self.picture, "checkout", "c-1", self._backlog
        )
        self.sender = Sender(
            self.broker, self.clock, self.metrics, lambda: self.picture, "checkout", self.caller, self.tasks,
            lambda *_: None, has_app=True, backlog=self._backlog,
        )  # fmt: skip
        self.taken: dict[str, list[tuple[Delivery, Request]]] = {}
        self.answers: list[HttpResponse] = []

    def set_policy(self, states: tuple[State, State, State] = (READY, READY, READY), **policy: Any) -> None:
        ones = [parse_version(f"{major}.0.0") for major in (1, 2, 3)]
        instances = tuple(
            Instance("orders", f"i-{one.major}", one, (one.major,), state, load=Load(0, self._capacity))
            for one, state in zip(ones, states, strict=True)
        )
        service = Service("orders", {one.major: one for one in ones}, instances)
        policies = {"orders": parse_policy("orders", policy, now_ms=1_800_000_000_000)} if policy else {}
        self.picture = Snapshot(1, {"orders": service}, policies=policies)

    async def __aenter__(self) -> Self:
        await self.broker.open()
        await self.orders.open()
        await self.orders.declare(topology.shared())
        for topic in TOPICS:
            keyed = topic != TOPICS[2]
            await self.orders.declare(topology.service(topic, ordered=keyed))
            queues = [topology.call_queue(topic), topology.work_queue(topic)]
            queues += [topology.key_queue(topic, p) for p in range(topology.PARTITIONS if keyed else 0)]
            for queue in queues:
                self.orders.subscribe(queue, 1000, self._take)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.tasks.close()
        await self.hub.close()

    def _backlog(self, service: str, queue: str) -> Problem | None:
        return Problem(Code.OVERLOADED, "too much") if queue in self.full else None

    def _take(self, delivery: Delivery) -> None:
        for message in decode(delivery.body):
            assert isinstance(message, Request)
            self.taken.setdefault(delivery.queue, []).append((delivery, message))
        delivery.ack()

    def ask(self, made: Call | None = None) -> Callable[[], None]:
        return self.caller.call(made or call(), self.answers.append)

    def send(self, made: Call | None = None) -> Callable[[], None]:
        return self.sender.send((made or call())._replace(durable=Durable()), self.answers.append)

    async def came(self, queue: str) -> tuple[Delivery, Request]:
        """The next in the queue that is called so without `meshq.orders.`"""
        found = self.taken.setdefault(f"meshq.orders.{queue}", [])
        await until(lambda: found)
        return found.pop(0)

    async def nothing_more(self) -> None:
        await settle()
        assert {queue: found for queue, found in self.taken.items() if found} == {}

    def reply(self, delivery: Delivery, message: Message) -> None:
        self.orders.send(Publication(topology.REPLIES, delivery.reply_to, encode(message), message.id, "reply"))

    async def answer(self) -> HttpResponse:
        await until(lambda: self.answers)
        return self.answers.pop(0)


def run(test: Callable[[World], Awaitable[None]], capacity: int = 0) -> None:
    async def inside() -> None:
        async with World(capacity) as world:
            await test(world)
            await settle()
            assert not world.answers, "one answer a call"
            assert (len(world.caller), len(world.sender)) == (0, 0)

    asyncio.run(inside())


def code(response: HttpResponse) -> str:
    value = header(response.headers, b"meshq-error")
    return value.decode() if value is not None else str(response.status)


# --- where to, and whether at all -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["call", "work"])
def test_after_a_weight_became_0_no_call_goes_there(kind: str) -> None:
    async def test(world: World) -> None:
        for weights, version in [({1: 1, 2: 0}, "v1"), ({1: 0, 2: 1}, "v2")]:
            world.set_policy(weights=weights)
            for _ in range(20):
                give_up = world.ask() if kind == "call" else world.send()
                await world.came(f"{version}.{kind}")
                give_up()
        world.answers.clear()
        await world.nothing_more()

    run(test)


@pytest.mark.parametrize("kind", ["call", "work"])
def test_who_is_not_allowed_is_denied_before_anything_is_sent(kind: str) -> None:
    async def test(world: World) -> None:
        world.set_policy(allow=["gateway"])
        (world.ask if kind == "call" else world.send)(call("orders@1"))
        response = world.answers.pop()
        assert (response.status, code(response)) == (403, "denied")
        assert world.metrics.answered == {("orders", "denied"): 1}
        await world.nothing_more()

    run(test)


@pytest.mark.parametrize("kind", ["call", "work"])
def test_where_nobody_is_ready_it_fails_or_falls_back_as_the_policy_says(kind: str) -> None:
    async def test(world: World) -> None:
        put = world.ask if kind == "call" else world.send
        world.set_policy((READY, PAUSED, READY), weights={2: 1}, whenAbsent="fail")
        put()
        response = world.answers.pop()
        assert (response.status, code(response)) == (503, "no-instance")
        assert header(response.headers, b"retry-after") == b"1"
        world.set_policy((READY, PAUSED, READY), weights={2: 1}, fallback=[1])
        give_up = put()
        await world.came(f"v1.{kind}")
        give_up()
        assert world.metrics.events["fallback"] == 1
        world.answers.clear()
        await world.nothing_more()

    run(test)


@pytest.mark.parametrize("kind", ["call", "work"])
def test_in_panic_calls_are_queued_and_counted(kind: str) -> None:
    async def test(world: World) -> None:
        unhealthy = State.UNHEALTHY
        world.set_policy((unhealthy, unhealthy, unhealthy), weights={2: 1}, whenAbsent="fail")
        (world.ask if kind == "call" else world.send)(call(timeout_ms=10))
        await world.came(f"v2.{kind}")
        assert world.metrics.events["panic"] == 1
        world.clock.advance(0.01)
        response = await world.answer()
        if kind == "call":
            assert "every instance of orders is unhealthy" in json.loads(response.body)["detail"]

    run(test)


# --- how long, and what is told --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("policy", "own", "left"), [("2s", None, 2000), ("2s", 500, 500), ("2s", 9000, 9000), (None, None, 30_000)]
)
def test_the_policys_timeout_is_for_callers_that_name_none(policy: str | None, own: int | None, left: int) -> None:
    async def test(world: World) -> None:
        world.set_policy(weights={1: 1}, timeout=policy)
        give_up = world.ask(call(timeout_ms=own))
        _, request = await world.came("v1.call")
        assert (request.left_ms, request.deadline_ms) == (left, world.clock.mesh_ms() + left)
        give_up()

    run(test)


def test_a_deadline_of_the_caller_bounds_the_policys_timeout() -> None:
    async def test(world: World) -> None:
        world.set_policy(weights={1: 1}, timeout="2s")
        give_up = world.ask(call(deadline_ms=world.clock.mesh_ms() + 700))
        assert (await world.came("v1.call"))[1].left_ms == 700
        give_up()

    run(test)


DEPRECATED = {1: {"sunset": "2027-01-31", "link": "https://example.com/migrate"}}
TOLD = [
    (b"Deprecation", b"@1800000000"),
    (b"Sunset", b"Sun, 31 Jan 2027 00:00:00 GMT"),
    (b"Link", b'<https://example.com/migrate>; rel="deprecation"'),
]


def told(response: HttpResponse) -> list[tuple[bytes, bytes]]:
    return [field for field in response.headers if field[0] in (b"Deprecation", b"Sunset", b"Link")]


def test_every_answer_of_a_deprecated_version_says_so() -> None:
    async def test(world: World) -> None:
        world.set_policy(weights={2: 1}, deprecated=DEPRECATED)
        world.ask(call("orders@1"))
        delivery, request = await world.came("v1.call")
        world.reply(delivery, OK._replace(id=request.id))
        assert told(await world.answer()) == TOLD
        world.send(call("orders@1"))
        response = await world.answer()
        assert (response.status, told(response)) == (202, TOLD)
        world.ask()
        delivery, request = await world.came("v2.call")
        world.reply(delivery, OK._replace(id=request.id))
        assert told(await world.answer()) == []
        world.ask(call("orders@1", timeout_ms=10))
        await world.came("v1.call")
        world.clock.advance(0.01)
        late = await world.answer()
        assert (code(late), told(late)) == ("deadline", TOLD)

    run(test)


def test_the_answer_of_a_deprecated_fallback_says_so() -> None:
    async def test(world: World) -> None:
        world.set_policy((READY, PAUSED, READY), weights={2: 1}, fallback=[1], deprecated=DEPRECATED)
        world.ask()
        delivery, request = await world.came("v1.call")
        world.reply(delivery, OK._replace(id=request.id))
        assert told(await world.answer()) == TOLD

    run(test)


def test_what_the_app_says_of_its_resource_stays() -> None:
    async def test(world: World) -> None:
        world.set_policy(deprecated=DEPRECATED)
        world.ask(call("orders@1"))
        delivery, request = await world.came("v1.call")
        own = [(b"sunset", b"Mon, 01 Feb 2027 00:00:00 GMT"), (b"Link", b'</next>; rel="next"')]
        world.reply(delivery, OK._replace(id=request.id, headers=own))
        response = await world.answer()
        assert [field for field in response.headers if field[0].lower() == b"sunset"] == own[:1]
        assert [field[1] for field in response.headers if field[0] == b"Link"] == [own[1][1], TOLD[2][1]]
        assert TOLD[0] in response.headers

    run(test)


# --- copies -----------------------------------------------------------------------------------------------------------------------

MIRROR = {"weights": {1: 1}, "mirror": {"to": 3, "percent": 100}}


def test_a_copy_of_a_waited_call_asks_for_no_answer_and_expires_with_it() -> None:
    async def test(world: World) -> None:
        world.set_policy(**MIRROR)
        world.ask(call("orders@^1", timeout_ms=900, priority=8))
        delivery, request = await world.came("v1.call")
        copied, copy = await world.came("v3.call")
        assert copy == request._replace(id=copy.id, selector="", mirrored=True)
        assert (copy.id != request.id, request.mirrored, request.selector) == (True, False, "^1")
        assert (copied.reply_to, copied.message_id, copied.properties()["priority"]) == ("", copy.id, 8)
        assert copied.properties()["expiration"] == delivery.properties()["expiration"] == "900"
        assert world.metrics.events["mirrored"] == 1
        world.reply(delivery, OK._replace(id=request.id))
        assert (await world.answer()).status == 200
        await world.nothing_more()

    run(test)


def test_a_copy_of_a_durable_call_has_neither_result_nor_callback() -> None:
    async def test(world: World) -> None:
        world.set_policy(**MIRROR)
        made = call("orders@1", deadline_ms=world.clock.mesh_ms() + 5000)
        world.sender.send(made._replace(durable=Durable(callback=b"/done", wait=5)), world.answers.append)
        delivery, request = await world.came("v1.work")
        copied, copy = await world.came("v3.work")
        assert (request.callback, bool(request.answer_to), delivery.reply_to) == (b"/done", True, "checkout.results")
        assert copy == request._replace(id=copy.id, callback=b"", answer_to="", mirrored=True)
        assert (copied.reply_to, copied.message_id, copy.durable) == ("", copy.id, True)
        assert world.metrics.events["mirrored"] == 1
        world.clock.advance(5)
        assert (await world.answer()).status == 202
        await world.nothing_more()

    run(test)


def test_what_goes_to_the_mirrored_version_anyway_is_not_copied() -> None:
    async def test(world: World) -> None:
        world.set_policy(**MIRROR)
        give_up = world.ask(call("orders@3"))
        world.send(call("orders@3"))
        assert (await world.answer()).status == 202
        await world.came("v3.call")
        await world.came("v3.work")
        await world.nothing_more()
        give_up()
        assert world.metrics.events["mirrored"] == 0

    run(test)


def test_calls_that_go_together_are_copied_after_them() -> None:
    async def test(world: World) -> None:
        world.set_policy(**MIRROR)
        give_ups = [world.ask() for _ in range(3)]
        sent = [(await world.came("v1.call"))[0] for _ in range(3)]
        assert len(set(map(id, sent))) == 1
        copies = [await world.came("v3.call") for _ in range(3)]
        assert len({copy.id for _, copy in copies}) == 3
        for give_up in give_ups:
            give_up()

    run(test, capacity=64)


@pytest.mark.parametrize("kind", ["call", "work"])
def test_what_stands_in_the_way_of_a_copy_does_not_stand_in_that_of_its_call(kind: str) -> None:
    async def test(world: World) -> None:
        put = world.ask if kind == "call" else world.send
        world.set_policy(**MIRROR)

        async def went_without_a_copy(made: Call | None = None) -> None:
            dropped = world.metrics.events["mirror_dropped"]
            give_up = put(made)
            partition = f"key.{topology.partition_of('a')}"
            await world.came(f"v1.{partition if made is not None else kind}")
            if kind == "work":
                assert (await world.answer()).status == 202
            if made is None or kind == "work":
                await until(lambda: world.metrics.events["mirror_dropped"] == dropped + 1)
            give_up()

        world.full.add(f"meshq.orders.v3.{kind}")
        await went_without_a_copy()
        world.full.clear()
        await went_without_a_copy(call(key="a"))  # v3 takes no keys
        world.caller.on_refused(topology.CALLS, f"orders.v3.{kind}", "no right")
        await went_without_a_copy()
        await world.nothing_more()

    run(test)


@pytest.mark.parametrize(("key", "takes", "copies"), [("", True, 2), ("a", True, 2), ("a", False, 1)])
def test_a_copy_is_delayed_as_its_call_is(key: str, takes: bool, copies: int) -> None:
    async def test(world: World) -> None:
        world.set_policy(weights={1: 1}, mirror={"to": 2 if takes else 3, "percent": 100})
        world.sender.send(call(key=key)._replace(durable=Durable(delay=5)), world.answers.append)
        assert (await world.answer()).status == 202
        await until(lambda: sum(world.metrics.events[e] for e in ("mirrored", "mirror_dropped")) == 1)
        (figures,) = await world.broker.stats(["meshq.delay.2"])
        assert figures.ready == copies
        await world.nothing_more()

    run(test)


def test_a_call_that_is_not_accepted_is_not_copied() -> None:
    async def test(world: World) -> None:
        world.set_policy(weights={1: 1}, mirror={"to": 2, "percent": 100})
        world.send(call("orders@3", key="a"))
        assert code(await world.answer()) == "bad-header"
        await world.nothing_more()
        assert world.metrics.events["mirrored"] == 0

    run(test)


# --- who is used ------------------------------------------------------------------------------------------------------------------


def test_what_is_sent_to_is_remembered() -> None:
    async def test(world: World) -> None:
        give_up = world.ask(call("orders@1"))
        world.send(call("orders@2"))
        assert (await world.answer()).status == 202
        world.ask(call("nobody@1"))
        assert code(await world.answer()) == "unknown-service"
        world.send(call("nobody@2"))
        assert code(await world.answer()) == "unknown-service"
        assert world.caller.usage.due(world.clock.monotonic()) == ["orders.v1", "orders.v2"]
        give_up()

    run(test)
