"""No request of the corpus reaches a handler, and none harms the server."""

import asyncio

import h11
import pytest

from meshq.adapters.http_server import Limits
from meshq.ports import Exchange
from tests.corpus.malformed_http import CASES, Case
from tests.http_tools import LOOPS, connected, echo, serving

GOOD = b"POST /good HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\nok"


@pytest.fixture(params=LOOPS.values(), ids=LOOPS.keys())
def run(request):
    return request.param


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_is_refused(run, case: Case) -> None:
    seen: list[Exchange] = []

    def handler(exchange: Exchange) -> None:
        if exchange.request.target != b"/good":
            seen.append(exchange)
        echo(exchange)

    async def scene() -> None:
        async with serving(handler) as (_, port):
            async with connected(port) as peer:
                peer.send(case.raw)
                if case.status is None:
                    peer.writer.write_eof()
                    assert await peer.rest() == b""
                else:
                    answer = await peer.answer()
                    assert answer.status == case.status, answer.body
                    assert answer.get(b"connection") == b"close"
                    assert answer.get(b"content-type") == b"application/problem+json"
                    assert b'"detail": "' in answer.body
                    assert b'"status": %d' % case.status in answer.body
                    peer.writer.write_eof()
                    assert await peer.rest() == b""
            async with connected(port) as peer:
                peer.send(GOOD)
                assert (await peer.answer()).body == b"ok"
        assert seen == []

    run(scene())


@pytest.mark.parametrize("case", [c for c in CASES if c.status is not None], ids=lambda case: case.name)
def test_is_refused_behind_a_good_request_and_takes_nothing_after_it(case: Case) -> None:
    targets: list[bytes] = []

    def handler(exchange: Exchange) -> None:
        targets.append(exchange.request.target)
        echo(exchange)

    async def scene() -> None:
        async with serving(handler) as (_, port), connected(port) as peer:
            peer.send(GOOD + case.raw + GOOD)
            assert (await peer.answer()).body == b"ok"
            assert (await peer.answer()).status == case.status
            peer.writer.write_eof()
            assert await peer.rest() == b""
        assert targets == [b"/good"]

    asyncio.run(scene())


def h11_accepts(raw: bytes) -> bool:
    parser = h11.Connection(h11.SERVER)
    try:
        parser.receive_data(raw)
        while True:
            event = parser.next_event()
            if event is h11.NEED_DATA or isinstance(event, h11.ConnectionClosed):
                return False
            if isinstance(event, h11.EndOfMessage):
                return True
    except h11.RemoteProtocolError:
        return False


def test_the_corpus_is_wider_than_a_second_parsers_strictness() -> None:
    refused_by_both = [case.name for case in CASES if not h11_accepts(case.raw)]
    assert len(refused_by_both) > 80
    assert len({case.name for case in CASES}) == len(CASES)
    assert len({case.raw for case in CASES}) == len(CASES)


def test_limits_are_taken_from_the_settings() -> None:
    limits = Limits(max_body=3, max_line=40, max_headers=2, max_header_bytes=60)
    cases = {
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\n": 413,
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n2\r\ncd\r\n0\r\n\r\n": 413,
        b"GET /" + b"a" * 40 + b" HTTP/1.1\r\nHost: a\r\n\r\n": 414,
        b"GET / HTTP/1.1\r\nHost: a\r\nB: b\r\nC: c\r\n\r\n": 431,
        b"GET / HTTP/1.1\r\nHost: a\r\nB: " + b"b" * 40 + b"\r\n\r\n": 431,
        b"GET / HTTP/1.1\r\nHost: " + b"a" * 30 + b"\r\nB: " + b"b" * 30 + b"\r\n\r\n": 431,
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc": 200,
    }

    async def scene() -> None:
        async with serving(echo, limits) as (_, port):
            for raw, status in cases.items():
                async with connected(port) as peer:
                    peer.send(raw)
                    assert (await peer.answer()).status == status, raw

    asyncio.run(scene())
