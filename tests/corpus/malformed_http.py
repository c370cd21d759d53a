"""Requests that a strict HTTP/1.1 server must not take: attacks seen in the wild, and what breaks one rule of RFC 9110 or 9112.

Data only: each case is fed to the server as it stands, and must be answered with `status` (or cut off, where it is None)
without any handler seeing it. Sizes suit the default Limits.
"""

from typing import NamedTuple


class Case(NamedTuple):
    name: str
    raw: bytes
    status: int | None
    """What it is refused with; None: the connection just ends."""


_HOST = b"Host: localhost\r\n"


def _get(*lines: bytes) -> bytes:
    return b"GET / HTTP/1.1\r\n" + _HOST + b"".join(line + b"\r\n" for line in lines) + b"\r\n"


def _post(*lines: bytes, body: bytes = b"") -> bytes:
    return b"POST / HTTP/1.1\r\n" + _HOST + b"".join(line + b"\r\n" for line in lines) + b"\r\n" + body


def _line(line: bytes) -> bytes:
    return line + b"\r\n" + _HOST + b"\r\n"


def _chunked(body: bytes) -> bytes:
    return _post(b"Transfer-Encoding: chunked", body=body)


_FRAMING = [
    Case("cl-and-te", _post(b"Content-Length: 5", b"Transfer-Encoding: chunked", body=b"0\r\n\r\n"), 400),
    Case("te-and-cl", _post(b"Transfer-Encoding: chunked", b"Content-Length: 5", body=b"0\r\n\r\n"), 400),
    Case("cl-twice-same", _post(b"Content-Length: 3", b"Content-Length: 3", body=b"abc"), 400),
    Case("cl-twice-different", _post(b"Content-Length: 3", b"Content-Length: 0", body=b"abc"), 400),
    Case("cl-twice-other-case", _post(b"Content-Length: 3", b"CONTENT-LENGTH: 3", body=b"abc"), 400),
    Case("cl-list", _post(b"Content-Length: 3, 3", body=b"abc"), 400),
    Case("cl-plus", _post(b"Content-Length: +3", body=b"abc"), 400),
    Case("cl-minus", _post(b"Content-Length: -3", body=b"abc"), 400),
    Case("cl-hex", _post(b"Content-Length: 0x3", body=b"abc"), 400),
    Case("cl-underscore", _post(b"Content-Length: 1_0", body=b"0123456789"), 400),
    Case("cl-exponent", _post(b"Content-Length: 1e1", body=b"0123456789"), 400),
    Case("cl-fraction", _post(b"Content-Length: 3.0", body=b"abc"), 400),
    Case("cl-inner-space", _post(b"Content-Length: 1 0", body=b"0123456789"), 400),
    Case("cl-empty", _post(b"Content-Length:", body=b"abc"), 400),
    Case("cl-word", _post(b"Content-Length: three", body=b"abc"), 400),
    Case("cl-quoted", _post(b'Content-Length: "3"', body=b"abc"), 400),
    Case("cl-vertical-tab", _post(b"Content-Length: \x0b3", body=b"abc"), 400),
    Case("cl-unicode-digit", _post("Content-Length: ３".encode(), body=b"abc"), 400),
    Case("cl-overflow-64", _post(b"Content-Length: 18446744073709551619", body=b"abc"), 400),
    Case("cl-endless-digits", _post(b"Content-Length: " + b"9" * 4000), 400),
    Case("cl-over-the-limit", _post(b"Content-Length: 4194305"), 413),
    Case("cl-over-with-expect", _post(b"Content-Length: 99999999", b"Expect: 100-continue"), 413),
    Case("cl-space-before-colon", _post(b"Content-Length : 3", body=b"abc"), 400),
    Case("te-space-before-colon", _post(b"Transfer-Encoding : chunked", body=b"0\r\n\r\n"), 400),
    Case("te-unknown", _post(b"Transfer-Encoding: gzip", body=b"x"), 501),
    Case("te-identity", _post(b"Transfer-Encoding: identity"), 501),
    Case("te-gzip-chunked", _post(b"Transfer-Encoding: gzip, chunked", body=b"0\r\n\r\n"), 501),
    Case("te-chunked-gzip", _post(b"Transfer-Encoding: chunked, gzip", body=b"0\r\n\r\n"), 400),
    Case("te-chunked-identity", _post(b"Transfer-Encoding: chunked, identity", body=b"0\r\n\r\n"), 400),
    Case("te-chunked-twice", _post(b"Transfer-Encoding: chunked, chunked", body=b"0\r\n\r\n"), 400),
    Case("te-two-headers", _post(b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked", body=b"0\r\n\r\n"), 400),
    Case("te-second-unknown", _post(b"Transfer-Encoding: chunked", b"Transfer-Encoding: cow", body=b"0\r\n\r\n"), 400),
    Case("te-xchunked", _post(b"Transfer-Encoding: xchunked", body=b"0\r\n\r\n"), 501),
    Case("te-quoted", _post(b'Transfer-Encoding: "chunked"', body=b"0\r\n\r\n"), 400),
    Case("te-parameter", _post(b"Transfer-Encoding: chunked;q=1", body=b"0\r\n\r\n"), 400),
    Case("te-vertical-tab", _post(b"Transfer-Encoding: \x0bchunked", body=b"0\r\n\r\n"), 400),
    Case("te-trailing-comma", _post(b"Transfer-Encoding: chunked,", body=b"0\r\n\r\n"), 400),
    Case("te-leading-comma", _post(b"Transfer-Encoding: ,chunked", body=b"0\r\n\r\n"), 400),
    Case("te-empty", _post(b"Transfer-Encoding:", body=b"0\r\n\r\n"), 400),
    Case("te-folded", _post(b"Transfer-Encoding:\r\n chunked", body=b"0\r\n\r\n"), 400),
    Case("te-in-http-10", b"POST / HTTP/1.0\r\n" + _HOST + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
]

_CHUNKS = [
    Case("chunk-size-missing", _chunked(b"\r\nabc\r\n0\r\n\r\n"), 400),
    Case("chunk-size-no-hex", _chunked(b"xyz\r\nabc\r\n0\r\n\r\n"), 400),
    Case("chunk-size-0x", _chunked(b"0x3\r\nabc\r\n0\r\n\r\n"), 400),
    Case("chunk-size-plus", _chunked(b"+3\r\nabc\r\n0\r\n\r\n"), 400),
    Case("chunk-size-minus", _chunked(b"-3\r\nabc\r\n0\r\n\r\n"), 400),
    Case("chunk-size-underscore", _chunked(b"1_0\r\n0123456789012345\r\n0\r\n\r\n"), 400),
    Case("chunk-size-leading-space", _chunked(b" 3\r\nabc\r\n0\r\n\r\n"), 400),
    Case("chunk-size-trailing-space", _chunked(b"3 \r\nabc\r\n0\r\n\r\n"), 400),
    Case("chunk-size-overflow", _chunked(b"10000000000000003\r\nabc\r\n0\r\n\r\n"), 400),
    Case("chunk-size-bare-lf", _chunked(b"3\nabc\r\n0\r\n\r\n"), 400),
    Case("chunk-size-bare-cr", _chunked(b"3\rabc\r\n0\r\n\r\n"), 400),
    Case("chunk-data-longer", _chunked(b"3\r\nabcd\r\n0\r\n\r\n"), 400),
    Case("chunk-data-shorter", _chunked(b"4\r\nabc\r\n0\r\n\r\n"), 400),
    Case("chunk-data-ends-in-lf", _chunked(b"3\r\nabc\n0\r\n\r\n"), 400),
    Case("chunk-over-the-limit", _chunked(b"400001\r\n"), 413),
    Case("chunk-extension-nul", _chunked(b"3;a=\0\r\nabc\r\n0\r\n\r\n"), 400),
    Case("chunk-extension-bare-lf", _chunked(b"3;a\nabc\r\n0\r\n\r\n"), 400),
    Case("chunk-extension-too-long", _chunked(b"3;" + b"a" * 2000 + b"\r\nabc\r\n0\r\n\r\n"), 400),
    Case("chunk-extension-without-end", _chunked(b"3;" + b"a" * 2000), 400),
    Case("chunk-extensions-many", _chunked((b"1;" + b"a" * 900 + b"\r\nx\r\n") * 20 + b"0\r\n\r\n"), 400),
    Case("trailer-no-colon", _chunked(b"0\r\nabc\r\n\r\n"), 400),
    Case("trailer-folded", _chunked(b"0\r\nA: b\r\n c\r\n\r\n"), 400),
    Case("trailer-content-length", _chunked(b"0\r\nContent-Length: 3\r\n\r\n"), 400),
    Case("trailer-space-before-colon", _chunked(b"0\r\nA : b\r\n\r\n"), 400),
    Case("trailer-bare-lf", _chunked(b"0\r\nA: b\n\r\n\r\n"), 400),
    Case("trailer-too-long", _chunked(b"0\r\nA: " + b"b" * 9000), 431),
]

_LINE_BREAKS = [
    Case("bare-lf-everywhere", b"GET / HTTP/1.1\nHost: localhost\n\n", 400),
    Case("bare-lf-request-line", b"GET / HTTP/1.1\nHost: localhost\r\n\r\n", 400),
    Case("bare-lf-between-fields", _get(b"A: b\nContent-Length: 3"), 400),
    Case("bare-cr-between-fields", _get(b"A: b\rContent-Length: 3"), 400),
    Case("bare-cr-in-request-line", b"GET /\r HTTP/1.1\r\n" + _HOST + b"\r\n", 400),
    Case("double-cr", b"GET / HTTP/1.1\r\r\n" + _HOST + b"\r\n", 400),
    Case("lf-cr", b"GET / HTTP/1.1\n\r" + _HOST + b"\n\r", 400),
    Case("folded-value", _get(b"A: b\r\n c"), 400),
    Case("folded-with-tab", _get(b"A: b\r\n\tc"), 400),
    Case("folded-first-line", b"GET / HTTP/1.1\r\n Host: localhost\r\n\r\n", 400),
    Case("folded-host", b"GET / HTTP/1.1\r\nHost:\r\n localhost\r\n\r\n", 400),
    Case("two-blank-lines-first", b"\r\n\r\nGET / HTTP/1.1\r\n" + _HOST + b"\r\n", 400),
    Case("bare-lf-first", b"\nGET / HTTP/1.1\r\n" + _HOST + b"\r\n", 400),
]

_FIELDS = [
    Case("name-empty", _get(b": value"), 400),
    Case("name-with-space", _get(b"A B: c"), 400),
    Case("name-space-before-colon", _get(b"A : b"), 400),
    Case("name-tab-before-colon", _get(b"A\t: b"), 400),
    Case("name-no-colon", _get(b"Abc"), 400),
    Case("name-parenthesis", _get(b"A(: b"), 400),
    Case("name-slash", _get(b"A/B: c"), 400),
    Case("name-nul", _get(b"A\0: b"), 400),
    Case("name-control", _get(b"A\x01: b"), 400),
    Case("name-delete", _get(b"A\x7f: b"), 400),
    Case("name-latin1", _get(b"\xe9: b"), 400),
    Case("name-utf8", _get("Ü: b".encode()), 400),
    Case("value-nul", _get(b"A: b\0c"), 400),
    Case("value-control", _get(b"A: b\x01c"), 400),
    Case("value-escape", _get(b"A: \x1b[2J"), 400),
    Case("value-delete", _get(b"A: \x7f"), 400),
    Case("value-vertical-tab", _get(b"A: b\x0bc"), 400),
    Case("host-missing", b"GET / HTTP/1.1\r\n\r\n", 400),
    Case("host-missing-other-field", b"GET / HTTP/1.1\r\nAccept: */*\r\n\r\n", 400),
    Case("host-twice-same", _get(b"Host: localhost"), 400),
    Case("host-twice-different", _get(b"HOST: other"), 400),
    Case("host-twice-http-10", b"GET / HTTP/1.0\r\n" + _HOST + _HOST + b"\r\n", 400),
    Case("host-list", b"GET / HTTP/1.1\r\nHost: a b\r\n\r\n", 400),
    Case("host-userinfo", b"GET / HTTP/1.1\r\nHost: user@localhost\r\n\r\n", 400),
    Case("host-path", b"GET / HTTP/1.1\r\nHost: localhost/x\r\n\r\n", 400),
    Case("host-bad-port", b"GET / HTTP/1.1\r\nHost: localhost:8x\r\n\r\n", 400),
    Case("host-latin1", b"GET / HTTP/1.1\r\nHost: \xe9\r\n\r\n", 400),
    Case("host-open-bracket", b"GET / HTTP/1.1\r\nHost: [::1\r\n\r\n", 400),
    Case("expectation-unknown", _post(b"Expect: 200-ok", b"Content-Length: 3", body=b"abc"), 417),
    Case("expectation-list", _post(b"Expect: 100-continue, x", b"Content-Length: 3", body=b"abc"), 417),
    Case("fields-too-many", _get(*[b"A: b"] * 129), 431),
    Case("field-too-long", _get(b"A: " + b"b" * 9000), 431),
    Case("fields-too-long-together", _get(*[b"A: " + b"b" * 7000] * 10), 431),
    Case("fields-without-end", b"GET / HTTP/1.1\r\n" + _HOST + (b"A: " + b"b" * 1000 + b"\r\n") * 80, 431),
]

_REQUEST_LINES = [
    Case("target-missing", _line(b"GET HTTP/1.1"), 400),
    Case("target-empty", _line(b"GET  HTTP/1.1"), 400),
    Case("target-with-space", _line(b"GET /a b HTTP/1.1"), 400),
    Case("target-two-spaces-before", _line(b"GET  / HTTP/1.1"), 400),
    Case("target-two-spaces-after", _line(b"GET /  HTTP/1.1"), 400),
    Case("target-tabs", _line(b"GET\t/\tHTTP/1.1"), 400),
    Case("target-nul", _line(b"GET /\0 HTTP/1.1"), 400),
    Case("target-control", _line(b"GET /\x01 HTTP/1.1"), 400),
    Case("target-delete", _line(b"GET /\x7f HTTP/1.1"), 400),
    Case("target-latin1", _line(b"GET /\xe9 HTTP/1.1"), 400),
    Case("target-fragment", _line(b"GET /#top HTTP/1.1"), 400),
    Case("target-relative", _line(b"GET index.html HTTP/1.1"), 400),
    Case("target-star-with-get", _line(b"GET * HTTP/1.1"), 400),
    Case("target-other-scheme", _line(b"GET ftp://localhost/ HTTP/1.1"), 400),
    Case("target-no-authority", _line(b"GET http:/// HTTP/1.1"), 400),
    Case("target-other-host", _line(b"GET http://other/ HTTP/1.1"), 400),
    Case("target-other-port", _line(b"GET http://localhost:81/ HTTP/1.1"), 400),
    Case("target-userinfo", _line(b"GET http://user@localhost/ HTTP/1.1"), 400),
    Case("target-only-port", _line(b"GET http://:80/ HTTP/1.1"), 400),
    Case("target-too-long", _line(b"GET /" + b"a" * 9000 + b" HTTP/1.1"), 414),
    Case("target-without-end", b"GET /" + b"a" * 9000, 414),
    Case("connect-path", _line(b"CONNECT / HTTP/1.1"), 400),
    Case("connect-no-port", _line(b"CONNECT localhost HTTP/1.1"), 400),
    Case("connect-url", _line(b"CONNECT http://localhost/ HTTP/1.1"), 400),
    Case("method-with-at", _line(b"G@T / HTTP/1.1"), 400),
    Case("method-latin1", _line(b"G\xe9T / HTTP/1.1"), 400),
    Case("method-missing", _line(b" / HTTP/1.1"), 400),
    Case("version-missing", _line(b"GET /"), 400),
    Case("version-09", _line(b"GET / HTTP/0.9"), 505),
    Case("version-12", _line(b"GET / HTTP/1.2"), 505),
    Case("version-20", _line(b"GET / HTTP/2.0"), 505),
    Case("version-2", _line(b"GET / HTTP/2"), 400),
    Case("version-lower-case", _line(b"GET / http/1.1"), 400),
    Case("version-two-digits", _line(b"GET / HTTP/1.10"), 400),
    Case("version-space", _line(b"GET / HTTP/1.1 "), 400),
    Case("version-rtsp", _line(b"DESCRIBE / RTSP/1.0"), 400),
    Case("http2-preface", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
    Case("tls-client-hello", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 40, 400),
    Case("redis-command", b"*1\r\n$4\r\nPING\r\n\r\n", 400),
    Case("amqp-preface", b"AMQP\x00\x00\x09\x01", 400),
    Case("socks5", b"\x05\x01\x00", 400),
    Case("proxy-protocol", b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2\r\n" + _line(b"GET / HTTP/1.1"), 400),
    Case("only-garbage", bytes(range(128, 256)), 400),
    Case("cut-in-the-head", b"GET / HTTP/1.1\r\nHost: loc", None),
    Case("cut-in-the-body", _post(b"Content-Length: 5", body=b"abc"), None),
    Case("cut-in-a-chunk", _chunked(b"5\r\nabc"), None),
    Case("cut-before-the-last-chunk", _chunked(b"3\r\nabc\r\n"), None),
]

CASES: list[Case] = [*_FRAMING, *_CHUNKS, *_LINE_BREAKS, *_FIELDS, *_REQUEST_LINES]
