"""The leases of the embedded registry: what readers see of each instance, when that changes by itself, and who is given up."""

from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from random import Random
from types import MappingProxyType

from meshq.core.eviction import GUARD_AFTER_RETURN_MS, QUIET_AGAIN, SECOND_MS, allowance, given_up_at, holds
from meshq.core.instances import FORGET_AFTER_MS, TTL_MS, Instance, Load, Pause, State, visible_state
from meshq.core.reports import Report, Reported

NEVER = 2**63
"""A time that does not come, Unix milliseconds."""
NONE: Mapping[str, "Lease"] = MappingProxyType({})


@dataclass(slots=True)
class Lease:
    """One registered instance."""

    record: Instance
    """As it was told: `state` is what the instance says of itself."""
    ttl_ms: int
    deadline_ms: int
    seen: State
    """What readers were told last."""
    gone_ms: int | None = None
    """When it was given up."""
    report: Report | None = None
    """Its last."""
    reported_ms: int = 0

    @property
    def pauses(self) -> tuple[Pause | None, Pause | None]:
        return self.record.pause, self.record.orders.pause

    def look(self, now_ms: int) -> bool:
        """Make `seen` what readers are to see now. Returns whether that is something else."""
        record = self.record
        state = visible_state(
            record.state,
            record.pause,
            record.orders,
            now_ms,
            expired=now_ms >= self.deadline_ms,
            evicted=self.gone_ms is not None,
        )
        changed, self.seen = state is not self.seen, state
        return changed

    def end_pauses(self, now_ms: int) -> bool:
        """Take out those that are over. Returns whether there were any."""
        own, ordered = (pause if pause is None or pause.holds(now_ms) else None for pause in self.pauses)
        if (own, ordered) == self.pauses:
            return False
        self.record = replace(self.record, pause=own, orders=self.record.orders._replace(pause=ordered))
        return True

    @property
    def lost_ms(self) -> int:
        """From when on it is given up, if nothing holds that up."""
        return self.deadline_ms + self.ttl_ms

    def given_up_at(self, held: bool, quiet_ms: int) -> int:
        return given_up_at(self.record.last_seen_ms, self.deadline_ms, self.ttl_ms, held=held, quiet_ms=quiet_ms)

    def moments(self, now_ms: int, held: bool, quiet_ms: int) -> Iterator[int]:
        """When it changes next, by each that can change it. One that is over already: it waits for its turn to be given up."""
        yield from (pause.until_ms for pause in self.pauses if pause is not None and pause.until_ms is not None)
        if self.gone_ms is not None:
            yield self.gone_ms + FORGET_AFTER_MS
        elif now_ms < self.lost_ms:
            yield self.deadline_ms if now_ms < self.deadline_ms else self.lost_ms
        else:
            yield self.given_up_at(held, quiet_ms)


