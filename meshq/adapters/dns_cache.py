"""Answers of the resolvers behind, for as long as they allow; the least recently used go first."""

from typing import NamedTuple

from meshq.core.dns_wire import HEADER, Message, aged

MAX_ENTRIES = 4096
MAX_BYTES = 4 * 2**20
OVERHEAD = 400
"""Bytes that an entry takes besides its message, about."""

Key = tuple[bytes, int, bool]
"""A question in lower case, the flags it was asked with, whether DNSSEC is wanted: each may be answered in another way."""


class Found(NamedTuple):
    """An answer, without what belongs to one client."""

    flags: int
    counts: tuple[int, int, int]
    """Answers, authority and additional records."""
    records: bytes
    how: str
    """`forwarded` or `kept`."""


class _Kept(NamedTuple):
    packet: bytes
    message: Message
    at: float


def found(packet: bytes, message: Message, age: int, how: str) -> Found:
    """What `packet`, whose outline is `message`, says so many seconds later."""
    _, _, _, answers, authority, _ = HEADER.unpack_from(packet)
    records = aged(packet[: message.end], message.ttls, age)[HEADER.size + len(message.question.packed) :]
    return Found(message.flags, (answers, authority, message.additional), records, how)


class Cache:
    def __init__(self, max_entries: int = MAX_ENTRIES, max_bytes: int = MAX_BYTES) -> None:
        self._max_entries = max_entries
        self._max_bytes = max_bytes
        self._kept: dict[Key, _Kept] = {}  # in the order of their last use
        self.bytes = 0

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, key: Key, now: float) -> Found | None:
        """`now` in seconds of a monotonic clock."""
        kept = self._take(key)
        if kept is None or now >= kept.at + kept.message.keep:
            return None
        self._add(key, kept)
        return found(kept.packet, kept.message, int(now - kept.at), "kept")

    def put(self, key: Key, packet: bytes, message: Message, now: float) -> None:
        self._take(key)
        kept = _Kept(packet, message, now)
        if message.keep and _size(kept) <= self._max_bytes:
            self._add(key, kept)
            while self.bytes > self._max_bytes or len(self._kept) > self._max_entries:
                self._take(next(iter(self._kept)))

    def _take(self, key: Key) -> _Kept | None:
        kept = self._kept.pop(key, None)
        if kept is not None:
            self.bytes -= _size(kept)
        return kept

    def _add(self, key: Key, kept: _Kept) -> None:
        self._kept[key] = kept
        self.bytes += _size(kept)


def _size(kept: _Kept) -> int:
    return len(kept.packet) + OVERHEAD
