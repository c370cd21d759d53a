"""The registry's calls of Redis: each within its time, each failure a RegistryAway that says what to do."""

import asyncio
import logging
from collections.abc import Awaitable, Sequence
from typing import Any

from redis.exceptions import RedisError, ResponseError

from meshq.adapters.redis_client import Command, Link
from meshq.adapters.redis_evaluate import Run, Script, evaluate
from meshq.adapters.redis_faults import FAILURES, explain
from meshq.adapters.redis_url import RedisUrl
from meshq.ports import RegistryAway

CALL_SECONDS = 2.0
"""The longest that one call waits for Redis."""
MAX_REMEMBERED = 1000
"""Keys that scripts failed at, remembered so that each is logged once."""

log = logging.getLogger(__name__)


class Calls:
    def __init__(self, url: RedisUrl, link: Link) -> None:
        self._url = url
        self._broken: set[str] = set()
        self.link = link

    async def run(self, script: Script, keys: Sequence[str], args: Sequence[Any]) -> Any:
        return (await self.run_all([Run(script, keys, args)]))[0]

    async def run_all(self, runs: Sequence[Run]) -> list[Any]:
        """In one round trip."""
        return await self._within(CALL_SECONDS, evaluate(self.link, runs)) if runs else []

    async def run_each(self, runs: Sequence[Run]) -> list[Any]:
        """`run_all`, with None for a script that failed at what it found in its keys, unless all did."""
        return await self._within(CALL_SECONDS, self._apart(runs)) if runs else []

    async def _apart(self, runs: Sequence[Run]) -> list[Any]:
        answers = await evaluate(self.link, runs)
        failed = [run.keys[0] for run, answer in zip(runs, answers, strict=True) if type(answer) is ResponseError]
        if len(failed) in (0, len(runs)):
            return answers
        for key in failed:
            if key not in self._broken and len(self._broken) < MAX_REMEMBERED:
                self._broken.add(key)
                log.warning("Redis has something else at %s than meshq wrote there, which is left alone", key)
        return [None if type(answer) is ResponseError else answer for answer in answers]

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
