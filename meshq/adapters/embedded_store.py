"""The store inside this process: what the one on Redis does, on a dictionary, for `meshq dev` and for tests.

With a file (store_keys.py) it outlives a restart: answers, durable calls, results, marks and offsets. Claims and leases are
not in it, because whoever held them was in this process. An operation that promises something returns once that is on the
disk; only the marks of started calls and offsets are written behind, because every message pays for them and a lost one does
no harm that a crash does not do: a call that had started can be cancelled, what was copied is copied again.
"""

import logging
from collections.abc import Sequence
from heapq import heappop, heappush
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import msgpack

from meshq.adapters.store_file import StoreUnusable
from meshq.adapters.store_keys import KeyStore
from meshq.core.keeping import Keeping, kept_answer, kept_result
from meshq.ports import Clock, Once, OnceState, RequestRecord, StoreAway

log = logging.getLogger(__name__)


class _Key(NamedTuple):
    """An idempotency key: with an owner while it is being handled, then with a status."""

    digest: str
    owner: str
    status: int | None = None
    answer: bytes | None = None


class _Request(NamedTuple):
    """A durable call. `until_ms` is when the time of its result is over."""

    called: str
    status: int | None = None
    until_ms: int = 0


class _Result(NamedTuple):
    body: bytes


class _Mark(NamedTuple):
    """A durable call has started, or was cancelled before."""

    cancelled: bool


class _Leader(NamedTuple):
    owner: str


class _Offset(NamedTuple):
    offset: int


_Value = _Key | _Request | _Result | _Mark | _Leader | _Offset
V = TypeVar("V", bound=_Value)
_KINDS: dict[str, type[Any]] = {
    "once": _Key,
    "req": _Request,
    "result": _Result,
    "claim": _Mark,
    "lead": _Leader,
    "offset": _Offset,
}
"""By the first word of a name."""


class _Entry(NamedTuple):
    value: _Value
    until_ms: int | None
    on_disk: bool


