"""Sends bursts of messages and waits for no answer: each is accepted by the mesh, and done whenever it is. Standard library only."""

import http.client
import os
import time

MESSAGES = int(os.environ["MESSAGES"])
EVERY = float(os.environ["EVERY"])
"""Seconds from one burst to the next."""


def send(mesh: http.client.HTTPConnection, number: int) -> None:
    mesh.request("POST", "/v1/call/worker/work", str(number), {"Prefer": "respond-async"})
    response = mesh.getresponse()
    response.read()
    if response.status != 202:
        raise SystemExit(f"message {number} was not accepted: {response.status}")


def main() -> None:
    host = os.environ["MESHQ_URL"].removeprefix("http://")
    while True:
        begun = time.monotonic()
        mesh = http.client.HTTPConnection(host, timeout=30)
        for number in range(MESSAGES):
            send(mesh, number)
        mesh.close()
        took = time.monotonic() - begun
        print(f"{MESSAGES} messages sent in {took:.1f} s", flush=True)
        time.sleep(max(0.0, EVERY - took))


if __name__ == "__main__":
    main()
