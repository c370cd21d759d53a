"""The registry's calls of Redis: each within its time, each failure a RegistryAway that says what to do."""

import asyncio
from collections.abc import Awaitable, Sequence
from typing import Any

from redis.exceptions import RedisError

from meshq.adapters.redis_client import Command, Link
from meshq.adapters.redis_evaluate import Run, Script, evaluate
from meshq.adapters.redis_faults import FAILURES, explain
from meshq.adapters.redis_url import RedisUrl
from meshq.ports import RegistryAway

CALL_SECONDS = 2.0
"""The longest that one call waits for Redis."""


class Calls:
    def __init__(self, url: RedisUrl, link: Link) -> None:
        self._url = url
        self.link = link

    async def run(self, script: Script, keys: Sequence[str], args: Sequence[Any]) -> Any:
        return (await self.run_all([Run(script, keys, args)]))[0]

    async def run_all(self, runs: Sequence[Run]) -> list[Any]:
        """In one round trip."""
        return await self._within(CALL_SECONDS, evaluate(self.link, runs)) if runs else []

    async def ask(self, command: Command, waits: float = 0) -> Any:
        """One command that is no script. `waits` is how many seconds it may have Redis wait."""
        return (await self._within(waits + CALL_SECONDS, self.link.ask([command])))[0]

    async def _within(self, seconds: float, work: Awaitable[list[Any]]) -> list[Any]:
        try:
            async with asyncio.timeout(seconds):
                answers = await work
            for answer in answers:
                if isinstance(answer, RedisError):
                    raise answer
        except FAILURES as error:
            raise RegistryAway(explain(error, self._url, seconds)) from error
        return answers
