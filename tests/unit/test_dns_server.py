"""The server of mesh DNS on real sockets, asked by dnspython: what it answers from the picture."""

import asyncio
import socket
from collections.abc import Callable, Coroutine
from typing import Any

import dns.edns
import dns.flags
import dns.message
import dns.name
import dns.opcode
import dns.rcode
import pytest

from meshq.adapters import dns_responding, dns_stream
from meshq.adapters.dns import DnsServer, system_resolv_conf
from meshq.core.dns import Zone
from meshq.core.instances import EMPTY, State
from tests.dns_rig import LOOPBACK, Rig, dead, eventually, instance, picture, rcode, resolver, running, texts

SEEN = picture(
    instance("orders", "orders-a", "2.3.1", http="10.0.0.7:8080"),
    instance("orders", "orders-b", "1.4.0", State.PAUSED, address="[fd00::7]:3600"),
)
CROWD = picture(*(instance("crowd", f"crowd-{n:04}", http=f"10.0.{n // 200}.{n % 200}:80") for n in range(500)))

Story = Callable[[Rig], Coroutine[Any, Any, None]]


def tell(story: Story, seen: Any = SEEN, **named: Any) -> None:
    async def run() -> None:
        async with running(seen, **named) as rig:
            await story(rig)

    asyncio.run(run())


@pytest.mark.parametrize("tcp", [False, True])
@pytest.mark.parametrize(
    ("name", "kind", "found"),
    [
        ("orders.mesh", "A", ["127.0.0.1"]),
        ("v1.orders.mesh", "A", ["127.0.0.1"]),
        ("orders-b.orders.mesh", "AAAA", ["fd00::7"]),
        ("_http._tcp.orders.mesh", "SRV", ["0 0 3600 orders.mesh."]),
        ("_http._tcp.orders.mesh", "PTR", ["orders-a._http._tcp.orders.mesh."]),
        ("orders-a.orders.mesh", "TXT", ['"instance=orders-a" "version=2.3.1" "state=ready"']),
        ("7.0.0.10.in-addr.arpa", "PTR", ["orders-a.orders.mesh."]),
        ("orders.mesh", "ANY", ['"RFC8482" ""']),
        ("mesh", "SOA", ["mesh. hostmaster.mesh. 7 3600 600 86400 1"]),
    ],
)
def test_what_there_is(name: str, kind: str, found: list[str], tcp: bool) -> None:
    async def story(rig: Rig) -> None:
        answer = await rig.ask(name, kind, tcp=tcp)
        assert (rcode(answer), texts(answer)) == ("NOERROR", found)
        assert answer.flags & dns.flags.AA
        assert answer.flags & dns.flags.RA
        assert answer.flags & dns.flags.RD
        again = await rig.ask(name, kind, tcp=tcp)
        assert texts(again) == found

    tell(story)


@pytest.mark.parametrize(
    ("name", "kind", "code"),
    [("orders.mesh", "AAAA", "NOERROR"), ("orders.mesh", "MX", "NOERROR"), ("unknown.mesh", "A", "NXDOMAIN")],
)
def test_what_there_is_not(name: str, kind: str, code: str) -> None:
    async def story(rig: Rig) -> None:
        answer = await rig.ask(name, kind)
        assert (rcode(answer), answer.answer) == (code, [])
        (soa,) = answer.authority
        assert (soa.name.to_text(), soa.ttl, soa[0].minimum) == ("mesh.", 1, 1)

    tell(story)


def test_on_v6_too() -> None:
    async def story(rig: Rig) -> None:
        assert texts(await rig.ask("orders.mesh", "AAAA")) == ["::1"]

    tell(story, zone=Zone("mesh", 80, v6=True))


def test_a_name_is_given_back_as_it_was_spelled() -> None:
    async def story(rig: Rig) -> None:
        for name in ("oRdErS.MeSh", "ORDERS.mesh", "_Http._TCP.Orders.Mesh"):
            answer = await rig.ask(name, "SRV" if name.startswith("_") else "A")
            assert answer.question[0].name.to_text() == f"{name}."
            assert answer.answer[0].name.to_text() == f"{name}."

    tell(story)


