"""Route policies on every broker: changed while calls run, with nothing lost and nothing sent where it should not go."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import pytest

from meshq.adapters.clock import SystemClock
from meshq.adapters.embedded_store import EmbeddedStoreHub
from meshq.calling import Caller
from meshq.core import names, topology
from meshq.core.callreq import Call, Durable
from meshq.core.http import Failed, HttpRequest, HttpResponse, header
from meshq.core.instances import Instance, Load, Service, Snapshot, State
from meshq.core.message import Fault, Response, decode
from meshq.core.names import parse_version
from meshq.core.policy_parsing import parse_policy
from meshq.core.selectors import parse_address
from meshq.ports import Broker, Delivery
from meshq.sending import Sender
from meshq.tasks import Tasks
from meshq_sidecar.backlog import Backlog
from meshq_sidecar.identity import Identity
from meshq_sidecar.work import Source
from tests.contract.broker_rigs import BrokerRig, Recorder, eventually
from tests.doubles import Counted
from tests.receiver import Receiver

MAJORS = (1, 2, 3)
CALLS = 5000
AT_ONCE = 50


class Handled(NamedTuple):
    """One request at the app of a version."""

    major: int
    number: int
    mirrored: bool
    ident: str


class App:
    """Answers with the version it is, the next turn of the loop."""

    def __init__(self, mesh: "Mesh", major: int) -> None:
        self._mesh = mesh
        self._major = major

    def request(
        self, request: HttpRequest, timeout: float, done: Callable[[HttpResponse | Failed], None]
    ) -> Callable[[], None]:
        ident = header(request.headers, b"meshq-message-id") or b""
        mirrored = header(request.headers, b"meshq-mirror") == b"1"
        answer = HttpResponse(self._mesh.status.get(self._major, 200), [], b"%d" % self._major)
        asyncio.get_running_loop().call_soon(done, answer)
        self._mesh.handled(Handled(self._major, int(request.target[1:]), mirrored, ident.decode()))
        return lambda: None

    async def close(self) -> None: ...


class Mesh:
    """`checkout`, which calls, and three versions of `orders`, each with an instance that is ready unless the test says else."""

    def __init__(self, rig: BrokerRig) -> None:
        self._rig = rig
        self.clock = SystemClock()
        self.metrics = Counted()
        self.tasks = Tasks()
        self.handled = Recorder[Handled]()
        self.results = Recorder[Response | Fault]()
        self.status: dict[int, int] = {}
        """Major -> what its app answers, if not 200."""
        self._store = EmbeddedStoreHub(self.clock)
        self._receivers: dict[int, Receiver] = {}
        self._brokers: list[Broker] = []
        self.set_policy()

    async def open(self) -> None:
        for major in MAJORS:
            self._receivers[major] = await self._receiver(major)
        self.broker = await self._rig.connect()
        await self.broker.declare(topology.shared() + topology.results("checkout"))
        self.broker.subscribe(topology.results_queue("checkout"), 500, self._on_result)
        self.backlog = Backlog(self.broker, self._limit_of)
        self.caller = Caller(
            self.broker, self.clock, self.metrics, lambda: self.picture, "checkout", "c-1", self.backlog
        )
        self.sender = Sender(
            self.broker, self.clock, self.metrics, lambda: self.picture, "checkout", self.caller, self.tasks,
            lambda *_: None, has_app=False, backlog=self.backlog,
        )  # fmt: skip
        await eventually(self._has_replies)

    async def _has_replies(self) -> bool:
        return bool(self.broker.reply_to)

    async def _receiver(self, major: int) -> Receiver:
        topic = names.topic("orders", major)
        broker = await self._rig.connect()
        await broker.declare(topology.shared() + topology.service(topic) + topology.dead(topic))
        receiver = Receiver(
            broker,
            self._store.connect(),
            self.clock,
            App(self, major),
            identity=Identity("orders", parse_version(f"{major}.0.0"), f"i-{major}"),
            topics=(topic,),
            concurrency=16,
        )
        receiver.work.add(Source(topology.work_queue(topic), topic))
        receiver.work.resume()
        receiver.inbound.resume()
        return receiver

    async def stop(self, major: int) -> None:
        """It takes nothing any more."""
        self._receivers[major].inbound.pause()
        self._receivers[major].work.pause()

    async def close(self) -> None:
        await self.tasks.close()
        for receiver in self._receivers.values():
            await receiver.close()
        await self._store.close()

    def set_policy(self, without: tuple[int, ...] = (), **policy: Any) -> None:
        """From the next call on. Majors in `without` have no ready instance."""
        versions = {major: parse_version(f"{major}.0.0") for major in MAJORS}
        instances = tuple(
            Instance(
                "orders", f"i-{major}", version, (major,),
                State.PAUSED if major in without else State.READY, load=Load(0, 16),
            )
            for major, version in versions.items()
        )  # fmt: skip
        policies = {"orders": parse_policy("orders", policy)} if policy else {}
        self.picture = Snapshot(1, {"orders": Service("orders", versions, instances)}, policies=policies)

    def _limit_of(self, service: str) -> int | None:
        policy = self.picture.policies.get(service)
        return None if policy is None else policy.backlog_limit

    def _on_result(self, delivery: Delivery) -> None:
        for message in decode(delivery.body):
            assert isinstance(message, Response | Fault)
            self.results(message)
        delivery.ack()

    def call(
        self, number: int, done: Callable[[HttpResponse], None], durable: bool = False, address: str = "orders"
    ) -> None:
        made = Call(parse_address(address), "POST", b"/%d" % number, [], b"x", None, None, False)
        if durable:
            self.sender.send(made._replace(durable=Durable()), done)
        else:
            self.caller.call(made, done)

    async def ask(self, address: str = "orders", durable: bool = False) -> HttpResponse:
        answers = Recorder[HttpResponse]()
        self.call(0, answers, durable, address)
        return (await answers.count(1))[0]

    async def calls(self, count: int, durable: bool, before: Callable[[int], None] = lambda number: None) -> list[int]:
        """So many calls, AT_ONCE of them at a time; `before` is called before each. Returns their statuses."""
        statuses = Recorder[int]()
        numbers = iter(range(count))

        def go_on() -> None:
            number = next(numbers, None)
            if number is not None:
                before(number)
                self.call(number, answered, durable)

        def answered(response: HttpResponse) -> None:
            statuses(response.status)
            asyncio.get_running_loop().call_soon(go_on)  # the answer may come before the call returns

        for _ in range(AT_ONCE):
            go_on()
        while len(statuses.seen) < count:
            await statuses.count(min(count, len(statuses.seen) + 250))
        return statuses.seen

    async def all_handled(self, count: int) -> list[Handled]:
        while len(self.handled.seen) < count:
            await self.handled.count(min(count, len(self.handled.seen) + 250))
        return self.handled.seen


@asynccontextmanager
async def mesh_over(rig: BrokerRig) -> AsyncIterator[Mesh]:
    mesh = Mesh(rig)
    await mesh.open()
    try:
        yield mesh
    finally:
        await mesh.close()


@pytest.mark.parametrize("durable", [False, True], ids=["waited", "durable"])
async def test_weights_changed_in_the_middle_of_many_calls(rig: BrokerRig, durable: bool) -> None:
    async with mesh_over(rig) as mesh:
        mesh.set_policy(weights={"1": 90, "2": 10})

        def change(number: int) -> None:
            if number == CALLS // 2:
                mesh.set_policy(weights={"1": 0, "2": 100})

        statuses = await mesh.calls(CALLS, durable, change)
        assert Counter(statuses) == {202 if durable else 200: CALLS}
        handled = await mesh.all_handled(CALLS)
        assert sorted(each.number for each in handled) == list(range(CALLS)), "each once"
        before = Counter(each.major for each in handled if each.number < CALLS // 2)
        after = Counter(each.major for each in handled if each.number >= CALLS // 2)
        assert abs(before[1] / (CALLS // 2) - 0.9) < 0.03
        assert set(before) == {1, 2}
        assert set(after) == {2}, "nothing goes to a version of weight 0"
        if durable:
            assert len(await mesh.results.count(CALLS)) == CALLS


@pytest.mark.parametrize("durable", [False, True], ids=["waited", "durable"])
async def test_copies_arrive_and_their_answers_do_not(rig: BrokerRig, durable: bool) -> None:
    async with mesh_over(rig) as mesh:
        mesh.set_policy(weights={"1": 1}, mirror={"to": "3", "percent": 100})
        mesh.status[3] = 418
        statuses = await mesh.calls(300, durable)
        assert Counter(statuses) == {202 if durable else 200: 300}
        handled = await mesh.all_handled(600)
        originals = {each.ident: each.number for each in handled if each.major == 1}
        copies = {each.ident: each.number for each in handled if each.major == 3}
        assert sorted(originals.values()) == sorted(copies.values()) == list(range(300))
        assert not originals.keys() & copies.keys(), "each has an id of its own"
        assert {(each.major, each.mirrored) for each in handled} == {(1, False), (3, True)}
        assert mesh.metrics.events["mirrored"] == 300
        assert (mesh.metrics.events["late_reply"], len(mesh.caller)) == (0, 0)
        if durable:
            results = await mesh.results.count(300)
            assert {result.id for result in results} == originals.keys()


async def test_a_part_is_copied(rig: BrokerRig) -> None:
    async with mesh_over(rig) as mesh:
        mesh.set_policy(weights={"1": 1}, mirror={"to": "3", "percent": 20})
        await mesh.calls(2000, durable=False)
        copies = mesh.metrics.events["mirrored"]
        assert abs(copies / 2000 - 0.2) < 0.05
        await mesh.all_handled(2000 + copies)


@pytest.mark.parametrize("durable", [False, True], ids=["waited", "durable"])
async def test_a_copy_for_a_version_that_is_gone_changes_nothing(rig: BrokerRig, durable: bool) -> None:
    async with mesh_over(rig) as mesh:
        await mesh.stop(3)
        mesh.set_policy(weights={"1": 1}, mirror={"to": "3", "percent": 100})
        statuses = await mesh.calls(100, durable)
        assert Counter(statuses) == {202 if durable else 200: 100}
        await mesh.all_handled(100)
        assert {each.major for each in mesh.handled.seen} == {1}


@pytest.mark.parametrize("durable", [False, True], ids=["waited", "durable"])
async def test_where_nobody_is_ready(rig: BrokerRig, durable: bool) -> None:
    async with mesh_over(rig) as mesh:
        good = 202 if durable else 200
        mesh.set_policy(without=(2,), weights={"2": 1}, fallback=["1"], deprecated={"1": {"sunset": "2027-01-31"}})
        response = await mesh.ask(durable=durable)
        assert response.status == good
        assert header(response.headers, b"sunset") == b"Sun, 31 Jan 2027 00:00:00 GMT"
        (handled,) = await mesh.handled.count(1)
        assert handled.major == 1
        mesh.set_policy(without=(2,), weights={"2": 1}, whenAbsent="fail")
        refused = await mesh.ask(durable=durable)
        assert (refused.status, header(refused.headers, b"meshq-error")) == (503, b"no-instance")
        assert header(refused.headers, b"retry-after") == b"1"
        mesh.set_policy(weights={"2": 1}, whenAbsent="fail")
        assert (await mesh.ask(durable=durable)).status == good
        mesh.set_policy(allow=["gateway"])
        denied = await mesh.ask(durable=durable)
        assert (denied.status, header(denied.headers, b"meshq-error")) == (403, b"denied")
        assert [each.major for each in await mesh.handled.count(2)] == [1, 2]


async def test_the_timeout_of_the_policy_ends_a_call_that_nobody_takes(rig: BrokerRig) -> None:
    async with mesh_over(rig) as mesh:
        await mesh.stop(2)
        mesh.set_policy(weights={"2": 1}, timeout="300ms")
        began = mesh.clock.monotonic()
        response = await mesh.ask()
        assert (response.status, header(response.headers, b"meshq-error")) == (504, b"deadline")
        assert 0.3 <= mesh.clock.monotonic() - began < 10


async def test_the_backlog_limit_of_the_policy(rig: BrokerRig) -> None:
    async with mesh_over(rig) as mesh:
        await mesh.stop(2)
        mesh.set_policy(weights={"2": 1}, backlogLimit=3)
        for _ in range(3):
            assert (await mesh.ask(durable=True)).status == 202

        async def is_full() -> bool:
            await mesh.backlog.look()
            return (await mesh.ask(durable=True)).status == 429

        await eventually(is_full)
        mesh.set_policy(weights={"2": 1}, backlogLimit=100)
        assert (await mesh.ask(durable=True)).status == 202
