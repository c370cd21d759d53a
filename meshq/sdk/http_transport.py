"""To the sidecar over HTTP/1.1, by h11: for sidecars that offer no link. One request at a time on a connection, connections kept."""

import asyncio
from collections import deque
from contextlib import suppress
from typing import Any
from weakref import WeakSet

import h11

from meshq.core.http import Headers, HttpRequest, HttpResponse
from meshq.sdk.problem import Problem
from meshq.sdk.reach import Reach
from meshq.sdk.transport import NotSent

OPEN_WITHIN = 5.0
MOST = 200
"""Connections at once; who comes then waits for one."""
IDLE_MOST = 30.0
"""Seconds after which a connection that was not used is not used again: the sidecar closes it after 60."""
CHUNK = 64 * 1024
MAX_FIELD_BYTES = 128 * 1024


class HttpWay:
    """transport.Way"""

    def __init__(self, reach: Reach) -> None:
        self._reach = reach
        self._idle: deque[_Connection] = deque()
        self._all: WeakSet[_Connection] = WeakSet()
        self._room = asyncio.Semaphore(MOST)
        self._closed = False

    async def open(self) -> None:
        self._idle.append(await self._new())

    async def _new(self) -> "_Connection":
        """Raises OSError."""
        connection = await _Connection.open(self._reach)
        self._all.add(connection)
        return connection

    @property
    def usable(self) -> bool:
        return not self._closed

    async def ask(self, request: HttpRequest, timeout: float) -> HttpResponse:
        try:
            async with asyncio.timeout(timeout), self._room:
                connection = await self._connection()
                try:
                    response = await connection.ask(request)
                except BaseException:
                    connection.abort()
                    raise
        except TimeoutError:
            raise Problem("deadline", f"the sidecar gave no answer within {timeout:g} s", by_mesh=True) from None
        if connection.reusable and not self._closed:
            self._idle.append(connection)
        else:
            connection.abort()
        return response

    async def _connection(self) -> "_Connection":
        now = asyncio.get_running_loop().time()
        while self._idle:
            connection = self._idle.pop()
            if connection.fresh(now):
                return connection
            connection.abort()
        try:
            return await self._new()
        except OSError as error:
            self._closed = True  # the sidecar is gone: it is waited for anew
            raise NotSent(str(error)) from error

    @property
    def descriptors(self) -> list[int]:
        return [each.descriptor for each in self._all if each.descriptor >= 0]

    async def close(self) -> None:
        self._closed = True
        while self._idle:
            self._idle.pop().abort()


class _Connection:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, reach: Reach) -> None:
        self._reader = reader
        self._writer = writer
        self._host = f"localhost:{reach.port}".encode()
        self._http = h11.Connection(h11.CLIENT, max_incomplete_event_size=MAX_FIELD_BYTES)
        self._used = 0.0

    @classmethod
    async def open(cls, reach: Reach) -> "_Connection":
        """Raises OSError."""
        try:
            async with asyncio.timeout(OPEN_WITHIN):
                return cls(*await asyncio.open_connection(reach.host, reach.port), reach)
        except TimeoutError:
            raise OSError(f"no connection within {OPEN_WITHIN:g} s") from None

    @property
    def descriptor(self) -> int:
        return int(self._writer.get_extra_info("socket").fileno())

    @property
    def reusable(self) -> bool:
        is_sent = self._writer.transport.get_write_buffer_size() == 0
        return is_sent and self._http.our_state is h11.IDLE and self._http.their_state is h11.IDLE

    def fresh(self, now: float) -> bool:
        if self._writer.transport.is_closing() or self._reader.at_eof():
            return False
        return not self._used or now - self._used < IDLE_MOST

    async def ask(self, request: HttpRequest) -> HttpResponse:
        """Raises NotSent, Problem."""
        try:
            self._writer.write(self._written(request))
            return await self._read()  # while it is being sent: one that is too large is answered before its end
        except h11.LocalProtocolError as error:
            raise ValueError(f"the request cannot be sent: {error}") from error
        except (OSError, EOFError, h11.RemoteProtocolError) as error:
            detail = (
                f"the connection to the sidecar broke before the answer came ({error}): what became of it is not known"
            )
            raise Problem("bad-gateway", detail, by_mesh=True) from error

    def _written(self, request: HttpRequest) -> bytes:
        fields: Headers = [(b"Host", self._host), *request.headers]
        if request.body is not None:
            fields.append((b"Content-Length", b"%d" % len(request.body)))
        head = h11.Request(method=request.method, target=request.target, headers=fields)
        parts = [self._http.send(head)]
        if request.body:
            parts.append(self._http.send(h11.Data(data=request.body)))
        parts.append(self._http.send(h11.EndOfMessage()))
        return b"".join(part for part in parts if part)

    async def _read(self) -> HttpResponse:
        status, headers, body = 0, [], bytearray()
        while True:
            event: Any = self._http.next_event()
            if event is h11.NEED_DATA:
                data = await self._reader.read(CHUNK)
                self._http.receive_data(data)
            elif isinstance(event, h11.Response):
                status, headers = event.status_code, list(event.headers.raw_items())
            elif isinstance(event, h11.Data):
                body += event.data
            elif isinstance(event, h11.EndOfMessage):
                self._used = asyncio.get_running_loop().time()
                if self._http.our_state is h11.DONE and self._http.their_state is h11.DONE:
                    self._http.start_next_cycle()
                return HttpResponse(status, headers, bytes(body))
            elif isinstance(event, h11.ConnectionClosed):
                raise EOFError("it was closed")

    def abort(self) -> None:
        with suppress(Exception):
            self._writer.transport.abort()
