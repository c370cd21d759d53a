"""Connections to Redis, whatever it is: one server, the master that Sentinels name, or a cluster.

Connections are made when they are used. What is asked is cut off by whoever asks, not by a timeout of the socket, which a blocking
read would need longer; and the owner of what failed tries again, not the library. A connection that broke while idle is replaced
before it is used.
"""

import asyncio
import ssl
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import redis.asyncio
from redis.asyncio.connection import Connection, ConnectionPool
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ReadOnlyError, ResponseError

from meshq.adapters.redis_url import Address, Kind, RedisUrl

Tls = Callable[[], ssl.SSLContext]
"""The context for the next connection: certificates may be renewed while we run."""
MOST_CONNECTIONS = 100
"""To one server."""


class Command(NamedTuple):
    key: str
    """One that it is about: in a cluster it decides which server is asked."""
    words: Sequence[Any]


class Link(Protocol):
    async def ask(self, commands: Sequence[Command]) -> list[Any]:
        """Send them together. Returns the answers in their order; where Redis refuses one, a ResponseError in its place. Raises
        what redis_faults.LOST names when a server is not there, and ReadOnlyError."""

    async def check(self) -> None:
        """Return if every server answers that is needed; raises as `ask` does."""

    async def rest(self) -> None:
        """Close the connections that nobody uses."""

    async def close(self) -> None: ...


def connect(url: RedisUrl, seconds: float, tls: Tls | None = None, *, single: bool = False) -> Link:
    """`seconds` is how long one attempt to connect may take. `single`: at most one connection to each server, so that one call waits
    for another. Without `tls`, a URL of TLS goes by the system's authorities."""
    secure = (tls or ssl.create_default_context) if url.tls else None
    match url.kind:
        case Kind.SENTINEL:
            from meshq.adapters.redis_sentinel import master_pool

            return ServerLink(master_pool(url, seconds, secure), single)
        case Kind.CLUSTER:
            from meshq.adapters.redis_cluster import ClusterLink

            return ClusterLink(url, seconds, secure, single)
        case Kind.SERVER:
            (address,) = url.hosts
            return ServerLink(server_pool(address, url.user, url.password, url.db, seconds, secure), single)


class ServerLink:
    """A Link to one server: the one that the pool connects to."""

    def __init__(self, pool: ConnectionPool, single: bool = False) -> None:
        self._redis = redis.asyncio.Redis.from_pool(pool)
        self._turn = asyncio.Semaphore(1 if single else MOST_CONNECTIONS)
        self._demoted = False
        """It was found to be a replica, and not yet to be the master."""

    async def ask(self, commands: Sequence[Command]) -> list[Any]:
        async with self._turn:
            pipe = self._redis.pipeline(transaction=False)
            for command in commands:
                pipe.execute_command(*command.words)
            answers: list[Any] = await pipe.execute(raise_on_error=False)
        for answer in answers:
            if isinstance(answer, ReadOnlyError):  # it was the master once: the name may lead to another one now
                self._demoted = True
                await self.rest()
                raise answer
        return answers

    async def check(self) -> None:
        (answer,) = await self.ask([Command("", ("ROLE" if self._demoted else "PING",))])
        if isinstance(answer, ResponseError):
            raise answer
        if self._demoted and answer[0] != b"master":
            await self.rest()
            raise ReadOnlyError("it is a replica")
        self._demoted = False

    async def rest(self) -> None:
        await self._redis.connection_pool.disconnect(inuse_connections=False)

    async def close(self) -> None:
        await self._redis.aclose()


class TlsConnection(Connection):
    def __init__(self, *, tls: Tls, **more: Any) -> None:
        self._tls = tls
        super().__init__(**more)

    def _connection_arguments(self) -> Mapping[str, Any]:
        return {**super()._connection_arguments(), "ssl": self._tls()}


def server_pool(address: Address, user: str, password: str, db: int, seconds: float, tls: Tls | None) -> ConnectionPool:
    host, port = address
    options = connection_options(user, password, db, seconds)
    if tls is not None:
        return ConnectionPool(connection_class=TlsConnection, host=host, port=port, tls=tls, **options)
    return ConnectionPool(host=host, port=port, **options)


def connection_options(user: str, password: str, db: int, seconds: float) -> dict[str, Any]:
    return {
        "username": user or None,
        "password": password or None,
        "db": db,
        "protocol": 2,
        "socket_timeout": None,
        "socket_connect_timeout": seconds,
        "retry": Retry(NoBackoff(), 0),
        "driver_info": None,  # it would tell the server its name, with a command more at every connection
    }
