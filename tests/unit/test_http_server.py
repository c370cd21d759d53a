"""What the HTTP server promises its clients, over real sockets and on both event loops."""

import asyncio
import json
import logging
import socket
from collections.abc import Callable
from typing import Any

import pytest

from meshq.adapters.http_connection import LINGER_SECONDS, READ_AHEAD, Connection
from meshq.adapters.http_server import Limits, Server
from meshq.core.http import HttpResponse
from meshq.ports import Exchange
from tests.http_tools import LOOPS, QUICK, Handler, MemoryTransport, Peer, connected, echo, in_memory, serving, within

HOST = b"Host: localhost\r\n"


@pytest.fixture(params=LOOPS.values(), ids=LOOPS.keys())
def run(request: pytest.FixtureRequest) -> Callable[..., Any]:
    return request.param  # type: ignore[no-any-return]


def get(target: bytes, *lines: bytes, method: bytes = b"GET", version: bytes = b"1.1") -> bytes:
    return method + b" " + target + b" HTTP/" + version + b"\r\n" + HOST + b"".join(lines) + b"\r\n"


def post(body: bytes, *lines: bytes, target: bytes = b"/") -> bytes:
    return get(target, b"Content-Length: %d\r\n" % len(body), *lines, method=b"POST") + body


def test_hands_over_the_request_as_it_came(run) -> None:
    handler = Handler()

    async def scene() -> None:
        async with serving(handler) as (_, port), connected(port) as peer:
            peer.send(
                b"PUT /a%20b?c=d&e HTTP/1.1\r\nhOsT: localhost\r\nX-A:  1 \r\nx-a: \xe9\r\nContent-Length: 2\r\n\r\nhi"
            )
            await handler.asked(1)
            exchange = handler.exchanges[0]
            assert exchange.request == (
                b"PUT",
                b"/a%20b?c=d&e",
                [(b"hOsT", b"localhost"), (b"X-A", b"1"), (b"x-a", b"\xe9"), (b"Content-Length", b"2")],
                b"hi",
            )
            assert exchange.local_port == port
            headers = [(b"X-B", b"2"), (b"x-b", b"3"), (b"Content-Length", b"99"), (b"Transfer-Encoding", b"chunked")]
            exchange.respond(HttpResponse(201, [*headers, (b"Keep-Alive", b"x"), (b"Connection", b"close")], b"made"))
            first, sent = await peer.head()
            assert first == b"HTTP/1.1 201 Created"
            assert sent == [(b"X-B", b"2"), (b"x-b", b"3"), (b"Content-Length", b"4")]
            assert await within(peer.reader.readexactly(4)) == b"made"

    run(scene())


@pytest.mark.parametrize(
    ("raw", "body"),
    [
        (get(b"/"), None),
        (post(b""), b""),
        (get(b"/", b"Transfer-Encoding: chunked\r\n", method=b"POST") + b"0\r\n\r\n", b""),
        (
            get(b"/", b"Transfer-Encoding: CHUNKED\r\n") + b"3;a=b\r\nabc\r\n02\r\nde\r\n0\r\nTrailer: x\r\n\r\n",
            b"abcde",
        ),
        (b"\r\n" + post(b"abc"), b"abc"),
    ],
    ids=["none", "empty", "chunked-empty", "chunked", "after-a-blank-line"],
)
def test_bodies(run, raw: bytes, body: bytes | None) -> None:
    handler = Handler()

    async def scene() -> None:
        async with serving(handler) as (_, port), connected(port) as peer:
            peer.send(raw)
            await handler.asked(1)
            assert handler.exchanges[0].request.body == body

    run(scene())


@pytest.mark.parametrize(
    "raw",
    [
        b"GET http://LOCALHOST:80/x HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET http://localhost/x HTTP/1.0\r\n\r\n",
        b"OPTIONS * HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost:\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: [::1]:3600\r\n\r\n",
        b'GET /"<>\\^`{|} HTTP/1.1\r\nHost: v2.orders.mesh\r\n\r\n',
        b"CONNECT other:443 HTTP/1.1\r\nHost: other:443\r\n\r\n",
    ],
)
def test_unusual_but_right(run, raw: bytes) -> None:
    async def scene() -> None:
        async with serving(echo) as (_, port), connected(port) as peer:
            peer.send(raw)
            answer = await peer.answer()
            assert answer.status == 200
            assert answer.get(b"target") == raw.split(b" ")[1]

    run(scene())


