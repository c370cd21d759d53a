"""`meshq retire`: refused for each thing that uses the version, and done when nothing does."""

import asyncio
from collections.abc import Collection, Sequence
from typing import cast

import pytest

from meshq.adapters.clock import SystemClock
from meshq.adapters.embedded_registry import EmbeddedRegistryHub
from meshq.control import retiring
from meshq.control.pictures import Pictures
from meshq.control.retiring import LEFT, UNKNOWN, Outcome, Retiring, Version
from meshq.control.retiring_reasons import of_queues
from meshq.core import topology
from meshq.core.instances import Load, State
from meshq.core.topology import Topology
from meshq.ports import Broker, QueueStats
from tests.control_mesh import ControlMesh, told
from tests.told_broker import ToldBroker

OLD, NEW = "orders.v1", "orders.v2"
QUEUES = ["meshq.orders.v1.call", "meshq.orders.v1.work", "meshq.orders.v1.dead"]


async def ended(mesh: ControlMesh) -> None:
    """A service with a version of which nothing is left but queues, and one that lives."""
    generation = mesh.register("orders", "host-a", "1.4.2")
    mesh.register("orders", "host-b", "2.0.0")
    mesh.registry.deregister("orders", "host-a", generation)
    await mesh.client.declare(topology.service(OLD) + topology.service(NEW))


async def refused(mesh: ControlMesh, *said: tuple[str, str, bool]) -> None:
    """For these kinds and names, forcible or not; and nothing happened."""
    before = mesh.registry.snapshot()
    there = await mesh.queues(*QUEUES)
    for method in ("GET", "POST"):
        answer = await mesh.change(method, "/v1/retire/orders@1")
        assert answer.status == (200 if method == "GET" else 409)
        assert [(each["kind"], each["name"], each["forcible"]) for each in answer.body["reasons"]] == list(said)
        assert (answer.body["retired"], answer.body["retirable"]) == (False, False)
    assert answer.body["detail"].startswith("orders.v1 is not retired: ")
    for each in answer.body["reasons"]:
        assert each["detail"] in answer.body["detail"]
    assert mesh.registry.snapshot().services == before.services
    assert await mesh.queues(*QUEUES) == there
    ran = await mesh.meshq("retire", "orders@1")
    assert ran.code == 1
    assert all(each["detail"] in ran.out for each in answer.body["reasons"])
    assert "orders.v1 is not retired: " in ran.err
    assert (await mesh.meshq("retire", "orders@1", "--dry-run")).code == 1


def test_while_an_instance_serves_it() -> None:
    async def story(mesh: ControlMesh) -> None:
        await ended(mesh)
        mesh.register("orders", "host-c", "1.4.2", State.STARTING)
        await refused(mesh, ("instances", "host-c", False))

    told(story)


def test_while_somebody_consumes_it_who_is_not_in_the_registry() -> None:
    async def story(mesh: ControlMesh) -> None:
        await ended(mesh)
        mesh.client.subscribe(topology.call_queue(OLD), 1, lambda _: None)
        await refused(mesh, ("instances", "meshq.orders.v1.call", False))

    told(story)


def test_while_callers_were_seen() -> None:
    async def story(mesh: ControlMesh) -> None:
        await ended(mesh)
        mesh.registry.called("checkout", [OLD, NEW])
        mesh.registry.called("gateway", [NEW])
        mesh.registry.renew("orders", "host-b", mesh.instance("orders", "host-b").generation, Load())
        await refused(mesh, ("callers", "checkout", True))
        assert (await mesh.ask("GET", "/v1/retire/orders@1?quietFor=0s")).body["retirable"]

    told(story)


def test_while_messages_wait() -> None:
    async def story(mesh: ControlMesh) -> None:
        await ended(mesh)
        await mesh.put("orders.v1.work")
        await refused(mesh, ("messages", "meshq.orders.v1.work", False))

    told(story)


def test_while_dead_letters_lie_there() -> None:
    async def story(mesh: ControlMesh) -> None:
        await ended(mesh)
        await mesh.publish(topology.DEAD, topology.dead_queue(OLD))
        await refused(mesh, ("deadLetters", "meshq.orders.v1.dead", False))

    told(story)


def test_while_it_has_a_subscription() -> None:
    async def story(mesh: ControlMesh) -> None:
        await ended(mesh)
        await mesh.client.declare(topology.subscription(OLD, "settled", "payments.settled.v1"))
        await mesh.client.declare(topology.ordered_subscription(OLD, "by-key", "payments.settled.v1"))
        await refused(mesh, ("subscriptions", "by-key", True), ("subscriptions", "settled", True))
        await mesh.publish(topology.EVENTS, topology.event_key("payments.settled.v1"))
        answer = (await mesh.ask("GET", "/v1/retire/orders@1")).body
        kept = {(each["kind"], each["name"]): each["forcible"] for each in answer["reasons"]}
        assert kept["messages", "meshq.orders.v1.on.settled"] is False
        assert kept["subscriptions", "settled"] is False

    told(story)


