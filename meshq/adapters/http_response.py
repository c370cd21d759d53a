"""The app's responses, put together from bytes: the client's reading half, without any I/O.

Lenient where a sloppy app does no harm on a connection that is ours alone (Content-Length beside chunked), strict where one
answer could not be told from the next.
"""

import httptools

from meshq.core.http import Failed, Failure, Headers, HttpResponse

MAX_HEAD = 64 * 1024
"""Bytes of a response's status line and header fields, interim responses and trailers included."""
MAX_HEADERS = 256

_FRAMING = frozenset({b"connection", b"keep-alive", b"transfer-encoding", b"content-length"})


class _Stop(Exception):
    """Raised in a callback to make the parser stop; `outcome` says why."""


class ResponseReader:
    """The responses of one connection, one after the other: `expect` before each request, then `feed` until `outcome`."""

    def __init__(self, max_body: int) -> None:
        self.outcome: HttpResponse | Failed | None = None
        self.begun = False
        """A byte of the response came."""
        self.headers_complete = False
        self.reusable = False
        """The connection can carry another request."""
        self.idle_seconds: float | None = None
        """How long the app says that it keeps an idle connection."""
        self._max_body = max_body
        self._parser: httptools.HttpResponseParser | None = None
        self._head_only = False
        self._head_bytes = 0
        self._clear()

    def expect(self, method: bytes) -> None:
        """The next bytes are the response to a request of `method`."""
        self.outcome = None
        self.begun = self.headers_complete = self.reusable = False
        self.idle_seconds = None
        self._head_only = method == b"HEAD"
        self._head_bytes = 0
        self._clear()

    def _clear(self) -> None:
        self.status = 0
        """Once the headers are complete."""
        self._headers: Headers = []
        self._length: bytes | None = None
        self._codings: list[bytes] = []
        self._options: list[bytes] = []  # of Connection
        self._keep_alive = b""
        self._body: bytes | bytearray = b""

    def feed(self, data: bytes) -> None:
        self.begun = True
        if self._parser is None:
            self._parser = httptools.HttpResponseParser(self)
            # With both lengths chunked holds, as RFC 9112 section 6.3 says; the connection is not used again.
            self._parser.set_dangerous_leniencies(lenient_chunked_length=True)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self.reusable = False
            if self.outcome is None:
                self.outcome = Failed(Failure.BROKEN, f"what the app sent is not HTTP: {error}")
        if self.outcome is None and not self.headers_complete:
            self._head_bytes += len(data)
            if self._head_bytes > MAX_HEAD:
                self.outcome = _head_too_large()
        if self._head_only and self.outcome is not None:
            self._parser = None  # it waits for a body that does not come

    def at_eof(self) -> None:
        """The app closed its side: the end of a body that has no other end, else of a response broken off."""
        self.reusable = False
        if self.outcome is not None:
            return
        if self.headers_complete and self._length is None and not self._codings:
            self._complete()
        elif self.headers_complete:
            self.outcome = Failed(Failure.BROKEN, "the app broke off in the middle of its response")
        else:
            self.outcome = Failed(Failure.BROKEN, "the app closed the connection without a response")

    # --- what httptools calls ---

    def on_message_begin(self) -> None:
        if self.outcome is not None:
            raise _Stop  # a second response to one request

    def on_header(self, name: bytes, value: bytes) -> None:
        self._head_bytes += len(name) + len(value) + 4
        if self._head_bytes > MAX_HEAD or len(self._headers) >= MAX_HEADERS:
            self._fail(_head_too_large())
        if self.headers_complete:
            return  # a trailer
        lower = name.lower()
        value = value.rstrip(b" \t")
        if lower in _FRAMING:
            self._note_framing(lower, value)
            if lower != b"content-length":
                return
        self._headers.append((name, value))

    def _note_framing(self, name: bytes, value: bytes) -> None:
        if name == b"content-length":
            self._length = value
        elif name == b"transfer-encoding":
            self._codings.append(value.lower())
        elif name == b"connection":
            self._options += [option.strip(b" \t").lower() for option in value.split(b",")]
        else:
            self._keep_alive = value

    def on_headers_complete(self) -> None:
        assert self._parser is not None
        if self.outcome is not None:
            raise _Stop
        self.status = self._parser.get_status_code()
        if self.status == 101:
            self._fail(Failed(Failure.BROKEN, "the app switched protocols (101), which it was not asked to"))
        if self.status < 200:
            return
        self.headers_complete = True
        self.idle_seconds = _keep_alive_timeout(self._keep_alive)
        if self._head_only:
            self.reusable = self._parser.should_keep_alive()
            self._complete()
        elif self._codings:
            if self._codings != [b"chunked"]:
                coding = b", ".join(self._codings)[:40].decode("latin-1")
                self._fail(Failed(Failure.BROKEN, f"the app used the transfer coding {coding!r}, unasked"))
        elif self._length is not None and self.status not in (204, 304) and int(self._length) > self._max_body:
            self._fail(self._too_large())

    def on_body(self, piece: bytes) -> None:
        if self.outcome is not None:
            raise _Stop  # a body after the response to HEAD
        if len(self._body) + len(piece) > self._max_body:
            self._fail(self._too_large())
        if not self._body:
            self._body = piece
        else:
            if isinstance(self._body, bytes):
                self._body = bytearray(self._body)
            self._body += piece

    def on_message_complete(self) -> None:
        assert self._parser is not None
        if self.outcome is not None:
            return
        if self.status < 200:
            self._clear()  # an interim response; the final one follows
            return
        # Where it sent both lengths the app may see another end than we do.
        self.reusable = self._parser.should_keep_alive() and (self._length is None or not self._codings)
        self._complete()

    def _complete(self) -> None:
        dropped = {option for option in self._options if option not in (b"close", b"keep-alive")}
        if not (self._head_only or self.status == 304):
            dropped.add(b"content-length")
        headers = [(name, value) for name, value in self._headers if name.lower() not in dropped]
        self.outcome = HttpResponse(self.status, headers, bytes(self._body))

    def _fail(self, failed: Failed) -> None:
        self.outcome = failed
        raise _Stop

    def _too_large(self) -> Failed:
        detail = f"the app's response is over the limit of {self._max_body} bytes"
        return Failed(Failure.TOO_LARGE, detail, self.status)


def _head_too_large() -> Failed:
    return Failed(Failure.BROKEN, f"the app's response header is over {MAX_HEAD} bytes or {MAX_HEADERS} fields")


def _keep_alive_timeout(field: bytes) -> float | None:
    for parameter in field.split(b","):
        name, _, value = parameter.partition(b"=")
        if name.strip().lower() == b"timeout" and value.strip().isdigit():
            return float(value)
    return None