@pytest.mark.parametrize(
    ("version", "line", "stays"),
    [
        (b"1.1", b"", True),
        (b"1.1", b"Connection: close\r\n", False),
        (b"1.1", b"Connection: x, Close\r\n", False),
        (b"1.0", b"", False),
        (b"1.0", b"Connection: Keep-Alive\r\n", True),
        (b"1.0", b"Connection: keep-alive, close\r\n", False),
    ],
)
def test_keep_alive(run, version: bytes, line: bytes, stays: bool) -> None:
    async def scene() -> None:
        async with serving(echo) as (_, port), connected(port) as peer:
            for _ in range(2 if stays else 1):
                peer.send(get(b"/", line, version=version))
                answer = await peer.answer()
                assert answer.status == 200
            expected = {(False, b"1.0"): b"close", (False, b"1.1"): b"close", (True, b"1.0"): b"keep-alive"}
            assert answer.get(b"connection") == expected.get((stays, version))
            if not stays:
                assert await peer.rest() == b""

    run(scene())


def test_pipelined_answers_keep_the_order_of_the_requests(run) -> None:
    handler = Handler()

    async def scene() -> None:
        async with serving(handler) as (_, port), connected(port) as peer:
            peer.send(b"".join(get(b"/%d" % i) for i in range(4)))
            await handler.asked(4)
            for i in (2, 1, 3, 0):
                handler.answer(i, b"answer %d" % i)
            assert [(await peer.answer()).body for _ in range(4)] == [b"answer %d" % i for i in range(4)]

    run(scene())


def test_pipelined_requests_with_effects_run_one_after_the_other(run) -> None:
    handler = Handler()

    async def scene() -> None:
        async with serving(handler) as (_, port), connected(port) as peer:
            peer.send(get(b"/0") + get(b"/1") + post(b"x", target=b"/2") + post(b"y", target=b"/3") + get(b"/4"))
            order = []
            for running in (2, 3, 4, 5):
                await handler.asked(running)
                assert len(handler.exchanges) == running
                for exchange in handler.exchanges[len(order) :]:
                    order.append(exchange.request.target)
                    exchange.respond(HttpResponse(200, [], exchange.request.target))
            assert order == [b"/0", b"/1", b"/2", b"/3", b"/4"]
            assert [(await peer.answer()).body for _ in range(5)] == order

    run(scene())


def test_reads_no_further_than_max_pipelined_and_its_buffer(run) -> None:
    handler = Handler()

    async def scene() -> None:
        async with serving(handler, Limits(max_pipelined=3)) as (_, port), connected(port) as peer:
            request = get(b"/", b"A: " + b"a" * 1000 + b"\r\n")
            for _ in range(20_000):
                peer.send(request)
            await handler.asked(3)
            async with connected(port) as other:
                other.send(get(b"/other"))
                await handler.asked(4)
            # 20 MB do not fit into the sockets' buffers: the client is held up, not the server filled.
            assert peer.writer.transport.get_write_buffer_size() > 1_000_000
            for i in range(3):
                handler.answer(i)
            await handler.asked(7)
            assert handler.exchanges[3].request.target == b"/other"
            peer.reset()

    run(scene())


def test_says_continue_once_the_head_is_accepted(run) -> None:
    async def scene() -> None:
        async with serving(echo) as (_, port), connected(port) as peer:
            head = get(b"/", b"Expect: 100-Continue\r\n", b"Content-Length: 4\r\n", method=b"POST")
            for _ in range(2):
                peer.send(head)
                assert (await peer.answer()).status == 100
                peer.send(b"body")
                assert (await peer.answer()).body == b"body"
            peer.send(head + b"body" + head.replace(b"1.1", b"1.0"))
            assert (await peer.answer()).status == 200
            peer.send(b"body")
            assert (await peer.answer()).status == 200

    run(scene())


