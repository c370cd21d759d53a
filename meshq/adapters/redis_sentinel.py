"""Finding the master that Sentinels watch. It is asked for at every new connection, and a master that becomes a replica closes its
connections, so a failover is followed by itself."""

from functools import partial
from typing import Any

from redis.asyncio import Redis
from redis.asyncio.connection import ConnectionPool
from redis.asyncio.sentinel import MasterNotFoundError, SentinelConnectionPool, SentinelManagedConnection
from redis.exceptions import AuthenticationError, ConnectionError, NoPermissionError, ResponseError

from meshq.adapters.redis_asking import ask_all
from meshq.adapters.redis_client import Tls, TlsConnection, connection_options, server_pool
from meshq.adapters.redis_url import Address, RedisUrl

GRACE = 0.1
"""Seconds that the other Sentinels have after the first answered: the one that knows of the latest failover is right."""


def master_pool(url: RedisUrl, seconds: float, tls: Tls | None) -> ConnectionPool:
    options = connection_options(url.user, url.password, url.db, seconds)
    if tls is None:
        options["connection_class"] = _MasterConnection
    else:
        options |= {"connection_class": _MasterTlsConnection, "tls": tls}
    return SentinelConnectionPool(url.master, Sentinels(url, seconds, tls), **options)  # type: ignore[no-untyped-call]


class _MasterConnection(SentinelManagedConnection):
    async def on_connect_check_health(self, check_health: bool = True) -> None:
        """Ask also whether it is a master: a Sentinel that was cut off names one that is none any more."""
        await super().on_connect_check_health(check_health)
        await self.send_command("ROLE", check_health=False)
        try:
            role = await self.read_response()
        except NoPermissionError:
            return
        if role[0] != b"master":
            raise ConnectionError("the Sentinels name a server that is a replica now")


class _MasterTlsConnection(_MasterConnection, TlsConnection):
    pass


class Sentinels:
    """What redis-py's pool wants of its Sentinels."""

    def __init__(self, url: RedisUrl, seconds: float, tls: Tls | None) -> None:
        self._url = url
        self._seconds = seconds
        self._tls = tls

    async def discover_master(self, name: str) -> Address:
        """Raises MasterNotFoundError, and what asking them failed with."""
        asks = [partial(self._ask, host, name) for host in self._url.hosts]
        known = [answer for answer in await ask_all(asks, GRACE) if answer is not None]
        if not known:
            raise MasterNotFoundError(
                f"the Sentinels know of no master {name!r} that is up: check the name after the / of the URL"
            )
        latest = max(known, key=lambda state: int(state[b"config-epoch"]))
        return latest[b"ip"].decode(), int(latest[b"port"])

    async def _ask(self, host: Address, name: str) -> dict[bytes, bytes] | None:
        """None: it knows of none that is up."""
        url = self._url
        try:
            return await self._state(host, name, url.sentinel_user, url.sentinel_password)
        except AuthenticationError:
            if url.sentinel_password or not url.password:
                raise
            return await self._state(host, name, url.user, url.password)

    async def _state(self, host: Address, name: str, user: str, password: str) -> dict[bytes, bytes] | None:
        client = Redis.from_pool(server_pool(host, user, password, 0, self._seconds, self._tls))
        try:
            flat: list[Any] = await client.execute_command("SENTINEL", "MASTER", name)  # type: ignore[no-untyped-call]
        except ResponseError as error:
            if "No such master" in str(error):
                return None
            raise
        finally:
            await client.aclose()
        state = dict(zip(flat[::2], flat[1::2], strict=True))
        flags = state[b"flags"].split(b",")
        return None if b"s_down" in flags or b"o_down" in flags else state
