"""The same request to an app directly and through the mesh, and every difference between the two answers.

The client is a bare socket and a parser of its own, because HTTP libraries tidy up what is to be compared: paths, repeated
headers, bodies where none should be. What may differ is listed in this file, each entry with its reason; all else is a
difference.
"""

import gzip
import json
import re
import socket
import zlib
from collections.abc import Callable, Iterator
from enum import Enum
from typing import Any, Literal, NamedTuple

import brotlicffi  # type: ignore[import-untyped]

Flag = Literal["trickle", "expect-continue", "http/1.0", "chunk-extensions", "trailers"]
Framing = Literal["none", "length", "chunked", "close"]
Fields = list[tuple[bytes, bytes]]


class Case(NamedTuple):
    """One request. Latin-1 text stands for bytes: what is not ASCII goes out as it is."""

    name: str
    method: str
    path: str
    """Path and query just as on the request line, from the first `/` on."""
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes | None = None
    """None: no body framing at all. b"": `Content-Length: 0`."""
    chunked: bool = False
    raw: frozenset[Flag] = frozenset()
    """trickle: sent a few bytes at a time. expect-continue: the body waits for a 100. http/1.0: an old client.
    chunk-extensions, trailers: parts of a chunked body that do not belong to its content."""


class Way(Enum):
    DIRECT = "direct"
    PATH = "path"
    HOST = "host"
    PROXY = "proxy"
    PORT = "port"


class Response(NamedTuple):
    status: int
    headers: Fields
    body: bytes
    framing: Framing


class BadResponse(Exception):
    """The peer sent what is not HTTP, or broke off."""


# --- sending ---------------------------------------------------------------------------------------------------------


def app_host(way: Way, port: int, service: str = "httpbin") -> str:
    """The `Host` that the app sees of a request by this way to a sidecar's `port`; a direct one is to send the same."""
    names = {Way.HOST: f"{service}.localhost:{port}", Way.PATH: f"{service}.mesh", Way.PROXY: f"{service}.mesh"}
    return names.get(way, f"localhost:{port}")


def render(case: Case, way: Way, host: str, address: str = "httpbin@0") -> tuple[bytes, bytes]:
    """Head and body of the request on the wire. `host` is the one that the app is to see."""
    target = {Way.PATH: f"/v1/call/{address}{case.path}", Way.PROXY: f"http://{host}{case.path}"}.get(way, case.path)
    fields = [("Host", "localhost" if way is Way.PATH else host), *case.headers]
    body = case.body or b""
    if case.chunked:
        fields.append(("Transfer-Encoding", "chunked"))
        body = b"".join(_chunks(body, case.raw))
    elif case.body is not None:
        fields.append(("Content-Length", str(len(body))))
    if "expect-continue" in case.raw:
        fields.append(("Expect", "100-continue"))
    version = "HTTP/1.0" if "http/1.0" in case.raw else "HTTP/1.1"
    lines = [f"{case.method} {target} {version}", *(f"{name}: {value}" for name, value in fields), "", ""]
    return "\r\n".join(lines).encode("latin-1"), body


def _chunks(body: bytes, raw: frozenset[Flag]) -> Iterator[bytes]:
    """Chunks of growing, odd sizes, so that no boundary falls where a buffer ends."""
    start, size = 0, 1
    extension = b';seen="by nobody";x' if "chunk-extensions" in raw else b""
    while start < len(body):
        piece = body[start : start + size]
        yield b"%x%s\r\n%s\r\n" % (len(piece), extension, piece)
        start, size = start + size, min(size * 3 + 1, 60_001)
    yield (
        b"0"
        + extension
        + b"\r\n"
        + (b"X-Trailer: dropped or not, never content\r\n" if "trailers" in raw else b"")
        + b"\r\n"
    )


def exchange(
    case: Case, way: Way, port: int, host: str, address: str = "httpbin@0", ip: str = "127.0.0.1", timeout: float = 30
) -> Response:
    """Sends a case on a connection of its own and reads the whole answer.

    `timeout` is in seconds, for each read and write. Raises BadResponse or OSError.
    """
    head, body = render(case, way, host, address)
    with socket.create_connection((ip, port), timeout) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        reader = _Reader(connection)
        if "expect-continue" in case.raw:
            connection.sendall(head)
            interim = reader.head()
            if interim[0] != 100:  # the final answer, given without the body
                return reader.response(case.method, *interim)
            connection.sendall(body)
        elif "trickle" in case.raw:
            for start in range(0, len(head + body), 3):
                connection.sendall((head + body)[start : start + 3])
        else:
            connection.sendall(head + body)
        return reader.response(case.method, *reader.head())


