"""The queue of our own that replies come to: a new one with every connection, gone with it."""

import logging
import secrets
from collections.abc import Callable

from meshq.adapters.amqp_channel import Channel
from meshq.adapters.amqp_connection import FastConnection
from meshq.adapters.amqp_consumer import AmqpDelivery
from meshq.adapters.amqp_topology import Declarer
from meshq.core import topology
from meshq.ports import ReplyHandler

logger = logging.getLogger(__name__)


class ReplyQueue:
    """Of one instance. `lost` is called after its handler was told that the queue is gone."""

    def __init__(self, service: str, instance: str, handler: ReplyHandler, lost: Callable[[], None]) -> None:
        self.handler = handler
        self.key = ""
        """Where replies go now; "" while there is no such queue."""
        self._service = service
        self._instance = instance
        self._lost = lost

    async def open(self, connection: FastConnection, declarer: Declarer) -> None:
        """Raises ConnectionError where the broker refuses it, ChannelLost, TimeoutError."""
        epoch = secrets.token_hex(4)
        wanted = topology.replies(self._service, self._instance, epoch)
        refusals = await declarer.assert_all(wanted)
        if refusals:
            raise ConnectionError(refusals[0])
        queue = wanted.queues[0].name
        channel = await Channel.open(connection)

        def on_reply(tag: int, redelivered: bool, header: bytes, body: bytes, exchange: bytes) -> None:
            delivery = AmqpDelivery(None, queue, tag, redelivered, header, body, exchange)
            self.handler.on_reply(delivery.correlation_id, delivery)

        connection.on_deliver[channel.number] = on_reply
        await channel.call(
            channel.inner.basic_consume, queue=queue, on_message_callback=lambda *_: None, auto_ack=True, exclusive=True
        )
        channel.inner.add_on_cancel_callback(lambda _: self.lose())
        self.key = topology.reply_key(self._service, self._instance, epoch)

    def lose(self) -> None:
        """Idempotent."""
        if not self.key:
            return
        self.key = ""
        try:
            self.handler.on_replies_lost()
        except Exception:
            logger.exception("telling of lost replies failed")
        self._lost()
