"""The registry's and the store's rigs on every Redis there is. On a single server the clients are a user with no more rights than
meshq/core/redis_acl.py says, so the suites prove that those are enough."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import pytest
import redis
import redis.asyncio

from meshq.core import redis_acl
from tests.contract.registry_rigs import TTL_MS, RedisRig
from tests.contract.store_rigs import RedisStoreRig
from tests.servers.redis import RedisDatabases
from tests.servers.redis_sets import RedisCluster, Sentinel

MESH = "test"
"""That the rigs' clients are of."""
USER, PASSWORD = "meshq-test", "p/ss@w:rd"
QUOTED = "p%2Fss%40w%3Ard"


def limited(url: str, mesh: str = MESH) -> str:
    """The URL for a user who has just the rights for this mesh."""
    with redis.Redis.from_url(url) as client:
        rules = redis_acl.rules(mesh)
        assert client.execute_command("ACL", "SETUSER", USER, "reset", "on", f">{PASSWORD}", *rules)
    return url.replace("://", f"://{USER}:{QUOTED}@", 1)


class On:
    """Clients at `url`, and whoever looks behind them at `servers`: the URL of each that has keys."""

    url: str
    servers: tuple[str, ...]

    def redis(self, server: str = "") -> Any:
        return redis.asyncio.Redis.from_url(server or self.servers[0], protocol=2, socket_timeout=None)


class RegistryOn(On, RedisRig):
    def __init__(self, url: str, *servers: str) -> None:
        RedisRig.__init__(self, url)
        self.servers = servers

    async def advance(self, ttls: float) -> None:
        await _wait(self.redis(), ttls * TTL_MS / 1000)

    async def lose_data(self) -> None:
        for server in self.servers:
            async with self.redis(server) as client:
                await client.flushdb()


class StoreOn(On, RedisStoreRig):
    def __init__(self, url: str, *servers: str) -> None:
        RedisStoreRig.__init__(self, url)
        self.servers = servers

    async def advance(self, seconds: float) -> None:
        await _wait(self.redis(), seconds)


async def _wait(client: Any, seconds: float) -> None:
    """Redis itself waits, on a list that stays empty: it is its clock that counts."""
    async with client:
        for n in range(100):
            try:
                await client.blpop([f"nothing comes here {n}"], timeout=seconds)
            except redis.ResponseError:  # another server of the cluster has it
                continue
            return


Rig = TypeVar("Rig", RegistryOn, StoreOn)


@contextmanager
def redis_rig(request: pytest.FixtureRequest, on: str, rig: type[Rig]) -> Iterator[Rig]:
    """On an empty Redis: "redis", "redis8", "redis cluster", "redis sentinel"."""
    if on == "redis cluster":
        cluster: RedisCluster = request.getfixturevalue("redis_cluster")
        cluster.empty()
        yield rig(cluster.url, *(node.url for node in cluster.nodes))
    elif on == "redis sentinel":
        sentinel: Sentinel = request.getfixturevalue("redis_sentinel")
        sentinel.empty()
        yield rig(sentinel.url, sentinel.master.url)
    else:
        server: RedisDatabases = request.getfixturevalue("redis_server" if on == "redis" else "redis8")
        url = server.new_database()
        yield rig(limited(url), url)
        server.empty(url)
