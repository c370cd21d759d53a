"""Store and forward over every broker: what the sidecar's disk took arrives, exactly the set, in order, whatever happens to the
connection."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from meshq.core import dead, topology
from meshq.core.message import DeadLetter, Request, decode, encode_request
from meshq.core.topology import CALLS, EVENTS, Binding, Queue, Topology
from meshq.ports import Broker, Delivery, Publication
from meshq_sidecar import spooling_patience
from tests.contract.broker_rigs import BrokerRig, Recorder, eventually
from tests.contract.test_rabbitmq_only import Rabbit
from tests.servers.rabbitmq import Cluster
from tests.spool_rig import ORDERS, SHOP, WORK, Sidecar, all_came, first_of_each, inbox_of, work

EXCHANGES = Topology(exchanges=topology.shared().exchanges)
DEAD_LETTERS = topology.dead_queue(SHOP)


@pytest.fixture(autouse=True)
def _hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spooling_patience, "FIRST_PAUSE", 0.05)
    monkeypatch.setattr(spooling_patience, "LONGEST_PAUSE", 0.1)


async def receiver(rig: BrokerRig, *wanted: Topology) -> Broker:
    client = await rig.connect()
    await client.declare(sum(wanted, EXCHANGES))
    assert client.state.fault == ""
    return client


async def test_what_came_while_the_broker_was_away_arrives_in_order_when_it_is_back(
    rig: BrokerRig, tmp_path: Path
) -> None:
    orders = await receiver(rig, topology.service(ORDERS))
    inbox = inbox_of(orders, WORK)
    client = rig.client()  # not open yet: away
    await client.declare(EXCHANGES)
    sidecar = Sidecar(tmp_path / "spool", client)
    await sidecar.accept(*map(work, range(1200)))
    assert sidecar.spool.waiting == 1200
    await client.open()
    assert await all_came(inbox, 1200) == list(range(1200))
    await sidecar.empty()
    await sidecar.end()
    assert not list((tmp_path / "spool").glob("*.v1"))


async def test_the_next_process_goes_on_where_this_one_stopped(rig: BrokerRig, tmp_path: Path) -> None:
    orders = await receiver(rig, topology.service(ORDERS))
    inbox = inbox_of(orders, WORK)
    client = rig.client()
    await client.declare(EXCHANGES)
    first = Sidecar(tmp_path / "spool", client)
    await first.accept(*map(work, range(300)))
    await first.end(0.05)
    second = Sidecar(tmp_path / "spool", client)
    await second.accept(*map(work, range(300, 400)))
    await client.open()
    assert await all_came(inbox, 400) == list(range(400))
    await second.end(20)


async def test_connections_that_break_on_the_way_lose_nothing_and_keep_the_order(
    rig: BrokerRig, tmp_path: Path
) -> None:
    orders = await receiver(rig, topology.service(ORDERS))
    inbox = inbox_of(orders, WORK)
    client = await receiver(rig)
    sidecar = Sidecar(tmp_path / "spool", client)
    for begin in range(0, 3000, 600):
        await sidecar.accept(*map(work, range(begin, begin + 600)))
        await inbox.count(begin + 10)
        await rig.cut(client)
    found = await all_came(inbox, 3000)
    assert first_of_each(found) == list(range(3000))
    await sidecar.empty()
    await sidecar.end()


async def test_draining_waits_for_confirms(rig: BrokerRig, tmp_path: Path) -> None:
    orders = await receiver(rig, topology.service(ORDERS))
    client = await receiver(rig)
    sidecar = Sidecar(tmp_path / "spool", client)
    await sidecar.accept(*map(work, range(500)))
    await sidecar.end(20)
    assert not list((tmp_path / "spool").glob("*.v1"))
    assert await all_came(inbox_of(orders, WORK), 500) == list(range(500))


async def test_a_call_to_nobody_is_found_in_our_own_dead_letters(rig: BrokerRig, tmp_path: Path) -> None:
    client = await receiver(rig, topology.service(ORDERS), topology.dead(SHOP))
    sidecar = Sidecar(tmp_path / "spool", client)
    letters, inbox = inbox_of(client, DEAD_LETTERS), inbox_of(client, WORK)
    await sidecar.accept(work(0), work(1, "nobody.v1"), work(2, "nobody.v1"), work(3))
    for number, delivery in enumerate(await letters.count(2), 1):
        (letter,) = decode(delivery.body)
        assert isinstance(letter, DeadLetter)
        assert (letter.reason, letter.queue, letter.sender) == (dead.UNSENDABLE, "nobody.v1.work", "shop")
        assert (letter.id, letter.body) == (f"m{number}", b"%d" % number)
    assert await all_came(inbox, 2) == [0, 3]
    await sidecar.empty()
    assert sidecar.metrics.events == {f"dead_lettered:{dead.UNSENDABLE}": 2}
    await sidecar.end()


async def test_who_is_called_may_come_a_moment_later_than_the_broker(
    rig: BrokerRig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spooling_patience, "PATIENCE", 100_000)
    client = await receiver(rig, topology.dead(SHOP))
    sidecar = Sidecar(tmp_path / "spool", client)
    await sidecar.accept(work(0), work(1))

    async def refused() -> bool:
        return "no queue takes it" in sidecar.forwarder.fault

    await eventually(refused)
    orders = await receiver(rig, topology.service(ORDERS))
    assert first_of_each(await all_came(inbox_of(orders, WORK), 2)) == [0, 1]
    await sidecar.empty()
    await sidecar.end()


async def test_events_go_to_their_subscriptions_or_are_counted(rig: BrokerRig, tmp_path: Path) -> None:
    client = await receiver(rig, topology.subscription(ORDERS, "paid", "paid.v1"))
    sidecar = Sidecar(tmp_path / "spool", client)
    inbox = inbox_of(client, topology.subscription_queue(ORDERS, "paid"))
    await sidecar.accept(
        *(Publication(EVENTS, topology.event_key("paid.v1"), b"%d" % n, f"m{n}", "event") for n in range(5)),
        Publication(EVENTS, topology.event_key("unheard.v1"), b"9", "m9", "event"),
    )
    assert await all_came(inbox, 5) == [0, 1, 2, 3, 4]
    await sidecar.empty()
    assert sidecar.metrics.events == {"event_unrouted": 1}
    await sidecar.end()


async def test_a_delay_counts_from_when_it_is_forwarded(rig: BrokerRig, tmp_path: Path) -> None:
    orders = await receiver(rig, topology.shared(), topology.service(ORDERS))
    inbox = inbox_of(orders, WORK)
    client = rig.client()
    await client.declare(EXCHANGES)
    sidecar = Sidecar(tmp_path / "spool", client)
    delayed = work(1)._replace(exchange=topology.DELAY, key=topology.delay_key(1, WORK))
    await sidecar.accept(delayed, work(0))
    loop = asyncio.get_running_loop()
    opened = loop.time()
    await client.open()
    assert await all_came(inbox, 2) == [0, 1]
    assert loop.time() - opened > 0.9
    await sidecar.end(5)


# --- what only a real server refuses ----------------------------------------------------------------------------------------


@pytest.fixture(
    params=[
        pytest.param("rabbitmq", marks=pytest.mark.rabbitmq),
        pytest.param("rabbitmq4", marks=[pytest.mark.docker, pytest.mark.long]),
    ]
)
def rabbit(request: pytest.FixtureRequest) -> Iterator[Rabbit]:
    cluster: Cluster = request.getfixturevalue(request.param)
    vhost = cluster.new_vhost()
    yield Rabbit(cluster, vhost)
    cluster.delete_vhost(vhost)


def keyed(number: int, key: str) -> Publication:
    request = Request(f"m{number}", "POST", b"/", [], b"%d" % number, "shop", accepted_ms=1, key=key)
    routing = topology.key_key(ORDERS, topology.partition_of("a"))
    return Publication(CALLS, routing, encode_request(request), f"m{number}", "call", "shop.results")


async def test_messages_with_one_key_keep_their_order_though_the_queue_refuses_some(
    rabbit: Rabbit, tmp_path: Path
) -> None:
    name = topology.key_queue(ORDERS, topology.partition_of("a"))
    narrow = (("x-queue-type", "quorum"), ("x-max-length", 3), ("x-overflow", "reject-publish"))
    key = topology.key_key(ORDERS, topology.partition_of("a"))
    orders = await receiver(rabbit, Topology(queues=(Queue(name, narrow),), bindings=(Binding(CALLS, name, key),)))
    client = await receiver(rabbit)
    sidecar = Sidecar(tmp_path / "spool", client)
    await sidecar.accept(*(keyed(n, "a") for n in range(40)))

    async def refused() -> bool:
        return "refuses it" in sidecar.forwarder.fault

    await eventually(refused)
    found: list[int] = []
    inbox = Recorder[Delivery]()
    orders.subscribe(name, 1, inbox)
    while len(set(found)) < 40:
        delivery = (await inbox.count(len(found) + 1))[-1]
        found += [int(m.body) for m in decode(delivery.body) if isinstance(m, Request) and m.body]
        delivery.ack()
    assert found == list(range(40))
    await sidecar.empty()
    await sidecar.end()


async def test_what_a_right_is_missing_for_goes_to_the_dead_letters_and_the_rest_arrives(
    rabbit: Rabbit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spooling_patience, "PATIENCE", 4)
    await receiver(rabbit, topology.shared(), topology.service(ORDERS), topology.service("secret.v1"))
    every = (".*", ".*", ".*")
    client = rabbit.as_user("shop", every)
    rabbit.cluster.management.permit_topic(rabbit.vhost, client.user, CALLS, r"^orders\.", ".*")
    await client.declare(topology.dead(SHOP))
    await client.open()
    sidecar = Sidecar(tmp_path / "spool", client)
    letters, inbox = inbox_of(client, DEAD_LETTERS), inbox_of(client, WORK)
    await sidecar.accept(work(0), work(1), work(2, "secret.v1"), work(3), work(4))
    (letter,) = decode((await letters.count(1))[0].body)
    assert isinstance(letter, DeadLetter)
    assert (letter.id, letter.reason) == ("m2", dead.UNSENDABLE)
    assert first_of_each(await all_came(inbox, 4)) == [0, 1, 3, 4]
    await sidecar.empty()
    await sidecar.end()
