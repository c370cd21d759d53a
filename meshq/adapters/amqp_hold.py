"""Messages looked at in their queue and given back, each to its place.

They are consumed, because nothing else gives them back in order: when a channel closes, RabbitMQ 3.10 and 4.0 return what each
of its consumers held, consumer by consumer and oldest first. A nack of more than 32 at once comes back shuffled on 3.10; what
Basic.Get took comes back shuffled on both, and on 3.10 a part of 5,000 that were acknowledged after it came back too, when the
channel closed at once (tried).

What is given back is handed out before everything else, but behind what was given back earlier. So before a channel closes it
takes that too, up to a bound. And whoever holds several times of one queue does it on one channel, which closes with the last.

A consumer says nothing when its queue is empty, so the queue is asked. Asked in an election it answers that it is empty and has
no consumer, which is known to be wrong while we are one.
"""

import asyncio
from contextlib import suppress

from meshq.adapters.amqp_channel import OPERATION_TIMEOUT, Channel, ChannelLost
from meshq.adapters.amqp_connection import FastConnection
from meshq.adapters.amqp_consumer import AmqpDelivery
from meshq.adapters.amqp_settling import Settling
from meshq.adapters.amqp_topology import NOT_FOUND, fault
from meshq.ports import BrokerAway, Held

MOST_BYTES = 64 * 2**20
"""Of bodies that one who holds keeps here; what comes beyond it is not looked at."""
FIRST_BATCH = 16
LARGEST_BATCH = 1000
"""Consumed at once: the first few show how large the messages are. A quorum queue gives a consumer 2,000 at most."""
MOST_BEHIND = 10_000
"""Messages taken only so that the order stays. Where more were given back before, those released go behind them."""
GRACE = 0.1
"""Seconds after which nothing is on its way any more from a queue that says it has nothing ready."""
TOGETHER = 1.0
"""Seconds in which whoever else holds of the queue may release, so that all goes back in order."""


class Holding:
    """All that is held of one queue over one connection."""

    def __init__(self, connection: FastConnection, queue: str, user: str) -> None:
        self._connection = connection
        self._queue = queue
        self._user = user
        self._lock = asyncio.Lock()
        self._parts: list[_Part] = []
        self._look: _Look | None = None

    async def hold(self, most: int) -> Held:
        """See ports.Broker."""
        async with self._lock:
            try:
                part, behind = await self._take(most)
            except BaseException:
                await self._close_if_unused()
                raise
            if part is not None and part.unsettled:
                self._parts.append(part)
            await self._close_if_unused()

        async def release() -> None:
            if part is not None and not part.released:
                part.released = True
                async with self._lock:
                    await self._release(part)

        return Held(part.deliveries if part is not None else (), behind, release)

    async def _take(self, most: int) -> "tuple[_Part | None, int]":
        try:
            if self._look is None or not self._look.live:
                self._look = _Look(self._connection, await Channel.open(self._connection), self._queue)
            return await self._look.take(most)
        except TimeoutError:
            raise BrokerAway(
                f"queue {self._queue} does not answer: does a majority of its members run (rabbitmq-queues quorum_status)?"
            ) from None
        except ChannelLost as lost:
            if lost.code == NOT_FOUND:
                return None, 0
            raise BrokerAway(fault(f"queue {self._queue}", lost, self._user, {self._queue: "read"})) from lost

    async def _release(self, part: "_Part") -> None:
        if part not in self._parts:
            return
        self._parts.remove(part)
        if self._parts and self._look is not None:
            asyncio.get_running_loop().call_later(TOGETHER, self._look.give_back, part)
        await self._close_if_unused()

    async def _close_if_unused(self) -> None:
        if not self._parts and self._look is not None:
            look, self._look = self._look, None
            await look.close()


class _Part:
    """What one who holds has; the settling side of its deliveries."""

    def __init__(self, look: "_Look") -> None:
        self.deliveries: list[AmqpDelivery] = []
        self.unsettled: dict[int, None] = {}
        """Delivery tags, in order; also of what is not looked at."""
        self.released = False
        self._look = look

    @property
    def live(self) -> bool:
        return not self.released and self._look.live

    def settle(self, tag: int, requeue: bool) -> None:
        if self.live:
            self.unsettled.pop(tag, None)
            self._look.settle(tag, requeue)


