"""Where one HTTP/1 request head ends and what it says: the strict half of the server, without any I/O.

Request smuggling lives where two parsers disagree, so nothing doubtful is accepted here: RFC 9112's grammar holds to the
letter (CRLF only, no folded lines, one length) and what breaks it is refused with a sentence that says how.

httptools (llhttp in its strict mode) splits the fields and by itself refuses bare CR and LF, folded lines, control bytes,
names that are no token, whitespace before the colon and faulty Content-Lengths. It does not say where a message ended and it
lets pass HTTP/0.9 and 2.0, two spaces before the target, fragments, any Host and `gzip, chunked`. So the server finds the
end of each head itself, hands httptools exactly one head at a time, and the rest is checked here. That also keeps its
upgrade mode, in which it would take the following requests for opaque data, from ever mattering.
"""

import re
from dataclasses import dataclass
from typing import NamedTuple, NoReturn

import httptools

from meshq.core.http import Headers

CHUNKED = -1
"""`Head.length` of a request with a chunked body."""

HEAD_END = b"\r\n\r\n"

_TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_TARGET = rb'[!"$-~]+'  # visible ASCII without "#": a fragment never belongs on the request line
_REQUEST_LINE = re.compile(rb"(" + _TOKEN + rb") (" + _TARGET + rb") HTTP/1\.([01])\r\n")
_ANY_LINE = b"GET / HTTP/1.1\r\n"
_VERSION = re.compile(rb"HTTP/[0-9]\.[0-9]")
_HOST_NAME = rb"(?:[a-z0-9\-._~%!$&'()*+,;=]*|\[[0-9a-f:.]+\])"
_HOST = re.compile(_HOST_NAME + rb"(?::[0-9]{0,5})?")
_AUTHORITY = re.compile(rb"(?!:)" + _HOST_NAME + rb":[0-9]{1,5}", re.IGNORECASE)
_ABSOLUTE = re.compile(rb"(https?)://([^/?]+)(?:[/?].*)?", re.IGNORECASE)
_TOKEN_ONLY = re.compile(_TOKEN)
_CONTENT_LENGTH = re.compile(rb"[0-9]{1,18}")
# In lines that are not whole yet: what can never become good ones. A CR at the very end may still get its LF.
BAD_BYTE = re.compile(rb"(?<!\r)\n|\r(?=[^\n])|[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")


@dataclass(frozen=True, slots=True)
class Limits:
    """What one server grants its clients. Times are seconds, kept to the precision of `sweep_interval`; sizes are bytes."""

    max_body: int = 4 * 1024 * 1024
    """Of one request, with the transfer coding removed. Above: 413."""
    max_line: int = 8 * 1024
    """Of the request line (above: 414), of one field line and of all trailers (above: 431)."""
    max_header_bytes: int = 64 * 1024
    """Of all field lines together. Above: 431."""
    max_headers: int = 128
    """Field lines of one request. Above: 431."""
    header_timeout: float = 10.0
    """From the first byte of a request to the end of its head. After it: 408."""
    body_rate: int = 1024
    """Bytes a second that a body must bring on average over each `body_grace`. Below: 408."""
    body_grace: float = 5.0
    """The span over which the rate is taken; nothing is cut off before it is over."""
    idle_timeout: float = 60.0
    """How long a connection may do nothing between requests, and a client may read nothing of its answer."""
    max_connections: int = 10_000
    """Open at once, over all listeners. Above: 503."""
    max_pipelined: int = 32
    """Requests of one connection that wait for their answers. At it, no more are read."""
    sweep_interval: float = 1.0
    """How often the times above are looked at."""


class Malformed(Exception):
    """A request that is refused before any handler sees it: the status to refuse it with, and a sentence why."""

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail


class Head(NamedTuple):
    """A request without its body."""

    method: bytes
    target: bytes
    headers: Headers
    length: int | None
    """Bytes of body to come, CHUNKED, or None when the request has no body framing."""
    minor: int
    """HTTP/1.<minor>."""
    keep_alive: bool
    expects_continue: bool


class _Fields:
    """What httptools calls back: collects the field lines."""

    __slots__ = ("headers",)

    def __init__(self) -> None:
        self.headers: Headers = []

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name, value))


