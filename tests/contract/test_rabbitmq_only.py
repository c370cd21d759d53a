"""What the AMQP adapter does with a real RabbitMQ that no other broker has: declaring with few rights, queues that operators
delete, channels that the broker closes."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from meshq.adapters import amqp_hold
from meshq.adapters.amqp import AmqpBroker
from meshq.adapters.clock import SystemClock
from meshq.core import topology
from meshq.core.topology import EVENTS, Topology, log_queue, shared
from meshq.ports import BrokerState, Delivery, Held, Priorities, Publication, Published
from tests.contract.broker_rigs import RabbitRig, Recorder, eventually, message, published, queue
from tests.servers import definitions
from tests.servers.rabbitmq import Cluster

ORDERS = "meshq.orders.v1.work"
OWN_ONLY = (r"^meshq\.orders\.", r"^meshq\.(orders\.|(calls|events|replies|dead|delay)$)", r"^meshq\.(orders\.|(calls|events|replies|dead|return)$)")  # fmt: skip


class Rabbit(RabbitRig):
    """A virtual host of the test's own, and what an operator can do to it."""

    def __init__(self, cluster: Cluster, vhost: str) -> None:
        super().__init__(cluster.url(vhost))
        self.cluster = cluster
        self.vhost = vhost

    def as_user(self, name: str, permissions: tuple[str, str, str]) -> AmqpBroker:
        """A client, not open yet, that has only these rights to configure, write and read."""
        user = f"{name}-{self.vhost}"
        self.cluster.add_user(user, "secret", self.vhost, permissions)
        client = AmqpBroker(self.cluster.url(self.vhost, user, "secret"), name=name, clock=SystemClock())
        self._clients.append(client)
        return client

    def load_definitions(self) -> None:
        self.cluster.management.import_definitions(self.vhost, json.loads(definitions.FILE.read_text()))

    def operate(self, method: str, kind: str, name: str, body: object = None) -> Any:
        return self.cluster.management.request(method, f"{kind}/{self.vhost}/{name}", body)

    def delete_queue(self, name: str) -> None:
        self.operate("DELETE", "queues", name)

    def inventory(self) -> tuple[list[str], list[str], list[str]]:
        """Exchanges, queues and bindings that are there, less the server's own."""
        found = self.cluster.management.definitions(self.vhost)
        return (
            sorted(e["name"] for e in found["exchanges"]),
            sorted(q["name"] for q in found["queues"]),
            sorted(f"{b['source']} -> {b['destination']} {b['routing_key']}" for b in found["bindings"]),
        )


@pytest.fixture(
    params=[
        pytest.param("rabbitmq", marks=pytest.mark.rabbitmq),
        pytest.param("rabbitmq4", marks=pytest.mark.docker),
        pytest.param("rabbitmq3", marks=[pytest.mark.docker, pytest.mark.long]),
    ]
)
def rabbit(request: pytest.FixtureRequest) -> Iterator[Rabbit]:
    cluster: Cluster = request.getfixturevalue(request.param)
    vhost = cluster.new_vhost()
    yield Rabbit(cluster, vhost)
    cluster.delete_vhost(vhost)


def names(wanted: Topology) -> tuple[list[str], list[str], list[str]]:
    return (
        sorted(exchange.name for exchange in wanted.exchanges),
        sorted(q.name for q in wanted.queues),
        sorted(f"{b.source} -> {b.destination} {b.key}" for b in wanted.bindings),
    )


async def inbox(client: AmqpBroker, name: str, prefetch: int = 10, **more: Any) -> Recorder[Delivery]:
    found = Recorder[Delivery]()
    client.subscribe(name, prefetch, found, **more)
    return found


# --- the shared part ------------------------------------------------------------------------------------------------------


async def test_a_bare_virtual_host_gets_all_of_the_shared_part(rabbit: Rabbit) -> None:
    client = await rabbit.connect()
    await client.declare(shared())
    assert client.state.fault == ""
    assert rabbit.inventory() == names(shared())
    delayed = Publication(topology.DELAY, topology.delay_key(1, "meshq.nobody.v1.work"), b"", "m1", "work")
    assert await published(client, delayed) == [Published.CONFIRMED]

    async def lost() -> bool:
        return [stats.ready for stats in await client.stats([topology.LOST])] == [1]

    await eventually(lost)


