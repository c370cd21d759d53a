"""A connection of the HTTP server that goes on in another protocol."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from meshq.adapters.http_server import Limits
from meshq.core import link
from meshq.core.http import HttpRequest, HttpResponse
from meshq.linking import Link
from meshq.ports import Exchange, Successor
from tests.doubles import turn, until
from tests.http_tools import LOOPS, PATIENCE, Peer, connected, serving, within
from tests.link_rig import Served, ok

ASK = b"GET /v1/link HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: meshq-link/1\r\n\r\n"
SWITCHED = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n"


@pytest.fixture(params=LOOPS.values(), ids=LOOPS.keys())
def run(request: pytest.FixtureRequest) -> Callable[..., Any]:
    return request.param  # type: ignore[no-any-return]


class Echo(asyncio.Protocol):
    """Says again what it is told."""

    def __init__(self) -> None:
        self.transport: Any = None
        self.drained = asyncio.Event()
        self.swept = asyncio.Event()
        self.gone = asyncio.Event()
        self._ended: Callable[[Successor], None] = lambda echo: None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.transport.write(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self.gone.set()
        self._ended(self)

    def ended(self, callback: Callable[[Successor], None]) -> None:
        self._ended = callback

    def drain(self) -> None:
        self.drained.set()

    def abort(self) -> None:
        self.transport.abort()

    def sweep(self, now: float) -> None:
        self.swept.set()


class Upgrading:
    """Hands connections that ask for /v1/link to an Echo; holds /hold until the test answers; echoes the rest."""

    def __init__(self) -> None:
        self.echoes: list[Echo] = []
        self.said: list[bool] = []
        self.held: list[Exchange] = []

    def __call__(self, exchange: Exchange) -> None:
        if exchange.request.target == b"/hold":
            self.held.append(exchange)
        elif exchange.request.target == b"/v1/link":
            echo = Echo()
            self.said.append(exchange.upgrade("echo", echo))
            if self.said[-1]:
                self.echoes.append(echo)
            else:
                exchange.respond(HttpResponse(503, [], b"no"))
            assert exchange.upgrade("echo", Echo()) is False, "twice"
        else:
            exchange.respond(HttpResponse(200, [], exchange.request.target))


async def switched(peer: Peer) -> None:
    assert await within(peer.reader.readexactly(len(SWITCHED))) == SWITCHED


async def echoed(peer: Peer, data: bytes) -> None:
    assert await within(peer.reader.readexactly(len(data))) == data


def test_it_goes_on_in_the_other_protocol(run) -> None:
    async def scene() -> None:
        async with serving(Upgrading()) as (_, port), connected(port) as peer:
            peer.send(ASK)
            await switched(peer)
            peer.send(b"GET / HTTP/1.1\r\n\r\n")  # is no HTTP any more
            await echoed(peer, b"GET / HTTP/1.1\r\n\r\n")

    run(scene())


@pytest.mark.parametrize("pause", [False, True], ids=["in-one-write", "in-two"])
def test_what_came_behind_the_request_is_handed_over(run, pause: bool) -> None:
    async def scene() -> None:
        async with serving(Upgrading()) as (_, port), connected(port) as peer:
            peer.send(ASK[:-1] if pause else ASK + b"first")
            if pause:
                await turn()
                peer.send(ASK[-1:] + b"first")
            await switched(peer)
            await echoed(peer, b"first")
            peer.send(b"second")
            await echoed(peer, b"second")

    run(scene())


def test_its_body_is_not_handed_over(run) -> None:
    async def scene() -> None:
        async with serving(Upgrading()) as (_, port), connected(port) as peer:
            peer.send(ASK[:-2] + b"Content-Length: 4\r\n\r\nbodyrest")
            await switched(peer)
            await echoed(peer, b"rest")

    run(scene())


def test_answers_before_it_come_before_it(run) -> None:
    async def scene() -> None:
        async with serving(Upgrading()) as (_, port), connected(port) as peer:
            peer.send(b"POST /first HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n" + ASK + b"rest")
            assert (await peer.answer()).body == b"/first"
            await switched(peer)
            await echoed(peer, b"rest")

    run(scene())


@pytest.mark.parametrize("method", [b"GET", b"POST"])
def test_not_while_another_answer_is_due(run, method: bytes) -> None:
    handler = Upgrading()

    async def scene() -> None:
        async with serving(handler) as (_, port), connected(port) as peer:
            peer.send(method + b" /hold HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n" + ASK)
            await until(lambda: handler.held)
            handler.held[0].respond(HttpResponse(200, [], b"held"))
            assert (await peer.answer()).body == b"held"
            if method == b"GET":  # they ran side by side
                assert (await peer.answer()).status == 503
                peer.send(ASK)
            await switched(peer)

    run(scene())


@pytest.mark.parametrize(
    "asked",
    [
        ASK.replace(b"HTTP/1.1", b"HTTP/1.0"),
        ASK.replace(b"HTTP/1.1", b"HTTP/1.0").replace(b"Upgrade\r\n", b"keep-alive, Upgrade\r\n", 1),
        ASK.replace(b"Upgrade\r\n", b"close, Upgrade\r\n", 1),
    ],
    ids=["1.0", "1.0-kept-alive", "close"],
)
def test_not_on_a_connection_that_cannot(run, asked: bytes) -> None:
    async def scene() -> None:
        async with serving(Upgrading()) as (_, port), connected(port) as peer:
            peer.send(asked)
            assert (await peer.answer()).status == 503

    run(scene())


def test_it_stays_one_of_the_connections(run) -> None:
    handler = Upgrading()

    async def scene() -> None:
        limits = Limits(max_connections=1, sweep_interval=0.02)
        async with serving(handler, limits) as (_, port), connected(port) as peer:
            peer.send(ASK)
            await switched(peer)
            await within(handler.echoes[0].swept.wait())
            async with connected(port) as another:
                assert (await another.answer()).status == 503
            peer.reset()
            await within(handler.echoes[0].gone.wait())
            async with connected(port) as another:
                another.send(b"GET /again HTTP/1.1\r\nHost: localhost\r\n\r\n")
                assert (await another.answer()).body == b"/again"

    run(scene())


def test_the_servers_end_drains_it_and_at_last_cuts_it_off(run) -> None:
    handler = Upgrading()

    async def scene() -> None:
        async with serving(handler) as (server, port), connected(port) as peer:
            peer.send(ASK)
            await switched(peer)
            closing = asyncio.ensure_future(server.close(0.2))
            await within(handler.echoes[0].drained.wait())
            peer.send(b"still here")
            await echoed(peer, b"still here")
            await within(closing)
            assert handler.echoes[0].gone.is_set()

    run(scene())


def test_a_server_that_closes_hands_no_more_over(run) -> None:
    handler = Upgrading()

    async def scene() -> None:
        async with serving(handler) as (server, port), connected(port) as peer:
            peer.send(ASK[:-2])
            await turn()
            async with connected(port) as other:  # so that the server has read the beginning
                other.send(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
                await other.answer()
            closing = asyncio.ensure_future(server.close(PATIENCE))
            await turn()
            peer.send(ASK[-2:])
            assert (await peer.answer()).status == 503
            await within(closing)

    run(scene())


# --- the link itself on it ------------------------------------------------------------------------------------------------------------


class Linking:
    """A server's handler that makes links of its connections."""

    def __init__(self, **options: Any) -> None:
        self.served = Served()
        self.links: list[Link] = []
        self._options = options

    def __call__(self, exchange: Exchange) -> None:
        opened = Link(self.served, **self._options)
        assert exchange.upgrade(link.PROTOCOL, opened)
        self.links.append(opened)


