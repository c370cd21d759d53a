"""The shop through the sidecar's plain HTTP API, with nothing but the standard library: `python3 client.py` beside `meshq dev`."""

import json
import os
import time
import urllib.request
from http.client import HTTPResponse

MESHQ_URL = os.environ.get("MESHQ_URL", "http://127.0.0.1:3600")


def ask(path: str, body: object = None, **headers: str) -> HTTPResponse:
    fields = {"Content-Type": "application/json"} | {name.replace("_", "-"): value for name, value in headers.items()}
    data = None if body is None else json.dumps(body).encode()
    return urllib.request.urlopen(urllib.request.Request(MESHQ_URL + path, data, fields), timeout=35)


# A call that is waited for.
with ask(
    "/v1/call/storefront/buy", {"customer": "bob", "item": "teapot", "quantity": 1}, Idempotency_Key="bob-1"
) as answer:
    print("bought:", json.load(answer)["order"]["id"], "from", answer.headers["Meshq-Served-By"])

# A durable call: accepted at once, done when it is done.
line = {"customer": "bob", "item": "tea", "quantity": 3, "unit_cents": 450, "charge": "cash"}
with ask("/v1/call/orders@1/orders", line, Prefer="respond-async") as accepted:
    where = accepted.headers["Location"]
while True:
    with ask(where) as result:
        if result.status != 202:
            print("ordered:", json.load(result)["id"], "which is", result.headers["Meshq-Request-Status"])
            break
    time.sleep(float(result.headers["Retry-After"]))

# An event.
order = {**line, "id": "bob-2", "total_cents": 1350, "item": "scone"}
with ask("/v1/publish/orders.placed", order, Ce_Id="bob-2") as published:
    print("published:", published.headers["Meshq-Message-Id"])
