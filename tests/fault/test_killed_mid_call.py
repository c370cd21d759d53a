"""Any one of those that take part in a call is killed in the middle of it. The call has its answer or its code within its
deadline, what must not be repeated is not, and nobody else notices: other calls go on all the while."""

import sys
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.e2e.load import Load, assert_nothing_twice, load
from tests.e2e.pods import Answer, Mesh, Pod, Sidecar, environment, mesh
from tests.servers.processes import ServerProcess
from tests.servers.rabbitmq import Cluster
from tests.servers.redis import RedisServer

pytestmark = [pytest.mark.rabbitmq, pytest.mark.redis]

DEADLINE = 20.0
"""Seconds that the held calls may take."""
AROUND = 25.0
"""Seconds around the end of a node in which calls may fail: two heartbeats, and an election on a busy machine."""


@pytest.fixture
def cluster_of_pods(broker_url: str, redis_url: str, tmp_path: Path) -> Iterator[Mesh]:
    with mesh(broker_url, redis_url, tmp_path / "mesh") as found:
        yield found


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(8) as pool:
        yield pool


def two_orders_and_a_shop(found: Mesh) -> tuple[Pod, Pod, Sidecar]:
    """Two pods of one service that is called, and the sidecar of who calls it; all ready and known to each other."""
    pods, shop = (found.pod("orders"), found.pod("orders")), found.sidecar("shop")
    for sidecar in (*(pod.sidecar for pod in pods), shop):
        sidecar.wait_ready()
    wait_until_known(shop, 2)
    return *pods, shop


def wait_until_known(shop: Sidecar, ready: int) -> None:
    def known() -> bool:
        return [i["state"] for i in shop.instances("orders")].count("ready") == ready

    shop.wait(known, f"{ready} ready instances of orders in the picture")


def hold(threads: ThreadPoolExecutor, shop: Sidecar, method: str, name: str) -> "Future[Answer]":
    """A call that waits at the app until it is released."""
    headers = {"Meshq-Timeout": f"{DEADLINE:g}s"}
    return threads.submit(shop.call, "orders", f"/hold/{name}", method, headers, None, DEADLINE + 10)


def holder(pods: tuple[Pod, Pod], name: str) -> tuple[Pod, Pod]:
    """The pod whose app holds the call, and the other one."""
    pid = pods[0].app.wait_handled(f"/hold/{name}").pid
    return (pods[0], pods[1]) if pods[0].app.pid == pid else (pods[1], pods[0])


def in_time(call: "Future[Answer]", started: float) -> Answer:
    answer = call.result(DEADLINE + 10)
    assert time.monotonic() - started < DEADLINE + 2
    return answer


def assert_only_the_affected_failed(calls: Load) -> None:
    """Unsafe calls that were at the victim may have lost their outcome; all others were answered."""
    calls.assert_answered()
    assert {(call.method, call.code) for call in calls.failed()} <= {("POST", "bad-gateway")}


# --- pods -----------------------------------------------------------------------------------------------------------------


def test_a_killed_caller_is_forgotten_and_its_late_answer_counted(cluster_of_pods: Mesh, tmp_path: Path) -> None:
    one, two, shop = two_orders_and_a_shop(cluster_of_pods)
    url = f"http://127.0.0.1:{shop.port}/v1/call/orders/hold/x"
    program = "import sys, urllib.request; urllib.request.urlopen(sys.argv[1])"
    client = ServerProcess([sys.executable, "-c", program, url], tmp_path / "client.log", environment({}))
    with load(shop, "orders") as calls:
        client.start()
        holding, _ = holder((one, two), "x")
        client.kill()
        shop.wait(lambda: shop.metric("outbound_requests_total", code="hung-up") == 1, "the call given up")
        calls.wait_for_more(20)
    assert shop.metric("outbound_in_flight") == 0
    assert shop.metric("late_replies_total") == 0
    holding.app.release("x")
    shop.wait(lambda: shop.metric("late_replies_total") == 1, "the late reply counted")
    calls.assert_well()


