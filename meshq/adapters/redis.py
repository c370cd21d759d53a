"""The registry on Redis: small scripts, each on the keys of one service, by the server's own clock (redis_keys.py)."""

import random
from collections.abc import Mapping, Sequence
from contextlib import suppress

from meshq.adapters import redis_records as records
from meshq.adapters.redis_calls import CALL_SECONDS, Calls
from meshq.adapters.redis_client import Tls, connect
from meshq.adapters.redis_evaluate import Run
from meshq.adapters.redis_keys import Keys, said, service_script
from meshq.adapters.redis_mesh import MeshSlot, word
from meshq.adapters.redis_pictures import Pictures
from meshq.adapters.redis_reports import Reports, packed
from meshq.adapters.redis_sweep import Sweep
from meshq.adapters.redis_url import parse
from meshq.adapters.redis_wakes import Wakes
from meshq.adapters.redis_watch import Watch
from meshq.core.instances import FORGET_AFTER_MS, TTL_MS, Instance, Load, Renewal, Snapshot, State
from meshq.core.names import parse_topic
from meshq.core.policy import Policy
from meshq.core.reports import Report, Reported
from meshq.ports import Fenced, RegistryAway

CALLERS_KEPT_MS = 24 * 3_600_000
MAX_REMEMBERED = 10_000
"""Instances whose writes one client remembers: the latest."""


