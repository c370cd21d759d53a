"""The HTTP/1.1 client that asks the local app, over connections that are kept alive. Callbacks only: a task exists just
while a new connection is made.

What may be repeated decides everything here. A request that never left is REFUSED: another instance may have it. One that
went out on a fresh connection and found no answer has an unknown outcome: BROKEN or TIMEOUT. One that was written into a
kept connection just as the app closed it is most likely unseen, but only most likely: it is repeated here, once, if its
method is idempotent. Idle connections are dropped sooner than apps do it, so that this stays rare.
"""

import asyncio
from collections.abc import Callable
from typing import cast

from meshq.adapters.http_response import ResponseReader
from meshq.core.http import Failed, Failure, HttpRequest, HttpResponse
from meshq.tasks import Tasks

_REPEATABLE = frozenset({b"GET", b"HEAD", b"PUT", b"DELETE", b"OPTIONS", b"TRACE"})
CONNECT_SECONDS = 5.0
"""Loopback connects at once or, with the app's backlog full, not at all."""
_JOINED = 64 * 1024
"""Bodies up to this size are copied behind their head, which is cheaper than two buffers."""

Done = Callable[[HttpResponse | Failed], None]


class _Call:
    """One request, from `request` to `done`."""

    __slots__ = ("_client", "_done", "_timer", "connection", "head", "request")

    def __init__(self, client: "Client", request: HttpRequest, head: bytes, done: Done) -> None:
        self.request = request
        self.head = head
        self.connection: _Connection | None = None
        self._client = client
        self._done: Done | None = done
        self._timer: asyncio.TimerHandle | None = None

    def start(self, loop: asyncio.AbstractEventLoop, timeout: float) -> None:
        self._timer = loop.call_later(timeout, self._expire)

    @property
    def finished(self) -> bool:
        return self._done is None

    def finish(self, outcome: HttpResponse | Failed) -> None:
        done, self._done = self._done, None
        if done is None:
            return
        if self._timer is not None:
            self._timer.cancel()
        self.connection = None
        done(outcome)

    def fail(self, failure: Failure, detail: str) -> None:
        self.finish(Failed(failure, detail))

    def cancel(self) -> None:
        self._abandon(Failed(Failure.CANCELLED, "nobody waits for the response any more"))

    def _expire(self) -> None:
        if self.connection is None:
            self._abandon(Failed(Failure.REFUSED, "the app did not accept the connection in time"))
        elif self.connection.reader.headers_complete:
            status = self.connection.reader.status
            self._abandon(Failed(Failure.TOO_LARGE, "the app's response has no end", status))
        else:
            self._abandon(Failed(Failure.TIMEOUT, "the app did not answer in time"))

    def _abandon(self, outcome: Failed) -> None:
        """The connection goes too: a late response must not be read as the next one's."""
        if self.finished:
            return
        if self.connection is not None:
            self.connection.abort()
        self.finish(outcome)


class _Connection(asyncio.Protocol):
    """One connection to the app; it carries one call at a time."""

    def __init__(self, client: "Client", max_response: int) -> None:
        self.reader = ResponseReader(max_response)
        self.idle_until = 0.0
        self._client = client
        self._transport: asyncio.Transport = cast(asyncio.Transport, None)
        self._call: _Call | None = None
        self._reused = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def send(self, call: _Call) -> None:
        self._call = call
        call.connection = self
        self.reader.expect(call.request.method)
        body = call.request.body
        if not body:
            self._transport.write(call.head)
        elif len(body) <= _JOINED:
            self._transport.write(call.head + body)
        else:
            self._transport.writelines([call.head, body])

    def data_received(self, data: bytes) -> None:
        if self._call is None:
            self.close()  # nobody asked for this
            return
        self.reader.feed(data)
        if self.reader.outcome is not None:
            self._finish()

    def eof_received(self) -> None:
        if self._call is not None and self.reader.begun:
            self.reader.at_eof()
            self._finish()

    def connection_lost(self, exc: Exception | None) -> None:
        self._client.lost(self)
        call = self._call
        if call is None:
            return
        self._call = None
        if self._reused and not self.reader.begun and call.request.method in _REPEATABLE:
            # Once only: the connection is a new one this time.
            call.connection = None
            self._client.connect(call)
            return
        reason = "broke the connection" if exc is not None else "closed the connection"
        state = "in the middle of its response" if self.reader.begun else "without a response"
        call.fail(Failure.BROKEN, f"the app {reason} {state}")

    def _finish(self) -> None:
        call, self._call = self._call, None
        outcome = self.reader.outcome
        assert call is not None
        assert outcome is not None
        unsent = self._transport.get_write_buffer_size()
        if self.reader.reusable and not unsent and not self._transport.is_closing():
            self._reused = True
            self._client.keep(self, self.reader.idle_seconds)
        else:
            self.close()
        call.finish(outcome)

    @property
    def usable(self) -> bool:
        return not self._transport.is_closing()

    def close(self) -> None:
        """Nothing is under way, save perhaps a request body that the app did not wait for."""
        self._client.leaving(self)
        if self._transport.get_write_buffer_size():
            self._transport.abort()
        else:
            self._transport.close()

    def abort(self) -> None:
        self._call = None
        self._transport.abort()

    def cancel(self) -> None:
        if self._call is not None:
            self._call.cancel()
        else:
            self.close()