def parse_head(raw: bytes, limits: Limits) -> Head:
    """Take apart one head, `raw`, from its request line to its empty line. Raises Malformed."""
    line = _REQUEST_LINE.match(raw)
    if line is None or line.end() > limits.max_line + 2:
        _refuse_request_line(raw, limits)
    method, target, minor_digit = line.groups()
    minor = minor_digit[0] - 48
    # Each field line begins after a CRLF. Were a line break not CRLF, httptools would refuse the head below.
    lower = raw.lower()
    _check_size(raw, lower.count(b"\r\n") - 2, line.end(), limits)
    _check_target(method, target, _host(lower, minor))
    length = _length(lower, minor, limits)
    fields = _Fields()
    try:
        # The request line was read above. In its place one that httptools knows: it takes only the methods on its own list.
        httptools.HttpRequestParser(fields).feed_data(_ANY_LINE + raw[line.end() :])
    except httptools.HttpParserUpgrade:
        pass
    except httptools.HttpParserError as error:
        _refuse_fields(error)
    headers = fields.headers
    if b" \r\n" in raw or b"\t\r\n" in raw:  # httptools strips the space before a value, not the one after it
        headers = [(name, value.rstrip(b" \t")) for name, value in headers]
    keep_alive = minor == 1
    if b"\r\nconnection:" in lower:
        options = _list(_values(lower, b"\r\nconnection:"))
        keep_alive = b"close" not in options and (minor == 1 or b"keep-alive" in options)
    return Head(
        method,
        target,
        headers,
        length,
        minor,
        keep_alive and method != b"CONNECT",
        _expects_continue(lower, minor) and bool(length),
    )


def check_partial(data: bytes, checked: int, limits: Limits) -> None:
    """Refuse early what begins like no request, so that it need not run into the timeout. `data` is a head still without
    its end, its first `checked` bytes were looked at before. Raises Malformed."""
    if _TOKEN_ONLY.match(data) is None:
        raise Malformed(400, f"a request begins with its method, not with the byte 0x{data[0]:02x}")
    bad = BAD_BYTE.search(data, max(0, checked - 1))
    if bad is not None:
        raise Malformed(400, f"the byte 0x{bad[0][0]:02x} may not stand alone in a request head")
    if len(data) > limits.max_line and data.find(b"\r\n", 0, limits.max_line + 2) < 0:
        raise Malformed(414, f"the request line is longer than {limits.max_line} bytes")
    if len(data) > limits.max_line + limits.max_header_bytes:
        raise Malformed(431, f"the header fields are over {limits.max_header_bytes} bytes together")


def _values(lower: bytes, marker: bytes) -> list[bytes]:
    """Every value of one field in a lower-cased head. `marker` is CRLF, the name and the colon."""
    values: list[bytes] = []
    start = lower.find(marker)
    while start >= 0:
        start += len(marker)
        end = lower.find(b"\r\n", start)
        values.append(lower[start:end].strip(b" \t"))
        start = lower.find(marker, end)
    return values


def _list(values: list[bytes]) -> list[bytes]:
    return [item.strip(b" \t") for value in values for item in value.split(b",")]


def _check_size(raw: bytes, count: int, line_end: int, limits: Limits) -> None:
    if count > limits.max_headers:
        raise Malformed(431, f"{count} header fields, at most {limits.max_headers} are taken")
    if len(raw) <= limits.max_line:
        return
    if len(raw) - line_end > limits.max_header_bytes:
        raise Malformed(431, f"the header fields are over {limits.max_header_bytes} bytes together")
    for field in raw[line_end:].split(b"\r\n"):
        if len(field) > limits.max_line:
            name = field[:40].split(b":")[0].decode("latin-1")
            raise Malformed(431, f"the header field {name!r} is longer than {limits.max_line} bytes")


def _host(lower: bytes, minor: int) -> bytes | None:
    hosts = _values(lower, b"\r\nhost:")
    if len(hosts) != 1:
        if hosts:
            raise Malformed(400, "more than one Host header")
        if minor:
            raise Malformed(400, "an HTTP/1.1 request needs a Host header")
        return None
    if _HOST.fullmatch(hosts[0]) is None:
        raise Malformed(400, f"the Host header {_shown(hosts[0])} is no host name with an optional port")
    return hosts[0]


