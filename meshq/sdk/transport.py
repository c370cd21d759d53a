"""The ways to the sidecar, and which one: the link where the sidecar offers it, HTTP otherwise. What is asked and answered is the same.

A `Transport` belongs to one event loop. It opens when it is first used, waits for a sidecar that is not there yet, and opens again
when the sidecar was restarted.
"""

import asyncio
import math
import random
from collections.abc import AsyncGenerator, Callable
from contextlib import suppress
from typing import Protocol

from meshq.core.errors import Code
from meshq.core.http import HttpRequest, HttpResponse
from meshq.linking import LinkExchange
from meshq.sdk.problem import Problem, closed, no_sidecar
from meshq.sdk.reach import Reach

FIRST_PAUSE, LONGEST_PAUSE = 0.05, 2.0
"""Seconds between two attempts to reach the sidecar; each pause twice the last, and +-50 %."""

Handle = Callable[[LinkExchange], None]


class NotSent(Exception):
    """It did not leave: the connection was gone (then the way is not usable any more, and asking on a new one is safe), or had no room."""


class NoLink(Exception):
    """What answers there offers no link."""


class Way(Protocol):
    """One kind of connection to the sidecar."""

    async def open(self) -> None:
        """Raises OSError, NoLink."""

    @property
    def usable(self) -> bool: ...
    async def ask(self, request: HttpRequest, timeout: float) -> HttpResponse:
        """Raises NotSent, Problem."""

    @property
    def descriptors(self) -> list[int]:
        """Of its sockets."""

    async def close(self) -> None:
        """What was asked is answered still, for a moment."""


class Transport:
    """`link` and `http` make a new way of each kind; `wants_link` None: the link if it is offered."""

    def __init__(
        self,
        reach: Reach,
        link: Callable[[], Way],
        http: Callable[[], Way],
        wants_link: bool | None = None,
    ) -> None:
        self._reach = reach
        self._link = link
        self._http = http
        self._wants_link = wants_link
        self._way: Way | None = None
        self._past: Way | None = None
        """The one before it, of a sidecar that was leaving: what that was asked it answers still."""
        self._opening = asyncio.Lock()
        self._closing = asyncio.Event()
        self._end: AsyncGenerator[None, None] | None = None
        self._fault = "it is being reached"
        """Why the last attempt to reach it failed."""

    @property
    def way(self) -> Way | None:
        """The one that is open; None before the first use and while the sidecar is away."""
        return self._way if self._way is not None and self._way.usable else None

    @property
    def descriptors(self) -> list[int]:
        """Of its sockets."""
        return [each for way in (self._past, self._way) if way is not None for each in way.descriptors]

    async def ask(self, request: HttpRequest, timeout: float) -> HttpResponse:
        """`timeout` is seconds, for the waiting until there is a sidecar as well. Raises Problem: `unavailable` where there is none
        within that and MESHQ_HEALTH_TIMEOUT, `deadline` where no answer came in time, `bad-gateway` where the connection broke before
        it, `overloaded` where too much waits for the sidecar already."""
        loop = asyncio.get_running_loop()
        until = loop.time() + timeout
        while True:
            way = self.way or await self.open(until - loop.time())
            try:
                return await way.ask(request, max(0.0, until - loop.time()))
            except NotSent as error:
                if way.usable:
                    raise Problem(Code.OVERLOADED.value, str(error), by_mesh=True) from error

    async def open(self, within: float = math.inf) -> Way:
        """Reach the sidecar, as long as that takes, at most MESHQ_HEALTH_TIMEOUT and `within` seconds. Raises Problem."""
        patience = min(within, self._reach.health_timeout)
        try:
            async with asyncio.timeout(patience), self._opening:
                if self.way is None:
                    await self._reopen()
                if self._end is None:
                    self._end = self._with_the_loop()
                    await anext(self._end)
                assert self._way is not None
                return self._way
        except TimeoutError:
            raise no_sidecar(self._reach.url, patience, self._fault) from None

    async def _reopen(self) -> None:
        if self._way is not None:
            if self._past is not None:
                await self._past.close()
            self._past, self._way = self._way, None
        pause = FIRST_PAUSE
        while not self._closing.is_set():
            try:
                self._way = await self._opened()
                return
            except (OSError, NoLink) as error:
                self._fault = str(error)
            with suppress(TimeoutError):
                await asyncio.wait_for(self._closing.wait(), pause * random.uniform(0.5, 1.5))
            pause = min(2 * pause, LONGEST_PAUSE)
        raise closed()

    async def _opened(self) -> Way:
        """Raises OSError; NoLink where only that would do."""
        if self._wants_link is not False:
            way = self._link()
            try:
                await way.open()
                return way
            except NoLink:
                if self._wants_link:
                    raise
        way = self._http()
        await way.open()
        return way

    async def close(self) -> None:
        """Whoever still waits for a sidecar gets Problem `unavailable`."""
        self._closing.set()
        async with self._opening:
            ways = (self._past, self._way)
            self._past = self._way = None
        for way in ways:
            if way is not None:
                await way.close()
        end, self._end = self._end, None
        if end is not None:
            await end.aclose()

    async def _with_the_loop(self) -> AsyncGenerator[None, None]:
        """Suspended until the event loop ends: asyncio.run closes the generators that are open then, and this one closes the connection.
        So nobody has to, and the same Mesh can be used in the next asyncio.run."""
        try:
            yield
        finally:
            self._end = None
            await self.close()
