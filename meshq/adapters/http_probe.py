"""Is the app there and well: one question on a connection of its own."""

import asyncio
import contextlib
from typing import NamedTuple

from meshq.adapters.http_client import Client
from meshq.core.http import Failed, HttpRequest, HttpResponse

MAX_ANSWER = 1024 * 1024


class ProbeResult(NamedTuple):
    healthy: bool
    status: int | None
    """What the app answered; None if it did not, or was not asked more than to accept a connection."""
    detail: str
    """Why it is not healthy; "" when it is."""


async def probe(host: str, port: int, path: str, timeout: float) -> ProbeResult:
    """Ask the app at `host`:`port` within `timeout` seconds. `path` "" asks only for a TCP connection; else GET `path` must
    answer 2xx or 3xx."""
    if not path:
        return await _probe_tcp(host, port, timeout)
    answer: asyncio.Future[HttpResponse | Failed] = asyncio.get_running_loop().create_future()
    client = Client(host, port, max_response=MAX_ANSWER)
    name = f"[{host}]" if ":" in host else host
    headers = [(b"Host", f"{name}:{port}".encode()), (b"User-Agent", b"meshq"), (b"Connection", b"close")]

    def answered(outcome: HttpResponse | Failed) -> None:
        if not answer.done():  # cancelled, when whoever probes was
            answer.set_result(outcome)

    client.request(HttpRequest(b"GET", path.encode(), headers, None), timeout, answered)
    try:
        outcome = await answer
    finally:
        await client.close()
    if isinstance(outcome, Failed):
        return ProbeResult(False, None, f"GET {path}: {outcome.detail}")
    if 200 <= outcome.status < 400:
        return ProbeResult(True, outcome.status, "")
    return ProbeResult(False, outcome.status, f"GET {path} answered {outcome.status}")


async def _probe_tcp(host: str, port: int, timeout: float) -> ProbeResult:
    try:
        async with asyncio.timeout(timeout):
            _, writer = await asyncio.open_connection(host, port)
    except TimeoutError:
        return ProbeResult(False, None, f"port {port} accepted no connection within {timeout:g} s")
    except OSError as error:
        return ProbeResult(False, None, f"port {port} accepts no connection: {error.strerror or error}")
    writer.close()
    with contextlib.suppress(OSError):  # it accepted, which was the question
        await writer.wait_closed()
    return ProbeResult(True, None, "")
