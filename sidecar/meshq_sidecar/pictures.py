"""The registry's picture of everybody, followed: the last one serves, marked stale, for as long as the registry is away; one
from the disk does until it answers for the first time.
"""

import asyncio
import logging
import random
from collections.abc import Callable
from dataclasses import replace
from typing import Protocol

from meshq.core.buckets import Bucket
from meshq.core.instances import EMPTY, TTL_MS, Snapshot, at_zero, still_forgotten, with_what_was_lost
from meshq.core.picture_format import Kept
from meshq.core.policy import Policy
from meshq.ports import Clock, Registry
from meshq_sidecar.registry_faults import fault_of

logger = logging.getLogger(__name__)

AWAY_FIRST, AWAY_MOST = 0.5, 4.0
"""Seconds until a registry that is away is asked again, twice as long each time, and +-50 % each."""
WAIT_FOR_CHANGE = 5.0
SNAPSHOT_EVERY = 60.0
"""Seconds after which the whole picture is taken again even if nothing is said to have changed."""
SNAPSHOTS_A_SECOND, SNAPSHOTS_AT_ONCE = 4.0, 2
"""However fast things change. The first two changes after a quiet time are seen at once."""
RETURN_WITHIN = TTL_MS / 1000
"""Seconds after a loss of the registry's data in which those it knew may still be missing there: each registers again as soon as
it notices. Until then they are kept in the picture, so that no call to them is refused."""
SAVE_EVERY = 5.0
"""Seconds between two times that the picture is written to disk, at the least."""


class OnDisk(Protocol):
    """Where the picture is kept for the next start. Both do I/O, in a thread, and never raise."""

    def load(self) -> Kept | None: ...
    def save(self, picture: Snapshot, saved_ms: int) -> None: ...


