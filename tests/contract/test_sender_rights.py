"""A sender whose broker user may not publish everywhere: it is told so, and what it may send goes on (RabbitMQ only, because the
embedded broker refuses nobody)."""

from collections.abc import Iterator
from typing import NamedTuple

import pytest

from meshq.adapters.amqp import AmqpBroker
from meshq.adapters.clock import SystemClock
from meshq.core import topology
from meshq.core.callreq import Durable
from meshq.core.errors import Code, Problem
from meshq.ports import Publication
from meshq.sending import Fate
from tests.contract.broker_rigs import RabbitRig, Recorder
from tests.contract.test_sender import World, code
from tests.servers.rabbitmq import Cluster

OWN = (
    r"^meshq\.checkout\.",
    r"^meshq\.(checkout\.|(calls|events|replies|dead|delay)$)",
    r"^meshq\.(checkout\.|replies$)",
)
TO_STOCK = {
    topology.CALLS: (r"^stock\.", "^$"),
    topology.DELAY: (r"^([01]\.){20}(meshq\.stock|event\.payments)\.", "^$"),
    topology.EVENTS: (r"^payments\.", "^$"),
    topology.REPLIES: ("^$", r"^checkout\."),
}
"""Exchange -> what may be published and read there, by routing key."""


class Rights(NamedTuple):
    rig: RabbitRig
    checkout: AmqpBroker


@pytest.fixture(
    params=[
        pytest.param("rabbitmq", marks=pytest.mark.rabbitmq),
        pytest.param("rabbitmq4", marks=[pytest.mark.docker, pytest.mark.long]),
    ]
)
def rights(request: pytest.FixtureRequest) -> Iterator[Rights]:
    """A client of a user that may call `stock` and publish `payments`, and nothing else."""
    cluster: Cluster = request.getfixturevalue(request.param)
    vhost = cluster.new_vhost()
    user = f"checkout-{vhost}"
    cluster.add_user(user, "secret", vhost, OWN, TO_STOCK)
    url = cluster.url(vhost, user, "secret")
    yield Rights(RabbitRig(cluster.url(vhost)), AmqpBroker(url, name="checkout", clock=SystemClock()))
    cluster.delete_vhost(vhost)


async def test_what_may_not_be_sent_is_denied_and_the_rest_goes_on(rights: Rights) -> None:
    rig, checkout = rights
    orders = await rig.connect()
    await orders.declare(topology.shared() + topology.service("orders.v1") + topology.service("stock.v1"))
    await checkout.open()
    try:
        world = World(rig, checkout, orders)
        for each in range(100):
            world.send("orders@1" if each == 50 else "stock@1")
        answers = await world.answers.count(100)
        assert sorted(map(code, answers)) == ["202"] * 99 + ["denied"]
        world.send("orders@1", durable=Durable(delay=3))
        world.send("stock@1", durable=Durable(delay=3))
        answers = (await world.answers.count(102))[100:]
        assert sorted(map(code, answers)) == ["202", "denied"]
        world.send("stock@1", durable=Durable(delay=3), key="customer-7")
        assert code((await world.answers.count(103))[102]) == "bad-header", "it may ask which queues there are"
        fates = Recorder[Fate | Problem]()
        for event in ("payments.settled.v1", "secrets.told.v1"):
            world.sender.publish(Publication(topology.EVENTS, topology.event_key(event), b"", event, "event"), fates)
        seen = await fates.count(2)
        (problem,) = [fate for fate in seen if isinstance(fate, Problem)]
        assert (problem.code, checkout.user in problem.detail) == (Code.DENIED, True)
        assert Fate.UNROUTABLE in seen, "nobody subscribes to payments"
        await world.tasks.close()
    finally:
        await checkout.close()
        await rig.close()
