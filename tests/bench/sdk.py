"""Apps on the SDK, over the link: the called one, which echoes calls and does nothing with events, and two callers.

- `serve`: until it is ended; with `--count` it prints its figures once so many events came: from the first to the last.
- `call`: a closed loop of waited calls.
- `publish`: a closed loop of `publish_many`, `--batch` events each.

Bodies are values, not bytes: each is encoded and decoded at both ends, as an app's are.
"""

import argparse
import asyncio
import json
from typing import Any

import uvloop

from meshq import Mesh, Service
from tests.bench.measure import BODY, Tally, closed_loop

VALUE = json.loads(BODY)
ADDRESS, OPERATION = "echo@1", "POST /echo"
EVENT = "bench.happened"
DEADLINE = 300.0
"""Seconds for all of a drain."""


def app(url: str, tally: Tally | None) -> Service:
    service = Service("echo", version="1.0.0", mesh=Mesh(url, link=True))

    @service.post("/echo")
    async def echo(body: dict[str, Any]) -> dict[str, Any]:
        return body

    if tally is not None:

        @service.on(EVENT, name="bench")
        async def happened(event: dict[str, Any]) -> None:
            tally.add()

    return service


async def serve(url: str, count: int) -> None:
    tally = Tally(count) if count else None
    print("ready", flush=True)
    async with app(url, tally).serving():
        if tally is not None:
            async with asyncio.timeout(DEADLINE):
                await tally.full.wait()
        # The sidecar has the last of them still to settle: whoever started this app ends it.
        await asyncio.Event().wait()


async def call(url: str, concurrency: int, seconds: float) -> None:
    async with Mesh(url, link=True) as mesh:

        async def one() -> None:
            if await mesh.call(ADDRESS, OPERATION, VALUE, returns=dict) != VALUE:
                raise RuntimeError("not the answer")

        await closed_loop(one, concurrency, seconds)


async def publish(url: str, concurrency: int, seconds: float, batch: int) -> None:
    events = [VALUE] * batch
    async with Mesh(url, link=True) as mesh:

        async def many() -> None:
            fates = await mesh.publish_many(EVENT, events)
            if any(fate.subscribers is False for fate in fates):
                raise RuntimeError("nobody subscribes")

        await closed_loop(many, concurrency, seconds, batch)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("role", choices=["serve", "call", "publish"])
    parser.add_argument("url")
    parser.add_argument("--concurrency", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--batch", type=int, default=100)
    parser.add_argument("--count", type=int, default=0)
    arguments = parser.parse_args()
    if arguments.role == "serve":
        uvloop.run(serve(arguments.url, arguments.count))
    elif arguments.role == "call":
        uvloop.run(call(arguments.url, arguments.concurrency, arguments.seconds))
    else:
        uvloop.run(publish(arguments.url, arguments.concurrency, arguments.seconds, arguments.batch))


if __name__ == "__main__":
    main()
