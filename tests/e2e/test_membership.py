"""One instance's place in the mesh, with sidecars as processes, on the real broker and the real registry: what it says of itself,
pauses, drains, waits for others, wants less; and what the others see of it."""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import pytest

from meshq.adapters import choose
from meshq.adapters.clock import SystemClock
from meshq.ports import Registry
from tests.e2e.pods import PATIENCE, Answer, Mesh, Pod, Sidecar, ask, mesh

pytestmark = [pytest.mark.rabbitmq, pytest.mark.redis]

API = {"Meshq-Api": "1"}
T = TypeVar("T")


@pytest.fixture
def world(broker_url: str, redis_url: str, tmp_path: Path) -> Iterator[Mesh]:
    with mesh(broker_url, redis_url, tmp_path / "mesh") as found:
        yield found


def orders_and_shop(world: Mesh, **settings: str) -> tuple[Pod, Sidecar]:
    """An app that is called, and one that looks."""
    orders, shop = world.pod("orders", **settings), world.sidecar("shop")
    orders.sidecar.wait_ready()
    shop.wait_ready()
    shop.wait(lambda: seen(shop, "orders")["state"] == "ready", "orders in the picture")
    return orders, shop


def seen(by: Sidecar, service: str) -> dict[str, Any]:
    """Its only instance as `by` sees it; with state "gone" where there is none."""
    found = by.instances(service)
    return found[0] if found else {"state": "gone"}


def tell(sidecar: Sidecar, what: str, body: dict[str, Any] | None = None, method: str = "POST") -> Answer:
    data = b"" if body is None else json.dumps(body).encode()
    return ask(sidecar.port, f"/v1/self{what}", method, API, data)


def self_of(sidecar: Sidecar) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(ask(sidecar.port, "/v1/self").body)
    return found


def operator(world: Mesh, work: Callable[[Registry], Awaitable[T]]) -> T:
    async def inside() -> T:
        registry = choose.registry(world.registry_url, "default", SystemClock())
        await registry.open()
        try:
            return await work(registry)
        finally:
            await registry.close()

    return asyncio.run(inside())


def send(shop: Sidecar, path: str) -> None:
    """A message that nobody waits for."""
    assert shop.call("orders@1", path, "POST", {"Prefer": "respond-async"}, b"x").status == 202


# --- what it says of itself ---------------------------------------------------------------------------------------------------


def test_others_see_where_it_is_and_what_it_says_of_itself(world: Mesh) -> None:
    orders, shop = orders_and_shop(world)
    found = seen(shop, "orders")
    address, _, port = found["endpoints"]["http"].rpartition(":")
    assert port == str(orders.app.port)
    assert found["address"] == f"{address}:{orders.sidecar.port}"
    assert tell(orders.sidecar, "", {"metadata": {"zone": "a"}, "capacity": 2}, "PATCH").status == 200
    shop.wait(lambda: seen(shop, "orders")["metadata"] == {"zone": "a"}, "its metadata in the picture")
    shop.wait(lambda: seen(shop, "orders")["capacity"] == 2, "its capacity in the picture")
    answer = tell(orders.sidecar, "", {"capacity": 1000}, "PATCH")
    assert (answer.status, "MESHQ_APP_CONCURRENCY" in answer.detail) == (400, True)
    with ThreadPoolExecutor(8) as threads:
        calls = [threads.submit(shop.call, "orders@1", "/hold/gate") for _ in range(8)]
        orders.app.wait_handled("/hold/gate", times=2)
        shop.wait(lambda: shop.metric("outbound_in_flight") == 8, "eight calls open")
        orders.app.release("gate")
        assert {call.result().status for call in calls} == {200}
    assert orders.app.most_at_once() == 2


def test_a_read_waits_until_something_changed(world: Mesh) -> None:
    orders, shop = orders_and_shop(world)
    index = ask(shop.port, "/v1/services").headers["Meshq-Index"]
    with ThreadPoolExecutor(1) as threads:
        read = threads.submit(ask, shop.port, f"/v1/services/orders?wait=60s&index={index}")
        shop.wait(lambda: shop.metric("waiting_reads") == 1, "a read that waits")
        tell(orders.sidecar, "", {"metadata": {"zone": "b"}}, "PATCH")
        answer = read.result(PATIENCE)
    assert int(answer.headers["Meshq-Index"]) > int(index)
    assert json.loads(answer.body)["instances"][0]["metadata"] == {"zone": "b"}
    assert shop.metric("waiting_reads") == 0


