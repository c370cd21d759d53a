"""One client's connection to the HTTP server: whole requests to the handler, answers out in order. Its rules:

- Nothing is parsed ahead of need: the next request is taken from the buffer only when it could be handled, so what a client
  may pile up is bounded by the read buffer, after which reading pauses.
- Pipelined requests run side by side only if all of them are safe methods (RFC 9112 section 9.3.2); any other waits until
  those before it are answered. Answers leave in the order of the requests.
- A refused request is answered behind those before it, and is the last one: where its body ends is not known. The
  connection then discards for a moment what still comes, because closing on unread bytes makes the kernel send a reset,
  which can destroy the answer before the client reads it.
- A client that shut its write side still gets its answers; one that is gone has its exchanges told so.
"""

import asyncio
import logging
import socket
from collections import deque
from collections.abc import Callable
from enum import Enum, auto
from typing import Protocol, cast

from meshq.adapters.http_framing import Limits, Malformed
from meshq.adapters.http_peer import peer_is_gone
from meshq.adapters.http_reading import Incoming, RequestReader
from meshq.adapters.http_writing import CONTINUE, internal_error, refusal, render, switching
from meshq.core.errors import Code, Problem
from meshq.core.http import HttpRequest, HttpResponse
from meshq.ports import HttpHandler, Successor

log = logging.getLogger(__name__)

READ_AHEAD = 64 * 1024
"""Bytes kept unparsed while a connection may not go on; at it, reading pauses."""
LINGER_BYTES = 1024 * 1024
LINGER_SECONDS = 1.0

_SAFE = frozenset({b"GET", b"HEAD", b"OPTIONS", b"TRACE"})


class _Stage(Enum):
    OPEN = auto()
    LAST = auto()  # the last request was taken; what still comes is discarded
    LINGERING = auto()  # the last answer was written; waits for the client to close
    CLOSED = auto()


class _Phase(Enum):
    """What an open connection waits for; each has its own time limit."""

    IDLE = auto()
    HEAD = auto()
    BODY = auto()
    ANSWER = auto()


class Owner(Protocol):
    """What a connection needs of its server."""

    limits: Limits
    closing: bool
    """No more is accepted: every answer is its connection's last."""

    def now(self) -> float: ...
    def opened(self, connection: "Connection") -> None: ...
    def lost(self, connection: "Connection | Successor") -> None: ...
    def succeeded(self, connection: "Connection", by: Successor) -> None: ...


class _Exchange:
    """meshq.ports.Exchange of one request."""

    __slots__ = ("_connection", "_hangup", "keep_alive", "local_port", "minor", "request", "response")

    def __init__(self, connection: "Connection", incoming: Incoming) -> None:
        self.request, self.minor, self.keep_alive = incoming
        self.local_port = connection.port
        self.response: HttpResponse | None = None
        self._connection: Connection | None = connection
        self._hangup: Callable[[], None] | None = None

    @property
    def safe(self) -> bool:
        return self.request.method in _SAFE

    def respond(self, response: HttpResponse) -> None:
        connection = self._connection
        if connection is not None:
            self._connection = self._hangup = None
            self.response = response
            connection.advance()

    def on_hangup(self, callback: Callable[[], None]) -> None:
        if self._connection is not None:
            self._hangup = callback

    def upgrade(self, protocol: str, successor: Successor) -> bool:
        connection = self._connection
        if connection is None or not connection.may_upgrade(self):
            return False
        self._connection = self._hangup = None
        connection.hand_over(protocol, successor)
        return True

    def hung_up(self) -> None:
        callback, self._connection, self._hangup = self._hangup, None, None
        if callback is not None:
            try:
                callback()
            except Exception:
                log.exception("an on_hangup callback raised")


