"""What is consumed: desired state, brought to life on every new connection, and again where the broker let it go."""

import asyncio
import logging
from collections.abc import Callable
from typing import Any

from meshq.adapters.amqp_channel import Channel, ChannelLost
from meshq.adapters.amqp_connection import FastConnection
from meshq.adapters.amqp_consumer import ChannelConsumer, log_arguments
from meshq.adapters.amqp_topology import Declarer, fault
from meshq.core import topology
from meshq.core.desired import Desired
from meshq.ports import Delivery

logger = logging.getLogger(__name__)


class ChannelSubscription:
    """Desired: consume this queue. `consumer` is what is there of it on the present connection."""

    def __init__(
        self,
        queue: str,
        prefetch: int,
        on_delivery: Callable[[Delivery], None],
        arguments: dict[str, Any],
        changed: asyncio.Event,
    ) -> None:
        self.queue = queue
        self.prefetch = prefetch
        self.arguments = arguments
        self.on_delivery = on_delivery
        self.consumer: ChannelConsumer | None = None
        self.cancelled = False
        self._changed = changed

    @property
    def running(self) -> bool:
        consumer = self.consumer
        return consumer is not None and consumer.live and not consumer.cancelled.done()

    @property
    def dropped(self) -> bool:
        """The broker cancelled it, as it does when a queue is deleted."""
        return self.consumer is not None and self.consumer.cancelled.done() and not self.cancelled

    def drop(self) -> None:
        """As if the broker had."""
        if self.consumer is not None:
            self.consumer.drop()

    def cancel(self) -> None:
        self.cancelled = True
        if self.consumer is not None:
            self.consumer.stop()
        self._changed.set()


class Subscriptions:
    """`changed` is set whenever there is something to do for `consume_all`."""

    def __init__(self, name: str, user: str, desired: Desired, changed: asyncio.Event) -> None:
        self._name = name
        self._user = user
        self._desired = desired
        self._changed = changed
        self._all: list[ChannelSubscription] = []

    def add(
        self, queue: str, prefetch: int, on_delivery: Callable[[Delivery], None], offset: int | str | None
    ) -> ChannelSubscription:
        """Raises ValueError for an offset that is none."""
        subscription = ChannelSubscription(queue, prefetch, on_delivery, log_arguments(offset), self._changed)
        self._all.append(subscription)
        self._changed.set()
        return subscription

    @property
    def any_dropped(self) -> bool:
        return any(subscription.dropped for subscription in self._all)

    async def consume_all(self, connection: FastConnection) -> list[str]:
        """Bring every desired subscription to life. Returns what the broker refused."""
        self._all = [s for s in self._all if not s.cancelled]
        refusals = []
        for subscription in self._all:
            if not subscription.running:
                refusals += await self._consume(connection, subscription)
        return refusals

    async def look_for_queues(self, declarer: Declarer) -> None:
        """A consumer whose queue is gone without a word is none."""
        for subscription in self._all:
            if subscription.running and await declarer.stats(subscription.queue) is None:
                logger.error("%s: queue %s is gone, and the broker did not say so", self._name, subscription.queue)
                subscription.drop()

    def end(self) -> None:
        """The connection is gone."""
        for subscription in self._all:
            subscription.consumer = None

    async def _consume(self, connection: FastConnection, subscription: ChannelSubscription) -> list[str]:
        channel = await Channel.open(connection)
        if subscription.cancelled:
            channel.close()
            return []
        consumer = ChannelConsumer(
            connection,
            channel,
            subscription.queue,
            subscription.on_delivery,
            in_order=any(
                queue.name == subscription.queue and topology.ONE_AT_A_TIME in queue.arguments
                for queue in self._desired.all.queues
            ),
            most=subscription.prefetch if subscription.arguments else None,
        )
        subscription.consumer = consumer  # deliveries, and with them a cancel, may come before the answer is looked at
        try:
            await consumer.start(subscription.prefetch, subscription.arguments)
        except ChannelLost as lost:
            if subscription.cancelled and connection.is_open:
                return []
            if lost.code == 0:
                raise
            return [fault(f"queue {subscription.queue}", lost, self._user, {subscription.queue: "read"})]
        for end in (channel.lost, consumer.cancelled):
            end.add_done_callback(lambda _: self._changed.set())
        return []
