"""What is told of queues for scaling, by every way to ask: the figures agree with what was done to the queues, and what cannot be known
is not told."""

from abc import abstractmethod
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from meshq.adapters.clock import SystemClock
from meshq.adapters.embedded_broker import EmbeddedHub
from meshq.adapters.rabbit_prometheus import RabbitPrometheus
from meshq.adapters.rabbit_stats import RabbitStats
from meshq.core.topology import CALLS, Binding, Queue, Topology
from meshq.ports import Broker, Delivery, Published, QueueStats
from tests.contract.broker_rigs import (
    BrokerRig,
    EmbeddedRig,
    RabbitRig,
    Recorder,
    eventually,
    message,
    published,
    queue,
)
from tests.servers.find import RABBITMQ_URL
from tests.servers.processes import NoServer
from tests.servers.rabbitmq import Cluster

NAME = "meshq.orders.v1.work"
CONFIRMED = Published.CONFIRMED


class CountingRig(BrokerRig):
    counts_expired = False
    """`done` has also what nobody took."""
    forgets = False
    """`done` may begin anew when a consumer is gone."""

    @abstractmethod
    async def listed(self) -> list[QueueStats]: ...

    async def told(self, name: str = NAME) -> QueueStats:
        return next((found for found in await self.listed() if found.queue == name), QueueStats(name))

    async def until(self, *expected: QueueStats) -> None:
        """One of these is what is told in the end; ages and rates aside. Raises TimeoutError, which says what was told last."""
        last = QueueStats(NAME)

        async def so() -> bool:
            nonlocal last
            last = await self.told(expected[0].queue)
            return last._replace(oldest_age_seconds=None, in_rate=None, out_rate=None, single=None) in expected

        try:
            await eventually(so)
        except TimeoutError as error:
            raise TimeoutError(f"{last} is not {expected}") from error


class EmbeddedCounting(EmbeddedRig, CountingRig):
    counts_expired = True

    async def listed(self) -> list[QueueStats]:
        hub = self._hub
        assert isinstance(hub, EmbeddedHub)
        return hub.stats(hub.queue_names)


class RabbitCounting(RabbitRig, CountingRig):
    def __init__(self, url: str, stats: RabbitStats | RabbitPrometheus) -> None:
        super().__init__(url)
        self._stats = stats
        self.forgets = isinstance(stats, RabbitPrometheus)

    async def listed(self) -> list[QueueStats]:
        return await self._stats.queues()


def prometheus(cluster: Cluster, url: str) -> RabbitPrometheus:
    if not cluster.nodes:
        raise NoServer(f"tests of every node's metrics need nodes of their own: run them without {RABBITMQ_URL}")
    return RabbitPrometheus(url, cluster.prometheus_urls, SystemClock())


