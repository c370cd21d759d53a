"""The HTTP/1.1 server that apps talk to. Everything happens in callbacks of one asyncio.Protocol a connection: no task and no
timer belongs to a request. One sweep a second, over all connections, looks at the time limits.

The parts, from the wire inwards: http_connection (one client), http_reading (bytes to requests), http_framing and
http_chunked (the strict grammar), http_writing (responses to bytes).
"""

import asyncio
import ssl
from typing import Any

from meshq.adapters.http_connection import Connection
from meshq.adapters.http_framing import Limits
from meshq.ports import HttpHandler, Successor

__all__ = ["Limits", "Server"]

TURNED_AWAY = 256
"""Connections over the limit that are told so at one time; more are cut off without a word."""
HANDSHAKE = 10.0
"""Seconds of TLS."""


class Server:
    """meshq.ports.HttpServer. One Server may listen on several addresses, each with its own handler; the limit on
    connections counts them all together. A handler is called with a whole request, inside the loop, and must not block."""

    def __init__(self, limits: Limits | None = None) -> None:
        self.limits = limits or Limits()
        self.closing = False
        self._listeners: list[asyncio.Server] = []
        self._connections: set[Connection | Successor] = set()
        self._sweeper: asyncio.TimerHandle | None = None
        self._all_gone = asyncio.Event()

    async def listen(self, host: str, port: int, handler: HttpHandler) -> int:
        return await self._listen(host, port, handler)

    async def listen_tls(self, host: str, port: int, handler: HttpHandler, tls: ssl.SSLContext) -> int:
        """As `listen`, for HTTPS. A client that is still at its handshake counts for no limit yet, and has HANDSHAKE for it."""
        return await self._listen(host, port, handler, ssl=tls, ssl_handshake_timeout=HANDSHAKE)

    async def _listen(self, host: str, port: int, handler: HttpHandler, **how: Any) -> int:
        loop = asyncio.get_running_loop()
        listener = await loop.create_server(lambda: Connection(self, handler), host, port, backlog=1024, **how)
        self._listeners.append(listener)
        return int(listener.sockets[0].getsockname()[1])

    async def close(self, timeout: float) -> None:
        self.closing = True
        for listener in self._listeners:
            listener.close()
        for connection in list(self._connections):
            connection.drain()
        if not await self._emptied(timeout):
            for connection in list(self._connections):
                connection.abort()
            await self._emptied(1.0)
        if self._sweeper is not None:
            self._sweeper.cancel()
            self._sweeper = None

    async def _emptied(self, timeout: float) -> bool:
        self._all_gone.clear()
        if self._connections:
            try:
                await asyncio.wait_for(self._all_gone.wait(), timeout)
            except TimeoutError:
                return False
        return True

    def now(self) -> float:
        return asyncio.get_running_loop().time()

    def opened(self, connection: Connection) -> None:
        count = len(self._connections)
        if count >= self.limits.max_connections + TURNED_AWAY:
            connection.abort()
            return
        self._connections.add(connection)
        if self._sweeper is None:
            self._sweeper = asyncio.get_running_loop().call_later(self.limits.sweep_interval, self._sweep)
        if count >= self.limits.max_connections:
            connection.refuse_entry()

    def succeeded(self, connection: Connection, by: Successor) -> None:
        self._connections.discard(connection)
        self._connections.add(by)
        by.ended(self.lost)

    def lost(self, connection: Connection | Successor) -> None:
        self._connections.discard(connection)
        if not self._connections:
            self._all_gone.set()

    def _sweep(self) -> None:
        now = self.now()
        for connection in list(self._connections):
            connection.sweep(now)
        # An idle process has nothing to wake up for.
        loop = asyncio.get_running_loop()
        self._sweeper = loop.call_later(self.limits.sweep_interval, self._sweep) if self._connections else None
