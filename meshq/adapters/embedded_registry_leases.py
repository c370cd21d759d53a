"""The leases of the embedded registry: what readers see of each instance, when that changes by itself, and who is given up."""

from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from random import Random
from types import MappingProxyType

from meshq.core.eviction import SECOND_MS, allowance, given_up_at, holds
from meshq.core.instances import FORGET_AFTER_MS, Instance, Load, Pause, State, visible_state

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

    def given_up_at(self, held: bool) -> int:
        return given_up_at(self.record.last_seen_ms, self.deadline_ms, self.ttl_ms, held=held)

    def moments(self, now_ms: int, held: bool) -> Iterator[int]:
        """When it changes next, by each that can change it. One that is over already: it waits for its turn to be given up."""
        yield from (pause.until_ms for pause in self.pauses if pause is not None and pause.until_ms is not None)
        if self.gone_ms is not None:
            yield self.gone_ms + FORGET_AFTER_MS
        else:
            yield self.deadline_ms if now_ms < self.deadline_ms else self.given_up_at(held)


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
        lease.record = replace(lease.record, load=load, last_seen_ms=now_ms)
        lease.deadline_ms, lease.gone_ms = now_ms + lease.ttl_ms, None
        changed = lease.look(now_ms)
        self.touch(lease, now_ms)
        return changed

    def remove(self, service: str, instance: str) -> None:
        del self._services[service][instance]
        self._resettle()

    def forget_service(self, service: str) -> None:
        self._services.pop(service, None)
        self._resettle()

    def touch(self, lease: Lease, now_ms: int) -> None:
        """Something was done to it."""
        lease.look(now_ms)
        self.due_ms = min(self.due_ms, *lease.moments(now_ms, self.holding))
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
        moments = (at if at > now_ms else turn for lease in self for at in lease.moments(now_ms, self.holding))
        self.due_ms = min(moments, default=NEVER)
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
        self.holding = holds(len(standing), len(expired))
        due = [lease for lease in expired if now_ms >= lease.given_up_at(self.holding)]
        while self._recent and self._recent[0][0] <= now_ms - SECOND_MS:
            self._recent.popleft()
        room = allowance(len(standing)) - sum(count for _, count in self._recent)
        if due and room > 0:
            chosen = self._chance.sample(due, min(room, len(due)))
            for lease in chosen:
                lease.gone_ms = now_ms
            self._recent.append((now_ms, len(chosen)))
            self.holding = holds(len(standing) - len(chosen), len(expired) - len(chosen))
            self._any_expired = len(expired) > len(chosen)
        else:
            self._any_expired = bool(expired)
