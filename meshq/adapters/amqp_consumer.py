"""Consuming one queue on a channel of its own: deliveries in, acknowledgements out in batches.

Settling is collected for a loop turn. Tags that are settled without a gap from the lowest on are acknowledged by one frame
(`multiple`), which at a broker with quorum queues is worth more than a factor of two in a drain; those beyond a gap by one
frame each, so that a slow message never holds back the credit of the others.
"""

import asyncio
import logging
from collections.abc import Callable
from typing import Any

from pika.spec import BasicProperties

from meshq.adapters import amqp_frames as frames
from meshq.adapters.amqp_channel import Channel
from meshq.adapters.amqp_connection import FastConnection
from meshq.ports import Delivery

logger = logging.getLogger(__name__)


class AmqpDelivery:
    """ports.Delivery; `consumer` is None for one that needs no acknowledgement."""

    __slots__ = (
        "_consumer",
        "_header",
        "_tag",
        "body",
        "content_type",
        "message_id",
        "queue",
        "redelivered",
        "reply_to",
        "user_id",
    )

    def __init__(
        self,
        consumer: "ChannelConsumer | None",
        queue: str,
        tag: int,
        redelivered: bool,
        header: bytes,
        body: bytes,
        properties: frames.Properties,
    ) -> None:
        self._consumer = consumer
        self._tag = tag
        self._header = header
        self.queue = queue
        self.redelivered = redelivered
        self.body = body
        self.content_type = properties.content_type
        self.reply_to = properties.reply_to
        self.message_id = properties.message_id
        self.user_id = properties.user_id

    @property
    def live(self) -> bool:
        return self._consumer is None or self._consumer.live

    @property
    def deliveries(self) -> int | None:
        count = self.properties().get("headers", {}).get("x-delivery-count", 0)
        return count if isinstance(count, int) else None

    def properties(self) -> dict[str, Any]:
        decoded = BasicProperties().decode(self._header[12:])
        return {name: value for name, value in vars(decoded).items() if value is not None}

    def ack(self) -> None:
        consumer, self._consumer = self._consumer, None
        if consumer is not None:
            consumer.settle(self._tag, requeue=False)

    def requeue(self) -> None:
        consumer, self._consumer = self._consumer, None
        if consumer is not None:
            consumer.settle(self._tag, requeue=True)


def read_properties(header: bytes) -> frames.Properties:
    """By our own reader, or pika's for what that one does not know."""
    _, properties = frames.read_header(header)
    if properties is not None:
        return properties
    p = BasicProperties().decode(header[12:])
    return frames.Properties(
        p.content_type or "", p.correlation_id or "", p.reply_to or "", p.message_id or "", p.user_id or ""
    )


class ChannelConsumer:
    """One consumer on one channel of one connection. Its end is `channel.lost`, or `cancelled` by the broker."""

    def __init__(
        self, connection: FastConnection, channel: Channel, queue: str, on_delivery: Callable[[Delivery], None]
    ) -> None:
        self._connection = connection
        self.channel = channel
        self._queue = queue
        self._on_delivery = on_delivery
        self._tag = ""
        self._low = 0
        """Every tag up to here is settled."""
        self._settled: set[int] = set()
        """Settled tags above `_low`; what is not yet on the wire of them is in `_unsent`."""
        self._unsent: list[int] = []
        self._outstanding = 0
        self._stopped = False
        self.cancelled: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        channel.inner.add_on_cancel_callback(self._on_cancelled)
        connection.on_deliver[channel.number] = self._on_content

    async def start(self, prefetch: int) -> None:
        """Raises ChannelLost, TimeoutError."""
        await self.channel.call(self.channel.inner.basic_qos, prefetch_count=prefetch)
        answer = await self.channel.call(
            self.channel.inner.basic_consume, queue=self._queue, on_message_callback=lambda *_: None
        )
        self._tag = answer.method.consumer_tag

    @property
    def live(self) -> bool:
        return not self.channel.lost.done()

    def stop(self) -> None:
        """No more deliveries; the channel closes once those that came are settled."""
        if not self._stopped and self.live:
            self._stopped = True
            if self.channel.inner.is_open and self._tag:
                self.channel.inner.basic_cancel(self._tag)
            self._close_when_settled()

    def settle(self, tag: int, requeue: bool) -> None:
        self._outstanding -= 1
        if not self.live:
            return
        if requeue:
            # The acknowledgements before it first: `multiple` must not come to stand behind a tag it would cover.
            self._flush()
            self._connection.write(frames.requeue(self.channel.number, tag))
            self._settled.add(tag)
            self._advance()
        else:
            if not self._unsent:
                asyncio.get_running_loop().call_soon(self._flush)
            self._unsent.append(tag)
        self._close_when_settled()

    def _on_content(self, tag: int, redelivered: bool, header: bytes, body: bytes) -> None:
        self._outstanding += 1
        self._on_delivery(AmqpDelivery(self, self._queue, tag, redelivered, header, body, read_properties(header)))

    def _flush(self) -> None:
        unsent, self._unsent = self._unsent, []
        if not unsent or not self.live:
            return
        fresh = set(unsent)
        self._settled |= fresh
        covered = [tag for tag in range(self._low + 1, self._advance() + 1) if tag in fresh]
        out = []
        if covered:
            out.append(frames.ack(self.channel.number, covered[-1], multiple=len(covered) > 1))
        out += [frames.ack(self.channel.number, tag, multiple=False) for tag in unsent if tag > self._low]
        self._connection.write(b"".join(out))

    def _advance(self) -> int:
        while self._low + 1 in self._settled:
            self._low += 1
            self._settled.discard(self._low)
        return self._low

    def _on_cancelled(self, _: Any) -> None:
        if not self.cancelled.done():
            self.cancelled.set_result(None)

    def _close_when_settled(self) -> None:
        if self._stopped and self._outstanding <= 0 and self.live:
            self._flush()
            self.channel.close()
