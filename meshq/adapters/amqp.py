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
import ssl
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress

from meshq.adapters import amqp_server, amqp_url, amqp_withdraw
from meshq.adapters.amqp_channel import ChannelLost
from meshq.adapters.amqp_connection import FastConnection
from meshq.adapters.amqp_hold import Holding
from meshq.adapters.amqp_link import Link
from meshq.adapters.amqp_publisher import Publisher
from meshq.adapters.amqp_replies import ReplyQueue
from meshq.adapters.amqp_server import Server
from meshq.adapters.amqp_subscriptions import Subscriptions
from meshq.adapters.amqp_topology import ACCESS_REFUSED, NOT_FOUND, Declarer, refused, refused_publish
from meshq.core import topology
from meshq.core.desired import Desired, without
from meshq.core.topology import Topology
from meshq.ports import (
    BrokerAway,
    BrokerState,
    Clock,
    Delivery,
    Held,
    Priorities,
    Publication,
    Published,
    QueueStats,
    ReplyHandler,
    Subscription,
)
from meshq.tasks import Tasks

logger = logging.getLogger(__name__)

RETRY_EVERY = 5.0
"""Seconds between attempts to declare or consume what the broker refused."""
LOOK_EVERY = 10.0
"""Seconds between looks whether the queues that are consumed are there still. The broker cancels the consumers of a deleted
queue, but not always those of a quorum queue that was declared a moment ago: in 25 deletions under load over three nodes of 3.10
a dozen consumers heard nothing, however long one waited before declaring it again."""


