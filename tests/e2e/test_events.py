"""Events between sidecars as processes, on the real broker and the real store."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.e2e.dev_mesh import echo, free_ports, meshq, running, write_mesh
from tests.e2e.pods import Answer, Mesh, Pod, Sidecar, ask, mesh
from tests.servers.rabbitmq import Cluster
from tests.servers.redis import RedisDatabases

API = {"Meshq-Api": "1"}
BATCH = {"Content-Type": "application/cloudevents-batch+json"}


class World(NamedTuple):
    mesh: Mesh
    payments: Sidecar
    """It logs payments.settled."""
    shop: Pod
    branch: Pod
    """Another instance of `shop`."""


@pytest.fixture(scope="module")
def world(rabbitmq: Cluster, redis_server: RedisDatabases, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    vhost = rabbitmq.new_vhost()
    with mesh(rabbitmq.url(vhost), redis_server.new_database(), tmp_path_factory.mktemp("mesh")) as found:
        payments = found.sidecar("payments", log_events="payments.settled")
        told = "settled:payments.settled@1=/on/settled, each:payments.settled=/each:broadcast"
        shop, branch = (found.pod("shop", subscribe=told) for _ in range(2))
        for sidecar in (payments, shop.sidecar, branch.sidecar):
            sidecar.wait_ready()
        yield World(found, payments, shop, branch)
    rabbitmq.delete_vhost(vhost)


def publish(
    sidecar: Sidecar, event: str, body: bytes | None = b"{}", headers: Mapping[str, str] | None = None
) -> dict[str, Any]:
    answer = ask(sidecar.port, f"/v1/publish/{event}", "POST", headers, body)
    assert answer.status == 202, answer.body
    told: dict[str, Any] = json.loads(answer.body)
    return told


def subscriptions(sidecar: Sidecar, name: str = "", method: str = "GET", body: Any = None, **headers: str) -> Answer:
    path = f"/v1/subscriptions/{name}" if name else "/v1/subscriptions"
    given = None if body is None else json.dumps(body).encode()
    return ask(sidecar.port, path, method, {**API, **headers} if method != "GET" else headers, given)


def ids(pod: Pod, path: str) -> list[str]:
    """The ce-ids of what the apps of this service got on a path."""
    return [handled.headers["ce-id"] for handled in pod.app.handled(path)]


@pytest.mark.rabbitmq
@pytest.mark.redis
def test_one_instance_gets_it_and_every_instance_that_is_to(world: World) -> None:
    told = publish(world.payments, "payments.settled", b"paid", {"Ce-Id": "first", "X-Shop": "berlin"})
    assert told == {"id": told["id"], "status": "accepted", "topic": "payments.settled.v1"}
    handled = world.shop.app.wait_handled("/on/settled")
    expected = {
        "ce-id": "first",
        "ce-source": "/payments",
        "ce-type": "payments.settled",
        "ce-specversion": "1.0",
        "x-shop": "berlin",
        "host": "localhost",
        "meshq-topic": "payments.settled.v1",
        "meshq-message-id": told["id"],
        "meshq-caller-claimed": "payments",
    }
    assert (handled.method, handled.headers.items() >= expected.items()) == ("POST", True)
    world.shop.app.wait_handled("/each", times=2)
    assert len({each.pid for each in world.shop.app.handled("/each")}) == 2


@pytest.mark.rabbitmq
@pytest.mark.redis
def test_an_event_that_nobody_wants_is_counted(world: World) -> None:
    answer = ask(world.payments.port, "/v1/publish/payments.refunded", "POST", None, b"{}")
    assert (answer.status, answer.headers["Meshq-Subscribers"]) == (202, "0")
    assert world.payments.metric("events_unrouted_total") == 1


@pytest.mark.rabbitmq
@pytest.mark.redis
def test_an_app_makes_and_deletes_a_subscription(world: World) -> None:
    shop = world.shop.sidecar
    wanted = {"events": "orders.*", "path": "/on/orders", "filter": {"X-Shop": "berlin"}}
    page = ask(shop.port, "/v1/subscriptions/orders", "PUT", None, json.dumps(wanted).encode())
    assert (page.status, page.code) == (403, "denied"), "a web page could send that"
    made = subscriptions(shop, "orders", "PUT", wanted)
    assert made.status == 201
    assert {each["name"] for each in json.loads(subscriptions(shop).body)} == {"each", "orders", "settled"}
    for shop_name in ("paris", "berlin"):
        publish(world.payments, "orders.placed", None, {"Ce-Id": shop_name, "X-Shop": shop_name})
    world.shop.app.wait_handled("/on/orders")
    shop.wait(lambda: shop.metric("events_filtered_total") == 1, "the other is filtered")
    assert ids(world.shop, "/on/orders") == ["berlin"]
    assert subscriptions(shop, "orders", "PUT", {**wanted, "mode": "ordered"}).status == 409
    assert subscriptions(shop, "orders", "DELETE").status == 204
    assert subscriptions(shop, "orders").status == 404
    answer = ask(world.payments.port, "/v1/publish/orders.placed", "POST", {"X-Shop": "berlin"})
    assert answer.headers["Meshq-Subscribers"] == "0"


@pytest.mark.rabbitmq
@pytest.mark.redis
def test_a_batch_is_told_event_by_event(world: World) -> None:
    events = [{"id": f"batch-{n}", "specversion": "1.0", "source": "/t", "type": "paid", "data": n} for n in range(100)]
    told = publish(world.payments, "payments.settled", json.dumps([*events, 5]).encode(), BATCH)
    assert [each["status"] for each in told["events"]] == ["accepted"] * 100 + ["refused"]
    world.shop.sidecar.wait(
        lambda: {f"batch-{n}" for n in range(100)} <= set(ids(world.shop, "/on/settled")), "all of them"
    )


@pytest.mark.rabbitmq
@pytest.mark.redis
def test_a_replay_gets_what_was_before_it(world: World) -> None:
    for number in range(3):
        publish(world.payments, "payments.settled", None, {"Ce-Id": f"old-{number}"})
    wanted = {"event": "payments.settled", "path": "/again", "mode": "replay", "from": "first"}
    for pod in (world.shop, world.branch):
        assert subscriptions(pod.sidecar, "again", "PUT", wanted).status == 201
    publish(world.payments, "payments.settled", None, {"Ce-Id": "new"})
    world.shop.sidecar.wait(lambda: {"old-0", "old-1", "old-2", "new"} <= set(ids(world.shop, "/again")), "all of them")
    assert ids(world.shop, "/again").count("old-0") == 1, "one instance copies"
    for pod in (world.shop, world.branch):
        assert subscriptions(pod.sidecar, "again", "DELETE").status == 204


@pytest.mark.rabbitmq
@pytest.mark.redis
def test_events_wait_for_a_service_that_is_gone(world: World) -> None:
    late = world.mesh.pod("late", subscribe="settled:payments.settled=/late")
    late.sidecar.wait_ready()
    late.kill()
    publish(world.payments, "payments.settled", None, {"Ce-Id": "kept", "Meshq-Priority": "high"})
    again = world.mesh.pod("late", subscribe="settled:payments.settled=/late")
    again.sidecar.wait_ready()
    again.app.wait_handled("/late")
    assert ids(again, "/late") == ["kept"]
    again.kill()


@pytest.mark.rabbitmq
@pytest.mark.redis
def test_the_command_line_publishes_by_broker_and_registry(world: World, tmp_path: Path) -> None:
    servers = {"MESHQ_BROKER_URL": world.mesh.broker_url, "MESHQ_REGISTRY_URL": world.mesh.registry_url}
    done = meshq("publish", "payments.settled", "-d", "typed", "-H", "Ce-Id: typed", cwd=tmp_path, **servers)
    assert (done.returncode, done.stderr) == (0, "")
    world.shop.sidecar.wait(lambda: "typed" in ids(world.shop, "/on/settled"), "what was typed")
    handled = world.shop.app.handled("/on/settled")[-1].headers
    assert (handled["content-type"], handled["ce-source"]) == ("text/plain", "/meshq-control")


def test_the_command_line_publishes_into_a_dev_mesh(tmp_path: Path) -> None:
    folder, first = tmp_path / "mesh", free_ports()
    subscribed = [
        {"event": "payments.settled", "path": "/on/settled"},
        {"name": "a", "event": "x.y", "path": "/again", "mode": "replay"},
    ]
    write_mesh(folder, echo("shop", first, subscribe=subscribed))
    with running(folder, "--control-port", "0") as dev:
        dev.wait_for("the app is ready")
        done = meshq("publish", "payments.settled", "-d", '{"n": 1}', "-H", "Ce-Id: 7", cwd=folder)
        assert (done.returncode, done.stderr) == (0, "")
        assert json.loads(done.stdout)["topic"] == "payments.settled.v1"
        table = meshq("publish", "payments.refunded@2", "-o", "table", cwd=folder)
        assert (table.returncode, table.stderr) == (0, "meshq: nobody subscribes to it\n")
        assert table.stdout.splitlines()[0].split() == ["ID", "STATUS", "TOPIC", "DETAIL"]
        refused = meshq("publish", "payments.settled", "-H", "Meshq-Delay: soon", cwd=folder)
        assert (refused.returncode, refused.stdout) == (1, "")
        assert "Meshq-Delay" in refused.stderr
        batch = meshq("publish", "x.y", "-d", "[{}, 5]", "-H", f"Content-Type: {BATCH['Content-Type']}", cwd=folder)
        assert (batch.returncode, batch.stderr.strip()) == (1, "meshq: 1 of 2 events were refused")
        assert Counter(each["status"] for each in json.loads(batch.stdout)["events"]) == {"accepted": 1, "refused": 1}
