"""What the broker suite runs on: clients of one broker, and what only the outside can do to them."""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, Generic, TypeVar

from meshq.adapters.amqp import AmqpBroker
from meshq.adapters.clock import SystemClock
from meshq.adapters.embedded_broker import EmbeddedHub
from meshq.adapters.embedded_client import EmbeddedBroker
from meshq.core.topology import CALLS, Binding, Queue, Topology
from meshq.ports import Broker, Delivery, Publication, Published

SECONDS = 20
"""The longest wait for something that must happen; over a healthy broker it takes milliseconds."""


class BrokerRig(ABC):
    """One broker, empty at the start of the test."""

    def __init__(self) -> None:
        self._clients: list[Broker] = []

    async def connect(self) -> Broker:
        """An open client."""
        client = self.client()
        await client.open()
        return client

    def client(self) -> Broker:
        """A client that is not open yet; closed with the rig."""
        client = self.new()
        self._clients.append(client)
        return client

    async def close(self) -> None:
        for client in self._clients:
            await client.close()

    @abstractmethod
    def new(self) -> Broker: ...
    @abstractmethod
    async def cut(self, client: Broker) -> None:
        """Break the client's connection, as a network does. It comes back by itself, at once or later."""


class EmbeddedRig(BrokerRig):
    def __init__(self, path: Path | None) -> None:
        super().__init__()
        self._path = path
        self._hub: EmbeddedHub | None = None

    def new(self) -> Broker:
        if self._hub is None:
            self._hub = EmbeddedHub(self._path, SystemClock())
        return self._hub.connect("orders")

    async def cut(self, client: Broker) -> None:
        assert isinstance(client, EmbeddedBroker)
        client.drop("cut by the test")
        await client.open()

    async def close(self) -> None:
        await super().close()
        if self._hub is not None:
            await self._hub.close()


class RabbitRig(BrokerRig):
    def __init__(self, url: str) -> None:
        super().__init__()
        self._url = url

    def new(self) -> Broker:
        return AmqpBroker(self._url, name="contract", clock=SystemClock())

    async def cut(self, client: Broker) -> None:
        assert isinstance(client, AmqpBroker)
        client.cut()


T = TypeVar("T")


class Recorder(Generic[T]):
    """Collects what a callback is called with, and waits for it."""

    def __init__(self) -> None:
        self.seen: list[T] = []
        self._more = asyncio.Event()

    def __call__(self, thing: T) -> None:
        self.seen.append(thing)
        self._more.set()

    async def until(self, good: Callable[[list[T]], bool]) -> list[T]:
        """Returns what was seen, once it is `good`. Raises TimeoutError."""
        async with asyncio.timeout(SECONDS):
            while not good(self.seen):
                self._more.clear()
                await self._more.wait()
        return self.seen

    async def count(self, number: int) -> list[T]:
        return await self.until(lambda seen: len(seen) >= number)


class Replies:
    """A `ReplyHandler` that records: (correlation id, delivery), ids of unroutable messages, what was lost."""

    def __init__(self) -> None:
        self.answers = Recorder[tuple[str, Delivery]]()
        self.unroutable = Recorder[str]()
        self.losses = Recorder[None]()
        self.refused = Recorder[tuple[str, str, str]]()
        self.sends_lost = Recorder[None]()

    def on_reply(self, correlation_id: str, delivery: Delivery) -> None:
        self.answers((correlation_id, delivery))

    def on_unroutable(self, message_id: str) -> None:
        self.unroutable(message_id)

    def on_replies_lost(self) -> None:
        self.losses(None)

    def on_refused(self, exchange: str, key: str, reason: str) -> None:
        self.refused((exchange, key, reason))

    def on_sends_lost(self) -> None:
        self.sends_lost(None)


def queue(name: str, *, limit: int = 50) -> Topology:
    """A quorum queue that gets what is sent to the calls exchange with its name as the key."""
    spec = Queue(name, (("x-queue-type", "quorum"), ("x-delivery-limit", limit)))
    return Topology(queues=(spec,), bindings=(Binding(CALLS, name, name),))


def message(name: str, body: bytes = b"hello", ident: str = "m1", **more: Any) -> Publication:
    """For the queue `name`."""
    return Publication(CALLS, name, body, ident, "call")._replace(**more)


async def published(client: Broker, *messages: Publication) -> list[Published]:
    """Publish them in order, no more than 500 of them unconfirmed. Returns what became of each."""
    fates: list[Published | None] = [None] * len(messages)
    told = Recorder[Published]()

    def done(at: int, fate: Published) -> None:
        assert fates[at] is None, "told twice"
        fates[at] = fate
        told(fate)

    for at, each in enumerate(messages):
        await told.count(at - 500)
        client.publish(each, partial(done, at))
    await told.count(len(messages))
    return [fate for fate in fates if fate is not None]


async def eventually(question: Callable[[], Awaitable[bool]]) -> None:
    """Ask again until the answer is yes. Raises TimeoutError."""
    never = asyncio.Event()
    async with asyncio.timeout(SECONDS):
        while not await question():
            with suppress(TimeoutError):
                await asyncio.wait_for(never.wait(), 0.02)
