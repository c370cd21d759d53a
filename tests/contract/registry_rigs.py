"""What the registry suite runs on: clients of one registry with a short lease, and time that passes."""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from typing import Any

import redis.asyncio

from meshq.adapters.clock import ManualClock
from meshq.adapters.embedded_registry import EmbeddedRegistryHub
from meshq.adapters.redis import RedisRegistry
from meshq.core.instances import Instance, Snapshot, State
from meshq.core.names import parse_version
from meshq.ports import Registry

TTL_MS = 400
"""Of the registries here, real or not: long enough to do several things before it has passed."""
LONG_MS = 120_000
"""Of an instance that is to live through the test without renewing."""
SECOND = 1000 / TTL_MS
"""In lease times."""
SUSPECT_WITHIN = 1 + SECOND
DOWN_WITHIN = 2 + SECOND
"""Lease times after the last renewal: INTERFACE part 6 says 16 s and 31 s at 15 s."""
STEP = 0.1


class RegistryRig(ABC):
    """One registry, empty at the start of the test."""

    many = 1000
    """Instances of a test of many."""

    def __init__(self) -> None:
        self._clients: list[Registry] = []

    async def connect(self) -> Registry:
        client = self.new()
        self._clients.append(client)
        await client.open()
        return client

    async def close(self) -> None:
        for client in self._clients:
            await client.close()

    @abstractmethod
    def new(self) -> Registry: ...
    @abstractmethod
    async def advance(self, ttls: float) -> None:
        """Let that many lease times pass."""

    @abstractmethod
    async def lose_data(self) -> None:
        """Empty the registry behind its clients' backs."""

    async def seen(self, reader: Registry, holds: Callable[[Snapshot], object], within: float) -> Snapshot:
        """The first picture that it holds of, as one sees it who follows every change, and lets so many lease times pass
        meanwhile (a little more, so that what is due then has happened)."""
        left = within + STEP
        while True:
            picture = await reader.snapshot()
            if holds(picture):
                return picture
            if await reader.changed(picture.revision, 0) != picture.revision:
                continue
            assert left > 0, f"not seen within {within:g} lease times: {picture}"
            await self.advance(STEP)
            left -= STEP


class EmbeddedRegistryRig(RegistryRig):
    def __init__(self) -> None:
        super().__init__()
        self._clock = ManualClock()
        self._hub = EmbeddedRegistryHub(self._clock, ttl_ms=TTL_MS)

    def new(self) -> Registry:
        return self._hub.connect()

    async def advance(self, ttls: float) -> None:
        self._clock.advance(ttls * TTL_MS / 1000)
        self._hub.tick()

    async def lose_data(self) -> None:
        self._hub.clear()
        self._clock.advance(0.001)


class RedisRig(RegistryRig):
    def __init__(self, url: str) -> None:
        super().__init__()
        self.url = url

    def new(self) -> Registry:
        return RedisRegistry(self.url, "test", ttl_ms=TTL_MS)

    async def advance(self, ttls: float) -> None:
        async with self.redis() as client:
            # Redis itself waits, on a list that stays empty: it is its clock that counts.
            await client.blpop(["nothing comes here"], timeout=ttls * TTL_MS / 1000)

    async def lose_data(self) -> None:
        async with self.redis() as client:
            await client.flushdb()

    def redis(self) -> Any:
        return redis.asyncio.Redis.from_url(self.url, protocol=2, socket_timeout=None)


async def waiting(change: Awaitable[int]) -> asyncio.Future[int]:
    """`change`, begun: it waits already."""
    task = asyncio.ensure_future(change)
    done, _ = await asyncio.wait([task], timeout=0.05)
    assert not done, "it did not wait"
    return task


def only(snapshot: Snapshot) -> Instance:
    """The one instance of orders."""
    (found,) = snapshot.services["orders"].instances
    return found


def majors(snapshot: Snapshot) -> dict[int, str]:
    return {major: str(version) for major, version in snapshot.services["orders"].majors.items()}


def instance(ident: str = "a", version: str = "2.3.1", state: State = State.READY, **more: Any) -> Instance:
    """Of the service orders."""
    parsed = parse_version(version)
    return Instance(more.pop("service", "orders"), ident, parsed, more.pop("majors", (parsed.major,)), state, **more)
