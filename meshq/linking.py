"""One end of a link (core/link.py has its frames): requests both ways over one connection, answered in any order.

Both ends run this: the sidecar on a connection that its HTTP server handed over, the SDK on one that it opened. Everything happens
in callbacks of one asyncio.Protocol; what is written in one turn of the loop leaves in one write.

What is bounded, and how: what the other end may have open, by the credit that it was granted (more is a fault that ends the link);
what waits here for credit, by WAITING_MOST (more is REFUSED); what the other end does not read, because while its socket is full
nothing new is asked here, and because a request is open for it until it has read the answer: as many answers as it was granted may
lie here unread, and PIPELINED_PINGS more. An end that sends more all the same is not read from until it has read. One that keeps to
its credit never meets that bound, and so is always read from: were both ends to stop reading while they cannot write, two that send
each other something large would wait for each other for ever.
"""

import asyncio
import logging
import socket
from collections import deque
from collections.abc import Callable
from typing import cast

from meshq.core import link
from meshq.core.errors import Code, Problem
from meshq.core.http import Failed, Failure, HttpRequest, HttpResponse
from meshq.core.link import Hello, Kind, Pong
from meshq.core.message import DecodeError
from meshq.ports import Successor

logger = logging.getLogger(__name__)

Done = Callable[[HttpResponse | Failed], None]

GRANTED = 4096
"""Requests that the other end may have open, unless it is granted otherwise."""
WAITING_MOST = 10_000
HELLO_WITHIN = 10.0
STALLED = 60.0
"""Seconds in which the other end may read nothing of what is written to it."""
PIPELINED_PINGS = 64
"""Answers to PINGs, and to requests that were cancelled as they were answered, that may lie unread besides those to requests."""

_GONE = Failed(Failure.REFUSED, "the link is closed")
_BROKE = Failed(Failure.BROKEN, "the link broke before the answer came")
_CANCELLED = Failed(Failure.CANCELLED, "not waited for any more")


class LinkExchange:
    """ports.Exchange of one request that came over a link."""

    __slots__ = ("_hangup", "_link", "local_port", "number", "request")

    def __init__(self, link: "Link", number: int, request: HttpRequest) -> None:
        self.request = request
        self.number = number
        self.local_port = link.local_port
        self._link: Link | None = link
        self._hangup: Callable[[], None] | None = None

    def respond(self, response: HttpResponse) -> None:
        if (end := self._settle()) is not None:
            end.answer(self.number, _response(self.number, response))

    def fail(self, failed: Failed) -> None:
        """Answer that there is no response."""
        if (end := self._settle()) is not None:
            end.answer(self.number, link.failed(self.number, failed))

    def on_hangup(self, callback: Callable[[], None]) -> None:
        if self._link is not None:
            self._hangup = callback

    def upgrade(self, protocol: str, successor: Successor) -> bool:
        return False

    def hung_up(self) -> None:
        callback = self._hangup
        self._settle()
        if callback is not None:
            _guarded(callback)

    def _settle(self) -> "Link | None":
        end, self._link, self._hangup = self._link, None, None
        return end


class _Asked:
    """A request of ours without an answer."""

    __slots__ = ("done", "number", "request", "timer")

    def __init__(self, number: int, request: HttpRequest, done: Done) -> None:
        self.number = number
        self.request = request
        self.done = done
        self.timer: asyncio.TimerHandle | None = None


