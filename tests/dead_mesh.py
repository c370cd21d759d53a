"""A control API over an embedded mesh of this process, with dead letters in it."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from meshq.adapters.clock import SystemClock
from meshq.adapters.embedded_broker import EmbeddedHub
from meshq.adapters.embedded_registry import EmbeddedRegistryHub
from meshq.adapters.metrics import PrometheusMetrics
from meshq.control import DOMAIN, SERVICE
from meshq.control.app import Control
from meshq.control.mesh import Mesh
from meshq.core import dead, topology
from meshq.core.message import DeadLetter, Request, encode_dead_letter, encode_request
from meshq.ports import Broker, Publication, Published, QueueStats
from tests.cli_runs import Ran, meshq_at
from tests.http_tools import Answer, connected

ORDERS, BILLING = "orders.v2", "billing.v1"


class DeadMesh:
    """The topics orders.v2 and billing.v1, whose apps take nothing."""

    def __init__(self, port: int, client: Broker, now_ms: int) -> None:
        self.port = port
        self.client = client
        self.now_ms = now_ms

    async def bury(self, number: int, reason: str = dead.REJECTED, topic: str = ORDERS, **more: Any) -> None:
        """A letter that died `number` minutes ago."""
        request = Request(
            f"{number:032x}", "POST", b"/orders/%d" % number, [(b"X-Number", b"1")], b"%d" % number, "shop"
        )
        request = request._replace(accepted_ms=self.now_ms, **more)
        record = DeadLetter(
            request.id, reason, "the test says so", topology.work_queue(topic), self.now_ms - number * 60_000,
            "orders/2.0.0/host-a", encode_request(request), 422, b"no such article", 1, "shop",
        )  # fmt: skip
        told: asyncio.Future[Published] = asyncio.get_running_loop().create_future()
        queue = topology.dead_queue(topic)
        self.client.publish(
            Publication(topology.DEAD, queue, encode_dead_letter(record), request.id, "dead"), told.set_result
        )
        assert await told is Published.CONFIRMED

    async def ready(self, queue: str) -> int | None:
        (figures,) = await self.client.stats([queue])
        return figures.ready

    async def ask(self, method: str, target: str, body: Any = None, **headers: str) -> Answer:
        data = b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
        lines = [f"{method} {target} HTTP/1.1", "Host: localhost", f"Content-Length: {len(data)}"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        async with connected(self.port) as peer:
            peer.send("\r\n".join([*lines, "", ""]).encode() + data)
            return await peer.answer()

    async def meshq(self, *arguments: str) -> Ran:
        return await meshq_at(self.port, *arguments)


@asynccontextmanager
async def dead_mesh() -> AsyncIterator[DeadMesh]:
    clock = SystemClock()
    hub, registry = EmbeddedHub(None, clock), EmbeddedRegistryHub(clock)
    client = hub.connect("orders")
    await client.open()
    await client.declare(topology.service(ORDERS) + topology.service(BILLING))

    async def list_queues() -> list[QueueStats]:
        return hub.stats(hub.queue_names)

    mesh = Mesh(SERVICE, DOMAIN, hub.connect(SERVICE), registry.connect(), clock, PrometheusMetrics(), list_queues)
    control = Control(mesh, dict)
    try:
        yield DeadMesh(await control.start(0), client, clock.mesh_ms())
    finally:
        await control.close()
        await hub.close()
