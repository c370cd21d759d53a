"""One question to one resolver: over UDP, and over TCP what does not fit. Each try has a socket of its own, so a source port that
the system draws, and a random id; what comes is an answer only if it has both and asks the same question (RFC 5452)."""

import asyncio
import secrets
from contextlib import suppress

from meshq.core.dns_records import Status
from meshq.core.dns_wire import RCODE, RESPONSE, TRUNCATED, Edns, Malformed, Message, Question, bare, read

Server = tuple[str, int]
"""IP address and port."""

SIZE = 1232
"""Bytes of an answer over UDP: what every network carries in one piece (DNS flag day 2020)."""
_GOOD = (Status.GOOD, Status.NO_SUCH_NAME)
_NO_EDNS = (Status.FORMAT_ERROR, Status.NOT_IMPLEMENTED)
"""How servers from before EDNS answer a question that has it (RFC 6891 section 7)."""


class Failed(Exception):
    """This server has no answer; the message says why."""


async def ask(server: Server, question: Question, flags: int, dnssec_ok: bool, seconds: float) -> tuple[bytes, Message]:
    """The answer and its outline. Raises Failed."""
    try:
        async with asyncio.timeout(seconds):
            answer = await _ask(server, question, flags, Edns(SIZE, 0, dnssec_ok))
            if answer[1].flags & RCODE in _NO_EDNS and answer[1].edns is None:
                answer = await _ask(server, question, flags, None)
    except TimeoutError:
        raise Failed(f"no answer in {seconds:.1f} s") from None
    except OSError as error:
        raise Failed(error.strerror or str(error)) from error
    message = answer[1]
    if message.flags & RCODE not in _GOOD or (message.edns is not None and message.edns.rcode):
        raise Failed(f"it answered with the code {message.flags & RCODE}")
    return answer


async def _ask(server: Server, question: Question, flags: int, edns: Edns | None) -> tuple[bytes, Message]:
    ident = secrets.randbelow(2**16)
    query = bare(flags, question.packed, edns, ident)
    packet, message = await _over_udp(server, query, question)
    if message.flags & TRUNCATED:
        return await _over_tcp(server, query, question)
    return packet, message


def _read(packet: bytes, query: bytes, question: Question) -> Message | None:
    """The outline of an answer to `query`; None for anything else."""
    try:
        message = read(packet)
    except Malformed:
        return None
    ours = packet[:2] == query[:2] and message.flags & RESPONSE and message.question.folded == question.folded
    return message if ours else None


async def _over_udp(server: Server, query: bytes, question: Question) -> tuple[bytes, Message]:
    loop = asyncio.get_running_loop()
    answered: asyncio.Future[tuple[bytes, Message]] = loop.create_future()
    transport, _ = await loop.create_datagram_endpoint(
        lambda: _Datagrams(query, question, answered), remote_addr=server
    )
    try:
        transport.sendto(query)
        return await answered
    finally:
        transport.close()


class _Datagrams(asyncio.DatagramProtocol):
    """Waits for the answer; what is not it is passed over, so that nobody can end the wait with a guess."""

    def __init__(self, query: bytes, question: Question, answered: "asyncio.Future[tuple[bytes, Message]]") -> None:
        self._query = query
        self._question = question
        self._answered = answered

    def datagram_received(self, data: bytes, addr: object) -> None:
        message = _read(data, self._query, self._question)
        if message is not None and not self._answered.done():
            self._answered.set_result((data, message))

    def error_received(self, exc: Exception) -> None:
        """Nobody listens there, says the system."""
        if not self._answered.done():
            self._answered.set_exception(exc)


async def _over_tcp(server: Server, query: bytes, question: Question) -> tuple[bytes, Message]:
    reader, writer = await asyncio.open_connection(*server)
    try:
        writer.write(len(query).to_bytes(2, "big") + query)
        packet = await reader.readexactly(int.from_bytes(await reader.readexactly(2), "big"))
    except asyncio.IncompleteReadError:
        raise Failed("it broke off over TCP") from None
    finally:
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()
    message = _read(packet, query, question)
    if message is None or message.flags & TRUNCATED:
        raise Failed("what it said over TCP is no answer")
    return packet, message
