"""orders, version 1, with the SDK: the API of ../shop/orders.py.

POST /orders               a Line -> 201 with the Order
GET  /orders?limit=20      the newest first
GET  /orders/<id>          one of them, or 404
POST /orders/<id>/cancel   200, or 409 where it was cancelled before

There is no HTTP here, no port and no JSON: the handlers take and give values, and `run` serves them to the sidecar.
"""

import secrets
from typing import Annotated

from pydantic import Field
from shop import Line, Order

from meshq import Context, Problem, Reply, Service

KEPT = 10_000

orders = Service("orders", version="1.4.2")
placed: dict[str, Order] = {}  # oldest first


@orders.post("/orders")
async def place(line: Line, ctx: Context) -> Reply:
    order = Order(
        id=f"1-{secrets.token_hex(8)}",  # the leading digit says which version holds it
        customer=line.customer,
        item=line.item,
        quantity=line.quantity,
        total_cents=line.quantity * line.unit_cents,
        charge=line.charge,
    )
    placed[order.id] = order
    if len(placed) > KEPT:
        del placed[next(iter(placed))]
    await ctx.mesh.publish("orders.placed", order, id=order.id)
    return Reply(order, status=201, headers={"Location": f"/orders/{order.id}"})


@orders.get("/orders")
async def newest(limit: Annotated[int, Field(ge=1, le=100)] = 20) -> dict[str, object]:
    return {"orders": list(reversed(placed.values()))[:limit], "count": len(placed)}


@orders.get("/orders/{order_id}")
async def find(order_id: str) -> Order:
    if order_id not in placed:
        raise Problem("no-such-order", f"there is no order {order_id}", status=404)
    return placed[order_id]


@orders.post("/orders/{order_id}/cancel")
async def cancel(order_id: str) -> Order:
    order = await find(order_id)
    if order.state == "cancelled":
        raise Problem("cancelled-before", f"order {order_id} was cancelled before", status=409)
    placed[order_id] = order.model_copy(update={"state": "cancelled"})
    return placed[order_id]


if __name__ == "__main__":
    orders.run()
