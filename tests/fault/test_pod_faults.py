"""Nothing is lost while an app, a sidecar, the registry, a clock or a disk fails: each test is one fault, under load."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fault.scene import Scene, scene
from tests.servers.faketime import SteppedClock
from tests.servers.processes import wait_for
from tests.servers.rabbitmq import Cluster
from tests.servers.redis import RedisServer

pytestmark = [pytest.mark.rabbitmq, pytest.mark.redis, pytest.mark.timeout(300)]


@pytest.fixture
def stage(broker_url: str, redis_url: str, tmp_path: Path) -> Iterator[Scene]:
    with scene(broker_url, redis_url, tmp_path / "mesh") as found:
        yield found


# --- sidecars -------------------------------------------------------------------------------------------------------------


def test_the_receiving_sidecars_killed_again_and_again(stage: Scene) -> None:
    """Before and after the app has answered, before and after the acknowledgement: wherever it happens to be."""
    with stage.load() as history:
        for _ in range(3):
            for pod in stage.pods:
                pod.sidecar.kill()
                history.wait_for_more(15)
                pod.sidecar.start().wait_ready()
                stage.wait_delivered(15)
    stage.judge(history, duplicates=True)


def test_the_sending_sidecar_killed_again_and_again(stage: Scene) -> None:
    """Before and after the confirm: a message whose sender got no answer may have been sent, one that was accepted is."""
    with stage.load() as history:
        for _ in range(5):
            stage.shop.kill()
            stage.shop.start().wait_ready()
            history.wait_for_more(25)
    report = stage.judge(history, duplicates=False)
    assert report.attempted > report.acknowledged


def test_sidecars_told_to_stop_under_load(stage: Scene) -> None:
    """SIGTERM loses nothing, gives nothing twice, burns no attempt, buries nothing, and ends in time."""
    with stage.load() as history:
        for _ in range(3):
            for pod in stage.pods:
                pod.sidecar.terminate()
                assert pod.sidecar.wait_exit(15) == 0
                pod.sidecar.start().wait_ready()
                stage.wait_delivered(15)
    stage.judge(history, duplicates=False)
    assert {record.headers["meshq-attempt"] for record in stage.one.app.handled()} == {"1"}


# --- apps -----------------------------------------------------------------------------------------------------------------


def test_apps_killed(stage: Scene) -> None:
    with stage.load() as history:
        for _ in range(2):
            for pod in stage.pods:
                pod.app.kill()
                history.wait_for_more(40)
                pod.app.start().wait_ready()
                stage.wait_delivered(30)
    stage.judge(history, duplicates=True)


@pytest.mark.parametrize(
    "mode", ["garbage", "slow", "503", *(pytest.param(mode, marks=pytest.mark.long) for mode in ("half", "500"))]
)
def test_apps_that_do_not_answer_well(stage: Scene, mode: str) -> None:
    """What they fail is tried again, in the broker; the circuit opens where the app itself is unwell."""
    with stage.load() as history:
        for app in stage.apps:
            app.mode(mode)
        history.wait_for_more(40)
        for app in stage.apps:
            app.mode("well")
        stage.wait_delivered(40)
    stage.judge(history, duplicates=True)


# --- what they stand on ---------------------------------------------------------------------------------------------------


def test_redis_killed_for_some_seconds(broker_url: str, fault_redis: RedisServer, tmp_path: Path) -> None:
    """Nothing waits for it; it comes back empty, and results that came meanwhile are there."""
    with scene(broker_url, fault_redis.url, tmp_path / "mesh") as stage:
        with stage.load() as history:
            fault_redis.kill()
            stage.shop.wait(lambda: stage.shop.metric("registry_stale") == 1, "the registry missed")
            history.wait_for_more(200)
            stage.wait_delivered(100)
            fault_redis.start()
            stage.shop.wait(lambda: stage.shop.metric("registry_stale") == 0, "the registry found again")
            history.wait_for_more(50)
        stage.judge(history, duplicates=False)


def test_the_clocks_of_pods_stepped_by_an_hour(broker_url: str, redis_url: str, tmp_path: Path) -> None:
    """Forwards in one, backwards in the other, and back."""
    clocks = [SteppedClock(tmp_path / name) for name in ("orders.clock", "shop.clock")]
    with scene(
        broker_url,
        redis_url,
        tmp_path / "mesh",
        environment=clocks[0].environment,
        shop_environment=clocks[1].environment,
    ) as stage:
        with stage.load() as history:
            for hour in (3600, -3600, 0):
                clocks[0].step(hour)
                clocks[1].step(-hour)
                history.wait_for_more(60)
                answer = stage.shop.call("orders@1", "/work", "POST", {"Meshq-Timeout": "5s"}, b"x")
                assert answer.status == 200, answer
        stage.judge(history, duplicates=False)


# --- the spool ------------------------------------------------------------------------------------------------------------


def test_what_the_spool_took_while_the_broker_was_away_arrives_in_order(
    fault_cluster: Cluster, vhost: str, redis_url: str, tmp_path: Path
) -> None:
    """Through a restart of the sidecar that holds it."""
    spool = {"spool_dir": str(tmp_path / "spool")}
    with scene(fault_cluster.url(vhost), redis_url, tmp_path / "mesh", shop=spool) as stage:
        with stage.load() as history:
            for node in fault_cluster.nodes:
                node.kill()
            stage.shop.wait(lambda: stage.shop.metric("spool_messages") >= 50, "50 messages in the spool", 90)
            stage.shop.kill()
            stage.shop.start()
            wait_for(lambda: stage.shop.checks(), 60, "the shop's sidecar")
            assert stage.shop.metric("spool_messages") >= 50
            history.wait_for_more(20)
            for node in fault_cluster.nodes:
                node.start()
            fault_cluster.wait_healthy()
            stage.shop.wait(lambda: stage.shop.metric("spool_messages") == 0, "the spool empty", 90)
            history.wait_for_more(20)
        stage.judge(history, duplicates=True)