def test_a_read_waits_also_while_the_sidecar_drains(world: Mesh) -> None:
    orders, shop = orders_and_shop(world)
    with ThreadPoolExecutor(2) as threads:
        call = threads.submit(shop.call, "orders@1", "/hold/gate")
        orders.app.wait_handled("/hold/gate")
        orders.sidecar.terminate()
        shop.wait(lambda: seen(shop, "orders")["state"] == "draining", "orders draining")
        orders.sidecar.wait(lambda: seen(orders.sidecar, "orders")["state"] == "draining", "its own picture of that")
        index = ask(orders.sidecar.port, "/v1/services").headers["Meshq-Index"]
        read = threads.submit(ask, orders.sidecar.port, f"/v1/services?wait=60s&index={index}")
        orders.sidecar.wait(lambda: orders.sidecar.metric("waiting_reads") == 1, "a read that waits")
        orders.app.release("gate")
        assert call.result(PATIENCE).status == 200
        assert read.result(PATIENCE).headers["Meshq-Index"] == index


def test_it_is_gone_within_a_second_of_a_clean_stop(world: Mesh) -> None:
    orders, shop = orders_and_shop(world)
    orders.sidecar.terminate()
    orders.sidecar.wait_exit()
    ended = time.monotonic()
    shop.wait(lambda: seen(shop, "orders")["state"] == "gone", "orders gone from the picture")
    assert time.monotonic() - ended < 1


def test_one_that_is_killed_is_suspect_and_then_down(world: Mesh) -> None:
    """B3: at a lease of 15 s within 16 s, and one lease later."""
    orders, shop = orders_and_shop(world)
    killed = time.monotonic()
    orders.sidecar.kill()
    for state, within in (("suspect", 16), ("down", 31)):
        shop.wait(lambda state=state: seen(shop, "orders")["state"] == state, state, 60)
        assert time.monotonic() - killed <= within, state


# --- pauses and drains ----------------------------------------------------------------------------------------------------------


def test_a_paused_instance_takes_nothing_and_resumes_by_itself(world: Mesh) -> None:
    orders, shop = orders_and_shop(world)
    paused = time.monotonic()
    assert tell(orders.sidecar, "/pause", {"reason": "lunch", "for": "5s"}).status == 200
    shop.wait(lambda: seen(shop, "orders")["state"] == "paused", "the pause in the picture")
    assert seen(shop, "orders")["pause"]["reason"] == "lunch"
    mine = self_of(orders.sidecar)
    assert (mine["state"], mine["consuming"], mine["pause"]["by"]) == ("paused", False, "self")
    send(shop, "/while-paused")
    handled = orders.app.wait_handled("/while-paused")
    assert time.monotonic() - paused >= 5
    assert handled.headers["meshq-attempt"] == "1"
    shop.wait(lambda: seen(shop, "orders")["state"] == "ready", "ready again")
    assert self_of(orders.sidecar)["pause"] is None


def test_what_waits_at_an_instance_that_pauses_goes_to_another_burning_no_attempt(world: Mesh) -> None:
    orders, shop = orders_and_shop(world, app_concurrency="1")
    send(shop, "/hold/first")
    orders.app.wait_handled("/hold/first")
    for number in range(3):
        send(shop, f"/next/{number}")
    other = world.pod("orders")
    tell(orders.sidecar, "/pause")
    other.sidecar.wait_ready()
    for number in range(3):
        handled = other.app.wait_handled(f"/next/{number}")
        assert handled.headers["meshq-attempt"] == "1"
    orders.app.release("first")
    assert tell(orders.sidecar, "/resume").status == 200


def test_an_operators_pause_is_obeyed_and_the_app_cannot_lift_it(world: Mesh) -> None:
    orders, shop = orders_and_shop(world)
    ident = seen(shop, "orders")["id"]
    assert operator(world, lambda registry: registry.pause("orders", ident, "incident", 600_000, None))
    orders.sidecar.wait(lambda: self_of(orders.sidecar)["state"] == "paused", "the order obeyed")
    answer = tell(orders.sidecar, "/resume")
    assert (answer.status, answer.code) == (403, "denied")
    assert "incident" in answer.detail
    mine = self_of(orders.sidecar)
    assert (mine["consuming"], mine["pause"]["by"]) == (False, "operator")
    assert mine["orders"]["pause"]["reason"] == "incident"
    send(shop, "/after")
    assert operator(world, lambda registry: registry.resume("orders", ident, None))
    assert orders.app.wait_handled("/after").headers["meshq-attempt"] == "1"
    assert self_of(orders.sidecar)["pause"] is None


