"""What `meshq signals` says while its sources say nothing: never less than what is there, and never 0 (kedacore/keda#7180); and who acts
when the replica that acted is gone."""

import json
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

from tests.e2e.pods import PATIENCE, Mesh, mesh
from tests.e2e.signals_process import Keda, Signals, Stubs, signals, stubs
from tests.servers.management import Management
from tests.servers.processes import LOOPBACK, wait_for
from tests.servers.rabbitmq import Cluster
from tests.servers.redis import RedisServer
from tests.told_http import Asked, Told, telling

pytestmark = [pytest.mark.rabbitmq, pytest.mark.redis]

REPLICAS = 2
NOTICED = 15.0
"""Seconds after which a source that says nothing shows at the latest."""
TAKEN_OVER = 20.0
"""Seconds after which another replica acts at the latest."""


class Front:
    """The management API, as the test lets it through."""

    def __init__(self, management: Management) -> None:
        self._management = management
        self.told: Told | None = None
        """Instead of what the broker says."""
        self.bare = False
        """Without any statistics, as the broker answers when it has lost them."""
        self.asked = 0

    def well(self) -> None:
        self.told, self.bare = None, False

    def answer(self, asked: Asked) -> Told:
        self.asked += 1
        if self.told is not None:
            return self.told
        path = f"{asked.path.removeprefix('/api/')}?columns={asked.query['columns'][0]}"
        queues: list[dict[str, Any]] = self._management.request("GET", path)
        if self.bare:
            queues = [{"name": queue["name"], "state": "running"} for queue in queues]
        return Told(json.dumps(queues).encode())

    def wait_asked(self) -> None:
        """For the next question."""
        before = self.asked
        wait_for(lambda: self.asked > before, PATIENCE, "a question", poll=0.01)


@contextmanager
def fronted(rabbitmq: Cluster) -> Iterator[tuple[Front, str]]:
    """And its URL."""
    front = Front(rabbitmq.management)
    with telling(front.answer) as (port, _):
        yield front, f"http://{LOOPBACK}:{port}"


@pytest.fixture(scope="module")
def stub(tmp_path_factory: pytest.TempPathFactory) -> Stubs:
    return stubs(tmp_path_factory.mktemp("stubs"))


@contextmanager
def workers(broker_url: str, registry_url: str, folder: Path) -> Iterator[Mesh]:
    """A mesh with REPLICAS of a service that has nothing to do, which stay for longer than a test takes."""
    with mesh(broker_url, registry_url, folder / "mesh") as found:
        pods = [found.pod("worker") for _ in range(REPLICAS)]
        for pod in pods:
            pod.sidecar.wait_ready()
        yield found


def is_stale(server: Signals) -> bool:
    """All that it serves says that nothing is known, and nothing says anything else."""
    if server.shown("worker.v1") != {"signal_stale": 1.0}:
        return False
    (row,) = json.loads(server.ask("/v1/scale/worker").body)
    assert (row["stale"], row["desired"], row["held"]) == (True, REPLICAS, "stale")
    assert server.external("meshq-desired-replicas", "worker").status == 503
    assert server.ask("/livez").status == 200
    return True


def is_known(server: Signals) -> bool:
    return server.shown("worker.v1").get("desired_replicas") == REPLICAS


WITHOUT_STATISTICS, REFUSING, SILENT = "without statistics", Told(b"{}", 500), Told(silent=True)


