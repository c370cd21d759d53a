"""A sidecar's spool and forwarder before a broker, and who takes what comes out of it."""

from pathlib import Path

from meshq.adapters.clock import SystemClock
from meshq.adapters.spool import DiskSpool
from meshq.core import topology
from meshq.core.topology import CALLS
from meshq.ports import Broker, Delivery, Publication, Spooled
from meshq_sidecar.spooling import SpoolForwarder
from tests.contract.broker_rigs import Recorder, eventually
from tests.doubles import Counted

ORDERS, SHOP = "orders.v1", "shop.v3"
WORK = topology.work_queue(ORDERS)


class Sidecar:
    """One life of a sidecar's spool and forwarder."""

    def __init__(self, directory: Path, broker: Broker) -> None:
        self.metrics = Counted()
        self.spool = DiskSpool(directory, 64 * 2**20, SystemClock())
        self.forwarder = SpoolForwarder(self.spool, broker, SystemClock(), self.metrics, SHOP, "shop/3.1.0/s-1")
        self.forwarder.start()

    async def accept(self, *publications: Publication) -> None:
        fates = Recorder[Spooled]()
        for each in publications:
            self.forwarder.accept(each, fates)
        assert set(await fates.count(len(publications))) == {Spooled.WRITTEN}

    async def empty(self) -> None:
        async def idle() -> bool:
            return self.forwarder.idle

        await eventually(idle)

    async def end(self, timeout: float = 0) -> None:
        await self.forwarder.close(timeout)
        await self.spool.close()


def work(number: int, topic: str = ORDERS) -> Publication:
    return Publication(CALLS, topology.work_key(topic), b"%d" % number, f"m{number}", "call", "shop.results")


def inbox_of(client: Broker, queue: str) -> Recorder[Delivery]:
    inbox = Recorder[Delivery]()

    def take(delivery: Delivery) -> None:
        delivery.ack()
        inbox(delivery)

    client.subscribe(queue, 500, take)
    return inbox


def numbers(deliveries: list[Delivery]) -> list[int]:
    return [int(delivery.body) for delivery in deliveries]


def first_of_each(found: list[int]) -> list[int]:
    return list(dict.fromkeys(found))


async def all_came(inbox: Recorder[Delivery], count: int) -> list[int]:
    """What came, once there are so many different ones."""
    return numbers(await inbox.until(lambda seen: len(seen) >= count and len(set(numbers(seen))) >= count))