@pytest.fixture(
    params=[
        "embedded",
        "embedded on disk",
        pytest.param("management", marks=pytest.mark.rabbitmq),
        pytest.param("prometheus", marks=pytest.mark.rabbitmq),
    ]
)
def rig(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[CountingRig]:
    if request.param.startswith("embedded"):
        yield EmbeddedCounting(tmp_path / "broker.db" if request.param == "embedded on disk" else None)
        return
    cluster: Cluster = request.getfixturevalue("rabbitmq")
    vhost = cluster.new_vhost()
    url = cluster.url(vhost)
    if request.param == "management":
        yield RabbitCounting(url, RabbitStats(url, cluster.management_url, SystemClock()))
    else:
        yield RabbitCounting(url, prometheus(cluster, url))
    cluster.delete_vhost(vhost)


async def fill(client: Broker, count: int, name: str = NAME, **more: object) -> None:
    fates = await published(client, *(message(name, b"", f"m{n}", **more) for n in range(count)))
    assert fates == [CONFIRMED] * count


async def test_a_queue_that_was_never_used(rig: CountingRig) -> None:
    client = await rig.connect()
    await client.declare(queue(NAME))
    await rig.until(QueueStats(NAME, 0, 0, 0, done=0.0))


async def test_what_is_told_is_what_was_done(rig: CountingRig) -> None:
    client = await rig.connect()
    await client.declare(queue(NAME))
    await rig.listed()
    await fill(client, 20)
    await rig.until(QueueStats(NAME, 20, 0, 0, done=0.0))
    inbox = Recorder[Delivery]()
    client.subscribe(NAME, 5, inbox)
    for n in range(8):
        (await inbox.count(n + 1))[n].ack()
    await inbox.count(13)
    await rig.until(QueueStats(NAME, 7, 5, 1, done=8.0))


@pytest.mark.long
async def test_what_comes_back_has_not_left(rig: CountingRig) -> None:
    client, other = await rig.connect(), await rig.connect()
    await client.declare(queue(NAME))
    await rig.listed()
    await fill(client, 3)
    inbox = Recorder[Delivery]()
    subscription = other.subscribe(NAME, 3, inbox)
    (first, second, third) = await inbox.count(3)
    first.ack()
    await rig.until(QueueStats(NAME, 0, 2, 1, done=1.0))
    subscription.cancel()
    second.requeue()
    third.requeue()
    await rig.until(QueueStats(NAME, 2, 0, 0, done=1.0), QueueStats(NAME, 2, 0, 0, done=0.0 if rig.forgets else 1.0))


async def test_what_expires_is_counted_only_where_the_broker_tells(rig: CountingRig) -> None:
    client = await rig.connect()
    await client.declare(queue(NAME))
    await rig.listed()
    await fill(client, 4, expiration_ms=1)
    await rig.until(QueueStats(NAME, 0, 0, 0, done=4.0 if rig.counts_expired else 0.0))


async def test_whether_only_one_consumer_gets_messages(rig: CountingRig) -> None:
    client = await rig.connect()
    arguments = (("x-queue-type", "quorum"), ("x-single-active-consumer", True))
    await client.declare(Topology(queues=(Queue(NAME, arguments),), bindings=(Binding(CALLS, NAME, NAME),)))
    await rig.until(QueueStats(NAME, 0, 0, 0, done=0.0))
    assert (await rig.told()).single in (True, None)


@pytest.mark.rabbitmq
@pytest.mark.long
async def test_keda_7180_a_node_that_dies_makes_no_figure_0(fault_cluster: Cluster) -> None:
    """Ten messages in each of six queues, whose leaders are on all nodes. No listing by any way says anything but ten or nothing."""
    vhost = fault_cluster.new_vhost()
    url = fault_cluster.url(vhost)
    by_management = RabbitCounting(url, RabbitStats(url, fault_cluster.management_url, SystemClock()))
    metrics = prometheus(fault_cluster, url)
    by_metrics = RabbitCounting(url, metrics)
    names = [f"meshq.orders.v{n}.work" for n in range(1, 7)]
    client = await by_management.connect()
    for name in names:
        await client.declare(queue(name))
        await fill(client, 10, name)
    for name in names:
        for rig in (by_management, by_metrics):
            await rig.until(QueueStats(name, 10, 0, 0, done=0.0))
    fault_cluster.nodes[2].kill()

    async def all_there_again() -> bool:
        listings = [[]]
        for rig in (by_management, by_metrics):
            with suppress(OSError):
                listings.append([found for found in await rig.listed() if found.queue in names])
                for found in listings[-1]:
                    assert (found.ready, found.in_flight) in ((10, 0), (None, None)), found
                    assert found.done in (0.0, None)
        return [len([found for found in listing if found.ready == 10]) for listing in listings[1:]] == [6, 6]

    await eventually(all_there_again)
    assert {found.done for found in await by_metrics.listed()} == {None}, (
        "who was consumed from the missing node is not known"
    )
    assert "set MESHQ_PROMETHEUS_URLS" in metrics.fault
    await by_management.close()
    fault_cluster.nodes[2].start()
    fault_cluster.wait_healthy()
    fault_cluster.delete_vhost(vhost)


@pytest.mark.rabbitmq
@pytest.mark.long
@pytest.mark.parametrize("way", ["management", "prometheus"])
async def test_a_thousand_topics_are_listed_in_a_second(
    way: str, rabbitmq: Cluster, vhost: str, broker_url: str
) -> None:
    """Of three queues each. The best of five: others use the machine too."""
    names = [f"meshq.s{n}.v1.{kind}" for n in range(1000) for kind in ("call", "work", "dead")]
    made = [{"name": name, "durable": True, "auto_delete": False, "arguments": {}} for name in names]
    rabbitmq.management.import_definitions(vhost, {"queues": made, "exchanges": [], "bindings": []})
    clock = SystemClock()
    stats: RabbitStats | RabbitPrometheus
    if way == "management":
        stats = RabbitStats(broker_url, rabbitmq.management_url, clock)
    else:
        stats = prometheus(rabbitmq, broker_url)

    async def all_listed() -> bool:
        return len([found for found in await stats.queues() if found.ready == 0]) == len(names)

    await eventually(all_listed)
    took = []
    for _ in range(5):
        began = clock.monotonic()
        await stats.queues()
        took.append(clock.monotonic() - began)
    assert min(took) < 1.0, took
