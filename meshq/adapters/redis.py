"""The registry on Redis: small scripts (redis_scripts/*.lua), each on the keys of one service, by the server's own clock.

    mq:{<mesh>:<service>}:inst|lease|ready|majors   what is known of one service: see redis_scripts/service.lua
    mq:{<mesh>}:rev|log|services                    the revision of the whole picture, its log, the services ever seen

A change is two steps, because in a cluster the two groups of keys are on different servers: first the service's script,
then the revision. Who is broken off in between is the owner of what changed, gets RegistryAway and does it again.

Nothing here watches for Redis to expire a key. A lease is a time in `lease`, and what a reader makes of it is
`core.instances.lease_state`. `changed` wakes for the next lease that can run out and has `expire` count it as a change.
"""

import asyncio
import hashlib
import logging
from collections.abc import Awaitable, Iterable, Mapping, Sequence
from functools import lru_cache
from types import MappingProxyType
from typing import Any, TypeVar

import msgpack
from redis.exceptions import NoScriptError, RedisError

from meshq.adapters.redis_client import Script, address, connect, load_script
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
)
from meshq.core.names import Version, parse_version
from meshq.ports import Fenced, RegistryAway

log = logging.getLogger(__name__)

T = TypeVar("T")

CALL_SECONDS = 2.0
"""The longest that one call waits for Redis."""
BLOCK_SECONDS = 2.0
"""The longest that one blocking read waits, so that a connection that died unseen is noticed within this and a call."""
MAX_REMEMBERED = 1000
"""Broken records remembered, so that each is logged once."""


