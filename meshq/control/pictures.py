"""The registry as the control API sees it: its picture now, or as soon as it changed. The last one serves, marked stale, while the
registry is away."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from meshq.control.unreachable import Unreachable
from meshq.core.errors import Code, refuse
from meshq.core.instances import EMPTY, Snapshot
from meshq.ports import Registry, RegistryAway
from meshq.tasks import Tasks

LOOK_SECONDS = 5.0
"""How long one question for a change lasts."""
AWAY_SECONDS = 1.0
"""Between two questions to a registry that is away."""
MAX_WAITING = 1000
"""Readers that wait for a change at a time; each holds a connection."""


@contextmanager
def asking() -> Iterator[None]:
    """Turns RegistryAway into Unreachable."""
    try:
        yield
    except RegistryAway as away:
        raise Unreachable(f"{away}; is it running, and is its URL right?") from away


class Pictures:
    def __init__(self, registry: Registry | None) -> None:
        self._registry = registry
        self.last: Snapshot = EMPTY
        self._changed = asyncio.Event()
        """Set, and replaced by a new one, with each picture that has another revision."""
        self._waiting = 0
        self._following = False
        self._taking = asyncio.Lock()
        self._begun = self._ended = 0
        """The numbers of the last picture that was asked for, and of the last that came or did not."""
        self._fault = ""
        """Why that did not come."""
        self._tasks = Tasks()

    async def open(self) -> None:
        if self._registry is not None:
            await self._registry.open()

    async def close(self) -> None:
        await self._tasks.close()
        if self._registry is not None:
            await self._registry.close()

    @property
    def registry(self) -> Registry:
        """To be asked within `asking`. Raises Unreachable where there is none."""
        if self._registry is None:
            raise Unreachable("the registry is not known: set MESHQ_REGISTRY_URL")
        return self._registry

    async def now(self) -> Snapshot:
        """Who is there now, or, marked stale, when the registry was last asked. Raises Unreachable."""
        try:
            with asking():
                self._see(await self.registry.snapshot())
        except Unreachable as fault:
            self._mark_stale(fault)
        return self.last

    async def current(self) -> Snapshot:
        """The same, where what changes without a revision (load, last seen) does not matter: it costs little when nothing else
        has changed. Never stale. Raises Unreachable."""
        with asking():
            if self._is_known():
                await self._take(await self.registry.changed(self.last.revision, 0))
            else:
                await self._take(None)
        return self.last

    async def after(self, index: int, seconds: float) -> Snapshot:
        """The picture once its revision is not `index`, or after so long as it is then; marked stale when the registry does not
        answer. However many wait, the registry is asked by one. Raises Unreachable, and Refused where too many wait."""
        try:
            await self.current()
        except Unreachable as fault:
            self._mark_stale(fault)
        if self.last.revision != index:
            return self.last
        if self._waiting >= MAX_WAITING:
            raise refuse(
                Code.OVERLOADED, f"{self._waiting:,} wait here for a change already: ask again later, or without index"
            )
        self._waiting += 1
        try:
            async with asyncio.timeout(seconds):
                if not self._following:
                    self._following = True
                    self._tasks.start(self._follow(), "follow the registry")
                while self.last.revision == index:
                    await self._changed.wait()
                return self.last
        except TimeoutError:
            return await self.now()
        finally:
            self._waiting -= 1

    async def _follow(self) -> None:
        """For as long as somebody waits."""
        try:
            while self._waiting:
                try:
                    await self._take(await self.registry.changed(self.last.revision, LOOK_SECONDS))
                except RegistryAway:
                    await asyncio.sleep(AWAY_SECONDS)
        finally:
            self._following = False

    def _is_known(self) -> bool:
        return self.last is not EMPTY and not self.last.stale

    async def _take(self, revision: int | None) -> None:
        """A new picture, unless the last one is known to be of this revision. Those who want one at the same time share it, or the
        registry's not answering. Raises RegistryAway."""
        begun_before = self._begun
        async with self._taking:
            if self._ended > begun_before:
                if self._fault:
                    raise RegistryAway(self._fault)
            elif revision is None or self.last.revision != revision or not self._is_known():
                await self._take_one()

    async def _take_one(self) -> None:
        self._begun += 1
        try:
            self._see(await self.registry.snapshot())
        except RegistryAway as away:
            self._ended, self._fault = self._begun, str(away) or "the registry does not answer"
            raise
        self._ended, self._fault = self._begun, ""  # not where its reader hung up meanwhile

    def _mark_stale(self, fault: Unreachable) -> None:
        """Raises `fault` where there is no picture at all."""
        if self.last is EMPTY:
            raise fault
        self.last = replace(self.last, stale=True)

    def _see(self, picture: Snapshot) -> None:
        changed = picture.revision != self.last.revision
        self.last = picture
        if changed:
            self._changed.set()
            self._changed = asyncio.Event()