async def asked(served: Served, count: int) -> None:
    await until(lambda: len(served.asked) >= count)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_a_link_over_a_socket(run, host: str) -> None:
    handler = Linking()

    async def scene() -> None:
        async with serving(handler) as (server, _):
            port = await server.listen(host, 0, handler)
            async with connected(port, host) as peer:
                request = HttpRequest(b"POST", b"/a", [], bytes(300_000))
                peer.send(ASK + link.hello(link.Hello(5)) + link.request(1, request))
                await peer.head()
                await asked(handler.served, 1)
                assert handler.served.asked[0].request == request
                assert handler.served.asked[0].local_port == port
                handler.served.asked[0].respond(ok(bytes(300_000)))
                expected = link.hello(link.Hello(4096)) + link.response(1, ok(bytes(300_000)))
                assert await within(peer.reader.readexactly(len(expected))) == expected

    run(scene())


def test_a_server_that_closes_leaves_its_links_and_waits_for_their_answers(run) -> None:
    handler = Linking()

    async def scene() -> None:
        async with serving(handler) as (server, port), connected(port) as peer:
            peer.send(ASK + link.hello(link.Hello(5)) + link.request(1, HttpRequest(b"GET", b"/", [], None)))
            await peer.head()
            await asked(handler.served, 1)
            closing = asyncio.ensure_future(server.close(PATIENCE))
            said = link.hello(link.Hello(4096)) + link.goodbye() + link.ping(1)
            assert await within(peer.reader.readexactly(len(said))) == said
            peer.send(link.pong(1, link.Pong()))
            handler.served.asked[0].respond(ok())
            assert await peer.rest() == link.response(1, ok())
            await within(closing)

    run(scene())


