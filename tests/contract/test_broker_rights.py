"""The broker's own guard: a user with the rights of core/rights.py tries every door of a mesh, and finds its own open and all
others closed.

The service is `orders`: it may call `billing`, is called by `shop`, publishes `orders.placed`, keeps its log, and subscribes to
`payments.*`. `ledger` and everything about it is none of its business.
"""

import json
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pika
import pika.exceptions
import pytest
from pika.adapters.blocking_connection import BlockingChannel, BlockingConnection

from meshq.adapters.amqp import AmqpBroker
from meshq.adapters.clock import SystemClock
from meshq.core import rights as core_rights
from meshq.core import topology
from meshq.core.rights import rights
from meshq.core.topology import CALLS, DEAD, DELAY, EVENTS, LOST, REPLIES, RETURN, Topology, delay_key
from meshq.ports import BrokerState, Delivery, Publication, Published
from tests.contract.broker_rigs import BrokerRig, Recorder, eventually, published
from tests.servers import definitions
from tests.servers.rabbitmq import Cluster

ORDERS = rights(
    "orders",
    may_call=["billing"],
    called_by=["shop"],
    may_publish=["orders.placed"],
    may_subscribe=["payments.*"],
    logs=["orders.placed"],
)
PASSWORD = "secret"
ACCESS_REFUSED = 403
PAID = "payments.settled.v1"
OWN, OTHER = "meshq.orders.v1.work", "meshq.ledger.v1.work"
STARS = "*." * topology.DELAY_LEVELS


