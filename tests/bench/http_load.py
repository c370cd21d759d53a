"""A closed loop of POSTs over kept-alive connections, one a caller, by as little code as Python needs for it."""

import argparse
import asyncio
from typing import cast

import httptools
import uvloop

from tests.bench.measure import BODY, closed_loop


class Caller(asyncio.Protocol):
    """One connection with one call at a time."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._parser = httptools.HttpResponseParser(self)
        self._body = b""
        self._answered: asyncio.Future[tuple[int, bytes]]

    def call(self, request: bytes) -> "asyncio.Future[tuple[int, bytes]]":
        self._answered = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return self._answered

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_body(self, body: bytes) -> None:
        self._body += body

    def on_message_complete(self) -> None:
        body, self._body = self._body, b""
        self._answered.set_result((self._parser.get_status_code(), body))

    def connection_lost(self, error: Exception | None) -> None:
        if not self._answered.done():
            self._answered.set_exception(error or ConnectionError("closed"))


async def load(port: int, path: str, concurrency: int, seconds: float) -> None:
    loop = asyncio.get_running_loop()
    free = [(await loop.create_connection(Caller, "127.0.0.1", port))[1] for _ in range(concurrency)]
    head = f"POST {path} HTTP/1.1\r\nHost: localhost:{port}\r\nContent-Type: application/json\r\n"
    request = head.encode() + b"Content-Length: %d\r\n\r\n" % len(BODY) + BODY

    async def one() -> None:
        caller = free.pop()
        status, body = await caller.call(request)
        free.append(caller)
        if status != 200 or body != BODY:
            raise RuntimeError(f"not the echo: {status} {body[:300]!r}")

    await closed_loop(one, concurrency, seconds)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("port", type=int)
    parser.add_argument("path")
    parser.add_argument("--concurrency", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=5.0)
    arguments = parser.parse_args()
    uvloop.run(load(arguments.port, arguments.path, arguments.concurrency, arguments.seconds))


if __name__ == "__main__":
    main()
