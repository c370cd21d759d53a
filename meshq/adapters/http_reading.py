"""Bytes in, whole requests out, one at a time and only when asked for: the server's reading half, without any I/O."""

from typing import NamedTuple

from meshq.adapters.http_chunked import ChunkedBody
from meshq.adapters.http_framing import CHUNKED, HEAD_END, Head, Limits, check_partial, parse_head
from meshq.core.http import HttpRequest


class Incoming(NamedTuple):
    """A whole request and what its connection must know of it."""

    request: HttpRequest
    minor: int
    """HTTP/1.<minor>."""
    keep_alive: bool


class RequestReader:
    """What one connection has sent and nobody has taken yet."""

    __slots__ = ("_blank_seen", "_body", "_checked", "_chunked", "_data", "_head", "_limits", "_position")

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._data = b""
        self._position = 0  # what stands before it in `_data` is taken
        self._checked = 0  # bytes from `_position` in which a head's end was looked for in vain
        self._blank_seen = False
        self._head: Head | None = None
        self._body = bytearray()
        self._chunked: ChunkedBody | None = None

    def feed(self, data: bytes) -> None:
        if self._position < len(self._data):
            data = self._data[self._position :] + data
        self._data = data
        self._position = 0

    @property
    def unread(self) -> int:
        """Bytes not yet taken."""
        return len(self._data) - self._position

    @property
    def in_body(self) -> bool:
        """A head was taken, its body is not whole."""
        return self._head is not None

    @property
    def awaits_continue(self) -> bool:
        """A head was taken whose client sends the body only when told to, and none of it has come."""
        return self._head is not None and self._head.expects_continue and not self._body_begun

    @property
    def _body_begun(self) -> bool:
        return self.unread > 0 or bool(self._body) or (self._chunked is not None and self._chunked.begun)

    def next(self) -> Incoming | None:
        """The next request, or None until more was fed. After Malformed was raised there is no next."""
        while self._head is None:
            if not self.unread:
                return None
            if not self._blank_seen and self._data.startswith(b"\r\n", self._position):
                self._blank_seen = True  # RFC 9112 section 2.2: one empty line before a request is forgiven
                self._position += 2
                continue
            head = self._take_head()
            if head is None:
                return None
            if not head.length:
                return self._whole(head, None if head.length is None else b"")
            self._head = head
            self._chunked = ChunkedBody(self._limits) if head.length == CHUNKED else None
        body = self._take_chunked(self._chunked) if self._chunked is not None else self._take_counted(self._head)
        return None if body is None else self._whole(self._head, body)

    def take_rest(self) -> bytes:
        """What was fed behind the last request, which nobody reads as HTTP any more."""
        rest = self._data[self._position :]
        self.drop()
        return rest

    def drop(self) -> int:
        """Forget what was fed and not taken. Returns how many bytes that was."""
        count = self.unread
        self._data = b""
        self._position = 0
        self._body = bytearray()
        self._head = self._chunked = None
        return count

    def _whole(self, head: Head, body: bytes | None) -> Incoming:
        self._head = self._chunked = None
        self._blank_seen = False
        return Incoming(HttpRequest(head.method, head.target, head.headers, body), head.minor, head.keep_alive)

    def _take_head(self) -> Head | None:
        start = self._position
        end = self._data.find(HEAD_END, start + max(0, self._checked - 3))
        if end < 0:
            begun = self._data[start:] if start else self._data
            if begun != b"\r" or self._blank_seen:  # it may still become the empty line
                check_partial(begun, self._checked, self._limits)
            self._checked = len(begun)
            return None
        self._position = end + len(HEAD_END)
        self._checked = 0
        return parse_head(self._data[start : self._position], self._limits)

    def _take_chunked(self, chunked: ChunkedBody) -> bytes | None:
        self._position = chunked.feed(self._data, self._position)
        return bytes(chunked.body) if chunked.done else None

    def _take_counted(self, head: Head) -> bytes | None:
        start = self._position
        end = start + (head.length or 0) - len(self._body)
        if not self._body and end <= len(self._data):
            self._position = end
            return self._data[start:end]
        piece = self._data[start:end]
        self._body += piece
        self._position += len(piece)
        if len(self._body) < (head.length or 0):
            return None
        body = bytes(self._body)
        self._body = bytearray()
        return body
