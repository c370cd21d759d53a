"""What the publisher makes of a broker's answers, played by a script: refusals, silence, confirms of many at once, blocks."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pika
import pika.frame
from pika import spec

from meshq.adapters import amqp_publisher
from meshq.adapters.amqp_channel import ChannelLost
from meshq.adapters.amqp_connection import FastConnection
from meshq.adapters.amqp_patience import LEAST
from meshq.adapters.amqp_publisher import SETTLING, UNCONFIRMED, WINDOW_MESSAGES, Publisher
from meshq.core.topology import CALLS
from meshq.ports import Publication, Published

SECONDS = 10
PLAIN, CONFIRMED = 1, 2
"""The channels, in the order in which the publisher opens them."""


class Broker(asyncio.Protocol):
    """Says yes to a connection, its channels and their confirms, and keeps what is published. The rest is up to the test."""

    def __init__(self) -> None:
        self.published: list[tuple[int, str]] = []
        """(channel, routing key)"""
        self._received = b""
        self._news = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._received += data
        if self._received.startswith(b"AMQP"):
            self._received = self._received[8:]
            able = {"publisher_confirms": True, "basic.nack": True}
            self.say(0, spec.Connection.Start(0, 9, {"capabilities": able}, "PLAIN", "en_US"))
        while True:
            size, frame = pika.frame.decode_frame(self._received)
            if frame is None:
                return
            self._received = self._received[size:]
            self._answer(frame)
            self._news.set()

    def _answer(self, frame: Any) -> None:
        match getattr(frame, "method", None):
            case spec.Connection.StartOk():
                self.say(0, spec.Connection.Tune(2047, 131072, 60))
            case spec.Connection.Open():
                self.say(0, spec.Connection.OpenOk())
            case spec.Connection.Close():
                self.say(0, spec.Connection.CloseOk())
            case spec.Channel.Open():
                self.say(frame.channel_number, spec.Channel.OpenOk())
            case spec.Channel.Close():
                self.say(frame.channel_number, spec.Channel.CloseOk())
            case spec.Confirm.Select():
                self.say(frame.channel_number, spec.Confirm.SelectOk())
            case spec.Basic.Publish() as publish:
                self.published.append((frame.channel_number, publish.routing_key))

    def say(self, channel: int, method: Any) -> None:
        self._transport.write(pika.frame.Method(channel, method).marshal())  # type: ignore[attr-defined]

    def send_back(self, channel: int, ident: str) -> None:
        self.say(channel, spec.Basic.Return(312, "NO_ROUTE", CALLS, "nobody"))
        header = pika.frame.Header(channel, 1, spec.BasicProperties(message_id=ident)).marshal()
        self._transport.write(header + pika.frame.Body(channel, b"x").marshal())  # type: ignore[attr-defined]

    async def until(self, holds: Callable[[], object]) -> None:
        async with asyncio.timeout(SECONDS):
            while not holds():
                self._news.clear()
                await self._news.wait()

    async def count(self, number: int) -> list[tuple[int, str]]:
        await self.until(lambda: len(self.published) >= number)
        return self.published


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now

    def mesh_ms(self) -> int:
        return int(self.now * 1000)

    def learn(self, mesh_ms: int) -> None: ...

    synchronised = False


class Stage:
    """A publisher on a connection to a scripted broker."""

    def __init__(self, broker: Broker, publisher: Publisher, clock: Clock, unroutable: list[str], session: Any) -> None:
        self.broker = broker
        self.publisher = publisher
        self.clock = clock
        self.unroutable = unroutable
        self.session: asyncio.Task[None] = session
        self.fates: list[tuple[str, Published]] = []
        self._told = asyncio.Event()

    def publish(self, key: str, body: bytes = b"x") -> None:
        def done(fate: Published) -> None:
            self.fates.append((key, fate))
            self._told.set()

        self.publisher.publish(Publication(CALLS, key, body, key, "call"), done)

    async def told(self, number: int) -> list[tuple[str, Published]]:
        async with asyncio.timeout(SECONDS):
            while len(self.fates) < number:
                self._told.clear()
                await self._told.wait()
        return self.fates

    async def lost(self) -> ChannelLost:
        async with asyncio.timeout(SECONDS):
            await asyncio.wait((self.session,))
        error = self.session.exception()
        assert isinstance(error, ChannelLost)
        return error


@asynccontextmanager
async def stage() -> AsyncIterator[Stage]:
    loop = asyncio.get_running_loop()
    brokers: list[Broker] = []

    def accept() -> Broker:
        brokers.append(Broker())
        return brokers[-1]

    server = await loop.create_server(accept, "127.0.0.1", 0)
    opened: asyncio.Future[None] = loop.create_future()
    closed: asyncio.Future[BaseException] = loop.create_future()
    parameters = pika.ConnectionParameters("127.0.0.1", server.sockets[0].getsockname()[1])
    connection = FastConnection(parameters, lambda: opened.set_result(None), closed.set_result)
    clock, unroutable, ready = Clock(), list[str](), asyncio.Event()
    publisher = Publisher("orders", "orders-1", clock, unroutable.append)
    assert not publisher.able
    try:
        async with asyncio.timeout(SECONDS):
            await opened
            session = loop.create_task(publisher.session(connection, ready.set))
            await ready.wait()
        yield Stage(brokers[0], publisher, clock, unroutable, session)
    finally:
        if connection.is_open:
            connection.close()
        async with asyncio.timeout(SECONDS):
            await closed
            await asyncio.wait((session,))
        server.close()
        await server.wait_closed()


def run(test: Callable[[Stage], Awaitable[None]]) -> None:
    async def body() -> None:
        async with stage() as found:
            await test(found)

    asyncio.run(body())


# --- confirms ---------------------------------------------------------------------------------------------------------------


def test_confirms_and_refusals_reach_whom_they_are_about() -> None:
    async def test(at: Stage) -> None:
        for key in "abc":
            at.publish(key)
        assert await at.broker.count(3) == [(CONFIRMED, "a"), (CONFIRMED, "b"), (CONFIRMED, "c")]
        at.broker.say(CONFIRMED, spec.Basic.Ack(2))
        at.broker.say(CONFIRMED, spec.Basic.Nack(1, False, False))
        at.broker.say(CONFIRMED, spec.Basic.Ack(3))
        assert await at.told(3) == [
            ("b", Published.CONFIRMED),
            ("a", Published.REFUSED),
            ("c", Published.CONFIRMED),
        ]

    run(test)


def test_one_confirm_may_be_about_many() -> None:
    async def test(at: Stage) -> None:
        for key in "abcdefg":
            at.publish(key)
        await at.broker.count(7)
        at.broker.say(CONFIRMED, spec.Basic.Ack(2))
        at.broker.say(CONFIRMED, spec.Basic.Ack(4, True))
        at.broker.say(CONFIRMED, spec.Basic.Nack(6, True, False))
        at.broker.say(CONFIRMED, spec.Basic.Ack(4, True))  # again: nothing is left of it
        at.broker.say(CONFIRMED, spec.Basic.Ack(7))
        fates = await at.told(7)
        assert fates == [
            ("b", Published.CONFIRMED),
            *[(key, Published.CONFIRMED) for key in "acd"],
            *[(key, Published.REFUSED) for key in "ef"],
            ("g", Published.CONFIRMED),
        ]

    run(test)


def test_what_comes_back_is_unroutable_though_it_is_confirmed_after_that() -> None:
    async def test(at: Stage) -> None:
        at.publish("a")
        at.publish("b")
        await at.broker.count(2)
        at.broker.send_back(CONFIRMED, "b")
        at.broker.say(CONFIRMED, spec.Basic.Ack(2, True))
        assert await at.told(2) == [("a", Published.CONFIRMED), ("b", Published.UNROUTABLE)]

    run(test)


def test_a_callback_that_fails_takes_no_other_with_it() -> None:
    async def test(at: Stage) -> None:
        def fail(_: Published) -> None:
            raise RuntimeError("a caller's own fault")

        at.publisher.publish(Publication(CALLS, "a", b"", "a", "call"), fail)
        at.publish("b")
        await at.broker.count(2)
        at.broker.say(CONFIRMED, spec.Basic.Ack(2, True))
        assert await at.told(1) == [("b", Published.CONFIRMED)]

    run(test)


# --- the bounds ---------------------------------------------------------------------------------------------------------------


def test_the_window_is_bounded_in_messages_and_in_bytes() -> None:
    async def test(at: Stage) -> None:
        for n in range(WINDOW_MESSAGES):
            at.publish(f"m{n}")
        assert at.fates == []
        at.publish("one more")
        assert at.fates == [("one more", Published.FULL)]
        await at.broker.count(WINDOW_MESSAGES)
        at.broker.say(CONFIRMED, spec.Basic.Ack(WINDOW_MESSAGES, True))
        await at.told(WINDOW_MESSAGES + 1)

        at.fates.clear()
        large = bytes(amqp_publisher.WINDOW_BYTES - 10)
        at.publish("large", large)
        assert at.fates == [] or at.fates[0][1] is Published.AWAY
        at.publish("too much", bytes(11))
        assert at.fates[-1][0] == "too much"
        assert at.fates[-1][1] in (Published.FULL, Published.AWAY)  # the socket may be full too

    run(test)


def test_a_blocked_publisher_takes_nothing_and_keeps_what_it_sent() -> None:
    async def test(at: Stage) -> None:
        at.publish("before")
        await at.broker.count(1)
        at.publisher.blocked = True
        assert not at.publisher.able
        at.publish("meanwhile")
        assert at.fates == [("meanwhile", Published.AWAY)]
        assert not at.publisher.send(Publication(CALLS, "call", b"", "c", "call"))
        at.clock.now += 600
        at.publisher._check_confirms()  # it is the broker that does not read: nothing has gone dumb
        at.publisher.blocked = False
        at.publisher._check_confirms()
        at.broker.say(CONFIRMED, spec.Basic.Ack(1))
        assert (await at.told(2))[1] == ("before", Published.CONFIRMED)

    run(test)


# --- the end --------------------------------------------------------------------------------------------------------------------


def test_without_a_confirm_for_too_long_the_channels_are_given_up() -> None:
    async def test(at: Stage) -> None:
        at.publish("a")
        await at.broker.count(1)
        at.clock.now += LEAST + 0.1
        lost = await at.lost()
        assert lost.code == UNCONFIRMED
        assert at.fates == [("a", Published.UNKNOWN)]
        at.publish("b")
        assert at.fates[1] == ("b", Published.AWAY)

    run(test)


def test_a_broker_that_confirms_late_is_waited_for() -> None:
    async def test(at: Stage) -> None:
        at.publish("a")
        at.publish("b")
        await at.broker.count(2)
        at.clock.now += LEAST - 0.5
        at.broker.say(CONFIRMED, spec.Basic.Ack(1))
        await at.told(1)
        at.clock.now += 2 * LEAST
        at.publisher._check_confirms()  # in vain, were it not for the confirm that came late
        at.broker.say(CONFIRMED, spec.Basic.Ack(2))
        assert (await at.told(2))[1] == ("b", Published.CONFIRMED)

    run(test)


def test_after_a_block_the_broker_has_its_time_again() -> None:
    async def test(at: Stage) -> None:
        at.publish("a")
        await at.broker.count(1)
        at.publisher.blocked = True
        at.clock.now += 600
        at.publisher.blocked = False
        at.clock.now += LEAST + 0.1
        assert (await at.lost()).code == UNCONFIRMED

    run(test)


def test_a_channel_that_the_broker_closes_leaves_what_is_on_it_unknown() -> None:
    async def test(at: Stage) -> None:
        at.publish("a")
        at.publish("b")
        await at.broker.count(2)
        at.broker.say(CONFIRMED, spec.Basic.Ack(1))
        at.broker.say(CONFIRMED, spec.Channel.Close(403, "ACCESS_REFUSED", 60, 40))
        lost = await at.lost()
        assert (lost.code, lost.text) == (403, "ACCESS_REFUSED")
        assert at.fates == [("a", Published.CONFIRMED), ("b", Published.UNKNOWN)]
        await at.publisher.settled(SECONDS)

    run(test)


# --- calls ----------------------------------------------------------------------------------------------------------------------


def call(key: str, expiration_ms: int | None = None) -> Publication:
    return Publication(CALLS, key, b"x", key, "call", "shop.a.1", expiration_ms)


def test_on_a_new_connection_calls_are_confirmed_and_a_refused_one_is_sent_again() -> None:
    async def test(at: Stage) -> None:
        assert at.publisher.send(call("a"))
        assert at.publisher.send(Publication("meshq.replies", "r", b"x", "r", "reply"))
        assert await at.broker.count(2) == [(CONFIRMED, "a"), (PLAIN, "r")]
        at.broker.say(CONFIRMED, spec.Basic.Nack(1, False, False))
        assert (await at.broker.count(3))[2] == (CONFIRMED, "a")
        at.broker.send_back(CONFIRMED, "a")
        at.broker.say(CONFIRMED, spec.Basic.Ack(2))
        at.publish("b")
        await at.broker.count(4)
        at.broker.say(CONFIRMED, spec.Basic.Ack(3))
        await at.told(1)
        assert at.unroutable == ["a"]
        at.clock.now += SETTLING
        assert at.publisher.send(call("c"))
        assert (await at.broker.count(5))[4] == (PLAIN, "c")

    run(test)


def test_a_refused_call_whose_time_is_over_is_not_sent_again() -> None:
    async def test(at: Stage) -> None:
        assert at.publisher.send(call("late", expiration_ms=200))
        assert at.publisher.send(call("in time", expiration_ms=5000))
        await at.broker.count(2)
        at.clock.now += 0.3
        at.broker.say(CONFIRMED, spec.Basic.Nack(2, True, False))
        assert (await at.broker.count(3))[2:] == [(CONFIRMED, "in time")]

    run(test)


def test_a_call_that_comes_back_on_the_plain_channel_is_unroutable() -> None:
    async def test(at: Stage) -> None:
        at.clock.now += SETTLING
        assert at.publisher.send(call("nobody"))
        await at.broker.count(1)
        at.broker.send_back(PLAIN, "nobody")
        at.publish("after")
        await at.broker.count(2)
        at.broker.say(CONFIRMED, spec.Basic.Ack(1))
        await at.told(1)
        assert at.unroutable == ["nobody"]

    run(test)