@pytest.mark.parametrize(
    "ways", [[WITHOUT_STATISTICS], pytest.param([WITHOUT_STATISTICS, REFUSING, SILENT], marks=pytest.mark.long)]
)
def test_missing_statistics_are_never_0_keda_7180(
    ways: list[Any], rabbitmq: Cluster, broker_url: str, redis_url: str, stub: Stubs, tmp_path: Path
) -> None:
    """As many servers, each of whose broker says nothing in another way."""
    where = {"broker_url": broker_url, "registry_url": redis_url}
    with ExitStack() as stack:
        stack.enter_context(workers(broker_url, redis_url, tmp_path))
        fronts = [stack.enter_context(fronted(rabbitmq)) for _ in ways]
        servers = [
            stack.enter_context(signals(tmp_path / f"{number}.log", **where, management_url=url))
            for number, (_, url) in enumerate(fronts)
        ]
        for server in servers:
            server.wait_ready()
            server.wait(lambda server=server: is_known(server), "figures")  # type: ignore[misc]
        kedas = [stack.enter_context(closing(Keda(server.grpc_port, stub))) for server in servers]
        told = [stack.enter_context(keda.figures("worker")) for keda in kedas]

        until = time.monotonic() + NOTICED
        for (front, _), way in zip(fronts, ways, strict=True):
            front.told, front.bare = (None, True) if way is WITHOUT_STATISTICS else (way, False)
        for server, keda in zip(servers, kedas, strict=True):
            server.wait(lambda server=server: is_stale(server), "stale", until - time.monotonic())  # type: ignore[misc]
            assert keda.refusal("worker") is grpc.StatusCode.UNAVAILABLE
        for (front, _), server in zip(fronts, servers, strict=True):
            front.well()
            server.wait(lambda server=server: is_known(server), "figures again")  # type: ignore[misc]
        assert told == [{REPLICAS}] * len(ways)


@pytest.mark.parametrize("silent", [Told(silent=True), Told(b"[", missing=1000, dripping=True)])
def test_it_ends_at_once_while_the_broker_is_asked(
    silent: Told, rabbitmq: Cluster, broker_url: str, redis_url: str, tmp_path: Path
) -> None:
    with ExitStack() as stack:
        front, management_url = stack.enter_context(fronted(rabbitmq))
        front.told = silent
        where = {"broker_url": broker_url, "registry_url": redis_url, "management_url": management_url}
        server = stack.enter_context(signals(tmp_path / "signals.log", **where))
        front.wait_asked()
        code, seconds = server.end()
        assert (code, seconds < 2) == (0, True), seconds


@pytest.mark.long
def test_nothing_goes_down_without_redis_nor_without_both(
    rabbitmq: Cluster, broker_url: str, fault_redis: RedisServer, stub: Stubs, tmp_path: Path
) -> None:
    registry_url = fault_redis.new_database()
    with ExitStack() as stack:
        front, management_url = stack.enter_context(fronted(rabbitmq))
        found = stack.enter_context(workers(broker_url, registry_url, tmp_path))
        found.pod("asleep").sidecar.wait_ready().stop()
        caller = found.sidecar("caller").wait_ready()
        where = {"broker_url": broker_url, "registry_url": registry_url, "management_url": management_url}
        server = stack.enter_context(signals(tmp_path / "signals.log", **where)).wait_ready()
        server.wait(lambda: is_known(server), "figures")
        keda = stack.enter_context(closing(Keda(server.grpc_port, stub)))
        with keda.figures("worker") as told:
            for stop, start in ((fault_redis.pause, fault_redis.resume), (fault_redis.kill, fault_redis.start)):
                stop()
                server.wait(lambda: "desired_replicas" not in server.shown("worker.v1"), "stale", NOTICED)
                front.told = Told(b"{}", 500)
                server.wait(lambda: is_stale(server), "stale without both", NOTICED)
                front.well()
                start()
                server.wait(lambda: is_known(server), "figures again")
        assert told == {REPLICAS}
        with keda.stream("asleep") as stream:  # which nobody registered again in the Redis that came back empty
            stream.first(False, 0.0)
            sent_at = time.monotonic()
            assert caller.call("asleep", "/", "POST", {"Prefer": "respond-async"}).status == 202
            stream.first(True, sent_at)


@pytest.mark.long
def test_another_replica_leads_when_the_leader_was_killed(
    rabbitmq: Cluster, broker_url: str, redis_url: str, tmp_path: Path
) -> None:
    where = {"broker_url": broker_url, "registry_url": redis_url, "management_url": rabbitmq.management_url}
    with ExitStack() as stack:
        stack.enter_context(workers(broker_url, redis_url, tmp_path))
        servers = [stack.enter_context(signals(tmp_path / f"{number}.log", **where)) for number in range(2)]
        for server in servers:
            server.wait_ready()
            server.wait(lambda server=server: is_known(server), "figures")  # type: ignore[misc]
        wait_for(lambda: any(server.leads for server in servers), PATIENCE, "a leader")
        assert sorted(server.leads for server in servers) == [False, True]
        follower, leader = sorted(servers, key=lambda server: server.leads)
        leader.kill()
        follower.wait(lambda: follower.leads, "the other leads", TAKEN_OVER)
        assert is_known(follower)