class Connection(asyncio.Protocol):
    """One client's connection. `advance` is the only place where it goes on; everything else notes and calls it."""

    def __init__(self, server: Owner, handler: HttpHandler) -> None:
        # For as long as the connection lives.
        self.port = 0
        self._server = server
        self._limits = server.limits
        self._handler = handler
        self._transport: asyncio.Transport = cast(asyncio.Transport, None)
        self._stage = _Stage.OPEN
        self._eof = False
        self._write_paused = False
        self._read_paused = False
        self._advancing = False
        self._discarded = 0
        # Of the times: what is waited for, since when, and what the sweep saw last.
        self._phase = _Phase.IDLE
        self._since = 0.0
        self._window = 0  # bytes that came since `_since`
        self._unsent = 0  # bytes in the write buffer at the last sweep in which it shrank
        self._unsent_since = 0.0
        self._reader = RequestReader(server.limits)
        self._continued = False  # the request being read has got its 100
        # Of the requests that were read.
        self._waiting: deque[_Exchange] = deque()
        self._held: _Exchange | None = None  # read, but it may not start before the others are answered
        self._out: list[bytes] = []

    # --- what the transport calls ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._since = self._server.now()
        sock = transport.get_extra_info("socket")
        if sock is not None:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.port = transport.get_extra_info("sockname")[1]
        self._server.opened(self)

    def data_received(self, data: bytes) -> None:
        if self._stage is not _Stage.OPEN:
            self._discard(len(data))
            return
        self._window += len(data)
        self._reader.feed(data)
        self.advance()

    def eof_received(self) -> bool:
        self._eof = True
        unfinished = bool(self._waiting) or (self._reader.unread > 0 and not self._may_read())
        return self._stage in (_Stage.OPEN, _Stage.LAST) and unfinished

    def pause_writing(self) -> None:
        self._write_paused = True
        self._unsent = self._transport.get_write_buffer_size()
        self._unsent_since = self._server.now()
        self._regulate_reading()

    def resume_writing(self) -> None:
        self._write_paused = False
        self.advance()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stage = _Stage.CLOSED
        self._server.lost(self)
        self._forsake()
        self._reader.drop()

    # --- going on ---

    def advance(self) -> None:
        """Start what may start, write what is answered, in turns until nothing moves; then one write."""
        if self._advancing or self._closed:
            return
        self._advancing = True
        answered = False
        while True:
            taken = self._take_requests()
            answered = self._collect_answers() or answered
            if self._held is not None and not self._waiting:
                held, self._held = self._held, None
                self._start(held)
            elif not (taken and self._reader.unread):
                break
        self._advancing = False
        self._write()
        if self._closed:  # handed over: it is the successor's now
            return
        if self._stage is _Stage.LAST and not self._waiting:
            self._end()
        elif self._eof and not self._waiting:
            self._close()
        else:
            self._note_phase(answered)
            self._regulate_reading()

    @property
    def _closed(self) -> bool:
        return self._stage is _Stage.CLOSED

    def _may_read(self) -> bool:
        return (
            self._stage is _Stage.OPEN
            and self._held is None
            and not self._write_paused
            and len(self._waiting) < self._limits.max_pipelined
        )

    def _take_requests(self) -> bool:
        """Take as many requests as may be taken now. True if there were any."""
        taken = False
        while self._reader.unread and self._may_read():
            try:
                incoming = self._reader.next()
            except Malformed as fault:
                self._refuse(fault)
                return True
            if incoming is None:
                break
            taken = True
            self._continued = False
            self._take(incoming)
        return taken

    def _take(self, incoming: Incoming) -> None:
        exchange = _Exchange(self, incoming)
        if self._waiting and not (exchange.safe and self._waiting[-1].safe):
            self._held = exchange
        else:
            self._start(exchange)

    def _start(self, exchange: _Exchange) -> None:
        self._waiting.append(exchange)
        if not exchange.keep_alive:
            self._stage = _Stage.LAST
            self._discarded += self._reader.drop()
        try:
            self._handler(exchange)
        except Exception:
            log.exception("the handler of port %d raised", self.port)
            exchange.keep_alive = False
            exchange.respond(internal_error())

    def _refuse(self, fault: Malformed) -> None:
        self._turn_away(refusal(fault.status, fault.detail))

    def _turn_away(self, response: HttpResponse) -> None:
        exchange = _Exchange(self, Incoming(HttpRequest(b"", b"", [], None), 1, keep_alive=False))
        self._waiting.append(exchange)
        self._stage = _Stage.LAST
        self._discarded += 1 + self._reader.drop()  # where the refused request ends is not known: more of it may come
        exchange.respond(response)

    def _collect_answers(self) -> bool:
        """Move the answers that are next in turn to the write list. True if there were any."""
        moved = False
        while self._waiting and self._waiting[0].response is not None:
            exchange = self._waiting.popleft()
            if exchange.keep_alive and not self._waiting and self._held is None:
                exchange.keep_alive = not self._server.closing and not (self._eof and not self._reader.unread)
            response = cast(HttpResponse, exchange.response)
            self._out += render(response, exchange.request.method, exchange.minor, not exchange.keep_alive)
            moved = True
            if not exchange.keep_alive:
                self._stage = _Stage.LAST
                self._discarded += self._reader.drop()
                self._forsake()
        # Written in turn: a client takes an interim answer for one to the request it waits for longest.
        if self._reader.awaits_continue and not self._waiting and not self._continued:
            self._continued = True
            self._out.append(CONTINUE)
        return moved

    def _write(self) -> None:
        if self._out and not self._transport.is_closing():
            if len(self._out) == 2 and not self._out[1]:
                self._transport.write(self._out[0])
            else:
                self._transport.writelines([part for part in self._out if part])
        self._out.clear()

    # --- another protocol ---

    def may_upgrade(self, exchange: _Exchange) -> bool:
        """It is the only one here, so that no answer in HTTP is due any more; and the connection has a future. In HTTP/1.0 there is
        no such thing (RFC 9110 section 7.8)."""
        alone = len(self._waiting) == 1 and self._waiting[0] is exchange and self._held is None
        lasts = self._stage is _Stage.OPEN and not (self._eof or self._server.closing or self._transport.is_closing())
        return alone and lasts and exchange.minor > 0

    def hand_over(self, protocol: str, successor: Successor) -> None:
        self._waiting.clear()
        self._stage = _Stage.CLOSED
        transport = self._transport
        self._out.append(switching(protocol))
        self._write()  # behind the answers that were collected in this turn
        rest = self._reader.take_rest()
        if self._read_paused:
            transport.resume_reading()
        transport.set_protocol(cast(asyncio.Protocol, successor))
        self._server.succeeded(self, successor)
        successor.connection_made(transport)
        if self._write_paused:
            successor.pause_writing()
        if rest:
            successor.data_received(rest)

    # --- reading, ending ---

    def _regulate_reading(self) -> None:
        full = self._reader.unread > READ_AHEAD and not self._may_read()
        if (full or self._write_paused) and self._stage is not _Stage.LINGERING:
            if not self._read_paused and not self._transport.is_closing():
                self._read_paused = True
                self._transport.pause_reading()
        elif self._read_paused and not self._transport.is_closing():
            self._read_paused = False
            self._window = 0
            self._since = self._server.now()
            self._transport.resume_reading()

    def _discard(self, count: int) -> None:
        self._discarded += count
        if self._discarded > LINGER_BYTES:
            if self._waiting and not self._read_paused:
                self._read_paused = True
                self._transport.pause_reading()
            elif not self._waiting:
                self._close()

    def _end(self) -> None:
        """The last answer is written."""
        if not self._discarded or self._eof or self._discarded > LINGER_BYTES or self._transport.is_closing():
            self._close()
            return
        self._stage = _Stage.LINGERING
        self._since = self._server.now()
        self._regulate_reading()
        if self._transport.can_write_eof():  # not over TLS, where the client sees by the answer that it is the last
            self._transport.write_eof()

    def _close(self) -> None:
        if self._stage is not _Stage.CLOSED:
            self._stage = _Stage.CLOSED
            self._since = self._server.now()
            self._transport.close()

    def _forsake(self) -> None:
        """Nobody gets the answers to what still waits."""
        waiting, self._waiting = self._waiting, deque()
        self._held = None
        for exchange in waiting:
            exchange.hung_up()

    # --- time ---

    def _note_phase(self, answered: bool) -> None:
        if self._waiting:
            phase = _Phase.ANSWER
        elif self._reader.in_body:
            phase = _Phase.BODY
        elif self._reader.unread:
            phase = _Phase.HEAD
        else:
            phase = _Phase.IDLE
        if answered or phase is not self._phase:
            self._phase = phase
            self._since = self._server.now()
            self._window = 0

    def sweep(self, now: float) -> None:
        """Look at the time limits."""
        limits = self._limits
        waited = now - self._since
        if self._stage is _Stage.CLOSED:
            if waited >= limits.idle_timeout:
                self._transport.abort()  # the client does not read the rest of its answer
        elif self._stage is _Stage.LINGERING:
            if waited >= LINGER_SECONDS:
                self._close()
        elif self._write_paused:
            self._check_reader(now)
        elif self._phase is _Phase.ANSWER:
            if self._eof and peer_is_gone(self._transport.get_extra_info("socket")):
                self._transport.abort()
        elif self._phase is _Phase.BODY:
            self._check_body_rate(now, waited)
        elif self._phase is _Phase.HEAD:
            if waited >= limits.header_timeout:
                self._cut_off(f"the request head was not whole after {limits.header_timeout:g} s")
        elif waited >= limits.idle_timeout:
            self._close()

    def _check_body_rate(self, now: float, waited: float) -> None:
        if waited < self._limits.body_grace:
            return
        if self._window < waited * self._limits.body_rate:
            self._cut_off(f"the body came slower than {self._limits.body_rate} bytes a second")
            return
        self._since = now
        self._window = 0

    def _check_reader(self, now: float) -> None:
        unsent = self._transport.get_write_buffer_size()
        if unsent < self._unsent:
            self._unsent = unsent
            self._unsent_since = now
        elif now - self._unsent_since >= self._limits.idle_timeout:
            self._transport.abort()

    def _cut_off(self, detail: str) -> None:
        self._refuse(Malformed(408, detail))

    # --- what the server asks for ---

    def refuse_entry(self) -> None:
        limit = self._limits.max_connections
        self._turn_away(Problem(Code.UNAVAILABLE, f"all {limit} connections are in use").as_response())

    def drain(self) -> None:
        """Close if nothing was asked; else the last answer will say that it is the last."""
        if self._stage is _Stage.OPEN and self._phase is _Phase.IDLE:
            self._close()

    def abort(self) -> None:
        self._transport.abort()
