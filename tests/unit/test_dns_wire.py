"""The outline of DNS messages, beside dnspython's."""

import struct

import dns.message
import dns.rrset
import pytest

from meshq.core.dns_wire import (
    DNSSEC_OK,
    HEADER,
    MAX_KEPT,
    OPT,
    RECORD,
    Edns,
    Malformed,
    aged,
    bare,
    packed_edns,
    read,
    read_question,
)

SOA = "ns.example. admin.example. 1 2 3 4 30"


def answer(*records: str, authority: tuple[str, ...] = (), edns: bool = False) -> bytes:
    """`name ttl type data` each."""
    query = dns.message.make_query("www.Example.", "A", use_edns=edns)
    made = dns.message.make_response(query)
    for section, lines in ((made.answer, records), (made.authority, authority)):
        for line in lines:
            name, ttl, kind, data = line.split(" ", 3)
            section.append(dns.rrset.from_text(name, int(ttl), "IN", kind, data))
    return made.to_wire()


def test_a_question() -> None:
    packet = answer()
    question = read_question(packet)
    assert (question.labels, question.kind, question.cls) == ((b"www", b"Example"), 1, 1)
    assert question.packed == packet[HEADER.size :]
    assert question.folded == packet[HEADER.size :].replace(b"E", b"e")


@pytest.mark.parametrize(
    "name",
    [
        b"\xc0\x0c",  # a pointer
        b"\x40" + b"a" * 64 + b"\0",
        (b"\x3f" + b"a" * 63) * 4 + b"\0",
        b"\x05abc",
        b"",
    ],
)
def test_what_is_no_question(name: bytes) -> None:
    with pytest.raises(Malformed):
        read_question(bare(0)[: HEADER.size] + name + (b"\0\1\0\1" if name.endswith(b"\0") else b""))


def test_the_longest_name_there_is() -> None:
    name = (b"\x3f" + b"a" * 63) * 3 + b"\x3d" + b"a" * 61 + b"\0"
    assert len(name) == 255
    assert len(read(bare(0, name + b"\0\1\0\1")).question.labels) == 4


@pytest.mark.parametrize(
    ("records", "authority", "keep"),
    [
        (("www.example. 60 A 192.0.2.1",), (), 60),
        (("www.example. 60 CNAME x.example.", "x.example. 20 A 192.0.2.1"), (), 20),
        (("www.example. 60 CNAME x.example.",), (f"example. 300 SOA {SOA}",), 30),
        ((), (f"example. 300 SOA {SOA}",), 30),
        ((), (f"example. 10 SOA {SOA}",), 10),
        ((), ("example. 300 NS ns.example.",), 0),
        ((), (), 0),
        (("www.example. 0 A 192.0.2.1",), (), 0),
        (("www.example. 999999 A 192.0.2.1",), (), MAX_KEPT),
    ],
)
def test_how_long_it_may_be_kept(records: tuple[str, ...], authority: tuple[str, ...], keep: int) -> None:
    assert read(answer(*records, authority=authority)).keep == keep


def test_a_ttl_that_is_none() -> None:
    packet = bytearray(answer("www.example. 60 A 192.0.2.1"))
    struct.pack_into("!I", packet, read(bytes(packet)).ttls[0], 2**31)
    assert read(bytes(packet)).keep == 0


def test_what_belongs_to_one_hop_comes_off() -> None:
    packet = answer("www.example. 60 A 192.0.2.1", edns=True)
    message = read(packet)
    assert message.edns is not None
    assert message.additional == 0
    assert packet[: message.end] + packed_edns(message.edns) == packet


@pytest.mark.parametrize("edns", [Edns(1232), Edns(65535, 1, True, 255), Edns(0, 0, True)])
def test_options(edns: Edns) -> None:
    assert read(bare(0, b"\0\0\1\0\1", edns)).edns == edns
    assert bool(int.from_bytes(packed_edns(edns)[5:9], "big") & DNSSEC_OK) is edns.dnssec_ok


OPTION = packed_edns(Edns(1232))
QUESTION = b"\0\0\1\0\1"


@pytest.mark.parametrize(
    "packet",
    [
        b"",
        b"\0" * 11,
        HEADER.pack(0, 0, 0, 0, 0, 0),
        HEADER.pack(0, 0, 2, 0, 0, 0) + QUESTION * 2,
        HEADER.pack(0, 0, 1, 0, 0, 0) + QUESTION + b"x",
        HEADER.pack(0, 0, 1, 1, 0, 0) + QUESTION,
        HEADER.pack(0, 0, 1, 65535, 65535, 65535) + QUESTION,
        HEADER.pack(0, 0, 1, 0, 0, 2) + QUESTION + OPTION * 2,
        HEADER.pack(0, 0, 1, 1, 0, 0) + QUESTION + OPTION,
        HEADER.pack(0, 0, 1, 0, 0, 1) + QUESTION + b"\1a" + OPTION,
        HEADER.pack(0, 0, 1, 0, 0, 1) + QUESTION + b"\0" + RECORD.pack(OPT, 0, 0, 4) + b"abc",
        HEADER.pack(0, 0, 1, 1, 0, 0) + QUESTION + b"\x80\0" + RECORD.pack(1, 1, 0, 0),
    ],
)
def test_what_is_no_message(packet: bytes) -> None:
    with pytest.raises(Malformed):
        read(packet)


def test_ttls_run_down_and_not_below_nothing() -> None:
    packet = answer("www.example. 60 A 192.0.2.1", "www.example. 5 TXT x")
    message = read(packet)
    found = dns.message.from_wire(aged(packet, message.ttls, 20))
    assert [rrset.ttl for rrset in found.answer] == [40, 0]
    assert aged(packet, message.ttls, 0) is packet
