"""What is not the mesh's: asked of resolvers that are slow, silent, dead, lying, short of room."""

import asyncio
from collections.abc import Callable
from functools import partial

import dns.flags
import dns.message
import dns.rcode
import dns.rrset
import pytest

from meshq.adapters import dns_forwarding
from tests.dns_rig import (
    LOOPBACK,
    PATIENCE,
    Rig,
    dead,
    eventually,
    good,
    picture,
    rcode,
    resolver,
    running,
    silent,
    texts,
)

SEEN = picture(orders=(1,))


def with_code(code: dns.rcode.Rcode, *, edns: bool = True) -> Callable[[dns.message.Message, bool], list[bytes]]:
    def answering(query: dns.message.Message, tcp: bool) -> list[bytes]:
        answer = dns.message.make_response(query)
        answer.set_rcode(code)
        if not edns:
            answer.use_edns(False)
        return [answer.to_wire()]

    return answering


def absent(query: dns.message.Message, tcp: bool, ttl: int = 300) -> list[bytes]:
    answer = dns.message.make_response(query)
    answer.set_rcode(dns.rcode.NXDOMAIN)
    answer.authority.append(dns.rrset.from_text("example.", ttl, "IN", "SOA", "ns.example. a.example. 1 2 3 4 120"))
    return [answer.to_wire()]


@pytest.mark.parametrize("tcp", [False, True])
@pytest.mark.parametrize("edns", [{}, {"use_edns": 0, "payload": 1400}, {"want_dnssec": True}])
def test_an_answer_is_passed_on(tcp: bool, edns: dict[str, object]) -> None:
    async def run() -> None:
        async with resolver() as (upstream, server), running(SEEN, server) as rig:
            answer = await rig.ask("WWW.example.COM", tcp=tcp, **edns)
            assert texts(answer) == ["192.0.2.7"]
            assert answer.question[0].name.to_text() == "WWW.example.COM."
            assert (answer.edns == 0) is bool(edns)
            ((asked, over_tcp),) = upstream.asked
            assert (asked.edns, asked.payload, over_tcp) == (0, 1232, False)
            assert bool(asked.ednsflags & dns.flags.DO) is ("want_dnssec" in edns)
            again = await rig.ask("www.example.com", tcp=tcp, **edns)
            assert texts(again) == ["192.0.2.7"]
            assert again.answer[0].name.to_text() == "www.example.com."
            assert len(upstream.asked) == 1
            assert (rig.server.counts["forwarded"], rig.server.counts["kept"]) == (1, 1)

    asyncio.run(run())


def test_every_question_has_an_id_and_a_port_of_its_own() -> None:
    async def run() -> None:
        async with resolver() as (upstream, server), running(SEEN, server) as rig:
            for number in range(20):
                await rig.ask(f"h{number}.example", id=7)
            ids = {message.id for message, _ in upstream.asked}
            assert len(ids) > 10

    asyncio.run(run())


def test_absence_is_kept_for_as_long_as_its_authority_says() -> None:
    async def run() -> None:
        async with resolver(absent) as (upstream, server), running(SEEN, server) as rig:
            for _ in range(2):
                answer = await rig.ask("nothing.example")
                assert rcode(answer) == "NXDOMAIN"
                assert answer.authority[0].ttl == 300
            assert len(upstream.asked) == 1

    asyncio.run(run())


def test_what_may_not_be_kept_is_asked_again() -> None:
    async def run() -> None:
        async with resolver(partial(good, ttl=0)) as (upstream, server), running(SEEN, server) as rig:
            for _ in range(2):
                assert texts(await rig.ask("www.example")) == ["192.0.2.7"]
            assert len(upstream.asked) == 2

    asyncio.run(run())


@pytest.mark.parametrize("flags", [dns.flags.CD | dns.flags.RD, dns.flags.AD | dns.flags.RD, 0])
def test_what_the_client_wants_of_it_is_asked_so(flags: int) -> None:
    async def run() -> None:
        async with resolver() as (upstream, server), running(SEEN, server) as rig:
            await rig.ask("www.example")
            answer = await rig.ask("www.example", flags=flags)
            assert upstream.asked[-1][0].flags == flags
            assert len(upstream.asked) == 2  # another question than the first
            copied = dns.flags.RD | dns.flags.CD
            assert answer.flags & copied == flags & copied

    asyncio.run(run())


