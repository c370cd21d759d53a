"""ports.Broker over AMQP 0-9-1: two connections, because a broker that is short of memory or disk blocks those that publish
and leaves those that consume alone. What each new connection has to bring back (topology, consumers, the reply queue) is
kept here as desired state.

Where the pitfalls of pika (research/scaling-registry-reliability.md C.3) went:
    two threads on one connection          there is one thread
    a failed publish that is only logged   our own frames; what became of a publication is always said (Published)
    exceptions in callbacks                amqp_connection guards every one; ours are called under it
    work in callbacks, missed heartbeats   a callback decodes and hands on; apps are called by asynchronous I/O
    blocked_connection_timeout None        a blocked connection is a state (`able`), and every message has its own deadline
    the unbounded write buffer             `writable` by the transport's high-water mark, and the confirm window
    connection_attempts 1, no recovery     amqp_link, a new connection object each time
    publishing on a closed channel         the publisher is detached before anyone else runs
    acks with an old channel's tag         a delivery holds its consumer; one that is not live settles nothing
    long tasks and the consumer timeout    MESHQ_APP_TIMEOUT is at most 20 min, the broker's timeout 30
    a connection made outside the loop     made inside `Link.run`
    one round trip a confirmed message     confirms arrive by callback, window 1,000
"""

import asyncio
import logging
import secrets
import ssl
from collections.abc import Callable, Sequence

from meshq.adapters import amqp_url
from meshq.adapters.amqp_channel import Channel, ChannelLost
from meshq.adapters.amqp_connection import FastConnection
from meshq.adapters.amqp_consumer import AmqpDelivery, ChannelConsumer, read_properties
from meshq.adapters.amqp_link import Link
from meshq.adapters.amqp_publisher import Publisher
from meshq.adapters.amqp_topology import ACCESS_REFUSED, NOT_FOUND, Declarer, fault, refused, refused_calls
from meshq.core import topology
from meshq.core.topology import Topology
from meshq.ports import BrokerState, Clock, Delivery, Publication, Published, QueueStats, ReplyHandler, Subscription
from meshq.tasks import Tasks

logger = logging.getLogger(__name__)

RETRY_EVERY = 5.0
"""Seconds between attempts to declare or consume what the broker refused."""


class _Subscription:
    """Desired: consume this queue. `consumer` is what is there of it on the present connection."""

    def __init__(
        self, queue: str, prefetch: int, on_delivery: Callable[[Delivery], None], changed: asyncio.Event
    ) -> None:
        self.queue = queue
        self.prefetch = prefetch
        self.on_delivery = on_delivery
        self.consumer: ChannelConsumer | None = None
        self.cancelled = False
        self._changed = changed

    @property
    def running(self) -> bool:
        consumer = self.consumer
        return consumer is not None and consumer.live and not consumer.cancelled.done()

    def cancel(self) -> None:
        self.cancelled = True
        if self.consumer is not None:
            self.consumer.stop()
        self._changed.set()


