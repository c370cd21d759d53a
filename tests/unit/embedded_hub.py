"""One life of an embedded hub, for tests that turn its clock."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import uvloop

from meshq.adapters.clock import ManualClock
from meshq.adapters.embedded_broker import EmbeddedHub
from meshq.adapters.embedded_client import EmbeddedBroker
from meshq.core.topology import Topology
from meshq.ports import Delivery, Publication, Published
from tests.contract.broker_rigs import Recorder, published
from tests.doubles import settle

SECONDS = 20


class Life:
    """A hub, an open client of it, and the clock of both."""

    def __init__(self, hub: EmbeddedHub, broker: EmbeddedBroker, clock: ManualClock) -> None:
        self.hub = hub
        self.broker = broker
        self.clock = clock

    async def pass_time(self, seconds: float) -> None:
        """Let so much time pass, and everything happen that is due then."""
        self.clock.advance(seconds)
        for _ in range(30):  # what is due may lead to something that is due as well
            self.hub.tick()
            await settle()
            await self.hub.flush()

    async def confirm(self, *publications: Publication) -> None:
        assert await published(self.broker, *publications) == [Published.CONFIRMED] * len(publications)

    async def ready(self, *queues: str) -> list[int | None]:
        return [figures.ready for figures in await self.broker.stats(queues)]

    def inbox(self, queue: str, prefetch: int = 100, offset: int | str | None = None) -> Recorder[Delivery]:
        """What comes out of the queue, acknowledged at once."""
        inbox = Recorder[Delivery]()

        def take(delivery: Delivery) -> None:
            delivery.ack()
            inbox(delivery)

        self.broker.subscribe(queue, prefetch, take, offset=offset)
        return inbox


def live(
    story: Callable[[Life], Awaitable[None]],
    path: Path | None = None,
    *wanted: Topology,
    clock: ManualClock | None = None,
    **bounds: int,
) -> None:
    """From opening the file to closing it again."""
    given = clock or ManualClock()

    async def lived() -> None:
        hub = EmbeddedHub(path, given, **bounds)
        try:
            broker = hub.connect("orders")
            await broker.open()
            await broker.declare(sum(wanted, Topology()))
            assert broker.state.fault == ""
            await asyncio.wait_for(story(Life(hub, broker, given)), SECONDS)
        finally:
            await hub.close()

    uvloop.run(lived())


def bodies(deliveries: list[Delivery]) -> list[bytes]:
    return [delivery.body for delivery in deliveries]