def test_what_does_not_fit_is_asked_over_tcp() -> None:
    many = tuple(f"192.0.2.{n}" for n in range(200))

    def answering(query: dns.message.Message, tcp: bool) -> list[bytes]:
        if tcp:
            return good(query, tcp, texts=many)
        answer = dns.message.make_response(query)
        answer.flags |= dns.flags.TC
        return [answer.to_wire()]

    async def run() -> None:
        async with resolver(answering) as (upstream, server), running(SEEN, server) as rig:
            short = await rig.ask("www.example")
            assert short.flags & dns.flags.TC
            assert not short.answer
            assert len(texts(await rig.ask("www.example", tcp=True))) == 200
            assert len(texts(await rig.ask("www.example", use_edns=0, payload=4096))) == 200
            assert [tcp for _, tcp in upstream.asked] == [False, True]

    asyncio.run(run())


@pytest.mark.parametrize("says", [b"", b"\0\0", bytes(600)])
def test_nonsense_over_tcp_is_no_answer(says: bytes) -> None:
    def answering(query: dns.message.Message, tcp: bool) -> list[bytes]:
        answer = dns.message.make_response(query)
        answer.flags |= dns.flags.TC
        return [says] if tcp else [answer.to_wire()]

    async def run() -> None:
        async with resolver(answering) as (_, lying), resolver() as (_, server), running(SEEN, lying, server) as rig:
            assert texts(await rig.ask("www.example")) == ["192.0.2.7"]

    asyncio.run(run())


def _altered(query: dns.message.Message, tcp: bool, how: str) -> list[bytes]:
    """The truth, after a lie of one kind."""
    lie = dns.message.make_query("www.example", "A", id=query.id)
    if how == "id":
        lie.id ^= 1
    elif how == "name":
        lie = dns.message.make_query("wwx.example", "A", id=query.id)
    elif how == "type":
        lie = dns.message.make_query("www.example", "AAAA", id=query.id)
    (packet,) = good(lie, tcp, texts=("203.0.113.66",))
    if how == "query":
        packet = packet[:2] + bytes([packet[2] & 0x7F]) + packet[3:]
    elif how == "cut":
        packet = packet[:-3]
    elif how == "nothing":
        packet = b""
    return [packet, *good(query, tcp)]


@pytest.mark.parametrize("how", ["id", "name", "type", "query", "cut", "nothing"])
def test_what_answers_another_question_is_no_answer(how: str) -> None:
    async def run() -> None:
        async with resolver(partial(_altered, how=how)) as (_, server), running(SEEN, server) as rig:
            assert texts(await rig.ask("www.example")) == ["192.0.2.7"]

    asyncio.run(run())


@pytest.mark.parametrize("code", [dns.rcode.SERVFAIL, dns.rcode.REFUSED, dns.rcode.FORMERR, dns.rcode.NOTIMP])
def test_a_server_that_cannot_answer_gives_way_to_the_next(code: dns.rcode.Rcode) -> None:
    async def run() -> None:
        async with resolver(with_code(code)) as (first, one), resolver() as (_, two), running(SEEN, one, two) as rig:
            for name in ("a.example", "b.example"):
                assert texts(await rig.ask(name)) == ["192.0.2.7"]
            assert len(first.asked) == 1  # the other one is asked first from then on

    asyncio.run(run())


def test_a_server_from_before_edns() -> None:
    def answering(query: dns.message.Message, tcp: bool) -> list[bytes]:
        if query.edns >= 0:
            return with_code(dns.rcode.FORMERR, edns=False)(query, tcp)
        return good(query, tcp)

    async def run() -> None:
        async with resolver(answering) as (_, server), running(SEEN, server) as rig:
            answer = await rig.ask("www.example", use_edns=0)
            assert (texts(answer), answer.edns) == (["192.0.2.7"], 0)

    asyncio.run(run())


def test_dead_and_silent_servers_are_passed_over() -> None:
    async def run() -> None:
        with dead() as gone, silent() as mute:
            async with resolver() as (_, server), running(SEEN, gone, mute, server) as rig:
                assert texts(await rig.ask("www.example")) == ["192.0.2.7"]

    asyncio.run(run())


def test_a_slow_answer_is_waited_for() -> None:
    """The first try was given up when it comes; it is the second that hears of it, as a resolver knows by then."""

    async def run() -> None:
        calls = 0

        def answering(query: dns.message.Message, tcp: bool) -> list[bytes]:
            nonlocal calls
            calls += 1
            return [] if calls == 1 else good(query, tcp)

        async with resolver(answering) as (_, server), running(SEEN, server) as rig:
            assert texts(await rig.ask("www.example")) == ["192.0.2.7"]

    asyncio.run(run())


