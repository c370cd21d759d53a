"""A client of mesh DNS over TCP: messages with their length in front (RFC 7766), as many one after the other as it likes, each
answered when its answer is there."""

import asyncio
from collections.abc import Callable
from typing import cast

from meshq.adapters.dns_responding import MAX_QUERY, Responder

MAX_UNANSWERED = 32
"""Questions of one client; then no more is read until some are answered."""
IDLE = 10.0
"""Seconds after the last whole question or answer (RFC 7766 section 6.2.3 wants seconds, not minutes)."""


class Stream(asyncio.Protocol):
    def __init__(
        self, responder: Responder, opened: Callable[["Stream"], bool], lost: Callable[["Stream"], None]
    ) -> None:
        """`opened` says whether there is room for one more."""
        self._responder = responder
        self._opened = opened
        self._lost = lost
        self._buffer = b""
        self._unanswered = 0
        self._blocked = False
        self._reading = True
        self._working = False
        self._ended = False
        self._last = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._last = asyncio.get_running_loop().time()
        if not self._opened(self):
            self._transport.abort()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        self._work()

    def eof_received(self) -> bool:
        """It asks no more; it is still told what it asked."""
        self._ended = True
        return bool(self._unanswered)

    def connection_lost(self, exc: Exception | None) -> None:
        self._buffer = b""
        self._lost(self)

    def pause_writing(self) -> None:
        self._blocked = True
        if not self._working:
            self._set_reading()

    def resume_writing(self) -> None:
        self._blocked = False
        if not self._working:
            self._work()

    def sweep(self, now: float) -> None:
        """Cut it off if nothing happened for too long, or it takes no answers."""
        if now - self._last > IDLE:
            self._transport.abort()

    def abort(self) -> None:
        self._transport.abort()

    @property
    def _full(self) -> bool:
        return self._blocked or self._unanswered >= MAX_UNANSWERED

    def _work(self) -> None:
        """Take as many whole questions as may be taken. Answers that come at once do not begin it anew."""
        self._working = True
        at = 0
        while not self._full and len(self._buffer) >= at + 2 and not self._transport.is_closing():
            end = at + 2 + int.from_bytes(self._buffer[at : at + 2], "big")
            if not 2 < end - at <= 2 + MAX_QUERY:
                self._transport.abort()
                break
            if len(self._buffer) < end:
                break
            self._last = asyncio.get_running_loop().time()
            self._unanswered += 1
            if not self._responder.answer(self._buffer[at + 2 : end], self._reply, stream=True):
                self._unanswered -= 1
            at = end
        self._buffer = self._buffer[at:]
        self._working = False
        self._set_reading()

    def _reply(self, answer: bytes) -> None:
        self._unanswered -= 1
        if not self._transport.is_closing():
            self._last = asyncio.get_running_loop().time()
            self._transport.write(len(answer).to_bytes(2, "big") + answer)
            if self._ended and not self._unanswered:
                self._transport.close()
            elif not self._working and not self._reading:
                self._work()

    def _set_reading(self) -> None:
        if not (self._ended or self._transport.is_closing()) and self._reading is self._full:
            self._reading = not self._full
            (self._transport.resume_reading if self._reading else self._transport.pause_reading)()
