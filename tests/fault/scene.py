"""What the fault matrix plays on: a service of two instances that takes durable calls, events in order and events shared, a shop
that sends them without a pause, and what breaks below and between them."""

import json
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from meshq.core.topology import work_queue
from tests.e2e.pods import App, Mesh, Pod, Sidecar, ask, environment, mesh
from tests.fault.checker import Report
from tests.fault.durable_load import History, Target, call, delivered, durable_load, event, settled
from tests.servers.processes import wait_for
from tests.servers.rabbitmq import Cluster, Node

SUBSCRIBE = "settled:payments.settled@1=/on/settled,journal:payments.booked@1=/on/booked:ordered"
TARGETS: tuple[Target, ...] = (
    call("orders"),
    call("orders@1"),
    event("payments.settled"),
    call("orders", key="customer-1"),
    event("payments.booked", key="account-1"),
)
IN_ORDER = ("3", "4")
"""The senders of TARGETS whose messages have one key."""
RESULTS_ASKED = 20


class Scene:
    """`one` and `two` are the service's instances, their apps share a journal; `shop` sends."""

    def __init__(
        self,
        found: Mesh,
        settings: Mapping[str, str],
        shop_settings: Mapping[str, str],
        variables: Mapping[str, str],
        shop_variables: Mapping[str, str],
    ) -> None:
        self.mesh = found
        own = {"subscribe": SUBSCRIBE, "ordered": "1", "retry": "20:1s", "app_timeout": "5s", **settings}
        self.one = found.pod("orders", variables, instance="one", **own)
        self.two = found.pod("orders", variables, instance="two", **own)
        self.shop = found.sidecar("shop", shop_variables, instance="shop", **shop_settings)
        for part in (self.one.app, self.two.app, self.one.sidecar, self.two.sidecar, self.shop):
            part.wait_ready()
        wait_for(lambda: len(self.shop.instances("orders")) == 2, 30, "both instances known to the shop")

    @property
    def pods(self) -> tuple[Pod, Pod]:
        return self.one, self.two

    @property
    def sidecars(self) -> tuple[Sidecar, Sidecar, Sidecar]:
        return self.one.sidecar, self.two.sidecar, self.shop

    @property
    def apps(self) -> tuple[App, App]:
        return self.one.app, self.two.app

    def wait_ready(self) -> None:
        for sidecar in self.sidecars:
            sidecar.wait_ready(60)

    def wait_delivered(self, count: int) -> None:
        """Until the apps began with `count` more."""
        wanted = len(delivered(self.one.app)) + count
        wait_for(lambda: len(delivered(self.one.app)) >= wanted, 90, f"{count} more deliveries", poll=0.05)

    @contextmanager
    def load(self, *targets: Target) -> Iterator[History]:
        with durable_load(self.shop, *(targets or TARGETS)) as history:
            history.wait_for_more(50)
            yield history

    def judge(self, history: History, *, duplicates: bool, results: bool = True) -> Report:
        """The full drain, then what must hold of every history. `duplicates`: whether the fault may cause them."""
        report = settled(history, self.one.app)
        print(f"{report}; answers {dict(history.answers)}")
        assert report.lost == frozenset(), report
        assert report.unexpected == frozenset(), report
        if not duplicates:
            assert report.duplicated == {}, report
        assert sum(sidecar.metric("dead_lettered_total") for sidecar in self.sidecars) == 0
        for sender in IN_ORDER:
            assert_in_order(history.order.get(sender, []), delivered(self.one.app))
        if results:
            self._assert_results(history)
        return report

    def _assert_results(self, history: History) -> None:
        """Of the last calls that were accepted each has its result."""
        for ident in history.requests[-RESULTS_ASKED:]:
            wait_for(lambda ident=ident: self._result(ident) == 200, 30, f"the result of {ident}")  # type: ignore[misc]

    def _result(self, ident: str) -> int:
        return ask(self.shop.port, f"/v1/requests/{ident}").status


def assert_in_order(sent: list[str], came: list[str]) -> None:
    """What one sender was acknowledged, with one key, was begun in that order; what came twice counts where it came first."""
    first: dict[str, int] = {}
    for place, ident in enumerate(came):
        first.setdefault(ident, place)
    places = [first[ident] for ident in sent if ident in first]
    disorder = [sent[i : i + 2] for i in range(len(places) - 1) if places[i] > places[i + 1]]
    assert disorder == []


@contextmanager
def scene(
    broker_url: str,
    redis_url: str,
    folder: Path,
    *,
    settings: Mapping[str, str] | None = None,
    shop: Mapping[str, str] | None = None,
    environment: Mapping[str, str] | None = None,
    shop_environment: Mapping[str, str] | None = None,
) -> Iterator[Scene]:
    """Settings of the service's and the shop's sidecars, and other variables of their environments."""
    with mesh(broker_url, redis_url, folder) as found:
        yield Scene(found, settings or {}, shop or {}, environment or {}, shop_environment or {})


def dead_letters(stage: Scene) -> list[dict[str, object]]:
    """What `meshq dead list` shows."""
    urls = {"MESHQ_BROKER_URL": stage.mesh.broker_url, "MESHQ_REGISTRY_URL": stage.mesh.registry_url}
    command = [sys.executable, "-m", "meshq", "dead", "list", "--limit", "10000", "-o", "json"]
    done = subprocess.run(command, env=environment(urls), capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    found: list[dict[str, object]] = json.loads(done.stdout)
    return found


def dead_idents(stage: Scene, history: History) -> list[str]:
    """The ids of those of this history."""
    return [history.idents[str(row["id"])] for row in dead_letters(stage) if row["id"] in history.idents]


def lasting(seconds: float) -> None:
    """For a fault that is a length of time."""
    until = time.monotonic() + seconds
    wait_for(lambda: time.monotonic() >= until, seconds + 30, "the fault's time over")


def ready(cluster: Cluster, vhost: str, queue: str) -> int | None:
    """Messages ready in a queue, as the broker counts them; None where there is no such queue."""
    found = [each for each in cluster.management.queues(vhost) if each["name"] == queue]
    return found[0].get("messages_ready") if found else None


def leader(cluster: Cluster, vhost: str, queue: str) -> Node:
    name = next(found["leader"] for found in cluster.management.queues(vhost) if found["name"] == queue)
    return next(node for node in cluster.nodes if node.name == name)


def follower(cluster: Cluster, vhost: str, queue: str) -> Node:
    first = leader(cluster, vhost, queue)
    return next(node for node in cluster.nodes if node is not first)


WORK = work_queue("orders.v1")
