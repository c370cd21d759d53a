"""How a response is written: the framing is ours, whatever the handler's headers say of it. No I/O here.

A header that could end early and begin a second response is never written; the answer is a 502 instead.
"""

import json
from functools import lru_cache
from http import HTTPStatus

from meshq.core.errors import PROBLEM_TYPE, Code, Problem
from meshq.core.http import Headers, HttpResponse, header

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"

_STATUS_LINES = {s.value: b"HTTP/1.1 %d %b\r\n" % (s.value, s.phrase.encode()) for s in HTTPStatus}
_FRAMING = frozenset({b"content-length", b"transfer-encoding", b"connection", b"keep-alive"})
_TOKEN_BYTES = b"!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"


def render(response: HttpResponse, method: bytes, minor: int, close: bool) -> tuple[bytes, bytes]:
    """The head and the body of `response` on the wire, for a request of `method` in HTTP/1.<minor>."""
    head = _head(response, method, minor, close)
    if head is None:
        response = Problem(Code.BAD_GATEWAY, "the answer has a status or a header that cannot be sent").as_response()
        head = _head(response, method, minor, close) or b""
    if method == b"HEAD" or response.status in (204, 304):
        return head, b""
    return head, response.body


def _head(response: HttpResponse, method: bytes, minor: int, close: bool) -> bytes | None:
    """None where a line of it would not be one line, or where no client would take it for the answer."""
    status, headers, _ = response
    if not 200 <= status <= 999:
        return None
    lines = [_STATUS_LINES.get(status) or b"HTTP/1.1 %d \r\n" % status]
    for name, value in headers:
        begin = _begin(name)
        if begin:
            lines.append(b"%b%b\r\n" % (begin, value))
        elif begin is None:
            return None
    length = _content_length(response, method)
    if length is not None:
        lines.append(b"Content-Length: %b\r\n" % length)
    if close:
        lines.append(b"Connection: close\r\n")
    elif minor == 0:
        lines.append(b"Connection: keep-alive\r\n")
    head = b"".join(lines)
    if head.count(b"\n") != len(lines) or head.count(b"\r") != len(lines) or b"\0" in head:
        return None
    return head + b"\r\n"


@lru_cache(maxsize=4096)
def _begin(name: bytes) -> bytes | None:
    """How a field line of this name begins: b"" for a field that the server writes itself, None where it is no name. The same
    names come with every response."""
    if not name or name.translate(None, _TOKEN_BYTES):
        return None
    return b"" if name.lower() in _FRAMING else name + b": "


def _content_length(response: HttpResponse, method: bytes) -> bytes | None:
    if response.status == 204:
        return None
    if method == b"HEAD" or response.status == 304:
        # There is no body to count: the length is what a GET would get, if the handler knows.
        given = header(response.headers, b"content-length")
        if given is not None and given.isdigit():
            return given
        if not response.body:
            return None
    return b"%d" % len(response.body)


def switching(protocol: str) -> bytes:
    """The head that ends HTTP on a connection."""
    return b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: %b\r\n\r\n" % protocol.encode()


def refusal(status: int, detail: str) -> HttpResponse:
    """The problem for a request that the server itself refuses. The table of codes has one status per code; the finer
    ones of HTTP's own (408, 414, 417, 431, 501, 505) go out under `bad-request`."""
    if status == 413:
        return Problem(Code.TOO_LARGE, detail).as_response()
    response = Problem(Code.BAD_REQUEST, detail).as_response()
    if status == response.status:
        return response
    body = json.loads(response.body)
    body["status"] = status
    body["title"] = HTTPStatus(status).phrase
    return HttpResponse(status, response.headers, json.dumps(body, ensure_ascii=False).encode())


def internal_error() -> HttpResponse:
    """The answer when a handler raised: our fault, about which a client learns nothing more."""
    body = {"type": PROBLEM_TYPE + "internal", "title": "Internal error", "status": 500, "retryable": False}
    headers: Headers = [(b"Content-Type", b"application/problem+json")]
    return HttpResponse(500, headers, json.dumps(body).encode())
