"""The ways to the sidecar, and which one: the link where the sidecar offers it, HTTP otherwise. What is asked and answered is the same.

A `Transport` belongs to one event loop. It opens when it is first used, waits for a sidecar that is not there yet, and opens again
when the sidecar was restarted.
"""

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Protocol

from meshq.core.http import HttpRequest, HttpResponse
from meshq.linking import LinkExchange
from meshq.sdk.problem import Problem, no_sidecar
from meshq.sdk.reach import Reach

FIRST_PAUSE, LONGEST_PAUSE = 0.05, 2.0
"""Seconds between two attempts to reach the sidecar; each pause twice the last, and +-50 %."""

Handle = Callable[[LinkExchange], None]


class NotSent(Exception):
    """It did not leave: the connection was gone, or is to be closed. Asking again, on a new one, is safe."""


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
    """`link(handle)` and `http` make a new way of each kind; `wants_link` None: if it is offered."""

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
        self._opening = asyncio.Lock()
        self._closed = False

    @property
    def way(self) -> Way | None:
        """The one that is open; None before the first use and while the sidecar is away."""
        return self._way if self._way is not None and self._way.usable else None

    async def ask(self, request: HttpRequest, timeout: float) -> HttpResponse:
        """Raises Problem: `unavailable` where there is no sidecar within MESHQ_HEALTH_TIMEOUT, `deadline` where no answer came in
        time, `bad-gateway` where the connection broke before it."""
        while True:
            way = self.way or await self.open()
            try:
                return await way.ask(request, timeout)
            except NotSent:
                continue

    async def open(self) -> Way:
        """Reach the sidecar, as long as that takes, at most MESHQ_HEALTH_TIMEOUT. Raises Problem."""
        async with self._opening:
            if self.way is not None:
                return self.way
            if self._closed:
                raise Problem("unavailable", "this Mesh was closed", retryable=False, by_mesh=True)
            if self._way is not None:
                await self._way.close()
            self._way = await self._reached()
            return self._way

    async def _reached(self) -> Way:
        loop = asyncio.get_running_loop()
        until = loop.time() + self._reach.health_timeout
        pause = FIRST_PAUSE
        while True:
            try:
                return await self._opened()
            except (OSError, NoLink) as error:
                left = until - loop.time()
                if left <= 0:
                    raise no_sidecar(self._reach.url, self._reach.health_timeout, error) from error
            await asyncio.sleep(min(left, pause * random.uniform(0.5, 1.5)))
            pause = min(2 * pause, LONGEST_PAUSE)

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
        self._closed = True
        async with self._opening:
            way, self._way = self._way, None
        if way is not None:
            await way.close()


@asynccontextmanager
async def closing(transport: Transport) -> AsyncIterator[Transport]:
    try:
        yield transport
    finally:
        await transport.close()
