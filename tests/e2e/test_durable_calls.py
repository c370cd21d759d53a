"""Calls that nobody waits for, between sidecars as processes, on the real broker and the real store."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.e2e.pods import Answer, Mesh, Pod, Sidecar, ask, mesh
from tests.servers.processes import wait_for
from tests.servers.rabbitmq import Cluster
from tests.servers.redis import RedisDatabases, RedisServer

pytestmark = [pytest.mark.rabbitmq, pytest.mark.redis]

ASYNC = {"Prefer": "respond-async"}
API = {"Meshq-Api": "1"}


class World(NamedTuple):
    mesh: Mesh
    orders: Pod
    """It takes keys, and tries everything twice."""
    shop: Pod
    branch: Sidecar
    """Another instance of `shop`, without an app."""


@pytest.fixture(scope="module")
def world(rabbitmq: Cluster, redis_server: RedisDatabases, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    vhost = rabbitmq.new_vhost()
    with mesh(rabbitmq.url(vhost), redis_server.new_database(), tmp_path_factory.mktemp("mesh")) as found:
        orders = found.pod("orders", ordered="1", retry="2:1s")
        shop, branch = found.pod("shop"), found.sidecar("shop")
        ready(orders.sidecar, shop.sidecar, branch)
        yield World(found, orders, shop, branch)
    rabbitmq.delete_vhost(vhost)


def ready(*sidecars: Sidecar) -> None:
    for sidecar in sidecars:
        sidecar.wait_ready()
    for sidecar in sidecars:
        sidecar.wait(
            lambda here=sidecar: [i["state"] for i in here.instances("orders")].count("ready") == 1, "orders known"
        )


def send(shop: Sidecar, path: str = "/", headers: Mapping[str, str] | None = None, address: str = "orders") -> str:
    """Returns the id."""
    answer = shop.call(address, path, "POST", {**ASYNC, **(headers or {})}, b"body")
    assert answer.status == 202, answer.body
    accepted = json.loads(answer.body)
    assert (accepted["status"], accepted["topic"]) == ("accepted", "orders.v1")
    assert answer.headers["Location"] == f"/v1/requests/{accepted['id']}"
    assert answer.headers["Preference-Applied"] == "respond-async"
    return str(accepted["id"])


def look(shop: Sidecar, ident: str, method: str = "GET", headers: Mapping[str, str] | None = None) -> Answer:
    return ask(shop.port, f"/v1/requests/{ident}", method, headers)


def outcome(shop: Sidecar, ident: str) -> Answer:
    """The answer, once there is one."""

    def known() -> bool:
        return look(shop, ident).headers["Meshq-Request-Status"] not in (None, "pending")

    shop.wait(known, f"the result of {ident}")
    return look(shop, ident)


def test_what_is_done_can_be_asked_for_at_every_instance(world: World) -> None:
    shop = world.shop.sidecar
    ident = send(shop, "/hold/first?a=b")
    handled = world.orders.app.wait_handled("/hold/first?a=b")
    assert (handled.headers["meshq-message-id"], handled.headers["meshq-caller-claimed"]) == (ident, "shop")
    for instance in (shop, world.branch):
        pending = look(instance, ident)
        assert (pending.status, pending.headers["Retry-After"]) == (202, "1")
    world.orders.app.release("first")
    for instance in (shop, world.branch):
        done = outcome(instance, ident)
        assert (done.status, done.headers["Meshq-Request-Status"]) == (200, "done")
        assert done.headers["Meshq-Served-By"].startswith("orders/1.0.0/")
    assert look(shop, ident, "HEAD").status == 200
    assert look(shop, ident, "DELETE", API).status == 409
    assert look(world.orders.sidecar, ident).status == 404, "only its own service may read it"


@pytest.mark.parametrize(
    ("path", "status", "reason", "attempts"), [("/status/404", 404, "rejected", 1), ("/status/500", 500, "attempts", 2)]
)
def test_what_failed_says_so_with_the_apps_last_answer(
    world: World, path: str, status: int, reason: str, attempts: int
) -> None:
    ident = send(world.shop.sidecar, path)
    failed = outcome(world.shop.sidecar, ident)
    assert (failed.status, failed.body, failed.code) == (status, b"as asked", "")
    assert (failed.headers["Meshq-Request-Status"], failed.headers["Meshq-Request-Reason"]) == ("failed", reason)
    assert failed.headers["Meshq-Attempt"] == str(attempts)


def test_who_would_wait_a_while_gets_the_answer_or_202(world: World) -> None:
    shop = world.shop.sidecar
    quick = shop.call("orders", "/", "POST", {"Prefer": "respond-async, wait=20"}, b"body")
    assert (quick.status, quick.body, quick.headers["Preference-Applied"]) == (200, b"body", "respond-async, wait=20")
    assert quick.headers["Meshq-Request-Status"] == "done"
    slow = shop.call("orders", "/hold/slow", "POST", {"Prefer": "respond-async, wait=1"}, b"body")
    assert (slow.status, slow.headers["Preference-Applied"]) == (202, "respond-async")
    world.orders.app.release("slow")
    assert outcome(shop, json.loads(slow.body)["id"]).status == 200


def test_what_has_not_started_can_be_cancelled(world: World) -> None:
    shop = world.shop.sidecar
    ident = send(shop, "/cancelled", {"Meshq-Delay": "2s"})
    refused = look(shop, ident, "DELETE")
    assert (refused.status, refused.code) == (403, "denied")
    assert look(world.branch, ident, "DELETE", API).status == 204
    gone = look(shop, ident)
    assert (gone.status, gone.headers["Meshq-Request-Reason"]) == (410, "cancelled")
    after = send(shop, "/after", {"Meshq-Delay": "3s"})
    assert outcome(shop, after).status == 200
    assert not world.orders.app.handled("/cancelled")


def test_the_result_comes_back_to_the_app_that_wants_it(world: World) -> None:
    ident = send(world.shop.sidecar, "/status/201", {"Meshq-Callback": "/made?by=orders"})
    handled = world.shop.app.wait_handled("/made?by=orders")
    assert (handled.method, handled.headers["meshq-message-id"]) == ("POST", f"{ident}-callback")
    assert handled.headers["content-length"] == str(len(b"as asked"))
    refused = world.branch.call("orders", "/", "POST", {**ASYNC, "Meshq-Callback": "/made"})
    assert (refused.status, refused.code) == (400, "bad-header")


def test_keys_are_for_who_takes_them(world: World) -> None:
    shop = world.shop.sidecar
    ident = send(shop, "/keyed", {"Meshq-Key": "customer-7"})
    assert outcome(shop, ident).status == 200
    assert world.orders.app.handled("/keyed")[-1].headers["meshq-key"] == "customer-7"
    assert shop.call("orders", "/", "POST", {"Meshq-Key": "customer-7"}).status == 200
    for prefer in ({}, ASYNC):
        refused = world.orders.sidecar.call("shop", "/", "POST", {**prefer, "Meshq-Key": "customer-7"})
        assert (refused.status, refused.code, "MESHQ_ORDERED" in refused.detail) == (400, "bad-header", True)


def test_a_sidecar_that_was_stopped_meanwhile_misses_no_result(world: World) -> None:
    sender = world.mesh.sidecar("shop")
    ready(sender)
    ident = send(sender, "/hold/meanwhile")
    world.orders.app.wait_handled("/hold/meanwhile")
    sender.stop()
    world.orders.app.release("meanwhile")
    assert outcome(world.branch, ident).status == 200


@pytest.fixture
def own_mesh(broker_url: str, fault_redis: RedisServer, tmp_path: Path) -> Iterator[Mesh]:
    """With a Redis that may be broken."""
    with mesh(broker_url, fault_redis.new_database(), tmp_path / "mesh") as found:
        yield found


def test_without_the_store_calls_are_still_taken(own_mesh: Mesh, fault_redis: RedisServer) -> None:
    orders, shop = own_mesh.pod("orders"), own_mesh.sidecar("shop")
    ready(orders.sidecar, shop)
    fault_redis.kill()
    ident = send(shop, "/hold/away")
    orders.app.wait_handled("/hold/away")
    assert look(shop, ident).status == 202, "it was accepted here"
    unknown = look(shop, "another")
    assert (unknown.status, unknown.code, unknown.headers["Retry-After"]) == (503, "unavailable", "1")
    assert look(shop, ident, "DELETE", API).code == "unavailable"
    orders.app.release("away")
    fault_redis.start()
    assert outcome(shop, ident).status == 200, "its result waited for the store"
    wait_for(lambda: look(shop, "another").status == 404, 30, "an answer about another", poll=0.05)