class Leases:
    """All of them. Whoever reads anything calls `settle` with the present time before."""

    def __init__(self, ttl_ms: int, chance: Random) -> None:
        """`ttl_ms` is for instances that name none; `chance` draws who goes first when many are given up."""
        self._ttl_ms = ttl_ms
        self._chance = chance
        self._services: dict[str, dict[str, Lease]] = {}
        self._recent: deque[tuple[int, int]] = deque()
        """When how many were given up within the last second."""
        self._any_expired = False
        self._held = False
        """By the share of those whose leases ran out."""
        self._quiet_ms = 0
        """Until when nobody is given up because one came back."""
        self.due_ms = NEVER
        """No instance is seen otherwise before, unless something is done to one."""
        self.holding = False

    def of(self, service: str) -> Mapping[str, Lease]:
        return self._services.get(service, NONE)

    def get(self, service: str, instance: str) -> Lease | None:
        return self.of(service).get(instance)

    def put(self, record: Instance, now_ms: int) -> None:
        ttl_ms = record.ttl_ms or self._ttl_ms
        lease = Lease(record, ttl_ms, now_ms + ttl_ms, record.state)
        self._services.setdefault(record.service, {})[record.id] = lease
        self.touch(lease, now_ms)

    def renew(self, lease: Lease, load: Load, now_ms: int) -> bool:
        """Returns whether readers see it otherwise: it is back from suspect or down."""
        guard_ms = GUARD_AFTER_RETURN_MS * self._ttl_ms // TTL_MS
        if now_ms >= lease.deadline_ms and now_ms >= self._quiet_ms + (QUIET_AGAIN - 1) * guard_ms:
            self._quiet_ms = now_ms + guard_ms
        lease.record = replace(lease.record, load=load, last_seen_ms=now_ms)
        lease.deadline_ms, lease.gone_ms = now_ms + lease.ttl_ms, None
        changed = lease.look(now_ms)
        self.touch(lease, now_ms)
        return changed

    def reports(self) -> list[Reported]:
        """Of those who made one and were not given up since."""
        return [
            Reported(lease.record.service, lease.record.id, lease.reported_ms, lease.report)
            for lease in self
            if lease.report is not None
        ]

    def remove(self, service: str, instance: str) -> None:
        del self._services[service][instance]
        self._resettle()

    def forget_service(self, service: str) -> None:
        self._services.pop(service, None)
        self._resettle()

    def touch(self, lease: Lease, now_ms: int) -> None:
        """Something was done to it."""
        lease.look(now_ms)
        self.due_ms = min(self.due_ms, *lease.moments(now_ms, self._held, self._quiet_ms))
        self._resettle()

    def settle(self, now_ms: int) -> set[str]:
        """Bring everything to what it is now. Returns the services of which readers see something else."""
        if now_ms < self.due_ms:
            return set()
        changed = self._forget(now_ms)
        self._give_up(now_ms)
        for lease in self:
            ended = lease.end_pauses(now_ms)
            if lease.look(now_ms) or ended:
                changed.add(lease.record.service)
        turn = self._recent[0][0] + SECOND_MS if self._recent else NEVER
        moments = (at for lease in self for at in lease.moments(now_ms, self._held, self._quiet_ms))
        self.due_ms = min((at if at > now_ms else turn for at in moments), default=NEVER)
        return changed

    def __iter__(self) -> Iterator[Lease]:
        return (lease for leases in self._services.values() for lease in leases.values())

    def _resettle(self) -> None:
        """While a lease has run out, whoever comes or goes may decide whether it is given up."""
        if self._any_expired:
            self.due_ms = 0

    def _forget(self, now_ms: int) -> set[str]:
        over = [
            lease.record for lease in self if lease.gone_ms is not None and now_ms >= lease.gone_ms + FORGET_AFTER_MS
        ]
        for record in over:
            del self._services[record.service][record.id]
        return {record.service for record in over}

    def _give_up(self, now_ms: int) -> None:
        """Those whose time has come, as far as core/eviction.py lets."""
        standing = [lease for lease in self if lease.gone_ms is None]
        expired = [lease for lease in standing if now_ms >= lease.deadline_ms]
        held = holds(len(standing), len(expired))
        due = [lease for lease in expired if now_ms >= lease.given_up_at(held, self._quiet_ms)]
        chosen = self._chance.sample(due, min(self._room(len(standing), now_ms), len(due)))
        for lease in chosen:
            lease.gone_ms, lease.report = now_ms, None
        if chosen:
            self._recent.append((now_ms, len(chosen)))
        left = [lease for lease in expired if lease.gone_ms is None]
        self._any_expired = bool(left)
        self._held = holds(len(standing) - len(chosen), len(left))
        quiet = now_ms < self._quiet_ms and any(now_ms >= lease.lost_ms for lease in left)
        self.holding = self._held or quiet

    def _room(self, leases: int, now_ms: int) -> int:
        """How many may be given up now."""
        while self._recent and self._recent[0][0] <= now_ms - SECOND_MS:
            self._recent.popleft()
        return max(0, allowance(leases) - sum(count for _, count in self._recent))
