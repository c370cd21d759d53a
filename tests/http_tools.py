"""What the HTTP tests share: both event loops, a client that sees every byte, a server under test, a transport in memory."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, NamedTuple, TypeVar

import uvloop

from meshq.adapters.http_connection import Connection
from meshq.adapters.http_server import Limits, Server
from meshq.core.http import HttpResponse, header
from meshq.ports import Exchange, HttpHandler

LOOPS: dict[str, Callable[..., Any]] = {"asyncio": asyncio.run, "uvloop": uvloop.run}
T = TypeVar("T")
PATIENCE = 20.0
"""Seconds after which a test that waits for something has failed."""
QUICK = Limits(
    header_timeout=0.3, body_grace=0.3, body_rate=10_000, idle_timeout=0.3, sweep_interval=0.02, max_connections=2000
)


async def within(awaitable: Awaitable[T], seconds: float = PATIENCE) -> T:
    return await asyncio.wait_for(awaitable, seconds)


class Answer(NamedTuple):
    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes

    def get(self, name: bytes) -> bytes | None:
        return header(self.headers, name)


class Peer:
    """One end of a connection, on which nothing is hidden."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    async def head(self) -> tuple[bytes, list[tuple[bytes, bytes]]]:
        """The first line and the fields of the next message."""
        head = await within(self.reader.readuntil(b"\r\n\r\n"))
        first, *lines = head[:-4].split(b"\r\n")
        fields = [line.partition(b": ") for line in lines]
        return first, [(name, value) for name, _, value in fields]

    async def answer(self, method: bytes = b"GET") -> Answer:
        """The next response, read as the request's `method` asks."""
        first, headers = await self.head()
        status = int(first.split(b" ")[1])
        length = int(header(headers, b"content-length") or b"0")
        if method == b"HEAD" or status in (100, 204, 304):
            length = 0
        return Answer(status, headers, await within(self.reader.readexactly(length)))

    async def rest(self) -> bytes:
        """Everything until the other end closes."""
        return await within(self.reader.read())

    async def request(self) -> tuple[bytes, list[tuple[bytes, bytes]], bytes]:
        """The next request: its line, its fields and its body."""
        first, headers = await self.head()
        length = int(header(headers, b"content-length") or b"0")
        return first, headers, await within(self.reader.readexactly(length))

    async def close(self) -> None:
        self.writer.close()
        with contextlib.suppress(OSError):
            await within(self.writer.wait_closed())

    def reset(self) -> None:
        """Go without a goodbye."""
        self.writer.transport.abort()


@contextlib.asynccontextmanager
async def connected(port: int, host: str = "127.0.0.1") -> AsyncIterator[Peer]:
    peer = Peer(*await within(asyncio.open_connection(host, port)))
    try:
        yield peer
    finally:
        await peer.close()


@contextlib.asynccontextmanager
async def serving(handler: HttpHandler, limits: Limits | None = None) -> AsyncIterator[tuple[Server, int]]:
    """A server under test and its port."""
    server = Server(limits)
    port = await server.listen("127.0.0.1", 0, handler)
    try:
        yield server, port
    finally:
        await server.close(0)


def echo(exchange: Exchange) -> None:
    """Answer with what was asked."""
    request = exchange.request
    headers = [(b"Method", request.method), (b"Target", request.target)]
    exchange.respond(HttpResponse(200, headers, request.body or b""))


class Handler:
    """Keeps every exchange for the test to answer."""

    def __init__(self) -> None:
        self.exchanges: list[Exchange] = []
        self.hangups: list[bytes] = []
        self._changed = asyncio.Event()

    def __call__(self, exchange: Exchange) -> None:
        self.exchanges.append(exchange)
        exchange.on_hangup(lambda: self._hung_up(exchange.request.target))
        self._changed.set()

    def _hung_up(self, target: bytes) -> None:
        self.hangups.append(target)
        self._changed.set()

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until what was noted makes `condition` true."""
        async with asyncio.timeout(PATIENCE):
            while not condition():
                self._changed.clear()
                await self._changed.wait()

    async def asked(self, count: int) -> None:
        await self.until(lambda: len(self.exchanges) >= count)

    def answer(self, index: int, body: bytes = b"ok") -> None:
        self.exchanges[index].respond(HttpResponse(200, [], body))


class MemoryTransport(asyncio.Transport):
    """A transport that keeps what is written and never blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.written = bytearray()
        self.closed = False
        self.reading = True

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return ("127.0.0.1", 3600) if name == "sockname" else default

    def write(self, data: Any) -> None:
        assert not self.closed, "written after the close"
        self.written += data

    def writelines(self, list_of_data: Any) -> None:
        self.write(b"".join(list_of_data))

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        pass

    def get_write_buffer_size(self) -> int:
        return 0

    def is_closing(self) -> bool:
        return self.closed

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def close(self) -> None:
        self.closed = True

    def abort(self) -> None:
        self.closed = True


class MemoryOwner:
    """A server without a socket: what `Connection` needs of one."""

    def __init__(self, limits: Limits | None = None) -> None:
        self.limits = limits or Limits()
        self.closing = False
        self.time = 0.0

    def now(self) -> float:
        return self.time

    def opened(self, connection: Connection) -> None:
        pass

    def lost(self, connection: Connection) -> None:
        pass


def in_memory(handler: HttpHandler, limits: Limits | None = None) -> tuple[Connection, MemoryTransport]:
    """A connection fed by hand."""
    connection = Connection(MemoryOwner(limits), handler)
    transport = MemoryTransport()
    connection.connection_made(transport)
    return connection, transport
