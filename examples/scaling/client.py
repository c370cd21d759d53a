"""Sends bursts of messages and waits for no answer: each is accepted by the mesh, and done whenever it is. Standard library only."""

import http.client
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor

MESSAGES = int(os.environ["MESSAGES"])
EVERY = float(os.environ["EVERY"])
"""Seconds from one burst to the next."""


HOST = os.environ["MESHQ_URL"].removeprefix("http://")
SENDERS = 16

local = threading.local()


def send(number: int) -> None:
    """Over a connection of the thread's own."""
    if not hasattr(local, "mesh"):
        local.mesh = http.client.HTTPConnection(HOST, timeout=30)
    local.mesh.request("POST", "/v1/call/worker/work", str(number), {"Prefer": "respond-async"})
    response = local.mesh.getresponse()
    response.read()
    if response.status != 202:
        raise SystemExit(f"message {number} was not accepted: {response.status}")


def main() -> None:
    while True:
        begun = time.monotonic()
        with ThreadPoolExecutor(SENDERS) as senders:
            for _ in senders.map(send, range(MESSAGES)):
                pass
        took = time.monotonic() - begun
        print(f"{MESSAGES} messages sent in {took:.1f} s", flush=True)
        time.sleep(max(0.0, EVERY - took))


if __name__ == "__main__":
    main()
