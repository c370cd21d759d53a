"""What the HTTP client makes of an app, good or bad: real sockets, apps that say exactly what the test says."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from meshq.adapters.http_client import Client
from meshq.core.http import Failed, Failure, HttpRequest, HttpResponse
from tests.http_tools import LOOPS, PATIENCE, Peer, echo, serving, within

GET = HttpRequest(b"GET", b"/", [(b"Host", b"app")], None)
POST = HttpRequest(b"POST", b"/x?y", [(b"Host", b"app"), (b"A", b"b")], b"body")
HEAD = GET._replace(method=b"HEAD")
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"

Script = Callable[[Peer, int], Awaitable[None]]


@pytest.fixture(params=LOOPS.values(), ids=LOOPS.keys())
def run(request: pytest.FixtureRequest) -> Callable[..., Any]:
    return request.param  # type: ignore[no-any-return]


class App:
    """A fake app: `script` plays each of its connections, numbered from 0."""

    def __init__(self, script: Script) -> None:
        self.connections = 0
        self.faults: list[AssertionError] = []
        self._script = script
        self._running: set[asyncio.Task[None]] = set()

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        number, self.connections = self.connections, self.connections + 1
        task = asyncio.current_task()
        assert task is not None
        self._running.add(task)
        peer = Peer(reader, writer)
        try:
            await self._script(peer, number)
            await peer.rest()
        except (OSError, asyncio.IncompleteReadError):
            pass  # the client went
        except AssertionError as fault:
            self.faults.append(fault)
        finally:
            self._running.discard(task)
            await peer.close()

    async def ended(self) -> None:
        while self._running:
            await within(asyncio.wait(set(self._running)))


@contextlib.asynccontextmanager
async def app(script: Script, **options: Any) -> AsyncIterator[tuple[Client, App]]:
    """A client and the app that it asks."""
    played = App(script)
    listener = await asyncio.start_server(played, "127.0.0.1", 0)
    client = Client("127.0.0.1", listener.sockets[0].getsockname()[1], **{"max_response": 1000, **options})
    try:
        yield client, played
    finally:
        await within(client.close())
        listener.close()
        await played.ended()
        assert played.faults == []


def ask(
    client: Client, request: HttpRequest, timeout: float = PATIENCE
) -> tuple[asyncio.Future[HttpResponse | Failed], Callable[[], None]]:
    future: asyncio.Future[HttpResponse | Failed] = asyncio.get_running_loop().create_future()
    return future, client.request(request, timeout, future.set_result)  # raises if it is called twice


async def outcome(client: Client, request: HttpRequest, timeout: float = PATIENCE) -> HttpResponse | Failed:
    return await within(ask(client, request, timeout)[0])


def says(*responses: bytes, then_close: bool = False) -> Script:
    """An app that gives one answer to each request of a connection."""

    async def script(peer: Peer, _: int) -> None:
        for response in responses:
            await peer.request()
            peer.send(response)
        if then_close:
            await peer.close()

    return script


def test_sends_the_request_as_it_is_with_the_framing_added(run) -> None:
    seen: list[Any] = []

    async def script(peer: Peer, _: int) -> None:
        while True:
            seen.append(await peer.request())
            peer.send(OK)

    async def scene() -> None:
        async with app(script) as (client, _):
            for request in (GET, POST, POST._replace(body=b""), POST._replace(body=b"x" * 300_000)):
                assert await outcome(client, request) == HttpResponse(200, [], b"ok")
        host, a = (b"Host", b"app"), (b"A", b"b")
        assert seen == [
            (b"GET / HTTP/1.1", [host], b""),
            (b"POST /x?y HTTP/1.1", [host, a, (b"Content-Length", b"4")], b"body"),
            (b"POST /x?y HTTP/1.1", [host, a, (b"Content-Length", b"0")], b""),
            (b"POST /x?y HTTP/1.1", [host, a, (b"Content-Length", b"300000")], b"x" * 300_000),
        ]

    run(scene())


def response(*lines: bytes, body: bytes = b"", status: bytes = b"200 OK", version: bytes = b"1.1") -> bytes:
    return b"HTTP/" + version + b" " + status + b"\r\n" + b"".join(line + b"\r\n" for line in lines) + b"\r\n" + body


GOOD = {
    "content-length": (GET, response(b"Content-Length: 3", body=b"abc"), HttpResponse(200, [], b"abc")),
    "no-body": (
        GET,
        response(b"Content-Length: 0", b"X: 1", b"x:  2 "),
        HttpResponse(200, [(b"X", b"1"), (b"x", b"2")]),
    ),
    "chunked": (
        GET,
        response(b"Transfer-Encoding: chunked", body=b"3;x\r\nabc\r\n02\r\nde\r\n0\r\nTrailer: dropped\r\n\r\n"),
        HttpResponse(200, [], b"abcde"),
    ),
    "both-lengths": (
        GET,
        response(b"Content-Length: 7", b"Transfer-Encoding: Chunked", body=b"3\r\nabc\r\n0\r\n\r\n"),
        HttpResponse(200, [], b"abc"),
    ),
    "204": (GET, response(b"X: 1", status=b"204 No Content"), HttpResponse(204, [(b"X", b"1")])),
    "304": (
        GET,
        response(b"Content-Length: 99", status=b"304 Not Modified"),
        HttpResponse(304, [(b"Content-Length", b"99")]),
    ),
    "head": (HEAD, response(b"Content-Length: 99999"), HttpResponse(200, [(b"Content-Length", b"99999")])),
    "head-chunked": (HEAD, response(b"Transfer-Encoding: chunked"), HttpResponse(200, [])),
    "interim": (
        POST,
        response(b"Link: x", status=b"103 Early Hints") + response(status=b"100 Continue") + OK,
        HttpResponse(200, [], b"ok"),
    ),
    "hop-by-hop": (
        GET,
        response(b"Connection: X-A, keep-alive", b"x-a: 1", b"Keep-Alive: timeout=5", b"X-B: 2", b"Content-Length: 0"),
        HttpResponse(200, [(b"X-B", b"2")]),
    ),
    "latin-1-and-no-phrase": (
        GET,
        response(b"X: \xe9", b"Content-Length: 0", status=b"299"),
        HttpResponse(299, [(b"X", b"\xe9")]),
    ),
    "at-the-limit": (GET, response(b"Content-Length: 1000", body=b"x" * 1000), HttpResponse(200, [], b"x" * 1000)),
}


@pytest.mark.parametrize(("request_", "raw", "expected"), GOOD.values(), ids=GOOD.keys())
def test_reads_a_response_however_it_is_cut(run, request_: HttpRequest, raw: bytes, expected: HttpResponse) -> None:
    async def byte_by_byte(peer: Peer, _: int) -> None:
        await peer.request()
        for i in range(len(raw)):
            peer.send(raw[i : i + 1])
            await peer.writer.drain()

    async def scene() -> None:
        for script in (says(raw), byte_by_byte):
            async with app(script) as (client, _):
                assert await outcome(client, request_) == expected

    run(scene())


CLOSED = {
    "until-close": (response(b"X: 1", body=b"abc"), HttpResponse(200, [(b"X", b"1")], b"abc")),
    "until-close-empty": (response(), HttpResponse(200, [])),
    "http-1.0": (response(body=b"abc", version=b"1.0"), HttpResponse(200, [], b"abc")),
    "close": (response(b"Connection: close", b"Content-Length: 3", body=b"abc"), HttpResponse(200, [], b"abc")),
}


@pytest.mark.parametrize(("raw", "expected"), CLOSED.values(), ids=CLOSED.keys())
def test_reads_a_response_that_ends_with_the_connection(run, raw: bytes, expected: HttpResponse) -> None:
    async def scene() -> None:
        async with app(says(raw, then_close=True)) as (client, played):
            for _ in range(3):
                assert await outcome(client, POST) == expected
            assert played.connections == 3

    run(scene())


BAD = {
    "garbage": b"hello\r\n\r\n",
    "ssh": b"SSH-2.0-OpenSSH_9.2\r\n",
    "no-such-version": b"HTTP/3.7 200 OK\r\n\r\n",
    "bad-length": response(b"Content-Length: abc"),
    "two-lengths": response(b"Content-Length: 1", b"Content-Length: 2", body=b"ab"),
    "bad-chunk": response(b"Transfer-Encoding: chunked", body=b"xyz\r\n"),
    "unknown-coding": response(b"Transfer-Encoding: gzip", body=b"abc"),
    "gzip-chunked": response(b"Transfer-Encoding: gzip, chunked", body=b"0\r\n\r\n"),
    "101": response(b"Connection: upgrade", b"Upgrade: websocket", status=b"101 Switching Protocols"),
    "bare-lf-in-fields": b"HTTP/1.1 200 OK\r\nA: b\nContent-Length: 0\r\n\r\n",
    "nul": response(b"A: b\0c", b"Content-Length: 0"),
    "fields-too-long": response(b"A: " + b"a" * 70_000, b"Content-Length: 0"),
    "fields-too-many": response(*[b"A: b"] * 300, b"Content-Length: 0"),
    "head-without-end": b"HTTP/1.1 200 OK\r\n" + b"A: " + b"a" * 70_000,
}


@pytest.mark.parametrize("raw", BAD.values(), ids=BAD.keys())
def test_what_is_not_http_is_broken(run, raw: bytes) -> None:
    async def scene() -> None:
        async with app(says(raw)) as (client, _):
            failed = await outcome(client, GET)
            assert isinstance(failed, Failed)
            assert failed.failure is Failure.BROKEN
            assert failed.detail

    run(scene())


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"HTTP/1.1 200",
        response(b"Content-Length: 5", body=b"ab"),
        response(b"Transfer-Encoding: chunked", body=b"5\r\nab"),
    ],
    ids=["nothing", "status-line", "content-length", "chunked"],
)
@pytest.mark.parametrize("request_", [GET, POST], ids=["get", "post"])
@pytest.mark.parametrize("reset", [False, True], ids=["closed", "reset"])
def test_what_breaks_off_is_broken_and_not_repeated(run, raw: bytes, request_: HttpRequest, reset: bool) -> None:
    async def script(peer: Peer, _: int) -> None:
        await peer.request()
        peer.send(raw)
        await peer.writer.drain()
        if reset:
            peer.reset()
        else:
            await peer.close()

    async def scene() -> None:
        async with app(script) as (client, played):
            failed = await outcome(client, request_)
            assert isinstance(failed, Failed)
            assert failed.failure is Failure.BROKEN
            assert played.connections == 1

    run(scene())


def test_nobody_listens(run, free_port: int) -> None:
    async def scene() -> None:
        client = Client("127.0.0.1", free_port, max_response=1000)
        failed = await outcome(client, GET)
        assert isinstance(failed, Failed)
        assert failed.failure is Failure.REFUSED
        assert str(free_port) in failed.detail
        await client.close()

    run(scene())


def test_too_large_by_its_own_word_or_by_count(run) -> None:
    async def scene() -> None:
        for raw in (
            response(b"Content-Length: 1001"),
            response(body=b"x" * 1001),
            response(b"Transfer-Encoding: chunked", body=b"3e8\r\n" + b"x" * 1000 + b"\r\n1\r\nx\r\n"),
        ):
            async with app(says(raw)) as (client, _):
                failed = await outcome(client, GET)
                assert isinstance(failed, Failed)
                assert (failed.failure, failed.status) == (Failure.TOO_LARGE, 200)

    run(scene())


@pytest.mark.parametrize(
    ("raw", "failure"),
    [
        (b"", Failure.TIMEOUT),
        (b"HTTP/1.1 200 OK\r\nA: b\r\n", Failure.TIMEOUT),
        (b"HTTP/1.1 100 Continue\r\n\r\n", Failure.TIMEOUT),
        (response(b"Content-Length: 5", body=b"ab"), Failure.TOO_LARGE),
        (response(body=b"data: x\n\n"), Failure.TOO_LARGE),
    ],
    ids=["nothing", "half-a-head", "interim", "half-a-body", "stream"],
)
def test_no_whole_response_in_time(run, raw: bytes, failure: Failure) -> None:
    async def scene() -> None:
        async with app(says(raw)) as (client, played):
            failed = await outcome(client, GET, timeout=0.1)
            assert isinstance(failed, Failed)
            assert (failed.failure, failed.status) == (failure, 200 if failure is Failure.TOO_LARGE else None)
            await played.ended()  # the connection is gone, so nothing late is read as the next answer

    run(scene())


def test_connections_are_kept_and_the_last_used_comes_first(run) -> None:
    order: list[int] = []

    async def script(peer: Peer, number: int) -> None:
        while True:
            await peer.request()
            order.append(number)
            peer.send(OK)

    async def scene() -> None:
        async with app(script, idle_timeout=60.0) as (client, played):
            await asyncio.gather(outcome(client, GET), outcome(client, GET))
            assert played.connections == 2
            for _ in range(5):
                await outcome(client, POST)
            assert played.connections == 2
            assert len(set(order[2:])) == 1

    run(scene())


@pytest.mark.parametrize(
    "raw",
    [
        OK.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"),
        OK.replace(b"1.1", b"1.0"),
        OK.replace(b"\r\n\r\n", b"\r\nKeep-Alive: timeout=0\r\n\r\n"),
        OK + b"surplus",
        OK + OK,
        response(b"Content-Length: 2", b"Transfer-Encoding: chunked", body=b"2\r\nok\r\n0\r\n\r\n"),
    ],
    ids=["close", "http-1.0", "timeout-0", "surplus-bytes", "surplus-response", "both-lengths"],
)
def test_what_cannot_be_used_again_is_not(run, raw: bytes) -> None:
    async def scene() -> None:
        async with app(says(raw)) as (client, played):
            for expected in (1, 2):
                assert await outcome(client, POST) == HttpResponse(200, [], b"ok")
                assert played.connections == expected

    run(scene())


def test_a_body_behind_the_answer_to_head_is_not_the_next_answer(run) -> None:
    async def scene() -> None:
        async with app(says(OK.replace(b"ok", b"no"), OK)) as (client, played):
            assert (await outcome(client, HEAD)) == HttpResponse(200, [(b"Content-Length", b"2")])
            assert (await outcome(client, GET)) == HttpResponse(200, [], b"no")
            assert played.connections == 2

    run(scene())


def test_head_keeps_the_connection(run) -> None:
    async def scene() -> None:
        async with app(says(response(b"Content-Length: 9"), OK), idle_timeout=60.0) as (client, played):
            assert (await outcome(client, HEAD)) == HttpResponse(200, [(b"Content-Length", b"9")])
            assert (await outcome(client, GET)) == HttpResponse(200, [], b"ok")
            assert played.connections == 1

    run(scene())


def test_idle_connections_are_dropped(run) -> None:
    async def scene() -> None:
        async with app(says(OK), idle_timeout=0.05) as (client, played):
            assert await outcome(client, GET) == HttpResponse(200, [], b"ok")
            await played.ended()
            assert played.connections == 1

    run(scene())


def test_the_apps_keep_alive_timeout_is_honoured(run) -> None:
    async def scene() -> None:
        async with app(
            says(OK.replace(b"\r\n\r\n", b"\r\nKeep-Alive: max=5, timeout=30\r\n\r\n")), idle_timeout=60.0
        ) as (client, _):
            await outcome(client, GET)
            (kept,) = client._idle
            assert 14.0 < kept.idle_until - asyncio.get_running_loop().time() < 15.1

    run(scene())


@pytest.mark.parametrize("method", [b"GET", b"HEAD", b"PUT", b"DELETE", b"OPTIONS", b"TRACE"])
def test_a_kept_connection_found_closed_is_repeated_once_where_that_is_safe(run, method: bytes) -> None:
    async def script(peer: Peer, number: int) -> None:
        await peer.request()
        if number == 0:
            peer.send(OK)
            await peer.request()
            peer.reset()
        else:
            peer.send(OK.replace(b"ok", b"") if method == b"HEAD" else OK)

    async def scene() -> None:
        async with app(script, idle_timeout=60.0) as (client, played):
            await outcome(client, GET)
            answer = await outcome(client, GET._replace(method=method))
            assert isinstance(answer, HttpResponse)
            assert played.connections == 2

    run(scene())


def test_it_is_repeated_only_once(run) -> None:
    async def script(peer: Peer, number: int) -> None:
        await peer.request()
        if number == 0:
            peer.send(OK)
            await peer.request()
        peer.reset()

    async def scene() -> None:
        async with app(script, idle_timeout=60.0) as (client, played):
            await outcome(client, GET)
            failed = await outcome(client, GET)
            assert isinstance(failed, Failed)
            assert failed.failure is Failure.BROKEN
            assert played.connections == 2

    run(scene())


@pytest.mark.parametrize(("method", "begun"), [(b"POST", b""), (b"PATCH", b""), (b"GET", b"HTTP/1.1 2")])
@pytest.mark.parametrize("reset", [False, True], ids=["closed", "reset"])
def test_an_unknown_outcome_is_not_repeated(run, method: bytes, begun: bytes, reset: bool) -> None:
    async def script(peer: Peer, number: int) -> None:
        await peer.request()
        peer.send(OK)
        await peer.request()
        peer.send(begun)
        await peer.writer.drain()
        if reset:
            peer.reset()
        else:
            await peer.close()

    async def scene() -> None:
        async with app(script, idle_timeout=60.0) as (client, played):
            await outcome(client, GET)
            failed = await outcome(client, GET._replace(method=method))
            assert isinstance(failed, Failed)
            assert failed.failure is Failure.BROKEN
            assert played.connections == 1

    run(scene())


def test_an_answer_before_the_body_was_read_is_taken(run) -> None:
    async def script(peer: Peer, _: int) -> None:
        await peer.head()
        peer.send(response(b"Content-Length: 0", status=b"413 Too Large"))
        await peer.writer.drain()

    async def scene() -> None:
        async with app(script) as (client, played):
            for expected in (1, 2):
                assert await outcome(client, POST._replace(body=b"x" * 20_000_000)) == HttpResponse(413, [])
                assert played.connections == expected

    run(scene())


def test_cancelling_drops_the_connection(run) -> None:
    asked = asyncio.Event()

    async def script(peer: Peer, number: int) -> None:
        await peer.request()
        asked.set()
        if number:
            peer.send(OK)

    async def scene() -> None:
        async with app(script) as (client, played):
            future, cancel = ask(client, GET)
            await within(asked.wait())
            cancel()
            cancel()
            failed = await within(future)
            assert isinstance(failed, Failed)
            assert failed.failure is Failure.CANCELLED
            await played.ended()
            assert await outcome(client, GET) == HttpResponse(200, [], b"ok")
            assert played.connections == 2

    run(scene())


def test_cancelling_before_the_connection_is_made(run) -> None:
    async def scene() -> None:
        async with app(says(OK)) as (client, _):
            future, cancel = ask(client, GET)
            cancel()
            failed = await within(future)
            assert isinstance(failed, Failed)
            assert failed.failure is Failure.CANCELLED

    run(scene())


def test_cancelling_after_the_answer_does_nothing(run) -> None:
    async def scene() -> None:
        async with app(says(OK, OK), idle_timeout=60.0) as (client, played):
            future, cancel = ask(client, GET)
            assert await within(future) == HttpResponse(200, [], b"ok")
            cancel()
            assert await outcome(client, GET) == HttpResponse(200, [], b"ok")
            assert played.connections == 1

    run(scene())


def test_more_connections_than_allowed_are_refused(run) -> None:
    async def scene() -> None:
        async with app(says(b""), max_connections=2) as (client, played):
            running = [ask(client, GET) for _ in range(2)]
            failed = await outcome(client, GET)
            assert isinstance(failed, Failed)
            assert failed.failure is Failure.REFUSED
            assert played.connections <= 2
            for _, cancel in running:
                cancel()

    run(scene())


def test_a_connection_that_is_over_makes_room_at_once(run) -> None:
    """An app that closes after each answer, asked again from within the answer."""

    async def scene() -> None:
        closing = response(b"Connection: close", b"Content-Length: 0")
        async with app(says(closing, then_close=True), max_connections=1) as (client, _):
            answers: list[HttpResponse | Failed] = []
            over = asyncio.Event()

            def next_one(answer: HttpResponse | Failed) -> None:
                answers.append(answer)
                if len(answers) == 3:
                    over.set()
                else:
                    client.request(GET, PATIENCE, next_one)

            client.request(GET, PATIENCE, next_one)
            await within(over.wait())
            assert [type(each) for each in answers] == [HttpResponse] * 3

    run(scene())


def test_close_cancels_what_runs_and_refuses_what_comes(run) -> None:
    async def scene() -> None:
        async with app(says(b"")) as (client, _):
            running, connecting = ask(client, GET)[0], ask(client, POST)[0]
            await within(client.close())
            for future in (running, connecting):
                failed = await within(future)
                assert isinstance(failed, Failed)
                assert failed.failure is Failure.CANCELLED
            failed = await outcome(client, GET)
            assert isinstance(failed, Failed)
            assert failed.failure is Failure.REFUSED

    run(scene())


@pytest.mark.parametrize(
    "request_",
    [
        GET._replace(headers=[(b"A", b"b\r\nX: y")]),
        GET._replace(headers=[(b"A\n", b"b")]),
        GET._replace(headers=[(b"A", b"b\0")]),
        GET._replace(target=b"/ HTTP/1.1\r\nX: y"),
        GET._replace(target=b"/a b"),
    ],
)
def test_never_splits_a_request(run, request_: HttpRequest) -> None:
    async def scene() -> None:
        async with app(says(OK)) as (client, played):
            failed = await outcome(client, request_)
            assert isinstance(failed, Failed)
            assert failed.failure is Failure.BROKEN
            assert played.connections == 0

    run(scene())


def test_against_our_own_server(run) -> None:
    async def scene() -> None:
        async with serving(echo) as (_, port):
            client = Client("127.0.0.1", port, max_response=1000)
            answers = await asyncio.gather(
                *(outcome(client, POST._replace(target=b"/%d" % i, body=b"%d" % i)) for i in range(100))
            )
            for i, answer in enumerate(answers):
                assert answer == HttpResponse(200, [(b"Method", b"POST"), (b"Target", b"/%d" % i)], b"%d" % i)
            await client.close()

    run(scene())
