"""How much this instance takes at once, live: what is at the app, and with it what is fetched ahead of that."""

from typing import Protocol

from meshq_sidecar.gate import Gate

MOST_PREFETCH = 500
AHEAD = 4
"""Messages fetched for each that may be at the app, those included: what the app ends in the moment that the next takes to come."""


class Fetching(Protocol):
    """Whoever consumes queues: Inbound and Work."""

    def set_prefetch(self, prefetch: int) -> None: ...


def prefetch_of(capacity: int) -> int:
    return min(MOST_PREFETCH, AHEAD * capacity)


class Capacity:
    """`most` is MESHQ_APP_CONCURRENCY, which it begins with; `gate`, `inbound` and `work` were made for that."""

    def __init__(self, gate: Gate, inbound: Fetching, work: Fetching, most: int) -> None:
        self._gate = gate
        self._fetching = inbound, work
        self._most = most
        self._prefetch = prefetch_of(most)
        self.now = most

    def set(self, capacity: int) -> None:
        """From now on; brought into 0 to `most`. With 0 no queue is consumed and what has not started goes back, burning no
        attempt. What is at the app goes on in any case."""
        self.now = min(max(capacity, 0), self._most)
        # What waits here may begin in the former order of things: less is let in before less is fetched, more is fetched after.
        self._gate.set_limit(self.now)
        wanted = prefetch_of(self.now)
        if worth_it(self._prefetch, wanted, prefetch_of(self._most)):
            self._prefetch = wanted
            for each in self._fetching:
                each.set_prefetch(wanted)


def worth_it(prefetch: int, wanted: int, most: int) -> bool:
    """Whether to subscribe anew for another prefetch. It costs the broker two questions a queue, and for a lower one messages that
    were fetched go back, each of which another instance is handed a second time; so small steps are left to the gate."""
    if prefetch == wanted:
        return False
    if 0 in (prefetch, wanted) or wanted == most:
        return True
    return wanted >= 2 * prefetch or 2 * wanted <= prefetch
