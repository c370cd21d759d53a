"""This instance's place in the registry, and the registry's picture of everybody's.

Two loops that wait for nothing else and that nothing waits for: one registers and renews, the other follows the picture. The
sidecar is the authority on itself: whenever the registry does not know it, it registers again.
"""

import asyncio
import logging
import random
from collections.abc import Callable
from dataclasses import replace

from meshq.core.instances import EMPTY, RENEW_EVERY, TTL_MS, Instance, Load, Snapshot, State, carried_over
from meshq.ports import Clock, Fenced, Registry, RegistryAway

logger = logging.getLogger(__name__)

AWAY_BACKOFF = 1.0
WAIT_FOR_CHANGE = 5.0
SNAPSHOT_EVERY = 60.0
"""Seconds after which the whole picture is taken again even if nothing is said to have changed."""
RETURN_WITHIN = TTL_MS / 1000
"""Seconds after an absence of the registry, or a loss of its data, in which those it knew may still be missing there: each
registers again as soon as it notices. Until then they are kept in the picture, so that no call to them is refused."""
SNAPSHOT_GAP = 0.05
"""Seconds between snapshots at the least, however fast things change: at most 20 a second."""


class Membership:
    def __init__(
        self,
        registry: Registry,
        clock: Clock,
        instance: Instance,
        load: Callable[[], Load],
        on_picture: Callable[[], None],
    ) -> None:
        self.picture: Snapshot = EMPTY
        self.fault = "the registry was not reached yet"
        """Why the picture may be old; "" when it is not."""
        self.fenced = False
        self._registry = registry
        self._clock = clock
        self._instance = instance
        self._load = load
        self._on_picture = on_picture
        self._generation: int | None = None
        self._told: State | None = None
        self._changed = asyncio.Event()
        self._before: Snapshot | None = None
        """The last picture before the registry was away or lost data; None once everybody has had time to return."""
        self._before_until = 0.0

    @property
    def state(self) -> State:
        return self._instance.state

    @property
    def instance(self) -> Instance:
        return self._instance

    @property
    def pictured(self) -> bool:
        return self.picture is not EMPTY

    def set_state(self, state: State) -> None:
        if state is not self._instance.state:
            self._instance = replace(self._instance, state=state)
            self._changed.set()

    async def keep(self) -> None:
        """Register, renew, tell state changes; until cancelled, or for ever fenced."""
        while not self.fenced:
            self._changed.clear()
            try:
                await self._renew()
            except RegistryAway as away:
                self._say(str(away))
                await asyncio.sleep(AWAY_BACKOFF * random.uniform(0.5, 1.5))
                continue
            except Fenced:
                self._say(
                    f"another process registered as {self._instance.id} after this one: give each its own MESHQ_INSTANCE, or none"
                )
                self.fenced = True
                return
            try:
                async with asyncio.timeout(RENEW_EVERY * random.uniform(0.9, 1.1)):
                    await self._changed.wait()
            except TimeoutError:
                pass

    async def follow(self) -> None:
        """Keep `picture` up to date; until cancelled."""
        while True:
            try:
                self._see(await self._registry.snapshot())
                self._say("")
                self._on_picture()
                await self._wait_for_change()
            except RegistryAway as away:
                self._say(str(away))
                self._remember()
                self.picture = replace(self.picture, stale=True) if self.pictured else EMPTY
                await asyncio.sleep(AWAY_BACKOFF * random.uniform(0.5, 1.5))

    def _see(self, seen: Snapshot) -> None:
        if seen.revision < self.picture.revision:  # it lost data
            self._remember()
        if self._before is not None and self._clock.monotonic() >= self._before_until:
            self._before = None
        self.picture = seen if self._before is None else carried_over(self._before, seen)

    def _remember(self) -> None:
        """Keep the present picture until those in it have had time to register again."""
        if self.pictured:
            self._before = self.picture
            self._before_until = self._clock.monotonic() + RETURN_WITHIN

    async def leave(self) -> None:
        """Say goodbye, if the registry listens."""
        if self._generation is not None and not self.fenced:
            try:
                await self._registry.deregister(self._instance.service, self._instance.id, self._generation)
            except (RegistryAway, Fenced) as error:
                logger.info("not deregistered: %s", error)

    async def _renew(self) -> None:
        instance = replace(self._instance, load=self._load())
        if self._generation is None:
            self._generation = await self._registry.register(instance)
            self._told = instance.state
        if self._told is not instance.state:
            await self._registry.set_state(instance.service, instance.id, self._generation, instance.state)
            self._told = instance.state
        renewal = await self._registry.renew(instance.service, instance.id, self._generation, instance.load)
        if renewal is None:  # it lost its data: begin again at once
            self._generation = None
            self._changed.set()
            return
        self._clock.learn(renewal.now_ms)

    async def _wait_for_change(self) -> None:
        loop = asyncio.get_running_loop()
        most = SNAPSHOT_EVERY * random.uniform(0.8, 1.2)
        if self._before is not None:
            most = min(most, self._before_until - self._clock.monotonic())
        until = loop.time() + most
        await asyncio.sleep(SNAPSHOT_GAP)
        while (left := until - loop.time()) > 0:
            revision = await self._registry.changed(self.picture.revision, min(WAIT_FOR_CHANGE, left))
            if revision != self.picture.revision:
                return

    def _say(self, fault: str) -> None:
        if fault and fault != self.fault:
            logger.warning("%s; the last known picture serves", fault)
        elif self.fault and not fault:
            logger.info("the registry answers: %d services known", len(self.picture.services))
        if not self.fenced:  # that one stays: nothing here ends it
            self.fault = fault