def test_answers_are_those_of_the_latest_picture() -> None:
    async def story(rig: Rig) -> None:
        rig.see(EMPTY)
        assert rcode(await rig.ask("orders.mesh")) == "SERVFAIL"
        rig.see(SEEN)
        assert texts(await rig.ask("orders.mesh")) == ["127.0.0.1"]
        rig.see(picture(billing=(1,)))
        assert rcode(await rig.ask("orders.mesh")) == "NXDOMAIN"
        assert rig.server.counts["early"] == rig.server.counts["mesh"] == rig.server.counts["unknown"] == 1

    tell(story)


# --- what is wrong --------------------------------------------------------------------------------------------------------------


def test_only_the_class_of_the_internet() -> None:
    async def story(rig: Rig) -> None:
        answer = await rig.send(dns.message.make_query("version.bind", "TXT", "CH"))
        assert rcode(answer) == "REFUSED"
        assert rcode(await rig.send(dns.message.make_query("orders.mesh", "A", "ANY"))) == "REFUSED"

    tell(story)


@pytest.mark.parametrize("kind", ["AXFR", "IXFR", "TSIG", "MAILB"])
def test_only_records(kind: str) -> None:
    async def story(rig: Rig) -> None:
        query = dns.message.make_query("mesh", "A").to_wire()
        asked = query[:-4] + int(dns.rdatatype.from_text(kind)).to_bytes(2, "big") + query[-2:]
        assert (await rig.raw(asked))[3] & 0xF == dns.rcode.REFUSED

    tell(story)


def test_only_queries() -> None:
    async def story(rig: Rig) -> None:
        query = dns.message.make_query("orders.mesh", "A")
        for opcode in (dns.opcode.STATUS, dns.opcode.NOTIFY, dns.opcode.UPDATE):
            query.set_opcode(opcode)
            answer = await rig.raw(query.to_wire())
            assert answer[:2] == query.id.to_bytes(2, "big")
            assert (answer[2] >> 3 & 0xF, answer[3] & 0xF, len(answer)) == (opcode, dns.rcode.NOTIMP, 12)

    tell(story)


GOOD = dns.message.make_query("orders.mesh", "A", id=4711).to_wire()


@pytest.mark.parametrize(
    "packet",
    [
        GOOD[:4] + b"\0\2" + GOOD[6:] + GOOD[12:],  # two questions
        GOOD[:4] + b"\0\0" + GOOD[6:12],  # none
        GOOD[:-1],
        GOOD + b"x",
        GOOD[:12] + b"\xc0\x0c" + GOOD[-4:],
        GOOD[:-4] + b"\0\x29\0\1",  # for an OPT record
        GOOD + bytes(5000),
        GOOD[:12],
    ],
)
def test_what_cannot_be_read_is_told_so(packet: bytes) -> None:
    async def story(rig: Rig) -> None:
        answer = await rig.raw(packet)
        assert (answer[:2], answer[3] & 0xF, len(answer)) == (GOOD[:2], dns.rcode.FORMERR, 12)

    tell(story)


@pytest.mark.parametrize("packet", [b"", b"\0" * 11, dns.message.make_response(dns.message.from_wire(GOOD)).to_wire()])
def test_what_is_no_query_at_all_is_left_alone(packet: bytes) -> None:
    async def story(rig: Rig) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.setblocking(False)
            client.connect((LOOPBACK, rig.port))
            client.send(packet)
            client.send(GOOD)  # answered after it, in order
            answer = await asyncio.get_running_loop().sock_recv(client, 4096)
            assert dns.message.from_wire(answer).rcode() == dns.rcode.NOERROR
            with pytest.raises(BlockingIOError):
                client.recv(4096)
        assert rig.server.counts["dropped"] == 1

    tell(story)


# --- EDNS and length ------------------------------------------------------------------------------------------------------------


def test_edns_is_answered_with_edns() -> None:
    async def story(rig: Rig) -> None:
        without = await rig.ask("orders.mesh")
        assert without.edns == -1
        with_it = await rig.ask("orders.mesh", use_edns=0, payload=1400)
        assert (with_it.edns, with_it.payload, with_it.ednsflags) == (0, dns_responding.SIZE, 0)
        secure = await rig.ask("orders.mesh", want_dnssec=True)
        assert secure.ednsflags & dns.flags.DO
        assert [int(rrset.rdtype) for rrset in secure.answer] == [1]

    tell(story)


