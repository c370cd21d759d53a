"""Topics that something is sent to while nobody is there: a stream, from which any number of watchers read.

Its ids are Redis's own. An entry has `topics`, with spaces between.
"""

import asyncio
from collections.abc import Mapping, Sequence

from meshq.adapters.redis_calls import Calls
from meshq.adapters.redis_client import Command
from meshq.adapters.redis_keys import Keys
from meshq.adapters.redis_watch import BLOCK_SECONDS

KEPT = 1000
"""Entries, or somewhat more."""


class Wakes:
    def __init__(self, calls: Calls, waiting: Calls, keys: Keys) -> None:
        """`waiting` over connections that may wait: not those that anything else needs."""
        self._calls = calls
        self._waiting = waiting
        self._key = keys.wakes

    async def add(self, topics: Sequence[str]) -> None:
        words = ("XADD", self._key, "MAXLEN", "~", KEPT, "*", "topics", " ".join(topics))
        await self._calls.ask(Command(self._key, words))

    async def after(self, last: str, timeout: float) -> tuple[str, Sequence[str]]:
        """As `ports.Registry.woken`."""
        clock = asyncio.get_running_loop().time
        end = clock() + timeout
        last = last or await self._last()
        while True:
            block = max(1, round(min(end - clock(), BLOCK_SECONDS) * 1000))
            words = ("XREAD", "COUNT", KEPT, "BLOCK", block, "STREAMS", self._key, last)
            answer = await self._waiting.ask(Command(self._key, words), block / 1000)
            if answer:
                ((_, entries),) = answer
                return entries[-1][0].decode(), _topics(entries)
            if clock() >= end:
                return last, ()

    async def _last(self) -> str:
        found = await self._calls.ask(Command(self._key, ("XREVRANGE", self._key, "+", "-", "COUNT", 1)))
        return found[0][0].decode() if found else "0-0"


def _topics(entries: Sequence[tuple[bytes, Mapping[bytes, bytes]]]) -> tuple[str, ...]:
    named = b" ".join(fields.get(b"topics", b"") for _, fields in entries)
    return tuple(dict.fromkeys(named.decode(errors="replace").split()))
