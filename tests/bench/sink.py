"""The do-nothing app: answers everything with an empty 200, and prints its figures once so many messages came: from the
first to the last."""

import asyncio
import sys
from typing import cast

import httptools
import uvloop

from tests.bench.measure import Tally

DEADLINE = 300.0
"""Seconds for all of it."""
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"


class Sink(asyncio.Protocol):
    def __init__(self, tally: Tally) -> None:
        self._tally = tally

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._parser = httptools.HttpRequestParser(self)

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_message_complete(self) -> None:
        self._transport.write(OK)
        self._tally.add()


async def serve(port: int, count: int) -> None:
    tally = Tally(count)
    await asyncio.get_running_loop().create_server(lambda: Sink(tally), "127.0.0.1", port)
    print("ready", flush=True)
    async with asyncio.timeout(DEADLINE):
        await tally.full.wait()
    # The sidecar has the last of them still to settle: whoever started this app ends it.
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1]), int(sys.argv[2])))