class _Look:
    """One channel on which messages of one queue are held."""

    def __init__(self, connection: FastConnection, channel: Channel, queue: str) -> None:
        self._connection = connection
        self._channel = channel
        self._queue = queue
        self._settling = Settling(connection, channel)
        self._consumers = 0
        self._held = 0
        """Deliveries that are not settled."""
        self._arrived = 0
        """For the present consumer."""
        self._part: _Part | None = None
        """Whose deliveries these are. None: they are only held."""
        self._bytes = 0
        self._largest = 1
        self._again = False
        """The last delivery was handed out before: there may be more such behind it."""
        self._more = asyncio.Event()
        self._acknowledged = False
        self._closing = False
        connection.on_deliver[channel.number] = self._on_content

    @property
    def live(self) -> bool:
        return not self._closing and self._channel.inner.is_open

    def settle(self, tag: int, requeue: bool) -> None:
        self._held -= 1
        if requeue:
            self._settling.requeue(tag)
        else:
            self._acknowledged = True
            self._settling.ack(tag)

    async def take(self, most: int) -> tuple[_Part, int]:
        """What was taken, and how many messages are behind it. Raises ChannelLost, TimeoutError."""
        self._part = part = _Part(self)
        self._bytes = taken = 0
        behind, batch = 1, min(FIRST_BATCH, most)
        while behind and batch > 0:
            behind = await self._consume(batch)
            taken += self._arrived
            room = max(0, MOST_BYTES - self._bytes)
            batch = min(most - taken, LARGEST_BATCH, -(-room // self._largest))
        self._part = None
        return part, behind + taken - len(part.deliveries)

    def give_back(self, part: _Part) -> None:
        """One part alone. The others that go back later come to stand behind it."""
        if self.live:
            for tag in part.unsettled:
                self.settle(tag, requeue=True)

    async def close(self) -> None:
        """Give back everything. When this returns the queue has it again, unless the broker is away."""
        with suppress(ChannelLost, TimeoutError):
            if self._acknowledged:
                await self._wait_for_acknowledgements()
            await self._take_those_given_back_before()
            _, holders = await self._channel.figures(self._queue)
            self._end()
            await asyncio.wait((self._channel.lost,), timeout=OPERATION_TIMEOUT)
            if self._held:
                await self._wait_for_fewer(holders)
        self._end()

    def _end(self) -> None:
        self._settling.flush()
        self._closing = True
        self._channel.close()

    async def _wait_for_acknowledgements(self) -> None:
        """Until the queue has all of them. A channel sends a quorum queue 32 commands ahead and keeps the others back, and when it
        closes it forgets those (of 200 acknowledgements that were not in a row 167 were lost, on 3.10.8 and 4.0). A consumer's
        beginning and end are answered after what was sent before them, and meanwhile the rest is sent; so it is there when a
        second one ended."""
        self._settling.flush()
        for _ in range(2):
            tag = await self._start_consumer(1)
            await self._channel.call(self._channel.inner.basic_cancel, consumer_tag=tag)

    async def _take_those_given_back_before(self) -> None:
        behind, taken = 1, 0
        while self._again and behind and taken < MOST_BEHIND:
            behind = await self._consume(LARGEST_BATCH)
            taken += self._arrived

    async def _wait_for_fewer(self, holders: int) -> None:
        """Until the queue has heard that the channel closed: whoever holds a message of a quorum queue is one of its consumers."""
        channel = await Channel.open(self._connection)
        try:
            for _ in range(20):
                if (await channel.figures(self._queue))[1] < max(1, holders):
                    return
                await asyncio.sleep(GRACE)
        finally:
            channel.close()

    async def _consume(self, most: int) -> int:
        """Take up to so many by a consumer that is cancelled then. Returns the number of messages left in the queue."""
        self._arrived = 0
        tag = await self._start_consumer(most)
        idle = 0.0
        while True:
            ready, consumers = await self._channel.figures(self._queue)
            before = self._arrived
            if before >= most or (idle and consumers and not ready):
                break
            if idle >= OPERATION_TIMEOUT:
                raise TimeoutError
            self._more.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(GRACE):
                    await self._more.wait()
            idle = 0.0 if self._arrived > before else idle + GRACE
        await self._channel.call(self._channel.inner.basic_cancel, consumer_tag=tag)
        return ready

    async def _start_consumer(self, most: int) -> str:
        """Returns its name. They give back in the order of their names."""
        inner, tag = self._channel.inner, f"meshq-look-{self._consumers:06}"
        self._consumers += 1
        await self._channel.call(inner.basic_qos, prefetch_count=most)
        await self._channel.call(
            inner.basic_consume, queue=self._queue, consumer_tag=tag, on_message_callback=lambda *_: None
        )
        return tag

    def _on_content(self, tag: int, redelivered: bool, header: bytes, body: bytes, exchange: bytes) -> None:
        self._held += 1
        self._arrived += 1
        self._again = redelivered
        self._largest = max(self._largest, len(body))
        part = self._part
        if part is not None:
            part.unsettled[tag] = None
            if self._bytes < MOST_BYTES:
                part.deliveries.append(AmqpDelivery(part, self._queue, tag, redelivered, header, body, exchange))
            self._bytes += len(body)
        self._more.set()
