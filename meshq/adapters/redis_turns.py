"""Script calls that share round trips: those of one turn of the event loop, and those that came while a round trip was under
way, go together. Calls of one script on one slot become one call of it with all their items (redis_scripts/store/each.lua).

So there is one round trip at a time, and the busier it is the more calls share one. Calls on one key take effect in the order in
which they were made (but when Redis has forgotten one script of several). A call waits for at most the round trip before its own
and its own; each gets half of its time.

Redis is away once a round trip failed. From then on calls fail at once, and it is probed in the background until it answers:
nobody who handles a message waits for a connection to nothing.
"""

import asyncio
import logging
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import msgpack

from meshq.adapters.redis_client import Tls, connect
from meshq.adapters.redis_evaluate import Run, evaluate, load_script
from meshq.adapters.redis_faults import FAILURES, explain
from meshq.adapters.redis_url import parse
from meshq.ports import StoreAway
from meshq.tasks import Tasks

log = logging.getLogger(__name__)

MAX_WAITING = 32 * 1024 * 1024
"""Bytes of calls that may wait for the next round trip: what a network of 1 Gbit/s takes in half a second, with room."""
MAX_ITEMS = 1000
"""Of one script call, unless one caller asks for more: nobody else is served meanwhile, which is some 5 ms."""
FIRST_PROBE, LAST_PROBE = 0.1, 1.0
"""Seconds between probes, doubled from the one to the other."""
CLOSED = "the store is closed"
KEY_BYTES = 100
"""What a key and its small arguments count as."""


class _Call:
    __slots__ = ("args", "items", "keys", "reply", "script", "slot")

    def __init__(
        self,
        script: str,
        slot: str,
        items: int,
        keys: Sequence[str],
        args: Sequence[Any],
        reply: asyncio.Future[list[Any]] | None,
    ) -> None:
        self.script = script
        self.slot = slot
        self.items = items
        self.keys = keys
        self.args = args
        self.reply = reply


class RedisTurns:
    """`seconds` is how long a call takes at most. Raises ValueError for a URL that is not served."""

    def __init__(self, url: str, purpose: str, seconds: float, tls: Tls | None = None) -> None:
        self._url = parse(url)
        self._purpose = purpose
        self._seconds = seconds
        self._link = connect(self._url, seconds / 2, tls, single=True)
        self._waiting: list[_Call] = []
        self._waiting_bytes = 0
        self._working = False
        self._closed = False
        self._away = ""
        """Why Redis is away; "" while it is not known to be."""
        self._tasks = Tasks()

    async def open(self) -> None:
        """Find out whether it is there: then the first call does not have to."""
        fault = await self._ping()
        if fault:
            self._went(fault)

    async def close(self) -> None:
        self._closed = True
        await self._tasks.close()
        self._fail(self._waiting, CLOSED)
        await self._link.close()

    def call(
        self, script: str, slot: str, keys: Sequence[str], args: Sequence[Any] = (), items: int = 1
    ) -> asyncio.Future[list[Any]]:
        """Run `script` on `items` items, whose keys all hash to `slot`. The future gives a reply for each, or raises
        StoreAway; this raises it too."""
        reply: asyncio.Future[list[Any]] = asyncio.get_running_loop().create_future()
        self._add(_Call(script, slot, items, keys, args, reply))
        return reply

    def tell(self, script: str, slot: str, keys: Sequence[str], args: Sequence[Any], items: int = 1) -> None:
        """As `call`, for what nobody waits for and what may be lost."""
        with suppress(StoreAway):
            self._add(_Call(script, slot, items, keys, args, None))

    def _add(self, call: _Call) -> None:
        if self._away or self._closed:
            raise StoreAway(self._away or CLOSED)
        size = KEY_BYTES * len(call.keys) + sum(len(arg) for arg in call.args if type(arg) is bytes)
        if self._waiting and self._waiting_bytes + size > MAX_WAITING:
            raise StoreAway(f"{self._waiting_bytes} bytes wait already to be stored in Redis at {self._url.where}")
        self._waiting.append(call)
        self._waiting_bytes += size
        if not self._working:
            self._working = True
            self._tasks.start(self._work(), f"ask the {self._purpose}")

    # --- round trips --------------------------------------------------------------------------------------------------------

    async def _work(self) -> None:
        try:
            while self._waiting:
                await self._round_trip(self._take())
        finally:
            self._working = False

    def _take(self) -> list[_Call]:
        calls, self._waiting, self._waiting_bytes = self._waiting, [], 0
        return calls

    async def _round_trip(self, calls: list[_Call]) -> None:
        groups = _grouped(calls)
        try:
            async with asyncio.timeout(self._seconds / 2):
                answers = await evaluate(self._link, [_run(group) for group in groups])
        except FAILURES as error:
            self._went(self._describe(error))
            self._fail(calls + self._take(), self._away)
            return
        except asyncio.CancelledError:
            self._fail(calls, CLOSED)
            raise
        for group, answer in zip(groups, answers, strict=True):
            if isinstance(answer, Exception):
                self._fail(group, self._describe(answer))
            else:
                _hand_out(group, msgpack.unpackb(answer, raw=True))

    def _fail(self, calls: list[_Call], why: str) -> None:
        for call in calls:
            if call.reply is not None and not call.reply.done():
                call.reply.set_exception(StoreAway(why))

    def _describe(self, error: BaseException) -> str:
        return explain(error, self._url, self._seconds / 2)

    # --- away ---------------------------------------------------------------------------------------------------------------

    def _went(self, fault: str) -> None:
        known, self._away = bool(self._away), fault
        if known:
            return
        log.warning("the %s is away, and asked again until it is back: %s", self._purpose, fault)
        self._tasks.start(self._probe(), f"wait for the {self._purpose}")

    async def _probe(self) -> None:
        pause = FIRST_PROBE
        while self._away:
            await asyncio.sleep(pause)
            pause = min(2 * pause, LAST_PROBE)
            self._away = await self._ping()
        log.info("the %s is back: Redis at %s answers", self._purpose, self._url.where)

    async def _ping(self) -> str:
        """Why it does not answer; "" when it does."""
        try:
            async with asyncio.timeout(self._seconds / 2):
                await self._link.check()
        except FAILURES as error:
            return self._describe(error)
        return ""


def _run(group: list[_Call]) -> Run:
    keys = [key for call in group for key in call.keys]
    args = msgpack.packb([arg for call in group for arg in call.args], use_bin_type=False)
    return Run(load_script("store/each", f"store/{group[0].script}"), keys, (args,))


def _grouped(calls: list[_Call]) -> list[list[_Call]]:
    """Those that become one call of a script, in the order of their first. A call joins an earlier group unless one of its keys
    was used by a later one, so that on each key they stay in order."""
    groups: list[list[_Call]] = []
    latest: dict[tuple[str, str], tuple[int, int]] = {}
    """(script, slot) -> its last group and the items in it"""
    used: dict[str, int] = {}
    """key -> the last group that uses it"""
    for call in calls:
        group, items = latest.get((call.script, call.slot), (-1, MAX_ITEMS))
        if items + call.items > MAX_ITEMS or any(used.get(key, -1) > group for key in call.keys):
            group, items = len(groups), 0
            groups.append([])
        groups[group].append(call)
        latest[call.script, call.slot] = group, items + call.items
        for key in call.keys:
            used[key] = group
    return groups


def _hand_out(group: list[_Call], replies: list[Any]) -> None:
    at = 0
    for call in group:
        if call.reply is not None and not call.reply.done():
            call.reply.set_result(replies[at : at + call.items])
        at += call.items
