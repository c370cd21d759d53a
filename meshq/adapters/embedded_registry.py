"""The registry inside this process: what the Redis one does, on a dictionary, for `meshq dev` and for tests."""

import asyncio
import contextlib
import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType

from meshq.core.instances import (
    FORGET_AFTER_MS,
    TTL_MS,
    Instance,
    Load,
    Renewal,
    Service,
    Snapshot,
    State,
    lease_state,
    lowest_ready,
)
from meshq.core.names import Version, check_service, parse_major, parse_version
from meshq.ports import Clock, Fenced

log = logging.getLogger(__name__)


@dataclass
class _Lease:
    """One registered instance: its record, and when its lease runs out."""

    record: Instance
    deadline_ms: int
    seen: State
    """The state that was last counted as a change of the picture."""


@dataclass
class _Service:
    leases: dict[str, _Lease] = field(default_factory=dict)
    majors: dict[int, Version] = field(default_factory=dict)


class EmbeddedRegistryHub:
    """The registry. `path` is a file that keeps the services and their majors, so that versions without an instance are
    still known after a restart; instances are not kept, because they register again."""

    def __init__(self, clock: Clock, path: Path | None = None, *, ttl_ms: int = TTL_MS) -> None:
        self._clock = clock
        self._path = path
        self._ttl_ms = ttl_ms
        self._kept = _read(path)
        """What the file says."""
        self._services = {
            name: _Service(majors={int(major): parse_version(version) for major, version in majors.items()})
            for name, majors in self._kept.items()
        }
        self._revision = clock.mesh_ms() if self._services else 0
        self._generation = 0
        self._changed = asyncio.Event()
        """Set, and replaced by a new one, at each change."""

    def connect(self) -> "EmbeddedRegistry":
        return EmbeddedRegistry(self)

    def register(self, instance: Instance) -> int:
        now = self._now()
        self._generation += 1
        service = self._services.setdefault(instance.service, _Service())
        record = replace(instance, generation=self._generation, last_seen_ms=now)
        service.leases[instance.id] = _Lease(record, now + self._ttl_ms, record.state)
        for major in instance.majors:
            service.majors.setdefault(major, instance.version)
        self._note_change(instance.service)
        return self._generation

    def renew(self, service: str, instance: str, generation: int, load: Load) -> Renewal | None:
        now = self._now()
        lease = self._lease(service, instance, generation)
        if lease is None:
            return None
        lease.deadline_ms = now + self._ttl_ms
        lease.record = replace(lease.record, load=load, last_seen_ms=now)
        if lease.seen is not lease.record.state:  # back from suspect or down
            lease.seen = lease.record.state
            self._note_change(service)
        return Renewal(now, self._revision)

    def set_state(self, service: str, instance: str, generation: int, state: State) -> None:
        now = self._now()
        lease = self._lease(service, instance, generation)
        if lease is not None and lease.record.state is not state:
            lease.record = replace(lease.record, state=state)
            lease.seen = lease_state(state, lease.deadline_ms, now, self._ttl_ms)
            self._note_change(service)

    def deregister(self, service: str, instance: str, generation: int) -> None:
        self._now()
        if self._lease(service, instance, generation) is not None:
            del self._services[service].leases[instance]
            self._note_change(service)

    def snapshot(self) -> Snapshot:
        self._now()
        services = {
            name: Service(
                name,
                MappingProxyType(dict(service.majors)),
                tuple(replace(lease.record, state=lease.seen) for _, lease in sorted(service.leases.items())),
            )
            for name, service in sorted(self._services.items())
        }
        return Snapshot(self._revision, MappingProxyType(services))

    async def changed(self, revision: int, timeout: float) -> int:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                while self._now() and self._revision == revision:
                    await self._wait()
        return self._revision

    async def _wait(self) -> None:
        """Until the next change, or until the next lease runs out."""
        due = min(self._due(), default=None)
        seconds = None if due is None else max(1, due - self._clock.mesh_ms()) / 1000
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._changed.wait(), seconds)

    def clear(self) -> None:
        """Lose everything, as a Redis without persistence that was restarted."""
        self._services.clear()
        self._revision = 0
        self.tick()

    def tick(self) -> None:
        """Look at the clock again: for whoever turned it by hand while others wait in `changed`."""
        self._changed.set()
        self._changed = asyncio.Event()

    def _now(self) -> int:
        """Mesh time, after every lease that has run out by then was counted as a change."""
        now = self._clock.mesh_ms()
        for name, service in self._services.items():
            changed = False
            for ident, lease in list(service.leases.items()):
                state = lease_state(lease.record.state, lease.deadline_ms, now, self._ttl_ms)
                if state is State.DOWN and now >= lease.deadline_ms + self._ttl_ms + FORGET_AFTER_MS:
                    del service.leases[ident]
                    changed = True
                elif state is not lease.seen:
                    lease.seen = state
                    changed = True
            if changed:
                self._note_change(name)
        return now

    def _due(self) -> Iterator[int]:
        """When each lease changes what readers see, if nobody renews it."""
        for service in self._services.values():
            for lease in service.leases.values():
                yield {
                    State.SUSPECT: lease.deadline_ms + self._ttl_ms,
                    State.DOWN: lease.deadline_ms + self._ttl_ms + FORGET_AFTER_MS,
                }.get(lease.seen, lease.deadline_ms)

    def _lease(self, service: str, instance: str, generation: int) -> _Lease | None:
        """None for an unknown instance. Raises Fenced."""
        lease = self._services[service].leases.get(instance) if service in self._services else None
        if lease is not None and lease.record.generation != generation:
            raise Fenced(f"instance {instance!r} of {service!r} was registered again by another process")
        return lease

    def _note_change(self, name: str) -> None:
        service = self._services[name]
        seen = [replace(lease.record, state=lease.seen) for lease in service.leases.values()]
        for major in service.majors:
            service.majors[major] = lowest_ready(seen, major) or service.majors[major]
        # As in Redis: the time, so that a revision of before a restart is never met again.
        self._revision = max(self._revision + 1, self._clock.mesh_ms())
        self.tick()
        self._keep()

    def _keep(self) -> None:
        majors = {name: {str(m): str(v) for m, v in s.majors.items()} for name, s in self._services.items()}
        if self._path is not None and majors != self._kept:
            new = self._path.with_name(self._path.name + ".new")
            self._path.parent.mkdir(parents=True, exist_ok=True)
            new.write_text(json.dumps(majors, indent=1), "utf-8")
            new.replace(self._path)
            self._kept = majors


