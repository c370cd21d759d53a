"""A subscription that ends: what was acknowledged last is acknowledged too, wherever the queue's leader is."""

import asyncio

import pytest

from meshq.ports import Delivery
from tests.contract.broker_rigs import RabbitRig, Recorder, message, published, queue
from tests.servers.rabbitmq import Cluster

pytestmark = pytest.mark.rabbitmq

MANY, AFTER = 300, 50


async def test_what_is_acknowledged_at_the_very_end_does_not_come_again(rabbitmq: Cluster, vhost: str) -> None:
    rigs = [RabbitRig(f"{url}/{vhost}") for url in each_node(rabbitmq.url(vhost))]
    try:
        owner = await rigs[0].connect()
        await owner.declare(queue("work"))
        for rig in rigs:  # the leader is at one of them: to the others it is remote
            client = await rig.connect()
            await published(owner, *(message("work", ident=f"m{number}") for number in range(MANY)))
            first = Recorder[Delivery]()
            subscription = client.subscribe("work", MANY, first)
            oldest, *others = await first.count(MANY)
            subscription.cancel()
            for each in others:  # one by one, because the oldest holds their order up
                each.ack()
            await asyncio.sleep(0)  # they leave
            oldest.ack()
            second = Recorder[Delivery]()
            after = owner.subscribe("work", 2 * MANY, second)
            for number in range(AFTER):  # one after the other: time enough for what comes again to come
                await published(owner, message("work", ident=f"after{number}"))
            got = await second.until(lambda seen: any(each.message_id == f"after{AFTER - 1}" for each in seen))
            assert [each.message_id for each in got] == [f"after{number}" for number in range(AFTER)]
            for each in got:
                each.ack()
            after.cancel()
    finally:
        for rig in rigs:
            await rig.close()


def each_node(url: str) -> list[str]:
    """`amqp://user:password@a:1,b:2/vhost` -> a URL for each host, without the virtual host."""
    user, _, rest = url.partition("@")
    return [f"{user}@{host}" for host in rest.partition("/")[0].split(",")]
