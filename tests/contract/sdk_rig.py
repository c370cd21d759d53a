"""What the SDK's suite runs on: two sidecars, of `checkout`, which calls, and of `orders` (sdk_app.py), which is called; over the
embedded broker or over RabbitMQ and Redis. All of it lives on one event loop in a thread, because the tests' own loops come and go."""

import asyncio
import os
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, NamedTuple, TypeVar

import uvloop

from meshq import Mesh, ServiceView, SyncMesh, SyncTicket
from meshq.adapters import choose
from meshq.adapters.clock import SystemClock
from meshq.adapters.embedded_broker import EmbeddedHub
from meshq.adapters.embedded_registry import EmbeddedRegistryHub
from meshq.adapters.embedded_store import EmbeddedStoreHub
from meshq.control.dead import DeadLetters
from meshq.core import topology
from meshq.core.dead_views import Wanted
from meshq.core.instances import Snapshot
from meshq.ports import Broker, Clock, QueueStats, Registry, Store
from meshq.sending_handover import Handover
from meshq.settings import load, with_instance
from meshq_sidecar.app import Sidecar
from tests.contract.sdk_app import Held, Seen, orders
from tests.servers.processes import free_port

T = TypeVar("T")

WAYS = ("link", "http")
APIS = ("async", "sync")
TOPIC = "orders.v2"
SECONDS = 30


class Servers(NamedTuple):
    """Where the sidecars keep things: makes an adapter of each kind for a service."""

    broker: Callable[[str], Broker]
    registry: Callable[[], Registry]
    store: Callable[[], Store]
    close: Callable[[], Coroutine[Any, Any, None]]


def embedded(clock: Clock) -> Servers:
    hub, registry, store = EmbeddedHub(None, clock), EmbeddedRegistryHub(clock), EmbeddedStoreHub(clock)
    return Servers(hub.connect, registry.connect, store.connect, hub.close)


def servers_at(broker_url: str, registry_url: str, clock: Clock) -> Servers:
    async def close() -> None:
        """They stay."""

    return Servers(
        lambda service: choose.broker(broker_url, f"sdk {service}", service, clock, (None, None, None)),
        lambda: choose.registry(registry_url, "sdk", clock),
        lambda: choose.store(registry_url, "sdk", clock),
        close,
    )


class World:
    """Use: `with world(...)`. What it has is on its own loop; `run` has a coroutine run there."""

    def __init__(self, way: str, loop: asyncio.AbstractEventLoop, make: Callable[[Clock], Servers]) -> None:
        self.way = way
        self.seen = Seen()
        self.held = Held()
        self.urls = {service: f"http://127.0.0.1:{free_port()}" for service in ("checkout", "orders")}
        self._make = make
        self._loop = loop

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(SECONDS)

    @asynccontextmanager
    async def living(self) -> AsyncIterator[None]:
        clock = SystemClock()
        servers = self._make(clock)
        app_port = free_port()
        os.environ["PORT"] = str(app_port)
        sidecars = [
            await self._sidecar(servers, clock, "checkout", {}),
            await self._sidecar(
                servers, clock, "orders", {"MESHQ_APP_PORT": str(app_port)} if self.way == "http" else {}
            ),
        ]
        mesh, blocking = (
            Mesh(self.urls["orders"], link=self.way == "link"),
            SyncMesh(self.urls["orders"], link=self.way == "link"),
        )
        self.client = servers.broker("desk")
        await self.client.open()
        self.dead = await _dead_letters(self.client, clock)
        try:
            async with orders(mesh, blocking, self.seen, self.held).serving():
                async with Mesh(self.urls["checkout"]) as caller:
                    async for view in caller.watch("orders"):
                        if view.ready:
                            break
                yield
        finally:
            await asyncio.to_thread(blocking.close)
            for sidecar in sidecars:
                await sidecar.drain()
                await sidecar.stop()
            await self.client.close()
            await servers.close()

    async def _sidecar(self, servers: Servers, clock: Clock, service: str, more: dict[str, str]) -> Sidecar:
        environment = {
            "MESHQ_SERVICE": service,
            "MESHQ_SERVICE_VERSION": "2.0.0",
            "MESHQ_BROKER_URL": "embedded:",
            "MESHQ_REGISTRY_URL": "embedded:",
            "MESHQ_PORT": self.urls[service].rpartition(":")[2],
            "MESHQ_ADMIN_PORT": str(free_port()),
            "MESHQ_DNS_PORT": str(free_port()),
            "MESHQ_APP_CONCURRENCY": "64",
            "MESHQ_RETRY": "2:1s",
            "MESHQ_DRAIN_TIMEOUT": "5s",
            **more,
        }
        settings = with_instance(load(environment))
        sidecar = Sidecar(settings, servers.broker(service), servers.registry(), servers.store(), clock)
        await sidecar.start()
        return sidecar

    async def dead_letter(self, ident: str) -> dict[str, Any]:
        """What is said of the dead message, once it is there."""
        while True:
            for row in (await self.dead.rows(TOPIC, Wanted())).rows:
                if row["id"] == ident:
                    return row
            await asyncio.sleep(0.02)