def test_says_continue_only_when_it_is_that_requests_turn(run) -> None:
    handler = Handler()

    async def scene() -> None:
        async with serving(handler) as (_, port), connected(port) as peer:
            peer.send(get(b"/") + get(b"/", b"Expect: 100-continue\r\n", b"Content-Length: 4\r\n", method=b"PUT"))
            await handler.asked(1)
            handler.answer(0, b"first")
            assert (await peer.answer()).body == b"first"
            assert (await peer.answer()).status == 100
            peer.send(b"body")
            await handler.asked(2)

    run(scene())


@pytest.mark.parametrize(
    ("method", "response", "length"),
    [
        (b"HEAD", HttpResponse(200, [(b"Content-Length", b"1234")]), b"1234"),
        (b"HEAD", HttpResponse(200, [], b"body"), b"4"),
        (b"HEAD", HttpResponse(200, [(b"Content-Length", b"1, 2")]), None),
        (b"GET", HttpResponse(204, [(b"Content-Length", b"3")], b"abc"), None),
        (b"GET", HttpResponse(304, [(b"Content-Length", b"77")]), b"77"),
        (b"GET", HttpResponse(304, [], b""), None),
        (b"GET", HttpResponse(200, [(b"Content-Length", b"77")]), b"0"),
    ],
)
def test_answers_without_a_body(run, method: bytes, response: HttpResponse, length: bytes | None) -> None:
    async def scene() -> None:
        async with serving(lambda exchange: exchange.respond(response)) as (_, port), connected(port) as peer:
            for _ in range(2):
                peer.send(get(b"/", method=method))
                answer = await peer.answer(method)
                assert (answer.status, answer.get(b"content-length"), answer.body) == (response.status, length, b"")

    run(scene())


@pytest.mark.parametrize(
    "response",
    [
        HttpResponse(200, [(b"A", b"b\r\nSet-Cookie: x")]),
        HttpResponse(200, [(b"A", b"b\nc")]),
        HttpResponse(200, [(b"A", b"b\rc")]),
        HttpResponse(200, [(b"A", b"b\0c")]),
        HttpResponse(200, [(b"A\r\nB", b"c")]),
        HttpResponse(200, [(b"A: b\r\n\r\nHTTP/1.1 200 OK", b"c")]),
        HttpResponse(200, [(b"A b", b"c")]),
        HttpResponse(200, [(b"", b"c")]),
        HttpResponse(200, [(b"A:", b"c")]),
        HttpResponse(100, []),
        HttpResponse(0, []),
        HttpResponse(1000, []),
    ],
)
def test_never_splits_a_response(run, response: HttpResponse) -> None:
    async def scene() -> None:
        async with serving(lambda exchange: exchange.respond(response)) as (_, port), connected(port) as peer:
            for _ in range(2):
                peer.send(get(b"/"))
                answer = await peer.answer()
                assert answer.status == 502
                assert answer.get(b"meshq-error") == b"bad-gateway"

    run(scene())


def test_an_unknown_status_has_an_empty_phrase(run) -> None:
    async def scene() -> None:
        handler = lambda exchange: exchange.respond(HttpResponse(299, []))
        async with serving(handler) as (_, port), connected(port) as peer:
            peer.send(get(b"/"))
            assert (await peer.head())[0] == b"HTTP/1.1 299 "

    run(scene())


def test_refusals_are_problems(run) -> None:
    async def scene() -> None:
        async with serving(echo, Limits(max_body=10)) as (_, port):
            async with connected(port) as peer:
                peer.send(post(b"x" * 11))
                answer = await peer.answer()
                assert answer.get(b"meshq-error") == b"too-large"
                assert json.loads(answer.body)["code"] == "too-large"
            async with connected(port) as peer:
                peer.send(get(b"/", b"Transfer-Encoding: gzip\r\n"))
                problem = json.loads((await peer.answer()).body)
                assert problem["status"] == 501
                assert problem["code"] == "bad-request"
                assert "'gzip'" in problem["detail"]

    run(scene())


def test_the_client_can_read_413_while_it_still_sends(run) -> None:
    async def scene() -> None:
        async with serving(echo, Limits(max_body=1000)) as (_, port), connected(port) as peer:
            peer.send(get(b"/", b"Content-Length: 900000\r\n", method=b"POST"))
            for _ in range(9):
                peer.send(b"x" * 100_000)
                await within(peer.writer.drain())
            assert (await peer.answer()).status == 413
            assert await peer.rest() == b""

    run(scene())


