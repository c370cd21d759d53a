"""What FastConnection stands on in pika, and what it makes of a stream, however that is cut."""

import asyncio
import inspect
import logging
import tomllib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pika
import pika.channel
import pika.connection
import pika.exceptions
import pika.frame
import pytest
from pika import spec
from pika.adapters.asyncio_connection import AsyncioConnection, _AsyncioIOServicesAdapter
from pika.adapters.base_connection import BaseConnection

from meshq.adapters import amqp_frames as frames
from meshq.adapters.amqp_connection import FastConnection

SECONDS = 10


# --- what an upgrade of pika may move ------------------------------------------------------------------------------------------


def test_pika_is_the_version_that_this_was_written_for() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    assert f"pika=={version('pika')}" in project["optional-dependencies"]["sidecar"]


@pytest.mark.parametrize(
    ("owner", "name", "arguments"),
    [
        (pika.connection.Connection, "_on_data_available", ["self", "data_in"]),
        (pika.connection.Connection, "_terminate_stream", ["self", "error"]),
        (BaseConnection, "_adapter_emit_data", ["self", "data"]),
        (BaseConnection, "_proto_connection_lost", ["self", "error"]),
        (BaseConnection, "_proto_data_received", ["self", "data"]),
        (
            _AsyncioIOServicesAdapter,
            "create_streaming_connection",
            ["self", "protocol_factory", "sock", "on_done", "ssl_context", "server_hostname"],
        ),
        (_AsyncioIOServicesAdapter, "get_native_ioloop", ["self"]),
    ],
)
def test_the_methods_that_are_overridden_and_called_are_there(owner: type, name: str, arguments: list[str]) -> None:
    assert list(inspect.signature(getattr(owner, name)).parameters) == arguments


def test_nothing_between_pika_and_us_overrides_them() -> None:
    for name in ("_on_data_available", "_adapter_emit_data"):
        assert name not in vars(AsyncioConnection)
    assert "_on_data_available" not in vars(BaseConnection)


@pytest.mark.parametrize(
    ("function", "uses"),
    [
        (BaseConnection._proto_data_received, "self._on_data_available(data)"),
        (BaseConnection._proto_connection_lost, "self._got_eof"),
        (BaseConnection._proto_connection_made, "self._transport = transport"),
        (BaseConnection._adapter_emit_data, "self._transport.write(data)"),
        (pika.connection.Connection._terminate_stream, "self._error = error"),
        (pika.connection.Connection._close_channels, "self._channels[channel_number]"),
        (pika.channel.Channel.close, "for consumer_tag in list(self._consumers.keys())"),
        (pika.connection.Connection._trim_frame_buffer, "self.bytes_received += byte_count"),
        (pika.connection.Connection._output_marshaled_frames, "self.bytes_sent += len(marshaled_frame)"),
    ],
)
def test_pika_uses_the_same_names_as_we_do(function: Callable[..., Any], uses: str) -> None:
    assert uses in inspect.getsource(function)


# --- a stream --------------------------------------------------------------------------------------------------------------------


class Scripted(asyncio.Protocol):
    """A broker that says yes to a connection and then nothing more."""

    def __init__(self) -> None:
        self.received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self.received += data
        if self.received.startswith(b"AMQP") and len(self.received) >= 8:
            self.received = self.received[8:]
            self._say(spec.Connection.Start(0, 9, {"capabilities": {}}, "PLAIN", "en_US"))
        while self.received:
            size, frame = pika.frame.decode_frame(self.received)
            if frame is None:
                return
            self.received = self.received[size:]
            match frame.method:
                case spec.Connection.StartOk():
                    self._say(spec.Connection.Tune(2047, 131072, 60))
                case spec.Connection.Open():
                    self._say(spec.Connection.OpenOk())

    def _say(self, method: Any) -> None:
        self._transport.write(pika.frame.Method(0, method).marshal())  # type: ignore[attr-defined]


