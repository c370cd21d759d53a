"""Connections inside one process: two linked ends of an asyncio transport, and the sidecar's HTTP server on them instead of sockets."""

import asyncio
from collections import deque
from typing import Any

from meshq.adapters.http_connection import Connection
from meshq.adapters.http_server import Limits, Server
from meshq.ports import HttpHandler

NEVER = 10.0**9
"""Seconds: a server in here looks at no time limits, which are for slow and dead clients."""
PORT = 3600


class End(asyncio.Transport):
    """One end. What is written is handed to the other end's protocol in the next turn of the loop, in order."""

    def __init__(self, protocol: asyncio.BaseProtocol) -> None:
        super().__init__({"sockname": ("127.0.0.1", PORT), "peername": ("127.0.0.1", PORT)})
        self.other: End
        self._protocol: Any = protocol
        self._loop = asyncio.get_running_loop()
        self._inbox: deque[bytes | None] = deque()
        """None: nothing more comes."""
        self._reads = True
        self._pumping = False
        self._closing = False

    # --- asyncio.Transport ----------------------------------------------------------------------------------------------------

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self._protocol = protocol

    def get_protocol(self) -> asyncio.BaseProtocol:
        found: asyncio.BaseProtocol = self._protocol
        return found

    def write(self, data: "bytes | bytearray | memoryview[Any]") -> None:
        if not self._closing:
            self.other.take(bytes(data))

    def write_eof(self) -> None:
        self.other.take(None)

    def can_write_eof(self) -> bool:
        return True

    def get_write_buffer_size(self) -> int:
        return 0

    def is_reading(self) -> bool:
        return self._reads

    def pause_reading(self) -> None:
        self._reads = False

    def resume_reading(self) -> None:
        self._reads = True
        self._wake()

    def is_closing(self) -> bool:
        return self._closing

    def close(self) -> None:
        if not self._closing:
            self.other.take(None)
            self._end(None)

    def abort(self) -> None:
        if not self._closing:
            self._end(None)
            self.other.reset()

    # --- from the other end ---------------------------------------------------------------------------------------------------

    def take(self, data: bytes | None) -> None:
        if not self._closing:
            self._inbox.append(data)
            self._wake()

    def reset(self) -> None:
        if not self._closing:
            self._end(ConnectionResetError("the other end is gone"))

    def _end(self, why: Exception | None) -> None:
        self._closing = True
        self._inbox.clear()
        self._loop.call_soon(self._protocol_lost, why)

    def _protocol_lost(self, why: Exception | None) -> None:
        self._protocol.connection_lost(why)

    def _wake(self) -> None:
        if not self._pumping:
            self._pumping = True
            self._loop.call_soon(self._pump)

    def _pump(self) -> None:
        self._pumping = False
        while self._inbox and self._reads and not self._closing:
            data = self._inbox.popleft()
            if data is not None:
                self._protocol.data_received(data)
            elif not self._protocol.eof_received():
                self.close()


def join(one: asyncio.BaseProtocol, other: asyncio.BaseProtocol) -> tuple[End, End]:
    """Connect two protocols. Returns their ends; both know of the connection."""
    ends = End(one), End(other)
    ends[0].other, ends[1].other = ends[1], ends[0]
    other.connection_made(ends[1])
    one.connection_made(ends[0])
    return ends


class MemoryServer(Server):
    """meshq.ports.HttpServer without a port. `connect` is what a client of it does."""

    def __init__(self, max_body: int) -> None:
        super().__init__(Limits(max_body=max_body, sweep_interval=NEVER))
        self._handler: HttpHandler | None = None

    async def listen(self, host: str, port: int, handler: HttpHandler) -> int:
        self._handler = handler
        return port

    def connect(self, client: asyncio.BaseProtocol) -> End:
        """The client's end. Raises ConnectionRefusedError."""
        if self._handler is None or self.closing:
            raise ConnectionRefusedError("the sidecar does not listen")
        return join(client, Connection(self, self._handler))[0]


class NoNames:
    """meshq.ports.NameServer of a mesh that nobody looks up by DNS."""

    async def listen(self, host: str, port: int) -> int:
        return port

    async def close(self) -> None:
        """Nothing is open."""