class EmbeddedStoreHub:
    """The store. `path` is its file, None keeps everything in memory. Raises meshq.adapters.store.StoreUnusable."""

    def __init__(self, clock: Clock, path: Path | None = None, *, keeping: Keeping | None = None) -> None:
        self._clock = clock
        self._keeping = keeping or Keeping()
        self._entries: dict[str, _Entry] = {}
        self._ends: list[tuple[int, str]] = []
        """A heap of when each entry ends, or ended before it was changed."""
        self._used = 0
        """Bytes of answers and results."""
        self._tombstones = 0
        """Durable calls that have a result, or had one, and are known for longer than it."""
        self._file = None if path is None else KeyStore(path)
        if self._file is not None:
            self._restore(self._file)

    def connect(self) -> "EmbeddedStore":
        return EmbeddedStore(self)

    async def close(self) -> None:
        """Write what is to be written and let go of the file."""
        if self._file is not None:
            try:
                await self._file.close()
            except StoreUnusable as error:
                log.error("%s; closed with changes unwritten", error)

    async def synced(self) -> None:
        """Return when all that was changed is on the disk. Raises StoreAway."""
        if self._file is not None:
            try:
                await self._file.sync()
            except StoreUnusable as error:
                raise StoreAway(str(error)) from error

    # --- once per key -----------------------------------------------------------------------------------------------------

    def once(self, service: str, scope: str, digest: str, owner: str, lease: float) -> Once:
        name = f"once:{service}:{scope}"
        known = self._get(name, _Key)
        if known is None or (known.digest == digest and known.owner == owner):
            self._put(name, _Key(digest, owner), lease)
            return Once(OnceState.NEW)
        if known.digest != digest:
            return Once(OnceState.REUSED)
        if known.status is None:
            return Once(OnceState.RUNNING)
        if known.answer is None:
            return Once(OnceState.NOT_KEPT, status=known.status)
        return Once(OnceState.DONE, known.answer)

    def done(self, service: str, scope: str, owner: str, answer: bytes, status: int, window: float) -> None:
        name = f"once:{service}:{scope}"
        known = self._get(name, _Key)
        if known is not None and known.owner == owner:
            kept = answer if kept_answer(answer) and self._room_for(answer) else None
            self._put(name, _Key(known.digest, "", status, kept), window, on_disk=True)

    def free(self, service: str, scope: str, owner: str) -> None:
        name = f"once:{service}:{scope}"
        known = self._get(name, _Key)
        if known is not None and known.owner == owner:
            self._drop(name)

    # --- durable calls ----------------------------------------------------------------------------------------------------

    def accepted(self, caller: str, called: str, ids: Sequence[str], keep: float) -> None:
        for ident in ids:
            name = f"req:{caller}:{ident}"
            if self._get(name, _Request) is None:  # else the result was quicker
                self._put(name, _Request(called), keep, on_disk=True)

    def completed(self, caller: str, ident: str, called: str, result: bytes, status: int) -> None:
        name, keeping = f"req:{caller}:{ident}", self._keeping
        known = self._get(name, _Request)
        if known is None or known.status is None:
            if kept_result(result) and self._room_for(result):
                self._put(f"result:{caller}:{ident}", _Result(result), keeping.result, on_disk=True)
            longer = keeping.tombstone if self._tombstones < keeping.tombstones else 0.0
            until_ms = self._after(keeping.result)
            self._put(name, _Request(called, status, until_ms), keeping.result + longer, on_disk=True)
        mark = f"claim:{called}:{ident}"
        if self._get(mark, _Mark) == _Mark(cancelled=False):
            self._put(mark, _Mark(cancelled=False), keeping.settled, on_disk=True)

    def request(self, caller: str, ident: str) -> RequestRecord | None:
        known = self._get(f"req:{caller}:{ident}", _Request)
        if known is None:
            return None
        if known.status is None:
            return RequestRecord(None, known.called)
        if self._clock.mesh_ms() >= known.until_ms:
            return RequestRecord(None, known.called, expired=True)
        result = self._get(f"result:{caller}:{ident}", _Result)
        if result is None:
            return RequestRecord(None, known.called, status=known.status)
        return RequestRecord(result.body, known.called)

    def start(self, called: str, ids: Sequence[str]) -> list[bool]:
        return [self._start(f"claim:{called}:{ident}") for ident in ids]

    def _start(self, name: str) -> bool:
        if self._get(name, _Mark) == _Mark(cancelled=True):
            return False
        self._put(name, _Mark(cancelled=False), self._keeping.started, on_disk=True)
        return True

    def cancel(self, called: str, ident: str) -> bool:
        name = f"claim:{called}:{ident}"
        known = self._get(name, _Mark)
        if known is None:
            self._put(name, _Mark(cancelled=True), self._keeping.cancelled, on_disk=True)
            return True
        return known.cancelled

    # --- logs -------------------------------------------------------------------------------------------------------------

    def lead(self, name: str, owner: str, seconds: float) -> bool:
        known = self._get(f"lead:{name}", _Leader)
        if known is not None and known.owner != owner:
            return False
        self._put(f"lead:{name}", _Leader(owner), seconds)
        return True

    def put_offset(self, name: str, offset: int) -> None:
        self._put(f"offset:{name}", _Offset(offset), None, on_disk=True)

    def offset(self, name: str) -> int | None:
        known = self._get(f"offset:{name}", _Offset)
        return None if known is None else known.offset

    # --- entries ----------------------------------------------------------------------------------------------------------

    def _after(self, seconds: float) -> int:
        return self._clock.mesh_ms() + max(1, round(seconds * 1000))

    def _room_for(self, thing: bytes) -> bool:
        self._expire()
        return self._used + len(thing) <= self._keeping.room

    def _get(self, name: str, kind: type[V]) -> V | None:
        self._expire()
        entry = self._entries.get(name)
        return entry.value if entry is not None and isinstance(entry.value, kind) else None

    def _put(self, name: str, value: _Value, seconds: float | None, *, on_disk: bool = False) -> None:
        entry = _Entry(value, None if seconds is None else self._after(seconds), on_disk)
        self._enter(name, entry)
        if on_disk and self._file is not None:
            self._file.put(name, msgpack.packb(tuple(value)), entry.until_ms)

    def _enter(self, name: str, entry: _Entry) -> None:
        self._count(self._entries.get(name), -1)
        self._entries[name] = entry
        self._count(entry, 1)
        if entry.until_ms is not None:
            heappush(self._ends, (entry.until_ms, name))

    def _drop(self, name: str) -> None:
        entry = self._entries.pop(name)
        self._count(entry, -1)
        if entry.on_disk and self._file is not None:
            self._file.delete(name)

    def _count(self, entry: _Entry | None, sign: int) -> None:
        match entry:
            case _Entry(_Key(answer=bytes() as kept)) | _Entry(_Result(kept)):
                self._used += sign * len(kept)
            case _Entry(_Request(until_ms=over), until_ms) if over and until_ms != over:
                self._tombstones += sign

    def _expire(self) -> None:
        now = self._clock.mesh_ms()
        while self._ends and self._ends[0][0] <= now:
            until_ms, name = heappop(self._ends)
            entry = self._entries.get(name)
            if entry is not None and entry.until_ms == until_ms:
                self._drop(name)

    def _restore(self, file: KeyStore) -> None:
        for name, packed, until_ms in file.load(self._clock.mesh_ms()):
            kind = _KINDS.get(name.partition(":")[0])
            try:
                if kind is None:
                    raise ValueError("of no kind that this version knows")
                self._enter(name, _Entry(kind(*msgpack.unpackb(packed)), until_ms, True))
            except (ValueError, TypeError, msgpack.UnpackException) as error:
                log.warning("what the store's file says of %s is left out: %s", name, error)