class _Reader:
    """Reads responses off a socket, and takes nothing that RFC 9112 does not allow."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection, self.buffer = connection, b""

    def response(self, method: str, status: int, headers: Fields) -> Response:
        response = self._framed(method, status, headers)
        if self.buffer:
            raise BadResponse(f"more than the response: {self.buffer[:200]!r}")
        return response

    def _framed(self, method: str, status: int, headers: Fields) -> Response:
        lengths = [value for name, value in headers if name.lower() == b"content-length"]
        codings = [value.lower() for name, value in headers if name.lower() == b"transfer-encoding"]
        if len(lengths) > 1 or (lengths and codings) or any(not value.isdigit() for value in lengths):
            raise BadResponse(f"ambiguous framing: {headers}")
        if method == "HEAD" or status in (204, 304):
            return Response(status, headers, b"", "none")
        if codings == [b"chunked"]:
            return Response(status, headers, b"".join(self._chunks()), "chunked")
        if lengths:
            return Response(status, headers, self._exactly(int(lengths[0])), "length")
        return Response(status, headers, self._rest(), "close")

    def head(self) -> tuple[int, Fields]:
        line = self._line()
        match = re.fullmatch(rb"HTTP/1\.[01] ([1-9][0-9]{2})(?: [\t\x20-\x7e\x80-\xff]*)?", line)
        if match is None:
            raise BadResponse(f"not a status line: {line!r}")
        return int(match[1]), list(self._fields())

    def _fields(self) -> Iterator[tuple[bytes, bytes]]:
        while line := self._line():
            match = re.fullmatch(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[\t ]*([\t\x20-\x7e\x80-\xff]*?)[\t ]*", line)
            if match is None:
                raise BadResponse(f"not a header field: {line!r}")
            yield match[1], match[2]

    def _chunks(self) -> Iterator[bytes]:
        while size := int(self._line().partition(b";")[0], 16):
            yield self._exactly(size)
            if self._line():
                raise BadResponse("a chunk longer than it says")
        list(self._fields())

    def _line(self) -> bytes:
        while b"\r\n" not in self.buffer:
            self._receive()
        line, _, self.buffer = self.buffer.partition(b"\r\n")
        return line

    def _exactly(self, size: int) -> bytes:
        pieces = [self.buffer]
        missing = size - len(self.buffer)
        while missing > 0:
            self.buffer = b""
            self._receive()
            pieces.append(self.buffer)
            missing -= len(self.buffer)
        whole = b"".join(pieces)
        self.buffer = whole[size:]
        return whole[:size]

    def _rest(self) -> bytes:
        pieces, self.buffer = [self.buffer], b""
        while piece := self.connection.recv(65536):
            pieces.append(piece)
        return b"".join(pieces)

    def _receive(self) -> None:
        piece = self.connection.recv(65536)
        if not piece:
            raise BadResponse(f"broke off after {self.buffer[:200]!r}")
        self.buffer += piece


# --- what may differ -------------------------------------------------------------------------------------------------

# Of one connection, not of the response: each hop frames anew (RFC 9110 7.6.1).
HOP_BY_HOP = {b"connection", b"keep-alive", b"transfer-encoding"}

# When the answer was made, which is another second for the other one.
OF_THE_MOMENT = {b"date"}

# Said about the call by the mesh (INTERFACE part 3). Each has to be there, once.
ADDED_TO_RESPONSES = (b"meshq-message-id", b"meshq-served-by", b"meshq-attempt")

# What httpbin draws by lot, by the header it stands in. Only values of this very shape are taken for equal.
RANDOM_HEADERS: dict[bytes, Callable[[bytes], bytes]] = {
    # /cache: the ETag is a random UUID, and Last-Modified is the time of the request.
    b"etag": lambda value: re.sub(rb"^[0-9a-f]{32}$", b"<random>", value),
    b"last-modified": lambda value: re.sub(rb"^\w{3}, \d\d \w{3} \d{4} \d\d:\d\d:\d\d GMT$", b"<now>", value),
    # Digest challenges: a nonce and an opaque value of this challenge only.
    b"www-authenticate": lambda value: re.sub(rb'(nonce|opaque)="[0-9a-f]{32,128}"', rb"\1=<random>", value),
}

# /uuid: the whole of the answer is one.
RANDOM_UUID = re.compile(
    rb'(\{\s*"uuid": ")[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}("\s*\}\s*)'
)

# httpbin repeats the request's headers in its answers. These are the mesh's own (INTERFACE part 4), where the caller
# sent none by that name.
ADDED_TO_REQUESTS = re.compile(r"meshq-.+|traceparent|tracestate|idempotency-key", re.IGNORECASE)

# What was sent chunked may arrive with its length instead: framing again, as above.
FRAMING_OF_CHUNKED = ("Transfer-Encoding", "Content-Length")

# Whoever is next on the way gives the 100 that it asks for (RFC 9110 10.1.1), so the app need not see it.
ANSWERED_ON_THE_WAY = "Expect"


# --- comparing -------------------------------------------------------------------------------------------------------


def compare(direct: Response, meshed: Response, way: Way) -> list[str]:
    """The differences, in words; none is an empty list. With Way.DIRECT the second is held to add nothing either."""
    bodies_differ, lengths_comparable = _compare_bodies(direct, meshed, way)
    differences = [] if direct.status == meshed.status else [f"status {direct.status} became {meshed.status}"]
    ours, theirs = _end_to_end(direct), _end_to_end(meshed)
    if way is not Way.DIRECT:
        added = [(name, theirs.pop(name, [])) for name in ADDED_TO_RESPONSES]
        differences += [f"the mesh's {name.decode()} is not there just once" for name, v in added if len(v) != 1]
    if not lengths_comparable:
        ours.pop(b"content-length", None)
        theirs.pop(b"content-length", None)
    names = [name for name in sorted(ours.keys() | theirs.keys()) if ours.get(name) != theirs.get(name)]
    differences += [f"header {name.decode()}: {ours.get(name)} became {theirs.get(name)}" for name in names]
    return differences + bodies_differ


def _end_to_end(response: Response) -> dict[bytes, list[bytes]]:
    """Values by lower-case name, repeated ones in their order."""
    fields: dict[bytes, list[bytes]] = {}
    for name, value in response.headers:
        key = name.lower()
        if key not in HOP_BY_HOP | OF_THE_MOMENT:
            fields.setdefault(key, []).append(RANDOM_HEADERS.get(key, bytes)(value))
    return fields


def _compare_bodies(direct: Response, meshed: Response, way: Way) -> tuple[list[str], bool]:
    """The difference of the bodies, and whether Content-Length has to be the same on both sides."""
    same_framing = not {direct.framing, meshed.framing} & {"chunked", "close"}
    if direct.body == meshed.body:
        return [], same_framing
    before, after = (RANDOM_UUID.sub(rb"\1<random>\2", _decoded(response)) for response in (direct, meshed))
    if way is not Way.DIRECT:
        before, after = _without_additions(before, after)
    if before == after:
        return [], False  # equal but for what may differ, which may be of another length
    at = next((i for i, (a, b) in enumerate(zip(before, after, strict=False)) if a != b), min(len(before), len(after)))
    around = slice(max(at - 40, 0), at + 40)
    return [
        f"body of {len(before)} bytes became {len(after)}, at {at}: {before[around]!r} became {after[around]!r}"
    ], False


def _decoded(response: Response) -> bytes:
    """The content without its coding: a gzip member carries its time, and a compressed echo hides what was added."""
    coding = next((value for name, value in response.headers if name.lower() == b"content-encoding"), b"")
    decode = {b"gzip": gzip.decompress, b"deflate": zlib.decompress, b"br": brotlicffi.decompress}.get(coding, bytes)
    return decode(response.body) if response.body else b""


def _without_additions(direct: bytes, meshed: bytes) -> tuple[bytes, bytes]:
    """Both bodies without the request headers that the mesh may add, where both are httpbin's echo of a request."""
    ours, theirs = _Echo.read(direct), _Echo.read(meshed)
    if ours is None or theirs is None or len(ours.documents) != len(theirs.documents):
        return direct, meshed
    for before, after in zip(ours.documents, theirs.documents, strict=True):
        _drop_additions(before["headers"], after["headers"])
    return ours.write(), theirs.write()