async def test_with_definitions_loaded_a_restricted_user_configures_nothing_of_it(rabbit: Rabbit) -> None:
    rabbit.load_definitions()
    client = rabbit.as_user("orders", OWN_ONLY)
    await client.declare(shared())
    await client.declare(topology.service("orders.v1"))
    await client.open()
    assert client.state == BrokerState(True, True, "")
    assert rabbit.inventory() == names(shared() + topology.service("orders.v1"))


async def test_a_restricted_user_on_a_bare_virtual_host_says_what_it_lacks_until_it_is_there(rabbit: Rabbit) -> None:
    client = rabbit.as_user("orders", OWN_ONLY)
    await client.declare(shared())
    await client.open()
    fault = client.state.fault
    assert "lacks the configure right on exchange 'meshq.calls'" in fault, fault
    assert "broker-config/definitions.json" in fault
    assert not client.state.publishing
    states = Recorder[BrokerState]()
    client.on_state(states)
    rabbit.load_definitions()
    await states.until(lambda seen: bool(seen) and seen[-1] == BrokerState(True, True, ""))


async def test_one_who_died_half_way_through_the_shared_part_is_made_up_for(rabbit: Rabbit) -> None:
    first = await rabbit.connect()
    exchanges = tuple(exchange for exchange in shared().exchanges if exchange.name != EVENTS)
    await first.declare(Topology(exchanges, shared().queues))  # and then it dies, before the bindings
    second = await rabbit.connect()
    await second.declare(shared())
    assert rabbit.inventory() == names(shared())


async def test_a_queue_of_the_shared_part_that_was_deleted_is_declared_and_bound_again(rabbit: Rabbit) -> None:
    client = await rabbit.connect()
    await client.declare(shared())
    rabbit.delete_queue("meshq.delay.3")
    await rabbit.cut(client)
    states = Recorder[BrokerState]()
    client.on_state(states)
    await states.until(lambda seen: bool(seen) and seen[-1] == BrokerState(True, True, ""))
    assert rabbit.inventory() == names(shared())


async def test_what_is_one_at_a_time_and_what_is_a_log_are_declared_as_such(rabbit: Rabbit) -> None:
    client = await rabbit.connect()
    await client.declare(shared())
    await client.declare(topology.service("orders.v1", ordered=True) + topology.log("paid.v1"))
    assert client.state.fault == ""
    found = {q["name"]: q["arguments"] for q in rabbit.cluster.management.definitions(rabbit.vhost)["queues"]}
    assert found["meshq.orders.v1.key.7"]["x-single-active-consumer"] is True
    assert found[log_queue("paid.v1")]["x-queue-type"] == "stream"


# --- queues that go, channels that are closed -------------------------------------------------------------------------------


async def test_a_deleted_queue_is_declared_and_consumed_again(rabbit: Rabbit) -> None:
    client = await rabbit.connect()
    await client.declare(queue(ORDERS))
    found = await inbox(client, ORDERS)
    await published(client, message(ORDERS, b"before"))
    (held,) = await found.count(1)
    rabbit.delete_queue(ORDERS)

    async def there_again() -> bool:
        return await published(client, message(ORDERS, b"after", "m2")) == [Published.CONFIRMED]

    await eventually(there_again)
    await found.until(lambda seen: b"after" in [delivery.body for delivery in seen])
    held.ack()  # of a queue that is gone: nothing, and nothing breaks
    assert client.state == BrokerState(True, True, "")


# --- looking ----------------------------------------------------------------------------------------------------------------


def bodies(held: Held) -> list[bytes]:
    return [delivery.body for delivery in held.deliveries]


