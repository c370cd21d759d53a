"""This instance's place in the registry: registered, renewed, and told at once of what changes.

The sidecar is the authority on itself. Whenever the registry does not know it, it registers again, with all that it is: its
state, its own pause, and what an operator had ordered. Nothing waits for any of this; one call is on its way at a time.
"""

import asyncio
import logging
import random
from collections.abc import Callable, Mapping
from dataclasses import replace

from meshq.core.buckets import Bucket
from meshq.core.instances import RENEW_EVERY, Instance, Load, Orders, Pause, State
from meshq.core.reports import Report
from meshq.core.usage import Usage
from meshq.ports import Clock, Fenced, Registry
from meshq_sidecar.pausing import Held
from meshq_sidecar.registry_faults import fault_of

logger = logging.getLogger(__name__)

AWAY_FIRST, AWAY_MOST = 0.5, 4.0
"""Seconds until a registry that is away is told again, twice as long each time, and +-50 % each: below a renewal's time at the
end, so that everybody is back within two of them."""
REGISTER_A_SECOND, REGISTER_AT_ONCE = 1.0, 2
"""However often the registry forgets this instance."""


class Membership:
    """`load` and `report` are asked for with every renewal; `usage` for what this service sends to; `fenced_off` is called when another
    process took this id."""

    def __init__(
        self,
        registry: Registry,
        clock: Clock,
        instance: Instance,
        load: Callable[[], Load],
        report: Callable[[], Report],
        usage: Callable[[], Usage],
        fenced_off: Callable[[], None],
    ) -> None:
        self.fault = "the registry was not reached yet"
        """Why this instance is not registered; "" when it is."""
        self.fenced = False
        self.generation: int | None = None
        """None while it is not registered."""
        self.was_registered = False
        """Ever."""
        self._registry = registry
        self._clock = clock
        self._wanted = instance
        """What the registry is to know. Without the pause, which is told by what is left of it."""
        self._pause: Held | None = None
        self._load = load
        self._report = report
        self._usage = usage
        self._fenced_off = fenced_off
        self._told: tuple[State, Held | None, Mapping[str, str]] = (instance.state, None, instance.metadata)
        self._serving = instance.majors
        """As it registered."""
        self._changed = asyncio.Event()
        self._one_at_a_time = asyncio.Lock()
        self._leaving = False
        self._keeping: asyncio.Task[None] | None = None
        self._registrations = Bucket(REGISTER_A_SECOND, REGISTER_AT_ONCE)

    @property
    def instance(self) -> Instance:
        return self._wanted

    # --- what is to be known -------------------------------------------------------------------------------------------------

    def found_at(self, address: str, endpoints: Mapping[str, str]) -> None:
        """Before it registers for the first time."""
        self._wanted = replace(self._wanted, address=address, endpoints=endpoints)

    def serve(self, majors: tuple[int, ...]) -> None:
        """It serves these from now on."""
        self._want(replace(self._wanted, majors=majors))

    def set_state(self, state: State) -> None:
        self._want(replace(self._wanted, state=state))

    def describe(self, metadata: Mapping[str, str]) -> None:
        self._want(replace(self._wanted, metadata=metadata))

    def set_pause(self, held: Held | None) -> None:
        """Its own."""
        if held != self._pause:
            self._pause = held
            self._changed.set()

    def ordered(self, orders: Orders) -> None:
        """What an operator wants, as the registry said last: for when it forgets."""
        self._wanted = replace(self._wanted, orders=orders)

    def _want(self, wanted: Instance) -> None:
        if wanted != self._wanted:
            self._wanted = wanted
            self._changed.set()

    # --- telling it ----------------------------------------------------------------------------------------------------------

    async def keep(self) -> None:
        """Register, renew, tell changes; until cancelled, fenced or gone."""
        self._keeping = asyncio.current_task()
        wait = AWAY_FIRST
        while not self.fenced and not self._leaving:
            self._changed.clear()
            try:
                async with self._one_at_a_time:
                    await self._tell()
                self._say("")
                wait = AWAY_FIRST
            except Fenced:
                self._become_fenced()
                return
            except Exception as error:  # noqa: BLE001 - whatever it is, the lease is to be renewed
                self._say(fault_of(error, self.fault))
                await asyncio.sleep(wait * random.uniform(0.5, 1.5))
                wait = min(2 * wait, AWAY_MOST)
                continue
            try:
                async with asyncio.timeout(RENEW_EVERY * random.uniform(0.9, 1.1)):
                    await self._changed.wait()
            except TimeoutError:
                pass

    async def leave(self) -> None:
        """Say goodbye, if the registry listens; what is on its way goes before. It does not register again, also when this is
        cancelled."""
        self._leaving = True
        try:
            async with self._one_at_a_time:
                await self._deregister()
        finally:
            if self._keeping is not None:
                self._keeping.cancel()

    async def _deregister(self) -> None:
        if self.generation is None or self.fenced:
            return
        try:
            await self._registry.deregister(self._wanted.service, self._wanted.id, self.generation)
        except Exception as error:  # noqa: BLE001 - whatever it is, this process goes; its lease runs out
            logger.info("not deregistered: %s", error)

    async def _tell(self) -> None:
        if self._leaving:
            return
        generation = self.generation
        if generation is None or self._serving != self._wanted.majors:
            await asyncio.sleep(self._registrations.take(self._clock.monotonic()))
            if self._leaving:  # since
                return
            generation = await self._register()
        await self._tell_changes(generation)
        wanted = self._wanted
        renewal = await self._registry.renew(wanted.service, wanted.id, generation, self._load(), self._report())
        if renewal is None:  # it lost its data, or gave this instance up: begin again at once
            self.generation = None
            self._changed.set()
            return
        self._clock.learn(renewal.now_ms)
        await self._tell_used()

    async def _register(self) -> int:
        wanted, pause = self._wanted, self._pause
        # By whose clock it ends is settled when the registry's is known: `_tell_changes` says what is left of it.
        known = replace(wanted, load=self._load(), pause=None if pause is None else Pause(pause.reason))
        generation = self.generation = await self._registry.register(known)
        self._serving = wanted.majors
        self.was_registered = True
        endless = None if pause is None else Held(pause.reason, None)
        self._told = (wanted.state, endless, wanted.metadata)
        return generation

    async def _tell_changes(self, generation: int) -> None:
        registry, wanted = self._registry, self._wanted
        pause, (state, told_pause, metadata) = self._pause, self._told
        if state is not wanted.state:
            await registry.set_state(wanted.service, wanted.id, generation, wanted.state)
        if told_pause != pause:
            if pause is None:
                await registry.resume(wanted.service, wanted.id, generation)
            else:
                left_ms = None if pause.ends is None else max(1, round((pause.ends - self._clock.monotonic()) * 1000))
                await registry.pause(wanted.service, wanted.id, pause.reason, left_ms, generation)
        if metadata != wanted.metadata:
            await registry.describe(wanted.service, wanted.id, generation, wanted.metadata)
        self._told = (wanted.state, pause, wanted.metadata)

    async def _tell_used(self) -> None:
        usage, now = self._usage(), self._clock.monotonic()
        topics = usage.due(now)
        if topics:
            await self._registry.called(self._wanted.service, topics)
            usage.tell(topics, now)

    def _say(self, fault: str) -> None:
        if fault and fault != self.fault:
            logger.warning("not registered: %s" if self.generation is None else "not renewed: %s", fault)
        self.fault = fault

    def _become_fenced(self) -> None:
        self.fault = (
            f"another process registered as {self._wanted.id} after this one, which takes no messages any more: "
            "give each its own MESHQ_INSTANCE, or none"
        )
        logger.error("%s", self.fault)
        self.fenced = True
        self._fenced_off()
