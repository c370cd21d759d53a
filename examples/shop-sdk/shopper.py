"""shopper, with the SDK: keeps calling the shop, shows each call in a line, and adds them up when it is told to stop.

    12:00:01  storefront  POST /buy               bought tea, order 1-6f2a...

The exit code is 0 if there was at least one call and every call ended as expected, which for some of them is a refusal; else 1.
"""

import asyncio
import itertools
import os
import signal
import sys
import time
from typing import Any, NamedTuple

from meshq import Mesh, Problem

RATE = float(os.environ.get("RATE", "4"))
TIMEOUT_SECONDS = 30


class Call(NamedTuple):
    address: str
    operation: str
    body: Any = None
    refusal: int = 0  # the status that is expected; 0: no refusal


WISH = {"customer": "ada", "item": "tea", "quantity": 2}
CALLS = [
    Call("storefront", "GET /"),
    Call("storefront", "POST /buy", WISH),
    Call("orders@1", "GET /orders?limit=3"),
    Call("orders@2", "POST /orders", {**WISH, "unit_cents": 450, "charge": "cash"}),
    Call("orders@1", "GET /orders/1-none", refusal=404),
    Call("storefront", "POST /buy", {**WISH, "item": "samovar"}, refusal=402),
    Call("storefront", "POST /buy", {**WISH, "quantity": 0}, refusal=422),
]


async def make(mesh: Mesh, call: Call) -> bool:
    """Whether it ended as expected."""
    try:
        said, status = await mesh.call(call.address, call.operation, call.body, timeout=TIMEOUT_SECONDS), 0
    except Problem as problem:
        said, status = problem, problem.status
    wrong = "" if status == call.refusal else f"   EXPECTED {call.refusal or 'an answer'}"
    print(f"{time.strftime('%X')}  {call.address:10}  {call.operation:20}  {said!s:.70}{wrong}", flush=True)
    return not wrong


async def shop(stop: asyncio.Event) -> list[bool]:
    done: list[bool] = []
    async with Mesh() as mesh:
        for call in itertools.cycle(CALLS):
            done.append(await make(mesh, call))
            try:
                await asyncio.wait_for(stop.wait(), 1 / RATE)
            except TimeoutError:
                continue
            return done
    raise AssertionError("the calls have no end")


async def main() -> int:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    done = await shop(stop)
    print(f"{len(done)} calls, {sum(done)} as expected", flush=True)
    return 0 if all(done) else 1


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
