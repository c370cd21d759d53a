"""Durable messages in, as far as the broker has a part in it: what comes back when, in which order, and to whom."""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from itertools import pairwise
from typing import Any

import pytest

from meshq.adapters.clock import SystemClock
from meshq.adapters.embedded_store import EmbeddedStoreHub
from meshq.core import topology
from meshq.core.http import Failed, Failure, HttpRequest, HttpResponse
from meshq.core.message import DeadLetter, Fault, Request, Response, decode, encode
from meshq.core.names import parse_version
from meshq.core.policy import Retry
from meshq.ports import Broker, Delivery, Publication, Published
from meshq_sidecar.identity import Identity
from meshq_sidecar.job import Source
from tests.contract.broker_rigs import BrokerRig, Recorder, eventually, published
from tests.receiver import TOPIC, Receiver

SENDER = "checkout"
WORK, DEAD = topology.work_queue(TOPIC), topology.dead_queue(TOPIC)
KEYS = "a", "b6", "b14"
"""Of one partition."""
ORDERED = topology.key_queue(TOPIC, topology.partition_of(KEYS[0]))
SENT = Request("m1", "POST", b"/a", [(b"X", b"1")], b"x", SENDER, accepted_ms=1)

RETRY = Retry(3, (0.0,))


class Handled:
    """One request at the app."""

    def __init__(self, node: str, request: HttpRequest) -> None:
        headers = {name.decode(): value.decode() for name, value in request.headers}
        self.node = node
        self.ident = headers["Meshq-Message-Id"]
        self.attempt = int(headers["Meshq-Attempt"])
        self.key = headers.get("Meshq-Key", "")
        self.request = request


class App:
    """Answers at once, or after `seconds`."""

    def __init__(self, mesh: "Mesh", node: str) -> None:
        self._mesh = mesh
        self._node = node

    def request(
        self, request: HttpRequest, timeout: float, done: Callable[[HttpResponse | Failed], None]
    ) -> Callable[[], None]:
        handled = Handled(self._node, request)
        answer = self._mesh.answer(handled)
        self._mesh.handled(handled)
        asyncio.get_running_loop().call_later(self._mesh.seconds, done, answer)
        return lambda: None

    async def close(self) -> None: ...


class Node:
    """One instance of `orders`."""

    def __init__(self, mesh: "Mesh", broker: Broker, name: str, retry: Retry, prefetch: int) -> None:
        self.broker = broker
        identity = Identity("orders", parse_version("2.1.0"), name)
        self.receiver = Receiver(
            broker,
            mesh.store.connect(),
            mesh.clock,
            App(mesh, name),
            identity=identity,
            concurrency=8,
            prefetch=prefetch,
            retry=retry,
        )
        self.work = self.receiver.work

    async def until_stopped(self) -> None:
        idle = asyncio.Event()
        self.work.when_idle(idle.set)
        await asyncio.wait_for(idle.wait(), 20)
        await eventually(self._consumes_nothing)

    async def _consumes_nothing(self) -> bool:
        return self.work.consuming == 0


class Mesh:
    """Instances of `orders` over one broker, and a sender. `answer` is what the app says."""

    def __init__(self, rig: BrokerRig) -> None:
        self.rig = rig
        self.clock = SystemClock()
        self.store = EmbeddedStoreHub(self.clock)
        self.answer: Callable[[Handled], HttpResponse | Failed] = lambda handled: HttpResponse(200, [], b"done")
        self.seconds = 0.0
        """How long it takes."""
        self.handled = Recorder[Handled]()
        self.results = Recorder[Response | Fault]()
        self._nodes: list[Node] = []

    async def open(self) -> None:
        self.checkout = await self.rig.connect()
        await self.checkout.declare(topology.shared() + topology.results(SENDER))
        self.checkout.subscribe(topology.results_queue(SENDER), 100, self._on_result)

    async def node(
        self,
        name: str,
        *queues: str,
        retry: Retry = RETRY,
        prefetch: int = 20,
    ) -> Node:
        broker = await self.rig.connect()
        await broker.declare(topology.shared() + topology.service(TOPIC, ordered=True) + topology.results("orders"))
        node = Node(self, broker, name, retry, prefetch)
        self._nodes.append(node)
        for queue in queues or (WORK,):
            node.work.add(Source(queue, TOPIC, ordered=queue == ORDERED))
        node.work.resume()
        return node

    async def close(self) -> None:
        for node in self._nodes:
            await node.receiver.close()

    def _on_result(self, delivery: Delivery) -> None:
        for message in decode(delivery.body):
            assert isinstance(message, Response | Fault)
            self.results(message)
        delivery.ack()

    async def send(self, *requests: Request, **more: Any) -> None:
        publications = []
        for request in requests:
            key = topology.work_key(TOPIC)
            if request.key:
                key = topology.key_key(TOPIC, topology.partition_of(request.key))
            body, reply_to = encode(request), topology.results_key(SENDER)
            made = Publication(topology.CALLS, key, body, request.id, "call", reply_to)
            publications.append(made._replace(**more))
        assert await published(self.checkout, *publications) == [Published.CONFIRMED] * len(publications)

    async def dead(self, count: int = 1) -> list[DeadLetter]:
        letters = Recorder[DeadLetter]()

        def take(delivery: Delivery) -> None:
            (letter,) = decode(delivery.body)
            assert isinstance(letter, DeadLetter)
            delivery.ack()
            letters(letter)

        self.checkout.subscribe(DEAD, 10, take)
        return await letters.count(count)

    async def nothing_left(self, *queues: str) -> None:
        """Neither waiting nor handed out: what is handed out comes again when its consumers are gone."""
        for node in self._nodes:
            node.work.stop()
            await node.until_stopped()
            await node.broker.close()

        async def empty() -> bool:
            return all(figures.ready == 0 for figures in await self.checkout.stats(queues or (WORK,)))

        await eventually(empty)


