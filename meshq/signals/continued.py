"""The registry's picture across a loss of its data, as sidecars see it too (meshq_sidecar.pictures): who was there is not gone because
the registry began anew and does not know it yet."""

from meshq.core.instances import EMPTY, TTL_MS, Snapshot, at_zero, still_forgotten, with_what_was_lost

RETURN_WITHIN = TTL_MS / 1000
"""Seconds after the loss in which those that were known register again."""


class Continued:
    def __init__(self) -> None:
        self.picture: Snapshot = EMPTY
        """The last one; EMPTY before there was any."""
        self._before: Snapshot | None = None
        """The last one before the loss; None once everybody has had time to return."""
        self._before_until = 0.0
        self._forgotten: Snapshot | None = None
        """The services, without their instances, that the registry has not named since: nobody registers one again that has no
        replica, and its queues are there."""

    def see(self, seen: Snapshot, now: float) -> None:
        """What the registry says now. `now` is of a clock that never goes backwards, in seconds."""
        known = self.picture is not EMPTY
        if known and (seen.revision < self.picture.revision or seen.epoch != self.picture.epoch):
            self._before, self._before_until = self.picture, now + RETURN_WITHIN
            self._forgotten = at_zero(self.picture)
        elif self._before is not None and now >= self._before_until:
            self._before = None
        self.picture = self._with_what_was_lost(seen)

    def _with_what_was_lost(self, seen: Snapshot) -> Snapshot:
        if self._forgotten is not None:
            self._forgotten = still_forgotten(self._forgotten, seen)
        return with_what_was_lost(seen, self._before, self._forgotten)
