"""A route policy that changes under load: an operator's command, the real registry, two callers, two versions."""

import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.e2e.desk import Desk
from tests.e2e.pods import Connection, Mesh, Sidecar, mesh
from tests.servers.processes import wait_for
from tests.servers.rabbitmq import Cluster

pytestmark = [pytest.mark.rabbitmq, pytest.mark.redis]

CALLS = 5000
CALLERS = 4
"""At once, on each of two sidecars."""
WITHIN = 2.0
"""Seconds in which every sidecar applies a change (INTERFACE part 6)."""
POINTS = 0.03


class Call(NamedTuple):
    began: float
    status: int
    served_by: str
    """`orders/2.0.0/<instance>`"""

    @property
    def version(self) -> str:
        return self.served_by.split("/")[1][0]


class Callers:
    """They call until they are told to stop."""

    def __init__(self) -> None:
        self.made: list[Call] = []
        self._stop = threading.Event()

    def run(self, sidecar: Sidecar) -> None:
        connection = Connection(sidecar.port)
        while not self._stop.is_set():
            began = time.monotonic()
            answer = connection.ask("GET", "/v1/call/orders/x")
            self.made.append(Call(began, answer.status, str(answer.headers["Meshq-Served-By"])))
        connection.close()

    def wait_for(self, count: int) -> None:
        wait_for(lambda: len(self.made) >= count, 120, f"{count} calls")

    def stop(self) -> None:
        self._stop.set()


@pytest.fixture
def world(broker_url: str, redis_url: str, tmp_path: Path) -> Iterator[Mesh]:
    with mesh(broker_url, redis_url, tmp_path / "mesh") as found:
        yield found


@pytest.mark.timeout(300)
def test_a_weight_that_is_set_to_0_in_the_middle_of_5000_calls(world: Mesh, rabbitmq: Cluster, tmp_path: Path) -> None:
    desk = Desk(
        tmp_path,
        MESHQ_BROKER_URL=world.broker_url,
        MESHQ_REGISTRY_URL=world.registry_url,
        MESHQ_MANAGEMENT_URL=rabbitmq.management_url,
    )
    for version in ("1.0.0", "2.0.0"):
        world.pod("orders", service_version=version).sidecar.wait_ready()
    shops = [world.sidecar("shop").wait_ready(), world.sidecar("shop").wait_ready()]
    desk.good("route", "set", "orders", "--weight", "1=90", "--weight", "2=10")
    for shop in shops:
        shop.wait(lambda s=shop: {_version(s) for _ in range(40)} == {"1", "2"}, "calls to both versions")  # type: ignore[misc]

    callers = Callers()
    with ThreadPoolExecutor(len(shops) * CALLERS) as pool:
        running = [pool.submit(callers.run, shop) for shop in shops for _ in range(CALLERS)]
        try:
            callers.wait_for(CALLS // 2)
            before = time.monotonic()
            desk.good("route", "set", "orders", "--weight", "1=0", "--weight", "2=100")
            applied = time.monotonic() + WITHIN
            wait_for(lambda: time.monotonic() > applied, 2 * WITHIN, "the time to apply it")
            callers.wait_for(max(CALLS, len(callers.made) + CALLS // 10))
        finally:
            callers.stop()
        for each in running:
            each.result()

    assert Counter(call.status for call in callers.made) == {200: len(callers.made)}
    earlier = [call.version for call in callers.made if call.began < before]
    assert abs(earlier.count("1") / len(earlier) - 0.9) <= POINTS
    later = [call.version for call in callers.made if call.began > applied]
    assert len(later) >= CALLS // 10
    assert set(later) == {"2"}
    desk.until(_v1_is_empty, "queues", "--all")  # the figures are up to 5 s old


def _v1_is_empty(queues: list[dict[str, Any]]) -> bool:
    left = [(row["ready"], row["inFlight"]) for row in queues if row["topic"] == "orders.v1"]
    return set(left) == {(0, 0)}


def _version(sidecar: Sidecar) -> str:
    return Call(0, 200, str(sidecar.call("orders", "/x").headers["Meshq-Served-By"])).version
