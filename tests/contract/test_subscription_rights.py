"""A service whose broker user may not read every event (RabbitMQ only, because the embedded broker refuses nobody)."""

from collections.abc import Iterator
from typing import NamedTuple

import pytest

from meshq.adapters.amqp import AmqpBroker
from meshq.adapters.clock import SystemClock
from meshq.adapters.embedded_store import EmbeddedStoreHub
from meshq.core import topology
from meshq.core.http import header
from tests.contract.broker_rigs import RabbitRig, Recorder, eventually
from tests.contract.event_rigs import Member, Mesh, Posted, numbers
from tests.contract.test_replays import copies
from tests.contract.test_subscriptions import ask, shown
from tests.servers.rabbitmq import Cluster

OWN = (
    r"^meshq\.shop\.",
    r"^meshq\.(shop\.|(calls|events|replies|dead|delay)$)",
    r"^meshq\.(shop\.|(calls|events|replies|dead|return)$|log\.payments\.)",
)
TOPICS = {
    topology.CALLS: ("^$", r"^shop\."),
    topology.EVENTS: (r"^shop\.", r"^payments\."),
    topology.DELAY: (r"^([01]\.){20}(meshq\.shop|event\.shop)\.", "^$"),
    topology.RETURN: ("^$", r"^(\*\.){20}(meshq\.shop|event\.payments)\."),
    topology.DEAD: (r"^meshq\.shop\.", r"^meshq\.shop\."),
}
"""Exchange -> what may be published and read there, by routing key."""


class Rights(NamedTuple):
    rig: RabbitRig
    shop: AmqpBroker


@pytest.fixture(
    params=[
        pytest.param("rabbitmq", marks=pytest.mark.rabbitmq),
        pytest.param("rabbitmq4", marks=[pytest.mark.docker, pytest.mark.long]),
    ]
)
def rights(request: pytest.FixtureRequest) -> Iterator[Rights]:
    cluster: Cluster = request.getfixturevalue(request.param)
    vhost = cluster.new_vhost()
    user = f"shop-{vhost}"
    cluster.add_user(user, "secret", vhost, OWN, TOPICS)
    yield Rights(
        RabbitRig(cluster.url(vhost)), AmqpBroker(cluster.url(vhost, user, "secret"), name="shop", clock=SystemClock())
    )
    cluster.delete_vhost(vhost)


async def test_a_service_subscribes_to_what_it_may_read(rights: Rights) -> None:
    async with Mesh(rights.rig) as mesh:
        payments = await mesh.member("payments", "payments-a", log=("payments.settled",))
        posted = Recorder[Posted]()
        store = EmbeddedStoreHub(SystemClock()).connect()
        shop = Member(rights.shop, store, "shop", "shop-a", posted)
        await rights.shop.open()
        await shop.open()
        try:
            refused = await ask(shop, "PUT", "secrets", {"event": "secrets.told", "path": "/x"})
            assert (refused.status, header(refused.headers, b"meshq-error")) == (403, b"denied")
            assert "secrets.told.v1" in shown(refused)["detail"]
            assert len(shop.subscriptions) == 0
            await eventually(lambda: _well(shop))
            for name, mode in {"shared": "shared", "sorted": "ordered", "each": "broadcast", "again": "replay"}.items():
                made = await ask(shop, "PUT", name, {"event": "payments.settled", "path": f"/{name}", "mode": mode})
                assert made.status == 201, made.body
            await eventually(lambda: copies(shop))
            assert (await payments.publish("payments.settled", b"7", meshq_delay="1s")).status == 202
            assert numbers(await posted.count(4)) == [7] * 4
            assert {each.path for each in posted.seen} == {"/shared", "/sorted", "/each", "/again"}
            secret = await ask(shop, "PUT", "shared", {"event": "secrets.told", "path": "/x"})
            assert secret.status == 403, "a change is refused too, and what was there goes on"
            assert shown(await ask(shop, "GET", "shared"))["event"] == "payments.settled@1"
            await eventually(lambda: _well(shop))
            await payments.publish("payments.settled", b"8")
            assert numbers((await posted.count(8))[4:]) == [8] * 4
        finally:
            await shop.close()


async def _well(member: Member) -> bool:
    return not member.broker.state.fault
