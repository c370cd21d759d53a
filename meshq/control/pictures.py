"""The registry as the control API sees it: its picture now, or as soon as it changed. The last one serves, marked stale, while the
registry is away."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from meshq.control.unreachable import Unreachable
from meshq.core.instances import EMPTY, Snapshot
from meshq.ports import Registry, RegistryAway
from meshq.tasks import Tasks

LOOK_SECONDS = 5.0
"""How long one question for a change lasts."""
AWAY_SECONDS = 1.0
"""Between two questions to a registry that is away."""


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
        except Unreachable:
            if self.last is EMPTY:
                raise
            self.last = replace(self.last, stale=True)
        return self.last

    async def current(self) -> Snapshot:
        """The same, where what changes without a revision (load, last seen) does not matter: it costs little when nothing else
        has changed. Never stale. Raises Unreachable."""
        with asking():
            known = self.last is not EMPTY and not self.last.stale
            if not known or self.last.revision != await self.registry.changed(self.last.revision, 0):
                self._see(await self.registry.snapshot())
        return self.last

    async def after(self, index: int, seconds: float) -> Snapshot:
        """The picture once its revision is not `index`, or after so long as it is then. However many wait, the registry is asked
        by one. Raises Unreachable."""
        if (await self.now()).revision != index:
            return self.last
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
                    if await self.registry.changed(self.last.revision, LOOK_SECONDS) != self.last.revision:
                        self._see(await self.registry.snapshot())
                except RegistryAway:
                    await asyncio.sleep(AWAY_SECONDS)
        finally:
            self._following = False

    def _see(self, picture: Snapshot) -> None:
        changed = picture.revision != self.last.revision
        self.last = picture
        if changed:
            self._changed.set()
            self._changed = asyncio.Event()