class Mesh:
    """A virtual host with the shared part loaded, everything of `ledger`, and users `orders` and `ledger`."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.vhost = cluster.new_vhost()
        self.users: dict[str, str] = {}
        cluster.management.import_definitions(self.vhost, json.loads(definitions.FILE.read_text()))
        for given in (ORDERS, rights("ledger")):
            user = self.users[given.service] = f"{given.service}-{self.vhost}"
            permissions = (given.configure, given.write, given.read)
            cluster.add_user(user, PASSWORD, self.vhost, permissions, {t.exchange: t[1:] for t in given.topics})
        self._connections: dict[str, BlockingConnection] = {}
        with_all = self.channel("ledger")
        for wanted in (
            topology.service("ledger.v1", ordered=True),
            topology.results("ledger"),
            topology.subscription("ledger.v1", "paid", PAID),
        ):
            declare(with_all, wanted)
        admin = self.channel(cluster.user)
        for wanted in (
            topology.log(PAID),
            topology.log("ledger.booked.v1"),
            topology.service("billing.v1", ordered=True),
        ):
            declare(admin, wanted)

    def channel(self, service: str) -> BlockingChannel:
        connection = self._connections.get(service)
        if connection is None or not connection.is_open:
            connection = self._connections[service] = self._connect(service)
        return connection.channel()

    def _connect(self, service: str) -> BlockingConnection:
        host, port = self.cluster.addresses[0]
        user = self.users.get(service, service)
        login = pika.PlainCredentials(user, PASSWORD if service in self.users else self.cluster.password)
        return BlockingConnection(pika.ConnectionParameters(host, port, self.vhost, login))

    def url(self, service: str) -> str:
        return self.cluster.url(self.vhost, self.users[service], PASSWORD)

    def close(self) -> None:
        for connection in self._connections.values():
            if connection.is_open:
                connection.close()
        self.cluster.delete_vhost(self.vhost)


def mesh_on(fixture: str, request: pytest.FixtureRequest) -> Iterator[Mesh]:
    mesh = Mesh(request.getfixturevalue(fixture))
    yield mesh
    mesh.close()


@pytest.fixture(
    scope="module",
    params=[
        pytest.param("rabbitmq", marks=pytest.mark.rabbitmq),
        pytest.param("rabbitmq4", marks=pytest.mark.docker),
    ],
)
def mesh(request: pytest.FixtureRequest) -> Iterator[Mesh]:
    yield from mesh_on(request.param, request)


# --- doors ------------------------------------------------------------------------------------------------------------------

Try = Callable[[BlockingChannel], Any]


def declare(channel: BlockingChannel, wanted: Topology) -> None:
    for queue in wanted.queues:
        channel.queue_declare(
            queue.name, durable=queue.durable, exclusive=queue.exclusive, arguments=dict(queue.arguments)
        )
    for binding in wanted.bindings:
        channel.queue_bind(binding.destination, binding.source, binding.key)


def declares(wanted: Topology) -> Try:
    return lambda channel: declare(channel, wanted)


def queue(name: str, **arguments: str) -> Try:
    named = {f"x-{key.replace('_', '-')}": value for key, value in arguments.items()}
    return lambda channel: channel.queue_declare(name, durable=True, arguments={"x-queue-type": "quorum", **named})


def exchange(name: str, **arguments: str) -> Try:
    return lambda channel: channel.exchange_declare(name, "topic", durable=True, arguments=arguments)


def binds(name: str, source: str, key: str) -> Try:
    return lambda channel: channel.queue_bind(name, source, key)


def binds_exchange(name: str, source: str, key: str) -> Try:
    return lambda channel: channel.exchange_bind(name, source, key)


def unbinds(name: str, source: str, key: str) -> Try:
    return lambda channel: channel.queue_unbind(name, source, key)


def deletes(name: str) -> Try:
    return lambda channel: channel.queue_delete(name)


def purges(name: str) -> Try:
    return lambda channel: channel.queue_purge(name)


def gets(name: str) -> Try:
    return lambda channel: channel.basic_get(name)


def consumes(name: str) -> Try:
    def attempt(channel: BlockingChannel) -> None:
        channel.basic_qos(prefetch_count=1)
        channel.basic_cancel(channel.basic_consume(name, lambda *_: None))

    return attempt


def publishes(to: str, key: str, user: str | None = None) -> Try:
    def attempt(channel: BlockingChannel) -> None:
        channel.confirm_delivery()
        properties = pika.BasicProperties(user_id=user, delivery_mode=2)
        with suppress(pika.exceptions.UnroutableError):  # it is taken; that nobody listens is another matter
            channel.basic_publish(to, key, b"x", properties, mandatory=True)

    return attempt


def unmade(method: str, name: str) -> Try:
    return lambda channel: getattr(channel, method)(name)


def delayed(destination: str, seconds: int = 0) -> Try:
    return publishes(DELAY, delay_key(seconds, destination))


OWN_PARTS = {
    "calls and work": topology.service("orders.v1", ordered=True),
    "another major": topology.service("orders.v2"),
    "results": topology.results("orders"),
    "replies": topology.replies("orders", "a", "1"),
    "shared": topology.subscription("orders.v1", "paid", PAID),
    "exclusive": topology.subscription("orders.v1", "one", PAID, exclusive=True),
    "a pattern": topology.subscription("orders.v1", "all", "payments.*.v1"),
    "ordered": topology.ordered_subscription("orders.v1", "row", PAID),
    "broadcast": topology.broadcast_subscription("orders.v1", "cast", PAID, "a"),
    "replay": topology.replay_subscription("orders.v1", "again"),
    "its log": topology.log("orders.placed.v1"),
}

OPEN: dict[str, Try] = {
    **{f"declare {name}": declares(wanted) for name, wanted in OWN_PARTS.items()},
    "get from its queue": gets(OWN),
    "consume its queue": consumes(OWN),
    "consume its dead letters": consumes("meshq.orders.v1.dead"),
    "consume its results": consumes("meshq.orders.results"),
    "read the log of an event it may subscribe to": consumes(f"meshq.log.{PAID}"),
    "purge its queue": purges(OWN),
    "unbind its queue": unbinds("meshq.orders.v1.on.all", EVENTS, "payments.*.v1.*"),
    "delete its queue": deletes("meshq.orders.v1.on.again"),
    "call whom it may": publishes(CALLS, "billing.v1.call"),
    "send whom it may work": publishes(CALLS, "billing.v2.work"),
    "send whom it may work with a key": publishes(CALLS, "billing.v1.key.3"),
    "call itself": publishes(CALLS, "orders.v1.work"),
    "publish its event": publishes(EVENTS, "orders.placed.v1.0"),
    "publish its event with a key": publishes(EVENTS, "orders.placed.v2.7"),
    "answer its caller": publishes(REPLIES, "shop.shop-7d9f-k3m2qa.0f1e"),
    "answer its caller durably": publishes(REPLIES, "shop.results"),
    "answer itself": publishes(REPLIES, "orders.results"),
    "bury its dead": publishes(DEAD, "meshq.orders.v1.dead"),
    "retry its work": delayed(OWN, 5),
    "retry what it subscribed to": delayed("meshq.orders.v1.on.paid", 5),
    "delay work for whom it may call": delayed("meshq.billing.v1.work", 3600),
    "delay work with a key for whom it may call": delayed("meshq.billing.v1.key.0", 3600),
    "delay its event": delayed("event.orders.placed.v1.0", 3600),
}

CLOSED: dict[str, Try] = {
    # declaring and deleting what is another's, or the mesh's
    "declare another's queue": queue(OTHER),
    "declare a queue that another may want": queue("meshq.shop.v1.work"),
    "declare a queue of a service whose name begins like its own": queue("meshq.orders-eu.v1.work"),
    "declare a queue outside of the mesh": queue("anything"),
    "declare a queue whose name the broker makes": lambda channel: channel.queue_declare("", exclusive=True),
    "declare a delay level": queue("meshq.delay.20"),
    "declare a log that is none of its": queue("meshq.log.ledger.booked.v1"),
    "declare a log of what it only reads": queue("meshq.log.payments.other.v1"),
    "declare an exchange of the mesh": exchange("meshq.extra"),
    "delete another's queue": deletes(OTHER),
    "delete a delay level": deletes("meshq.delay.3"),
    "delete the lost": deletes(LOST),
    "delete a log that it reads": deletes(f"meshq.log.{PAID}"),
    "delete an exchange": unmade("exchange_delete", CALLS),
    "delete an inner exchange": unmade("exchange_delete", RETURN),
    "purge another's queue": purges(OTHER),
    "purge the lost": purges(LOST),
    "dead-letter from its queue to the default exchange": queue("meshq.orders.v1.on.x", dead_letter_exchange=""),
    "dead-letter from its queue to an inner exchange": queue("meshq.orders.v1.on.x", dead_letter_exchange=RETURN),
    "have an inner exchange for an alternate": exchange("meshq.orders.x", **{"alternate-exchange": RETURN}),
    # binding
    "bind its queue to another's calls": binds(OWN, CALLS, "ledger.v1.call"),
    "bind its queue to another's work": binds(OWN, CALLS, "ledger.v1.work"),
    "bind its queue to all calls": binds(OWN, CALLS, "#"),
    "bind its queue to all work": binds(OWN, CALLS, "*.*.work"),
    "bind its queue to calls of a service whose name begins like its own": binds(OWN, CALLS, "orders-eu.v1.call"),
    "bind its queue to an event it may not subscribe to": binds(OWN, EVENTS, "ledger.booked.v1.*"),
    "bind its queue to all events": binds(OWN, EVENTS, "#"),
    "bind its queue to a wider pattern": binds(OWN, EVENTS, "payments.#.v1.*"),
    "bind its queue to a pattern in front": binds(OWN, EVENTS, "*.settled.v1.*"),
    "bind its queue to another's replies": binds(OWN, REPLIES, "ledger.ledger-1.0f1e"),
    "bind its queue to another's results": binds(OWN, REPLIES, "ledger.results"),
    "bind its queue to all replies": binds(OWN, REPLIES, "#"),
    "bind its queue to another's dead letters": binds(OWN, DEAD, "meshq.ledger.v1.dead"),
    "bind its queue to all dead letters": binds(OWN, DEAD, "#"),
    "bind its queue to another's retries": binds(OWN, RETURN, f"{STARS}{OTHER}"),
    "bind its queue to all retries": binds(OWN, RETURN, "#"),
    "bind its queue to all delayed things but one word": binds(OWN, RETURN, f"{STARS}#"),
    "bind its queue to a delayed event it may not subscribe to": binds(OWN, RETURN, f"{STARS}event.ledger.booked.v1.*"),
    "bind its queue to all delayed events": binds(OWN, RETURN, f"{STARS}event.#"),
    "bind its queue into the delay levels": binds(OWN, DELAY, "#"),
    "bind its queue to what is lost": binds(OWN, LOST, ""),
    "bind another's queue to its calls": binds(OTHER, CALLS, "orders.v1.work"),
    "bind a log to more": binds(f"meshq.log.{PAID}", EVENTS, "#"),
    "bind its log to another event": binds("meshq.log.orders.placed.v1", EVENTS, "ledger.booked.v1.*"),
    "unbind another's queue": unbinds(OTHER, CALLS, "ledger.v1.work"),
    "unbind another's subscription": unbinds("meshq.ledger.v1.on.paid", EVENTS, f"{PAID}.*"),
    "bind the exchanges to each other": binds_exchange(EVENTS, CALLS, "#"),
    "bind an inner exchange": binds_exchange("meshq.delay.3", EVENTS, "#"),
    # reading
    "get from another's queue": gets(OTHER),
    "consume another's queue": consumes(OTHER),
    "consume another's calls": consumes("meshq.ledger.v1.call"),
    "consume another's dead letters": consumes("meshq.ledger.v1.dead"),
    "consume another's results": consumes("meshq.ledger.results"),
    "consume another's subscription": consumes("meshq.ledger.v1.on.paid"),
    "consume the queue of whom it may call": consumes("meshq.billing.v1.work"),
    "consume the lost": consumes(LOST),
    "consume a delay level": consumes("meshq.delay.3"),
    "read the log of an event it may not subscribe to": consumes("meshq.log.ledger.booked.v1"),
    # publishing
    "call whom it may not": publishes(CALLS, "ledger.v1.call"),
    "send whom it may not work": publishes(CALLS, "ledger.v1.work"),
    "send whom it may not work with a key": publishes(CALLS, "ledger.v1.key.0"),
    "call a service whose name begins like one it may": publishes(CALLS, "billing-eu.v1.call"),
    "call under a key that is none": publishes(CALLS, "billing.v1.call.ledger"),
    "publish an event that is not its": publishes(EVENTS, f"{PAID}.0"),
    "publish an event that begins like its": publishes(EVENTS, "orders.placed.twice.v1.0"),
    "answer who did not ask": publishes(REPLIES, "ledger.ledger-1.0f1e"),
    "answer durably who did not ask": publishes(REPLIES, "ledger.results"),
    "bury in another's name": publishes(DEAD, "meshq.ledger.v1.dead"),
    "bury in the name of whom it may call": publishes(DEAD, "meshq.billing.v1.dead"),
    "delay work for whom it may not call": delayed(OTHER, 1),
    "delay past a subscription's event": delayed("meshq.ledger.v1.on.paid", 1),
    "delay a dead letter": delayed("meshq.billing.v1.dead", 1),
    "delay a result": delayed("meshq.billing.results", 1),
    "delay an event that is not its": delayed(f"event.{PAID}.0", 1),
    "delay with more bits than there are": publishes(DELAY, f"{'0.' * (topology.DELAY_LEVELS + 1)}{OWN}"),
    "publish to an inner exchange": publishes(RETURN, f"{'0.' * topology.DELAY_LEVELS}{OWN}"),
    "publish to a delay level": publishes("meshq.delay.0", f"{'0.' * topology.DELAY_LEVELS}{OWN}"),
    "publish to the lost": publishes(LOST, ""),
    "publish to another's queue by the default exchange": publishes("", OTHER),
    "publish to its own queue by the default exchange": publishes("", OWN),
    "publish to the broker's own exchanges": publishes("amq.topic", "x"),
}  # fmt: skip


@pytest.fixture(scope="module")
def declared(mesh: Mesh) -> Mesh:
    """Everything of `orders` is there, declared by itself."""
    channel = mesh.channel("orders")
    for wanted in OWN_PARTS.values():
        declare(channel, wanted)
    return mesh


def refusal(mesh: Mesh, attempt: Try) -> int:
    """The code with which the broker closed the channel or connection, 0 where it did not."""
    channel = mesh.channel("orders")
    try:
        attempt(channel)
    except (pika.exceptions.ChannelClosedByBroker, pika.exceptions.ConnectionClosedByBroker) as error:
        return error.reply_code
    channel.close()
    return 0


@pytest.mark.parametrize("door", OPEN)
def test_its_own_door_is_open(declared: Mesh, door: str) -> None:
    assert refusal(declared, OPEN[door]) == 0


@pytest.mark.parametrize("door", CLOSED)
def test_every_other_door_is_closed(declared: Mesh, door: str) -> None:
    assert refusal(declared, CLOSED[door]) == ACCESS_REFUSED


def test_nobody_publishes_under_another_name(declared: Mesh) -> None:
    forged = publishes(CALLS, "billing.v1.call", declared.users["ledger"])
    assert refusal(declared, forged) == 406  # PRECONDITION_FAILED: not the authenticated user
    assert refusal(declared, publishes(CALLS, "billing.v1.call", declared.users["orders"])) == 0


def test_whoever_may_do_everything_may_do_what_is_its(mesh: Mesh) -> None:
    """The rights of `ledger` name no others: it calls, publishes and subscribes as it likes, and is kept out of other queues."""
    channel = mesh.channel("ledger")
    for attempt in (
        publishes(CALLS, "shop.v3.call"),
        publishes(EVENTS, "a.b.c.v1.0"),
        binds(OTHER, EVENTS, "#.v1.*"),
        delayed("event.a.v1.0", 9),
    ):
        attempt(channel)
    for attempt in (gets("meshq.billing.v1.work"), queue("meshq.billing.v1.call"), binds(OTHER, CALLS, "#")):
        with pytest.raises(pika.exceptions.ChannelClosedByBroker, match="403"):
            attempt(mesh.channel("ledger"))


# --- ways around ------------------------------------------------------------------------------------------------------------


def by_dead_letters(to: str, key: str) -> Try:
    """From a queue of its own, whose messages are dead at once."""

    def attempt(channel: BlockingChannel) -> None:
        arguments = {
            "x-message-ttl": 0,
            "x-dead-letter-exchange": to,
            "x-dead-letter-routing-key": key,
        }
        channel.queue_declare("meshq.orders.trick", durable=True, arguments=arguments)
        channel.queue_bind("meshq.orders.trick", CALLS, "orders.v9.work")
        channel.basic_publish(CALLS, "orders.v9.work", b"smuggled")

    return attempt


def by_alternate(to: str, key: str) -> Try:
    """From an exchange of its own, that no queue takes."""

    def attempt(channel: BlockingChannel) -> None:
        channel.exchange_declare("meshq.orders.trick", "topic", arguments={"alternate-exchange": to})
        channel.basic_publish("meshq.orders.trick", key, b"smuggled")

    return attempt


def by_binding(to: str, key: str) -> Try:
    """From an exchange of its own, bound to another."""

    def attempt(channel: BlockingChannel) -> None:
        channel.exchange_declare("meshq.orders.trick", "topic")
        channel.exchange_bind(to, "meshq.orders.trick", "#")
        channel.basic_publish("meshq.orders.trick", key, b"smuggled")

    return attempt


WAYS = {
    f"{name}, {place}": way(to, key)
    for name, way in (("dead letters", by_dead_letters), ("alternate", by_alternate), ("binding", by_binding))
    for place, to, key in (
        ("to calls", CALLS, "ledger.v1.work"),
        ("at once", DELAY, delay_key(0, OTHER)),
        ("delayed", DELAY, delay_key(1, OTHER)),
    )
}


@pytest.mark.parametrize("way", WAYS)
async def test_what_comes_by_a_way_around_proves_nothing(declared: Mesh, way: str, clients: "Clients") -> None:
    """No right of RabbitMQ's forbids these; so what comes by them has nobody's word."""
    ledger = await clients.connect("ledger")
    found = Recorder[Delivery]()
    ledger.subscribe(OTHER, 10, found)
    channel = declared.channel("orders")
    WAYS[way](channel)
    (smuggled,) = await found.until(lambda seen: any(d.body == b"smuggled" for d in seen))
    assert smuggled.user_id == ""
    smuggled.ack()
    channel.exchange_delete("meshq.orders.trick")
    channel.queue_delete("meshq.orders.trick")


async def test_what_comes_straight_or_delayed_proves_its_sender(declared: Mesh, clients: "Clients") -> None:
    ledger, orders = await clients.connect("ledger"), await clients.connect("orders")
    await ledger.declare(topology.service("ledger.v1"))
    billing = AmqpBroker(declared.cluster.url(declared.vhost), name="billing", clock=SystemClock())
    clients.add(billing)
    await billing.open()
    found = Recorder[Delivery]()
    billing.subscribe("meshq.billing.v1.work", 10, found)
    straight = Publication(CALLS, "billing.v1.work", b"straight", "m1", "call")
    later = Publication(DELAY, delay_key(3, "meshq.billing.v1.work"), b"delayed", "m2", "call")
    assert await published(orders, straight, later) == [Published.CONFIRMED] * 2
    seen = await found.until(lambda seen: {b"straight", b"delayed"} <= {d.body for d in seen})
    assert {d.user_id for d in seen if d.body in (b"straight", b"delayed")} == {declared.users["orders"]}
    for delivery in seen:
        delivery.ack()


# --- a service at work ------------------------------------------------------------------------------------------------------


class Clients(BrokerRig):
    """Adapters with the rights of one service."""

    def __init__(self, mesh: Mesh) -> None:
        super().__init__()
        self._mesh = mesh

    def new(self) -> AmqpBroker:
        return AmqpBroker(self._mesh.url("orders"), name="orders", clock=SystemClock())

    def add(self, client: AmqpBroker) -> None:
        self._clients.append(client)

    async def cut(self, client: Any) -> None:
        client.cut()

    async def connect(self, service: str = "orders") -> AmqpBroker:
        client = AmqpBroker(self._mesh.url(service), name=service, clock=SystemClock())
        self.add(client)
        await client.open()
        return client


@pytest.fixture
def clients(mesh: Mesh) -> Clients:
    return Clients(mesh)


async def test_all_the_durable_traffic_of_a_service_works_with_its_own_rights(mesh: Mesh, clients: Clients) -> None:
    orders = await clients.connect()
    exclusive = {
        "replies": topology.replies("orders", "b", "2"),
        "broadcast": topology.broadcast_subscription("orders.v1", "cast", PAID, "b"),
    }
    wanted = OWN_PARTS | exclusive
    await orders.declare(topology.shared())
    for part in wanted.values():
        await orders.declare(part)
    assert orders.state == BrokerState(True, True, "")
    inbox = Recorder[Delivery]()
    # The other subscriptions have their copies too; these are enough to see each exchange lead to its queue.
    for name in (
        OWN,
        "meshq.orders.v1.key.3",
        "meshq.orders.results",
        "meshq.orders.v1.dead",
        "meshq.orders.v1.on.paid",
    ):
        orders.subscribe(name, 10, inbox)
    mine = [
        Publication(CALLS, "orders.v1.work", b"work", "m1", "call"),
        Publication(CALLS, "orders.v1.key.3", b"key", "m2", "call"),
        Publication(REPLIES, "orders.results", b"result", "m3", "result"),
        Publication(DEAD, "meshq.orders.v1.dead", b"dead", "m4", "dead"),
        Publication(DELAY, delay_key(1, OWN), b"retry", "m5", "retry"),
        Publication(DELAY, delay_key(1, "meshq.orders.v1.on.paid"), b"event retry", "m6", "retry"),
    ]
    assert await published(orders, *mine) == [Published.CONFIRMED] * len(mine)
    bodies = {publication.body for publication in mine}
    seen = await inbox.until(lambda seen: bodies <= {delivery.body for delivery in seen})
    assert {delivery.user_id for delivery in seen if delivery.body in bodies} == {mesh.users["orders"]}
    for delivery in seen:
        delivery.ack()
    held = await orders.hold("meshq.orders.v1.dead", 10)
    assert list(held.deliveries) == []
    await held.release()
    await orders.withdraw(OWN_PARTS["a pattern"])
    assert orders.state == BrokerState(True, True, "")


async def test_what_it_may_not_publish_is_refused_and_the_rest_goes_on(mesh: Mesh, clients: Clients) -> None:
    orders = await clients.connect()
    await orders.declare(topology.service("orders.v1"))
    refused = Publication(CALLS, "ledger.v1.work", b"no", "m1", "call")
    assert await published(orders, refused) in ([Published.REFUSED], [Published.UNKNOWN])

    async def goes_on() -> bool:
        allowed = Publication(CALLS, "orders.v1.work", b"yes", "m2", "call")
        return await published(orders, allowed) == [Published.CONFIRMED]

    await eventually(goes_on)


# --- to apply them -----------------------------------------------------------------------------------------------------------


def test_the_definitions_that_are_rendered_are_taken_and_are_these_rights(mesh: Mesh) -> None:
    management = mesh.cluster.management
    user = f"shop-{mesh.vhost}"
    management.create_user(user, PASSWORD)
    given = rights("shop", may_call=["orders"])
    rendered = json.loads(core_rights.definitions([given], mesh.vhost).replace('"shop"', f'"{user}"'))
    try:
        management.request("POST", "definitions", rendered, timeout=60)
        found = management.request("GET", f"permissions/{mesh.vhost}/{user}")
        assert (found["configure"], found["write"], found["read"]) == (given.configure, given.write, given.read)
        topics = management.request("GET", f"topic-permissions/{mesh.vhost}/{user}")
        assert {(t["exchange"], t["write"], t["read"]) for t in topics} == set(given.topics)
    finally:
        management.delete_user(user)
