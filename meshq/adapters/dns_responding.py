"""From one query to one answer, the same over UDP and TCP: what is wrong is told, what is the mesh's is answered from the picture,
the rest is forwarded.

What is the mesh's depends on nothing but the query's bytes and the picture, so answers are kept packed by the bytes of their
query (its id put in front), all of them until the picture changes. They are kept by the query without its EDNS options, which
change nothing here: a client that sends a new cookie each time finds what others asked for. Nothing here waits, and nothing here
raises.
"""

from collections.abc import Callable

from meshq.adapters.dns_forwarding import Asked, Forwarder, Found
from meshq.adapters.dns_packets import MAX_STREAM, labels, pack
from meshq.core.dns import Names
from meshq.core.dns_records import Answer, Status
from meshq.core.dns_wire import (
    AUTHENTIC,
    AUTHORITATIVE,
    CHECKING_DISABLED,
    HEADER,
    IN,
    OPCODE,
    OPT,
    RCODE,
    RECURSION_AVAILABLE,
    RECURSION_DESIRED,
    RESPONSE,
    TRUNCATED,
    Edns,
    Malformed,
    Message,
    bare,
    packed_edns,
    read,
)

Reply = Callable[[bytes], None]

SIZE = 4096
"""Bytes of a UDP message, ours and what we take at the most: the loopback device carries 64 KiB in one piece, so nothing is cut up
on its way, as it would be on a network from about 1,232."""
SIZE_WITHOUT_EDNS = 512
MAX_QUERY = 4096
MAX_PACKED = 4096
MAX_PACKED_BYTES = 4 * 2**20
"""Bounds of what is kept packed. When one is reached all of it goes: what is asked again is packed again, in 0.1 ms."""
_META = range(249, 255)
"""Types that ask for something else than records: TKEY, TSIG, IXFR, AXFR, MAILB, MAILA."""

RESULTS = ("mesh", "nodata", "unknown", "early", "kept", "forwarded", "failed", "refused", "malformed", "dropped")
"""What becomes of queries, as metrics count it: `early` before the first picture, `kept` and `forwarded` from the resolvers behind,
`failed` when none of those answered."""