def test_an_app_killed_in_an_unsafe_call_is_a_bad_gateway_and_the_call_not_repeated(
    cluster_of_pods: Mesh, threads: ThreadPoolExecutor
) -> None:
    one, two, shop = two_orders_and_a_shop(cluster_of_pods)
    with load(shop, "orders") as calls:
        started = time.monotonic()
        held = hold(threads, shop, "POST", "x")
        victim, other = holder((one, two), "x")
        victim.app.kill()
        answer = in_time(held, started)
        calls.wait_for_more(20)
    assert (answer.status, answer.code) == (502, "bad-gateway")
    assert len(other.app.handled("/hold/x")) == 1
    assert_only_the_affected_failed(calls)
    assert_nothing_twice(other.app)


def test_an_app_killed_in_a_safe_call_has_it_repeated_by_another_instance(
    cluster_of_pods: Mesh, threads: ThreadPoolExecutor
) -> None:
    one, two, shop = two_orders_and_a_shop(cluster_of_pods)
    with load(shop, "orders") as calls:
        started = time.monotonic()
        held = hold(threads, shop, "GET", "x")
        victim, other = holder((one, two), "x")
        other.app.release("x")
        victim.app.kill()
        answer = in_time(held, started)
        calls.wait_for_more(20)
    assert (answer.status, answer.headers["App-Pid"]) == (200, str(other.app.pid))
    assert answer.headers["Meshq-Attempt"] == "2"
    assert_only_the_affected_failed(calls)
    assert_nothing_twice(other.app)


def test_an_only_app_killed_in_a_safe_call_answers_it_once_restarted(
    cluster_of_pods: Mesh, threads: ThreadPoolExecutor
) -> None:
    orders, billing, shop = (
        cluster_of_pods.pod("orders"),
        cluster_of_pods.pod("billing"),
        cluster_of_pods.sidecar("shop"),
    )
    for sidecar in (orders.sidecar, billing.sidecar, shop):
        sidecar.wait_ready()
    wait_until_known(shop, 1)
    with load(shop, "billing@1") as calls:
        started = time.monotonic()
        held = hold(threads, shop, "GET", "x")
        orders.app.wait_handled("/hold/x")
        orders.app.kill()
        wait_until_known(shop, 0)
        orders.app.start().wait_ready().release("x")
        answer = in_time(held, started)
        calls.wait_for_more(20)
    assert (answer.status, answer.headers["App-Pid"]) == (200, str(orders.app.pid))
    calls.assert_well()


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_the_called_sidecar_killed_mid_call(cluster_of_pods: Mesh, threads: ThreadPoolExecutor, method: str) -> None:
    """A safe call is answered by the other instance; an unsafe one is refused there, because it may have been done."""
    one, two, shop = two_orders_and_a_shop(cluster_of_pods)
    with load(shop, "orders") as calls:
        started = time.monotonic()
        held = hold(threads, shop, method, "x")
        victim, other = holder((one, two), "x")
        other.app.release("x")
        victim.sidecar.kill()
        answer = in_time(held, started)
        calls.wait_for_more(20)
    if method == "GET":
        assert (answer.status, answer.headers["App-Pid"]) == (200, str(other.app.pid))
    else:
        assert (answer.status, answer.code) == (502, "bad-gateway")
        assert len(other.app.handled("/hold/x")) == 1
    assert_only_the_affected_failed(calls)
    assert_nothing_twice(other.app)


def test_the_calling_sidecar_killed_mid_call(cluster_of_pods: Mesh, threads: ThreadPoolExecutor) -> None:
    """Its caller sees the connection end at once; the app's late answer disturbs nobody."""
    one, two, shop = two_orders_and_a_shop(cluster_of_pods)
    victim = cluster_of_pods.sidecar("kiosk").wait_ready()
    wait_until_known(victim, 2)
    with load(shop, "orders") as calls:
        held = hold(threads, victim, "POST", "x")
        holding, _ = holder((one, two), "x")
        victim.kill()
        with pytest.raises(ConnectionError):
            held.result(DEADLINE)
        holding.app.release("x")
        calls.wait_for_more(20)
    for pod in (one, two):
        pod.sidecar.wait(lambda pod=pod: pod.sidecar.metric("inbound_in_flight") == 0, "the late answer sent")  # type: ignore[misc]
    calls.assert_well()
    assert_nothing_twice(one.app)


