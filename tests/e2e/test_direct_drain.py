"""The direct mode over the real broker, registry and sidecars, as processes: a replica with a long message is not taken away before it
has finished. The Kubernetes API is tests/kube_api.py, which deletes pods and leaves their processes alone."""

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from meshq.adapters import choose
from meshq.adapters.clock import SystemClock
from meshq.adapters.kubernetes import Kubernetes
from meshq.adapters.kubernetes_access import Access
from meshq.core.instances import EMPTY, Instance, Snapshot, State
from meshq.signals.app import instances
from meshq.signals.direct import Direct
from meshq.signals.direct_drains import Drains
from meshq.signals.direct_targets import Target
from tests.e2e.pods import Mesh, mesh
from tests.kube_api import KubeApi, serving
from tests.servers.processes import wait_for
from tests.told_signals import ToldSignals, signal

pytestmark = [pytest.mark.rabbitmq, pytest.mark.redis]

TOPIC = "orders.v1"
PATIENCE = 40.0
"""Seconds for a drain: renewals come every 5 s."""


@pytest.fixture
def world(broker_url: str, redis_url: str, tmp_path: Path) -> Iterator[Mesh]:
    with mesh(broker_url, redis_url, tmp_path / "mesh") as found:
        yield found


class Scaling:
    """A pass over the registry's present picture whenever the test looks."""

    def __init__(self, world: Mesh, kubernetes: Kubernetes) -> None:
        clock = SystemClock()
        self.signals = ToldSignals()
        self.signals.leading = True
        self.registry = choose.registry(world.registry_url, "default", clock)
        self._picture: Snapshot = EMPTY
        drains = Drains(lambda topic: instances(self._picture, topic), self.registry.order_drain, clock)
        self._direct = Direct(self.signals, kubernetes, [Target("shop", "orders", TOPIC)], drains)

    async def look(self) -> None:
        self._picture = await self.registry.snapshot()
        await self._direct.look()

    def instance(self, pod: str) -> Instance | None:
        return next((each for each in instances(self._picture, TOPIC) if each.id == f"{pod}-aaaaaa"), None)


async def _made(access: Access) -> Kubernetes:
    return Kubernetes(access)


@pytest.mark.long
def test_a_replica_goes_when_its_message_is_done(world: Mesh, tmp_path: Path) -> None:
    api = KubeApi()
    api.add("orders", 2)
    pods = api.deployments["orders"].pods
    busy = world.pod("orders", instance="orders-0-aaaaaa")
    busy.sidecar.wait_ready()
    caller = world.sidecar("caller").wait_ready()
    assert caller.call("orders@1", "/hold/long", "POST", {"Prefer": "respond-async"}).status == 202
    busy.app.wait_handled("/hold/long")
    world.pod("orders", instance="orders-1-aaaaaa").sidecar.wait_ready()
    with serving(api, tmp_path) as access, asyncio.Runner() as runner:
        kubernetes = runner.run(_made(access))
        shop = Scaling(world, kubernetes)
        runner.run(shop.registry.open())

        def until(holds: Callable[[], object], what: str) -> None:
            def looked() -> object:
                runner.run(shop.look())
                return holds()

            wait_for(looked, PATIENCE, what)

        def renewed() -> int:
            found = shop.instance("orders-0")
            return 0 if found is None else found.last_seen_ms

        until(lambda: shop.instance("orders-0") and shop.instance("orders-1"), "both in the picture")
        shop.signals.tell(signal(major=1, desired=0))
        until(lambda: list(pods) == ["orders-0"], "the idle one gone")
        last = renewed()
        until(lambda: renewed() > last, "another renewal of the busy one")
        found = shop.instance("orders-0")
        assert found is not None
        assert (found.state, found.load.in_flight, list(pods)) == (State.DRAINING, 1, ["orders-0"])
        busy.app.release("long")
        until(lambda: not pods, "the busy one gone")
        runner.run(kubernetes.close())
        runner.run(shop.registry.close())
    assert len(busy.app.handled("/hold/long")) == 1