async def _dead_letters(client: Broker, clock: Clock) -> DeadLetters:
    await client.declare(topology.shared() + topology.dead(TOPIC))

    async def picture() -> Snapshot:
        return Snapshot(1, {})

    async def listed() -> list[QueueStats]:
        return []

    handover = Handover(client, clock, lambda _: None)
    return DeadLetters(client, clock, handover.publish, picture, listed)


@contextmanager
def world(way: str, make: Callable[[Clock], Servers]) -> Iterator[World]:
    before = os.environ.get("PORT")
    loop = uvloop.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="world")
    thread.start()
    found = World(way, loop, make)
    living = found.living()
    try:
        found.run(living.__aenter__())
        try:
            yield found
        finally:
            found.held.release()
            found.run(living.__aexit__(None, None, None))
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()
        os.environ.pop("PORT")
        if before is not None:
            os.environ["PORT"] = before


# --- one suite over both ------------------------------------------------------------------------------------------------------


class Rig:
    """One world, and the API that the test uses. What `mesh` gives has the methods of Mesh, whichever it is behind them."""

    def __init__(self, world: World, api: str) -> None:
        self.world = world
        self.api = api

    @property
    def seen(self) -> Seen:
        return self.world.seen

    @asynccontextmanager
    async def mesh(self, service: str = "checkout") -> AsyncIterator[Any]:
        url, link = self.world.urls[service], self.world.way == "link"
        if self.api == "async":
            async with Mesh(url, link=link) as mesh:
                yield mesh
        else:
            with SyncMesh(url, link=link) as blocking:
                yield Blocking(blocking)
                await asyncio.to_thread(blocking.close)

    async def dead_letter(self, ident: str) -> dict[str, Any]:
        return await asyncio.to_thread(self.world.run, self.world.dead_letter(ident))


class Blocking:
    """SyncMesh, or what it gives, each call in a thread."""

    def __init__(self, inner: SyncMesh | SyncTicket) -> None:
        self._inner = inner

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._inner, name)
        if not callable(found):
            return found

        async def call(*arguments: Any, **more: Any) -> Any:
            result = await asyncio.to_thread(found, *arguments, **more)
            return Blocking(result) if isinstance(result, SyncTicket) else result

        return call

    def ticket(self, ident: str, returns: Any = Any) -> "Blocking":
        assert isinstance(self._inner, SyncMesh)
        return Blocking(self._inner.ticket(ident, returns))

    async def watch(self, service: str) -> AsyncIterator[ServiceView]:
        assert isinstance(self._inner, SyncMesh)
        changes = self._inner.watch(service)
        try:
            while True:
                yield await asyncio.to_thread(next, changes)
        finally:
            await asyncio.to_thread(changes.close)  # type: ignore[attr-defined]  # a generator
