"""The differential test's own check: httpbin compared with itself differs in nothing, and planted differences are found."""

import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.e2e.differential import (
    ADDED_TO_RESPONSES,
    BadResponse,
    Case,
    Flag,
    Response,
    Way,
    app_host,
    compare,
    exchange,
    render,
)
from tests.e2e.httpbin_cases import CASES

HOST = app_host(Way.PATH, 0)


@pytest.fixture(scope="module")
def httpbin(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """The port of a real httpbin. The socket listens before gunicorn has it, so there is nothing to wait for."""
    log = tmp_path_factory.mktemp("httpbin") / "gunicorn.log"
    with socket.create_server(("127.0.0.1", 0)) as listener, log.open("wb") as output:
        command = [
            "gunicorn",
            "--bind",
            f"fd://{listener.fileno()}",
            "--threads",
            "8",
            "--no-control-socket",
            "httpbin:app",
        ]
        server = subprocess.Popen(
            [sys.executable, "-m", *command], pass_fds=[listener.fileno()], stdout=output, stderr=output, cwd=log.parent
        )
        try:
            yield int(listener.getsockname()[1])
        finally:
            server.terminate()
            server.wait(20)


def direct(port: int, path: str, method: str = "GET", host: str = HOST) -> Response:
    return exchange(Case("planted", method, path), Way.DIRECT, port, host)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name[:60])
def test_the_same_request_twice_shows_no_difference(httpbin: int, case: Case) -> None:
    first, second = (exchange(case, Way.DIRECT, httpbin, HOST) for _ in range(2))
    assert compare(first, second, Way.DIRECT) == []


def test_names_of_cases_are_unique() -> None:
    assert len({case.name for case in CASES}) == len(CASES) >= 90


def with_header(response: Response, name: bytes, change: Callable[[bytes], bytes | None]) -> Response:
    """The response with every value of a header changed, or with the header left out."""
    changed = [(n, change(v) if n.lower() == name else v) for n, v in response.headers]
    return response._replace(headers=[(n, v) for n, v in changed if v is not None])


def meshed(response: Response, extra: bytes = b"") -> Response:
    """The response as it comes through the mesh: with its three headers, and an echo showing what it adds to requests."""
    added = [(b"Meshq-Message-Id", b"m-1"), (b"Meshq-Served-By", b"httpbin/0.10.4/i-1"), (b"Meshq-Attempt", b"1")]
    echo = response.body.replace(
        b'"Host": "httpbin.mesh"', b'"Host": "httpbin.mesh", \n    "Meshq-Attempt": "1"' + extra
    )
    echo = echo.replace(b'mesh", \n', b'mesh",\n')
    framed = with_header(response, b"content-length", lambda _: str(len(echo)).encode())
    return framed._replace(headers=[*framed.headers, *added], body=echo)


def test_what_the_mesh_may_add_is_no_difference(httpbin: int) -> None:
    for path in ("/html", "/headers", "/get?a=1", "/status/404"):
        response = direct(httpbin, path)
        assert compare(response, meshed(response), Way.PATH) == []


def test_what_the_mesh_may_add_is_a_difference_without_a_mesh(httpbin: int) -> None:
    response = direct(httpbin, "/headers")
    found = compare(response, meshed(response), Way.DIRECT)
    assert [difference.split(":")[0] for difference in found[:3]] == [
        "header meshq-attempt",
        "header meshq-message-id",
        "header meshq-served-by",
    ]
    assert found[3].startswith("body of")


def test_a_missing_or_doubled_header_of_the_mesh_is_found(httpbin: int) -> None:
    response = direct(httpbin, "/html")
    whole = meshed(response)
    without = with_header(whole, b"meshq-attempt", lambda _: None)
    doubled = whole._replace(headers=[*whole.headers, (b"meshq-served-by", b"again")])
    assert compare(response, without, Way.HOST) == ["the mesh's meshq-attempt is not there just once"]
    assert compare(response, doubled, Way.HOST) == ["the mesh's meshq-served-by is not there just once"]


