"""Waiting for the picture to change.

In a mesh of a few thousand instances each watcher waits in a blocking read of the log, over a connection of its own. In a larger one
it asks for the revision every second or two instead: a connection for each would be more than Redis takes (10,000 by its default),
and waking all of them at once more than it does in a second.
"""

import asyncio
import random

from meshq.adapters.redis_calls import Calls
from meshq.adapters.redis_client import Command
from meshq.adapters.redis_keys import Keys
from meshq.adapters.redis_mesh import Seen
from meshq.adapters.redis_pictures import Pictures
from meshq.adapters.redis_sweep import Sweep

BLOCK_SECONDS = 2.0
"""The longest that one blocking read waits, so that a connection that died unseen is noticed within this and a call."""
MANY = 3000
"""Instances from which on the revision is asked for instead (research B.4)."""
ASK_EVERY = (0.5, 1.1)
"""Seconds between two times, drawn anew each time."""
FEW = 500
"""Instances up to which each watcher looks at the leases when that is due. In more, one that renews comes by soon enough."""
GAP = 0.1
"""Seconds between two changes that one watcher is told of, at the least."""
REST = 10
"""And so many times as long as its last picture took, so that watchers take a small share of a busy Redis,"""
MOST_REST = 0.5
"""but no more seconds than this."""


class Watch:
    def __init__(self, calls: Calls, keys: Keys, sweep: Sweep, pictures: Pictures) -> None:
        """`calls` over connections that may wait: not those that anything else needs."""
        self._calls = calls
        self._keys = keys
        self._sweep = sweep
        self._pictures = pictures
        self._not_before = 0.0

    async def changed(self, revision: int, timeout: float) -> int:
        clock = asyncio.get_running_loop().time
        end = clock() + timeout
        self._pictures.follow()
        seen = await self._sweep.look()
        while seen.revision == revision and self._pictures.epoch in (None, seen.epoch):
            left = end - clock()
            if left <= 0:
                return revision
            seen = await self._next(seen, left)
        await asyncio.sleep(max(0.0, min(self._not_before, end) - clock()))
        self._pictures.tell()
        self._not_before = clock() + max(GAP, min(REST * self._pictures.took, MOST_REST))
        return seen.revision

    async def _next(self, seen: Seen, left: float) -> Seen:
        """The mesh after a while, or after a change."""
        if self._pictures.instances > MANY:
            await self._calls.link.rest()
            await asyncio.sleep(min(left, random.uniform(*ASK_EVERY)))
            return await self._sweep.glance(seen)
        wait = min(left, BLOCK_SECONDS)
        if seen.due_ms is not None and self._pictures.instances <= FEW:
            wait = min(wait, seen.due_ms / 1000)
        block = max(1, round(wait * 1000))
        words = ("XREAD", "COUNT", 1, "BLOCK", block, "STREAMS", self._keys.log, seen.change)
        await self._calls.ask(Command(self._keys.log, words), block / 1000)
        return await self._sweep.look()
