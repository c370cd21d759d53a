"""Questions that are not the mesh's, asked of the resolvers that the machine had anyway.

A question that is under way is not asked a second time: whoever asks it meanwhile gets the same answer. So a resolver that
sends our question back to us only waits for itself, until the time is over.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import NamedTuple

from meshq.adapters.dns_cache import Cache, Found, Key, found
from meshq.adapters.dns_upstream import Failed, Server, ask
from meshq.core.dns_records import Status
from meshq.core.dns_wire import RCODE, Message, Question
from meshq.ports import Clock
from meshq.tasks import Tasks

__all__ = ["Asked", "Forwarder", "Found"]

logger = logging.getLogger(__name__)

WHOLE = 4.0
"""Seconds for all tries together: resolvers ask again after 5 (resolv.conf(5), RES_TIMEOUT), and then it should be over here."""
TRY = 1.0
"""Seconds for a server's first try; the second round divides what is left."""
MAX_UNDER_WAY = 256
MAX_WAITING = 4096
"""Of queries, for all questions that are under way together. What is more is answered with a failure at once."""

Done = Callable[[Found | None], None]


class Asked(NamedTuple):
    question: Question
    flags: int
    """Recursion desired, authentic data, checking disabled: as the client set them."""
    dnssec_ok: bool

    @property
    def key(self) -> Key:
        return self.question.folded, self.flags, self.dnssec_ok


class Forwarder:
    """`servers` in the order of preference. The one that answered last is asked first."""

    def __init__(
        self, servers: Sequence[Server], clock: Clock, *, max_under_way: int = MAX_UNDER_WAY, cache: Cache | None = None
    ) -> None:
        self.servers = tuple(servers)
        self._clock = clock
        self._max_under_way = max_under_way
        self._cache = Cache() if cache is None else cache
        self._waiting: dict[Key, list[Done]] = {}
        self._count = 0
        self._first = 0
        self._tasks = Tasks()

    @property
    def able(self) -> bool:
        """Whether there is anybody to ask."""
        return bool(self.servers)

    @property
    def under_way(self) -> int:
        return len(self._waiting)

    def ask(self, asked: Asked, done: Done) -> None:
        """`done` is called once, with None when there is no answer; possibly before this returns."""
        key = asked.key
        kept = self._cache.get(key, self._clock.monotonic())
        if kept is not None:
            done(kept)
        elif self._count >= MAX_WAITING or (key not in self._waiting and len(self._waiting) >= self._max_under_way):
            done(None)
        elif key in self._waiting:
            self._count += 1
            self._waiting[key].append(done)
        else:
            self._count += 1
            self._waiting[key] = [done]
            self._tasks.start(self._fetch(asked), "ask a resolver")

    async def close(self) -> None:
        await self._tasks.close()

    async def _fetch(self, asked: Asked) -> None:
        answer = None
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(WHOLE):
                    answer = await self._answer(asked)
        finally:
            waiting = self._waiting.pop(asked.key)
            self._count -= len(waiting)
            for done in waiting:
                done(answer)

    async def _answer(self, asked: Asked) -> Found | None:
        begun = self._clock.monotonic()
        order = [(self._first + step) % len(self.servers) for step in range(len(self.servers))]
        for again in (False, True):
            for tried, number in enumerate(order):
                left = WHOLE - (self._clock.monotonic() - begun)
                seconds = left / (len(order) - tried) if again else min(TRY, left)
                try:
                    packet, message = await ask(
                        self.servers[number], asked.question, asked.flags, asked.dnssec_ok, seconds
                    )
                except Failed as failed:
                    logger.debug("%s: %s", self.servers[number], failed)
                    continue
                self._first = number
                return self._taken(asked, packet, message)
        return None

    def _taken(self, asked: Asked, packet: bytes, message: Message) -> Found:
        if message.flags & RCODE in (Status.GOOD, Status.NO_SUCH_NAME):
            self._cache.put(asked.key, packet, message, self._clock.monotonic())
        return found(packet, message, 0, "forwarded")
