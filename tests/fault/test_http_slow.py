"""Clients that are slow on purpose: each is cut off within its limit, and nobody else notices."""

import asyncio
import contextlib
import resource
import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from meshq.adapters.http_connection import Connection
from meshq.adapters.http_server import Limits
from meshq.core.http import HttpResponse
from meshq.ports import Exchange
from tests.http_tools import LOOPS, QUICK, Handler, MemoryOwner, MemoryTransport, connected, echo, serving, within

HEAD = b"POST / HTTP/1.1\r\nHost: localhost\r\n"


@pytest.fixture(params=LOOPS.values(), ids=LOOPS.keys())
def run(request: pytest.FixtureRequest) -> Callable[..., Any]:
    return request.param  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    "raw",
    [
        b"G",
        HEAD,
        HEAD + b"X: y\r\n",
        HEAD + b"Content-Length: 5\r\n\r\nabc",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n5\r\nab",
    ],
    ids=["first-byte", "no-end-of-head", "more-fields", "body", "chunk"],
)
def test_a_request_that_stops_is_cut_off(run, raw: bytes) -> None:
    async def scene() -> None:
        async with serving(echo, QUICK) as (_, port), connected(port) as peer:
            peer.send(raw)
            answer = await peer.answer()
            assert (answer.status, answer.get(b"connection")) == (408, b"close")
            assert await peer.rest() == b""

    run(scene())


def test_an_idle_connection_is_closed_without_a_word(run) -> None:
    async def scene() -> None:
        async with serving(echo, QUICK) as (_, port), connected(port) as fresh, connected(port) as used:
            used.send(HEAD + b"\r\n")
            assert (await used.answer()).status == 200
            assert await fresh.rest() == b""
            assert await used.rest() == b""

    run(scene())


def test_a_slow_app_is_not_a_slow_client(run) -> None:
    handler = Handler()

    async def scene() -> None:
        async with serving(handler, QUICK) as (_, port), connected(port) as waits, connected(port) as idles:
            waits.send(HEAD + b"\r\n")
            await handler.asked(1)
            assert await idles.rest() == b""  # longer than any limit
            handler.answer(0)
            assert (await waits.answer()).status == 200

    run(scene())


def test_a_client_that_never_reads_its_answer_is_cut_off(run) -> None:
    handler = Handler()

    async def scene() -> None:
        async with serving(handler, QUICK) as (_, port):
            with socket.socket() as sock:
                sock.setblocking(False)
                loop = asyncio.get_running_loop()
                await loop.sock_connect(sock, ("127.0.0.1", port))
                await loop.sock_sendall(sock, HEAD + b"\r\n" + HEAD + b"\r\n")
                await handler.asked(1)
                handler.answer(0, b"x" * 16_000_000)
                await handler.until(lambda: handler.hangups == [b"/"])  # the second request waited behind the first

    run(scene())


@pytest.fixture
def many_files() -> Iterator[None]:
    """Room for both ends of a thousand connections in this process."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, max(soft, 4096)), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.usefixtures("many_files")
def test_slowloris(run) -> None:
    async def scene() -> None:
        limits = Limits(header_timeout=1.0, sweep_interval=0.05)
        async with serving(echo, limits) as (_, port), contextlib.AsyncExitStack() as stack:
            peers = [await stack.enter_async_context(connected(port)) for _ in range(1000)]
            for peer in peers:
                peer.send(b"POST / HTTP/1.1\r\nHost: loc")
            async with connected(port) as good:
                for _ in range(50):
                    good.send(HEAD + b"Content-Length: 2\r\n\r\nok")
                    assert (await good.answer()).body == b"ok"
            statuses = await within(asyncio.gather(*(peer.answer() for peer in peers)))
            assert {answer.status for answer in statuses} == {408}
            await stack.aclose()
            async with connected(port) as good:
                good.send(HEAD + b"\r\n")
                assert (await good.answer()).status == 200

    run(scene())


def test_the_body_rate_holds_in_every_span() -> None:
    """A fast beginning buys no slow rest. Time is turned by hand."""
    limits = Limits(body_rate=100, body_grace=5.0)
    owner = MemoryOwner(limits)
    transport = MemoryTransport()
    connection = Connection(owner, echo)
    connection.connection_made(transport)
    connection.data_received(HEAD + b"Content-Length: 1000000\r\n\r\n")
    for second in range(1, 21):
        owner.time = float(second)
        connection.data_received(b"x" * (10_000 if second == 1 else 100))
        connection.sweep(owner.time)
        assert not transport.written, second
    for second in range(21, 26):
        owner.time = float(second)
        connection.data_received(b"x" * 99)
        connection.sweep(owner.time)
    assert transport.written.startswith(b"HTTP/1.1 408 ")


def test_time_held_up_by_the_server_is_not_the_clients() -> None:
    limits = Limits(header_timeout=10.0, idle_timeout=60.0)
    owner = MemoryOwner(limits)
    transport = MemoryTransport()
    exchanges: list[Exchange] = []
    connection = Connection(owner, exchanges.append)
    connection.connection_made(transport)
    connection.data_received(HEAD + b"\r\n" + HEAD)
    owner.time = 500.0
    connection.sweep(owner.time)
    assert not transport.written
    exchanges[0].respond(HttpResponse(200, []))
    written = len(transport.written)
    owner.time = 509.0
    connection.sweep(owner.time)
    assert len(transport.written) == written
    owner.time = 510.0
    connection.sweep(owner.time)
    assert transport.written[written:].startswith(b"HTTP/1.1 408 ")
