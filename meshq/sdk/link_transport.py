"""To the sidecar over its link (core/link.py): one connection, everything on it side by side."""

import asyncio
import logging
from collections.abc import Callable
from functools import partial
from typing import cast

from meshq.core.http import Failed, Failure, HttpRequest, HttpResponse
from meshq.core.link import PATH, PROTOCOL
from meshq.linking import Link, LinkExchange
from meshq.sdk.problem import Problem
from meshq.sdk.reach import Reach
from meshq.sdk.transport import NoLink, NotSent

logger = logging.getLogger(__name__)

OPEN_WITHIN = 5.0
"""Seconds for the connection and the 101."""
LAST_ANSWERS = 1.0
"""Seconds in which a link that is closed still gets what was asked."""
MAX_HEAD = 16 * 1024
GRANTED = 4096
"""What a sidecar may have open here. How much the app really wants at once its capacity says, not this."""


class LinkWay:
    """transport.Way. `handle` gets what the sidecar asks; None: nothing is taken. `on_end` is called when the link is gone."""

    def __init__(
        self, reach: Reach, handle: Callable[[LinkExchange], None] | None, on_end: Callable[[], None] = lambda: None
    ) -> None:
        self._reach = reach
        self._handle = handle
        self._on_end = on_end
        self._link: Link | None = None

    async def open(self) -> None:
        """Returns once the sidecar said HELLO. Raises OSError, NoLink."""
        loop = asyncio.get_running_loop()
        opened: asyncio.Future[None] = loop.create_future()
        try:
            async with asyncio.timeout(OPEN_WITHIN):
                make = partial(_Opening, partial(self._make, opened), self._reach, opened)
                transport, _ = await loop.create_connection(make, self._reach.host, self._reach.port)
                try:
                    await opened
                except BaseException:
                    transport.abort()
                    raise
        except TimeoutError:
            raise OSError(f"no answer within {OPEN_WITHIN:g} s") from None

    def _make(self, opened: "asyncio.Future[None]") -> Link:
        return Link(
            self._handle or _takes_nothing,
            serves=self._handle is not None,
            granted=GRANTED,
            on_hello=partial(self._greeted, opened),
            on_end=partial(self._ended, opened),
        )

    def _greeted(self, opened: "asyncio.Future[None]", link: Link) -> None:
        if not opened.done():  # else nobody waits for it any more, and it is aborted
            self._link = link
            opened.set_result(None)

    def _ended(self, opened: "asyncio.Future[None]", ended: Link) -> None:
        if ended is self._link:
            self._on_end()
        elif not opened.done():
            opened.set_exception(OSError("the connection was closed before the sidecar said HELLO"))

    @property
    def usable(self) -> bool:
        """Also one that takes nothing more itself: who finishes what it has may have to ask."""
        return self._link is not None and not self._link.left

    async def ask(self, request: HttpRequest, timeout: float) -> HttpResponse:
        assert self._link is not None
        answer: asyncio.Future[HttpResponse | Failed] = asyncio.get_running_loop().create_future()
        cancel = self._link.request(request, timeout, partial(_resolve, answer))
        try:
            outcome = await answer
        except asyncio.CancelledError:
            cancel()
            raise
        if isinstance(outcome, HttpResponse):
            return outcome
        raise _as_exception(outcome)

    @property
    def descriptors(self) -> list[int]:
        return [] if self._link is None else self._link.descriptors

    def leave(self) -> None:
        """Take nothing more from the sidecar; what is open goes on, then it closes."""
        if self._link is not None:
            self._link.leave()

    async def gone(self) -> None:
        if self._link is not None:
            await self._link.closed.wait()

    async def close(self) -> None:
        if self._link is None:
            return
        self._link.leave()
        try:
            async with asyncio.timeout(LAST_ANSWERS):
                await self._link.closed.wait()
        except TimeoutError:
            self._link.abort()
            await self._link.closed.wait()


class _Opening(asyncio.Protocol):
    """Asks for the upgrade, reads the answer, and hands the connection to the link."""

    def __init__(self, make: Callable[[], Link], reach: Reach, opened: "asyncio.Future[None]") -> None:
        self._make = make
        self._reach = reach
        self._opened = opened
        self._transport = cast(asyncio.Transport, None)
        self._head = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport = self._transport = cast(asyncio.Transport, transport)  # uvloop's is no subclass
        token = f"Meshq-Token: {self._reach.token}\r\n" if self._reach.token else ""
        transport.write(
            f"GET {PATH.decode()} HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\n"
            f"Upgrade: {PROTOCOL}\r\n{token}\r\n".encode()
        )

    def data_received(self, data: bytes) -> None:
        self._head += data
        head, end, rest = self._head.partition(b"\r\n\r\n")
        if not end:
            if len(self._head) > MAX_HEAD:
                self._fail(NoLink("what answers there is not a sidecar"))
            return
        status = head[:13].partition(b" ")[2][:3]
        if status != b"101":
            self._fail(_refusal(status, rest))
            return
        if self._opened.done():  # nobody waits for it any more
            return
        link = self._make()
        self._transport.set_protocol(link)
        link.connection_made(self._transport)
        if rest:
            link.data_received(rest)

    def connection_lost(self, exc: Exception | None) -> None:
        self._fail(OSError(f"the connection was closed: {exc or 'without a word'}"))

    def _fail(self, why: Exception) -> None:
        if not self._opened.done():
            self._opened.set_exception(why)


def _refusal(status: bytes, body: bytes) -> Exception:
    """A sidecar that is starting or full is asked again; one that knows of no link, or forbids it, is spoken to over HTTP."""
    if status.startswith(b"5"):
        return OSError(f"it answered {status.decode('latin-1')}")
    return NoLink(f"it answered {status.decode('latin-1')} to {PROTOCOL}: {body[:200].decode('utf-8', 'replace')}")


def _resolve(answer: "asyncio.Future[HttpResponse | Failed]", outcome: HttpResponse | Failed) -> None:
    if not answer.done():
        answer.set_result(outcome)


def _as_exception(failed: Failed) -> Exception:
    match failed.failure:
        case Failure.REFUSED:
            return NotSent(failed.detail)
        case Failure.TIMEOUT:
            return Problem("deadline", f"the sidecar gave {failed.detail}", by_mesh=True)
    return Problem("bad-gateway", f"{failed.detail}: what became of it is not known", by_mesh=True)


def _takes_nothing(exchange: LinkExchange) -> None:
    exchange.fail(Failed(Failure.REFUSED, "this app handles nothing"))


__all__ = ["LinkWay"]
