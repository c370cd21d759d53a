"""A control API over an embedded mesh of this process, with instances in it that the test registers."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

from meshq.adapters.clock import SystemClock
from meshq.adapters.embedded_broker import EmbeddedHub
from meshq.adapters.embedded_registry import EmbeddedRegistryHub
from meshq.adapters.metrics import PrometheusMetrics
from meshq.control import DOMAIN, SERVICE
from meshq.control.access import Access
from meshq.control.app import Control
from meshq.control.mesh import Mesh
from meshq.control.tokens import Tokens
from meshq.core import topology
from meshq.core.instances import Instance, Service, State
from meshq.core.names import parse_version
from meshq.ports import Broker, Publication, Published, QueueStats
from tests.cli_runs import Ran, meshq_at
from tests.http_tools import Answer, connected

SECRET, OLD_SECRET = "0123456789abcdef-new", "0123456789abcdef-old"
MEANT = {"Meshq_Api": "1"}


class Said(NamedTuple):
    status: int
    body: Any
    """JSON; None for none."""
    answer: Answer

    def field(self, name: str) -> str:
        return (self.answer.get(name.lower().encode()) or b"").decode()


class ControlMesh:
    def __init__(self, port: int, registry: EmbeddedRegistryHub, client: Broker) -> None:
        self.port = port
        self.registry = registry
        self.client = client

    def register(self, service: str, ident: str, version: str = "1.0.0", state: State = State.READY) -> int:
        """One with a sidecar. Returns its generation."""
        known = parse_version(version)
        return self.registry.register(Instance(service, ident, known, (known.major,), state, f"{ident}:3600"))

    def service(self, name: str) -> Service:
        return self.registry.snapshot().services[name]

    def instance(self, service: str, ident: str) -> Instance:
        (found,) = (i for i in self.service(service).instances if i.id == ident)
        return found

    async def put(self, queue: str) -> None:
        """A message into a queue of the calls exchange: `orders.v1.work`."""
        await self.publish(topology.CALLS, queue)

    async def publish(self, exchange: str, key: str) -> None:
        told: asyncio.Future[Published] = asyncio.get_running_loop().create_future()
        self.client.publish(Publication(exchange, key, b"x", "1", "call"), told.set_result)
        assert await told is Published.CONFIRMED

    async def queues(self, *names: str) -> list[str]:
        """Those of them that are there."""
        return [figures.queue for figures in await self.client.stats(names)]

    async def ask(self, method: str, target: str, body: Any = None, host: str = "localhost", **headers: str) -> Said:
        """`body` is JSON unless it is bytes. Header names with `_` for `-`."""
        data = b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
        lines = [f"{method} {target} HTTP/1.1", f"Host: {host}", f"Content-Length: {len(data)}"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        async with connected(self.port) as peer:
            peer.send("\r\n".join([*lines, "", ""]).encode() + data)
            answer = await peer.answer()
        is_json = (answer.get(b"content-type") or b"").endswith(b"json")
        return Said(answer.status, json.loads(answer.body) if is_json else None, answer)

    async def change(self, method: str, target: str, body: Any = None) -> Said:
        return await self.ask(method, target, body, **MEANT)

    async def meshq(self, *arguments: str, stdin: str = "") -> Ran:
        return await meshq_at(self.port, *arguments, stdin=stdin)


@asynccontextmanager
async def control_mesh(
    access: Access | None = None, secrets: tuple[str, ...] = (SECRET, OLD_SECRET), *, listing: bool = True
) -> AsyncIterator[ControlMesh]:
    clock = SystemClock()
    hub, registry = EmbeddedHub(None, clock), EmbeddedRegistryHub(clock)
    client = hub.connect("orders")
    await client.open()

    async def list_queues() -> list[QueueStats]:
        if not listing:
            raise OSError("the management API does not answer")
        return hub.stats(hub.queue_names)

    mesh = Mesh(SERVICE, DOMAIN, hub.connect(SERVICE), registry.connect(), clock, PrometheusMetrics(), list_queues)
    control = Control(mesh, dict, tokens=Tokens("shop", secrets), access=access)
    try:
        yield ControlMesh(await control.start(0), registry, client)
    finally:
        await control.close()
        await hub.close()


def told(
    story: Callable[[ControlMesh], Awaitable[None]],
    access: Access | None = None,
    secrets: tuple[str, ...] = (SECRET, OLD_SECRET),
    *,
    listing: bool = True,
) -> None:
    """Run a story about a new one; `listing`: its broker tells which queues there are."""

    async def run() -> None:
        async with control_mesh(access, secrets, listing=listing) as mesh:
            await story(mesh)

    asyncio.run(run())


async def soon(work: Coroutine[Any, Any, Any]) -> "asyncio.Task[Any]":
    """Started, and waiting for something by now or soon."""
    task = asyncio.ensure_future(work)
    await asyncio.sleep(0)
    return task