class Client:
    """meshq.ports.HttpClient for the app at `host`:`port`.

    max_response: bytes of a response body; above it the outcome is TOO_LARGE.
    max_connections: open at once; a request that would need one more is REFUSED.
    idle_timeout: seconds a connection is kept unused. Keep it below what apps use (Node 5 s, gunicorn 2 s)."""

    def __init__(
        self, host: str, port: int, *, max_response: int, max_connections: int = 512, idle_timeout: float = 1.0
    ) -> None:
        self._host = host
        self._port = port
        self._max_response = max_response
        self._max_connections = max_connections
        self._idle_timeout = idle_timeout
        self._idle: list[_Connection] = []  # the last one in is the first one out
        self._open: set[_Connection] = set()
        self._leaving: set[_Connection] = set()
        """Closed by us, and not gone yet: the next request need not wait for that."""
        self._connecting: set[_Call] = set()
        self._tasks = Tasks()
        self._sweeper: asyncio.TimerHandle | None = None
        self._closed = False
        self._all_gone = asyncio.Event()

    def request(self, request: HttpRequest, timeout: float, done: Done) -> Callable[[], None]:
        """Send; see meshq.ports.HttpClient. `done` is never called before this returns."""
        loop = asyncio.get_running_loop()
        head = _head(request)
        call = _Call(self, request, head or b"", done)
        if head is None:
            loop.call_soon(call.fail, Failure.BROKEN, "the request has a target or a header that cannot be sent")
            return call.cancel
        connection = self._take_idle(loop.time())
        if connection is not None:
            call.start(loop, timeout)
            connection.send(call)
        elif self._closed:
            loop.call_soon(call.fail, Failure.REFUSED, "the client is closed")
        elif len(self._open) + len(self._connecting) >= self._max_connections:
            loop.call_soon(call.fail, Failure.REFUSED, f"all {self._max_connections} connections to the app are in use")
        else:
            call.start(loop, timeout)
            self.connect(call)
        return call.cancel

    async def close(self) -> None:
        """Cancel what runs and close every connection."""
        self._closed = True
        for call in list(self._connecting):
            call.cancel()
        for connection in list(self._open):
            connection.cancel()
        if self._sweeper is not None:
            self._sweeper.cancel()
        await self._tasks.close()
        if self._open or self._leaving:
            self._all_gone.clear()
            await self._all_gone.wait()

    # --- what calls and connections ask for ---

    def connect(self, call: _Call) -> None:
        if self._closed:
            call.fail(Failure.CANCELLED, "the client is closed")
            return
        self._connecting.add(call)
        self._tasks.start(self._connect(call), "connect to the app")

    async def _connect(self, call: _Call) -> None:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                _, connection = await loop.create_connection(
                    lambda: _Connection(self, self._max_response), self._host, self._port
                )
        except OSError as error:
            call.fail(Failure.REFUSED, f"cannot connect to the app on port {self._port}: {error.strerror or error}")
            return
        finally:
            self._connecting.discard(call)
        if not connection.usable:
            call.fail(Failure.REFUSED, "the app closed the connection as soon as it was made")
            return
        self._open.add(connection)
        if call.finished:
            self.keep(connection, None)
        else:
            connection.send(call)

    def leaving(self, connection: _Connection) -> None:
        if connection in self._open:
            self._open.remove(connection)
            self._leaving.add(connection)

    def lost(self, connection: _Connection) -> None:
        self._open.discard(connection)
        self._leaving.discard(connection)
        if connection in self._idle:
            self._idle.remove(connection)
        if not self._open and not self._leaving:
            self._all_gone.set()

    def keep(self, connection: _Connection, idle_seconds: float | None) -> None:
        """Put an idle connection by, for as long as we and the app keep such."""
        if self._closed:
            connection.close()
            return
        # Half of what the app says: its clock started earlier, and our request takes time to arrive.
        seconds = self._idle_timeout if idle_seconds is None else min(self._idle_timeout, idle_seconds / 2)
        loop = asyncio.get_running_loop()
        connection.idle_until = loop.time() + seconds
        self._idle.append(connection)
        if self._sweeper is None:
            self._sweeper = loop.call_later(self._idle_timeout, self._sweep)

    def _take_idle(self, now: float) -> _Connection | None:
        while self._idle:
            connection = self._idle.pop()
            if connection.idle_until > now and connection.usable:
                return connection
            connection.close()
        return None

    def _sweep(self) -> None:
        loop = asyncio.get_running_loop()
        now = loop.time()
        kept = [connection for connection in self._idle if connection.idle_until > now]
        for connection in self._idle:
            if connection.idle_until <= now:
                connection.close()
        self._idle = kept
        self._sweeper = loop.call_later(self._idle_timeout, self._sweep) if kept else None


def _head(request: HttpRequest) -> bytes | None:
    """The request's head on the wire; None where a line of it would not be one line."""
    method, target, headers, body = request
    lines = [b"%b %b HTTP/1.1\r\n" % (method, target)]
    lines += [b"%b: %b\r\n" % field for field in headers]
    if body is not None:
        lines.append(b"Content-Length: %d\r\n" % len(body))
    head = b"".join(lines)
    if head.count(b"\n") != len(lines) or head.count(b"\r") != len(lines) or b"\0" in head or b" " in target:
        return None
    return head + b"\r\n"