def test_an_operators_drain_is_a_drain(world: Mesh) -> None:
    orders, shop = orders_and_shop(world)
    ident = seen(shop, "orders")["id"]
    assert operator(world, lambda registry: registry.order_drain("orders", ident))
    shop.wait(lambda: seen(shop, "orders")["state"] == "draining", "orders draining")
    assert orders.sidecar.checks()["drain"] == "draining"
    assert ask(orders.sidecar.port, "/v1/self/drain/wait?timeout=10s").status == 200


# --- when it consumes ----------------------------------------------------------------------------------------------------------


def test_it_waits_for_the_services_it_needs(world: Mesh) -> None:
    orders = world.pod("orders", wait_for="stock@^2,billing")
    stock = world.pod("stock", service_version="2.1.0")
    stock.sidecar.wait_ready()
    sidecar = orders.sidecar
    sidecar.wait(lambda: sidecar.checks().get("waitFor") == "no ready instance yet of billing", "only billing missed")
    sidecar.wait(lambda: sidecar.checks().get("app") == "ok", "its app")
    mine = self_of(sidecar)
    assert (mine["state"], mine["consuming"]) == ("starting", False)
    assert mine["waitFor"] == {"stock@^2": "ready", "billing": "missing"}
    assert ask(sidecar.admin_port, "/readyz").status == 503
    billing = world.pod("billing")
    sidecar.wait_ready()
    billing.kill()
    shop = world.sidecar("shop").wait_ready()
    assert shop.call("orders@1", "/now").status == 200


def test_an_app_whose_probe_says_429_is_given_less_and_then_more(world: Mesh) -> None:
    orders, _ = orders_and_shop(world, app_health="/probe")
    orders.app.mode("429")
    sidecar = orders.sidecar
    sidecar.wait(lambda: self_of(sidecar)["capacity"] == 1, "one at a time")
    assert sidecar.ready
    orders.app.mode("well")
    sidecar.wait(lambda: self_of(sidecar)["capacity"] == 16, "all of it again", 60)


def test_a_service_that_is_unhealthy_everywhere_says_so_and_its_messages_wait(world: Mesh) -> None:
    orders, shop = orders_and_shop(world, app_health="/probe")
    orders.app.mode("500")
    shop.wait(lambda: json.loads(ask(shop.port, "/v1/services/orders").body).get("panic"), "panic")
    orders.sidecar.wait(lambda: orders.sidecar.metric("service_panic") == 1, "the gauge")
    send(shop, "/hold/later")
    orders.app.mode("well")
    orders.app.wait_handled("/hold/later")
    orders.app.release("later")
    shop.wait(lambda: "panic" not in json.loads(ask(shop.port, "/v1/services/orders").body), "no panic any more")


def test_of_two_processes_with_one_id_the_later_one_serves(world: Mesh) -> None:
    first, shop = orders_and_shop(world, instance="the-only-one")
    second = world.pod("orders", instance="the-only-one")
    second.sidecar.wait_ready()
    sidecar = first.sidecar
    sidecar.wait(lambda: "MESHQ_INSTANCE" in sidecar.checks().get("registry", ""), "the first one fenced")
    mine = self_of(sidecar)
    assert (mine["consuming"], ask(sidecar.admin_port, "/readyz").status) == (False, 503)
    tell(sidecar, "", {"metadata": {"who": "the ghost"}}, "PATCH")
    tell(sidecar, "/pause")
    pids = {shop.call("orders@1", f"/pid/{n}").status for n in range(20)}
    assert pids == {200}
    assert {record.pid for record in second.app.handled() if record.path.startswith("/pid")} == {second.app.pid}
    assert seen(shop, "orders")["state"] == "ready"
    assert seen(shop, "orders")["metadata"] == {}
    sidecar.stop()
    assert seen(shop, "orders")["state"] == "ready", "nor does it take the other one with it"