def _drop_additions(sent: dict[str, str], arrived: dict[str, str]) -> None:
    for name in [name for name in arrived if ADDED_TO_REQUESTS.fullmatch(name) and name not in sent]:
        del arrived[name]
    may_go = (*FRAMING_OF_CHUNKED, ANSWERED_ON_THE_WAY) if "Transfer-Encoding" in sent else (ANSWERED_ON_THE_WAY,)
    for headers in (sent, arrived):
        for name in may_go:
            headers.pop(name, None)
        # A trace goes on with a span of the mesh's: the same trace id, another parent id.
        if "Traceparent" in headers:
            headers["Traceparent"] = re.sub(r"^(00-[0-9a-f]{32})-[0-9a-f]{16}-", r"\1-<span>-", headers["Traceparent"])


class _Echo(NamedTuple):
    """httpbin's JSON with a `headers` object: one document, or one a line (/stream)."""

    documents: list[dict[str, Any]]
    indent: int | None

    @classmethod
    def read(cls, body: bytes) -> "_Echo | None":
        """None unless writing it again gives the same bytes, so that nothing is lost between reading and writing."""
        for texts, indent in (([body], 2), (body.splitlines(), None)):
            try:
                echo = cls([json.loads(text) for text in texts], indent)
            except ValueError:
                continue
            whole = all(isinstance(d, dict) and isinstance(d.get("headers"), dict) for d in echo.documents)
            if whole and echo.write() == body:
                return echo
        return None

    def write(self) -> bytes:
        return "".join(json.dumps(document, indent=self.indent) + "\n" for document in self.documents).encode()
