"""Answers as DNS messages, on dnslib: the one file that knows it.

Only for writing. What comes in is read by core/dns_wire.py: dnslib follows the pointers of a name by recursion, refuses labels
that are not UTF-8, and raises more kinds of exceptions than it says.
"""

from ipaddress import ip_address

import dnslib

from meshq.core.dns_records import NEGATIVE_TTL, Answer, Authority, Kind, Name, Record, Target
from meshq.core.dns_wire import RECURSION_AVAILABLE, RESPONSE, TRUNCATED, Edns, Question, bare

MAX_STREAM = 65_535
"""Bytes of a message over TCP, whose length has 16 bits (RFC 1035 section 4.2.2)."""


def labels(question: Question) -> Name:
    """The question's name as core/dns.py takes it. A dot inside a label, which no name of ours has, becomes what it is in a master
    file, so that it is not taken for one between labels."""
    return tuple(label.lower().decode("latin-1").replace(".", "\\046") for label in question.labels)


def pack(question: Question, answer: Answer, flags: int, edns: Edns | None, most: int) -> bytes:
    """A message of at most `most` bytes, with the id 0. `flags` besides those every answer has; `edns` is ours, None where the
    question had none. What is too long loses its additional records first, then all of them, and says so (RFC 2181 section 9)."""
    packed = _pack(question, answer, flags, edns)
    if len(packed) > most and answer.additional:
        packed = _pack(question, answer._replace(additional=()), flags, edns)
    if len(packed) > most:
        code = answer.status & 0xF
        return bare(RESPONSE | RECURSION_AVAILABLE | TRUNCATED | flags | code, question.packed, edns)
    return packed


def _pack(question: Question, answer: Answer, flags: int, edns: Edns | None) -> bytes:
    asked = dnslib.DNSLabel(question.labels)
    own = labels(question)

    def resource(record: Record) -> dnslib.RR:
        # The question's own spelling, so that whoever sent `oRdErS.mesh` to be sure of the answer finds it there.
        name = asked if record.name == own else _label(record.name)
        return dnslib.RR(name, int(record.kind), ttl=record.ttl, rdata=_data(record))

    header = dnslib.DNSHeader(id=0, bitmap=RESPONSE | RECURSION_AVAILABLE | flags | (answer.status & 0xF))
    message = dnslib.DNSRecord(
        header,
        questions=[dnslib.DNSQuestion(asked, question.kind, question.cls)],
        rr=[resource(record) for record in answer.records],
        auth=[resource(record) for record in answer.authority],
        ar=[resource(record) for record in answer.additional],
    )
    if edns is not None:
        message.add_ar(_option(edns))
    return bytes(message.pack())


def _option(edns: Edns) -> dnslib.EDNS0:
    return dnslib.EDNS0(udp_len=edns.size, ext_rcode=edns.rcode, flags="do" if edns.dnssec_ok else "")


def _data(record: Record) -> dnslib.RD:
    data = record.data
    if isinstance(data, str):
        return dnslib.RD(ip_address(data).packed)
    if isinstance(data, Target):
        return dnslib.SRV(0, 0, data.port, _label(data.name))
    if isinstance(data, Authority):
        # Nobody transfers this zone, so the times that are for that only have to be possible.
        times = (data.serial, 3600, 600, 86_400, NEGATIVE_TTL)
        return dnslib.SOA(_label(record.name), _label(("hostmaster", *record.name)), times)
    if record.kind == Kind.PTR:
        return dnslib.PTR(_label(data))
    return dnslib.TXT([text.encode("latin-1") for text in data])  # HINFO has the same shape


def _label(name: Name) -> dnslib.DNSLabel:
    return dnslib.DNSLabel([label.encode("latin-1") for label in name])
