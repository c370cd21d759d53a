"""The app behind the second sidecar: answers with what it was sent, and does nothing else."""

import asyncio
import sys

import uvloop

from meshq.adapters.http_server import Server
from meshq.core.http import HttpResponse
from meshq.ports import Exchange


def echo(exchange: Exchange) -> None:
    exchange.respond(HttpResponse(200, [(b"Content-Type", b"application/json")], exchange.request.body or b""))


async def serve(port: int) -> None:
    await Server().listen("127.0.0.1", port, echo)
    print("ready", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1])))
