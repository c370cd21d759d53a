"""What must hold for any bytes: the server never breaks, and how they are cut into pieces changes nothing."""

import h11
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from meshq.adapters.http_connection import Connection
from meshq.core.http import HttpRequest
from meshq.ports import Exchange
from tests.corpus.malformed_http import CASES
from tests.http_tools import MemoryTransport, echo, in_memory

STREAM = (
    b"GET /1?a=b HTTP/1.1\r\nHost: a\r\nX:  y \r\n\r\n"
    b"\r\nPOST /2 HTTP/1.1\r\nHost: a\r\nContent-Length: 12\r\n\r\nhello\r\n\r\nyou"
    b"POST /3 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5;x=y\r\nhello\r\n06\r\n world\r\n0\r\nT: r\r\n\r\n"
    b"PUT http://a/4 HTTP/1.1\r\nHost: A\r\nContent-Length: 0\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\n"
    b"HEAD /5 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
)


def feed(connection: Connection, transport: MemoryTransport, pieces: list[bytes]) -> None:
    for piece in pieces:
        if transport.closed:
            break
        connection.data_received(piece)
    if not transport.closed:
        connection.eof_received()
    connection.connection_lost(None)


def requests_of(pieces: list[bytes]) -> tuple[list[HttpRequest], bytes]:
    """What the handler sees of a stream that comes in `pieces`, and what is answered."""
    seen: list[HttpRequest] = []

    def handler(exchange: Exchange) -> None:
        seen.append(exchange.request)
        echo(exchange)

    connection, transport = in_memory(handler)
    feed(connection, transport, pieces)
    return seen, bytes(transport.written)


def test_a_stream_cut_anywhere_is_the_same_stream() -> None:
    whole, answers = requests_of([STREAM])
    assert [request.target for request in whole] == [b"/1?a=b", b"/2", b"/3", b"http://a/4", b"/5"]
    assert [request.body for request in whole] == [None, b"hello\r\n\r\nyou", b"hello world", b"", None]
    assert requests_of([STREAM[i : i + 1] for i in range(len(STREAM))]) == (whole, answers)
    for cut in range(1, len(STREAM)):
        assert requests_of([STREAM[:cut], STREAM[cut:]]) == (whole, answers)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_malformed_request_is_refused_alike_however_it_is_cut(case) -> None:
    def status(pieces: list[bytes]) -> bytes:
        seen, written = requests_of(pieces)
        assert seen == []
        return written[:12]

    expected = b"" if case.status is None else b"HTTP/1.1 %d" % case.status
    assert status([case.raw]) == expected
    byte_by_byte = status([case.raw[i : i + 1] for i in range(len(case.raw))])
    if case.name in EARLIER_BY_BYTES:
        assert byte_by_byte[9:10] == b"4"
    else:
        assert byte_by_byte == expected


# Before their line is whole it cannot be known that it will also be of another version, or how long it will be.
EARLIER_BY_BYTES = frozenset({"fields-too-long-together"})

FRAGMENTS = st.sampled_from(
    [
        b"GET / HTTP/1.1\r\n", b"POST /a HTTP/1.1\r\n", b"CONNECT a:1 HTTP/1.1\r\n", b"HTTP/1.0\r\n", b"Host: a\r\n", b"\r\n",
        b"Content-Length: 5\r\n", b"Transfer-Encoding: chunked\r\n", b"Expect: 100-continue\r\n", b"Connection: close\r\n",
        b"Upgrade: x\r\n", b"hello", b"5\r\nhello\r\n", b"0\r\n\r\n", b"\n", b"\r", b" ", b"\t", b":", b";", b"\0", b"\xff",
    ]
)  # fmt: skip
SOUP = st.lists(st.one_of(FRAGMENTS, st.binary(max_size=20)), max_size=30)


@given(SOUP)
@example([b"\r"])
@example([b"\r", b"\n", b"\r"])
@example([b"GET / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n", b"hel"])
def test_no_bytes_break_the_server(pieces: list[bytes]) -> None:
    seen, written = requests_of(pieces)
    answers = written.count(b"HTTP/1.1 200 OK\r\nMethod")
    assert answers == len(seen)
    whole, _ = requests_of([b"".join(pieces)])
    # A refusal may come earlier in a stream that comes in pieces, but nothing else is made of it.
    assert seen == whole