class EmbeddedStore:
    """`ports.Store`: one client of a hub."""

    def __init__(self, hub: EmbeddedStoreHub) -> None:
        self._hub = hub

    async def open(self) -> None:
        """There is nothing to open."""

    async def close(self) -> None:
        """There is nothing to close: the hub goes on for others."""

    async def once(self, service: str, scope: str, digest: str, owner: str, lease: float) -> Once:
        return self._hub.once(service, scope, digest, owner, lease)

    async def done(self, service: str, scope: str, owner: str, answer: bytes, status: int, window: float) -> None:
        self._hub.done(service, scope, owner, answer, status, window)
        await self._hub.synced()

    async def free(self, service: str, scope: str, owner: str) -> None:
        self._hub.free(service, scope, owner)

    async def accepted(self, caller: str, called: str, ids: Sequence[str], keep: float) -> None:
        self._hub.accepted(caller, called, ids, keep)
        await self._hub.synced()

    async def completed(self, caller: str, ident: str, called: str, result: bytes, status: int) -> None:
        self._hub.completed(caller, ident, called, result, status)
        await self._hub.synced()

    async def request(self, caller: str, ident: str) -> RequestRecord | None:
        return self._hub.request(caller, ident)

    async def start(self, called: str, ids: Sequence[str]) -> list[bool]:
        return self._hub.start(called, ids)

    async def cancel(self, called: str, ident: str) -> bool:
        cancelled = self._hub.cancel(called, ident)
        await self._hub.synced()
        return cancelled

    async def lead(self, name: str, owner: str, seconds: float) -> bool:
        return self._hub.lead(name, owner, seconds)

    async def put_offset(self, name: str, offset: int) -> None:
        self._hub.put_offset(name, offset)

    async def offset(self, name: str) -> int | None:
        return self._hub.offset(name)