def test_a_client_that_goes_on_sending_after_413_is_cut_off(run) -> None:
    async def scene() -> None:
        async with serving(echo, Limits(max_body=1000)) as (_, port), connected(port) as peer:
            peer.send(get(b"/", b"Content-Length: 90000000000\r\n", method=b"POST"))

            async def flood() -> None:
                while True:
                    peer.send(b"x" * 100_000)
                    await peer.writer.drain()

            with pytest.raises(OSError, match=r"reset|pipe|lost"):
                await within(flood())

    run(scene())


def test_connect_is_handed_over_and_then_closed(run) -> None:
    async def scene() -> None:
        handler = lambda exchange: exchange.respond(HttpResponse(421, []))
        async with serving(handler) as (_, port), connected(port) as peer:
            peer.send(b"CONNECT other:443 HTTP/1.1\r\nHost: other:443\r\n\r\n" + get(b"/smuggled"))
            answer = await peer.answer()
            assert (answer.status, answer.get(b"connection")) == (421, b"close")
            peer.writer.write_eof()
            assert await peer.rest() == b""

    run(scene())


def test_upgrade_is_ignored(run) -> None:
    async def scene() -> None:
        async with serving(echo) as (_, port), connected(port) as peer:
            upgrade = (b"Connection: Upgrade, HTTP2-Settings\r\n", b"Upgrade: h2c\r\n", b"HTTP2-Settings: x\r\n")
            peer.send(get(b"/1", *upgrade) + post(b"body", *upgrade, target=b"/2") + get(b"/3"))
            for target, body in ((b"/1", b""), (b"/2", b"body"), (b"/3", b"")):
                answer = await peer.answer()
                assert (answer.status, answer.get(b"target"), answer.body) == (200, target, body)

    run(scene())


def test_a_client_that_hangs_up_disturbs_nobody_else(run) -> None:
    handler = Handler()

    async def scene() -> None:
        async with serving(handler) as (_, port), connected(port) as stays:
            stays.send(get(b"/stays"))
            await handler.asked(1)
            async with connected(port) as goes:
                goes.send(get(b"/goes-1") + get(b"/goes-2"))
                await handler.asked(3)
                goes.reset()
                await handler.until(lambda: len(handler.hangups) == 2)
            assert sorted(handler.hangups) == [b"/goes-1", b"/goes-2"]
            for i in range(3):
                handler.answer(i)
            assert (await stays.answer()).body == b"ok"
        assert len(handler.hangups) == 2

    run(scene())


def test_a_client_that_only_shut_its_write_side_gets_its_answers(run) -> None:
    handler = Handler()

    async def scene() -> None:
        async with serving(handler, QUICK) as (server, port), connected(port) as peer:
            peer.send(get(b"/1") + post(b"x"))
            peer.writer.write_eof()
            await handler.asked(1)
            await server_swept(server)
            handler.answer(0)
            await handler.asked(2)
            handler.answer(1)
            assert [(await peer.answer()).body for _ in range(2)] == [b"ok", b"ok"]
            assert await peer.rest() == b""
        assert handler.hangups == []

    run(scene())


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_a_client_that_closed_its_socket_has_hung_up(run, host: str) -> None:
    """A close sends the same FIN as a shut write side; only the kernel knows the difference."""
    handler = Handler()

    async def scene() -> None:
        async with serving(handler, QUICK) as (server, _):
            port = await server.listen(host, 0, handler)
            async with connected(port, host) as peer:
                peer.send(get(b"/"))
                await handler.asked(1)
            await handler.until(lambda: handler.hangups == [b"/"])

    run(scene())


async def server_swept(server: Server) -> None:
    """Wait until the time limits were looked at, twice."""
    swept = asyncio.Event()
    turns = 0
    loop = asyncio.get_running_loop()

    def turn() -> None:
        nonlocal turns
        turns += 1
        if turns == 2:
            swept.set()
        else:
            loop.call_later(server.limits.sweep_interval * 2, turn)

    turn()
    await within(swept.wait())