class RedisRegistry:
    """`ports.Registry` at a URL of redis_url.py. Raises ValueError for another. `tls` gives the context for a URL of TLS, the
    system's authorities unless given; `ttl_ms` is of instances that name none."""

    def __init__(self, url: str, mesh: str, *, tls: Tls | None = None, ttl_ms: int = TTL_MS) -> None:
        where = parse(url)
        self._ttl_ms = ttl_ms
        self._keys = Keys(mesh)
        self._calls = Calls(where, connect(where, CALL_SECONDS, tls, single=True))
        self._waiting = Calls(where, connect(where, CALL_SECONDS, tls))
        """For blocking reads."""
        self._slot = MeshSlot(self._calls, self._keys)
        self._sweep = Sweep(self._calls, self._keys, self._slot, ttl_ms)
        self._pictures = Pictures(self._calls, self._keys, self._sweep)
        self._watch = Watch(self._waiting, self._keys, self._sweep, self._pictures)
        self._reports = Reports(self._calls, self._keys)
        self._wakes = Wakes(self._calls, self._waiting, self._keys)
        self._writes: dict[tuple[str, str, int], int] = {}
        """Of instances that are renewed here (service, id, generation): how often they were written to. Redis knowing of fewer has
        lost some, in a failover or by a crash."""
        self._process = f"{random.getrandbits(64):016x}"
        """Whose registrations these are."""

    async def open(self) -> None:
        """Connections are made when they are needed."""

    async def close(self) -> None:
        await self._calls.link.close()
        await self._waiting.link.close()

    # --- an instance about itself -------------------------------------------------------------------------------------------

    async def register(self, instance: Instance) -> int:
        args = (
            instance.id,
            records.record(instance, self._process),
            records.metadata(instance.metadata),
            instance.state.value,
            records.load(instance.load),
            instance.ttl_ms or self._ttl_ms,
            records.pause(instance.pause),
            records.pause(instance.orders.pause),
            self._sweep.guard_ms,
        )
        keys = self._keys.with_pause(instance.service, instance.id)
        generation: int
        generation, due = await self._calls.run(service_script("register"), keys, args)
        self._forget_writes(instance.service, instance.id)
        await self._slot.note("register", word(instance.service, instance.id), due)
        return generation

    async def renew(
        self, service: str, instance: str, generation: int, load: Load, report: Report | None = None
    ) -> Renewal | None:
        mark = (service, instance, generation)
        args = (
            instance,
            self._owner(generation),
            records.load(load),
            self._writes.get(mark, 0),
            self._sweep.guard_ms,
            packed(report),
        )
        standing, now, changed, writes, _ = await self._calls.run(
            service_script("renew"), self._keys.service(service), args
        )
        if standing != b"ok":
            self._writes.pop(mark, None)
            self._check_owned(standing, service, instance)
            return None
        self._note_writes(mark, writes)
        if changed:
            revision = await self._slot.note("renew", word(service, instance))
            await self._said(service, now, instance)
            return Renewal(now, revision)
        return Renewal(now, (await self._sweep.look(service)).revision)

    async def set_state(self, service: str, instance: str, generation: int, state: State) -> None:
        await self._order("set_state", service, instance, generation, state.value)

    async def describe(self, service: str, instance: str, generation: int, metadata: Mapping[str, str]) -> None:
        await self._order("describe", service, instance, generation, records.metadata(metadata))

    async def deregister(self, service: str, instance: str, generation: int) -> None:
        await self._order("deregister", service, instance, generation, FORGET_AFTER_MS)
        self._forget_writes(service, instance)

    # --- the instance or an operator ----------------------------------------------------------------------------------------

    async def pause(self, service: str, instance: str, reason: str, for_ms: int | None, generation: int | None) -> bool:
        return await self._order("pause", service, instance, generation, reason, "" if for_ms is None else for_ms)

    async def resume(self, service: str, instance: str, generation: int | None) -> bool:
        return await self._order("resume", service, instance, generation)

    async def order_drain(self, service: str, instance: str) -> bool:
        return await self._order("order_drain", service, instance, None)

    async def _order(self, script: str, service: str, instance: str, generation: int | None, *args: object) -> bool:
        """False when the instance is unknown. Raises Fenced."""
        keys = self._keys.with_pause(service, instance) if script == "deregister" else self._keys.service(service)
        given = (instance, self._owner(generation), *args)
        standing, now, changed, writes, due = await self._calls.run(service_script(script), keys, given)
        self._check_owned(standing, service, instance)
        if generation is not None and standing == b"ok":
            self._note_writes((service, instance, generation), writes)
        if changed:
            await self._slot.note(script, word(service, instance), due)
            await self._said(service, now, instance)
        return bool(standing == b"ok")

    def _owner(self, generation: int | None) -> str:
        return "" if generation is None else f"{generation} {self._process}"

    async def _said(self, service: str, now_ms: int, instance: str = "") -> None:
        with suppress(RegistryAway):  # then who looks at the leases says it once more
            await self._calls.run_all([said(self._keys, service, now_ms, [instance])])

    def _check_owned(self, standing: bytes, service: str, instance: str) -> None:
        if standing == b"fenced":
            raise Fenced(f"instance {instance!r} of {service!r} was registered again by another process")

    def _note_writes(self, mark: tuple[str, str, int], writes: int) -> None:
        self._writes[mark] = max(writes, self._writes.pop(mark, 0))
        if len(self._writes) > MAX_REMEMBERED:
            del self._writes[next(iter(self._writes))]

    def _forget_writes(self, service: str, instance: str) -> None:
        for mark in [mark for mark in self._writes if mark[:2] == (service, instance)]:
            del self._writes[mark]

    # --- the picture --------------------------------------------------------------------------------------------------------

    async def snapshot(self) -> Snapshot:
        return await self._pictures.take()

    async def changed(self, revision: int, timeout: float) -> int:
        return await self._watch.changed(revision, timeout)

    # --- versions -----------------------------------------------------------------------------------------------------------

    async def put_policy(self, service: str, policy: Policy | None) -> None:
        args = (records.policy(policy),)
        now, changed = await self._calls.run(service_script("put_policy"), self._keys.service(service), args)
        if changed:
            await self._slot.note("put_policy", f"{service}/")
            await self._said(service, now)

    async def called(self, caller: str, topics: Sequence[str]) -> None:
        majors: dict[str, list[int]] = {}
        for service, major in map(parse_topic, topics):
            majors.setdefault(service, []).append(major)
        script = service_script("callers")
        await self._calls.run_all(
            [
                Run(script, self._keys.service(name), (CALLERS_KEPT_MS, caller, *called))
                for name, called in majors.items()
            ]
        )

    async def callers(self, service: str) -> Mapping[tuple[int, str], int]:
        flat = await self._calls.run(service_script("callers"), self._keys.service(service), (CALLERS_KEPT_MS,))
        found: dict[tuple[int, str], int] = {}
        for field, at in records.pairs(flat).items():
            major, _, caller = field.decode().partition(" ")
            found[int(major), caller] = int(at)
        return found

    async def retire(self, service: str, major: int) -> bool:
        keys = self._keys.service(service)
        free, changed, forgotten, now = await self._calls.run(service_script("retire"), keys, (major,))
        if changed:
            await self._slot.note("retire", service, forgotten=service if forgotten else "")
            await self._said(service, now)
        return bool(free)

    # --- scaling ------------------------------------------------------------------------------------------------------------

    async def reports(self) -> Sequence[Reported]:
        return await self._reports.read()

    async def wake(self, topics: Sequence[str]) -> None:
        await self._wakes.add(topics)

    async def woken(self, after: str, timeout: float) -> tuple[str, Sequence[str]]:
        return await self._wakes.after(after, timeout)