class AmqpBroker:
    """See ports.Broker. `name` is what the broker's operators see: the service and the instance."""

    def __init__(self, url: str, *, name: str, clock: Clock, tls: ssl.SSLContext | None = None) -> None:
        self._url = amqp_url.parse(url)
        self.user = self._url.user
        self._name = name
        if self._url.tls and tls is None:
            tls = ssl.create_default_context()
        tls = tls if self._url.tls else None
        self._tasks = Tasks()
        self._on_state: list[Callable[[BrokerState], None]] = []
        self._said: BrokerState | None = None
        self._desired = topology.base()
        self._declaring: list[asyncio.Future[None]] = []
        self._changed = asyncio.Event()
        self._subscriptions: list[_Subscription] = []
        self._replies: tuple[str, str, ReplyHandler] | None = None
        self._reply_key = ""
        self._refusals: list[str] = []
        self._publisher = Publisher(self.user, name, clock, self._on_unroutable)
        self._publishing = Link(self._url, f"{name} publish", tls, self._publish_session, self._tell_state)
        self._consuming = Link(self._url, f"{name} consume", tls, self._consume_session, self._tell_state)

    # --- life ------------------------------------------------------------------------------------------------------------

    async def open(self) -> None:
        self._tasks.start(self._publishing.run(), f"{self._name} publish")
        self._tasks.start(self._consuming.run(), f"{self._name} consume")
        await self._publishing.tried.wait()
        await self._consuming.tried.wait()

    async def close(self) -> None:
        await self._publisher.settled(3.0)
        await asyncio.gather(self._publishing.close(3.0), self._consuming.close(3.0))
        await self._tasks.close()

    @property
    def state(self) -> BrokerState:
        publishing, consuming = self._publishing.fault, self._consuming.fault
        if self._publisher.blocked:
            publishing = "the broker blocks publishers: it is short of memory or disk (see its alarms: rabbitmq-diagnostics alarms)"
        faults = publishing or consuming or "; ".join(self._refusals)
        return BrokerState(self._publisher.able, not consuming, faults)

    def on_state(self, callback: Callable[[BrokerState], None]) -> None:
        self._on_state.append(callback)

    def cut(self) -> None:
        """Drop both connections as if the network had; they come back by themselves."""
        self._publishing.cut()
        self._consuming.cut()

    def _tell_state(self) -> None:
        state = self.state
        if state != self._said:
            self._said = state
            for callback in self._on_state:
                callback(state)

    # --- publishing -------------------------------------------------------------------------------------------------------

    def send(self, publication: Publication) -> bool:
        return self._publisher.send(publication)

    def publish(self, publication: Publication, done: Callable[[Published], None]) -> None:
        self._publisher.publish(publication, done)

    def _on_unroutable(self, message_id: str) -> None:
        if self._replies is not None:
            self._replies[2].on_unroutable(message_id)

    async def _publish_session(self, connection: FastConnection) -> None:
        self._publisher.blocked = False
        connection.add_on_connection_blocked_callback(lambda *_: self._set_blocked(True))
        connection.add_on_connection_unblocked_callback(lambda *_: self._set_blocked(False))
        # Publishing to an exchange that is not there closes the channel with all that is on it: wait for it here.
        declarer = Declarer(connection, self.user)
        while refused := await declarer.assert_all(Topology(exchanges=self._desired.exchanges)):
            self._publishing.refused(refused[0])
            await asyncio.sleep(RETRY_EVERY)
        declarer.close()
        while connection.is_open:
            try:
                await self._publisher.session(connection, self._publishing.up)
            except ChannelLost as lost:
                if self._replies is not None:
                    self._tell_refused(lost, self._replies[2])
                    self._replies[2].on_sends_lost()
                if lost.code == 0:
                    raise
                # The broker refused one message by closing the channel, or we gave it up: what was on its wire went with it.
                logger.error("%s: the publishing channel was lost: %s", self._name, lost)
                self._tell_state()
                if lost.code == NOT_FOUND:
                    raise ConnectionError(lost.text) from lost  # an exchange is gone: begin again by asserting them

    def _tell_refused(self, lost: ChannelLost, handler: ReplyHandler) -> None:
        key = refused_calls(lost.text) if lost.code == ACCESS_REFUSED else None
        if key is not None:
            handler.on_refused(key, refused(lost.text, self.user, {key or topology.CALLS: "write"}))

    def _set_blocked(self, blocked: bool) -> None:
        self._publisher.blocked = blocked
        logger.log(
            logging.WARNING if blocked else logging.INFO,
            "%s: publishing %s by the broker",
            self._name,
            "blocked" if blocked else "allowed again",
        )
        self._tell_state()

    # --- topology and consuming -------------------------------------------------------------------------------------------

    async def declare(self, wanted: Topology) -> None:
        self._desired += wanted
        self._changed.set()
        if self._consuming.connection is not None:
            passed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._declaring.append(passed)
            await passed

    def subscribe(self, queue: str, prefetch: int, on_delivery: Callable[[Delivery], None]) -> Subscription:
        subscription = _Subscription(queue, prefetch, on_delivery, self._changed)
        self._subscriptions.append(subscription)
        self._changed.set()
        return subscription

    def open_replies(self, service: str, instance: str, handler: ReplyHandler) -> None:
        self._replies = (service, instance, handler)
        self._changed.set()

    @property
    def reply_to(self) -> str:
        return self._reply_key

    async def _consume_session(self, connection: FastConnection) -> None:
        declarer = Declarer(connection, self.user)
        asserted: Topology | None = None
        declaring: list[asyncio.Future[None]] = []
        try:
            while True:
                self._changed.clear()
                declaring, self._declaring = self._declaring, []
                refusals: list[str] = []
                if asserted != self._desired:
                    wanted = self._desired
                    refusals += await declarer.assert_all(wanted)
                    asserted = None if refusals else wanted
                if self._replies is not None and not self._reply_key:
                    await self._consume_replies(connection, declarer, self._replies)
                consumed = await self._consume_all(connection)
                if consumed:
                    asserted = None  # a queue went: what else of ours went with it is looked at again
                self._refuse(refusals + consumed)
                self._consuming.up()
                _wake(declaring)
                await self._wait_for_change(RETRY_EVERY if self._refusals else None)
        finally:
            self._end_consuming()
            _wake(declaring + self._declaring)

    async def _consume_replies(
        self, connection: FastConnection, declarer: Declarer, replies: tuple[str, str, ReplyHandler]
    ) -> None:
        service, instance, handler = replies
        epoch = secrets.token_hex(4)
        wanted = topology.replies(service, instance, epoch)
        refusals = await declarer.assert_all(wanted)
        if refusals:
            raise ConnectionError(refusals[0])
        queue = wanted.queues[0].name
        channel = await Channel.open(connection)

        def on_reply(tag: int, redelivered: bool, header: bytes, body: bytes) -> None:
            properties = read_properties(header)
            handler.on_reply(
                properties.correlation_id, AmqpDelivery(None, queue, tag, redelivered, header, body, properties)
            )

        connection.on_deliver[channel.number] = on_reply
        await channel.call(
            channel.inner.basic_consume, queue=queue, on_message_callback=lambda *_: None, auto_ack=True, exclusive=True
        )
        channel.inner.add_on_cancel_callback(lambda _: self._lose_replies())
        self._reply_key = topology.reply_key(service, instance, epoch)
        self._said = None  # where replies go is part of what a caller waits for: tell the state again

    async def _consume_all(self, connection: FastConnection) -> list[str]:
        """Bring every desired subscription to life. Returns what the broker refused."""
        self._subscriptions = [s for s in self._subscriptions if not s.cancelled]
        refusals = []
        for subscription in self._subscriptions:
            if not subscription.running:
                refusals += await self._consume(connection, subscription)
        return refusals

    async def _consume(self, connection: FastConnection, subscription: _Subscription) -> list[str]:
        channel = await Channel.open(connection)
        consumer = ChannelConsumer(connection, channel, subscription.queue, subscription.on_delivery)
        try:
            await consumer.start(subscription.prefetch)
        except ChannelLost as lost:
            if lost.code == 0:
                raise
            return [fault(f"queue {subscription.queue}", lost, self.user, {subscription.queue: "read"})]
        subscription.consumer = consumer
        for end in (channel.lost, consumer.cancelled):
            end.add_done_callback(lambda _: self._changed.set())
        if subscription.cancelled:
            consumer.stop()
        return []

    async def _wait_for_change(self, at_most: float | None) -> None:
        try:
            async with asyncio.timeout(at_most):
                await self._changed.wait()
        except TimeoutError:
            pass

    def _refuse(self, refusals: list[str]) -> None:
        for refusal in refusals:
            if refusal not in self._refusals:
                logger.error("%s: %s", self._name, refusal)
        self._refusals = refusals
        self._tell_state()

    def _end_consuming(self) -> None:
        for subscription in self._subscriptions:
            subscription.consumer = None
        self._lose_replies()

    def _lose_replies(self) -> None:
        if self._reply_key and self._replies is not None:
            self._reply_key = ""
            self._changed.set()
            try:
                self._replies[2].on_replies_lost()
            except Exception:
                logger.exception("telling of lost replies failed")

    # --- figures ----------------------------------------------------------------------------------------------------------

    async def stats(self, queues: Sequence[str]) -> list[QueueStats]:
        """What AMQP itself tells: messages ready and consumers. The rest is known to the management API."""
        connection = self._consuming.connection
        found: list[QueueStats] = []
        channel: Channel | None = None
        for queue in queues:
            if connection is None:
                break
            try:
                channel = channel or await Channel.open(connection)
                answer = await channel.call(channel.inner.queue_declare, queue=queue, passive=True)
            except (ChannelLost, TimeoutError):
                channel = None
                continue
            found.append(QueueStats(queue, ready=answer.method.message_count, consumers=answer.method.consumer_count))
        if channel is not None:
            channel.close()
        return found


def _wake(waiting: "list[asyncio.Future[None]]") -> None:
    for future in waiting:
        if not future.done():
            future.set_result(None)
