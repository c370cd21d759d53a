"""Nothing is lost while a part of the broker fails: each test is one fault, under load, over a cluster of three nodes."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fault.durable_load import call, event, settled
from tests.fault.proxy import proxies
from tests.fault.scene import WORK, Scene, dead_idents, follower, lasting, leader, ready, scene
from tests.servers.processes import LOOPBACK, wait_for
from tests.servers.rabbitmq import Cluster

pytestmark = [pytest.mark.rabbitmq, pytest.mark.redis, pytest.mark.timeout(400)]


@pytest.fixture
def stage(fault_cluster: Cluster, vhost: str, redis_url: str, tmp_path: Path) -> Iterator[Scene]:
    with scene(fault_cluster.url(vhost), redis_url, tmp_path / "mesh") as found:
        yield found


def test_the_leader_killed(stage: Scene, fault_cluster: Cluster, vhost: str) -> None:
    with stage.load() as history:
        node = leader(fault_cluster, vhost, WORK)
        node.kill()
        history.wait_for_more(100)
        node.start()
        fault_cluster.wait_healthy()
        history.wait_for_more(50)
    stage.judge(history, duplicates=True)


def test_a_follower_killed(stage: Scene, fault_cluster: Cluster, vhost: str) -> None:
    with stage.load() as history:
        node = follower(fault_cluster, vhost, WORK)
        node.kill()
        history.wait_for_more(100)
        node.start()
        fault_cluster.wait_healthy()
        history.wait_for_more(50)
    stage.judge(history, duplicates=True)


@pytest.mark.long
def test_a_rolling_restart(stage: Scene, fault_cluster: Cluster) -> None:
    with stage.load() as history:
        for node in fault_cluster.nodes:
            node.stop()
            history.wait_for_more(30)
            node.start()
            fault_cluster.wait_healthy()
            history.wait_for_more(30)
    stage.judge(history, duplicates=True)


def test_the_majority_stopped_for_20_seconds_and_resumed(stage: Scene, fault_cluster: Cluster) -> None:
    """Nothing can be confirmed meanwhile, so nothing is accepted; what was on its way is neither lost nor forgotten."""
    with stage.load() as history:
        for node in fault_cluster.nodes[:2]:
            node.pause()
        lasting(20)
        for node in fault_cluster.nodes[:2]:
            node.resume()
        history.wait_for_more(50)
    fault_cluster.wait_healthy()
    stage.judge(history, duplicates=True)


def test_one_node_cut_off_in_both_directions(stage: Scene, fault_cluster: Cluster, vhost: str) -> None:
    """The one that leads, from the other nodes and from every client."""
    with stage.load() as history:
        node = leader(fault_cluster, vhost, WORK)
        node.cut()
        history.wait_for_more(100)
        node.mend()
        fault_cluster.wait_healthy()
        history.wait_for_more(50)
    stage.judge(history, duplicates=True)


@pytest.mark.parametrize(
    ("on", "off"),
    [
        pytest.param(("set_vm_memory_high_watermark", "0.00001"), ("set_vm_memory_high_watermark", "0.1"), id="memory"),
        pytest.param(
            ("set_disk_free_limit", "900GB"), ("set_disk_free_limit", "50MB"), id="disk", marks=pytest.mark.long
        ),
    ],
)
def test_an_alarm_on_and_off(stage: Scene, fault_cluster: Cluster, on: tuple[str, ...], off: tuple[str, ...]) -> None:
    """Publishers are blocked and say so; consumers go on; nothing comes twice."""
    node = fault_cluster.nodes[0]
    with stage.load() as history:
        try:
            node.ctl(*on)
            stage.shop.wait(lambda: "blocks publishers" in stage.shop.checks().get("broker", ""), "blocked")
            wait_for(lambda: history.answers["503 unavailable"] > 0, 60, "a message refused with 503")
        finally:
            node.ctl(*off)
        history.wait_for_more(50)
    stage.judge(history, duplicates=False)


def test_channels_closed(stage: Scene, fault_cluster: Cluster) -> None:
    with stage.load() as history:
        for _ in range(3):
            for node in fault_cluster.nodes:
                node.ctl("eval", "[exit(P, kill) || P <- rabbit_channel:list_local()].")
            history.wait_for_more(50)
    stage.judge(history, duplicates=True)


def test_connections_reset_in_the_middle_of_a_frame(
    fault_cluster: Cluster, vhost: str, redis_url: str, tmp_path: Path
) -> None:
    with proxies(fault_cluster.addresses) as between:
        hosts = ",".join(f"{LOOPBACK}:{proxy.port}" for proxy in between)
        url = re.sub(r"@[^/]*/", f"@{hosts}/", fault_cluster.url(vhost))
        with scene(url, redis_url, tmp_path / "mesh") as stage:
            with stage.load() as history:
                for count in (1, 7, 8, 100, 333, 1024, 4096, 5000):
                    for proxy in between:
                        proxy.cut_after(count)
                    history.wait_for_more(40)
                assert sum(proxy.cuts for proxy in between) >= 8
            stage.judge(history, duplicates=True)


def test_a_queue_deleted_while_100_wait_to_be_tried_again(stage: Scene, fault_cluster: Cluster, vhost: str) -> None:
    """It is declared and consumed again, and what waited in the delay levels comes into the new one; another service's queue does
    not notice."""
    for app in stage.apps:
        app.mode("500")
    with stage.load(call("orders")) as history:
        wait_for(lambda: len(history.acknowledged) >= 100, 60, "100 messages accepted")
        history.stop()
    wait_for(lambda: ready(fault_cluster, vhost, WORK) == 0, 60, "all of them in the delay levels")
    fault_cluster.management.request("DELETE", f"queues/{vhost}/{WORK}")
    for app in stage.apps:
        app.mode("well")
    with stage.load(event("payments.settled")) as others:
        others.wait_for_more(50)
    stage.wait_ready()
    report = settled(history, stage.one.app, dead=lambda: dead_idents(stage, history))
    assert report.lost == frozenset(), report
    assert settled(others, stage.one.app).lost == frozenset()
