"""The control API over an embedded mesh of this process: its views, its rules, its answers when a part is away."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

import pytest

from meshq.adapters.clock import SystemClock
from meshq.adapters.embedded_broker import EmbeddedHub
from meshq.adapters.embedded_registry import EmbeddedRegistryHub
from meshq.adapters.metrics import PrometheusMetrics
from meshq.control import DOMAIN, SERVICE
from meshq.control.app import Control
from meshq.control.mesh import Mesh
from meshq.control.queues import merged, rows
from meshq.core import topology
from meshq.core.instances import Instance, State
from meshq.core.names import Version
from meshq.core.queue_names import QueueName, read_name
from meshq.ports import QueueStats, RegistryAway
from tests.http_tools import connected

QUEUE_KEYS = [
    "topic", "queue", "kind", "ready", "inFlight", "consumers", "oldestAgeSeconds", "inRate", "outRate", "dead",
]  # fmt: skip


@pytest.mark.parametrize(
    ("queue", "name"),
    [
        ("meshq.orders.v2.call", QueueName("orders.v2", "call")),
        ("meshq.orders.v2.work", QueueName("orders.v2", "work")),
        ("meshq.orders.v2.key.7", QueueName("orders.v2", "key")),
        ("meshq.orders.v2.on.settled", QueueName("orders.v2", "event")),
        ("meshq.orders.v2.on.settled.k3", QueueName("orders.v2", "event")),
        ("meshq.orders.v2.dead", QueueName("orders.v2", "dead")),
        ("meshq.orders.results", QueueName(None, "results")),
        ("meshq.orders.reply.host-k3m2qa.0a1b", QueueName(None, "reply")),
        ("meshq.log.payments.settled.v1", QueueName("payments.settled.v1", "log")),
        ("meshq.delay.3", QueueName(None, "delay")),
        ("meshq.lost", QueueName(None, "lost")),
        ("meshq.orders", None),
        ("meshq.orders.other", None),
        ("celery", None),
    ],
)
def test_what_a_queue_is_by_its_name(queue: str, name: QueueName | None) -> None:
    assert read_name(queue) == name


def test_rows_of_queues() -> None:
    stats = [
        QueueStats("meshq.orders.v2.call", 3, 1, 2, 1.23456, 0.5, None),
        QueueStats("meshq.orders.v2.dead", 7, 0, 0),
        QueueStats("meshq.billing.v1.call"),
        QueueStats("meshq.delay.0", 1),
        QueueStats("meshq.orders.reply.a.b", 0),
        QueueStats("meshq.lost", 0),
        QueueStats("foreign", 9),
    ]
    shown = rows(stats, everything=False)
    assert [list(row) for row in shown] == [QUEUE_KEYS] * 3
    assert [tuple(row.values()) for row in shown] == [
        ("billing.v1", "meshq.billing.v1.call", "call", None, None, None, None, None, None, None),
        ("orders.v2", "meshq.orders.v2.call", "call", 3, 1, 2, 1.235, 0.5, None, 7),
        ("orders.v2", "meshq.orders.v2.dead", "dead", 7, 0, 0, None, None, None, 7),
    ]
    assert [row["kind"] for row in rows(stats, everything=True)] == ["call", "call", "dead", "delay", "lost", "reply"]
    assert [row["kind"] for row in rows([QueueStats("meshq.lost", 1)], everything=False)] == ["lost"]


def test_what_was_listed_comes_before_what_was_asked_for() -> None:
    listed, asked = [QueueStats("a", 1)], [QueueStats("a", 2), QueueStats("b", 3)]
    assert merged(listed, asked) == [QueueStats("a", 1), QueueStats("b", 3)]


# --- the API ------------------------------------------------------------------------------------------------------------------


class Reply(NamedTuple):
    status: int
    content_type: str
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class AwayRegistry:
    """A registry that does not answer."""

    async def open(self) -> None:
        """Nothing to open."""

    async def close(self) -> None:
        """Nothing to close."""

    async def snapshot(self) -> Any:
        raise RegistryAway("the registry is away")


Get = Callable[..., Awaitable[Reply]]


def with_control(story: Callable[[Get, EmbeddedRegistryHub], Awaitable[None]], *, registry: Any = None) -> None:
    async def run() -> None:
        clock = SystemClock()
        hub, registry_hub = EmbeddedHub(None, clock), EmbeddedRegistryHub(clock)
        service = hub.connect("orders")
        await service.open()
        await service.declare(topology.service("orders.v2"))

        async def list_queues() -> list[QueueStats]:
            return hub.stats(hub.queue_names)

        mesh = Mesh(
            SERVICE,
            DOMAIN,
            hub.connect(SERVICE),
            registry or registry_hub.connect(),
            clock,
            PrometheusMetrics(),
            list_queues,
        )
        control = Control(mesh, lambda: {"mesh": "shop"})
        port = await control.start(0)

        async def get(target: str, method: str = "GET", host: str = "localhost", **headers: str) -> Reply:
            lines = [f"{method} {target} HTTP/1.1", f"Host: {host}", *(f"{n}: {v}" for n, v in headers.items())]
            async with connected(port) as peer:
                peer.send("\r\n".join([*lines, "", ""]).encode())
                answer = await peer.answer()
            return Reply(answer.status, (answer.get(b"content-type") or b"").decode(), answer.body)

        try:
            await story(get, registry_hub)
        finally:
            await control.close()
            await hub.close()

    asyncio.run(run())


def register(hub: EmbeddedRegistryHub) -> None:
    hub.register(Instance("orders", "host-a", Version(2, 0, 0), (2,), State.READY, "host:3600"))


def test_services_and_instances() -> None:
    async def story(get: Get, hub: EmbeddedRegistryHub) -> None:
        assert (await get("/v1/services")).json == []
        register(hub)
        version = {"version": "2.0.0", "topic": "orders.v2", "instances": 1, "ready": 1, "states": {"ready": 1}}
        assert (await get("/v1/services")).json == [{"name": "orders", "versions": [version]}]
        (instance,) = (await get("/v1/instances")).json
        assert list(instance) == [
            "id", "service", "version", "state", "lastSeen", "address", "inFlight", "capacity", "metadata",
        ]  # fmt: skip
        assert (await get("/v1/instances?service=orders")).json == [instance]
        assert (await get("/v1/instances?service=other")).json == []
        assert (await get("/v1/services/orders")).json == {
            "name": "orders",
            "versions": [version],
            "instances": [instance],
        }
        unknown = await get("/v1/services/other")
        assert (unknown.status, unknown.json["code"]) == (404, "unknown-service")

    with_control(story)


def test_queues_and_status() -> None:
    async def story(get: Get, hub: EmbeddedRegistryHub) -> None:
        found = (await get("/v1/queues")).json
        assert [(row["topic"], row["kind"], row["ready"], row["dead"]) for row in found] == [
            ("orders.v2", "call", 0, 0),
            ("orders.v2", "dead", 0, 0),
            ("orders.v2", "work", 0, 0),
        ]
        kinds = {row["kind"] for row in (await get("/v1/queues?all=true")).json}
        assert kinds == {"call", "dead", "delay", "lost", "reply", "work"}
        status = (await get("/v1/status")).json
        assert status["mesh"] == "shop"
        assert status["broker"] == {"publishing": True, "consuming": True, "fault": ""}

    with_control(story)


def test_calls_go_through_and_the_mesh_says_why_not() -> None:
    async def story(get: Get, hub: EmbeddedRegistryHub) -> None:
        register(hub)
        refused = await get("/v1/call/nobody/x")
        assert (refused.status, refused.json["code"]) == (404, "unknown-service")
        malformed = await get("/v1/call/Nobody/x")
        assert (malformed.status, malformed.json["code"]) == (400, "bad-address")
        late = await get("/v1/call/orders/x", **{"Meshq-Timeout": "50ms"})
        assert (late.status, late.json["code"]) == (504, "deadline")

    with_control(story)


def test_an_event_is_logged_from_when_that_was_asked_for() -> None:
    async def story(get: Get, _: EmbeddedRegistryHub) -> None:
        meant = {"Meshq-Api": "1"}
        assert (await get("/v1/logs/payments.settled@2", "PUT")).status == 403, "a web page could send that"
        made = await get("/v1/logs/payments.settled%402", "PUT", **meant)
        queue = "meshq.log.payments.settled.v2"
        assert (made.status, made.json) == (
            201,
            {"event": "payments.settled@2", "topic": "payments.settled.v2", "queue": queue},
        )
        assert (await get("/v1/logs/payments.settled@2", "PUT", **meant)).status == 200
        assert (await get("/v1/publish/payments.settled@2", "POST")).status == 202
        rows = (await get("/v1/queues?all=true")).json
        assert [(row["kind"], row["ready"]) for row in rows if row["queue"] == queue] == [("log", 1)]
        assert (await get("/v1/logs/Payments", "PUT", **meant)).status == 400
        assert (await get("/v1/logs/payments.settled", "GET", **meant)).status == 405

    with_control(story)


def test_events_are_published() -> None:
    async def story(get: Get, _: EmbeddedRegistryHub) -> None:
        told = await get("/v1/publish/payments.settled@2", "POST", **{"Meshq-Key": "a"})
        assert (told.status, told.json["status"], told.json["topic"]) == (202, "accepted", "payments.settled.v2")
        malformed = await get("/v1/publish/Payments", "POST")
        assert (malformed.status, malformed.json["code"]) == (400, "bad-address")
        assert (await get("/v1/publish/payments.settled")).status == 405
        foreign = await get("/v1/publish/payments.settled", "POST", Origin="http://evil.example")
        assert foreign.status == 403

    with_control(story)


@pytest.mark.parametrize(
    ("target", "method", "host", "headers", "status"),
    [
        ("/v1/services", "GET", "127.0.0.1:3590", {}, 200),
        ("/v1/services", "GET", "[::1]:3590", {}, 200),
        ("/v1/services", "GET", "localhost", {"Origin": "http://localhost:3590"}, 200),
        ("/v1/services", "GET", "evil.example", {}, 421),
        ("/v1/services", "GET", "orders.mesh", {}, 421),
        ("http://orders.mesh/", "GET", "orders.mesh", {}, 421),
        ("/v1/services", "GET", "localhost", {"Origin": "http://evil.example"}, 403),
        ("/v1/services", "GET", "localhost", {"Origin": "null"}, 403),
        ("/v1/call/orders/x", "POST", "localhost", {"Origin": "http://evil.example"}, 403),
        ("/v1/services", "DELETE", "localhost", {}, 405),
        ("/v1/nothing", "GET", "localhost", {}, 404),
        ("/", "GET", "localhost", {}, 404),
    ],
)
def test_who_may_ask_what(target: str, method: str, host: str, headers: dict[str, str], status: int) -> None:
    async def story(get: Get, hub: EmbeddedRegistryHub) -> None:
        assert (await get(target, method, host, **headers)).status == status

    with_control(story)


def test_a_registry_that_was_never_reached_is_said_and_queues_are_shown_all_the_same() -> None:
    async def story(get: Get, hub: EmbeddedRegistryHub) -> None:
        answer = await get("/v1/services")
        assert (answer.status, answer.json["code"]) == (503, "unavailable")
        assert "the registry is away" in answer.json["detail"]
        assert {row["topic"] for row in (await get("/v1/queues")).json} == {"orders.v2"}

    with_control(story, registry=AwayRegistry())


def test_bodies_are_json() -> None:
    async def story(get: Get, hub: EmbeddedRegistryHub) -> None:
        answer = await get("/v1/services")
        assert answer.content_type == "application/json"
        assert json.loads(answer.body) == []

    with_control(story)
