"""How much waits in the queues that this app sends to, so that no more is put on top of too much (INTERFACE, `overloaded`).

The broker is asked every now and then, and only about what was sent to lately; in between the limit may be overshot by as much
as comes in that time. What is not known refuses nobody.
"""

import asyncio
import logging
from collections.abc import Callable

from meshq.core.errors import Code, Problem
from meshq.ports import Broker, BrokerAway

logger = logging.getLogger(__name__)

LIMIT = 100_000
"""Messages ready in one queue, where the route policy of its service says nothing else."""
LOOK_EVERY = 2.0
FORGOTTEN_AFTER = 5
"""Looks without use after which a queue is not asked about any more."""
MAX_QUEUES = 1000
ASK_WITHIN = 10.0


class _Depth:
    __slots__ = ("ready", "unused")

    def __init__(self) -> None:
        self.ready: int | None = None
        self.unused = 0


class Backlog:
    """`limit_of` gives a service's own limit, None where it has none."""

    def __init__(self, broker: Broker, limit_of: Callable[[str], int | None] = lambda service: None) -> None:
        self._broker = broker
        self._limit_of = limit_of
        self._depths: dict[str, _Depth] = {}

    def __call__(self, service: str, queue: str) -> Problem | None:
        """Why nothing more may go to this queue of that service."""
        depth = self._depths.get(queue)
        if depth is None:
            if len(self._depths) < MAX_QUEUES:
                self._depths[queue] = _Depth()
            return None
        depth.unused = 0
        if depth.ready is None:
            return None
        limit = self._limit_of(service)
        limit = LIMIT if limit is None else limit
        if depth.ready < limit:
            return None
        return Problem(Code.OVERLOADED, f"{depth.ready} messages already wait in {queue}; the limit is {limit}")

    async def watch(self) -> None:
        """For ever."""
        while True:
            await asyncio.sleep(LOOK_EVERY)
            if self._depths:
                await self.look()

    async def look(self) -> None:
        """Ask once."""
        found: dict[str, int | None] = {}
        try:
            async with asyncio.timeout(ASK_WITHIN):
                found = {figures.queue: figures.ready for figures in await self._broker.stats(list(self._depths))}
        except (BrokerAway, TimeoutError) as error:
            logger.debug("how much waits is not known: %s", error)
        for queue, depth in list(self._depths.items()):
            depth.ready = found.get(queue)
            depth.unused += 1
            if depth.unused > FORGOTTEN_AFTER:
                del self._depths[queue]