def _read(path: Path | None) -> dict[str, dict[str, str]]:
    """What was kept; nothing when there is no such file or it is not ours: this is a convenience, not a record."""
    if path is None or not path.exists():
        return {}
    try:
        kept = json.loads(path.read_text("utf-8"))
        return {
            check_service(name): {
                str(parse_major(major)): str(parse_version(version)) for major, version in majors.items()
            }
            for name, majors in kept.items()
        }
    except (OSError, ValueError, AttributeError, TypeError) as error:
        log.warning("%s is not used: %s", path, error)
        return {}


class EmbeddedRegistry:
    """`ports.Registry`: one client of a hub."""

    def __init__(self, hub: EmbeddedRegistryHub) -> None:
        self._hub = hub

    async def open(self) -> None:
        """There is nothing to open."""

    async def close(self) -> None:
        """There is nothing to close."""

    async def register(self, instance: Instance) -> int:
        return self._hub.register(instance)

    async def renew(self, service: str, instance: str, generation: int, load: Load) -> Renewal | None:
        return self._hub.renew(service, instance, generation, load)

    async def set_state(self, service: str, instance: str, generation: int, state: State) -> None:
        self._hub.set_state(service, instance, generation, state)

    async def deregister(self, service: str, instance: str, generation: int) -> None:
        self._hub.deregister(service, instance, generation)

    async def snapshot(self) -> Snapshot:
        return self._hub.snapshot()

    async def changed(self, revision: int, timeout: float) -> int:
        return await self._hub.changed(revision, timeout)