def test_another_header_in_an_echo_is_found(httpbin: int) -> None:
    response = direct(httpbin, "/headers")
    found = compare(response, meshed(response, b',\n    "X-Slipped-In": "1"'), Way.PATH)
    assert len(found) == 1
    assert "X-Slipped-In" in found[0]


ADDED = (("Meshq-Caller", "shopper"), ("Tracestate", "mesh=1"), ("Idempotency-Key", "m-1"), ("Traceparent", "00-1"))
TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


def echoed(port: int, *headers: tuple[str, str], chunked: bool = False, raw: frozenset[Flag] = frozenset()) -> Response:
    """httpbin's echo of a POST with these headers: what it says depends on them and on the framing only."""
    return exchange(Case("echo", "POST", "/post", headers, b"same", chunked, raw), Way.DIRECT, port, HOST)


def through_mesh(response: Response) -> Response:
    return response._replace(headers=[*response.headers, *((name, b"1") for name in ADDED_TO_RESPONSES)])


def test_request_headers_that_the_mesh_adds_and_its_framing_are_no_difference(httpbin: int) -> None:
    arrived = through_mesh(echoed(httpbin, *ADDED))
    expecting = frozenset[Flag]({"expect-continue"})
    for sent in (echoed(httpbin), echoed(httpbin, chunked=True), echoed(httpbin, raw=expecting)):
        assert compare(sent, arrived, Way.PROXY) == []
    assert (
        compare(
            echoed(httpbin, ("Traceparent", TRACE)), through_mesh(echoed(httpbin, ("Traceparent", TRACE))), Way.PORT
        )
        == []
    )


def test_the_framing_of_a_request_may_not_change_without_need(httpbin: int) -> None:
    assert len(compare(echoed(httpbin), through_mesh(echoed(httpbin, chunked=True)), Way.PORT)) == 1


@pytest.mark.parametrize("name", ["Meshq-Key", "Tracestate", "Idempotency-Key"])
def test_a_header_that_the_caller_sent_may_be_neither_changed_nor_lost(httpbin: int, name: str) -> None:
    sent = echoed(httpbin, (name, "the caller's"))
    for arrived in (echoed(httpbin, (name, "another")), echoed(httpbin)):
        assert len(compare(sent, through_mesh(arrived), Way.PATH)) == 1


def test_a_trace_goes_on_under_its_id(httpbin: int) -> None:
    sent = echoed(httpbin, ("Traceparent", TRACE))
    next_span = echoed(httpbin, ("Traceparent", TRACE.replace("00f067aa0ba902b7", "b7ad6b7169203331")))
    other_trace = echoed(httpbin, ("Traceparent", TRACE.replace("4bf92f3577b34da6", "0af7651916cd43dd")))
    assert compare(sent, through_mesh(next_span), Way.PATH) == []
    assert len(compare(sent, through_mesh(other_trace), Way.PATH)) == 1
    assert len(compare(sent, next_span, Way.DIRECT)) == 1


def test_a_changed_status_is_found(httpbin: int) -> None:
    response = direct(httpbin, "/status/201")
    assert compare(response, response._replace(status=200), Way.DIRECT) == ["status 201 became 200"]


def test_a_dropped_header_is_found(httpbin: int) -> None:
    response = direct(httpbin, "/etag/abc")
    assert compare(response, with_header(response, b"etag", lambda _: None), Way.DIRECT) == [
        "header etag: [b'abc'] became None"
    ]


def test_a_lost_content_length_is_found(httpbin: int) -> None:
    response = direct(httpbin, "/html", "HEAD")
    assert len(compare(response, with_header(response, b"content-length", lambda _: b"0"), Way.DIRECT)) == 1


