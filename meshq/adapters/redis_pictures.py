"""The picture of the mesh, read from Redis.

Every service is a part, read by one script. A reader that follows the changes reads again only what the log names since its last
picture, if that picture's change is in the log: if not, the log was trimmed or data were lost, and it reads all. Changes are all that
readers see but loads and renewals, so those may be as old as its last whole picture (MOST_AGE at the most); and whoever asks without
having waited for changes since the last picture gets a whole one.
"""

import asyncio
from collections.abc import Mapping
from types import MappingProxyType

from meshq.adapters.redis_calls import Calls
from meshq.adapters.redis_evaluate import Run
from meshq.adapters.redis_keys import Keys, service_script
from meshq.adapters.redis_mesh import NO_PICTURE, Seen
from meshq.adapters.redis_parts import Part, Parts
from meshq.adapters.redis_sweep import Sweep
from meshq.core.eviction import holds
from meshq.core.instances import Service, Snapshot

READINGS = 40_000
"""Instances that all followers together read in whole pictures, each second: some 7 us of Redis each. So of a mesh of 100 a follower
has a whole picture every 0.25 s, of 1,000 every 25 s, of 1,500 every minute,"""
MOST_AGE = 600.0
"""and never more seldom than this many seconds: loads and times of renewals are no older. In a mesh of 5,000 that takes 0.3 of Redis's
time, beyond it more. Those who were told of a change ask for it only after twice that: all are told at once, and would all ask at
once."""


class Pictures:
    def __init__(self, calls: Calls, keys: Keys, sweep: Sweep) -> None:
        self._calls = calls
        self._keys = keys
        self._sweep = sweep
        self._reader = Parts()
        self._parts: Mapping[str, Part] = {}
        self._seen: Seen | None = None
        """Of the last picture."""
        self._whole_at = 0.0
        self._follows = False
        self._told = False
        self.instances = 0
        """In the last picture."""
        self.took = 0.0
        """Seconds that the last one took."""

    @property
    def epoch(self) -> str | None:
        """Of the last picture; None before there was one."""
        return None if self._seen is None else self._seen.epoch

    def follow(self) -> None:
        """The next picture is for somebody who waited for changes."""
        self._follows = True

    def tell(self) -> None:
        """Somebody waited, and there was a change."""
        self._told = True

    async def take(self) -> Snapshot:
        clock = asyncio.get_running_loop().time
        began = clock()
        most = 2 * MOST_AGE if self._told else min(self.instances * self.instances / READINGS, MOST_AGE)
        fresh = self._follows and began - self._whole_at < most
        seen, parts = await self._read(self._seen.change if fresh and self._seen is not None else NO_PICTURE)
        if _is_ahead(seen, parts, self._sweep.guard_ms):
            await self._sweep.sweep(seen.now_ms)
            seen, parts = await self._read(NO_PICTURE)
        if seen.whole:
            self._whole_at = began
        self._follows = self._told = False
        self._seen, self._parts = seen, parts
        self.instances = sum(len(part.service.instances) for part in parts.values())
        self.took = clock() - began
        return _joined(seen, parts)

    async def _read(self, since: str) -> tuple[Seen, Mapping[str, Part]]:
        # The revision first: what changes while the rest is read is then seen as a change once more, never missed.
        before = self._parts
        seen = await self._sweep.look(since=since)
        wanted = _by_service(seen.what, {} if seen.whole else before)
        answers = await self._calls.run_each([self._run(name, idents) for name, idents in wanted.items()])
        read: dict[str, Part] = {}
        for (name, idents), answer in zip(wanted.items(), answers, strict=True):
            if answer is None:
                continue
            old = None if idents is None else before[name]
            read[name] = self._reader.read(name, answer, old, idents or ())
        return seen, read if seen.whole else {**before, **read}

    def _run(self, name: str, idents: list[str] | None) -> Run:
        script = service_script("snapshot" if idents is None else "some")
        return Run(script, self._keys.service(name), idents or ())


def _by_service(what: tuple[str, ...], known: Mapping[str, Part]) -> dict[str, list[str] | None]:
    """Service -> the instances of it that changed, maybe none; None: to be read as a whole."""
    found: dict[str, list[str] | None] = {}
    for word in what:
        name, part, ident = word.partition("/")
        if not part or name not in known:
            found[name] = None
        elif (idents := found.setdefault(name, [])) is not None and ident:
            idents.append(ident)
    return found


def _is_ahead(seen: Seen, parts: Mapping[str, Part], guard_ms: int) -> bool:
    """Whether it shows what is not counted as a change yet, or what is to change now: somebody looks at the leases in this moment, or
    did not live to do it, or many came back at once."""
    if not seen.whole:
        return False
    held = holds(sum(part.leases for part in parts.values()), sum(part.expired for part in parts.values()))
    late = any(part.late for part in parts.values())
    quiet = any(part.returned_ms + guard_ms > seen.now_ms for part in parts.values() if part.returned_ms)
    held = held or (quiet and late)
    return held is not seen.holding or any(part.unsaid for part in parts.values()) or (late and not held)


def _joined(seen: Seen, parts: Mapping[str, Part]) -> Snapshot:
    known: dict[str, Service] = {
        name: part.service for name, part in sorted(parts.items()) if part.service.majors or part.service.instances
    }
    policies = {name: part.policy for name, part in sorted(parts.items()) if part.policy is not None}
    return Snapshot(
        seen.revision,
        MappingProxyType(known),
        policies=MappingProxyType(policies),
        epoch=seen.epoch,
        holding=seen.holding,
    )