def test_a_handler_that_raises_costs_one_connection(run, caplog: pytest.LogCaptureFixture) -> None:
    def handler(exchange: Exchange) -> None:
        if exchange.request.target == b"/bad":
            raise ValueError("the secret")
        echo(exchange)

    async def scene() -> None:
        async with serving(handler) as (_, port):
            async with connected(port) as peer:
                with caplog.at_level(logging.ERROR):
                    peer.send(get(b"/bad"))
                    answer = await peer.answer()
                assert (answer.status, answer.get(b"connection")) == (500, b"close")
                assert json.loads(answer.body)["title"] == "Internal error"
                assert b"secret" not in answer.body
                assert answer.get(b"meshq-error") is None
                assert await peer.rest() == b""
            async with connected(port) as peer:
                peer.send(get(b"/good"))
                assert (await peer.answer()).status == 200

    run(scene())
    assert "the secret" in caplog.text


def test_a_hangup_callback_that_raises_keeps_no_other_from_hearing(run, caplog: pytest.LogCaptureFixture) -> None:
    handler = Handler()

    def bad() -> None:
        raise ValueError("bad callback")

    async def scene() -> None:
        async with serving(handler) as (_, port), connected(port) as peer:
            peer.send(get(b"/1") + get(b"/2"))
            await handler.asked(2)
            handler.exchanges[0].on_hangup(bad)
            peer.reset()
            await handler.until(lambda: handler.hangups == [b"/2"])

    run(scene())
    assert "bad callback" in caplog.text


def test_a_second_answer_does_nothing(run) -> None:
    async def scene() -> None:
        def handler(exchange: Exchange) -> None:
            exchange.respond(HttpResponse(200, [], b"first"))
            exchange.respond(HttpResponse(200, [], b"second"))

        async with serving(handler) as (_, port), connected(port) as peer:
            for _ in range(2):
                peer.send(get(b"/"))
                assert (await peer.answer()).body == b"first"

    run(scene())


def test_listens_on_several_addresses_with_a_handler_each(run) -> None:
    async def scene() -> None:
        async with serving(echo) as (server, port):
            handler = Handler()
            other = await server.listen("::1", 0, handler)
            async with connected(other, "::1") as peer:
                peer.send(get(b"/six"))
                await handler.asked(1)
                assert handler.exchanges[0].local_port == other
            async with connected(port) as peer:
                peer.send(get(b"/four"))
                assert (await peer.answer()).status == 200
            with pytest.raises(OSError, match="in use"):
                await server.listen("127.0.0.1", port, echo)

    run(scene())


