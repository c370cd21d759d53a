"""One AMQP connection: pika's, with the hot path led past its codec.

pika opens the socket, authenticates, negotiates, keeps the heartbeat, and runs every channel operation. Three things differ
from its AsyncioConnection, all of them here, and tests/unit/test_amqp_connection.py says when an upgrade of pika moves what
they stand on:

- The stream is the event loop's own transport (uvloop's) instead of pika's select-style one, which reads 4 KiB at a time
  and makes one send a frame. TLS comes with it.
- `_on_data_available` cuts the stream into frames and takes those of the hot path: deliveries and returned messages, whole,
  and publisher confirms. Any other frame is handed to pika as the bytes it is.
- `_adapter_emit_data` and our own frames go through one buffer that is written once a loop turn, so the order on the wire
  is the order of the calls.

An exception that escaped from a callback here would close the connection under everyone who uses it, so callbacks are
called under a guard that logs.
"""

import asyncio
import logging
import socket
import ssl
from collections.abc import Callable
from typing import Any, cast

import pika
from pika.adapters.asyncio_connection import AsyncioConnection, _AsyncioIOServicesAdapter
from pika.adapters.utils.nbio_interface import AbstractIOReference

from meshq.adapters import amqp_frames as frames

logger = logging.getLogger(__name__)

WRITE_HIGH_WATER = 8 * 2**20
"""Bytes waiting for the socket above which `writable` is False: two of the largest messages. pika itself has no bound."""

OnContent = Callable[[int, bool, bytes, bytes, bytes], None]
"""(delivery tag, redelivered, header payload, body, exchange)"""
OnConfirm = Callable[[int, bool, bool], None]
"""(delivery tag, multiple, positive)"""
OnReturn = Callable[[bytes, bytes], None]
"""(method payload, header payload)"""


class _Content:
    """A message whose frames are still coming."""

    __slots__ = ("body", "header", "left", "method")

    def __init__(self, method: bytes) -> None:
        self.method = method
        self.header = b""
        self.body: list[bytes] = []
        self.left = -1


