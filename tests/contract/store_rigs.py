"""What the store suite runs on: clients of one store, and time that passes."""

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import redis.asyncio

from meshq.adapters.clock import ManualClock
from meshq.adapters.embedded_store import EmbeddedStoreHub
from meshq.adapters.redis_store import RedisStore
from meshq.core.keeping import Keeping
from meshq.ports import Store

SHORT = 0.3
"""Seconds: of leases and windows that are to end. Real time on Redis, so nothing is expected to be there still."""
LONG = 600.0
PATIENCE = 20.0
"""Seconds that an operation may take here: the machine may be busy."""


class StoreRig(ABC):
    """One store, empty at the start of the test. A test sets `keeping` before its first client."""

    def __init__(self) -> None:
        self.keeping = Keeping()
        self._clients: list[Store] = []

    async def connect(self) -> Store:
        client = self.new()
        self._clients.append(client)
        await client.open()
        return client

    async def close(self) -> None:
        for client in self._clients:
            await client.close()

    @abstractmethod
    def new(self) -> Store: ...
    @abstractmethod
    async def advance(self, seconds: float) -> None:
        """Let so much time pass."""


class EmbeddedStoreRig(StoreRig):
    def __init__(self, path: Path | None = None) -> None:
        super().__init__()
        self.clock = ManualClock()
        self._path = path
        self._hub: EmbeddedStoreHub | None = None

    def new(self) -> Store:
        if self._hub is None:
            self._hub = EmbeddedStoreHub(self.clock, self._path, keeping=self.keeping)
        return self._hub.connect()

    async def advance(self, seconds: float) -> None:
        self.clock.advance(seconds)

    async def close(self) -> None:
        await super().close()
        hub, self._hub = self._hub, None
        if hub is not None:
            await hub.close()


class RedisStoreRig(StoreRig):
    def __init__(self, url: str) -> None:
        super().__init__()
        self.url = url

    def new(self) -> Store:
        return RedisStore(self.url, "test", keeping=self.keeping, seconds=PATIENCE)

    async def advance(self, seconds: float) -> None:
        async with self.redis() as client:
            # Redis itself waits, on a list that stays empty: it is its clock that counts.
            await client.blpop(["nothing comes here"], timeout=seconds)

    def redis(self) -> Any:
        return redis.asyncio.Redis.from_url(self.url, protocol=2, socket_timeout=None)
