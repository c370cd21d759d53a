"""The ordinary life of sidecars, as processes, on the real broker and the real registry."""

import json
import random
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import pytest

from tests.e2e.load import assert_nothing_twice, load
from tests.e2e.pods import PATIENCE, Answer, Connection, Mesh, Pod, Sidecar, ask, mesh
from tests.servers.processes import LOOPBACK, wait_for
from tests.servers.rabbitmq import Cluster
from tests.servers.redis import RedisDatabases

pytestmark = [pytest.mark.rabbitmq, pytest.mark.redis]


def _loopbacks() -> list[str]:
    """Every loopback address that this machine has."""
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            return [LOOPBACK, "::1"]
    except OSError:
        return [LOOPBACK]


class World(NamedTuple):
    mesh: Mesh
    old: Pod
    """orders 1.4.0"""
    new: Pod
    """orders 2.3.1"""
    shop: Sidecar


@pytest.fixture(scope="module")
def world(rabbitmq: Cluster, redis_server: RedisDatabases, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    vhost = rabbitmq.new_vhost()
    with mesh(rabbitmq.url(vhost), redis_server.new_database(), tmp_path_factory.mktemp("mesh")) as found:
        old, new = (found.pod("orders", service_version=version) for version in ("1.4.0", "2.3.1"))
        shop = found.sidecar("shop")
        for sidecar in (old.sidecar, new.sidecar, shop):
            sidecar.wait_ready()
        wait_until_known(shop, "orders", 2)
        yield World(found, old, new, shop)
    rabbitmq.delete_vhost(vhost)


def wait_until_known(shop: Sidecar, service: str, ready: int = 1) -> None:
    def known() -> bool:
        return [i["state"] for i in shop.instances(service)].count("ready") == ready

    shop.wait(known, f"{ready} ready instances of {service} in the picture")


def served_by(answer: Answer) -> str:
    """`orders/2.3.1`"""
    assert answer.status == 200, answer.body
    return str(answer.headers["Meshq-Served-By"]).rpartition("/")[0]


# --- addresses and versions ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("address", "version"),
    [
        ("orders", "2.3.1"),
        ("orders@1", "1.4.0"),
        ("orders@2", "2.3.1"),
        ("orders@latest", "2.3.1"),
        ("orders@^1.2", "1.4.0"),
        ("orders@^2.3", "2.3.1"),
        ("orders@%3E%3D1.0,%3C2", "1.4.0"),
        ("orders@>=2.1,<3", "2.3.1"),
    ],
)
def test_versions_live_side_by_side(world: World, address: str, version: str) -> None:
    assert served_by(world.shop.call(address)) == f"orders/{version}"
    service, _, selector = address.partition("@")
    if "%" not in selector and selector:
        assert served_by(world.shop.call(service, headers={"Meshq-Version": selector})) == f"orders/{version}"


@pytest.mark.parametrize(("host", "version"), [("orders.mesh", "2.3.1"), ("v1.orders.localhost", "1.4.0")])
def test_a_version_by_its_host_name(world: World, host: str, version: str) -> None:
    assert served_by(ask(world.shop.port, "/", headers={"Host": f"{host}:3600"})) == f"orders/{version}"
    assert served_by(ask(world.shop.port, f"http://{host}/")) == f"orders/{version}"


@pytest.mark.parametrize("address", ["orders@9", "orders@^2.9", "orders@>=3", "orders@^1.4.1"])
def test_a_version_that_is_not_there(world: World, address: str) -> None:
    answer = world.shop.call(address)
    assert (answer.status, answer.code) == (404, "no-such-version")
    assert "1.4.0" in answer.detail
    assert "2.3.1" in answer.detail


# --- what the two ends see ----------------------------------------------------------------------------------------------------


def test_the_caller_is_told_who_answered_and_the_app_who_called(world: World) -> None:
    sent = {"Meshq-Caller": "liar", "Meshq-Attempt": "7", "X-Own": "kept", "Meshq-Timeout": "9s"}
    before = time.time() * 1000
    answer = world.shop.call("orders@1", "/headers?a=%20b", "POST", sent, b"body")
    after = time.time() * 1000
    assert served_by(answer) == "orders/1.4.0"
    assert answer.headers["Meshq-Attempt"] == "1"
    (seen,) = world.old.app.handled("/headers?a=%20b")
    message_id = answer.headers["Meshq-Message-Id"]
    deadline = int(seen.headers.pop("meshq-deadline"))
    assert before + 9000 - 100 <= deadline <= after + 9000 + 100
    traceparent = seen.headers.pop("traceparent")
    assert traceparent.startswith("00-")
    assert seen.headers == {
        "host": "orders.mesh",
        "accept-encoding": "identity",
        "content-length": "4",
        "x-own": "kept",
        "meshq-message-id": message_id,
        "meshq-attempt": "1",
        "meshq-topic": "orders.v1",
        "meshq-caller-claimed": "shop",
        "idempotency-key": message_id,
    }


