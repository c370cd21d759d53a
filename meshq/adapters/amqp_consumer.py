"""Consuming one queue on a channel of its own: deliveries in, acknowledgements out."""

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Protocol

from pika.spec import BasicProperties

from meshq.adapters import amqp_frames as frames
from meshq.adapters.amqp_channel import Channel
from meshq.adapters.amqp_connection import FastConnection
from meshq.adapters.amqp_proof import came_straight
from meshq.adapters.amqp_settling import Settling
from meshq.ports import Delivery

logger = logging.getLogger(__name__)


class Settler(Protocol):
    """Whoever took a delivery off its queue."""

    @property
    def live(self) -> bool: ...
    def settle(self, tag: int, requeue: bool) -> None: ...


class _Settled:
    live = False

    def settle(self, tag: int, requeue: bool) -> None:
        pass


_SETTLED = _Settled()


class AmqpDelivery:
    """ports.Delivery; `settler` is None for one that needs no acknowledgement."""

    __slots__ = (
        "_header",
        "_settler",
        "_tag",
        "body",
        "content_type",
        "correlation_id",
        "message_id",
        "queue",
        "redelivered",
        "reply_to",
        "user_id",
    )

    def __init__(
        self,
        settler: Settler | None,
        queue: str,
        tag: int,
        redelivered: bool,
        header: bytes,
        body: bytes,
        exchange: bytes,
    ) -> None:
        properties = read_properties(header)
        self._settler = settler
        self._tag = tag
        self._header = header
        self.queue = queue
        self.redelivered = redelivered
        self.body = body
        self.content_type = properties.content_type
        self.correlation_id = properties.correlation_id
        self.reply_to = properties.reply_to
        self.message_id = properties.message_id
        self.user_id = properties.user_id if came_straight(queue, exchange, header) else ""

    @property
    def live(self) -> bool:
        return self._settler is None or self._settler.live

    @property
    def deliveries(self) -> int | None:
        count = self.properties().get("headers", {}).get("x-delivery-count", 0)
        return count if isinstance(count, int) else None

    def properties(self) -> dict[str, Any]:
        decoded = BasicProperties().decode(self._header[12:])
        return {name: value for name, value in vars(decoded).items() if value is not None}

    def ack(self) -> None:
        if self._settler is not None:
            settler, self._settler = self._settler, _SETTLED
            settler.settle(self._tag, requeue=False)

    def requeue(self) -> None:
        if self._settler is not None:
            settler, self._settler = self._settler, _SETTLED
            settler.settle(self._tag, requeue=True)


def read_properties(header: bytes) -> frames.Properties:
    """By our own reader, or pika's for what that one does not know."""
    _, properties = frames.read_header(header)
    if properties is not None:
        return properties
    p = BasicProperties().decode(header[12:])
    return frames.Properties(
        p.content_type or "", p.correlation_id or "", p.reply_to or "", p.message_id or "", p.user_id or ""
    )


def log_arguments(offset: int | str | None) -> dict[str, Any]:
    """What basic.consume takes to begin in a log at `offset` (see ports.Broker.subscribe). Raises ValueError."""
    if offset is None:
        return {}
    if isinstance(offset, int) or offset in ("first", "next"):
        return {"x-stream-offset": offset}
    time = datetime.fromisoformat(offset)
    return {"x-stream-offset": time if time.tzinfo else time.replace(tzinfo=UTC)}


LAST_ACKS = 1.0
"""Seconds from the last acknowledgement until its channel closes. A quorum queue is told of 32 at a time, the others wait in the channel
and are lost with it: closed at once after 300, it returned 268 messages that had been acknowledged (3.10)."""
_TAG = "meshq"
"""The consumer's name; there is one on its channel."""


class ChannelConsumer:
    """One consumer on one channel of one connection. Its end is `channel.lost`, or `cancelled` by the broker.

    `in_order`: its queue has a single active consumer, and turns to the next one as soon as this one is cancelled, whatever is
    unsettled (RabbitMQ 3.10 and 4.0). So it is never cancelled: once what it works on is settled the channel closes, and that
    returns the rest in order before the next one gets anything.

    `most`: unsettled deliveries handed on at once. Before 3.11 a log sends a whole chunk of itself for a credit of one."""

    def __init__(
        self,
        connection: FastConnection,
        channel: Channel,
        queue: str,
        on_delivery: Callable[[Delivery], None],
        *,
        in_order: bool = False,
        most: int | None = None,
    ) -> None:
        self.channel = channel
        self._queue = queue
        self._on_delivery = on_delivery
        self._in_order = in_order
        self._most = most
        self._early: deque[AmqpDelivery] = deque()
        """What came beyond `most`."""
        self._consuming = False
        self._settling = Settling(connection, channel)
        self._outstanding = 0
        self._stopped = False
        self._ended = False
        """Stopped, and nothing more is on its way."""
        self._closing = False
        self.cancelled: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        channel.inner.add_on_cancel_callback(lambda _: self.drop())
        connection.on_deliver[channel.number] = self._on_content

    async def start(self, prefetch: int, arguments: dict[str, Any]) -> None:
        """It may be stopped meanwhile. Raises ChannelLost, TimeoutError."""
        await self.channel.call(self.channel.inner.basic_qos, prefetch_count=prefetch)
        self._consuming = True
        await self.channel.call(
            self.channel.inner.basic_consume,
            queue=self._queue,
            consumer_tag=_TAG,
            on_message_callback=lambda *_: None,
            arguments=arguments,
        )

    @property
    def live(self) -> bool:
        return not self.channel.lost.done()

    def stop(self) -> None:
        """No more deliveries but those that are on their way; the channel closes once all of them are settled. To return them
        here would mark them as handed out before, and nobody could tell that they were not started."""
        if not self._stopped and self.live:
            self._stopped = True
            if self.channel.inner.is_open and self._consuming and not self._in_order:
                self.channel.inner.basic_cancel(_TAG, callback=lambda _: self._end())
            else:
                self._end()

    def _end(self) -> None:
        self._stopped = self._ended = True
        self._close_when_settled()

    def settle(self, tag: int, requeue: bool) -> None:
        self._outstanding -= 1
        if not self.live:
            return
        if not requeue:
            self._settling.ack(tag)
        elif not (self._stopped and self._in_order):  # else it would come back behind the others
            self._settling.requeue(tag)
        if self._early:
            asyncio.get_running_loop().call_soon(self._hand_on)
        self._close_when_settled()

    def _on_content(self, tag: int, redelivered: bool, header: bytes, body: bytes, exchange: bytes) -> None:
        if self._stopped and (self._in_order or self._most is not None):
            return  # the end of the channel gives it back
        delivery = AmqpDelivery(self, self._queue, tag, redelivered, header, body, exchange)
        if self._most is None:
            self._outstanding += 1
            self._on_delivery(delivery)
        else:
            self._early.append(delivery)
            self._hand_on()

    def _hand_on(self) -> None:
        while self._early and self._most is not None and self._outstanding < self._most and not self._stopped:
            self._outstanding += 1
            self._on_delivery(self._early.popleft())

    def drop(self) -> None:
        """Its queue is gone. What came from it can be settled still, to no effect."""
        if not self.cancelled.done():
            self.cancelled.set_result(None)
        self._end()

    def _close_when_settled(self) -> None:
        if not (self._ended and self._outstanding <= 0 and self.live) or self._closing:
            return
        self._closing = True
        self._settling.flush()
        if self._in_order:  # the next one waits for the rest
            self.channel.close()
        else:
            asyncio.get_running_loop().call_later(LAST_ACKS, self.channel.close)
