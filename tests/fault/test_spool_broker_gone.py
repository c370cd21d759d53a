"""Every node of the broker is killed while a spool is being emptied: what its disk took arrives when they are back."""

import asyncio
from pathlib import Path

import pytest
import uvloop

from meshq.adapters.amqp import AmqpBroker
from meshq.adapters.clock import SystemClock
from meshq.core import topology
from meshq.core.topology import Topology
from tests.contract.broker_rigs import eventually
from tests.servers.rabbitmq import Cluster
from tests.spool_rig import ORDERS, WORK, Sidecar, first_of_each, inbox_of, numbers, work

pytestmark = [pytest.mark.rabbitmq, pytest.mark.timeout(400)]

COUNT = 2000
SECONDS = 150
"""For three nodes to start again on a busy machine."""


def test_what_the_spool_took_arrives_after_all_nodes_were_killed(
    fault_cluster: Cluster, vhost: str, tmp_path: Path
) -> None:
    async def story(shop: AmqpBroker, orders: AmqpBroker) -> None:
        for client in (shop, orders):
            await client.declare(Topology(exchanges=topology.shared().exchanges))
            await client.open()
        await orders.declare(topology.service(ORDERS))
        inbox = inbox_of(orders, WORK)
        sidecar = Sidecar(tmp_path, shop)
        await sidecar.accept(*map(work, range(COUNT // 2)))
        await inbox.count(10)
        await eventually(kept)
        for node in fault_cluster.nodes:
            node.kill()
        await sidecar.accept(*map(work, range(COUNT // 2, COUNT)))
        assert sidecar.spool.waiting
        for node in fault_cluster.nodes:
            node.start()
        await asyncio.to_thread(fault_cluster.wait_healthy, SECONDS)
        await sidecar.forwarder.close(SECONDS)
        assert sidecar.spool.waiting == 0
        await sidecar.spool.close()
        found = numbers(await inbox.until(lambda seen: len(set(numbers(seen))) == COUNT))
        assert first_of_each(found) == list(range(COUNT))

    async def kept() -> bool:
        return all(node.keeps(vhost, WORK) for node in fault_cluster.nodes)

    async def with_brokers() -> None:
        url, clock = fault_cluster.url(vhost), SystemClock()
        shop, orders = AmqpBroker(url, name="shop", clock=clock), AmqpBroker(url, name="orders", clock=clock)
        try:
            await story(shop, orders)
        finally:
            await orders.close()
            await shop.close()

    uvloop.run(with_brokers())