def test_an_error_of_the_apps_is_its_own(world: World) -> None:
    for status in (400, 404, 418, 500, 503):
        answer = world.shop.call("orders", f"/status/{status}", "POST")
        assert (answer.status, answer.code, answer.body) == (status, "", b"as asked")


@pytest.mark.parametrize("host", _loopbacks())
def test_apps_call_on_each_loopback_address(world: World, host: str) -> None:
    assert ask(world.shop.port, "/v1/call/orders/", "POST", body=b"here", host=host).body == b"here"


def test_bodies_of_a_mebibyte_arrive_whole(world: World) -> None:
    for seed in range(4):
        body = random.Random(seed).randbytes(2**20)
        answer = world.shop.call("orders", "/echo", "POST", body=body)
        assert answer.status == 200
        assert answer.body == body


def test_two_hundred_callers_each_get_their_own_answers(world: World) -> None:
    def caller(number: int) -> int:
        connection = Connection(world.shop.port)
        well = 0
        for turn in range(5):
            body = f"{number}/{turn}".encode()
            answer = connection.ask("POST", "/v1/call/orders@2/echo", {}, body)
            well += (answer.status, answer.body) == (200, body)
        connection.close()
        return well

    with ThreadPoolExecutor(200) as threads:
        assert sum(threads.map(caller, range(200))) == 1000
    assert world.shop.metric("outbound_in_flight") == 0


# --- deadlines ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("method", "retryable"), [("GET", True), ("POST", False)])
def test_no_answer_in_time_is_a_deadline(world: World, method: str, retryable: bool) -> None:
    started = time.monotonic()
    answer = world.shop.call("orders@1", f"/hold/late-{method}", method, {"Meshq-Timeout": "400ms"})
    took = time.monotonic() - started
    world.old.app.release(f"late-{method}")
    assert (answer.status, answer.code) == (504, "deadline")
    assert 0.4 <= took < 1.4
    assert json.loads(answer.body)["retryable"] is retryable
    assert "orders.v1" in answer.detail


def test_a_callers_own_deadline_is_passed_on_and_bounds_the_wait(world: World) -> None:
    deadline = int(time.time() * 1000) + 600
    answer = world.shop.call("orders@1", "/hold/own", headers={"Meshq-Deadline": str(deadline)})
    assert time.time() * 1000 - deadline < 1000
    world.old.app.release("own")
    assert answer.code == "deadline"
    (seen,) = world.old.app.handled("/hold/own")
    assert abs(int(seen.headers["meshq-deadline"]) - deadline) <= 100


def test_after_its_deadline_a_message_is_not_started(world: World) -> None:
    past = str(int(time.time() * 1000) - 1000)
    assert world.shop.call("orders@1", "/past", headers={"Meshq-Deadline": past}).code == "deadline"
    single = world.mesh.pod("single", app_concurrency="1")
    single.sidecar.wait_ready()
    with ThreadPoolExecutor(1) as threads:
        first = threads.submit(world.shop.call, "single@1", "/hold/first")
        single.app.wait_handled("/hold/first")
        late = world.shop.call("single@1", "/too-late", headers={"Meshq-Timeout": "300ms"})
        assert late.code == "deadline"
        single.app.release("first")
        assert first.result().status == 200
    single.sidecar.wait(lambda: single.sidecar.metric("expired_total") == 1, "the expired call dropped")
    assert world.shop.call("single@1", "/next").status == 200
    assert single.app.handled("/too-late") == []
    assert world.old.app.handled("/past") == []


# --- the app's strength and its health -----------------------------------------------------------------------------------------


def test_the_app_never_sees_more_than_its_concurrency(world: World) -> None:
    four = world.mesh.pod("four", app_concurrency="4")
    four.sidecar.wait_ready()
    with ThreadPoolExecutor(100) as threads:
        answers = [threads.submit(world.shop.call, "four@1", "/hold/gate") for _ in range(100)]
        world.shop.wait(lambda: world.shop.metric("outbound_in_flight") == 100, "100 calls open")
        four.app.wait_handled("/hold/gate", times=4)
        assert four.sidecar.metric("inbound_in_flight") == 4
        four.app.release("gate")
        assert {answer.result().status for answer in answers} == {200}
    assert four.app.most_at_once() == 4


