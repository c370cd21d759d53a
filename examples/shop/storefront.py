"""storefront: shows what there is and sells it, with the help of billing and orders.

    GET  /             what is for sale
    GET  /bestsellers  how many of each were ordered, by whatever way
    POST /buy          {"customer", "item", "quantity"} -> 201 with the order and its charge
    POST /on/placed    an order that was placed: the mesh brings it, as mesh.yaml says

It knows two addresses, as any app would, and nothing of what lies behind them.
"""

import http.client
import json
import os
import threading
import urllib.error
import urllib.request
import uuid
from typing import Any

from serve import Problem, Reply, Request, serve, text, whole

VERSION = "1.0.0"
BILLING_URL = os.environ.get("BILLING_URL", "http://localhost:8081")
ORDERS_URL = os.environ.get("ORDERS_URL", "http://localhost:8082")
TIMEOUT_SECONDS = 25

UNIT_CENTS = {"tea": 450, "teapot": 3900, "samovar": 64000}
KEPT = 10_000

ordered = dict.fromkeys(UNIT_CENTS, 0)
counted: dict[str, None] = {}  # ids of orders, oldest first: an event may come twice
lock = threading.Lock()


def handle(request: Request) -> Reply:
    match (request.method, *request.path):
        case ("GET",):
            return Reply(200, {"items": [{"item": i, "unit_cents": c} for i, c in UNIT_CENTS.items()]})
        case ("GET", "bestsellers"):
            with lock:
                return Reply(200, {"ordered": dict(sorted(ordered.items(), key=lambda pair: -pair[1]))})
        case ("POST", "buy"):
            return buy(request)
        case ("POST", "on", "placed"):
            return count(request.json())
    raise Problem(404, "no such page")


def buy(request: Request) -> Reply:
    wish = request.json()
    customer, item, quantity = text(wish, "customer"), text(wish, "item"), whole(wish, "quantity", 1, 100)
    if item not in UNIT_CENTS:
        raise Problem(404, f"{item} is not for sale")
    # One key for the purchase and for both calls it makes: if any of them has to be repeated, it still happens once.
    headers = {"Idempotency-Key": request.headers.get("Idempotency-Key") or str(uuid.uuid4())}
    if "traceparent" in request.headers:
        headers["traceparent"] = request.headers["traceparent"]
    amount = UNIT_CENTS[item] * quantity
    # The charge first: where it is declined there is no order to take back.
    charge = post(f"{BILLING_URL}/charges", headers, {"reference": headers["Idempotency-Key"], "amount_cents": amount})
    line = {"item": item, "quantity": quantity, "unit_cents": UNIT_CENTS[item]}
    order = post(f"{ORDERS_URL}/orders", headers, {"customer": customer, **line, "charge": charge["id"]})
    return Reply(201, {"order": order, "charge": charge})


def count(order: dict[str, Any]) -> Reply:
    order_id, item = text(order, "id"), text(order, "item")
    with lock:
        if order_id not in counted and (item in ordered or len(ordered) < KEPT):
            ordered[item] = ordered.get(item, 0) + whole(order, "quantity", 1, 100)
            counted[order_id] = None
        if len(counted) > KEPT:
            del counted[next(iter(counted))]
    return Reply(200, {"counted": order_id})


def post(url: str, headers: dict[str, str], document: dict[str, Any]) -> dict[str, Any]:
    """The JSON answer to a JSON request. A refusal of the purchase (402) is passed on, any other failure is a 502."""
    content = {"Content-Type": "application/json", **headers}
    request = urllib.request.Request(url, json.dumps(document).encode(), content, method="POST")
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as response:
            answer: dict[str, Any] = json.load(response)
            return answer
    except urllib.error.HTTPError as refusal:
        with refusal:
            if refusal.code == 402:
                raise Problem(402, json.load(refusal)["error"]) from None
            raise Problem(502, f"{url} answered {refusal.code}") from None
    except (OSError, http.client.HTTPException) as error:
        raise Problem(502, f"{url} gave no answer: {error}") from None


if __name__ == "__main__":
    serve("storefront", VERSION, 8090, handle)
