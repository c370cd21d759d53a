"""What the sidecar asks of this app over HTTP/1.1, by h11: for sidecars that offer no link."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

import h11

from meshq.core.http import Headers, HttpRequest, HttpResponse, header
from meshq.sdk.bodies import MAX_BODY

logger = logging.getLogger(__name__)

Respond = Callable[[HttpRequest], Awaitable[HttpResponse]]

CHUNK = 64 * 1024
MAX_FIELD_BYTES = 128 * 1024
IDLE = 75.0
"""Seconds until an idle connection is closed; the sidecar keeps them for a shorter time."""
_FRAMING = frozenset({b"content-length", b"transfer-encoding", b"connection"})


class HttpServing:
    def __init__(self, respond: Respond) -> None:
        self._respond = respond
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()
        self._closing = False

    async def listen(self, host: str, port: int) -> int:
        """Returns the port. Raises OSError when it is taken."""
        self._server = await asyncio.start_server(self._accept, host, port, backlog=512)
        return int(self._server.sockets[0].getsockname()[1])

    async def close(self, timeout: float) -> None:
        """Take no new connection, answer what was asked, at most `timeout` seconds."""
        self._closing = True
        if self._server is not None:
            self._server.close()
        busy = [task for task in self._connections if not getattr(task, "idle", False)]
        if busy:
            logger.info("%d requests finish", len(busy))
            await asyncio.wait(busy, timeout=timeout)
        for task in list(self._connections):
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        try:
            await _Connection(reader, writer, self._respond, lambda: self._closing).run()
        except (OSError, EOFError, h11.RemoteProtocolError) as error:
            logger.debug("a connection ended: %s", error)
        except asyncio.CancelledError:
            pass
        finally:
            self._connections.discard(task)
            writer.transport.abort() if self._closing else writer.close()


class _Connection:
    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, respond: Respond, closing: Callable[[], bool]
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._respond = respond
        self._closing = closing
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_FIELD_BYTES)

    async def run(self) -> None:
        while True:
            request = await self._request()
            if request is None:
                return
            await self._send(await self._respond(request), request)
            if self._http.our_state is not h11.DONE or self._http.their_state is not h11.DONE:
                return
            self._http.start_next_cycle()

    async def _request(self) -> HttpRequest | None:
        head: h11.Request | None = None
        body = bytearray()
        framed = False
        while True:
            event: Any = self._http.next_event()
            if event is h11.NEED_DATA:
                if self._http.they_are_waiting_for_100_continue:
                    self._writer.write(self._http.send(h11.InformationalResponse(status_code=100, headers=[])) or b"")
                self._idle(head is None)
                async with asyncio.timeout(IDLE):
                    data = await self._reader.read(CHUNK)
                self._idle(False)
                self._http.receive_data(data)
            elif isinstance(event, h11.Request):
                head = event
                framed = any(name in (b"content-length", b"transfer-encoding") for name, _ in event.headers)
            elif isinstance(event, h11.Data):
                body += event.data
                if len(body) > MAX_BODY:
                    raise EOFError("a body that is too large")
            elif isinstance(event, h11.EndOfMessage):
                assert head is not None
                fields: Headers = list(head.headers.raw_items())
                return HttpRequest(head.method, head.target, fields, bytes(body) if framed else None)
            else:  # the other end closed
                return None

    def _idle(self, idle: bool) -> None:
        """Whether this connection waits for a request: then nothing is lost with it."""
        if idle and self._closing():
            raise EOFError("closing")
        task: Any = asyncio.current_task()
        task.idle = idle

    async def _send(self, response: HttpResponse, request: HttpRequest) -> None:
        fields = [field for field in response.headers if field[0].lower() not in _FRAMING]
        has_body = response.status not in (204, 304)
        if has_body:
            # Of an answer to HEAD, whose body is not there, the handler knows the length.
            said = header(response.headers, b"content-length") if request.method == b"HEAD" else None
            fields.append((b"Content-Length", said or b"%d" % len(response.body)))
        if self._closing():
            fields.append((b"Connection", b"close"))
        try:
            parts = [self._http.send(h11.Response(status_code=response.status, headers=fields))]
        except h11.LocalProtocolError as error:
            logger.error("the answer cannot be sent: %s", error)
            raise EOFError(str(error)) from error
        if has_body and response.body and request.method != b"HEAD":
            parts.append(self._http.send(h11.Data(data=response.body)))
        parts.append(self._http.send(h11.EndOfMessage()))
        self._writer.write(b"".join(part for part in parts if part))
        await self._writer.drain()


__all__ = ["HttpServing"]