def _check_target(method: bytes, target: bytes, host: bytes | None) -> None:
    if method == b"CONNECT":
        if _AUTHORITY.fullmatch(target) is None:
            raise Malformed(400, f"the target of CONNECT is host:port, not {_shown(target)}")
        return
    if target.startswith(b"/"):
        return
    if target == b"*":
        if method != b"OPTIONS":
            raise Malformed(400, "only OPTIONS has the target *")
        return
    absolute = _ABSOLUTE.fullmatch(target)
    if absolute is None:
        raise Malformed(400, f"the target {_shown(target)} is neither a path nor an http URL")
    scheme, authority = absolute[1].lower(), absolute[2].lower()
    if authority.startswith(b":") or _HOST.fullmatch(authority) is None:
        raise Malformed(400, f"the target's host {_shown(authority)} is no host name with an optional port")
    if host is not None and _without_default_port(authority, scheme) != _without_default_port(host, scheme):
        raise Malformed(400, f"the target's host {_shown(authority)} is not the Host header's {_shown(host)}")


def _without_default_port(host: bytes, scheme: bytes) -> bytes:
    return host.removesuffix(b":").removesuffix(b":443" if scheme == b"https" else b":80")


def _length(lower: bytes, minor: int, limits: Limits) -> int | None:
    lengths = _values(lower, b"\r\ncontent-length:")
    if b"\r\ntransfer-encoding:" in lower:
        _check_codings(_list(_values(lower, b"\r\ntransfer-encoding:")), minor, bool(lengths))
        return CHUNKED
    if not lengths:
        return None
    if len(lengths) > 1:
        raise Malformed(400, "more than one Content-Length header")
    if not _CONTENT_LENGTH.fullmatch(lengths[0]):
        raise Malformed(400, f"Content-Length {_shown(lengths[0])} is no number of bytes")
    length = int(lengths[0])
    if length > limits.max_body:
        raise too_large(limits)
    return length


def too_large(limits: Limits) -> Malformed:
    return Malformed(413, f"the body is over the limit of {limits.max_body} bytes")


def _check_codings(codings: list[bytes], minor: int, has_length: bool) -> None:
    if minor == 0:
        raise Malformed(400, "HTTP/1.0 has no Transfer-Encoding")
    if has_length:
        raise Malformed(400, "Content-Length and Transfer-Encoding exclude each other")
    if codings == [b"chunked"]:
        return
    if b"chunked" in codings[:-1]:
        raise Malformed(400, "in Transfer-Encoding, chunked stands once and last")
    for coding in codings:
        if _TOKEN_ONLY.fullmatch(coding) is None:
            raise Malformed(400, f"the transfer coding {_shown(coding)} is malformed")
    raise Malformed(501, f"the transfer coding {_shown(codings[0])} is not supported, only chunked is")


def _expects_continue(lower: bytes, minor: int) -> bool:
    if minor == 0 or b"\r\nexpect:" not in lower:
        return False
    expectations = _values(lower, b"\r\nexpect:")
    if any(expectation != b"100-continue" for expectation in expectations):
        raise Malformed(417, f"the expectation {_shown(expectations[0])} cannot be met, only 100-continue can")
    return True


def _refuse_request_line(raw: bytes, limits: Limits) -> NoReturn:
    line = raw[: raw.index(b"\r\n")]
    if len(line) > limits.max_line:
        raise Malformed(414, f"the request line is longer than {limits.max_line} bytes")
    parts = line.split(b" ")
    if len(parts) != 3 or not parts[1]:
        raise Malformed(
            400, f"the request line {_shown(line)} is not a method, a target and a version, one space apart"
        )
    method, target, version = parts
    if _TOKEN_ONLY.fullmatch(method) is None:
        raise Malformed(400, f"the method {_shown(method)} is malformed")
    if _VERSION.fullmatch(version) is None:
        raise Malformed(400, f"the version {_shown(version)} is not HTTP/1.1")
    if version not in (b"HTTP/1.0", b"HTTP/1.1"):
        raise Malformed(505, f"{version.decode()} is not spoken here, HTTP/1.1 and 1.0 are")
    raise Malformed(400, f"the target {_shown(target)} has a byte that must be percent-encoded")


def _refuse_fields(error: httptools.HttpParserError) -> NoReturn:
    raise Malformed(400, f"a header field is malformed: {error}") from None


def _shown(value: bytes) -> str:
    """`value` for a sentence: short, and with nothing in it that a terminal would act on."""
    return repr(value[:64].decode("latin-1"))