class Responder:
    """`names` gives the names of the latest picture: the same object until there is another picture."""

    def __init__(self, names: Callable[[], Names], forwarder: Forwarder) -> None:
        self._names = names
        self._forwarder = forwarder
        self._of: Names | None = None
        self._packed: dict[bytes, tuple[bytes, str]] = {}
        """What follows the id of a query -> what follows the id of its answer, and how that counts."""
        self._packed_bytes = 0
        self.counts = dict.fromkeys(RESULTS, 0)

    def known(self, packet: bytes) -> bytes | None:
        """The answer to a query over UDP that came before."""
        if self._names() is not self._of:
            return None
        found = self._packed.get(packet[2:])
        if found is None:
            return None
        self.counts[found[1]] += 1
        return packet[:2] + found[0]

    def answer(self, packet: bytes, reply: Reply, *, stream: bool = False) -> bool:
        """Reply once, now or later. False: never. `stream`: over TCP, where an answer may be as long as it likes."""
        if len(packet) < HEADER.size or packet[2] & 0x80:  # an answer to an answer could go on for ever
            self.counts["dropped"] += 1
            return False
        ident, flags = packet[:2], int.from_bytes(packet[2:4], "big")
        try:
            if flags & OPCODE:
                raise Malformed("no query")
            if len(packet) > MAX_QUERY:
                raise Malformed("longer than any question")
            query = read(packet)
            if query.question.kind == OPT:
                raise Malformed("a question for an OPT record")
        except Malformed:
            # By a header alone: what follows it could not be read, or is of another kind.
            status = Status.NOT_IMPLEMENTED if flags & OPCODE else Status.FORMAT_ERROR
            self.counts["malformed"] += 1
            reply(ident + bare(RESPONSE | flags & (OPCODE | RECURSION_DESIRED) | status)[2:])
        else:
            self._answer(packet, query, reply, stream)
        return True

    def _answer(self, packet: bytes, query: Message, reply: Reply, stream: bool) -> None:
        names = self._current()
        # Over TCP nothing is kept: it is for the few answers that do not fit.
        plain = b"" if stream else bare(query.flags, query.question.packed, query.edns)[2:]
        if (known := self.known(packet[:2] + plain)) is not None:
            reply(known)
            return
        most = MAX_STREAM if stream else _size(query.edns)
        answer, result = self._decided(query, names)
        if answer is None:
            self._forward(packet[:2], query, most, reply)
            return
        ours = AUTHORITATIVE if result in ("mesh", "nodata", "unknown") else 0
        packed = pack(query.question, answer, _copied(query.flags) | ours, _own_edns(query.edns, answer.status), most)
        self.counts[result] += 1
        if not stream:
            self._keep(plain, packed[2:], result)
        reply(packet[:2] + packed[2:])

    def _decided(self, query: Message, names: Names) -> tuple[Answer | None, str]:
        """The answer and how it counts; None: ask the resolvers behind."""
        question = query.question
        if query.edns is not None and query.edns.version != 0:
            return Answer(Status.BAD_VERSION), "refused"
        if question.cls != IN or question.kind in _META:
            return Answer(Status.REFUSED), "refused"
        answer = names.answer(labels(question), question.kind)
        if answer is None:
            return (None, "forwarded") if self._forwarder.able else (Answer(Status.REFUSED), "refused")
        if answer.status is Status.GOOD:
            return answer, "mesh" if answer.records else "nodata"
        return answer, "unknown" if answer.status is Status.NO_SUCH_NAME else "early"

    def _current(self) -> Names:
        names = self._names()
        if names is not self._of:
            self._of = names
            self._forget()
        return names

    def _keep(self, query: bytes, answer: bytes, result: str) -> None:
        size = len(query) + len(answer)
        if len(self._packed) >= MAX_PACKED or self._packed_bytes + size > MAX_PACKED_BYTES:
            self._forget()
        self._packed[query] = answer, result
        self._packed_bytes += size

    def _forget(self) -> None:
        self._packed.clear()
        self._packed_bytes = 0

    # --- what the resolvers behind say ----------------------------------------------------------------------------------------

    def _forward(self, ident: bytes, query: Message, most: int, reply: Reply) -> None:
        edns = query.edns
        asked = Asked(
            query.question,
            query.flags & (RECURSION_DESIRED | AUTHENTIC | CHECKING_DISABLED),
            edns is not None and edns.dnssec_ok,
        )

        def done(found: Found | None) -> None:
            self.counts["failed" if found is None else found.how] += 1
            reply(ident + _passed_on(found, query, most)[2:])

        self._forwarder.ask(asked, done)


def _passed_on(found: Found | None, query: Message, most: int) -> bytes:
    """With the question as this client spelled it: it is as long in any spelling, so that pointers point where they did."""
    edns = _own_edns(query.edns, Status.GOOD)
    flags = RESPONSE | RECURSION_AVAILABLE | _copied(query.flags)
    if found is None:
        return bare(flags | Status.SERVER_FAILURE, query.question.packed, edns)
    flags |= found.flags & (AUTHORITATIVE | RCODE)
    if query.flags & AUTHENTIC or (edns is not None and edns.dnssec_ok):  # RFC 6840 section 5.8
        flags |= found.flags & AUTHENTIC
    option = b"" if edns is None else packed_edns(edns)
    answers, authority, additional = found.counts
    header = HEADER.pack(0, flags, 1, answers, authority, additional + bool(option))
    packed = header + query.question.packed + found.records + option
    return packed if len(packed) <= most else bare(flags | TRUNCATED, query.question.packed, edns)


def _size(edns: Edns | None) -> int:
    return SIZE_WITHOUT_EDNS if edns is None else min(SIZE, max(SIZE_WITHOUT_EDNS, edns.size))


def _own_edns(edns: Edns | None, status: Status) -> Edns | None:
    """Only where the client has it too. That it wants DNSSEC is said back (RFC 3225 section 3), though nothing here is signed."""
    return None if edns is None else Edns(SIZE, 0, edns.dnssec_ok, status >> 4)


def _copied(flags: int) -> int:
    return flags & (RECURSION_DESIRED | CHECKING_DISABLED)