@asynccontextmanager
async def mesh_over(rig: BrokerRig) -> AsyncIterator[Mesh]:
    mesh = Mesh(rig)
    await mesh.open()
    try:
        yield mesh
    finally:
        await mesh.close()


def failing(times: int, status: int = 500) -> Callable[[Handled], HttpResponse | Failed]:
    """So many times for each message; then it works."""
    counts: dict[str, int] = defaultdict(int)

    def answer(handled: Handled) -> HttpResponse | Failed:
        counts[handled.ident] += 1
        return HttpResponse(status if counts[handled.ident] <= times else 200, [], b"done")

    return answer


async def test_a_message_that_fails_comes_back_after_its_delay_as_it_was(rig: BrokerRig) -> None:
    async with mesh_over(rig) as mesh:
        seen: list[Any] = []
        node = await mesh.node("i-1", retry=Retry(3, (1.0,)))
        take = node.work._on_request

        def watched(consumer: Any, delivery: Delivery, *rest: Any) -> None:
            seen.append((mesh.clock.monotonic(), delivery.reply_to, delivery.properties().get("priority")))
            take(consumer, delivery, *rest)

        node.work._on_request = watched
        mesh.answer = failing(1)
        await mesh.send(SENT, priority=7)
        (result,) = await mesh.results.count(1)
        assert isinstance(result, Response)
        assert (result.id, result.status, result.attempt) == ("m1", 200, 2)
        (first, *properties), (second, *again) = seen
        assert properties == again == ["checkout.results", 7]
        assert second - first >= 0.9
        assert [handled.attempt for handled in mesh.handled.seen] == [1, 2]
        await mesh.nothing_left()


@pytest.mark.parametrize("status", [500, None])
async def test_a_poison_message_is_dead_after_exactly_the_attempts_set(rig: BrokerRig, status: int | None) -> None:
    async with mesh_over(rig) as mesh:
        await mesh.node("i-1", retry=Retry(5, (0.0,)))
        outcome = Failed(Failure.BROKEN, "why") if status is None else HttpResponse(status, [], b"boom")
        mesh.answer = lambda handled: outcome
        await mesh.send(SENT)
        (letter,) = await mesh.dead()
        assert (letter.id, letter.reason, letter.attempts, letter.status) == ("m1", "attempts", 5, status)
        assert [handled.attempt for handled in mesh.handled.seen] == [1, 2, 3, 4, 5]
        (result,) = await mesh.results.count(1)
        assert result.failed == "attempts"
        await mesh.nothing_left()


async def test_a_message_that_is_wrong_is_dead_at_once(rig: BrokerRig) -> None:
    async with mesh_over(rig) as mesh:
        await mesh.node("i-1")
        mesh.answer = lambda handled: HttpResponse(422, [], b"no such customer")
        await mesh.send(SENT)
        (letter,) = await mesh.dead()
        assert (letter.reason, letter.excerpt, letter.attempts) == ("rejected", b"no such customer", 1)
        assert letter.body == encode(SENT)
        assert len(mesh.handled.seen) == 1
        await mesh.nothing_left()


async def test_pauses_burn_no_attempt_however_often(rig: BrokerRig) -> None:
    """Before RabbitMQ 4.3 the broker counts each return toward its own limit of 50."""
    async with mesh_over(rig) as mesh:
        node = await mesh.node("i-1")
        mesh.seconds = 0.01

        def answer(handled: Handled) -> HttpResponse | Failed:
            if len(mesh.handled.seen) >= 2 * topology.BACKSTOP_DELIVERIES:
                return HttpResponse(200, [])
            node.work.pause()
            node.work._consuming.breaker.succeeded()
            asyncio.get_running_loop().call_later(0.02, node.work.resume)
            return Failed(Failure.REFUSED, "the app is not ready")

        mesh.answer = answer
        await mesh.send(SENT)
        (result,) = await mesh.results.count(1)
        assert isinstance(result, Response)
        assert {handled.attempt for handled in mesh.handled.seen} == {1}
        await mesh.nothing_left()


