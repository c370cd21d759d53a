"""When an instance whose lease ran out is given up: `suspect` becomes `down`.

Many leases that run out at once say more of the registry, or of the network before it, than of their instances. Suspects are
still used as the last choice, and their messages wait in queues, so holding on to them costs little; emptying a mesh that is well
costs everything. The figures are those of Eureka's self-preservation (research B.1).
"""

from meshq.core.instances import FORGET_AFTER_MS, TTL_MS

GUARD_SHARE = 0.15
"""Of all leases of the mesh: when more than this have run out, nobody is given up."""
GUARD_COUNT = 3
"""So many may run out in any mesh, however small."""
GUARD_AFTER_RETURN_MS = 2 * TTL_MS
"""How long nobody is given up after the registry's server was restarted or replaced, or was reached again by one whose lease had run
out: that shows that it was the network, or the registry, and all have to renew first. A mesh in which nobody returns is not
affected."""
QUIET_AGAIN = 4
"""Times GUARD_AFTER_RETURN_MS from the beginning of one such quiet time to the next: one that keeps falling silent and coming back
must not stop everything."""
GUARD_MOST_MS = FORGET_AFTER_MS
"""Who was silent for this long is given up, guard or not; after a return it counts only from the end of that time."""
SHARE_A_SECOND = 0.15
"""Of all leases, at the most, that are given up within one second; one always may be."""
SECOND_MS = 1000


def holds(leases: int, expired: int) -> bool:
    """Whether so many of so many leases ran out that nobody is to be given up. `expired` are those not given up yet, and
    `leases` counts them too."""
    return expired > GUARD_COUNT and expired > GUARD_SHARE * leases


def allowance(leases: int) -> int:
    """How many may be given up within one second. Counts leases as `holds` does."""
    return max(1, int(SHARE_A_SECOND * leases))


def given_up_at(last_seen_ms: int, deadline_ms: int, ttl_ms: int, *, held: bool, quiet_ms: int = 0) -> int:
    """When the turn of an instance comes whose lease ran out, or runs out, at `deadline_ms`; `held`: the guard holds.
    `quiet_ms`: until when nobody is given up, GUARD_AFTER_RETURN_MS after the last return; 0 before there was any."""
    lost_ms = max(deadline_ms + ttl_ms, quiet_ms)
    return max(lost_ms, max(last_seen_ms, quiet_ms) + GUARD_MOST_MS) if held else lost_ms
