"""Whatever bytes come: nothing raises, what is answered can be read by another library, and no answer is longer than its client
can take."""

import asyncio
import random

import dns.exception
import dns.message
import dns.name
from hypothesis import example, given, settings
from hypothesis import strategies as st

from meshq.adapters.clock import ManualClock
from meshq.adapters.dns_forwarding import Asked, Done, Forwarder, Found
from meshq.adapters.dns_responding import SIZE, Responder
from meshq.core.dns import Names, Zone
from meshq.core.dns_wire import HEADER, Edns, Malformed, aged, bare, read
from meshq.core.resolv import Cluster, cluster_of, read_resolv_conf, service_of
from tests.dns_rig import instance, picture

SEEN = picture(
    instance("orders", "orders-a", "2.3.1", http="10.0.0.7:8080"),
    instance("orders", "orders-b", "1.4.0", http="[fd00::7]:8080"),
    *(instance("crowd", f"crowd-{n}", http="10.0.0.8:80") for n in range(250)),
)
NAMES = Names(Zone("mesh", 3600, v6=True, cluster=Cluster("shop")), SEEN)

LABELS = st.one_of(
    st.sampled_from(
        b"orders crowd mesh MESH v2 orders-a _http _tcp localhost arpa in-addr shop svc cluster local 7 0 10 a.b \xff".split()
    ),
    st.binary(min_size=1, max_size=63),
)
KINDS = st.one_of(st.sampled_from([1, 2, 6, 12, 13, 16, 28, 33, 41, 65, 252, 255]), st.integers(0, 65535))
EDNS = st.none() | st.builds(
    Edns, st.integers(0, 65535), st.sampled_from([0, 0, 0, 1, 255]), st.booleans(), st.integers(0, 255)
)


@st.composite
def queries(draw: st.DrawFn) -> bytes:
    labels, size = [], 0
    for label in draw(st.lists(LABELS, max_size=8)):
        if (size := size + 1 + len(label)) > 254:
            break
        labels.append(label)
    name = b"".join(bytes([len(label)]) + label for label in labels) + b"\0"
    question = name + draw(KINDS).to_bytes(2, "big") + draw(st.sampled_from([1, 1, 1, 3, 255])).to_bytes(2, "big")
    flags = draw(st.sampled_from([0x0100, 0x0000, 0x0120, 0x0110, 0x2800]))
    return bare(flags, question, draw(EDNS), draw(st.integers(0, 65535)))


@st.composite
def broken(draw: st.DrawFn) -> bytes:
    """A query with some of its bytes changed, cut or put in."""
    packet = bytearray(draw(queries()))
    for _ in range(draw(st.integers(1, 6))):
        at = draw(st.integers(0, len(packet)))
        match draw(st.sampled_from(["change", "cut", "insert"])):
            case "change" if at < len(packet):
                packet[at] = draw(st.integers(0, 255))
            case "cut":
                del packet[at : at + draw(st.integers(0, 8))]
            case _:
                packet[at:at] = draw(st.binary(max_size=8))
    return bytes(packet)


class Behind(Forwarder):
    """Resolvers that say what they are told to."""

    def __init__(self, found: Found | None) -> None:
        super().__init__([("192.0.2.1", 53)], ManualClock())
        self._found = found

    def ask(self, asked: Asked, done: Done) -> None:
        done(self._found)


FOUND = Found(0x8180, (1, 0, 0), b"\xc0\x0c\0\1\0\1\0\0\0\x3c\0\4\x7f\0\0\1", "forwarded")
LONG = Found(0x8180, (300, 0, 0), FOUND.records * 300, "kept")


@settings(max_examples=500)
@given(
    packet=queries() | broken() | st.binary(max_size=600),
    stream=st.booleans(),
    found=st.sampled_from([FOUND, LONG, None]),
)
@example(packet=b"", stream=False, found=None)
@example(packet=HEADER.pack(0, 0, 1, 65535, 65535, 65535) + b"\0\0\1\0\1" + b"\0" * 3000, stream=True, found=None)
def test_any_bytes(packet: bytes, stream: bool, found: Found | None) -> None:
    check(packet, stream, found)