def test_calls_wait_for_an_app_that_is_not_ready_yet(world: World) -> None:
    late = world.mesh.pod("late")
    late.app.kill()
    late.sidecar.wait(lambda: late.sidecar.checks().get("app", "ok") != "ok", "the app missed")
    late.sidecar.wait(lambda: late.sidecar.checks().get("broker") == "ok", "the broker")
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(world.shop.call, "late@1", "/patient", "POST", None, b"x")
        world.shop.wait(lambda: world.shop.metric("outbound_in_flight") == 1, "the call open")
        assert ask(late.sidecar.admin_port, "/readyz").status == 503
        late.app.start()
        answer = waiting.result(PATIENCE)
    assert (answer.status, answer.body, answer.headers["Meshq-Attempt"]) == (200, b"x", "1")
    assert late.sidecar.ready


def test_an_app_restarted_under_load_fails_no_safe_call(world: World) -> None:
    pod = world.mesh.pod("restarted")
    pod.sidecar.wait_ready()
    with load(world.shop, "restarted@1") as calls:
        calls.wait_for_more(20)
        pod.app.kill()
        pod.sidecar.wait(lambda: not pod.sidecar.ready, "the app missed")
        pod.app.start()
        calls.wait_for_more(20)
    calls.assert_answered()
    assert {(call.method, call.code) for call in calls.failed()} <= {("POST", "bad-gateway")}
    assert_nothing_twice(pod.app)


# --- what operators see ---------------------------------------------------------------------------------------------------------


def test_metrics_have_their_names_and_no_path(world: World) -> None:
    for _ in range(3):
        assert world.shop.call("orders@1", "/secret/path/4711", "POST").status == 200
    calling, called = world.shop.metrics(), world.old.sidecar.metrics()
    assert "4711" not in calling + called
    assert world.shop.metric("outbound_requests_total", service="orders", code="200") >= 3
    assert world.shop.metric("outbound_request_seconds_count", service="orders") >= 3
    assert world.old.sidecar.metric("inbound_requests_total", topic="orders.v1", code="200") >= 3
    assert world.old.sidecar.metric("inbound_request_seconds_count", topic="orders.v1") >= 3
    assert world.shop.metric("broker_publishing") == world.shop.metric("broker_consuming") == 1
    assert world.shop.metric("build_info", service="shop", service_version="1.0.0") == 1
    for line in calling.splitlines():
        assert line.startswith(("# HELP meshq_", "# TYPE meshq_", "meshq_")), line


def test_the_admin_port_is_read_only_and_says_how_it_is(world: World) -> None:
    port = world.old.sidecar.admin_port
    assert ask(port, "/livez").status == ask(port, "/readyz").status == 200
    assert json.loads(ask(port, "/readyz").body) == {
        "ready": True,
        "checks": {"broker": "ok", "registry": "ok", "app": "ok"},
    }
    assert ask(port, "/metrics", "POST").status == 405
    assert ask(port, "/v1/call/orders/").status == 404


def test_the_local_api_says_who_is_there(world: World) -> None:
    listed = json.loads(ask(world.shop.port, "/v1/services").body)
    found = {service["name"]: service for service in listed}
    versions = {v["version"]: (v["topic"], v["ready"]) for v in found["orders"]["versions"]}
    assert versions == {"1.4.0": ("orders.v1", 1), "2.3.1": ("orders.v2", 1)}
    self = json.loads(ask(world.new.sidecar.port, "/v1/self").body)
    assert (self["service"], self["version"], self["state"]) == ("orders", "2.3.1", "ready")
    assert self["topics"] == ["orders.v2"]


def test_meshes_on_one_cluster_and_one_registry_are_apart(
    rabbitmq: Cluster, redis_url: str, vhost: str, world: World
) -> None:
    """By virtual host and MESHQ_MESH."""
    other = {"broker_url": rabbitmq.url(vhost), "registry_url": redis_url}
    orders, shop = (
        world.mesh.pod("orders", service_version="2.9.9", mesh="other", **other),
        world.mesh.sidecar("shop", mesh="other", **other),
    )
    third = world.mesh.sidecar("shop", mesh="third", **other)  # the same virtual host, another registry
    for sidecar in (orders.sidecar, shop, third):
        sidecar.wait_ready()
    wait_until_known(shop, "orders")
    assert served_by(shop.call("orders")) == "orders/2.9.9"
    assert shop.call("orders@1").code == "no-such-version"
    assert served_by(world.shop.call("orders")) == "orders/2.3.1"
    assert third.instances("orders") == []
    wait_for(lambda: len(world.shop.instances("orders")) == 2, PATIENCE, "the first mesh as it was")
    for sidecar in (orders.sidecar, shop, third):
        sidecar.stop()
