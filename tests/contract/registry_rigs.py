"""What the registry suite runs on: clients of one registry with a short lease, and time that passes."""

from abc import ABC, abstractmethod
from typing import Any

import redis.asyncio

from meshq.adapters.clock import ManualClock
from meshq.adapters.embedded_registry import EmbeddedRegistryHub
from meshq.adapters.redis import RedisRegistry
from meshq.core.instances import Instance, State
from meshq.core.names import parse_version
from meshq.ports import Registry

TTL_MS = 400
"""Of the registries here, real or not: long enough to do several things before it has passed."""


class RegistryRig(ABC):
    """One registry, empty at the start of the test."""

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


def instance(ident: str = "a", version: str = "2.3.1", state: State = State.READY, **more: Any) -> Instance:
    """Of the service orders."""
    parsed = parse_version(version)
    return Instance(more.pop("service", "orders"), ident, parsed, more.pop("majors", (parsed.major,)), state, **more)