def test_a_version_of_edns_that_is_not_there_yet() -> None:
    async def story(rig: Rig) -> None:
        answer = await rig.ask("orders.mesh", use_edns=1)
        assert (answer.rcode(), answer.edns) == (dns.rcode.BADVERS, 0)
        assert not answer.answer

    tell(story)


@pytest.mark.parametrize(("payload", "most"), [(None, 512), (0, 512), (100, 512), (1232, 1232), (65535, 4096)])
def test_what_is_too_long_is_to_be_asked_over_tcp(payload: int | None, most: int) -> None:
    async def story(rig: Rig) -> None:
        edns = {} if payload is None else {"use_edns": 0, "payload": payload}
        answer = await rig.ask("crowd.mesh", "TXT", **edns)
        assert answer.flags & dns.flags.TC
        assert not answer.answer
        assert len(answer.to_wire()) <= most
        whole = await rig.ask("crowd.mesh", "TXT", tcp=True, **edns)
        assert not whole.flags & dns.flags.TC
        assert len(texts(whole)) == 200
        for kind in ("PTR", "TXT"):
            assert len(texts(await rig.ask("_http._tcp.crowd.mesh", kind, tcp=True))) == 200

    tell(story, CROWD)


def test_what_is_only_additional_is_left_out_first() -> None:
    name = "a" * 40
    seen = picture(**{name: (1,)})

    async def story(rig: Rig) -> None:
        full = await rig.ask(f"_http._tcp.{name}.mesh", "SRV", use_edns=0, payload=4096)
        assert full.additional
        rig.server._responder._packed.clear()
        monkey = pytest.MonkeyPatch()
        with monkey.context() as patched:
            patched.setattr(dns_responding, "SIZE_WITHOUT_EDNS", len(full.to_wire()) - 20)
            short = await rig.ask(f"_http._tcp.{name}.mesh", "SRV")
        assert texts(short) == texts(full)
        assert not short.additional
        assert not short.flags & dns.flags.TC

    tell(story, seen)


def test_a_new_cookie_each_time_is_kept_once() -> None:
    async def story(rig: Rig) -> None:
        for number in range(5):
            cookie = dns.edns.GenericOption(10, number.to_bytes(8, "big"))
            answer = await rig.ask("orders.mesh", use_edns=0, options=[cookie])
            assert (texts(answer), answer.options) == (["127.0.0.1"], ())
        assert len(rig.server._responder._packed) == 1
        assert rig.server.counts["mesh"] == 5

    tell(story)


def test_what_is_kept_packed_has_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dns_responding, "MAX_PACKED", 10)

    async def story(rig: Rig) -> None:
        for number in range(35):
            assert rcode(await rig.ask(f"x{number}.mesh")) == "NXDOMAIN"
        assert len(rig.server._responder._packed) <= 10
        assert texts(await rig.ask("orders.mesh")) == ["127.0.0.1"]

    tell(story)


# --- TCP ------------------------------------------------------------------------------------------------------------------------


def framed(*packets: bytes) -> bytes:
    return b"".join(len(packet).to_bytes(2, "big") + packet for packet in packets)


async def next_answer(reader: asyncio.StreamReader) -> dns.message.Message:
    return dns.message.from_wire(await reader.readexactly(int.from_bytes(await reader.readexactly(2), "big")))


def query(ident: int, name: str = "orders.mesh", kind: str = "A") -> bytes:
    return dns.message.make_query(name, kind, id=ident).to_wire()


def test_many_questions_on_one_connection() -> None:
    async def story(rig: Rig) -> None:
        reader, writer = await asyncio.open_connection(LOOPBACK, rig.port)
        stream = framed(*(query(ident) for ident in range(3000)))
        writer.write(stream)
        assert [(await next_answer(reader)).id for _ in range(3000)] == list(range(3000))
        for byte in framed(query(1), query(2)):
            writer.write(bytes([byte]))
            await writer.drain()
        assert [(await next_answer(reader)).id for _ in range(2)] == [1, 2]
        writer.close()

    tell(story)


