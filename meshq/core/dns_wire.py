"""DNS messages as bytes (RFC 1035 section 4): what must be known of one to answer it, to pass it on and to keep it.

Only the outline is read, never a record's data, so that records of every type pass as they are. A name costs at most its 255
bytes, because pointers are stepped over and not followed.
"""

import struct
from collections.abc import Iterator, Sequence
from typing import NamedTuple

HEADER = struct.Struct("!6H")
"""Id, flags, then how many questions, answers, authority and additional records."""
RECORD = struct.Struct("!HHIH")
"""Type, class, TTL, length of the data; behind the name."""
TYPE_CLASS = struct.Struct("!HH")
LONG = struct.Struct("!I")

RESPONSE, AUTHORITATIVE, TRUNCATED = 0x8000, 0x0400, 0x0200
RECURSION_DESIRED, RECURSION_AVAILABLE, AUTHENTIC, CHECKING_DISABLED = 0x0100, 0x0080, 0x0020, 0x0010
OPCODE, RCODE = 0x7800, 0x000F
DNSSEC_OK = 0x8000

SOA, OPT = 6, 41
IN = 1
MAX_NAME = 255
MAX_LABEL = 63
_POINTER = 0xC0
_ANSWER, _AUTHORITY, _ADDITIONAL = range(3)
MAX_KEPT = 86_400
"""Seconds that an answer is kept at the longest."""


class Malformed(ValueError):
    """Not a DNS message."""


class Edns(NamedTuple):
    """A sender's OPT record (RFC 6891)."""

    size: int
    version: int = 0
    dnssec_ok: bool = False
    rcode: int = 0
    """The upper eight bits of the response code."""


class Question(NamedTuple):
    """One question as it was sent."""

    packed: bytes
    """Name, type and class."""
    labels: tuple[bytes, ...]
    kind: int
    cls: int

    @property
    def folded(self) -> bytes:
        """The same for every spelling of the name (RFC 4343: only A to Z). The bytes that say how long a label is are at most
        63 and so no letters."""
        return self.packed[:-4].lower() + self.packed[-4:]


class Message(NamedTuple):
    """The outline of a message with one question."""

    flags: int
    question: Question
    edns: Edns | None
    end: int
    """Where the OPT record begins, else where the message ends: without what follows it is whole all the same."""
    additional: int
    """Additional records before `end`."""
    ttls: tuple[int, ...]
    """Where the TTLs of the records before `end` are."""
    keep: int
    """Seconds that it may be kept; 0: not at all."""


def read_question(packet: bytes, at: int = HEADER.size) -> Question:
    """Raises Malformed. A pointer has nothing to point to here, so it is malformed."""
    labels = []
    begin = at
    while True:
        length = _byte(packet, at)
        if length == 0:
            break
        if length > MAX_LABEL:
            raise Malformed("a compressed name in a question")
        labels.append(packet[at + 1 : at + 1 + length])
        at += 1 + length
        if at + 1 - begin > MAX_NAME:
            raise Malformed("a name of more than 255 bytes")
    end = at + 1 + TYPE_CLASS.size
    if end > len(packet):
        raise Malformed("it ends inside its question")
    kind, cls = TYPE_CLASS.unpack_from(packet, at + 1)
    return Question(packet[begin:end], tuple(labels), kind, cls)


def read(packet: bytes) -> Message:
    """The outline of a message with one question. Raises Malformed."""
    if len(packet) < HEADER.size:
        raise Malformed("shorter than a header")
    _, flags, questions, *counts = HEADER.unpack_from(packet)
    if questions != 1:
        raise Malformed(f"{questions} questions")
    question = read_question(packet)
    records = list(_records(packet, HEADER.size + len(question.packed), counts))
    if (records[-1].end if records else HEADER.size + len(question.packed)) != len(packet):
        raise Malformed("something follows its last record")
    options = [record for record in records if record.kind == OPT]
    if len(options) > 1 or any(option.section != _ADDITIONAL or packet[option.begin] for option in options):
        raise Malformed("an OPT record where none may be")
    edns, end = None, len(packet)
    if options:
        edns, end = _edns(options[0]), options[0].begin
    kept = [record for record in records if record.begin < end]
    return Message(
        flags,
        question,
        edns,
        end,
        sum(record.section == _ADDITIONAL for record in kept),
        tuple(record.ttl_at for record in kept),
        _keep(packet, kept),
    )


class _Record(NamedTuple):
    section: int
    begin: int
    kind: int
    cls: int
    ttl: int
    ttl_at: int
    end: int


def _records(packet: bytes, at: int, counts: Sequence[int]) -> Iterator[_Record]:
    for section, count in enumerate(counts):
        for _ in range(count):
            begin, at = at, _after_name(packet, at)
            if at + RECORD.size > len(packet):
                raise Malformed("it ends inside a record")
            kind, cls, ttl, length = RECORD.unpack_from(packet, at)
            ttl_at = at + TYPE_CLASS.size
            at += RECORD.size + length
            if at > len(packet):
                raise Malformed("it ends inside a record")
            yield _Record(section, begin, kind, cls, ttl, ttl_at, at)


def _edns(option: _Record) -> Edns:
    """An OPT record has other things where the class and the TTL of others are (RFC 6891 section 6.1.3)."""
    ttl = option.ttl
    return Edns(option.cls, ttl >> 16 & 0xFF, bool(ttl & DNSSEC_OK), ttl >> 24)


def _keep(packet: bytes, records: Sequence[_Record]) -> int:
    """By the shortest TTL; where something is not there, by the SOA record that says for how long (RFC 2308 section 5)."""
    soas = [record for record in records if record.section == _AUTHORITY and record.kind == SOA]
    if not soas and not any(record.section == _ANSWER for record in records):
        return 0
    # The last field of an SOA record's data is the minimum. A TTL with its highest bit set is none (RFC 2181 section 8).
    minima = [LONG.unpack_from(packet, soa.end - LONG.size)[0] for soa in soas if soa.end - soa.begin > RECORD.size]
    shortest = min([MAX_KEPT, *minima, *(record.ttl for record in records)])
    return 0 if any(record.ttl >> 31 for record in records) else shortest


def _after_name(packet: bytes, at: int) -> int:
    begin = at
    while (length := _byte(packet, at)) != 0:
        if length >= _POINTER:
            at += 1
            break
        if length > MAX_LABEL or at - begin > MAX_NAME:
            raise Malformed("what is no name")
        at += 1 + length
    return at + 1


def _byte(packet: bytes, at: int) -> int:
    try:
        return packet[at]
    except IndexError:
        raise Malformed("it ends inside a name") from None


# --- changing them ------------------------------------------------------------------------------------------------------------


def packed_edns(edns: Edns) -> bytes:
    ttl = edns.rcode << 24 | edns.version << 16 | (DNSSEC_OK if edns.dnssec_ok else 0)
    return b"\0" + RECORD.pack(OPT, edns.size, ttl, 0)


def bare(flags: int, question: bytes = b"", edns: Edns | None = None, ident: int = 0) -> bytes:
    """A message without records: a query, or an answer that is none. `question` packed; b"" for none."""
    option = b"" if edns is None else packed_edns(edns)
    return HEADER.pack(ident, flags, bool(question), 0, 0, bool(option)) + question + option


def aged(packet: bytes, ttls: Sequence[int], seconds: int) -> bytes:
    """`packet` so many seconds later: its TTLs, which are at `ttls`, that much shorter."""
    if not seconds:
        return packet
    older = bytearray(packet)
    for at in ttls:
        LONG.pack_into(older, at, max(0, LONG.unpack_from(older, at)[0] - seconds))
    return bytes(older)
