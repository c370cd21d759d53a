"""Two ends of a link joined in memory: every byte between them passes by here, when the test says so."""

import asyncio
from collections.abc import Callable
from typing import Any

from meshq.core import link
from meshq.core.http import Failed, HttpRequest, HttpResponse
from meshq.core.link import FrameReader, Hello
from meshq.linking import GRANTED, Link, LinkExchange
from tests.doubles import turn

HIGH, LOW = 64 * 1024, 16 * 1024
"""Bytes unsent at which a protocol is told to pause writing, and to go on: asyncio's own."""

USUAL = Hello(GRANTED)
GET = HttpRequest(b"GET", b"/", [], None)


def post(body: bytes) -> HttpRequest:
    return HttpRequest(b"POST", b"/", [], body)


def ok(body: bytes = b"ok") -> HttpResponse:
    return HttpResponse(200, [], body)


class Wire(asyncio.Transport):
    """One end's transport. What it is given waits in `unsent` until `move` takes it to the other end."""

    def __init__(self) -> None:
        super().__init__()
        self.protocol: asyncio.Protocol = asyncio.Protocol()
        self.other: Wire = self
        self.unsent = bytearray()
        self.reading = True
        self.lost = False
        self._closing = False
        self._write_paused = False

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default

    def is_closing(self) -> bool:
        return self._closing

    def get_write_buffer_size(self) -> int:
        return len(self.unsent)

    def write(self, data: Any) -> None:
        assert not self.lost, "written to what is closed"
        self.unsent += data
        if len(self.unsent) > HIGH and not self._write_paused:
            self._write_paused = True
            self.protocol.pause_writing()

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def close(self) -> None:
        self._closing = True

    def abort(self) -> None:
        self._closing = True
        self.unsent.clear()

    def move(self, most: int = 2**30) -> bool:
        """Take up to so many bytes to the other end, or the end of the connection. Whether anything happened."""
        if self.lost:
            return False
        moved = bool(self.unsent) and (self.other.reading or self.other.is_closing())
        if moved:
            data = bytes(self.unsent[:most])
            del self.unsent[:most]
            if not self.other.is_closing():  # else the kernel throws it away
                self.other.protocol.data_received(data)
        if self._write_paused and len(self.unsent) <= LOW:
            self._write_paused = False
            self.protocol.resume_writing()
        if self._closing and not self.unsent:
            self._lose()
            moved = True
        return moved

    def _lose(self) -> None:
        self.lost = True
        self.protocol.connection_lost(None)
        if not self.other.lost:
            self.other.protocol.eof_received()
            self.other.close()


class Joined:
    """Two wires, an end at each; `left` and `right` are the protocols."""

    def __init__(self, left: asyncio.Protocol, right: asyncio.Protocol) -> None:
        self.wires = (Wire(), Wire())
        first, second = self.wires
        first.other, second.other = second, first
        for wire, protocol in zip(self.wires, (left, right), strict=True):
            wire.protocol = protocol
            protocol.connection_made(wire)

    async def settle(self) -> None:
        """Everything moves until nothing does."""
        while True:
            await turn()
            moved = [wire.move() for wire in self.wires]
            await turn()
            if not any(moved) and not any(wire.unsent and wire.other.reading for wire in self.wires):
                return


class Served:
    """What an end is asked, to be answered by the test."""

    def __init__(self) -> None:
        self.asked: list[LinkExchange] = []
        self.hung_up: list[int] = []

    def __call__(self, exchange: LinkExchange) -> None:
        self.asked.append(exchange)
        exchange.on_hangup(lambda: self.hung_up.append(exchange.number))


class Outcomes(list[HttpResponse | Failed]):
    """What `done` was called with."""

    def done(self) -> Callable[[HttpResponse | Failed], None]:
        """For one request: called again it fails."""
        called: list[None] = []

        def done(outcome: HttpResponse | Failed) -> None:
            assert not called, "done was called twice"
            called.append(None)
            self.append(outcome)

        return done


class Raw(asyncio.Protocol):
    """An end that says what the test says, and keeps what it hears."""

    def __init__(self, hello: Hello | None = USUAL) -> None:
        self.heard: list[list[Any]] = []
        self.ended = False
        self._hello = hello
        self._reader = FrameReader()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        if self._hello is not None:
            self.say(link.hello(self._hello))

    def say(self, *frames: bytes) -> None:
        self.transport.write(b"".join(frames))  # type: ignore[attr-defined]

    def data_received(self, data: bytes) -> None:
        self.heard += self._reader.feed(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self.ended = True

    def kinds(self) -> list[int]:
        return [frame[0] for frame in self.heard]


async def pair(
    one: Callable[[LinkExchange], None], two: Callable[[LinkExchange], None], *, right: int = GRANTED
) -> tuple[Link, Link, Joined]:
    """Two links that have greeted each other. What the right one is asked `two` gets; it grants `right`."""
    ends = (Link(one), Link(two, serves=True, granted=right))
    joined = Joined(*ends)
    await joined.settle()
    return *ends, joined