@pytest.mark.parametrize("silent", [False, True], ids=["never-answers", "never-reads"])
def test_a_client_that_does_not_let_go_is_cut_off(run, silent: bool) -> None:
    handler = Linking()

    async def scene() -> None:
        async with serving(handler) as (server, port), connected(port) as peer:
            peer.send(ASK + link.hello(link.Hello(5)) + link.request(1, HttpRequest(b"GET", b"/", [], None)))
            await peer.head()
            await asked(handler.served, 1)
            if silent:
                peer.writer.transport.pause_reading()  # type: ignore[attr-defined]
            handler.served.asked[0].respond(ok(bytes(10_000_000) if silent else b""))
            await within(server.close(0.2))
            assert handler.links[0].closed.is_set()

    run(scene())


def test_one_that_says_nothing_is_cut_off_by_the_sweep(run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("meshq.linking.HELLO_WITHIN", 0.1)

    async def scene() -> None:
        limits = Limits(sweep_interval=0.02)
        async with serving(Linking(), limits) as (_, port), connected(port) as peer:
            peer.send(ASK)
            await peer.head()
            hello = link.hello(link.Hello(4096))
            assert await peer.rest() in (hello, b"")

    run(scene())


def test_a_client_that_floods_without_reading_is_not_read_from(run) -> None:
    """What it sends stays in its own socket, and what is kept here is bounded."""
    answered: list[int] = []

    def answer(exchange: Exchange) -> None:
        answered.append(1)
        exchange.respond(ok(bytes(20_000)))

    links: list[Link] = []

    def handler(exchange: Exchange) -> None:
        links.append(Link(answer, granted=8))
        assert exchange.upgrade(link.PROTOCOL, links[0])

    async def scene() -> None:
        async with serving(handler) as (_, port), connected(port) as peer:
            peer.send(ASK + link.hello(link.Hello(5)))
            await peer.head()
            peer.writer.transport.pause_reading()  # type: ignore[attr-defined]
            numbers = iter(range(10**9))
            async with asyncio.timeout(PATIENCE):
                while not (links and links[0]._read_paused):
                    requests = [link.request(next(numbers), HttpRequest(b"GET", b"/", [], None)) for _ in range(8)]
                    peer.send(b"".join(requests))
                    await turn()
            kept = links[0]._transport.get_write_buffer_size()
            assert kept < 50_000_000
            count = len(answered)
            peer.send(link.request(next(numbers), HttpRequest(b"GET", b"/", [], None)) * 10)
            for _ in range(20):
                await turn()
            assert len(answered) == count
            peer.reset()

    run(scene())
