"""How records lie in a segment of the spool: back to back, each

    8 bytes  the segment's marker, random, also in the file's name
    u32      length of the payload
    u64      number of the record; one more than the record before it
    u32      CRC-32 of the payload
    u32      CRC-32 of the 24 bytes before this

and then the payload, a Publication as a msgpack array. Numbers are big-endian.

The head has a checksum of its own, so that a damaged payload still says how long it is and which record it was. Where a head
is damaged the next record is found by its marker, which no sender can know, so that bytes of a message are never taken for
a record.

The end of a file tells a write that was cut off from damage: what was cut off ends in the middle of a head, or has a whole
head that promises more than there is, or is nothing but zeros (a file system that lost power had grown the file, and not
written into it yet). None of that was ever acknowledged. Anything else that cannot be read was.
"""

import struct
from array import array
from typing import NamedTuple
from zlib import crc32

import msgpack

from meshq.core.message import is_id
from meshq.ports import Publication

MARKER = 8
_FIELDS = struct.Struct(">8sIQI")
_CHECK = struct.Struct(">I")
_HEAD = struct.Struct(">8sIQII")
OVERHEAD = _HEAD.size
"""Bytes of a record besides its payload."""
_PUBLICATION = len(Publication._fields)
_MESSAGE_ID = Publication._fields.index("message_id")
MAX_GAP = 2**20
"""A head whose number is further on than this was not written by a spool: it holds fewer records."""


class Unreadable(Exception):
    """The bytes of a record are not what was written; the message says how that shows."""


_packer = msgpack.Packer()
SMALL = 64 * 1024


def pack(publication: Publication) -> bytes:
    """For one thread only."""
    # A packer of its own costs a third more; but the shared one would keep as much memory as its largest message took.
    packer = _packer if len(publication.body) <= SMALL else msgpack.Packer()
    try:
        packed: bytes = packer.pack(publication)
    except UnicodeEncodeError:  # half a surrogate pair: no text, and costly to allow for everything
        packed = msgpack.packb(publication, unicode_errors="surrogatepass")
    return packed


def unpack(payload: bytes) -> Publication:
    """Raises Unreadable. A later version may have more fields; they are left out."""
    try:
        try:
            fields = msgpack.unpackb(payload)
        except UnicodeDecodeError:
            fields = msgpack.unpackb(payload, unicode_errors="surrogatepass")
        return Publication(*fields[:_PUBLICATION])
    except (ValueError, TypeError, msgpack.UnpackException, RecursionError, OverflowError) as error:
        raise Unreadable(f"its content is no publication: {error}") from error


def head_of(payload: bytes, marker: bytes, number: int) -> bytes:
    """What stands before `payload` to make it a record."""
    fields = _FIELDS.pack(marker, len(payload), number, crc32(payload))
    return fields + _CHECK.pack(crc32(fields))


class Head(NamedTuple):
    length: int
    number: int
    crc: int


def read_head(data: bytes, at: int, marker: bytes) -> Head | None:
    """None: no head begins here."""
    if len(data) - at < OVERHEAD:
        return None
    found, length, number, crc, check = _HEAD.unpack_from(data, at)
    if found != marker or check != crc32(data[at : at + _FIELDS.size]):
        return None
    return Head(length, number, crc)


def payload_of(data: bytes, at: int, head: Head) -> bytes:
    """The payload of the record that begins with this head. Raises Unreadable."""
    begin = at + OVERHEAD
    payload = data[begin : begin + head.length]
    if len(payload) != head.length or crc32(payload) != head.crc:
        raise Unreadable("its checksum is wrong")
    return payload


class Damage(NamedTuple):
    """Records that cannot be read any more."""

    first: int
    last: int
    message_id: str
    """Of the first of them, as far as it can be read; else ""."""
    why: str


class Scan(NamedTuple):
    """A segment as it was found."""

    offsets: "array[int]"
    """Of each record, in the order of their numbers, from the segment's first on."""
    gone: bytearray
    """1 for each that cannot be read."""
    size: int
    """Bytes up to the end of the last record; what is behind was cut off in the middle."""
    damages: list[Damage]


def scan(data: bytes, marker: bytes, first: int, stop: int | None) -> Scan:
    """Find the records of a segment whose first is `first`. A record numbered `stop` or higher belongs to a write that failed:
    its numbers were given out again in the next segment."""
    offsets, gone, damages = array("I"), bytearray(), list[Damage]()
    at, expected, end = 0, first, len(data)
    beyond = 2**63 if stop is None else stop

    def lose(upto: int, until: int, why: str) -> None:
        """Everything from `expected` to before `upto` is lost; the bytes of it are those from `at` to `until`."""
        if upto > expected:
            damages.append(Damage(expected, upto - 1, _readable_id(data[at + OVERHEAD : until]), why))
            offsets.extend([0] * (upto - expected))
            gone.extend(b"\1" * (upto - expected))

    while end - at >= OVERHEAD and expected < beyond:
        found, length, number, crc, check = _HEAD.unpack_from(data, at)
        if found != marker or number != expected or check != crc32(data[at : at + _FIELDS.size]):
            following = _next_head(data, at, marker, expected)
            if following is not None:
                begin, number = following
                number = min(number, beyond)
                lose(number, begin, "its head is damaged")
                at, expected = begin, number
                continue
            if any(data[at:]):
                lose(expected + 1, end, "its head is damaged, and nothing readable comes after it")
                at = end
            break
        begin = at + OVERHEAD
        if begin + length > end:
            break
        if crc32(data[begin : begin + length]) == crc:
            offsets.append(at)
            gone.append(0)
        else:
            lose(expected + 1, begin + length, "its checksum is wrong")
        at = begin + length
        expected += 1
    return Scan(offsets, gone, at, damages)


def _next_head(data: bytes, start: int, marker: bytes, least: int) -> tuple[int, int] | None:
    """(offset, number) of the first whole head from `start` on."""
    at = data.find(marker, start)
    while at >= 0:
        head = read_head(data, at, marker)
        if head is not None and least <= head.number <= least + MAX_GAP:
            return at, head.number
        at = data.find(marker, at + 1)
    return None


def _readable_id(payload: bytes) -> str:
    """The message id of a damaged record, if that can still be made out."""
    unpacker = msgpack.Unpacker(unicode_errors="replace", max_buffer_size=0)
    unpacker.feed(payload)
    try:
        unpacker.read_array_header()
        for _ in range(_MESSAGE_ID):
            unpacker.skip()
        ident = unpacker.unpack()
    except (ValueError, TypeError, msgpack.UnpackException, RecursionError, OverflowError):
        return ""
    return ident if isinstance(ident, str) and is_id(ident) else ""