def test_when_nobody_answers() -> None:
    async def run() -> None:
        with dead() as one, dead() as two:
            async with running(SEEN, one, two) as rig:
                answer = await rig.ask("www.example", use_edns=0)
                assert (rcode(answer), answer.edns) == ("SERVFAIL", 0)
                assert answer.question[0].name.to_text() == "www.example."
                assert rig.server.counts["failed"] == 1

    asyncio.run(run())


def test_the_whole_has_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dns_forwarding, "WHOLE", 0.3)

    async def run() -> None:
        with silent() as mute:
            async with running(SEEN, mute) as rig:
                assert rcode(await rig.ask("www.example")) == "SERVFAIL"
                assert rig.forwarder.under_way == 0

    asyncio.run(run())


# --- many at once -----------------------------------------------------------------------------------------------------------------


async def ask_many(rig: Rig, names: list[str]) -> list["asyncio.Task[dns.message.Message]"]:
    return [asyncio.ensure_future(rig.ask(name)) for name in names]


def test_equal_questions_are_asked_once() -> None:
    async def run() -> None:
        replies: list[bytes] = []

        def answering(query: dns.message.Message, tcp: bool) -> list[bytes]:
            replies.extend(good(query, tcp))
            return []

        async with resolver(answering) as (upstream, server), running(SEEN, server) as rig:
            tasks = await ask_many(rig, ["www.example", "WWW.Example", "www.eXample"] * 5)
            await eventually(lambda: rig.forwarder._count == 15)
            assert rig.forwarder.under_way == 1
            upstream.answering = good  # from the second try on
            answers = await asyncio.wait_for(asyncio.gather(*tasks), PATIENCE)
            assert {tuple(texts(answer)) for answer in answers} == {("192.0.2.7",)}
            assert len(upstream.asked) == 2

    asyncio.run(run())


def test_too_many_at_once_are_refused_at_once() -> None:
    async def run() -> None:
        with silent() as mute:
            async with running(SEEN, mute, max_under_way=3) as rig:
                tasks = await ask_many(rig, [f"h{n}.example" for n in range(3)])
                await eventually(lambda: rig.forwarder.under_way == 3)
                assert rcode(await rig.ask("h3.example")) == "SERVFAIL"
                assert texts(await rig.ask("orders.mesh")) == ["127.0.0.1"]
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)

    asyncio.run(run())


def test_a_client_over_tcp_waits_for_some_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("meshq.adapters.dns_stream.MAX_UNANSWERED", 4)

    async def run() -> None:
        with silent() as mute:
            async with running(SEEN, mute) as rig:
                _, writer = await asyncio.open_connection(LOOPBACK, rig.port)
                for number in range(10):
                    packet = dns.message.make_query(f"h{number}.example", "A").to_wire()
                    writer.write(len(packet).to_bytes(2, "big") + packet)
                await eventually(lambda: rig.forwarder.under_way == 4)
                writer.close()

    asyncio.run(run())


def test_a_client_over_tcp_that_asks_no_more_is_still_answered() -> None:
    async def run() -> None:
        async with resolver() as (_, server), running(SEEN, server) as rig:
            reader, writer = await asyncio.open_connection(LOOPBACK, rig.port)
            for name in ("a.example", "orders.mesh", "b.example"):
                packet = dns.message.make_query(name, "A").to_wire()
                writer.write(len(packet).to_bytes(2, "big") + packet)
            writer.write_eof()
            stream = await asyncio.wait_for(reader.read(), PATIENCE)
            found = []
            while stream:
                end = 2 + int.from_bytes(stream[:2], "big")
                found.append(dns.message.from_wire(stream[2:end]).question[0].name.to_text())
                stream = stream[end:]
            assert sorted(found) == ["a.example.", "b.example.", "orders.mesh."]
            writer.close()

    asyncio.run(run())


def test_a_resolver_that_asks_us_back_ends_in_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dns_forwarding, "WHOLE", 1.0)

    async def run() -> None:
        async with running(SEEN, (LOOPBACK, 1)) as rig:
            rig.forwarder.servers = ((LOOPBACK, rig.port),)
            assert rcode(await rig.ask("www.example")) == "SERVFAIL"
            assert rig.forwarder.under_way == 0

    asyncio.run(run())