def test_a_client_that_reads_nothing_is_not_answered_without_end() -> None:
    async def story(rig: Rig) -> None:
        reader, writer = await asyncio.open_connection(LOOPBACK, rig.port, limit=1)
        questions = framed(*(query(ident, "crowd.mesh", "TXT") for ident in range(600)))
        writer.write(questions)
        (stream,) = await eventually(lambda: [s for s in rig.server._streams if s._blocked])
        assert stream._transport.get_write_buffer_size() < 200_000
        assert [(await next_answer(reader)).id for _ in range(600)] == list(range(600))
        writer.close()

    tell(story, CROWD)


@pytest.mark.parametrize("bytes_", [b"\0\0", b"\xff\xff" + bytes(100), b"\0\3abc"])
def test_what_is_no_stream_of_messages_is_cut_off_or_left_alone(bytes_: bytes) -> None:
    async def story(rig: Rig) -> None:
        reader, writer = await asyncio.open_connection(LOOPBACK, rig.port)
        writer.write(bytes_ + (framed(query(5)) if bytes_ == b"\0\3abc" else b""))
        if bytes_ == b"\0\3abc":
            assert (await next_answer(reader)).id == 5
        else:
            with pytest.raises((asyncio.IncompleteReadError, ConnectionResetError)):
                await reader.readexactly(1)
        writer.close()

    tell(story)


def test_an_idle_connection_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dns_stream, "IDLE", 0.1)

    async def story(rig: Rig) -> None:
        reader, writer = await asyncio.open_connection(LOOPBACK, rig.port)
        writer.write(framed(query(1)) + b"\0")
        assert (await next_answer(reader)).id == 1
        with pytest.raises((asyncio.IncompleteReadError, ConnectionResetError)):
            await reader.readexactly(1)
        writer.close()
        await eventually(lambda: not rig.server._streams)

    tell(story)


def test_connections_have_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("meshq.adapters.dns.MAX_STREAMS", 2)

    async def story(rig: Rig) -> None:
        kept = [await asyncio.open_connection(LOOPBACK, rig.port) for _ in range(2)]
        for reader, writer in kept:
            writer.write(framed(query(1)))
            assert (await next_answer(reader)).id == 1
        reader, extra = await asyncio.open_connection(LOOPBACK, rig.port)
        with pytest.raises((asyncio.IncompleteReadError, ConnectionResetError)):
            await reader.readexactly(1)
        for writer in (extra, *(writer for _, writer in kept)):
            writer.close()

    tell(story)


# --- ports ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM])
def test_a_port_that_is_taken_by_either(kind: socket.SocketKind) -> None:
    async def story(rig: Rig) -> None:
        with socket.socket(socket.AF_INET, kind) as taken:
            taken.bind((LOOPBACK, 0))
            if kind is socket.SOCK_STREAM:
                taken.listen()
            other = DnsServer(lambda: rig.names, rig.forwarder)
            with pytest.raises(OSError, match="in use"):
                await other.listen(LOOPBACK, taken.getsockname()[1])
            await other.close()

    tell(story)


def test_a_file_that_is_not_there(tmp_path: Any) -> None:
    assert system_resolv_conf(tmp_path / "none").servers == ()


# --- the others -------------------------------------------------------------------------------------------------------------------


def test_with_nobody_behind_other_names_are_refused() -> None:
    async def story(rig: Rig) -> None:
        assert rcode(await rig.ask("example.com")) == "REFUSED"

    tell(story)


def test_the_meshs_own_names_never_leave() -> None:
    async def run() -> None:
        async with resolver() as (upstream, server), running(SEEN, server) as rig:
            for name in ("orders.mesh", "unknown.mesh", "localhost", "a.localhost", "1.0.0.127.in-addr.arpa"):
                await rig.ask(name)
                await rig.ask(name, "PTR" if name.endswith("arpa") else "TXT")
            assert upstream.names == ["1.0.0.127.in-addr.arpa."]  # its address, which is no question for its name

    asyncio.run(run())


def test_closing_ends_what_is_under_way() -> None:
    async def run() -> None:
        with dead() as server:
            async with running(SEEN, server) as rig:
                reader, writer = await asyncio.open_connection(LOOPBACK, rig.port)
                writer.write(framed(query(1)))
                assert (await next_answer(reader)).id == 1
            with pytest.raises((asyncio.IncompleteReadError, ConnectionResetError)):
                await reader.readexactly(1)
            writer.close()

    asyncio.run(run())
