"""A closed loop of POSTs over kept-alive connections, one a caller."""

import argparse
import asyncio

import uvloop

from meshq.adapters.http_client import Client
from meshq.core.http import Failed, HttpRequest, HttpResponse
from tests.bench.measure import BODY, closed_loop


async def load(port: int, path: str, concurrency: int, seconds: float) -> None:
    client = Client("127.0.0.1", port, max_response=2**20, max_connections=concurrency)
    headers = [(b"Host", b"localhost:%d" % port), (b"Content-Type", b"application/json")]
    request = HttpRequest(b"POST", path.encode(), headers, BODY)
    loop = asyncio.get_running_loop()

    async def one() -> None:
        answered: asyncio.Future[HttpResponse | Failed] = loop.create_future()
        client.request(request, 60.0, answered.set_result)
        outcome = await answered
        if isinstance(outcome, Failed) or outcome.status != 200 or outcome.body != BODY:
            raise RuntimeError(f"not the echo: {outcome}")

    await closed_loop(one, concurrency, seconds)
    await client.close()


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
