"""The chunked coding of request bodies, strictly: what RFC 9112 section 7.1 allows and nothing else, without any I/O."""

import re

from meshq.adapters.http_framing import BAD_BYTE, Limits, Malformed, too_large

MAX_CHUNK_LINE = 1024
"""Bytes of one chunk's size and extensions. Nobody uses extensions, but proxies are known to add short ones."""
MAX_EXTENSIONS = 16 * 1024
"""Bytes of all extensions of a body: else a client could make a short body cost any amount of reading."""

_TEXT = rb"[\t\x20-\x7e\x80-\xff]*"
_SIZE_LINE = re.compile(rb"([0-9a-fA-F]{1,15})((?:;" + _TEXT + rb")?)\r\n")
_SIZE_LINE_BEGUN = re.compile(rb"(?:[0-9a-fA-F]{1,15}(?:;" + _TEXT + rb")?\r?)?\Z")
_TRAILERS = re.compile(rb"(?:[!#$%&'*+\-.^_`|~0-9A-Za-z]+:" + _TEXT + rb"\r\n)+")
_FRAMING_TRAILER = re.compile(
    rb"^(?:content-length|transfer-encoding|host|connection|expect):", re.IGNORECASE | re.MULTILINE
)


class ChunkedBody:
    """One body being read. Feed it until `done`; `body` then holds the bytes. Trailers are checked and dropped."""

    __slots__ = ("_awaits_end", "_extensions", "_in_trailers", "_left", "_limits", "body", "done")

    def __init__(self, limits: Limits) -> None:
        self.body = bytearray()
        self.done = False
        self._limits = limits
        self._left = 0  # bytes of the current chunk still to come
        self._awaits_end = False  # of the current chunk, its CRLF
        self._in_trailers = False
        self._extensions = 0

    @property
    def begun(self) -> bool:
        """A chunk's size was read."""
        return self._left > 0 or self._awaits_end or self._in_trailers or bool(self.body)

    def feed(self, data: bytes, position: int) -> int:
        """Take what is whole from data[position:]. Returns the position of what was not taken: the next request when
        `done`, else the beginning of a line, to be given again with more behind it. Raises Malformed."""
        while not self.done:
            start = position
            if self._left:
                position = self._feed_chunk(data, position)
            elif self._awaits_end:
                position = self._feed_chunk_end(data, position)
            elif self._in_trailers:
                position = self._feed_trailers(data, position)
            else:
                position = self._feed_size(data, position)
            if position == start:
                break
        return position

    def _feed_size(self, data: bytes, position: int) -> int:
        line = _SIZE_LINE.match(data, position)
        if line is None:
            if len(data) - position > MAX_CHUNK_LINE or _SIZE_LINE_BEGUN.match(data, position) is None:
                raise Malformed(400, "a chunk does not begin with its size, or its extensions are too long")
            return position
        self._extensions += len(line[2])
        if line.end() - position > MAX_CHUNK_LINE or self._extensions > MAX_EXTENSIONS:
            raise Malformed(400, "the chunk extensions are too long")
        size = int(line[1], 16)
        if len(self.body) + size > self._limits.max_body:
            raise too_large(self._limits)
        self._left = size
        self._awaits_end = size > 0
        self._in_trailers = size == 0
        return line.end()

    def _feed_chunk(self, data: bytes, position: int) -> int:
        piece = data[position : position + self._left]
        self.body += piece
        self._left -= len(piece)
        return position + len(piece)

    def _feed_chunk_end(self, data: bytes, position: int) -> int:
        end = data[position : position + 2]
        if end == b"\r\n":
            self._awaits_end = False
            return position + 2
        if end not in (b"", b"\r"):
            raise Malformed(400, "a chunk is longer than its size says")
        return position

    def _feed_trailers(self, data: bytes, position: int) -> int:
        if data.startswith(b"\r\n", position):
            self.done = True
            return position + 2
        end = data.find(b"\r\n\r\n", position)
        block = data[position : end + 2] if end >= 0 else data[position:]
        if len(block) > self._limits.max_line:
            raise Malformed(431, f"the trailers are over {self._limits.max_line} bytes")
        if end < 0:
            if BAD_BYTE.search(block):
                raise Malformed(400, "a trailer is malformed")
            return position
        if _TRAILERS.fullmatch(block) is None or _FRAMING_TRAILER.search(block):
            raise Malformed(400, "a trailer is malformed, or is one that may only stand in the header")
        self.done = True
        return end + 4