class Pictures:
    """`follow` and `keep` run until cancelled; `keep` does nothing without a disk. `own`: the service whose route policy is put back
    when the registry lost it."""

    def __init__(self, registry: Registry, clock: Clock, disk: OnDisk | None, own: str = "") -> None:
        self.picture: Snapshot = EMPTY
        self.fault = "the registry was not reached yet"
        """Why the picture may be old; "" when it is not."""
        self.from_disk = False
        self.asked = asyncio.Event()
        """The registry has answered, or has not and the disk was read instead."""
        self._registry = registry
        self._clock = clock
        self._disk = disk
        self._own = own
        self._unread = disk
        """None once it was asked for what it has."""
        self._confirmed = 0.0
        """When, by the monotonic clock, the registry last said that this is the picture."""
        self._bucket = Bucket(SNAPSHOTS_A_SECOND, SNAPSHOTS_AT_ONCE)
        self._before: Snapshot | None = None
        """The last picture before the registry lost data; None once everybody has had time to return."""
        self._before_until = 0.0
        self._forgotten: Snapshot | None = None
        """The services without their instances that the registry knew before and has not named since: their queues are there."""
        self._lost_policy: Policy | None = None
        """Of `own`: to be put back if the registry has none."""
        self._restore_fault = ""
        """Why it could not be put back."""
        self._restored: str | None = None
        """The epoch in which that was settled last. An operator may have taken the policy away since."""
        self._callbacks: list[Callable[[Snapshot], None]] = []
        self._unsaved: Snapshot | None = None
        self._to_save = asyncio.Event()

    @property
    def pictured(self) -> bool:
        return self.picture is not EMPTY

    @property
    def age(self) -> float:
        """Seconds since the registry said that this is the picture."""
        return self._clock.monotonic() - self._confirmed

    def on_change(self, callback: Callable[[Snapshot], None]) -> None:
        """Call back with every new picture, also with one that only was marked stale."""
        self._callbacks.append(callback)

    async def follow(self) -> None:
        wait = AWAY_FIRST
        while True:
            try:
                await asyncio.sleep(self._bucket.take(self._clock.monotonic()))
                seen = await self._registry.snapshot()
                self._see(seen)
                self.asked.set()
                wait = AWAY_FIRST
                await self._restore(seen)
                await self._wait_for_change()
            except Exception as error:  # noqa: BLE001 - whatever it is, the picture is to be followed again
                self._say(fault_of(error, self.fault))
                await self._do_without()
                self.asked.set()
                await asyncio.sleep(wait * random.uniform(0.5, 1.5))
                wait = min(2 * wait, AWAY_MOST)

    async def keep(self) -> None:
        while self._disk is not None:
            await self._to_save.wait()
            await self._save()
            await asyncio.sleep(SAVE_EVERY)

    async def close(self) -> None:
        """Write what was not written yet; after `follow` and `keep` were cancelled."""
        await self._save()

    # --- with the registry --------------------------------------------------------------------------------------------------

    def _see(self, seen: Snapshot) -> None:
        now = self._clock.monotonic()
        lost = seen.revision < self.picture.revision or seen.epoch != self.picture.epoch
        if self.pictured and lost:
            self._note_loss(seen.epoch, now)
        elif self._before is not None and now >= self._before_until:
            self._before = None
        self._confirmed = now
        self.from_disk = False
        self._become(self._with_what_was_lost(seen))
        self._say("")
        if self._before is None:
            self._unsaved = seen
            self._to_save.set()

    def _note_loss(self, epoch: str, now: float) -> None:
        logger.warning("the registry lost data: those it forgot are kept for %g s, to register again", RETURN_WITHIN)
        self._before, self._before_until = self.picture, now + RETURN_WITHIN
        self._forgotten = at_zero(self.picture)
        if not self.from_disk and epoch != self._restored:  # the one from the disk may be of long ago
            self._lost_policy = self.picture.policies.get(self._own)

    def _with_what_was_lost(self, seen: Snapshot) -> Snapshot:
        if self._forgotten is not None:
            self._forgotten = still_forgotten(self._forgotten, seen)
        return with_what_was_lost(seen, self._before, self._forgotten)

    async def _restore(self, seen: Snapshot) -> None:
        """Put the own service's route policy back. If that fails, it is tried again with the next picture."""
        policy = self._lost_policy
        if policy is None:
            return
        if self._own not in seen.policies:
            try:
                await self._registry.put_policy(self._own, policy)
            except Exception as error:  # noqa: BLE001 - whatever it is, the picture is to be followed
                fault = fault_of(error, self._restore_fault)
                if fault != self._restore_fault:
                    logger.warning(
                        "the route policy of %s, which the registry lost, is not put back yet: %s", self._own, fault
                    )
                self._restore_fault = fault
                return
            logger.warning("the registry lost the route policy of %s, which was put back", self._own)
        self._lost_policy, self._restore_fault = None, ""
        self._restored = seen.epoch

    async def _wait_for_change(self) -> None:
        now = self._clock.monotonic
        until = now() + SNAPSHOT_EVERY * random.uniform(0.8, 1.2)
        if self._before is not None:
            until = min(until, self._before_until)
        while (left := until - now()) > 0:
            revision = await self._registry.changed(self.picture.revision, min(WAIT_FOR_CHANGE, left))
            if revision != self.picture.revision:
                return
            self._confirmed = now()

    # --- without it ---------------------------------------------------------------------------------------------------------

    async def _do_without(self) -> None:
        if self.pictured:
            if not self.picture.stale:
                self._become(replace(self.picture, stale=True))
            return
        disk, self._unread = self._unread, None
        kept = None if disk is None else await asyncio.to_thread(disk.load)
        if kept is not None:
            aged = max(0.0, (self._clock.mesh_ms() - kept.saved_ms) / 1000)
            logger.warning("the picture of %.0f s ago serves, from the disk", aged)
            self._confirmed = self._clock.monotonic() - aged
            self.from_disk = True
            self._become(kept.picture)

    # --- both ---------------------------------------------------------------------------------------------------------------

    def _become(self, picture: Snapshot) -> None:
        self.picture = picture
        for callback in self._callbacks:
            try:
                callback(picture)
            except Exception:
                logger.exception("what follows the picture of the mesh failed")

    async def _save(self) -> None:
        picture, self._unsaved = self._unsaved, None
        self._to_save.clear()
        if self._disk is not None and picture is not None:
            await asyncio.to_thread(self._disk.save, picture, self._clock.mesh_ms())

    def _say(self, fault: str) -> None:
        if fault and fault != self.fault:
            logger.warning("%s; the last known picture serves", fault)
        elif self.fault and not fault:
            logger.info("the registry answers: %d services known", len(self.picture.services))
        self.fault = fault
