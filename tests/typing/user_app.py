"""What a user of the SDK writes, as type checkers see it; test_typing.py has mypy and pyright read it. It is never run."""

from collections.abc import AsyncGenerator, Iterator
from dataclasses import dataclass
from typing import Any, assert_type

from pydantic import BaseModel

from meshq import (
    Context,
    Mesh,
    Problem,
    Published,
    Reply,
    Retry,
    Service,
    ServiceView,
    SyncMesh,
    SyncTicket,
    Ticket,
    VersionView,
    retrying,
)


class Order(BaseModel):
    id: str


@dataclass
class Receipt:
    total: int


class SettledV1(BaseModel):
    cents: int


class SettledV2(BaseModel):
    amount: float


# --- calling ------------------------------------------------------------------------------------------------------------------


async def calls(mesh: Mesh, order: Order) -> None:
    assert_type(await mesh.call("orders@^2", "POST /create", order, returns=Receipt, timeout=2), Receipt)
    assert_type(await mesh.call("orders", "/list", returns=list[Order], retry=Retry(attempts=5)), list[Order])
    assert_type(await mesh.call("orders", "/raw", returns=bytes), bytes)
    assert_type(await mesh.call("orders", "/whole", returns=Reply), Reply)
    assert_type(await mesh.call("orders", "/any"), Any)
    assert_type(await mesh.call("orders", "/maybe", returns=Order | None), Any)

    ticket = await mesh.send("orders", "POST /create", order, key="customer-7", idempotency_key="o-1", delay=1.5)
    assert_type(ticket, Ticket)
    assert_type(ticket.id, str)
    assert_type(await ticket.result(timeout=60), Any)
    assert_type(await ticket.done(), bool)
    assert_type(await ticket.cancel(), bool)
    assert_type(mesh.ticket("7f"), Ticket)

    assert_type(await mesh.publish("payments.settled@1", order, key="customer-7", headers={"X-A": "b"}), Published)
    fates = await mesh.publish_many("payments.settled@1", [order], key=lambda event: str(event.id), partial=True)
    assert_type(fates, list[Published])
    assert_type(fates[0].problem, Problem | None)

    assert_type(mesh.watch("orders"), AsyncGenerator[ServiceView, None])
    async for change in mesh.watch("orders"):
        assert_type(change, ServiceView)
        assert_type(change.versions, tuple[VersionView, ...])
        assert_type(change.ready, int)
    assert_type(await mesh.services(), list[ServiceView])
    assert_type(await mesh.service("orders"), ServiceView)
    await mesh.describe(metadata={"zone": "a"}, capacity=8)
    await mesh.pause("a walk", seconds=60)
    async with Mesh("http://127.0.0.1:3600", token="t", link=True, health_timeout=5) as other:
        assert_type(other, Mesh)

    async def ask() -> int:
        return 7

    assert_type(await retrying(ask), int)


def calls_that_block(mesh: SyncMesh, order: Order) -> None:
    assert_type(mesh.call("orders", "POST /create", order, returns=Receipt), Receipt)
    assert_type(mesh.call("orders", "/any"), Any)
    ticket = mesh.send("orders", "POST /create", order)
    assert_type(ticket, SyncTicket)
    assert_type(ticket.result(timeout=60), Any)
    assert_type(mesh.publish("payments.settled@1", order), Published)
    assert_type(mesh.publish_many("payments.settled@1", iter([order])), list[Published])
    assert_type(mesh.watch("orders"), Iterator[ServiceView])
    with SyncMesh() as other:
        assert_type(other, SyncMesh)


def problems(problem: Problem) -> None:
    assert_type(problem.code, str)
    assert_type(problem.status, int)
    assert_type(problem.retryable, bool)
    assert_type(problem.retry_after, float | None)
    assert_type(problem.detail, str)
    assert_type(problem.fields, dict[str, Any])
    assert_type(problem.by_mesh, bool)


# --- being called -------------------------------------------------------------------------------------------------------------

orders = Service("orders", version="2.3.0")


@orders.post("/create")
async def create(order: Order, ctx: Context) -> Receipt:
    assert_type(ctx.attempt, int)
    assert_type(ctx.deadline, float | None)
    assert_type(ctx.mesh, Mesh)
    if not order.id:
        ctx.reject("an order has an id")
    return Receipt(len(order.id))


@orders.get("/orders/{id}")
def find(id: int, limit: int = 10) -> Reply:
    return Reply(Order(id=str(id)), status=200, headers={"X-Limit": str(limit)})


@orders.on("payments.settled@2", mode="ordered", filter={"ce-subject": "a"})
async def settled(event: SettledV2, ctx: Context) -> None:
    ctx.retry(after=2)


@orders.upgrade("payments.settled", 1, 2)
def upgraded(old: SettledV1) -> SettledV2:
    return SettledV2(amount=old.cents / 100)


async def decorators_keep_types(ctx: Context) -> None:
    assert_type(await create(Order(id="a"), ctx), Receipt)
    assert_type(find(7), Reply)
    assert_type(await settled(SettledV2(amount=1), ctx), None)
    assert_type(upgraded(SettledV1(cents=1)), SettledV2)


async def serve() -> None:
    async with orders.serving():
        pass
    await orders.subscribe("/mesh")
