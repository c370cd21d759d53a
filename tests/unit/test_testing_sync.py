"""`SyncTestMesh` in tests that are not async."""

import threading
from typing import Any

import pytest

from meshq import Problem, Service, SyncMesh
from meshq.testing import StandsStill, SyncTestMesh


def orders_asking(billing: "list[SyncMesh]") -> Service:
    orders = Service("orders")

    @orders.post("/create")
    def create(body: dict[str, Any]) -> Any:
        return [body, *(mesh.call("billing", "POST /charge", body) for mesh in billing)]

    return orders


def billing() -> Service:
    found = Service("billing")

    @found.post("/charge")
    async def charge(body: dict[str, Any]) -> dict[str, Any]:
        return {**body, "price": 3}

    return found


def test_it_does_what_the_other_does() -> None:
    threads = threading.active_count()
    with SyncTestMesh() as mesh:
        mesh.serve(orders_asking([]))
        web = mesh.client("web")
        assert isinstance(web, SyncMesh)
        assert web.call("orders", "POST /create", {"item": "tea"}) == [{"item": "tea"}]
        mesh.fail("orders", status=500)
        ticket = web.send("orders", "POST /create", {"item": "milk"}, delay=60)
        began = mesh.now
        mesh.advance(60)
        mesh.assert_sent("orders", "POST /create", {"item": "milk"}, times=1)
        assert mesh.sent("orders")[1].attempts == 1
        assert ticket.done() is False
        mesh.advance(1)
        assert ticket.result() == [{"item": "milk"}]
        assert mesh.now - began == pytest.approx(61, abs=0.1)
        mesh.away("orders")
        web.send("orders", "POST /create", {"item": "bread"})
        mesh.settle()
        assert mesh.sent("orders")[2].attempts == 0
        mesh.back("orders")
        mesh.settle()
        assert mesh.sent("orders")[2].attempts == 1
        assert (mesh.dead("orders"), mesh.published("x")) == ([], [])
        mesh.broker_away()
        mesh.broker_back()
        assert len(web.services()) == 2
        web.close()
        assert web.call("orders", "POST /create", {"item": "tea"}) == [{"item": "tea"}]
    assert threading.active_count() == threads


def test_a_handler_in_a_thread_may_call_others() -> None:
    asks: list[SyncMesh] = []
    with SyncTestMesh() as mesh:
        mesh.serve(orders_asking(asks))
        mesh.serve(billing())
        asks.append(mesh.client("orders"))
        found = mesh.client("web").call("orders", "POST /create", {"item": "tea"})
        assert found == [{"item": "tea"}, {"item": "tea", "price": 3}]
        assert mesh.sent("billing")[0].caller == "orders"


def test_what_is_raised_in_it_comes_out() -> None:
    with SyncTestMesh() as mesh:
        mesh.serve(billing())
        with pytest.raises(Problem, match="unknown-service"):
            mesh.client("web").call("nobody", "/")


def test_a_test_that_waits_for_time_is_told_so() -> None:
    with SyncTestMesh(patience=0.05) as mesh:
        mesh.serve(billing())
        for _ in range(2):
            mesh.slow("billing", seconds=9)
            with pytest.raises(StandsStill):
                mesh.client("web").call("billing", "POST /charge", {})