def test_sends_small_answers_at_once(run) -> None:
    async def scene() -> None:
        server = Server()
        options: list[int] = []

        def handler(exchange: Exchange) -> None:
            (connection,) = server._connections
            sock = connection._transport.get_extra_info("socket")
            options.append(sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
            echo(exchange)

        port = await server.listen("127.0.0.1", 0, handler)
        async with connected(port) as peer:
            peer.send(get(b"/"))
            await peer.answer()
        await server.close(0)
        assert options[0] != 0

    run(scene())


def test_a_connection_too_many_is_told_so(run) -> None:
    async def scene() -> None:
        async with serving(echo, Limits(max_connections=2)) as (_, port):
            async with connected(port) as one, connected(port) as two:
                for peer in (one, two):
                    peer.send(get(b"/"))
                    assert (await peer.answer()).status == 200
                async with connected(port) as three:
                    three.send(get(b"/"))
                    answer = await three.answer()
                    assert (answer.status, answer.get(b"connection")) == (503, b"close")
                    assert answer.get(b"retry-after") == b"1"
                    three.writer.write_eof()
                    assert await three.rest() == b""
            async with connected(port) as peer:
                peer.send(get(b"/"))
                assert (await peer.answer()).status in (200, 503)

    run(scene())


def test_close_answers_what_runs_and_closes_what_idles(run) -> None:
    handler = Handler()

    async def scene() -> None:
        async with serving(handler) as (server, port), connected(port) as idle, connected(port) as busy:
            busy.send(get(b"/") + get(b"/"))
            await handler.asked(2)
            async with asyncio.TaskGroup() as group:
                closing = group.create_task(server.close(10))
                assert await idle.rest() == b""
                with pytest.raises(OSError, match=r"refused|Connect call failed"):
                    await asyncio.open_connection("127.0.0.1", port)
                assert not closing.done()
                handler.answer(0)
                assert (await busy.answer()).get(b"connection") is None
                handler.answer(1)
                assert (await busy.answer()).get(b"connection") == b"close"
                assert await busy.rest() == b""
                await within(closing)

    run(scene())


def test_close_cuts_what_takes_too_long(run) -> None:
    handler = Handler()

    async def scene() -> None:
        async with serving(handler) as (server, port), connected(port) as peer:
            peer.send(get(b"/"))
            await handler.asked(1)
            await within(server.close(0.05))
            assert handler.hangups == [b"/"]
            with pytest.raises((OSError, asyncio.IncompleteReadError)):
                await peer.answer()
            handler.answer(0)

    run(scene())


def test_large_answers_arrive_whole(run) -> None:
    body = bytes(range(256)) * 16_384

    async def scene() -> None:
        handler = lambda exchange: exchange.respond(HttpResponse(200, [], body))
        async with serving(handler) as (_, port), connected(port) as peer:
            peer.send(get(b"/") * 3)
            for _ in range(3):
                assert (await peer.answer()).body == body

    run(scene())


def test_asks_no_more_from_a_client_that_does_not_read(run) -> None:
    handler = Handler()

    async def scene() -> None:
        async with serving(handler) as (_, port):
            sock = socket.socket()
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            sock.setblocking(False)
            await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", port))
            reader, writer = await asyncio.open_connection(sock=sock, limit=1024)
            peer = Peer(reader, writer)
            writer.transport.pause_reading()  # type: ignore[attr-defined]
            peer.send(get(b"/0"))
            await handler.asked(1)
            handler.answer(0, b"x" * 8_000_000)
            peer.send(get(b"/1"))
            async with connected(port) as other:
                other.send(get(b"/other"))
                await handler.asked(2)
                assert [e.request.target for e in handler.exchanges] == [b"/0", b"/other"]
            writer.transport.resume_reading()  # type: ignore[attr-defined]
            assert len((await peer.answer()).body) == 8_000_000
            await handler.asked(3)
            assert handler.exchanges[2].request.target == b"/1"
            await peer.close()

    run(scene())


# --- what is bounded, fed by hand: nothing to wait for ---


def kept(limits: Limits) -> tuple[list[Exchange], Connection, MemoryTransport]:
    exchanges: list[Exchange] = []
    connection, transport = in_memory(exchanges.append, limits)
    return exchanges, connection, transport


def test_pauses_reading_while_too_many_wait() -> None:
    exchanges, connection, transport = kept(Limits(max_pipelined=2))
    request = get(b"/", b"A: " + b"a" * 1000 + b"\r\n")
    sent = 0
    while transport.reading:
        connection.data_received(request)
        sent += 1
    assert len(exchanges) == 2
    assert READ_AHEAD < sent * len(request) < READ_AHEAD + 4 * len(request)
    for i in range(sent):
        exchanges[i].respond(HttpResponse(200, []))
    assert len(exchanges) == sent
    assert transport.reading


def test_takes_nothing_while_the_client_does_not_read() -> None:
    exchanges, connection, transport = kept(Limits())
    connection.pause_writing()
    assert not transport.reading
    connection.data_received(get(b"/"))
    assert exchanges == []
    connection.resume_writing()
    assert transport.reading
    assert len(exchanges) == 1


def test_lingers_after_a_refusal_but_not_for_ever() -> None:
    _, connection, transport = kept(Limits(max_body=1))
    connection.data_received(post(b"too large"))
    assert transport.written.startswith(b"HTTP/1.1 413 ")
    connection.sweep(LINGER_SECONDS * 0.9)
    assert not transport.closed
    connection.sweep(LINGER_SECONDS)
    assert transport.closed


@pytest.mark.parametrize("method", [b"PROPFIND", b"FROBNICATE", b"get", b"M-SEARCH", b"x"])
def test_any_method_reaches_the_handler_as_it_was_sent(run, method: bytes) -> None:
    handler = Handler()

    async def scene() -> None:
        async with serving(handler) as (_, port), connected(port) as peer:
            peer.send(method + b" / HTTP/1.1\r\nHost: h\r\n\r\n")
            await handler.asked(1)
            assert handler.exchanges[0].request.method == method

    run(scene())
