"""shopper: keeps calling the shop, shows each call in a line, and adds them up when it is told to stop.

    12:00:01  POST  storefront  /buy              201    14.2 ms  storefront/1.0.0

It goes on at $RATE calls a second (8) until SIGTERM or Ctrl-C. The exit code is 0 if there was at least one call and
every call got the answer that was expected, which for some of them is a refusal; else 1.
"""

import http.client
import itertools
import json
import os
import signal
import sys
import threading
import time
import urllib.error
import urllib.request
import uuid
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

# Three ways into the mesh, from three plain URLs. Without a mesh they lead straight to apps on this machine.
STORE_URL = os.environ.get("STORE_URL", "http://localhost:8090")  # 1. a port of localhost that the sidecar listens on
ORDERS_V1_URL = os.environ.get("ORDERS_V1_URL", "http://localhost:8082")  # 2. http://v1.orders.mesh, through HTTP_PROXY
MESHQ_URL = os.environ.get("MESHQ_URL")  # 3. the address in the path, here with the version to call
ORDERS_V2_URL = f"{MESHQ_URL}/v1/call/orders@2" if MESHQ_URL else "http://localhost:8083"

RATE = float(os.environ.get("RATE", "8"))
TIMEOUT_SECONDS = 35  # longer than a call may wait in a queue
OPENING_SECONDS = 60  # how long the shop may take to open
AT_ONCE = 16  # calls under way; beyond it the shopper waits, and calls less often
STOP = {signal.SIGTERM, signal.SIGINT}


class Call(NamedTuple):
    app: str
    method: str
    url: str
    path: str
    expected: int
    body: dict[str, Any] | None = None


LINE = {"customer": "ada", "item": "tea", "quantity": 2}
CALLS = [
    Call("storefront", "GET", STORE_URL, "/", 200),
    Call("storefront", "POST", STORE_URL, "/buy", 201, LINE),
    Call("orders v1", "GET", ORDERS_V1_URL, "/orders?limit=3", 200),
    Call("orders v2", "POST", ORDERS_V2_URL, "/orders", 201, {**LINE, "unit_cents": 450, "charge": "cash"}),
    Call("orders v1", "GET", ORDERS_V1_URL, "/orders/1-none", 404),
    Call("storefront", "POST", STORE_URL, "/buy", 402, {**LINE, "item": "samovar"}),
    Call("orders v2", "GET", ORDERS_V2_URL, "/orders?limit=3", 200),
    Call("storefront", "POST", STORE_URL, "/buy", 400, {**LINE, "quantity": 0}),
]


class Result(NamedTuple):
    call: Call
    status: int | None  # None: no answer
    milliseconds: float
    said: str  # who served it, or why there was no answer

    def __str__(self) -> str:
        call, wrong = self.call, "" if self.status == self.call.expected else f"   EXPECTED {self.call.expected}"
        what = f"{call.method:4}  {call.app:10}  {call.path:16}"
        return f"{time.strftime('%X')}  {what}  {self.status or '---'}  {self.milliseconds:6.1f} ms  {self.said}{wrong}"


def make(call: Call) -> Result:
    # The key makes a POST safe to repeat, so a call survives an app that dies in the middle of it.
    headers = {"Content-Type": "application/json", "Idempotency-Key": str(uuid.uuid4())} if call.body else {}
    body = json.dumps(call.body).encode() if call.body else None
    request = urllib.request.Request(call.url + call.path, body, headers, method=call.method)
    start = time.perf_counter()
    try:
        try:
            answer: Any = urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS)
        except urllib.error.HTTPError as refusal:
            answer = refusal
        with answer:
            answer.read()
    except (OSError, http.client.HTTPException) as error:
        return Result(call, None, (time.perf_counter() - start) * 1000, str(error))
    # As the mesh says it (service/version/instance), else what the app calls itself.
    by = answer.headers.get("Meshq-Served-By") or answer.headers.get("Meshq-Error") or answer.headers.get("Server", "")
    return Result(call, answer.status, (time.perf_counter() - start) * 1000, by)


def shop_is_open(stop: threading.Event) -> bool:
    """Tries each kind of call until it is answered as expected; these calls do not count."""
    end = time.monotonic() + OPENING_SECONDS
    for call in CALLS:
        while (result := make(call)).status != call.expected:
            if time.monotonic() > end or stop.wait(0.25):
                print(f"the shop did not open: {result}", flush=True)
                return False
    return True


class Tally:
    def __init__(self) -> None:
        self.calls = self.answered = self.as_expected = 0
        self.latencies: deque[float] = deque(maxlen=100_000)  # of the latest calls

    def add(self, result: Result) -> None:
        self.calls += 1
        self.answered += result.status is not None
        self.as_expected += result.status == result.call.expected
        self.latencies.append(result.milliseconds)

    def __str__(self) -> str:
        ranked = sorted(self.latencies) or [0.0]
        p50, p99 = (ranked[int(share * (len(ranked) - 1))] for share in (0.50, 0.99))
        wrong, silent = self.answered - self.as_expected, self.calls - self.answered
        return (
            f"{self.calls} calls, {self.answered} answered, {silent} not answered, {wrong} not as expected; "
            f"p50 {p50:.1f} ms, p99 {p99:.1f} ms"
        )


def shop(stop: threading.Event, tally: Tally) -> None:
    """Calls at a steady rate until told to stop, then waits for the calls under way."""
    slots, one_at_a_time = threading.Semaphore(AT_ONCE), threading.Lock()

    def done(future: Future[Result]) -> None:
        with one_at_a_time:
            tally.add(future.result())
            print(future.result(), flush=True)
        slots.release()

    due = time.monotonic()
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for call in itertools.cycle(CALLS):
            slots.acquire()
            due = max(due + 1 / RATE, time.monotonic())
            if stop.wait(due - time.monotonic()):
                return
            pool.submit(make, call).add_done_callback(done)


def wait_for_signal(stop: threading.Event) -> None:
    signal.sigwait(STOP)
    stop.set()


def main() -> int:
    signal.pthread_sigmask(signal.SIG_BLOCK, STOP)  # before any thread starts, so that only the sigwait takes them
    stop, tally = threading.Event(), Tally()
    threading.Thread(target=wait_for_signal, args=(stop,), daemon=True).start()
    print(f"shopping at {STORE_URL}, {RATE:g} calls a second", flush=True)
    if shop_is_open(stop):
        shop(stop, tally)
    print(tally, flush=True)
    return 0 if tally.calls > 0 and tally.as_expected == tally.calls else 1


if __name__ == "__main__":
    sys.exit(main())