@pytest.mark.parametrize("path", ["/bytes/5000?seed=4", "/get?a=1", "/stream/3", "/image/png"])
def test_one_changed_byte_is_found_wherever_it_is(httpbin: int, path: str) -> None:
    response = direct(httpbin, path)
    size = len(response.body)
    for at in (0, 1, size // 3, size // 2, size - 2, size - 1):
        changed = response.body[:at] + bytes([response.body[at] ^ 1]) + response.body[at + 1 :]
        found = compare(response, response._replace(body=changed), Way.DIRECT)
        assert len(found) == 1
        assert found[0].startswith(f"body of {size} bytes became {size}, at {at}:")


def test_a_shortened_body_is_found(httpbin: int) -> None:
    response = direct(httpbin, "/stream-bytes/5000?seed=4")
    found = compare(response, response._replace(body=response.body[:-1]), Way.DIRECT)
    assert [difference[:37] for difference in found] == ["body of 5000 bytes became 4999, at 49"]


def test_merged_and_reordered_repeats_of_a_header_are_found(httpbin: int) -> None:
    response = direct(httpbin, "/response-headers?X-Many=1&X-Many=2")
    others = [(name, value) for name, value in response.headers if name != b"X-Many"]
    merged = response._replace(headers=[*others, (b"X-Many", b"1, 2")])
    reordered = response._replace(headers=[*others, (b"X-Many", b"2"), (b"X-Many", b"1")])
    elsewhere = response._replace(headers=[(b"x-many", b"1"), *others, (b"x-many", b"2")])
    assert len(compare(response, merged, Way.DIRECT)) == 1
    assert len(compare(response, reordered, Way.DIRECT)) == 1
    assert compare(response, elsewhere, Way.DIRECT) == []


def test_a_random_value_of_another_shape_is_found(httpbin: int) -> None:
    uuid, challenge = direct(httpbin, "/uuid"), direct(httpbin, "/digest-auth/auth/ada/secret")
    upper = uuid._replace(body=uuid.body.replace(b"uuid", b"UUID"))
    unquoted = with_header(challenge, b"www-authenticate", lambda value: value.replace(b'opaque="', b"opaque=", 1))
    assert len(compare(uuid, upper, Way.DIRECT)) == 1
    assert len(compare(challenge, unquoted, Way.DIRECT)) == 1


def test_another_host_is_found(httpbin: int) -> None:
    first, second = direct(httpbin, "/absolute-redirect/2"), direct(httpbin, "/absolute-redirect/2", host="other.mesh")
    assert any(difference.startswith("header location:") for difference in compare(first, second, Way.DIRECT))


def test_each_way_says_where_to_in_its_own_manner() -> None:
    case = Case("any", "PUT", "/a//b/..%2f?", (("X-A", "1"), ("X-A", "2")), b"ab", chunked=True)
    heads = {way: render(case, way, app_host(way, 3600))[0].split(b"\r\n") for way in Way}
    assert {way: lines[0] for way, lines in heads.items()} == {
        Way.DIRECT: b"PUT /a//b/..%2f? HTTP/1.1",
        Way.PATH: b"PUT /v1/call/httpbin@0/a//b/..%2f? HTTP/1.1",
        Way.HOST: b"PUT /a//b/..%2f? HTTP/1.1",
        Way.PROXY: b"PUT http://httpbin.mesh/a//b/..%2f? HTTP/1.1",
        Way.PORT: b"PUT /a//b/..%2f? HTTP/1.1",
    }
    assert {way: lines[1] for way, lines in heads.items()} == {
        Way.DIRECT: b"Host: localhost:3600",
        Way.PATH: b"Host: localhost",
        Way.HOST: b"Host: httpbin.localhost:3600",
        Way.PROXY: b"Host: httpbin.mesh",
        Way.PORT: b"Host: localhost:3600",
    }
    for lines in heads.values():
        assert lines[2:] == [b"X-A: 1", b"X-A: 2", b"Transfer-Encoding: chunked", b"", b""]
    assert render(case, Way.DIRECT, "x")[1] == b"1\r\na\r\n1\r\nb\r\n0\r\n\r\n"


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nshort",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nlong",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n",
        b"HTTP/1.1 204 No Content\r\n\r\nbut some",
        b"HTTP/1.1 200 OK\r\nX-Folded: a\r\n b\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\nContent-Length: 0\n\n",
        b"HTTP/2 200\r\n\r\n",
        b"",
    ],
)
def test_what_is_not_http_is_refused(answer: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(answer)

        with ThreadPoolExecutor(1) as pool:
            served = pool.submit(serve)
            with pytest.raises(BadResponse):
                exchange(Case("any", "GET", "/"), Way.DIRECT, port, "x")
            served.result(10)