async def test_what_is_held_at_once_is_bounded_in_bytes(rabbit: Rabbit, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(amqp_hold, "MOST_BYTES", 10_000)
    client = await rabbit.connect()
    await client.declare(queue(ORDERS))
    await published(client, *(message(ORDERS, b"%d" % n * 1000, f"m{n}") for n in range(20, 50)))
    held = await client.hold(ORDERS, 100)
    assert bodies(held) == [b"%d" % n * 1000 for n in range(20, 25)]
    assert held.behind == 25
    await held.release()
    assert [stats.ready for stats in await client.stats([ORDERS])] == [30]


@pytest.mark.long
async def test_a_queue_is_looked_at_over_and_over_and_holds_everything_still(rabbit: Rabbit) -> None:
    client = await rabbit.connect()
    await client.declare(queue(ORDERS, limit=1_000_000))
    await published(client, *(message(ORDERS, b"%d" % n, f"m{n}") for n in range(30)))
    everything = [b"%d" % n for n in range(30)]
    for most, seen in [(100, 30), (7, 7), (17, 17), (30, 30), (1, 1)] * 20:
        held = await client.hold(ORDERS, most)
        assert bodies(held) == everything[:seen]
        assert held.behind == 30 - seen
        await held.release()


async def test_two_who_hold_one_after_the_other_get_what_is_behind_and_give_it_back_in_its_place(
    rabbit: Rabbit,
) -> None:
    client = await rabbit.connect()
    await client.declare(queue(ORDERS, limit=1_000_000))
    await published(client, *(message(ORDERS, b"%d" % n, f"m{n}") for n in range(30)))
    first, second = await client.hold(ORDERS, 10), await client.hold(ORDERS, 10)
    assert bodies(second) == [b"%d" % n for n in range(10, 20)]
    assert (first.behind, second.behind) == (20, 10)
    await first.release()
    await first.release()
    await second.release()
    again = await client.hold(ORDERS, 100)
    assert bodies(again) == [b"%d" % n for n in range(30)]
    await again.release()


async def test_what_was_acknowledged_while_held_is_gone_when_it_is_released(rabbit: Rabbit) -> None:
    client = await rabbit.connect()
    await client.declare(queue(ORDERS, limit=1_000_000))
    await published(client, *(message(ORDERS, b"%d" % n, f"m{n}") for n in range(3000)))
    held = await client.hold(ORDERS, 3000)
    for delivery in held.deliveries[::2]:
        delivery.ack()
    await held.release()
    again = await client.hold(ORDERS, 3000)
    assert bodies(again) == [b"%d" % n for n in range(1, 3000, 2)]
    assert not held.deliveries[1].live
    held.deliveries[1].ack()
    await again.release()
    assert [stats.ready for stats in await client.stats([ORDERS])] == [1500]


# --- taking away ----------------------------------------------------------------------------------------------------------------


async def test_a_queue_whose_message_somebody_holds_still_is_not_deleted(rabbit: Rabbit) -> None:
    client, other = await rabbit.connect(), await rabbit.connect()
    await client.declare(queue(ORDERS))
    found = Recorder[Delivery]()
    subscription = other.subscribe(ORDERS, 10, found)
    await published(client, message(ORDERS))
    (delivery,) = await found.count(1)
    subscription.cancel()
    await client.withdraw(queue(ORDERS))
    assert [stats.queue for stats in await client.stats([ORDERS])] == [ORDERS]
    assert await published(client, message(ORDERS)) == [Published.UNROUTABLE]
    delivery.requeue()
    held = await client.hold(ORDERS, 10)
    assert bodies(held) == [b"hello"]
    held.deliveries[0].ack()
    await held.release()
    await client.withdraw(queue(ORDERS))
    assert await client.stats([ORDERS]) == []


async def test_what_another_declaration_wants_stays(rabbit: Rabbit) -> None:
    client = await rabbit.connect()
    await client.declare(shared())
    await client.declare(topology.service("orders.v1"))
    subscription = topology.subscription("orders.v1", "paid", "payments.paid.v1")
    await client.declare(subscription)
    await client.withdraw(subscription)
    assert rabbit.inventory() == names(shared() + topology.service("orders.v1"))
    await rabbit.cut(client)
    states = Recorder[BrokerState]()
    client.on_state(states)
    await states.until(lambda seen: bool(seen) and seen[-1] == BrokerState(True, True, ""))
    assert rabbit.inventory() == names(shared() + topology.service("orders.v1")), "it is not wanted any more"


# --- what the server is -----------------------------------------------------------------------------------------------------------


async def test_the_server_says_what_it_is_and_so_what_priorities_mean(rabbit: Rabbit) -> None:
    client = rabbit.client()
    assert client.priorities is None
    await client.open()
    assert isinstance(client, AmqpBroker)
    assert client.server is not None
    assert client.server.product == "RabbitMQ"
    major = int(client.server.version.split(".")[0])
    assert client.priorities is (Priorities.IGNORED if major < 4 else Priorities.TWO_LEVELS)
