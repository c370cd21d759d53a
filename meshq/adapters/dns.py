"""The server of mesh DNS: UDP and TCP on the addresses it is given. The parts: dns_responding (a query to its answer), dns_packets
(answers as bytes), dns_stream (a client over TCP), dns_forwarding, dns_upstream and dns_cache (what is not the mesh's)."""

import asyncio
import logging
import socket
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, cast

from meshq.adapters.dns_forwarding import Forwarder
from meshq.adapters.dns_responding import Responder
from meshq.adapters.dns_stream import Stream
from meshq.core.dns import Names
from meshq.core.resolv import ResolvConf, read_resolv_conf

__all__ = ["DnsServer", "Forwarder", "system_resolv_conf"]

logger = logging.getLogger(__name__)

MAX_STREAMS = 64
"""Clients over TCP at once; more are cut off."""
SWEEP_EVERY = 1.0
RESOLV_CONF = Path("/etc/resolv.conf")


def system_resolv_conf(path: Path = RESOLV_CONF) -> ResolvConf:
    """What the machine's resolvers are now; nothing where the file cannot be read."""
    try:
        return read_resolv_conf(path.read_text(errors="replace"))
    except OSError as error:
        logger.warning("%s cannot be read: %s", path, error.strerror)
        return ResolvConf()


class DnsServer:
    """meshq.ports.NameServer. `names` gives the names of the latest picture: the same object until there is another."""

    def __init__(self, names: Callable[[], Names], forwarder: Forwarder) -> None:
        self._forwarder = forwarder
        self._responder = Responder(names, forwarder)
        self._datagrams: list[asyncio.DatagramTransport] = []
        self._listeners: list[asyncio.Server] = []
        self._streams: set[Stream] = set()
        self._sweeper: asyncio.TimerHandle | None = None

    @property
    def counts(self) -> Mapping[str, int]:
        """Queries so far by what became of them (dns_responding.RESULTS)."""
        return self._responder.counts

    async def listen(self, host: str, port: int) -> int:
        loop = asyncio.get_running_loop()
        listener = await loop.create_server(self._stream, host, port, backlog=128)
        self._listeners.append(listener)
        taken = int(listener.sockets[0].getsockname()[1])
        # A socket of our own making: libraries differ in whether theirs shares its port with another's without a word.
        datagrams = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM)
        try:
            datagrams.setblocking(False)
            datagrams.bind((host, taken))
            transport, _ = await loop.create_datagram_endpoint(lambda: _Datagrams(self._responder), sock=datagrams)
        except OSError:
            datagrams.close()
            raise
        self._datagrams.append(transport)
        return taken

    async def close(self) -> None:
        for listener in self._listeners:
            listener.close()
        for transport in self._datagrams:
            transport.close()
        for stream in list(self._streams):
            stream.abort()
        if self._sweeper is not None:
            self._sweeper.cancel()
            self._sweeper = None
        await self._forwarder.close()

    def _stream(self) -> Stream:
        return Stream(self._responder, self._opened, self._streams.discard)

    def _opened(self, stream: Stream) -> bool:
        if len(self._streams) >= MAX_STREAMS:
            return False
        self._streams.add(stream)
        if self._sweeper is None:
            self._sweeper = asyncio.get_running_loop().call_later(SWEEP_EVERY, self._sweep)
        return True

    def _sweep(self) -> None:
        loop = asyncio.get_running_loop()
        for stream in list(self._streams):
            stream.sweep(loop.time())
        # Nothing to wake up for where nobody is.
        self._sweeper = loop.call_later(SWEEP_EVERY, self._sweep) if self._streams else None


class _Datagrams(asyncio.DatagramProtocol):
    def __init__(self, responder: Responder) -> None:
        self._known = responder.known
        self._answer = responder.answer

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.DatagramTransport, transport)
        self._send = self._transport.sendto

    def datagram_received(self, data: bytes, addr: Any) -> None:
        answer = self._known(data)
        if answer is not None:
            self._send(answer, addr)
        else:
            self._answer(data, partial(self._reply, addr))

    def error_received(self, exc: Exception) -> None:
        """A client has gone before its answer came."""

    def _reply(self, addr: Any, answer: bytes) -> None:
        if not self._transport.is_closing():
            self._send(answer, addr)