class AmqpBroker:
    """See ports.Broker. `name` is what the broker's operators see: the service and the instance."""

    def __init__(self, url: str, *, name: str, clock: Clock, tls: Callable[[], ssl.SSLContext] | None = None) -> None:
        self._url = amqp_url.parse(url)
        self.user = self._url.user
        self._name = name
        if self._url.tls and tls is None:
            tls = ssl.create_default_context
        tls = tls if self._url.tls else None
        self._tasks = Tasks()
        self._on_state: list[Callable[[BrokerState], None]] = []
        self._said: BrokerState | None = None
        self._desired = Desired(topology.base())
        self._declaring: list[asyncio.Future[None]] = []
        self._changed = asyncio.Event()
        self._asserting = asyncio.Lock()
        """Held while the topology is asserted or taken away."""
        self._asserted = asyncio.Event()
        """The topology was asserted, or tried to be; set anew by every pass."""
        self._server: Server | None = None
        self._holding: dict[str, Holding] = {}
        """By queue, on the present connection."""
        self._subscriptions = Subscriptions(name, self.user, self._desired, self._changed)
        self._replies: ReplyQueue | None = None
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

    @property
    def server(self) -> Server | None:
        """What the broker is; None before the first connection."""
        return self._server

    @property
    def priorities(self) -> Priorities | None:
        return None if self._server is None else self._server.priorities

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
            self._replies.handler.on_unroutable(message_id)

    async def _publish_session(self, connection: FastConnection) -> None:
        self._publisher.blocked = False
        connection.add_on_connection_blocked_callback(lambda *_: self._set_blocked(True))
        connection.add_on_connection_unblocked_callback(lambda *_: self._set_blocked(False))
        await self._wait_for_exchanges(connection)
        while connection.is_open:
            try:
                await self._publisher.session(connection, self._publishing.up)
            except ChannelLost as lost:
                if self._replies is not None:
                    self._tell_refused(lost, self._replies.handler)
                    self._replies.handler.on_sends_lost()
                if lost.code == 0:
                    raise
                # The broker refused one message by closing the channel, or we gave it up: what was on its wire went with it.
                logger.error("%s: the publishing channel was lost: %s", self._name, lost)
                self._tell_state()
                if lost.code == NOT_FOUND:
                    raise ConnectionError(lost.text) from lost  # an exchange is gone: begin again by asserting them

    async def _wait_for_exchanges(self, connection: FastConnection) -> None:
        """Publishing to an exchange that is not there closes the channel with all that is on it. The consuming session makes
        them."""
        declarer = Declarer(connection, self.user)
        waited = False
        while True:
            self._asserted.clear()
            missing = await declarer.missing(self._desired.all.exchanges)
            if not missing:
                break
            if waited:
                self._publishing.refused(self._refusals[0] if self._refusals else f"there is no exchange {missing}")
            await _within(RETRY_EVERY, self._asserted.wait())
            waited = True
        declarer.close()

    def _tell_refused(self, lost: ChannelLost, handler: ReplyHandler) -> None:
        place = refused_publish(lost.text) if lost.code == ACCESS_REFUSED else None
        if place is not None:
            exchange, key = place
            handler.on_refused(exchange, key, refused(lost.text, self.user, {key or exchange: "write"}))

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
        self._desired.add(wanted)
        self._changed.set()
        if self._consuming.connection is not None:
            passed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._declaring.append(passed)
            await passed

    async def withdraw(self, unwanted: Topology) -> None:
        """A thing that another declaration wants too stays. Takes up to a few seconds, in which what is on its way to the queues
        arrives, and so keeps them."""
        gone = self._desired.remove(unwanted)
        connection = self._consuming.connection
        if connection is None:
            return
        declarer = Declarer(connection, self.user)
        try:
            async with self._asserting:
                faults = await declarer.take_away(without(gone, self._desired.all))
            for queue in await amqp_withdraw.quiet(connection, [queue.name for queue in gone.queues]):
                async with self._asserting:
                    if all(queue != wanted.name for wanted in self._desired.all.queues):
                        faults += await amqp_withdraw.delete(connection, queue, self.user)
        except (ChannelLost, TimeoutError) as error:
            faults = [str(error) or "the broker does not answer"]
        declarer.close()
        for each in faults:
            logger.warning("%s: what is not wanted any more was left: %s", self._name, each)

    def subscribe(
        self, queue: str, prefetch: int, on_delivery: Callable[[Delivery], None], *, offset: int | str | None = None
    ) -> Subscription:
        """Raises ValueError for an offset that is none."""
        return self._subscriptions.add(queue, prefetch, on_delivery, offset)

    async def hold(self, queue: str, most: int) -> Held:
        connection = self._consuming.connection
        if connection is None:
            raise BrokerAway(self._consuming.fault)
        if queue not in self._holding:
            self._holding[queue] = Holding(connection, queue, self.user)
        return await self._holding[queue].hold(most)

    def open_replies(self, service: str, instance: str, handler: ReplyHandler) -> None:
        self._replies = ReplyQueue(service, instance, handler, self._changed.set)
        self._changed.set()

    @property
    def reply_to(self) -> str:
        return "" if self._replies is None else self._replies.key

    async def _consume_session(self, connection: FastConnection) -> None:
        self._server = amqp_server.read(connection.server_properties)
        declarer = Declarer(connection, self.user)
        asserted: Topology | None = None
        declaring: list[asyncio.Future[None]] = []
        try:
            while True:
                self._changed.clear()
                declaring, self._declaring = self._declaring, []
                refusals: list[str] = []
                if self._subscriptions.any_dropped:
                    asserted = None  # a queue went: what else of ours went with it is looked at again
                if asserted != self._desired.all:
                    async with self._asserting:
                        wanted = self._desired.all
                        refusals += await declarer.assert_all(wanted)
                    asserted = None if refusals else wanted
                if self._replies is not None and not self._replies.key:
                    await self._replies.open(connection, declarer)
                    self._said = None  # where replies go is part of what a caller waits for: tell the state again
                consumed = await self._subscriptions.consume_all(connection)
                if consumed:
                    asserted = None
                self._refuse(refusals + consumed)
                self._asserted.set()
                self._consuming.up()
                _wake(declaring)
                await _within(RETRY_EVERY if self._refusals else LOOK_EVERY, self._changed.wait())
                if not self._changed.is_set():
                    await self._subscriptions.look_for_queues(declarer)
        finally:
            self._end_consuming()
            _wake(declaring + self._declaring)

    def _refuse(self, refusals: list[str]) -> None:
        for refusal in refusals:
            if refusal not in self._refusals:
                logger.error("%s: %s", self._name, refusal)
        self._refusals = refusals
        self._tell_state()

    def _end_consuming(self) -> None:
        self._subscriptions.end()
        self._holding = {}
        if self._replies is not None:
            self._replies.lose()

    # --- figures ----------------------------------------------------------------------------------------------------------

    async def stats(self, queues: Sequence[str]) -> list[QueueStats]:
        """What AMQP itself tells: messages ready and consumers. The rest is known to the management API."""
        connection = self._consuming.connection
        if connection is None:
            return []
        declarer = Declarer(connection, self.user)
        found: list[QueueStats] = []
        try:
            for queue in queues:
                with suppress(TimeoutError):
                    stats = await declarer.stats(queue)
                    found += [] if stats is None else [stats]
        except ChannelLost:
            return found
        declarer.close()
        return found


async def _within(seconds: float | None, happening: Awaitable[object]) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await happening


def _wake(waiting: "list[asyncio.Future[None]]") -> None:
    for future in waiting:
        if not future.done():
            future.set_result(None)