class Feed:
    """A connection, and what it made of what was fed to it."""

    def __init__(self, connection: FastConnection, closed: "asyncio.Future[BaseException]") -> None:
        self.connection = connection
        self.closed = closed
        self.seen: list[tuple[Any, ...]] = []
        connection.on_deliver[1] = lambda *what: self.seen.append(("deliver", *what))
        connection.on_return[2] = lambda *what: self.seen.append(("return", *what))
        connection.on_confirm[2] = lambda *what: self.seen.append(("confirm", *what))

    def feed(self, *pieces: bytes) -> list[tuple[Any, ...]]:
        before = self.connection.bytes_received
        for piece in pieces:
            self.connection._on_data_available(piece)
        self.received = self.connection.bytes_received - before
        seen, self.seen = self.seen, []
        return seen


@asynccontextmanager
async def connected() -> AsyncIterator[Feed]:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Scripted, "127.0.0.1", 0)
    opened: asyncio.Future[None] = loop.create_future()
    closed: asyncio.Future[BaseException] = loop.create_future()
    parameters = pika.ConnectionParameters("127.0.0.1", server.sockets[0].getsockname()[1], heartbeat=60)
    connection = FastConnection(parameters, lambda: opened.set_result(None), closed.set_result)
    try:
        async with asyncio.timeout(SECONDS):
            await opened
            yield Feed(connection, closed)
            if not closed.done():
                connection._terminate_stream(pika.exceptions.StreamLostError("the test is over"))
            await closed
    finally:
        server.close()
        await server.wait_closed()


def method(channel: int, what: Any) -> bytes:
    return pika.frame.Method(channel, what).marshal()


def message(channel: int, what: Any, *bodies: bytes) -> bytes:
    properties = spec.BasicProperties(content_type="text/plain", message_id="m1", headers={"a": 1})
    header = pika.frame.Header(channel, sum(map(len, bodies)), properties).marshal()
    return b"".join([method(channel, what), header, *(pika.frame.Body(channel, body).marshal() for body in bodies)])


DELIVER = spec.Basic.Deliver("tag", 7, True, "meshq.calls", "orders.v1.call")
RETURN = spec.Basic.Return(312, "NO_ROUTE", "meshq.calls", "nobody.v1.call")
HEARTBEAT = pika.frame.Heartbeat().marshal()
STREAM = b"".join(
    [
        message(1, DELIVER, b"one body"),
        HEARTBEAT,
        message(1, spec.Basic.Deliver("tag", 8, False, "", ""), b"in ", b"several ", b"pieces \xce\x01AMQP"),
        method(2, spec.Basic.Ack(5, True)),
        message(1, spec.Basic.Deliver("tag", 9, False, "", "")),
        message(2, RETURN, b"back"),
        method(2, spec.Basic.Nack(6, False)),
        HEARTBEAT,
    ]
)


def test_a_stream_is_read_the_same_however_it_is_cut() -> None:
    async def test() -> None:
        async with connected() as feed:
            whole = feed.feed(STREAM)
            assert feed.received == len(STREAM)
            assert [what[0] for what in whole] == ["deliver", "deliver", "confirm", "deliver", "return", "confirm"]
            assert [(w[1], w[2], w[4]) for w in whole if w[0] == "deliver"] == [
                (7, True, b"one body"),
                (8, False, b"in several pieces \xce\x01AMQP"),
                (9, False, b""),
            ]
            assert [w[1:] for w in whole if w[0] == "confirm"] == [(5, True, True), (6, False, False)]
            assert frames.read_header(whole[4][2])[1] == frames.Properties("text/plain", message_id="m1")
            for at in range(1, len(STREAM)):
                assert feed.feed(STREAM[:at], STREAM[at:]) == whole
            assert feed.feed(*(STREAM[at : at + 1] for at in range(len(STREAM)))) == whole
            assert feed.received == len(STREAM)

    asyncio.run(test())


