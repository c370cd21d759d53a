"""What changes by itself: leases that run out, pauses that end, instances that are given up.

Nothing here watches for Redis to expire a key. The mesh knows when the next lease can run out (or a pause end); whoever looks at it
after that has the turn, asks every service what happened, and decides for the mesh as a whole who is given up (core/eviction.py).
A picture does not wait for it to see a suspect, which is a matter of time alone; only `down` is a mark.
"""

import random
from contextlib import suppress
from typing import NamedTuple

from meshq.adapters.redis_calls import Calls
from meshq.adapters.redis_evaluate import Run
from meshq.adapters.redis_keys import Keys, said, service_script
from meshq.adapters.redis_mesh import NO_PICTURE, NOT_ASKED, MeshSlot, Seen, named
from meshq.core.eviction import GUARD_AFTER_RETURN_MS, SECOND_MS, allowance, given_up_at, holds
from meshq.core.instances import FORGET_AFTER_MS, TTL_MS
from meshq.ports import RegistryAway

MOST_SWEEPS = 3
"""One after the other, by one who only wanted to look."""


class Late(NamedTuple):
    """Who could be given up."""

    service: str
    instance: str
    deadline_ms: int
    ttl_ms: int


class Sweep:
    def __init__(self, calls: Calls, keys: Keys, slot: MeshSlot, ttl_ms: int) -> None:
        self._calls = calls
        self._keys = keys
        self._slot = slot
        self.guard_ms = GUARD_AFTER_RETURN_MS * ttl_ms // TTL_MS
        """How long nobody is given up after Redis was restarted or replaced, or a lease that was over was renewed."""

    async def look(self, service: str = "", since: str = NOT_ASKED) -> Seen:
        """`MeshSlot.look`, after a sweep if it is our turn, and after another if it is again by then."""
        seen = await self._slot.look(service, since)
        for _ in range(MOST_SWEEPS):
            if seen.due_ms != 0:
                break
            await self.sweep(seen.now_ms)
            seen = await self._slot.look(since=since)
        return seen

    async def glance(self, seen: Seen) -> Seen:
        """`MeshSlot.glance`: without a look at whose turn it is."""
        return await self._slot.glance(seen)

    async def sweep(self, now_ms: int) -> None:
        services = (await self._slot.look(since=NO_PICTURE)).what
        script = service_script("sweep")
        args = (self.guard_ms, FORGET_AFTER_MS)
        told = await self._calls.run_each([Run(script, self._keys.service(name), args) for name in services])
        found = {name: answer for name, answer in zip(services, told, strict=True) if answer is not None}
        answers = found.values()
        changed = {name: {ident.decode() for ident in answer[0]} for name, answer in found.items()}
        leases, expired = (sum(answer[n] for answer in answers) for n in (1, 2))
        held = holds(leases, expired)
        returned = max((answer[6] for answer in answers), default=0)
        quiet_ms = returned + self.guard_ms if returned else 0
        late = [
            Late(name, ident.decode(), deadline, ttl)
            for name, answer in found.items()
            for ident, deadline, ttl in zip(*(iter(answer[5]),) * 3, strict=True)
        ]
        due = [one for one in late if now_ms >= _given_up_at(one, quiet_ms, held=held)]
        gone, given_up_ms = await self._give_up(due, leases)
        for one in gone:
            changed[one.service].add(one.instance)
        moments = [answer[3] for answer in answers if answer[3] >= 0]
        if len(gone) < len(late):  # whether the guard still holds, and whose turn it is, shows then
            moments.append(now_ms + SECOND_MS)
        guarded = any(answer[4] for answer in answers) or (bool(late) and now_ms < quiet_ms)
        holding = guarded or holds(leases - len(gone), expired - len(gone))
        what = [word for name, idents in changed.items() for word in named(name, sorted(idents))]
        await self._slot.swept(what, min(moments, default=-1), holding)
        told_ms = {name: answer[7] for name, answer in found.items()} | given_up_ms
        with suppress(RegistryAway):  # then it is said once more
            await self._calls.run_each(
                [said(self._keys, name, told_ms[name], sorted(idents)) for name, idents in changed.items() if idents]
            )

    async def _give_up(self, due: list[Late], leases: int) -> tuple[list[Late], dict[str, int]]:
        """As many as may be, drawn by lot, so that no service loses all at once; and when, by service."""
        if not due:
            return [], {}
        allowed = await self._slot.allow(len(due), allowance(leases))
        chosen = random.sample(due, allowed)
        ids: dict[str, list[str]] = {}
        for one in chosen:
            ids.setdefault(one.service, []).append(one.instance)
        script = service_script("give_up")
        at = await self._calls.run_all(
            [Run(script, self._keys.service(name), (self.guard_ms, *given_up)) for name, given_up in ids.items()]
        )
        return chosen, dict(zip(ids, at, strict=True))


def _given_up_at(one: Late, quiet_ms: int, *, held: bool) -> int:
    return given_up_at(one.deadline_ms - one.ttl_ms, one.deadline_ms, one.ttl_ms, held=held, quiet_ms=quiet_ms)