async def test_what_runs_when_the_connection_is_lost_runs_once(rig: BrokerRig) -> None:
    async with mesh_over(rig) as mesh:
        node = await mesh.node("i-1")
        mesh.seconds = 1.0
        await mesh.send(*(SENT._replace(id=f"m{n}") for n in range(30)))
        await mesh.handled.count(8)
        await rig.cut(node.broker)
        await mesh.results.count(30)
        idents = [handled.ident for handled in mesh.handled.seen]
        assert sorted(idents) == sorted({f"m{n}" for n in range(30)}), "the one process had all of them"
        await mesh.nothing_left()


async def test_what_one_instance_gives_back_another_takes(rig: BrokerRig) -> None:
    async with mesh_over(rig) as mesh:
        one = await mesh.node("i-1")
        mesh.seconds = 0.2
        await mesh.send(*(SENT._replace(id=f"m{n}") for n in range(20)))
        await mesh.handled.count(8)
        await mesh.node("i-2")
        one.work.stop()
        await mesh.results.count(20)
        assert sorted(handled.ident for handled in mesh.handled.seen) == sorted(f"m{n}" for n in range(20))
        assert {handled.attempt for handled in mesh.handled.seen} == {1}
        await mesh.nothing_left()


# --- in order --------------------------------------------------------------------------------------------------------------------


def in_order(count: int) -> list[Request]:
    """So many of each key, in turn."""
    return [SENT._replace(id=f"{key}-{n}", key=key) for n in range(count) for key in KEYS]


def by_key(handled: list[Handled]) -> dict[str, list[int]]:
    found: dict[str, list[int]] = defaultdict(list)
    for each in handled:
        found[each.key].append(int(each.ident.rpartition("-")[2]))
    return found


async def test_each_key_is_in_order_while_instances_give_it_to_each_other(rig: BrokerRig) -> None:
    """Promise 6: each message once, in its place, although every hand-over returns what had been fetched."""
    async with mesh_over(rig) as mesh:
        mesh.seconds = 0.005
        one, two = await mesh.node("i-1", ORDERED), await mesh.node("i-2", ORDERED)
        two.work.pause()
        await mesh.send(*in_order(60))
        for pausing, going_on in [(one, two), (two, one)] * 3:
            await mesh.handled.count(len(mesh.handled.seen) + 9)
            pausing.work.pause()
            going_on.work.resume()
        await mesh.results.count(180)
        assert by_key(mesh.handled.seen) == {key: list(range(60)) for key in KEYS}
        assert {handled.node for handled in mesh.handled.seen} == {"i-1", "i-2"}
        await mesh.nothing_left(ORDERED)


async def test_each_key_is_in_order_when_instances_are_lost(rig: BrokerRig) -> None:
    """What ran when its connection was lost may run twice; nothing is left out, and nothing comes before its time."""
    async with mesh_over(rig) as mesh:
        mesh.seconds = 0.005
        nodes = [await mesh.node("i-1", ORDERED), await mesh.node("i-2", ORDERED)]
        await mesh.send(*in_order(60))
        for number in range(4):
            await mesh.handled.count(len(mesh.handled.seen) + 9)
            await rig.cut(nodes[number % 2].broker)
        await mesh.results.until(lambda seen: len({result.id for result in seen}) == 180)
        for key, numbers in by_key(mesh.handled.seen).items():
            assert set(numbers) == set(range(60))
            reached = -1
            for number in numbers:
                assert number <= reached + 1, f"{key}: {numbers}"
                reached = max(reached, number)
            assert sum(later < earlier for earlier, later in pairwise(numbers)) <= 4
        await mesh.nothing_left(ORDERED)


async def test_order_holds_through_retries_and_a_hand_over_in_the_middle_of_them(rig: BrokerRig) -> None:
    async with mesh_over(rig) as mesh:
        retry = Retry(5, (0.3,))
        one, _ = await mesh.node("i-1", ORDERED, retry=retry), await mesh.node("i-2", ORDERED, retry=retry)
        mesh.answer = lambda handled: HttpResponse(
            500 if handled.ident == f"{KEYS[0]}-0" and len(mesh.handled.seen) < 12 else 200, []
        )
        await mesh.send(*in_order(4))
        await mesh.handled.count(9)
        one.work.pause()
        await mesh.results.count(12)
        found = by_key(mesh.handled.seen)
        first = found.pop(KEYS[0])
        assert [number for number in first if number] == [1, 2, 3]
        assert first[: first.count(0)] == [0] * first.count(0), "those behind it waited"
        assert found == {key: [0, 1, 2, 3] for key in KEYS[1:]}, "the others did not"
        await mesh.nothing_left(ORDERED)


async def test_a_poison_message_lets_the_next_of_its_key_go_on(rig: BrokerRig) -> None:
    async with mesh_over(rig) as mesh:
        await mesh.node("i-1", ORDERED)
        mesh.answer = lambda handled: HttpResponse(500 if handled.ident == f"{KEYS[0]}-1" else 200, [])
        await mesh.send(*in_order(3))
        await mesh.results.count(9)
        (letter,) = await mesh.dead()
        assert (letter.id, letter.attempts) == (f"{KEYS[0]}-1", 3)
        assert by_key(mesh.handled.seen)[KEYS[0]] == [0, 1, 1, 1, 2]
        await mesh.nothing_left(ORDERED)