def test_messages_of_two_channels_may_be_mixed() -> None:
    async def test() -> None:
        async with connected() as feed:
            one, other = message(1, DELIVER, b"a", b"b"), message(2, RETURN, b"c")
            cut = len(method(1, DELIVER))
            assert [what[0] for what in feed.feed(one[:cut] + other + one[cut:])] == ["return", "deliver"]

    asyncio.run(test())


def test_a_callback_that_fails_closes_nothing(caplog: pytest.LogCaptureFixture) -> None:
    async def test() -> None:
        async with connected() as feed:

            def fail(*_: object) -> None:
                raise RuntimeError("a consumer's own fault")

            feed.connection.on_deliver[1] = fail
            assert [what[0] for what in feed.feed(STREAM)] == ["confirm", "return", "confirm"]
            assert feed.connection.is_open

    asyncio.run(test())
    assert "a consumer's own fault" in caplog.text


@pytest.mark.parametrize(
    "garbage",
    [
        b"\x00" * 20,
        b"\xff" * 20,
        b"GET / HTTP/1.1\r\n\r\n",
        b"\x01\x00\x01\x00\x00\x00\x02\x00\x3c\xcd",
        b"\x01\x00\x02\x00\x00\x00\x04\x00\x3c\x00\x50\xce",
        b"\x01\x00\x00\x00\x00\x00\x04\xff\xff\xff\xff\xce",
        b"\x03\x00\x01\xff\xff\xff\xff",
        b"\x03\x00\x01" + (131072 - 7).to_bytes(4, "big"),
        b"\x07\x00\x01\x00\x00\x00\x00\xce",
    ],
    ids=["nulls", "ones", "another protocol", "no end", "a short confirm", "an unknown method", "4 GiB", "over frame_max", "a kind that is none"],
)  # fmt: skip
def test_garbage_ends_the_connection_and_nothing_else(garbage: bytes, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL, "pika")

    async def test() -> None:
        async with connected() as feed:
            assert feed.feed(garbage) == []
            error = await feed.closed
            assert isinstance(error, pika.exceptions.AMQPConnectionError)
            assert feed.feed(STREAM[:1]) == [], "what comes late is no fault either"

    asyncio.run(test())


def test_another_version_is_pikas_to_explain() -> None:
    async def test(cut: int) -> None:
        loop = asyncio.get_running_loop()
        served: list[asyncio.StreamWriter] = []

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            served.append(writer)
            await reader.readexactly(8)
            writer.write(b"AMQP\x00\x00\x09\x01"[:cut])
            await writer.drain()
            writer.write(b"AMQP\x00\x00\x09\x01"[cut:])
            writer.close()
            await writer.wait_closed()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        closed: asyncio.Future[BaseException] = loop.create_future()
        parameters = pika.ConnectionParameters("127.0.0.1", server.sockets[0].getsockname()[1])
        connection = FastConnection(parameters, lambda: None, closed.set_result)
        try:
            async with asyncio.timeout(SECONDS):
                assert isinstance(await closed, Exception)
            assert not connection.is_open
        finally:
            server.close()
            await server.wait_closed()

    for cut in (1, 4, 7, 8):
        asyncio.run(test(cut))


def test_own_frames_and_pikas_leave_in_the_order_of_the_calls() -> None:
    async def test() -> None:
        async with connected() as feed:
            written: list[bytes] = []
            flushed = asyncio.Event()

            class Transport:
                def write(self, data: bytes) -> None:
                    written.append(data)
                    flushed.set()

            transport, feed.connection._transport = feed.connection._transport, Transport()
            sent = feed.connection.bytes_sent
            feed.connection.write(b"one ")
            feed.connection._adapter_emit_data(b"two ")
            feed.connection.write(b"three")
            await flushed.wait()
            feed.connection._transport = transport
            assert written == [b"one two three"]
            assert feed.connection.bytes_sent == sent + len(b"one three"), "pika counts its own"

    asyncio.run(test())