def test_while_the_route_policy_sends_calls_to_it() -> None:
    async def story(mesh: ControlMesh) -> None:
        await ended(mesh)
        policy = {"weights": {"1": 10, "2": 90}, "fallback": ["1"], "mirror": {"to": "1", "percent": 1}}
        assert (await mesh.change("PUT", "/v1/routes/orders", policy)).status == 200
        await refused(mesh, ("policy", "weights", True), ("policy", "mirror", True), ("policy", "fallback", True))
        policy = {"weights": {"1": 0, "2": 100}, "deprecated": {"1": {}}}
        await mesh.change("PUT", "/v1/routes/orders", policy)
        assert (await mesh.ask("GET", "/v1/retire/orders@1")).body["retirable"], "it is on its way out"

    told(story)


def test_everything_that_stands_in_the_way_is_named_at_once() -> None:
    async def story(mesh: ControlMesh) -> None:
        await ended(mesh)
        mesh.register("orders", "host-c", "1.4.2")
        mesh.registry.called("checkout", [OLD])
        await mesh.put("orders.v1.call")
        ran = await mesh.meshq("retire", "orders@1", "--force", "-o", "json")
        assert ran.code == 1
        assert [each["kind"] for each in ran.json["reasons"]] == ["instances", "callers", "messages"]

    told(story)


def test_done() -> None:
    async def story(mesh: ControlMesh) -> None:
        await ended(mesh)
        assert "orders.v1 can be retired" in (await mesh.meshq("retire", "orders@1", "--dry-run")).out
        assert set(mesh.service("orders").majors) == {1, 2}
        ran = await mesh.meshq("retire", "orders@1")
        assert (ran.code, ran.err) == (0, "")
        assert ran.out == "orders.v1 is retired; its queues: " + ", ".join(sorted(QUEUES)) + "\n"
        assert set(mesh.service("orders").majors) == {2}
        assert await mesh.queues(*QUEUES) == []
        assert len(await mesh.queues(topology.call_queue(NEW), topology.work_queue(NEW))) == 2
        gone = await mesh.meshq("retire", "orders@1")
        assert (gone.code, gone.err) == (1, "meshq: orders has no v1; it has v2\n")

    told(story)


def test_force_passes_over_what_loses_nothing() -> None:
    async def story(mesh: ControlMesh) -> None:
        await ended(mesh)
        mesh.registry.called("checkout", [OLD])
        await mesh.client.declare(topology.subscription(OLD, "settled", "payments.settled.v1"))
        await mesh.change("PUT", "/v1/routes/orders", {"weights": {"1": 10, "2": 90}})
        assert (await mesh.meshq("retire", "orders@1", "--force", "--dry-run")).code == 0
        ran = await mesh.meshq("retire", "orders@1", "--force")
        assert ran.code == 0
        assert await mesh.queues(*QUEUES, "meshq.orders.v1.on.settled") == []
        assert set(mesh.service("orders").majors) == {2}

    told(story)


def test_the_last_version_takes_the_service_with_it() -> None:
    async def story(mesh: ControlMesh) -> None:
        generation = mesh.register("orders", "host-a", "1.4.2")
        mesh.registry.deregister("orders", "host-a", generation)
        await mesh.client.declare(topology.service(OLD) + topology.results("orders"))
        assert (await mesh.meshq("retire", "orders@1")).code == 0
        assert "orders" not in mesh.registry.snapshot().services
        assert await mesh.queues("meshq.orders.results") == []

    told(story)


def test_what_the_registry_forgot_and_the_broker_has() -> None:
    async def story(mesh: ControlMesh) -> None:
        await mesh.client.declare(topology.service(OLD))
        assert (await mesh.meshq("retire", "orders@1")).code == 0
        assert await mesh.queues(*QUEUES) == []

    told(story)


def test_messages_that_wait_for_a_retry_are_pointed_at() -> None:
    async def story(mesh: ControlMesh) -> None:
        await ended(mesh)
        await mesh.client.declare(topology.shared())
        await mesh.publish(topology.DELAY, topology.delay_key(600, topology.work_queue(OLD)))
        ran = await mesh.meshq("retire", "orders@1", "--dry-run")
        assert ran.code == 0
        assert "1 message waits for a retry or a delay somewhere in the mesh" in ran.err

    told(story)


