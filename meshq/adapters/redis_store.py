"""`ports.Store` on Redis, the same server as the registry's, over a connection of its own.

    meshq:<mesh>:once:{<called>}:<scope>     an idempotency key: redis_scripts/store/once.lua
    meshq:<mesh>:req:{<caller>}:<id>         a durable call: accepted.lua
    meshq:<mesh>:result:{<caller>}:<id>      its result
    meshq:<mesh>:claim:{<called>}:<id>       whether it had started or was cancelled: start.lua
    meshq:<mesh>:lead:{<name>}, meshq:<mesh>:offset:{<name>}
    meshq:<mesh>:{room}:bytes, meshq:<mesh>:{room}:tombstones    how much is kept: room.lua

In a cluster only the keys with one {...} are on one server. So room is taken first, and what is kept is written after that;
who is broken off in between leaves the room taken until its time is over. What is kept is counted up to ten minutes longer
than it is (room.lua), so the bound is kept and up to ten minutes' worth of it may lie unused.

Everything expires by Redis's own clock.
"""

from collections.abc import Sequence
from typing import Any

from meshq.adapters.redis_client import Tls
from meshq.adapters.redis_turns import RedisTurns
from meshq.core.keeping import Keeping, kept_answer, kept_result
from meshq.ports import Once, OnceState, RequestRecord

CALL_SECONDS = 1.0
"""The longest that one operation takes; `done` and `completed` with something to keep are two. With Redis known to be away, none
of it."""
ROOM = "room"


class RedisStore:
    """`ports.Store` at a URL of redis_url.py. Raises ValueError for another. `tls` as of RedisRegistry."""

    def __init__(
        self,
        url: str,
        mesh: str,
        *,
        tls: Tls | None = None,
        keeping: Keeping | None = None,
        seconds: float = CALL_SECONDS,
    ) -> None:
        self._turns = RedisTurns(url, "store", seconds, tls)
        self._prefix = f"meshq:{mesh}"
        self._keeping = keeping or Keeping()

    async def open(self) -> None:
        """Find out whether Redis is there; if not, it is asked again in the background."""
        await self._turns.open()

    async def close(self) -> None:
        await self._turns.close()

    # --- once per key -------------------------------------------------------------------------------------------------------

    async def once(self, service: str, scope: str, digest: str, owner: str, lease: float) -> Once:
        args = (digest, owner, _ms(lease))
        ((state, *more),) = await self._turns.call("once", service, [self._once(service, scope)], args)
        match OnceState(state.decode()):
            case OnceState.DONE:
                return Once(OnceState.DONE, answer=more[0])
            case OnceState.NOT_KEPT:
                return Once(OnceState.NOT_KEPT, status=more[0])
            case known:
                return Once(known)

    async def done(self, service: str, scope: str, owner: str, answer: bytes, status: int, window: float) -> None:
        room = [("bytes", len(answer), window, self._keeping.room)] if kept_answer(answer) else []
        taken = await self._take(room)
        kept = answer if taken == [True] else b""
        args = (owner, status, kept, _ms(window))
        (stored,) = await self._turns.call("done", service, [self._once(service, scope)], args)
        if not stored:
            self._give_back(room, taken)

    async def free(self, service: str, scope: str, owner: str) -> None:
        await self._turns.call("free", service, [self._once(service, scope)], (owner,))

    # --- durable calls --------------------------------------------------------------------------------------------------------

    async def accepted(self, caller: str, called: str, ids: Sequence[str], keep: float) -> None:
        if ids:
            keys = [f"{self._prefix}:req:{{{caller}}}:{ident}" for ident in ids]
            await self._turns.call("accepted", caller, keys, [called, _ms(keep)] * len(ids), len(ids))

    async def completed(self, caller: str, ident: str, called: str, result: bytes, status: int) -> None:
        keeping = self._keeping
        known = keeping.result + keeping.tombstone
        room = [("tombstones", 1, known, keeping.tombstones)]
        if kept_result(result):
            room.append(("bytes", len(result), keeping.result, keeping.room))
        taken = await self._take(room)
        kept = result if taken[1:] == [True] else b""
        args = (called, status, kept, _ms(keeping.result), _ms(known if taken[0] else keeping.result))
        reply = self._turns.call("completed", caller, self._request(caller, ident), args)
        self._turns.tell("settled", called, [self._claim(called, ident)], (_ms(keeping.settled),))
        (stored,) = await reply
        if not stored:
            self._give_back(room, taken)

    async def request(self, caller: str, ident: str) -> RequestRecord | None:
        (known,) = await self._turns.call("request", caller, self._request(caller, ident))
        if not known:
            return None
        called, status, over, result = known
        if over or result or status is False:
            return RequestRecord(result or None, called.decode(), expired=over)
        return RequestRecord(None, called.decode(), status=status)

    async def start(self, called: str, ids: Sequence[str]) -> list[bool]:
        if not ids:
            return []
        keys = [self._claim(called, ident) for ident in ids]
        return await self._turns.call("start", called, keys, [_ms(self._keeping.started)] * len(ids), len(ids))

    async def cancel(self, called: str, ident: str) -> bool:
        args = (_ms(self._keeping.cancelled),)
        (cancelled,) = await self._turns.call("cancel", called, [self._claim(called, ident)], args)
        return bool(cancelled)

    # --- logs -------------------------------------------------------------------------------------------------------------

    async def lead(self, name: str, owner: str, seconds: float) -> bool:
        (leads,) = await self._turns.call("lead", name, [f"{self._prefix}:lead:{{{name}}}"], (owner, _ms(seconds)))
        return bool(leads)

    async def put_offset(self, name: str, offset: int) -> None:
        await self._turns.call("put_offset", name, [f"{self._prefix}:offset:{{{name}}}"], (str(offset),))

    async def offset(self, name: str) -> int | None:
        (known,) = await self._turns.call("offset", name, [f"{self._prefix}:offset:{{{name}}}"])
        return int(known) if known else None

    # --- room ---------------------------------------------------------------------------------------------------------------

    async def _take(self, room: list[tuple[str, int, float, int]]) -> list[Any]:
        """Whether there was each: (of what, amount, seconds, how much there may be)."""
        if not room:
            return []
        args = [arg for _, amount, keep, most in room for arg in (amount, _ms(keep), most)]
        return await self._turns.call("room", ROOM, [self._room(of) for of, *_ in room], args, len(room))

    def _give_back(self, room: list[tuple[str, int, float, int]], taken: list[Any]) -> None:
        for (of, amount, keep, most), was in zip(room, taken, strict=True):
            if was:
                self._turns.tell("room", ROOM, [self._room(of)], (-amount, _ms(keep), most))

    # --- keys ---------------------------------------------------------------------------------------------------------------

    def _room(self, of: str) -> str:
        return f"{self._prefix}:{{{ROOM}}}:{of}"

    def _once(self, service: str, scope: str) -> str:
        return f"{self._prefix}:once:{{{service}}}:{scope}"

    def _claim(self, called: str, ident: str) -> str:
        return f"{self._prefix}:claim:{{{called}}}:{ident}"

    def _request(self, caller: str, ident: str) -> list[str]:
        """Of the call, and of its result."""
        return [f"{self._prefix}:{of}:{{{caller}}}:{ident}" for of in ("req", "result")]


def _ms(seconds: float) -> int:
    return max(1, round(seconds * 1000))