def test_many_more_bytes() -> None:
    """Without Hypothesis, which takes some milliseconds for each: queries with bytes changed, cut, put in, doubled."""
    drawn = random.Random(7)
    names = [
        b"\6orders\4mesh\0",
        b"\5_http\4_tcp\5crowd\4MESH\0",
        b"\7example\0",
        b"\0",
        b"\x017\x010\x010\x0210\7in-addr\4arpa\0",
    ]
    for number in range(10_000):
        question = drawn.choice(names) + drawn.choice([1, 12, 16, 28, 33, 255]).to_bytes(2, "big") + b"\0\1"
        packet = bytearray(bare(0x0100, question, drawn.choice([None, Edns(512), Edns(4096, 0, True)]), number))
        for _ in range(drawn.randrange(4)):
            at = drawn.randrange(len(packet) + 1)
            packet[at : at + drawn.randrange(4)] = drawn.choice(
                [drawn.randbytes(drawn.randrange(4)), packet[: at // 2]]
            )
        check(bytes(packet), drawn.random() < 0.3, drawn.choice([FOUND, LONG, None]))


def check(packet: bytes, stream: bool, found: Found | None) -> None:
    """`found`: what the resolvers behind say."""
    responder = Responder(lambda: NAMES, Behind(found))
    answers: list[bytes] = []
    taken = responder.answer(packet, answers.append, stream=stream)
    assert len(answers) == taken
    assert sum(responder.counts.values()) == 1
    if not answers:
        assert len(packet) < HEADER.size or packet[2] & 0x80
        return
    (answer,) = answers
    assert answer[:2] == packet[:2]
    assert answer[2] & 0x80
    message = dns.message.from_wire(answer, question_only=False)
    if len(answer) > HEADER.size:
        query = read(packet)
        assert answer[HEADER.size :].startswith(query.question.packed)
        most = SIZE if query.edns is not None else 512
        assert stream or len(answer) <= min(most, max(512, query.edns.size if query.edns else 512))
        assert (message.edns >= 0) is (query.edns is not None)
    if not stream:
        again = responder.known(packet)
        assert again is None or again == answer


@settings(max_examples=500)
@given(packet=queries() | broken() | st.binary(max_size=300))
def test_the_outline_is_that_of_another_parser(packet: bytes) -> None:
    """Whatever we read, dnspython reads with the same question; it takes more (names over pointers), and we take more types."""
    try:
        message = read(packet)
    except Malformed:
        return
    try:
        theirs = dns.message.from_wire(packet, ignore_trailing=False, one_rr_per_rrset=True)
    except (dns.exception.DNSException, ValueError):
        return
    (question,) = theirs.question
    assert question.name == dns.name.Name((*message.question.labels, b""))
    assert (int(question.rdtype), int(question.rdclass)) == (message.question.kind, message.question.cls)
    assert (theirs.edns if theirs.edns >= 0 else None) == (None if message.edns is None else message.edns.version)
    assert len(message.ttls) == sum(len(rrset) for section in theirs.sections[1:] for rrset in section)
    read(aged(packet, message.ttls, 7))


@given(text=st.text(alphabet=st.sampled_from("nameservrchdoi 0123456789.:%#;\n\tfe"), max_size=200))
@example(text="nameserver 10.0.0.1\nsearch .. a..b .\n")
def test_any_resolv_conf(text: str) -> None:
    found = read_resolv_conf(text)
    cluster = cluster_of(found.search)
    for name in (*found.search, "orders", ""):
        service_of(name, cluster)


@given(name=st.text(alphabet="orders.shopvclutea-", max_size=60))
def test_what_is_captured_is_a_service_in_its_namespace(name: str) -> None:
    service = service_of(name, Cluster("shop"))
    if service is not None:
        assert name in {service, f"{service}.shop", f"{service}.shop.svc", f"{service}.shop.svc.cluster.local"}


def test_the_server_lives_through_a_storm() -> None:
    """The same over a real socket, many at once."""
    from tests.dns_rig import running

    async def run() -> None:
        async with running(SEEN) as rig:
            loop = asyncio.get_running_loop()
            transport, _ = await loop.create_datagram_endpoint(
                asyncio.DatagramProtocol, remote_addr=("127.0.0.1", rig.port)
            )
            whole = bare(0x0100, b"\6orders\4mesh\0\0\1\0\1", Edns(1232), 7)
            for length in range(len(whole)):
                transport.sendto(whole[:length])
                transport.sendto(whole[:length] + b"\xff" * (len(whole) - length))
            assert (await rig.ask("orders.mesh")).answer
            transport.close()

    asyncio.run(run())
