"""The registry inside this process: what the Redis one does, on dictionaries, for `meshq dev` and for tests."""

import asyncio
import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from random import Random
from types import MappingProxyType

from meshq.adapters.embedded_registry_callers import Callers
from meshq.adapters.embedded_registry_client import EmbeddedRegistry
from meshq.adapters.embedded_registry_file import Kept, RegistryFile
from meshq.adapters.embedded_registry_leases import NEVER, Lease, Leases
from meshq.adapters.embedded_registry_wakes import Wakes
from meshq.core.instances import (
    FORGET_AFTER_MS,
    TTL_MS,
    Instance,
    Load,
    Orders,
    Pause,
    Renewal,
    Service,
    Snapshot,
    State,
    lowest_ready,
)
from meshq.core.names import Version
from meshq.core.policy import Policy
from meshq.core.reports import Report, Reported
from meshq.ports import Clock, Fenced


class EmbeddedRegistryHub:
    """The registry: what `ports.Registry` says, at once. `path` is the file of embedded_registry_file.py; `chance` draws who is
    given up first, and names the epochs."""

    def __init__(
        self, clock: Clock, path: Path | None = None, *, ttl_ms: int = TTL_MS, chance: Random | None = None
    ) -> None:
        self._clock = clock
        self._ttl_ms = ttl_ms
        self._chance = chance or Random()
        self._file = RegistryFile(path)
        kept = self._file.read()
        self._majors = {name: dict(majors) for name, majors in kept.majors.items()}
        """By service, each that has any or had an instance."""
        self._policies = dict(kept.policies)
        self._revision = clock.mesh_ms() if self._majors or self._policies else 0
        self._generation = 0
        self._changed = asyncio.Event()
        """Set, and replaced by a new one, at each change."""
        self._wakes = Wakes()
        self._begin()

    def connect(self) -> EmbeddedRegistry:
        return EmbeddedRegistry(self)

    def _begin(self) -> None:
        """With nobody there."""
        self._leases = Leases(self._ttl_ms, self._chance)
        self._callers = Callers()
        self._remembered: dict[tuple[str, str], tuple[Pause, int]] = {}
        """Service and id of who deregistered -> the operator's pause, and until when it is remembered."""
        self._epoch = f"{self._chance.getrandbits(64):016x}"

    # --- an instance about itself -------------------------------------------------------------------------------------------

    def register(self, instance: Instance) -> int:
        now = self._now()
        self._generation += 1
        orders = Orders(pause=self._ordered_pause(instance, now))
        record = replace(instance, generation=self._generation, last_seen_ms=now, orders=orders)
        self._leases.put(record, now)
        self._serve(record)
        self._note_change(instance.service)
        return self._generation

    def renew(
        self, service: str, instance: str, generation: int, load: Load, report: Report | None = None
    ) -> Renewal | None:
        now = self._now()
        lease = self._lease(service, instance, generation)
        if lease is None:
            return None
        if self._leases.renew(lease, load, now):
            self._serve(lease.record)
            self._note_change(service)
        if report is not None:
            lease.report, lease.reported_ms = report, now
        return Renewal(now, self._revision)

    def set_state(self, service: str, instance: str, generation: int, state: State) -> None:
        if (lease := self._lease(service, instance, generation)) is not None:
            self._change(lease, replace(lease.record, state=state))

    def describe(self, service: str, instance: str, generation: int, metadata: Mapping[str, str]) -> None:
        if (lease := self._lease(service, instance, generation)) is not None:
            self._change(lease, replace(lease.record, metadata=MappingProxyType(dict(metadata))))

    def deregister(self, service: str, instance: str, generation: int) -> None:
        lease = self._lease(service, instance, generation)
        if lease is None:
            return
        now = self._now()
        self._remembered = {key: kept for key, kept in self._remembered.items() if now < kept[1]}
        if lease.record.orders.pause is not None:
            self._remembered[service, instance] = lease.record.orders.pause, now + FORGET_AFTER_MS
        self._leases.remove(service, instance)
        self._note_change(service)

    # --- the instance or an operator ----------------------------------------------------------------------------------------

    def pause(self, service: str, instance: str, reason: str, for_ms: int | None, generation: int | None) -> bool:
        until = None if for_ms is None else self._now() + for_ms
        return self._set_pause(service, instance, Pause(reason, until), generation)

    def resume(self, service: str, instance: str, generation: int | None) -> bool:
        return self._set_pause(service, instance, None, generation)

    def order_drain(self, service: str, instance: str) -> bool:
        lease = self._lease(service, instance, None)
        if lease is not None:
            self._change(lease, replace(lease.record, orders=lease.record.orders._replace(drain=True)))
        return lease is not None

    # --- the picture --------------------------------------------------------------------------------------------------------

    def snapshot(self) -> Snapshot:
        self._now()
        services = {name: self._service(name, majors) for name, majors in sorted(self._majors.items())}
        return Snapshot(
            self._revision,
            MappingProxyType({name: s for name, s in services.items() if s.majors or s.instances}),
            policies=MappingProxyType(dict(sorted(self._policies.items()))),
            epoch=self._epoch,
            holding=self._leases.holding,
        )

    async def changed(self, revision: int, timeout: float) -> int:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                while self._now() and self._revision == revision:
                    await self._wait()
        return self._revision

    def tick(self) -> None:
        """Look at the clock again: for whoever turned it by hand while others wait in `changed`."""
        self._changed.set()
        self._changed = asyncio.Event()

    # --- versions -----------------------------------------------------------------------------------------------------------

    def put_policy(self, service: str, policy: Policy | None) -> None:
        self._now()
        if policy == self._policies.get(service):
            return
        if policy is None:
            del self._policies[service]
        else:
            self._policies[service] = policy
        self._note_change()

    def called(self, caller: str, topics: Sequence[str]) -> None:
        self._callers.add(caller, topics, self._now())

    def callers(self, service: str) -> Mapping[tuple[int, str], int]:
        return self._callers.of(service, self._now())

    def retire(self, service: str, major: int) -> bool:
        self._now()
        there = [lease for lease in self._leases.of(service).values() if lease.seen is not State.DOWN]
        if any(major in lease.record.majors for lease in there):
            return False
        if self._majors.get(service, {}).pop(major, None) is not None:
            if not (self._majors[service] or there):
                self._leases.forget_service(service)
                del self._majors[service]
            self._note_change(service)
        return True

    # --- scaling ------------------------------------------------------------------------------------------------------------

    def reports(self) -> Sequence[Reported]:
        self._now()
        return self._leases.reports()

    def wake(self, topics: Sequence[str]) -> None:
        self._wakes.add(topics)

    async def woken(self, after: str, timeout: float) -> tuple[str, Sequence[str]]:
        return await self._wakes.after(after, timeout)

    # --- within -------------------------------------------------------------------------------------------------------------

    def clear(self) -> None:
        """Lose everything, as a Redis without persistence that was restarted."""
        self._majors.clear()
        self._policies.clear()
        self._revision = 0
        self._begin()
        self.tick()

    def _now(self) -> int:
        """Mesh time, after all that has changed by itself until then was counted as a change."""
        now = self._clock.mesh_ms()
        held = self._leases.holding
        changed = self._leases.settle(now)
        if changed or held is not self._leases.holding:
            self._note_change(*changed)
        return now

    async def _wait(self) -> None:
        """Until the next change, or until something changes by itself."""
        due = self._leases.due_ms
        seconds = None if due == NEVER else max(1, due - self._clock.mesh_ms()) / 1000
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._changed.wait(), seconds)

    def _lease(self, service: str, instance: str, generation: int | None) -> Lease | None:
        """None for an unknown instance. An operator has no generation. Raises Fenced."""
        self._now()
        lease = self._leases.get(service, instance)
        if lease is not None and generation not in (None, lease.record.generation):
            raise Fenced(f"instance {instance!r} of {service!r} was registered again by another process")
        return lease

    def _change(self, lease: Lease, record: Instance) -> None:
        """Other things are known of it from now on."""
        if record != lease.record:
            lease.record = record
            self._leases.touch(lease, self._now())
            self._note_change(record.service)

    def _set_pause(self, service: str, instance: str, pause: Pause | None, generation: int | None) -> bool:
        lease = self._lease(service, instance, generation)
        if lease is None:
            return False
        record = lease.record
        if generation is None:
            self._change(lease, replace(record, orders=record.orders._replace(pause=pause)))
        else:
            self._change(lease, replace(record, pause=pause))
        return True

    def _ordered_pause(self, instance: Instance, now_ms: int) -> Pause | None:
        """The operator's pause of who registers."""
        known = self._leases.get(instance.service, instance.id)
        remembered, until = self._remembered.pop((instance.service, instance.id), (None, 0))
        if known is not None:
            return known.record.orders.pause
        return remembered if now_ms < until else instance.orders.pause

    def _serve(self, record: Instance) -> None:
        """It serves its majors, from now on or again."""
        majors = self._majors.setdefault(record.service, {})
        for major in record.majors:
            majors.setdefault(major, record.version)

    def _service(self, name: str, majors: Mapping[int, Version]) -> Service:
        leases = sorted(self._leases.of(name).items())
        seen = (replace(lease.record, state=lease.seen) for _, lease in leases)
        return Service(name, MappingProxyType(dict(majors)), tuple(seen))

    def _note_change(self, *services: str) -> None:
        for name in services:
            majors = self._majors.get(name, {})
            ready = [lease.record for lease in self._leases.of(name).values() if lease.seen is State.READY]
            for major in majors:
                majors[major] = lowest_ready(ready, major) or majors[major]
        # As in Redis: the time, so that a revision of before a restart is never met again.
        self._revision = max(self._revision + 1, self._clock.mesh_ms())
        self.tick()
        self._file.write(Kept(self._majors, self._policies))
