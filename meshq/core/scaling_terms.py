"""How many replicas the work needs: the terms of a scaling decision, each by itself and without any memory.

Offered load a = arrival rate x service time, in messages worked on at once. Sources: Erlang's C formula for the waiting probability of
M/M/n by the recurrence of his B formula; Allen and Cunneen's correction for service times that vary otherwise than exponentially;
Little's law for what may stand in a queue.
"""

import math
from typing import NamedTuple

from meshq.core.scaling_arrivals import most_within
from meshq.core.scaling_memory import Arrivals

MOST_USED = 0.92
"""The part of the slots that arrivals may fill on average: beyond, waits grow faster than anybody can react."""
MOST_ERLANG = 2000
"""Offered loads above this are filled to MOST_USED: a wait is as good as impossible there, and the formula takes long."""
BURST_WINDOWS = (5.0, 10.0, 20.0, 40.0, 80.0, 160.0, 320.0)
BURST_MARGIN = 1.2


class Work(NamedTuple):
    """What is known of a consumer group once it is all known."""

    rate: float
    """Messages a second that are expected."""
    service: float
    """Seconds of work a message."""
    variation: float
    """Squared coefficient of variation of the service time."""
    slots: float
    """Messages at once, of one replica."""
    waiting: float
    """Messages that nobody works on yet."""
    at_work: float
    """Messages that are worked on."""
    age: float
    """Seconds that the oldest has waited; infinite where it came in before anything that is remembered."""
    ready: float
    pending: float
    """Replicas that were ordered and are not ready yet."""
    lead: float
    wait: float
    quantile: float

    @property
    def each(self) -> float:
        """Messages a second that one replica can do."""
        return self.slots / self.service


class Needs(NamedTuple):
    """Replicas by term."""

    flow: int
    drain: int
    at_work: int

    @property
    def most(self) -> int:
        return max(self)


def flow(work: Work) -> int:
    """Replicas that keep up with what comes in, so that the quantile waits no longer than it may."""
    load = work.rate * work.service
    if load <= 0:
        return 0
    return math.ceil(_servers(load, work) / work.slots - 1e-9)


def _servers(load: float, work: Work) -> float:
    least = load / MOST_USED
    if load > MOST_ERLANG:
        return least
    miss = 1 - work.quantile
    spread = 2 / (1 + work.variation)
    blocked = 1.0  # Erlang B of 0 servers
    number = 0
    while True:
        number += 1
        blocked = load * blocked / (number + load * blocked)
        if number < least or number <= load:
            continue
        use = load / number
        waits = blocked / (1 - use + use * blocked)
        if waits * math.exp(-(number - load) * spread * work.wait / work.service) <= miss:
            return float(number)


def drain(work: Work) -> int:
    """Replicas that work off what stands in the queues by the time that its oldest should be done; 0 where so much may stand there."""
    if work.waiting <= 0:
        return 0
    if work.service > work.lead:
        return _slots_for_long_work(work)
    idle_soon = work.each * (work.ready + work.pending / 2)
    backlog = work.waiting + (work.rate - idle_soon) * work.lead
    time = max(work.lead, work.wait - work.age) if work.age < work.wait else max(2 * work.lead, work.wait)
    # Of what may stand, no more than comes in that time: else a higher rate would need fewer.
    excess = backlog - work.rate * min(work.wait / 2, time)
    if excess <= 0:
        return 0
    return math.ceil((work.rate + excess / time) / work.each - 1e-9)


def _slots_for_long_work(work: Work) -> int:
    """Rates say little where a message takes longer than a replica to start: count slots. Those that become free in time take some."""
    left = max(0.0, work.wait - work.age - work.lead)
    freed = work.at_work * left / work.service
    return math.ceil((work.at_work + max(0.0, work.waiting - freed)) / work.slots - 1e-9)


def burst_memory(arrivals: Arrivals, work: Work, most: int) -> int:
    """Replicas that would have met the wait on every burst that is remembered, given that others come `lead` seconds late: 0 where
    those come early enough."""
    if not arrivals.totals:
        return 0
    need = 0.0
    everything = (arrivals.totals[-1] - arrivals.totals[0]) / work.each
    for window in BURST_WINDOWS:
        helped = most * max(0.0, window + work.wait - work.lead)
        late = min(work.lead, window + work.wait)
        if (everything - helped) / late > need:  # else no burst of all that came could make it more
            need = max(need, (most_within(arrivals, window) / work.each - helped) / late)
    return math.ceil(BURST_MARGIN * need) if need > 0 else 0