class Link(asyncio.Protocol):
    """`on_request` gets what the other end asks; `on_hello` is called once, `on_goodbye` when it wants to be asked nothing more,
    `on_end` when the connection is gone. `health` says how this end is."""

    def __init__(
        self,
        on_request: Callable[[LinkExchange], None],
        *,
        serves: bool = False,
        granted: int = GRANTED,
        max_body: int = link.MAX_FRAME,
        health: Callable[[], Pong] = Pong,
        on_hello: Callable[["Link"], None] = lambda link: None,
        on_goodbye: Callable[["Link"], None] = lambda link: None,
        on_end: Callable[["Link"], None] = lambda link: None,
    ) -> None:
        self.peer: Hello | None = None
        """What the other end said of itself."""
        self.local_port = 0
        self.leaving = False
        """We said goodbye."""
        self.left = False
        """The other end did."""
        self.closed = asyncio.Event()
        self._on_request = on_request
        self._serves = serves
        self._granted = granted
        self._max_body = max_body
        self._health = health
        self._on_hello = on_hello
        self._on_goodbye = on_goodbye
        self._on_end = on_end
        self._ended: Callable[[Successor], None] = lambda link: None
        self._loop = asyncio.get_running_loop()
        self._transport = cast(asyncio.Transport, None)
        self._reader = link.FrameReader()
        # Of the times: since when HELLO is waited for, or nothing was read of what is unsent.
        self._since = self._loop.time()
        self._unsent = 0
        # Ours.
        self._credit = 0
        self._number = 0
        self._open: dict[int, _Asked] = {}
        self._waiting: dict[int, _Asked] = {}
        """For credit, in their order."""
        self._pings: dict[int, asyncio.Future[Pong | None]] = {}
        self._farewell = 0
        """The PING behind our GOODBYE."""
        self._heard = False
        """It was answered: no request of theirs is on its way any more."""
        # Theirs.
        self._theirs: dict[int, LinkExchange] = {}
        # Bytes.
        self._out: list[bytes] = []
        self._flushing = False
        self._queued = 0
        """Bytes written here so far."""
        self._handed = 0
        """Of those, the transport's."""
        self._write_paused = False
        self._read_paused = False
        self._unread: deque[int] = deque()
        """Where each answer ends that was written while the other end read nothing, as `_queued` counts."""

    def __repr__(self) -> str:
        state = "closed" if self.closed.is_set() else "leaving" if self.leaving or self.left else "open"
        return f"<Link {state}, {len(self._open)} asked, {len(self._waiting)} waiting, {len(self._theirs)} to answer>"

    # --- what the transport calls -------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        sock = transport.get_extra_info("socket")
        if sock is not None and sock.family != socket.AF_UNIX:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.local_port = transport.get_extra_info("sockname")[1]
        self._write(link.hello(Hello(self._granted, self._serves)))

    def data_received(self, data: bytes) -> None:
        try:
            for frame in self._reader.feed(data):
                take = _TAKE.get(frame[0])
                if take is not None:
                    if self.peer is None and frame[0] != Kind.HELLO:
                        raise DecodeError(f"a frame of kind {frame[0]} came before HELLO")
                    take(self, frame)
                if self._transport.is_closing():
                    return
        except DecodeError as error:
            logger.warning("the link is given up: %s", error)
            self.abort()

    def eof_received(self) -> None:
        """The other end is gone: whoever says goodbye closes after the answers."""

    def pause_writing(self) -> None:
        self._write_paused = True
        self._note_unsent()

    def resume_writing(self) -> None:
        self._write_paused = False
        self._unread.clear()
        if self._read_paused:
            self._read_paused = False
            self._transport.resume_reading()
        self._go_on()

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed.set()
        self.left = True
        asked, self._open = self._open, {}
        waiting, self._waiting = self._waiting, {}
        theirs, self._theirs = self._theirs, {}
        pings, self._pings = self._pings, {}
        for each in asked.values():
            self._tell(each, _BROKE)
        for each in waiting.values():
            self._tell(each, _GONE)
        for exchange in theirs.values():
            exchange.hung_up()
        for future in pings.values():
            if not future.done():
                future.set_result(None)
        self._ended(self)
        self._on_end(self)

    @property
    def descriptors(self) -> list[int]:
        """Of its socket."""
        sock = self._transport.get_extra_info("socket")
        return [sock.fileno()] if sock is not None and sock.fileno() >= 0 else []

    # --- asking -------------------------------------------------------------------------------------------------------------

    @property
    def busy(self) -> int:
        """Requests of ours without an answer."""
        return len(self._open) + len(self._waiting)

    def request(self, request: HttpRequest, timeout: float | None, done: Done) -> Callable[[], None]:
        """As ports.HttpClient: `done` is called exactly once, possibly before this returns; the function returned cancels. REFUSED
        means that the other end never saw it."""
        if self.left or self._transport.is_closing():
            done(_GONE)
            return _nothing
        if len(self._waiting) >= WAITING_MOST:
            done(Failed(Failure.REFUSED, f"{WAITING_MOST} requests wait for the other end of the link"))
            return _nothing
        self._number += 1
        asked = _Asked(self._number, request, done)
        if timeout is not None:
            asked.timer = self._loop.call_later(timeout, self._on_timeout, asked, timeout)
        if self._may_ask and not self._waiting:
            self._ask(asked)
        else:
            self._waiting[asked.number] = asked
        return lambda: self._give_up(asked, _CANCELLED)

    async def ping(self, timeout: float) -> Pong | None:
        """How the other end is; None where no answer came in time."""
        if self._transport.is_closing():
            return None
        self._number += 1
        number = self._number
        future: asyncio.Future[Pong | None] = self._loop.create_future()
        self._pings[number] = future
        self._write(link.ping(number))
        try:
            async with asyncio.timeout(timeout):
                await future
        except TimeoutError:
            return None
        finally:
            self._pings.pop(number, None)
        return future.result()

    @property
    def _may_ask(self) -> bool:
        return len(self._open) < self._credit and not self._write_paused

    def _ask(self, asked: _Asked) -> None:
        try:
            frame = link.request(asked.number, asked.request)
        except link.TooLong as error:
            self._tell(asked, _too_large(str(error)))
            return
        self._open[asked.number] = asked
        self._write(frame)

    def _go_on(self) -> None:
        while self._waiting and self._may_ask:
            self._ask(self._waiting.pop(next(iter(self._waiting))))

    def _on_timeout(self, asked: _Asked, timeout: float) -> None:
        if asked.number in self._waiting:
            self._give_up(
                asked, Failed(Failure.REFUSED, f"no room for it at the other end of the link within {timeout:g} s")
            )
        else:
            self._give_up(asked, Failed(Failure.TIMEOUT, f"no answer within {timeout:g} s"))

    def _give_up(self, asked: _Asked, why: Failed) -> None:
        if self._open.pop(asked.number, None) is not None:
            self._write(link.cancel(asked.number))
            self._go_on()
        elif self._waiting.pop(asked.number, None) is None:
            return
        self._tell(asked, why)
        self._close_if_done()

    def _tell(self, asked: _Asked, outcome: HttpResponse | Failed) -> None:
        if asked.timer is not None:
            asked.timer.cancel()
        try:
            asked.done(outcome)
        except Exception:
            logger.exception("what waited for an answer over the link raised")

    # --- frames -------------------------------------------------------------------------------------------------------------

    def _take_hello(self, frame: list[object]) -> None:
        if self.peer is not None:
            raise DecodeError("HELLO came twice")
        self.peer = link.read_hello(frame)
        self._credit = self.peer.requests
        self._on_hello(self)
        self._go_on()

    def _take_request(self, frame: list[object]) -> None:
        number = link.read_number(frame)
        if number in self._theirs or len(self._theirs) >= self._granted:
            raise DecodeError(f"REQUEST {number} is open already, or is more than were granted")
        try:
            request = link.read_request(frame)
        except DecodeError as error:  # its sender's own fault: it costs nobody else on this link anything
            refusal = Problem(Code.BAD_REQUEST, str(error)).as_response()
            self._write_answer(link.response(number, refusal))
            return
        exchange = LinkExchange(self, number, request)
        self._theirs[number] = exchange
        if self.leaving:
            exchange.fail(Failed(Failure.REFUSED, "it takes no more requests"))
        elif request.body is not None and len(request.body) > self._max_body:
            detail = f"the body is over {self._max_body} bytes, the most that is taken here (MESHQ_MAX_BODY)"
            exchange.respond(_too_large(detail))
        else:
            try:
                self._on_request(exchange)
            except Exception:
                logger.exception("a request over the link could not be handled")
                exchange.fail(Failed(Failure.BROKEN, "an internal error"))

    def _take_response(self, frame: list[object]) -> None:
        asked = self._open.pop(link.read_number(frame), None)
        if asked is None:  # cancelled meanwhile
            return
        try:
            response: HttpResponse | Failed = link.read_response(frame)
        except DecodeError as error:
            response = Failed(Failure.BROKEN, str(error))
        if isinstance(response, HttpResponse) and len(response.body) > self._max_body:
            detail = f"the response is over {self._max_body} bytes"
            response = Failed(Failure.TOO_LARGE, detail, response.status)
        self._answered(asked, response)

    def _take_failed(self, frame: list[object]) -> None:
        number, failed = link.read_number(frame), link.read_failed(frame)
        asked = self._open.pop(number, None)
        if asked is not None:
            self._answered(asked, failed)

    def _answered(self, asked: _Asked, outcome: HttpResponse | Failed) -> None:
        self._tell(asked, outcome)
        if self._waiting:
            self._go_on()
        self._close_if_done()

    def _take_cancel(self, frame: list[object]) -> None:
        exchange = self._theirs.pop(link.read_number(frame), None)
        if exchange is not None:
            exchange.hung_up()
            self._close_if_done()

    def _take_credit(self, frame: list[object]) -> None:
        self._credit = link.read_number(frame)
        self._go_on()

    def _take_goodbye(self, frame: list[object]) -> None:
        if self.left:
            return
        self.left = True
        waiting, self._waiting = self._waiting, {}
        for asked in waiting.values():
            self._tell(asked, _GONE)
        self._on_goodbye(self)
        self._close_if_done()

    def _take_ping(self, frame: list[object]) -> None:
        self._write_answer(link.pong(link.read_number(frame), self._health()))

    def _take_pong(self, frame: list[object]) -> None:
        number, said = link.read_number(frame), link.read_pong(frame)
        if number == self._farewell:
            self._heard = True
            self._close_if_done()
        future = self._pings.get(number)
        if future is not None and not future.done():
            future.set_result(said)

    # --- answering, ending --------------------------------------------------------------------------------------------------

    def answer(self, number: int, frame: bytes) -> None:
        if self._theirs.pop(number, None) is not None:
            self._write_answer(frame)
            self._close_if_done()

    def leave(self) -> None:
        """Take nothing more, answer what was asked, wait for our own answers, then close. Idempotent."""
        if not self.leaving and not self._transport.is_closing():
            self.leaving = True
            self._number += 1
            self._farewell = self._number
            self._write(link.goodbye())
            self._write(link.ping(self._farewell))

    def _close_if_done(self) -> None:
        """Whoever leaves closes, once nothing is open in either direction, nor can come any more."""
        if self._heard and not (self._theirs or self._open or self._waiting):
            self._flush()
            self._note_unsent()
            self._transport.close()

    def abort(self) -> None:
        self._transport.abort()

    # --- as a connection of the HTTP server -----------------------------------------------------------------------------------

    def ended(self, callback: Callable[[Successor], None]) -> None:
        self._ended = callback

    def drain(self) -> None:
        self.leave()

    def sweep(self, now: float) -> None:
        """Look at the time limits; once a second or so."""
        if self._write_paused or self._transport.is_closing():
            unsent = self._transport.get_write_buffer_size()
            if unsent < self._unsent:
                self._unsent, self._since = unsent, now
            elif now - self._since >= STALLED:
                self.abort()
        elif self.peer is None and now - self._since >= HELLO_WITHIN:
            self.abort()

    # --- bytes ----------------------------------------------------------------------------------------------------------------

    def _note_unsent(self) -> None:
        self._since, self._unsent = self._loop.time(), self._transport.get_write_buffer_size()

    def _write_answer(self, frame: bytes) -> None:
        """What the other end's next frames may follow on. Reading pauses where it sends them without reading this."""
        self._write(frame)
        if not self._write_paused:
            return
        unread = self._unread
        unread.append(self._queued)
        sent = self._handed - self._transport.get_write_buffer_size()
        while unread and unread[0] <= sent:
            unread.popleft()
        if len(unread) + len(self._theirs) > self._granted + PIPELINED_PINGS and not self._read_paused:
            self._read_paused = True
            self._transport.pause_reading()

    def _write(self, frame: bytes) -> None:
        self._queued += len(frame)
        self._out.append(frame)
        if not self._flushing:
            self._flushing = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._flushing = False
        if self._out and not self._transport.is_closing():
            self._handed = self._queued
            self._transport.write(self._out[0] if len(self._out) == 1 else b"".join(self._out))
        self._out.clear()


_TAKE: dict[int, Callable[[Link, list[object]], None]] = {
    Kind.HELLO: Link._take_hello,
    Kind.REQUEST: Link._take_request,
    Kind.RESPONSE: Link._take_response,
    Kind.FAILED: Link._take_failed,
    Kind.CANCEL: Link._take_cancel,
    Kind.CREDIT: Link._take_credit,
    Kind.GOODBYE: Link._take_goodbye,
    Kind.PING: Link._take_ping,
    Kind.PONG: Link._take_pong,
}


def _response(number: int, response: HttpResponse) -> bytes:
    try:
        return link.response(number, response)
    except link.TooLong as error:
        return link.failed(number, Failed(Failure.TOO_LARGE, str(error), response.status))


def _too_large(detail: str) -> HttpResponse:
    return Problem(Code.TOO_LARGE, detail).as_response()


def _nothing() -> None:
    """Nothing is left to cancel."""


def _guarded(callback: Callable[[], None]) -> None:
    try:
        callback()
    except Exception:
        logger.exception("an on_hangup callback raised")
