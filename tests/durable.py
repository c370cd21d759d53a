"""A service that receives durable messages and another that sends them, over the embedded broker, in virtual time."""

from collections.abc import Awaitable, Callable
from typing import Any, Self

from meshq.adapters.clock import ManualClock
from meshq.adapters.embedded_broker import EmbeddedHub
from meshq.adapters.embedded_store import EmbeddedStoreHub
from meshq.core import topology
from meshq.core.message import DeadLetter, Message, Request, decode, encode
from meshq.core.names import parse_version
from meshq.ports import Delivery, Once, Publication, Published, StoreAway
from meshq_sidecar.identity import Identity
from meshq_sidecar.job import Source
from tests.doubles import App, Asked, settle
from tests.receiver import TOPIC, WHO, Receiver
from tests.virtual_time import run, until

SENDER = "checkout"
WORK, DEAD = topology.work_queue(TOPIC), topology.dead_queue(TOPIC)
OTHER = Identity("orders", parse_version("2.1.0"), "i-2")


class AwayStore:
    """The embedded store as one of its clients sees it, which can be away."""

    def __init__(self, hub: EmbeddedStoreHub) -> None:
        self.away = False
        self.asked = 0
        self._store = hub.connect()

    async def once(self, *args: Any) -> Once:
        self._check()
        return await self._store.once(*args)

    async def done(self, *args: Any) -> None:
        self._check()
        await self._store.done(*args)

    async def free(self, *args: Any) -> None:
        self._check()
        await self._store.free(*args)

    async def start(self, *args: Any) -> list[bool]:
        self._check()
        return await self._store.start(*args)

    async def cancel(self, *args: Any) -> bool:
        return await self._store.cancel(*args)

    def _check(self) -> None:
        self.asked += 1
        if self.away:
            raise StoreAway("the store is away, says the test")


class Reluctant:
    """A broker's client whose durable publications the test decides about: those to an exchange in `fates` are not made and get
    the next fate from there; those to one in `held` are made, and what became of them is told later, with `tell`."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self.fates: dict[str, list[Published]] = {}
        self.held: dict[str, list[Callable[[], None]]] = {}
        self.published: list[Publication] = []
        """What was made."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    def publish(self, publication: Publication, done: Callable[[Published], None]) -> None:
        fates = self.fates.get(publication.exchange)
        if fates:
            done(fates.pop(0))
            return
        self.published.append(publication)
        held = self.held.get(publication.exchange)
        if held is None:
            self._client.publish(publication, done)
        else:
            self._client.publish(publication, lambda fate: held.append(lambda: done(fate)))

    def tell(self, exchange: str) -> None:
        for each in self.held.pop(exchange):
            each()


class Instance:
    """One instance of `orders`."""

    def __init__(self, world: "World", identity: Identity, **options: Any) -> None:
        self.client = world.hub.connect(world.user)
        self.broker = Reluctant(self.client)
        self.store = AwayStore(world.store_hub)
        self.app = App()
        self.receiver = Receiver(self.broker, self.store, world.clock, self.app, identity=identity, **options)
        self.work, self.inbound = self.receiver.work, self.receiver.inbound
        self.settler, self.metrics = self.receiver.settler, self.receiver.metrics

    async def open(self) -> None:
        """Connect, and take durable calls."""
        await self.client.open()
        wanted = topology.shared() + topology.service(TOPIC, ordered=True) + topology.results("orders")
        await self.client.declare(wanted)
        assert self.client.state.fault == ""
        self.work.add(Source(WORK, TOPIC))
        self.work.resume()

    async def asked(self, count: int) -> list[Asked]:
        """What the app was asked, so many times and no more."""
        await until(lambda: len(self.app.asked) >= count)
        await settle()
        assert len(self.app.asked) == count, [asked.headers["Meshq-Message-Id"] for asked in self.app.asked]
        return self.app.asked

    async def next(self) -> Asked:
        """The next that the app is asked, taken off the list."""
        await until(lambda: self.app.asked)
        return self.app.asked.pop(0)

    def idents(self) -> list[str]:
        """Ids of what the app was asked, in order."""
        return [asked.headers["Meshq-Message-Id"] for asked in self.app.asked]

    async def cut(self) -> None:
        """Its connection is lost, and there is a new one."""
        self.client.drop("cut by the test")
        await self.client.open()


class World:
    """`one` is the instance that most tests need. Its service sees `user` as its name at the broker."""

    def __init__(self, user: str = "orders", **options: Any) -> None:
        self.user = user
        self.clock = ManualClock()
        self.hub = EmbeddedHub(None, self.clock)
        self.store_hub = EmbeddedStoreHub(self.clock)
        self.checkout = self.hub.connect(SENDER)
        self.instances: list[Instance] = []
        self.one = self.instance(**options)
        self.results: list[Message] = []
        """What came to the sender's results queue."""
        self.packs: list[int] = []
        """How many came together."""

    def instance(self, identity: Identity = WHO, **options: Any) -> Instance:
        made = Instance(self, identity, **options)
        self.instances.append(made)
        return made

    async def __aenter__(self) -> Self:
        await self.checkout.open()
        await self.one.open()
        await self.checkout.declare(topology.results(SENDER))
        self.checkout.subscribe(topology.results_queue(SENDER), 100, self._on_result)
        return self

    async def __aexit__(self, *_: object) -> None:
        for instance in self.instances:
            await instance.receiver.close()
        await self.hub.close()

    def _on_result(self, delivery: Delivery) -> None:
        assert delivery.user_id == self.user
        messages = decode(delivery.body)
        assert delivery.message_id == messages[0].id
        self.results += messages
        self.packs.append(len(messages))
        delivery.ack()

    async def result(self) -> Message:
        await until(lambda: self.results)
        return self.results.pop(0)

    def send(self, *requests: Message, **more: Any) -> None:
        """As the sender's sidecar does; several in one message."""
        first = requests[0]
        key = topology.work_key(TOPIC)
        if isinstance(first, Request) and first.key:
            key = topology.key_key(TOPIC, topology.partition_of(first.key))
        made = Publication(
            topology.CALLS, key, b"".join(map(encode, requests)), first.id, "call", topology.results_key(SENDER)
        )
        self.publish(made._replace(**more))

    def publish(self, publication: Publication) -> None:
        fates: list[Published] = []
        self.checkout.publish(publication, fates.append)
        assert fates == [Published.CONFIRMED]

    async def ready(self, queue: str = WORK) -> tuple[int | None, int | None]:
        """(waiting in the queue, handed out)"""
        await settle()
        (stats,) = await self.checkout.stats([queue])
        return stats.ready, stats.in_flight

    async def nothing_left(self, *queues: str) -> None:
        for queue in queues or (WORK,):
            assert await self.ready(queue) == (0, 0)

    async def dead(self) -> DeadLetter:
        """The next dead letter."""
        deliveries: list[Delivery] = []
        subscription = self.checkout.subscribe(DEAD, 1, deliveries.append)
        await until(lambda: deliveries)
        subscription.cancel()
        (letter,) = decode(deliveries[0].body)
        deliveries[0].ack()
        assert isinstance(letter, DeadLetter)
        return letter


def story(told: Callable[[World], Awaitable[None]], **options: Any) -> None:
    """Run it in a world of its own, in virtual time."""
    world = World(**options)

    async def inside() -> None:
        async with world:
            await told(world)

    run(world.clock, inside())
