"""orders, version 1: takes orders and keeps the newest ones in memory. orders.mjs is version 2 of the same API.

POST /orders               {"customer", "item", "quantity", "unit_cents", "charge"} -> 201 with the order
GET  /orders?limit=20      the newest first
GET  /orders/<id>          one of them, or 404
POST /orders/<id>/cancel   200, or 409 where it was cancelled before

Whoever wants to know of new orders subscribes to the event `orders.placed`; who that is, orders does not know.
"""

import json
import os
import secrets
import threading
import urllib.request
from typing import Any

from serve import Problem, Reply, Request, serve, text, whole

VERSION = "1.4.2"
KEPT = 10_000
MESHQ_URL = os.environ.get("MESHQ_URL")  # the sidecar; without a mesh there is nobody to tell
PUBLISH_SECONDS = 5

orders: dict[str, dict[str, Any]] = {}  # oldest first
lock = threading.Lock()


def handle(request: Request) -> Reply:
    match (request.method, *request.path):
        case ("POST", "orders"):
            return place(request.json())
        case ("GET", "orders"):
            return newest(request.query.get("limit", "20"))
        case ("GET", "orders", order_id):
            return Reply(200, find(order_id))
        case ("POST", "orders", order_id, "cancel"):
            return cancel(order_id)
    raise Problem(404, "no such page")


def place(wish: dict[str, Any]) -> Reply:
    quantity = whole(wish, "quantity", 1, 100)
    # The leading digit says which version holds it; the rest is random, so that a restart repeats no id.
    order_id = f"1-{secrets.token_hex(8)}"
    order = {
        "id": order_id,
        "state": "placed",
        "customer": text(wish, "customer"),
        "item": text(wish, "item"),
        "quantity": quantity,
        "total_cents": quantity * whole(wish, "unit_cents", 1, 1_000_000),
        "charge": text(wish, "charge"),
    }
    with lock:
        orders[order_id] = order
        if len(orders) > KEPT:
            del orders[next(iter(orders))]
    publish("orders.placed", order)
    return Reply(201, order, {"Location": f"/orders/{order_id}"})


def publish(event: str, order: dict[str, Any]) -> None:
    """An order that nobody could be told of is an order all the same."""
    if MESHQ_URL is None:
        return
    headers = {"Content-Type": "application/json", "Ce-Id": order["id"]}
    request = urllib.request.Request(f"{MESHQ_URL}/v1/publish/{event}", json.dumps(order).encode(), headers)
    try:
        urllib.request.urlopen(request, timeout=PUBLISH_SECONDS).close()
    except OSError as error:
        print(f"{event} of {order['id']} was not published: {error}", flush=True)


def newest(limit: str) -> Reply:
    if not limit.isdecimal() or not 1 <= int(limit) <= 100:
        raise Problem(400, "limit must be a whole number from 1 to 100")
    with lock:
        return Reply(200, {"orders": list(reversed(orders.values()))[: int(limit)], "count": len(orders)})


def find(order_id: str) -> dict[str, Any]:
    with lock:
        if order_id not in orders:
            raise Problem(404, f"there is no order {order_id}")
        return orders[order_id]


def cancel(order_id: str) -> Reply:
    order = find(order_id)
    with lock:
        if order["state"] == "cancelled":
            raise Problem(409, f"order {order_id} was cancelled before")
        orders[order_id] = {**order, "state": "cancelled"}
        return Reply(200, orders[order_id])


if __name__ == "__main__":
    serve("orders", VERSION, 8082, handle)
