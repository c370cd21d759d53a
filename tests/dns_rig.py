"""Mesh DNS for tests: the real server on free ports, and resolvers behind it that do as they are told. Messages are made and read by
dnspython, which this project did not write."""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import replace
from types import MappingProxyType
from typing import Any, cast

import dns.asyncquery
import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import dns.rrset

from meshq.adapters.clock import SystemClock
from meshq.adapters.dns import DnsServer, Forwarder
from meshq.adapters.dns_cache import Cache
from meshq.core.dns import Names, Zone
from meshq.core.instances import EMPTY, Instance, Service, Snapshot, State
from meshq.core.names import parse_version

LOOPBACK = "127.0.0.1"
PATIENCE = 20.0
ZONE = Zone("mesh", 3600, v6=False)


# --- the mesh ---------------------------------------------------------------------------------------------------------------


def instance(
    service: str, ident: str, version: str = "2.3.1", state: State = State.READY, address: str = "", **endpoints: str
) -> Instance:
    found = parse_version(version)
    return Instance(
        service, ident, found, (found.major,), state, address=address, endpoints=MappingProxyType(dict(endpoints))
    )


def picture(*instances: Instance, revision: int = 7, **majors: tuple[int, ...]) -> Snapshot:
    """Services by their instances; `orders=(1, 2)`: and that `orders` had those majors."""
    services: dict[str, Service] = {}
    for name in {*(i.service for i in instances), *majors}:
        own = tuple(i for i in instances if i.service == name)
        had = {major: parse_version(f"{major}.0.0") for major in majors.get(name, ())}
        had |= {major: i.version for i in own for major in i.majors}
        services[name] = Service(name, MappingProxyType(had), own)
    return replace(EMPTY, revision=revision, services=MappingProxyType(services))


# --- the server -------------------------------------------------------------------------------------------------------------


class Rig:
    """One running server, and what it is asked."""

    def __init__(self, zone: Zone, seen: Snapshot, upstream: tuple[tuple[str, int], ...], **forwarding: Any) -> None:
        self.zone = zone
        self.names = Names(zone, seen)
        self.cache = Cache()
        self.forwarder = Forwarder(upstream, SystemClock(), cache=self.cache, **forwarding)
        self.server = DnsServer(lambda: self.names, self.forwarder)
        self.port = 0

    def see(self, seen: Snapshot) -> None:
        self.names = Names(self.zone, seen)

    async def send(self, query: dns.message.Message, *, tcp: bool = False) -> dns.message.Message:
        ask = dns.asyncquery.tcp if tcp else dns.asyncquery.udp
        return cast(dns.message.Message, await ask(query, LOOPBACK, timeout=PATIENCE, port=self.port))

    async def ask(self, name: str, kind: str = "A", *, tcp: bool = False, **edns: Any) -> dns.message.Message:
        return await self.send(dns.message.make_query(name, kind, **edns), tcp=tcp)

    async def raw(self, packet: bytes) -> bytes:
        """Over UDP, whatever the bytes."""
        with _datagrams() as client:
            client.connect((LOOPBACK, self.port))
            loop = asyncio.get_running_loop()
            await loop.sock_sendall(client, packet)
            return await asyncio.wait_for(loop.sock_recv(client, 65_535), PATIENCE)


@asynccontextmanager
async def running(
    seen: Snapshot,
    *upstream: tuple[str, int],
    zone: Zone = ZONE,
    **forwarding: Any,
) -> AsyncIterator[Rig]:
    rig = Rig(zone, seen, upstream, **forwarding)
    rig.port = await rig.server.listen(LOOPBACK, 0)
    try:
        yield rig
    finally:
        await rig.server.close()
        await asyncio.sleep(0)


async def eventually(look: Callable[[], Any]) -> Any:
    """What `look` gives, once it is something. Raises TimeoutError."""
    never = asyncio.Event()
    async with asyncio.timeout(PATIENCE):
        while not (found := look()):
            with suppress(TimeoutError):
                await asyncio.wait_for(never.wait(), 0.01)
    return found


def texts(answer: dns.message.Message) -> list[str]:
    """The data of the answer section, as text."""
    return [rdata.to_text() for rrset in answer.answer for rdata in rrset]


def rcode(answer: dns.message.Message) -> str:
    return dns.rcode.to_text(answer.rcode())


# --- a resolver behind it ------------------------------------------------------------------------------------------------------

Answering = Callable[[dns.message.Message, bool], list[bytes]]
"""What to send back to a query; the second argument: whether it came over TCP."""


def good(
    query: dns.message.Message, tcp: bool, *, ttl: int = 60, texts: tuple[str, ...] = ("192.0.2.7",)
) -> list[bytes]:
    """A records, whatever was asked."""
    answer = dns.message.make_response(query, recursion_available=True)
    answer.answer.append(dns.rrset.from_text(query.question[0].name, ttl, "IN", "A", *texts))
    return [answer.to_wire(max_size=65_535)]


class Upstream:
    def __init__(self, answering: Answering) -> None:
        self.answering = answering
        self.asked: list[tuple[dns.message.Message, bool]] = []

    @property
    def names(self) -> list[str]:
        return [message.question[0].name.to_text() for message, _ in self.asked]

    def take(self, packet: bytes, tcp: bool) -> list[bytes]:
        query = dns.message.from_wire(packet)
        self.asked.append((query, tcp))
        return self.answering(query, tcp)


class _Udp(asyncio.DatagramProtocol):
    def __init__(self, upstream: Upstream) -> None:
        self._upstream = upstream

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, addr: Any) -> None:
        for answer in self._upstream.take(data, False):
            self._transport.sendto(answer, addr)


@asynccontextmanager
async def resolver(answering: Answering = good) -> AsyncIterator[tuple[Upstream, tuple[str, int]]]:
    """A resolver on a free port of UDP and TCP."""
    upstream = Upstream(answering)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            packet = await reader.readexactly(int.from_bytes(await reader.readexactly(2), "big"))
            for answer in upstream.take(packet, True):
                writer.write(len(answer).to_bytes(2, "big") + answer)
            await writer.drain()
        finally:
            writer.close()

    server = await asyncio.start_server(serve, LOOPBACK, 0)
    port = server.sockets[0].getsockname()[1]
    transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(
        lambda: _Udp(upstream), local_addr=(LOOPBACK, port)
    )
    try:
        yield upstream, (LOOPBACK, port)
    finally:
        transport.close()
        server.close()
        await server.wait_closed()


@contextmanager
def silent() -> Iterator[tuple[str, int]]:
    """A resolver that takes questions and never says anything."""
    with _datagrams() as taking:
        taking.bind((LOOPBACK, 0))
        yield taking.getsockname()


@contextmanager
def dead() -> Iterator[tuple[str, int]]:
    """A port that nobody listens on."""
    with ExitStack() as stack:
        held = stack.enter_context(socket.socket())  # the TCP port is ours, so that nobody is given it
        held.bind((LOOPBACK, 0))
        yield held.getsockname()


def _datagrams() -> socket.socket:
    made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    made.setblocking(False)
    return made