class _Stream(asyncio.Protocol):
    """The event loop's transport as the stream that pika expects; the two interfaces differ only in flow control."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner
        self._connection: FastConnection = inner.conn

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        cast(asyncio.WriteTransport, transport).set_write_buffer_limits(
            high=WRITE_HIGH_WATER
        )  # uvloop's is not a subclass
        self._inner.connection_made(transport)

    def data_received(self, data: bytes) -> None:
        self._inner.data_received(data)

    def eof_received(self) -> bool:
        return bool(self._inner.eof_received())

    def connection_lost(self, error: Exception | None) -> None:
        if error is None and self._connection._error is None and not self._connection._got_eof:
            error = ConnectionAbortedError("the connection was cut")  # pika asserts that there is a reason
        self._inner.connection_lost(error)

    def pause_writing(self) -> None:
        self._connection.writable = False

    def resume_writing(self) -> None:
        self._connection.writable = True


class _Reference(AbstractIOReference):
    def __init__(self, task: "asyncio.Task[None]") -> None:
        self._task = task

    def cancel(self) -> bool:
        return self._task.cancel()


class _Services(_AsyncioIOServicesAdapter):
    """pika's I/O services with the event loop's own transports."""

    def create_streaming_connection(
        self,
        protocol_factory: Callable[[], Any],
        sock: socket.socket,
        on_done: Callable[[Any], None],
        ssl_context: ssl.SSLContext | None = None,
        server_hostname: str | None = None,
    ) -> AbstractIOReference:
        loop = self.get_native_ioloop()

        async def connect() -> None:
            try:
                transport, stream = await loop.create_connection(
                    lambda: _Stream(protocol_factory()), sock=sock, ssl=ssl_context, server_hostname=server_hostname
                )
            except Exception as error:  # noqa: BLE001 - pika's workflow turns it into its own
                on_done(error)
            else:
                on_done((transport, stream._inner))

        # The reference is pika's own handle on the work: it cancels it when the connection attempt is given up.
        return _Reference(loop.create_task(connect(), name="meshq amqp stream"))


class FastConnection(AsyncioConnection):
    """See the module. `on_closed(error)` is called once, also when it never opened; `on_open()` at most once before."""

    def __init__(
        self,
        parameters: pika.ConnectionParameters,
        on_open: Callable[[], None],
        on_closed: Callable[[BaseException], None],
    ) -> None:
        self.writable = True
        self.on_confirm: dict[int, OnConfirm] = {}
        self.on_return: dict[int, OnReturn] = {}
        self.on_deliver: dict[int, OnContent] = {}
        self._loop = asyncio.get_running_loop()
        self._stream_buffer = b""
        self._unwritten: list[bytes] = []
        self._contents: dict[int, _Content] = {}
        super().__init__(
            parameters,
            on_open_callback=lambda _: on_open(),
            on_open_error_callback=lambda _, error: on_closed(
                error if isinstance(error, Exception) else ConnectionError(error)
            ),
            on_close_callback=lambda _, error: on_closed(error),
            custom_ioloop=_Services(self._loop),
        )

    def close(self, reply_code: int = 200, reply_text: str = "Normal shutdown") -> None:
        for channel in self._channels.values():
            forget_consumers(channel)
        super().close(reply_code, reply_text)

    # --- out -----------------------------------------------------------------------------------------------------------

    def write(self, data: bytes) -> None:
        """Put whole frames of our own on the wire, in the order of the calls, with this loop turn's one write."""
        if not self._unwritten:
            self._loop.call_soon(self._flush)
        self._unwritten.append(data)
        self.bytes_sent += len(data)

    def _adapter_emit_data(self, data: bytes) -> None:
        if not self._unwritten:
            self._loop.call_soon(self._flush)
        self._unwritten.append(data)

    def _flush(self) -> None:
        data = b"".join(self._unwritten)
        self._unwritten.clear()
        if self._transport is not None:
            self._transport.write(data)

    # --- in ------------------------------------------------------------------------------------------------------------

    def _on_data_available(self, data_in: bytes) -> None:
        try:
            self._cut(data_in)
        except Exception as error:
            # Where the next frame begins is not known any more, so this is the connection's end. Before it is open, some other
            # server may well be there: `amqp_url.explain` says so.
            if self.is_open:
                logger.exception("what the broker sent cannot be read")
            self._stream_buffer = b""
            self._contents.clear()
            if not (self.is_closed or self.is_closing):
                self._terminate_stream(pika.exceptions.StreamLostError(f"what the broker sent cannot be read: {error}"))

    def _cut(self, data_in: bytes) -> None:
        data = self._stream_buffer + data_in if self._stream_buffer else data_in
        if data.startswith(
            b"A"
        ):  # "AMQP" and four bytes: the server speaks another version, and pika knows what to say
            self._stream_buffer = data if len(data) < 8 else b""
            if len(data) >= 8:
                super()._on_data_available(data)
            return
        at = 0
        while (frame := frames.read_frame(data, at)) is not None:
            kind, channel, start, end = frame
            if data[end] != frames.FRAME_END:
                raise pika.exceptions.InvalidFrameError("a frame does not end where it says")
            if not self._taken(kind, channel, data, start, end):
                super()._on_data_available(data[at : end + 1])
            else:
                self.bytes_received += end + 1 - at
            at = end + 1
        self._stream_buffer = data[at:]
        if frames.claimed_size(data, at) > self.params.frame_max:
            raise pika.exceptions.InvalidFrameError("a frame is larger than was agreed")

    def _taken(self, kind: int, channel: int, data: bytes, start: int, end: int) -> bool:
        """Whether the frame was one of the hot path; it is dealt with then."""
        if kind == frames.FRAME_METHOD:
            return self._method(channel, data[start:end])
        content = self._contents.get(channel)
        if content is None:
            return False
        payload = data[start:end]
        if kind == frames.FRAME_HEADER:
            content.header = payload
            content.left = int.from_bytes(payload[4:12], "big")
        else:
            content.body.append(payload)
            content.left -= len(payload)
        if content.left <= 0:
            del self._contents[channel]
            self._guard(self._complete, channel, content)
        return True

    def _method(self, channel: int, payload: bytes) -> bool:
        method = int.from_bytes(payload[:4], "big")
        if (method == frames.DELIVER and channel in self.on_deliver) or (
            method == frames.RETURN and channel in self.on_return
        ):
            self._contents[channel] = _Content(payload)
            return True
        if method in (frames.ACK, frames.NACK):
            on_confirm = self.on_confirm.get(channel)
            if on_confirm is not None:
                tag, multiple = frames.read_confirm(payload)
                self._guard(on_confirm, tag, multiple, method == frames.ACK)
                return True
        return False

    def _complete(self, channel: int, content: _Content) -> None:
        if content.method[2:4] == b"\x00\x32":
            self.on_return[channel](content.method, content.header)
            return
        tag, redelivered, exchange = frames.read_deliver(content.method)
        on_deliver = self.on_deliver.get(channel)
        if on_deliver is not None:
            body = content.body[0] if len(content.body) == 1 else b"".join(content.body)
            on_deliver(tag, redelivered, content.header, body, exchange)

    def _guard(self, callback: Callable[..., None], *args: Any) -> None:
        try:
            callback(*args)
        except Exception:
            logger.exception("a callback failed; the connection goes on")


def forget_consumers(channel: Any) -> None:
    """Before a channel of pika's closes, which would cancel each consumer first. A queue with a single active consumer turns to
    the next one at that, before it has the unsettled messages back, so that their order is lost (RabbitMQ 3.10 and 4.0);
    closing alone returns them first."""
    channel._consumers.clear()