class RedisRegistry:
    """`ports.Registry` at a `redis://` or `rediss://` URL. Raises ValueError for another scheme."""

    def __init__(self, url: str, mesh: str, *, ttl_ms: int = TTL_MS) -> None:
        self._where = address(url)
        self._mesh = mesh
        self._ttl_ms = ttl_ms
        self._redis = connect(url, "registry", CALL_SECONDS)
        self._due: dict[str, float] = {}
        """Per service: when, by the loop's clock, the next lease of the last picture runs out."""
        self._broken: set[tuple[str, str, bytes]] = set()

    async def open(self) -> None:
        """Connections are made when they are needed."""

    async def close(self) -> None:
        await self._redis.aclose()

    # --- an instance about itself -------------------------------------------------------------------------------------------

    async def register(self, instance: Instance) -> int:
        args = (instance.id, _record(instance), instance.state.value, _load(instance.load), self._ttl_ms)
        generation: int = await self._call(self._run("register", instance.service, args))
        await self._bump(instance.service, "register", instance.id)
        return generation

    async def renew(self, service: str, instance: str, generation: int, load: Load) -> Renewal | None:
        return await self._own("renew", service, instance, generation, _load(load), self._ttl_ms)

    async def set_state(self, service: str, instance: str, generation: int, state: State) -> None:
        await self._own("set_state", service, instance, generation, state.value)

    async def deregister(self, service: str, instance: str, generation: int) -> None:
        await self._own("deregister", service, instance, generation)

    async def _own(self, script: str, service: str, instance: str, generation: int, *args: object) -> Renewal | None:
        """Run what only the owner of the instance may. None when it is unknown. Raises Fenced."""
        standing, now, changed = await self._call(self._run(script, service, (instance, generation, *args)))
        if standing == b"fenced":
            raise Fenced(f"instance {instance!r} of {service!r} was registered again by another process")
        if standing == b"unknown":
            return None
        if changed:
            return Renewal(now, await self._bump(service, script, instance))
        return Renewal(now, await self._call(self._revision()))

    # --- the picture --------------------------------------------------------------------------------------------------------

    async def snapshot(self) -> Snapshot:
        return await self._call(self._snapshot())

    async def _snapshot(self) -> Snapshot:
        # The revision first: what changes while the rest is read is then seen as a change once more, never missed.
        revision = await self._revision()
        members: set[Any] = await self._redis.smembers(self._mesh_key("services"))
        names = sorted(name.decode() for name in members)
        parts = await self._run_on_all("snapshot", names, ())
        self._due = {}
        return Snapshot(
            revision,
            MappingProxyType({name: self._service(name, part) for name, part in zip(names, parts, strict=True)}),
        )

    async def changed(self, revision: int, timeout: float) -> int:
        clock = asyncio.get_running_loop().time
        end = clock() + timeout
        while True:
            current = await self._call(self._expire_due())
            left = end - clock()
            if current != revision or left <= 0:
                return current
            wait = min([left, BLOCK_SECONDS, *(due - clock() for due in self._due.values())])
            block = max(1, round(wait * 1000))
            after: dict[Any, Any] = {self._mesh_key("log"): f"{revision}-0"}
            if await self._call(self._redis.xread(after, count=1, block=block), block / 1000 + CALL_SECONDS):
                return await self._call(self._revision())

    async def _revision(self) -> int:
        return int(await self._redis.get(self._mesh_key("rev")) or 0)

    async def _expire_due(self) -> int:
        """Count the leases that ran out since the last picture as changes. Returns the revision then."""
        clock = asyncio.get_running_loop().time
        now = clock()
        services = [name for name, due in self._due.items() if due <= now]
        answers = await self._run_on_all("expire", services, (self._ttl_ms, FORGET_AFTER_MS))
        for name, (changed, due) in zip(services, answers, strict=True):
            del self._due[name]
            if due >= 0:
                self._due[name] = clock() + due / 1000
            if changed:
                await self._bump(name, "expire", "")
        return await self._revision()

    async def _bump(self, service: str, what: str, instance: str) -> int:
        keys = [self._mesh_key(name) for name in ("rev", "log", "services")]
        revision: int = await self._call(self._evaluate(_script("bump"), keys, (service, what, instance)))
        return revision

    def _service(self, name: str, part: bytes) -> Service:
        now, fields, leases, majors = msgpack.unpackb(part, raw=True)
        records = _pairs(fields)
        deadlines = {ident.decode(): int(float(score)) for ident, score in _pairs(leases).items()}
        if deadlines:
            due = min(_next_change(deadline, now, self._ttl_ms) for deadline in deadlines.values())
            self._due[name] = asyncio.get_running_loop().time() + due / 1000
        instances = [
            instance
            for ident, deadline in deadlines.items()
            if now < deadline + self._ttl_ms + FORGET_AFTER_MS
            and (instance := self._instance(name, ident, records, deadline, now))
        ]
        known: dict[int, Version] = {}
        for major, version in _pairs(majors).items():
            try:
                known[int(major)] = parse_version(version.decode())
            except ValueError:
                self._note_broken(name, f"major {major!r}", version)
        return Service(name, MappingProxyType(known), tuple(sorted(instances, key=lambda i: i.id)))

    def _instance(
        self, service: str, ident: str, fields: dict[bytes, bytes], deadline: int, now: int
    ) -> Instance | None:
        key = ident.encode()
        record = fields.get(key, b"")
        try:
            version, majors, address, metadata = _decoded(record)
            return Instance(
                service,
                ident,
                version,
                majors,
                lease_state(State(fields[key + b":state"].decode()), deadline, now, self._ttl_ms),
                address,
                metadata,
                Load(*map(int, fields[key + b":load"].split())),
                deadline - self._ttl_ms,
                int(fields[key + b":gen"]),
            )
        except (ValueError, KeyError, TypeError) as error:
            self._note_broken(service, ident, record, error)
            return None

    def _note_broken(self, service: str, what: str, content: bytes, error: Exception | None = None) -> None:
        """Say it once of each; a later version of meshq may have written it, so it is left out and left alone."""
        mark = (service, what, hashlib.sha256(content).digest())
        if mark not in self._broken and len(self._broken) < MAX_REMEMBERED:
            self._broken.add(mark)
            log.warning("the registry's record of %s %s cannot be read and is left out: %r", service, what, error)

    # --- calls --------------------------------------------------------------------------------------------------------------

    async def _call(self, work: Awaitable[T], seconds: float = CALL_SECONDS) -> T:
        try:
            async with asyncio.timeout(seconds):
                return await work
        except TimeoutError as error:
            raise RegistryAway(f"Redis at {self._where} did not answer in {seconds:g} s") from error
        except (RedisError, OSError) as error:
            raise RegistryAway(f"Redis at {self._where} cannot be used: {error}") from error

    async def _run(self, name: str, service: str, args: Sequence[object]) -> Any:
        return await self._evaluate(_script(name), self._service_keys(service), args)

    async def _evaluate(self, script: Script, keys: Sequence[str], args: Iterable[object]) -> Any:
        try:
            return await self._redis.evalsha(script.sha, len(keys), *keys, *args)  # type: ignore[arg-type]
        except NoScriptError:  # Redis was restarted, or this is the first use
            return await self._redis.eval(script.source, len(keys), *keys, *args)  # type: ignore[arg-type]

    async def _run_on_all(self, name: str, services: Sequence[str], args: Sequence[object]) -> list[Any]:
        """One script on many services, in one round trip."""
        if not services:
            return []
        script = _script(name)
        for known in (True, False):
            if not known:
                await self._redis.script_load(script.source)
            pipe = self._redis.pipeline(transaction=False)
            for service in services:
                keys = self._service_keys(service)
                pipe.evalsha(script.sha, len(keys), *keys, *args)  # type: ignore[arg-type]
            answers: list[Any] = await pipe.execute(raise_on_error=False)
            if not (known and any(isinstance(answer, NoScriptError) for answer in answers)):
                break
        for answer in answers:
            if isinstance(answer, Exception):
                raise answer
        return answers

    def _mesh_key(self, name: str) -> str:
        return f"mq:{{{self._mesh}}}:{name}"

    def _service_keys(self, service: str) -> list[str]:
        return [f"mq:{{{self._mesh}:{service}}}:{name}" for name in ("inst", "lease", "ready", "majors")]


