"""POSTs over kept-alive connections, one a caller, by as little code as Python needs for it: a closed loop for some seconds, or
so many messages with `--count`, which fills a queue and prints nothing."""

import argparse
import asyncio
import json
from collections.abc import Awaitable, Callable
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


def _echoed(status: int, body: bytes) -> bool:
    return status == 200 and body == BODY


def _accepted(status: int, body: bytes) -> bool:
    """Every one of them, and each has a queue."""
    return status == 202 and b'"refused"' not in body and b'"subscribers": 0' not in body


def batch(size: int) -> bytes:
    """So many CloudEvents, each with BODY for its data."""
    data = json.loads(BODY)
    common = {"specversion": "1.0", "source": "/bench", "type": "bench.happened", "datacontenttype": "application/json"}
    return json.dumps([{**common, "id": str(number), "data": data} for number in range(size)]).encode()


def _request(port: int, path: str, fields: list[str], content_type: str, body: bytes) -> bytes:
    length = f"Content-Length: {len(body)}"
    lines = [f"POST {path} HTTP/1.1", f"Host: localhost:{port}", f"Content-Type: {content_type}", length, *fields]
    return "\r\n".join([*lines, "", ""]).encode() + body


async def repeated(call: Callable[[], Awaitable[None]], concurrency: int, times: int) -> None:
    left = times

    async def caller() -> None:
        nonlocal left
        while left > 0:
            left -= 1
            await call()

    await asyncio.gather(*(caller() for _ in range(concurrency)))


async def load(arguments: argparse.Namespace) -> None:
    loop = asyncio.get_running_loop()
    port, concurrency, size = arguments.port, arguments.concurrency, arguments.batch
    free = [(await loop.create_connection(Caller, "127.0.0.1", port))[1] for _ in range(concurrency)]
    if size:
        request = _request(port, arguments.path, [], "application/cloudevents-batch+json", batch(size))
    else:
        fields = ["Prefer: respond-async"] if arguments.durable else []
        request = _request(port, arguments.path, fields, "application/json", BODY)
    right = _accepted if size or arguments.durable else _echoed

    async def one() -> None:
        caller = free.pop()
        status, body = await caller.call(request)
        free.append(caller)
        if not right(status, body):
            raise RuntimeError(f"not the answer: {status} {body[:300]!r}")

    messages = size or 1
    if arguments.count:
        await repeated(one, concurrency, -(-arguments.count // messages))
    else:
        await closed_loop(one, concurrency, arguments.seconds, messages)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("port", type=int)
    parser.add_argument("path")
    parser.add_argument("--concurrency", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument(
        "--durable", action="store_true", help="expect 202; for what is not a batch, with respond-async"
    )
    parser.add_argument("--batch", type=int, default=0, help="so many events in each POST")
    parser.add_argument("--count", type=int, default=0, help="end after so many messages, a whole number of batches")
    uvloop.run(load(parser.parse_args()))


if __name__ == "__main__":
    main()