def test_what_is_not_known_is_not_nothing() -> None:
    async def story(mesh: ControlMesh) -> None:
        await ended(mesh)
        ran = await mesh.meshq("retire", "orders@1")
        assert (ran.code, ran.out) == (69, "")
        assert "set MESHQ_MANAGEMENT_URL" in ran.err
        assert set(mesh.service("orders").majors) == {1, 2}

    told(story, listing=False)


class Reluctant(ToldBroker):
    """A broker that deletes nothing; `silent`: of these queues it says nothing, as after a time-out."""

    def __init__(self, silent: Collection[str]) -> None:
        super().__init__()
        self._silent: Collection[str] = ()
        self._later = silent

    async def withdraw(self, unwanted: Topology) -> None:
        self._silent = self._later

    async def stats(self, queues: Sequence[str]) -> list[QueueStats]:
        return [QueueStats(name, 0, 0, 0) for name in queues if name not in self._silent]


def reluctantly(silent: Collection[str], lists: list[list[str] | None]) -> tuple[Outcome, list[list[str] | None]]:
    """What becomes of a version of one queue where the broker lists these, one after the other; and what nobody asked for."""

    async def listed() -> list[QueueStats] | None:
        found = lists.pop(0) if len(lists) > 1 else lists[0]
        return None if found is None else [QueueStats(name, 0, 0, 0) for name in found]

    async def run() -> Outcome:
        clock = SystemClock()
        pictures = Pictures(EmbeddedRegistryHub(clock).connect())
        await pictures.open()
        broker = cast(Broker, Reluctant(silent))
        outcome = await Retiring(pictures, lambda: broker, listed, clock).retire(Version("orders", 1))
        await pictures.close()
        return outcome

    return asyncio.run(run()), lists


@pytest.mark.parametrize(
    ("silent", "after", "said"),
    [
        ([], [QUEUES[:1]], LEFT),
        (QUEUES, [QUEUES[:1]], UNKNOWN),
        (QUEUES, [None], UNKNOWN),
    ],
)
def test_a_queue_of_which_nobody_knows_is_left(
    monkeypatch: pytest.MonkeyPatch, silent: list[str], after: list[list[str] | None], said: str
) -> None:
    monkeypatch.setattr(retiring, "AGAIN_SECONDS", 0)
    outcome, _ = reluctantly(silent, [QUEUES[:1], *after])
    assert not outcome.retired
    assert [(each.kind, each.name, each.detail) for each in outcome.reasons] == [("messages", QUEUES[0], said)]


def test_a_list_may_be_late(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retiring, "AGAIN_SECONDS", 0)
    outcome, lists = reluctantly(QUEUES, [QUEUES[:1], QUEUES[:1], QUEUES[:1], []])
    assert (outcome.retired, outcome.reasons, lists) == (True, [], [[]])


@pytest.mark.parametrize(
    ("listed", "exact", "kinds"),
    [
        (QueueStats("meshq.orders.v1.work", 0, 0, 0), None, ["messages"]),
        (QueueStats("meshq.orders.v1.work", 0, 0, 0), QueueStats("meshq.orders.v1.work", None, None, 0), ["messages"]),
        (QueueStats("meshq.orders.v1.work", 5, 2, 1), QueueStats("meshq.orders.v1.work", 0, None, 0), []),
        (QueueStats("meshq.orders.v1.work", 0, 2, 1), QueueStats("meshq.orders.v1.work", 0, None, 1), ["messages"]),
        (QueueStats("meshq.orders.v1.work", 0, 0, 0), QueueStats("meshq.orders.v1.work", 1, None, 0), ["messages"]),
        (QueueStats("meshq.orders.v1.dead", 0, 0, 0), QueueStats("meshq.orders.v1.dead", 1, None, 0), ["deadLetters"]),
        (QueueStats("meshq.orders.v1.call", 0, None, 1), QueueStats("meshq.orders.v1.call", 0, None, 1), ["instances"]),
    ],
)
def test_figures_of_now_count_more_than_those_of_a_few_seconds_ago(
    listed: QueueStats, exact: QueueStats | None, kinds: list[str]
) -> None:
    assert [reason.kind for reason in of_queues([listed], [exact] if exact else [])] == kinds


@pytest.mark.parametrize(
    ("address", "status", "code"),
    [
        ("orders", 400, "bad-address"),
        ("orders@^1", 400, "bad-address"),
        ("orders@1.4", 400, "bad-address"),
        ("orders@x", 400, "bad-address"),
        ("orders@7", 404, "no-such-version"),
        ("nobody@1", 404, "unknown-service"),
    ],
)
def test_what_is_no_version_of_anybody(address: str, status: int, code: str) -> None:
    async def story(mesh: ControlMesh) -> None:
        await ended(mesh)
        for method in ("GET", "POST"):
            answer = await mesh.change(method, f"/v1/retire/{address}")
            assert (answer.status, answer.body["code"]) == (status, code)

    told(story)
