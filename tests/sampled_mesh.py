"""A mesh of one process that a Sampler looks at, in virtual time: an embedded broker and registry, in which the test puts who is
there and what was sent, and either of which can be away."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from meshq.adapters.clock import ManualClock
from meshq.adapters.embedded_broker import EmbeddedHub
from meshq.adapters.embedded_registry import EmbeddedRegistryHub
from meshq.core import topology
from meshq.core.instances import Instance, Load, Snapshot, State
from meshq.core.names import parse_version
from meshq.core.policy import Policy
from meshq.core.reports import Report, Reported, Work
from meshq.ports import Publication, Published, QueueStats, Registry, RegistryAway
from meshq.signals.sampler import Sampler
from tests.virtual_time import run

TOPIC = "orders.v2"
SLOTS = 10


class AwayRegistry:
    """What a Sampler asks of `ports.Registry`, of one that can be away."""

    def __init__(self, registry: Registry) -> None:
        self.away = ""
        self._registry = registry

    async def snapshot(self) -> Snapshot:
        self._check()
        return await self._registry.snapshot()

    async def reports(self) -> Sequence[Reported]:
        self._check()
        return await self._registry.reports()

    async def woken(self, after: str, timeout: float) -> tuple[str, Sequence[str]]:
        self._check()
        return await self._registry.woken(after, timeout)

    def _check(self) -> None:
        if self.away:
            raise RegistryAway(self.away)


class SampledMesh:
    """Has the queues of `orders.v2`, and no instance."""

    def __init__(self, clock: ManualClock) -> None:
        self.clock = clock
        self.hub = EmbeddedHub(None, clock)
        self.registry = EmbeddedRegistryHub(clock)
        self.asked = AwayRegistry(self.registry.connect())
        self.broken: OSError | None = None
        """What the broker's statistics are instead."""
        self.held: asyncio.Event | None = None
        """They wait for it."""
        self._client = self.hub.connect("shop")
        self._instances: dict[str, int] = {}
        """Id -> generation."""

    async def open(self) -> None:
        await self._client.open()
        await self._client.declare(topology.base() + topology.service(TOPIC))

    def sampler(self, **options: Any) -> Sampler:
        return Sampler(self._list_queues, self.asked, self.clock, **options)  # type: ignore[arg-type]

    async def _list_queues(self) -> list[QueueStats]:
        if self.held is not None:
            await self.held.wait()
        if self.broken is not None:
            raise self.broken
        return self.hub.stats(self.hub.queue_names)

    async def send(self, count: int) -> None:
        """So many durable calls."""
        told = [asyncio.get_running_loop().create_future() for _ in range(count)]
        for number, future in enumerate(told):
            made = Publication(topology.CALLS, topology.work_key(TOPIC), b"x", str(number), "call")
            self._client.publish(made, future.set_result)
        assert set(await asyncio.gather(*told)) <= {Published.CONFIRMED}

    def register(self, ident: str, state: State = State.READY) -> None:
        version = parse_version("2.1.0")
        self._instances[ident] = self.registry.register(Instance("orders", ident, version, (2,), state))

    def report(self, ident: str, handled: int = 0, seconds: float = 0.1) -> None:
        """With a renewal: so many messages of so many seconds so far."""
        work: Mapping[str, Work] = {TOPIC: Work(handled * seconds, handled * seconds**2, handled, 0)}
        self.registry.renew("orders", ident, self._instances[ident], Load(0, SLOTS), Report(work, slots=SLOTS))

    def leave(self, ident: str) -> None:
        self.registry.deregister("orders", ident, self._instances.pop(ident))

    def scaled_by(self, policy: Policy) -> None:
        self.registry.put_policy("orders", policy)


def told(story: Callable[[SampledMesh], Awaitable[None]]) -> None:
    mesh = SampledMesh(ManualClock())

    async def inside() -> None:
        await mesh.open()
        try:
            await story(mesh)
        finally:
            await mesh.hub.close()

    run(mesh.clock, inside())