def _script(name: str) -> Script:
    return load_script(name) if name == "bump" else load_script("service", name)


def _record(instance: Instance) -> bytes:
    content = {
        "version": str(instance.version),
        "order": version_order(instance.version),
        "majors": instance.majors,
        "address": instance.address,
        "metadata": dict(instance.metadata),
    }
    packed: bytes = msgpack.packb(content)
    return packed


@lru_cache(maxsize=16_384)
def _decoded(record: bytes) -> tuple[Version, tuple[int, ...], str, Mapping[str, str]]:
    """Version, majors, address and metadata of a record, known fields of the right types only. Remembered, because from one
    picture to the next nearly all are the same. Raises ValueError, KeyError, TypeError."""
    try:
        content = msgpack.unpackb(record)
    except (msgpack.UnpackException, RecursionError) as error:
        raise ValueError("not msgpack") from error
    version, majors, address, metadata = (content[name] for name in ("version", "majors", "address", "metadata"))
    right = (
        isinstance(version, str)
        and isinstance(majors, list)
        and all(type(major) is int for major in majors)
        and isinstance(address, str)
        and isinstance(metadata, dict)
        and all(isinstance(text, str) for pair in metadata.items() for text in pair)
    )
    if not right:
        raise ValueError("a field has the wrong type")
    return parse_version(version), tuple(majors), address, MappingProxyType(metadata)


def _load(load: Load) -> str:
    return f"{load.in_flight} {load.capacity}"


def version_order(version: Version) -> str:
    """Text that compares, byte by byte, as versions do by precedence. It has no colon in it.

    A pre-release is below its release ("!" and digits are below "~"); a numeric field is below another, and compares by
    its length first; "!" is below everything that a field can have, so that fewer fields are below more.
    """
    numbers = f"{version.major:010d}{version.minor:010d}{version.patch:010d}"
    if not version.pre:
        return numbers + "~"
    fields = (f"0{len(f):03d}{f}" if f.isdecimal() else f"1{f}" for f in version.pre)
    return numbers + "".join(f"{field}!" for field in fields) + "!"


def _next_change(deadline: int, now: int, ttl_ms: int) -> int:
    """Milliseconds until readers see an instance otherwise, if it is not renewed."""
    steps = (deadline, deadline + ttl_ms, deadline + ttl_ms + FORGET_AFTER_MS)
    return next((step - now for step in steps if step > now), 0)


def _pairs(flat: Sequence[bytes]) -> dict[bytes, bytes]:
    return dict(zip(flat[::2], flat[1::2], strict=True))
