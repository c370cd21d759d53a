"""client: sends a round of tasks every few seconds, and shows what became of each.

    sent at once, and each takes the time that it takes:
    resize  {'width': 400, 'height': 300}
    ...

A ticket is a durable call by its id: whoever keeps the id may ask for the result later (`mesh.ticket(id)`), from another process too.
"""

import signal
import threading

from meshq import Problem, SyncMesh, SyncTicket

ROUND_SECONDS = 5
RESULT_SECONDS = 30


def send(mesh: SyncMesh) -> dict[str, SyncTicket]:
    return {
        "resize": mesh.send("tasks", "POST /resize", {"width": 800, "height": 600}),
        "divide": mesh.send("tasks", "POST /divide", {"what": 1, "by": 0}),
        "remind": mesh.send("tasks", "POST /remind", {"what": "drink tea"}, delay=1),
        "fetch": mesh.send("tasks", "POST /fetch", {"url": "https://example.com"}),
    }


def show(name: str, ticket: SyncTicket) -> None:
    try:
        print(f"{name:7} {ticket.result(timeout=RESULT_SECONDS)}", flush=True)
    except Problem as problem:
        print(f"{name:7} failed: {problem.detail}", flush=True)


def main() -> None:
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    with SyncMesh() as mesh:
        while not stop.is_set():
            for name, ticket in send(mesh).items():
                show(name, ticket)
            stop.wait(ROUND_SECONDS)


if __name__ == "__main__":
    main()