TOKEN = st.text("abcdefghijklmnopqrstuvwxyzABCXYZ0123456789!#$%&'*+-.^_`|~", min_size=1, max_size=20).map(str.encode)
OURS = frozenset({b"host", b"content-length", b"transfer-encoding", b"connection", b"expect", b"upgrade"})
VALUE = st.text(st.characters(min_codepoint=0x21, max_codepoint=0xFF, exclude_characters="\x7f"), max_size=30).map(
    lambda text: "".join(c for c in text if not 0x7F <= ord(c) < 0xA1).encode("latin-1")
)
FRAMING = frozenset({b"Content-Length", b"Transfer-Encoding"})
FIELD = st.tuples(TOKEN.filter(lambda name: name.lower() not in OURS), VALUE)
TARGET = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E, exclude_characters="#"), max_size=40).map(
    lambda text: b"/" + text.encode()
)
METHOD = st.sampled_from([b"GET", b"POST", b"PUT", b"DELETE", b"PATCH", b"OPTIONS", b"HEAD", b"QUERY", b"PROPFIND"])
BODY = st.one_of(st.none(), st.binary(max_size=200))


@st.composite
def valid_requests(draw: st.DrawFn) -> tuple[HttpRequest, bytes]:
    """A request, and one of the ways to write it."""
    method, target, body = draw(METHOD), draw(TARGET), draw(BODY)
    headers = [(draw(st.sampled_from([b"Host", b"host", b"HOST"])), b"localhost"), *draw(st.lists(FIELD, max_size=8))]
    payload = body or b""
    if body is not None:
        if draw(st.booleans()):
            headers.append((b"Content-Length", b"%d" % len(body)))
        else:
            headers.append((b"Transfer-Encoding", b"chunked"))
            payload = _chunks(draw, body)
    headers = draw(st.permutations(headers))
    # A tab behind a framing field's value is refused: right by the grammar, but used only to smuggle.
    spaces = {
        name: draw(st.sampled_from([b"", b" ", b"   "] if name in FRAMING else [b"", b" ", b"\t "]))
        for name, _ in headers
    }
    lines = b"".join(name + b":" + spaces[name] + value + spaces[name] + b"\r\n" for name, value in headers)
    return (
        HttpRequest(method, target, headers, body),
        method + b" " + target + b" HTTP/1.1\r\n" + lines + b"\r\n" + payload,
    )


def _chunks(draw: st.DrawFn, body: bytes) -> bytes:
    parts = []
    while body:
        size = draw(st.integers(1, len(body)))
        extension = draw(st.sampled_from([b"", b";a", b";a=b", b';a="b c"']))
        parts.append(draw(st.sampled_from([b"%x", b"%X", b"0%x"])) % size + extension + b"\r\n" + body[:size] + b"\r\n")
        body = body[size:]
    trailer = draw(st.sampled_from([b"", b"A: b\r\n"]))
    return b"".join(parts) + b"0\r\n" + trailer + b"\r\n"


@given(st.lists(valid_requests(), min_size=1, max_size=4), st.integers(1, 50))
def test_any_valid_request_arrives_as_it_was_meant(requests: list[tuple[HttpRequest, bytes]], step: int) -> None:
    raw = b"".join(text for _, text in requests)
    expected = [request for request, _ in requests]
    assert requests_of([raw])[0] == expected
    assert requests_of([raw[i : i + step] for i in range(0, len(raw), step)])[0] == expected


def h11_reading(raw: bytes) -> HttpRequest:
    """The first request of `raw` as h11 reads it."""
    parser = h11.Connection(h11.SERVER, max_incomplete_event_size=1_000_000)
    parser.receive_data(raw)
    request = parser.next_event()
    assert isinstance(request, h11.Request), request
    body = b""
    while isinstance(event := parser.next_event(), h11.Data):
        body += event.data
    assert isinstance(event, h11.EndOfMessage), event
    headers = [(bytes(name), bytes(value)) for name, value in request.headers.raw_items()]
    return HttpRequest(request.method, request.target, headers, body)


def assert_h11_agrees(raw: bytes, request: HttpRequest) -> None:
    theirs = h11_reading(raw)
    assert (theirs.method, theirs.target, theirs.body) == (request.method, request.target, request.body or b"")
    assert theirs.headers == request.headers


@given(valid_requests())
def test_h11_reads_a_valid_request_alike(generated: tuple[HttpRequest, bytes]) -> None:
    _, raw = generated
    (request,), _ = requests_of([raw])
    assert_h11_agrees(raw, request)


MUTATION = st.tuples(
    st.integers(0, 10_000), st.sampled_from(["drop", "double", "insert"]), st.binary(min_size=1, max_size=2)
)


@given(st.one_of(valid_requests().map(lambda pair: pair[1]), st.sampled_from([c.raw for c in CASES])), MUTATION)
def test_whatever_is_accepted_h11_accepts_alike(raw: bytes, mutation: tuple[int, str, bytes]) -> None:
    place, kind, extra = mutation
    place %= len(raw)
    middle = {"drop": b"", "double": raw[place : place + 1] * 2, "insert": extra + raw[place : place + 1]}[kind]
    mutated = raw[:place] + middle + raw[place + 1 :]
    seen, _ = requests_of([mutated])
    if seen:
        assert_h11_agrees(mutated.removeprefix(b"\r\n"), seen[0])