def test_a_sidecar_told_to_stop_answers_all_it_has_taken(cluster_of_pods: Mesh, threads: ThreadPoolExecutor) -> None:
    one, two, shop = two_orders_and_a_shop(cluster_of_pods)
    with load(shop, "orders") as calls:
        held = hold(threads, shop, "POST", "x")
        leaving, _ = holder((one, two), "x")
        leaving.sidecar.terminate()
        leaving.sidecar.wait(lambda: "drain" in leaving.sidecar.checks(), "draining")
        calls.wait_for_more(20)
        leaving.app.release("x")
        assert held.result(DEADLINE).status == 200
        assert leaving.sidecar.wait_exit() == 0
        calls.wait_for_more(20)
    calls.assert_well()
    assert_nothing_twice(one.app)


def test_a_calling_sidecar_told_to_stop_waits_for_the_answers_to_its_app(
    cluster_of_pods: Mesh, threads: ThreadPoolExecutor
) -> None:
    one, two, shop = two_orders_and_a_shop(cluster_of_pods)
    held = hold(threads, shop, "POST", "x")
    holding, _ = holder((one, two), "x")
    shop.terminate()
    with pytest.raises(TimeoutError):  # it does not end while the call is open
        shop.wait_exit(2)
    holding.app.release("x")
    assert held.result(DEADLINE).status == 200
    assert shop.wait_exit() == 0


# --- what they stand on -----------------------------------------------------------------------------------------------------


@pytest.mark.long  # test_pod_faults kills it under load
def test_redis_killed_for_some_seconds_fails_no_call(broker_url: str, fault_redis: RedisServer, tmp_path: Path) -> None:
    with mesh(broker_url, fault_redis.url, tmp_path / "mesh") as found:
        one, _, shop = two_orders_and_a_shop(found)
        with load(shop, "orders", "orders@1") as calls:
            fault_redis.kill()
            shop.wait(lambda: shop.metric("registry_stale") == 1, "the registry missed")
            calls.wait_for_more(200)
            fault_redis.start()  # it comes back empty
            shop.wait(lambda: shop.metric("registry_stale") == 0, "the registry found again")
            wait_until_known(shop, 2)
            calls.wait_for_more(20)
        calls.assert_well()
        assert_nothing_twice(one.app)


@pytest.mark.timeout(400)
def test_each_broker_node_killed_in_turn_mid_call(
    fault_cluster: Cluster, vhost: str, redis_url: str, tmp_path: Path, threads: ThreadPoolExecutor
) -> None:
    """So the one that leads the queue is among them, and those that the sidecars are connected to."""
    with mesh(fault_cluster.url(vhost), redis_url, tmp_path / "mesh") as found:
        one, two, shop = two_orders_and_a_shop(found)
        for node in fault_cluster.nodes:
            with load(shop, "orders", "orders@1") as calls:
                started = time.monotonic()
                held = {method: hold(threads, shop, method, f"{method}-{node.name}") for method in ("GET", "POST")}
                for method in held:
                    one.app.wait_handled(f"/hold/{method}-{node.name}")
                node.kill()
                killed = time.monotonic()
                calls.wait_for_more(100)
                for pod in (one, two):
                    for method in held:
                        pod.app.release(f"{method}-{node.name}")
                safe, unsafe = (in_time(held[method], started) for method in ("GET", "POST"))
                assert safe.status == 200, node.name
                assert (unsafe.status, unsafe.code) in [(200, ""), (502, "bad-gateway"), (504, "deadline")], node.name
                for sidecar in (one.sidecar, two.sidecar, shop):
                    sidecar.wait_ready()
                recovered = time.monotonic()
                calls.wait_for_more(50)
            calls.assert_answered()
            assert recovered - killed < AROUND
            assert calls.failed(since=recovered) == [], node.name
            assert_nothing_twice(one.app)
            node.start()
            fault_cluster.wait_healthy()
