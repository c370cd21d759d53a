"""The scaling rules that meshq is measured against. Their values are given in parts of what a trace's target allows, as somebody
would set them who knows how long a message takes."""

import math
from collections import deque
from random import Random
from typing import ClassVar

from meshq.simulate.hpa import SYNC, Hpa, of_average, of_utilisation
from meshq.simulate.seen import Counts, Seen
from meshq.simulate.traces import Trace

POLL = 30
"""KEDA's pollingInterval, seconds: from and to zero."""
COOLDOWN = 300
"""KEDA's cooldownPeriod, seconds: to zero."""
_NOTHING = Counts(at=0.0, waiting=0, in_flight=0, done=0, published=0, rate=0.0)


class _Baseline:
    """Looks when its period says so, is told of nothing, and leaves it to Kubernetes which replicas are ended."""

    every: ClassVar[int] = 1
    spares_busy: ClassVar[bool] = False
    drains: ClassVar[bool] = False

    def wake(self, now: float) -> None:
        return None


class Keda(_Baseline):
    """KEDA's RabbitMQ scaler: a trigger on the queue's length and, where `load` is given, one on the rate of publishing."""

    def __init__(self, trace: Trace, random: Random, *, depth: float, window: float, load: float | None = None) -> None:
        """`depth`: the part of the target wait in which a replica would work off its value of messages, which KEDA counts with those
        that are worked on. `load`: how busy a replica is that gets its value of messages a second. `window`: the HPA's, seconds."""
        pace = trace.slots / trace.service
        self._depth = max(1.0, depth * trace.policy.wait * pace)
        self._rate = None if load is None else load * pace
        self._policy = trace.policy
        self._hpa = Hpa(trace.policy.min, trace.policy.max, window)
        self._polls, self._syncs = random.randrange(POLL), random.randrange(SYNC)
        self._active_at = 0.0

    def step(self, seen: Seen) -> int | None:
        second = int(seen.now)
        counts = seen.counts or (_NOTHING if seen.reads_zero else None)
        if counts is None:
            return None
        if second % POLL == self._polls and (switched := self._switch(seen, counts)) is not None:
            return switched
        if second % SYNC == self._syncs and seen.replicas:
            return self._hpa.step(seen.now, seen.replicas, self._wanted(counts, seen.replicas))
        return None

    def _switch(self, seen: Seen, counts: Counts) -> int | None:
        """From and to zero."""
        if counts.waiting + counts.in_flight or (self._rate is not None and counts.rate):
            self._active_at = seen.now
            return None if seen.replicas else max(1, self._policy.min)
        over = seen.replicas and not self._policy.min and seen.now - self._active_at >= COOLDOWN
        return 0 if over else None

    def _wanted(self, counts: Counts, current: int) -> int:
        """HPA takes the most of what the metrics want."""
        wanted = of_average(counts.waiting + counts.in_flight, self._depth, current)
        return wanted if self._rate is None else max(wanted, of_average(counts.rate, self._rate, current))


class Aws(_Baseline):
    """Backlog per instance, as AWS describes it for its queues: so many waiting messages as an instance works off in the target wait.
    Never below one: at zero there is no backlog per instance."""

    def __init__(self, trace: Trace, random: Random, *, backlog: float, period: int, calm: float) -> None:
        """`backlog`: the part of the target wait. `period`: seconds between two looks. `calm`: seconds for which it wants fewer before
        there are fewer."""
        self._target = max(1.0, backlog * trace.policy.wait * trace.slots / trace.service)
        self._least, self._most = max(1, trace.policy.min), trace.policy.max
        self._period, self._looks = period, random.randrange(period)
        self._calm = calm
        self._above_at = 0.0
        """When it last wanted as many as there were."""

    def step(self, seen: Seen) -> int | None:
        if int(seen.now) % self._period != self._looks:
            return None
        counts = seen.counts or (_NOTHING if seen.reads_zero else None)
        if counts is None:
            return None if seen.replicas else self._least
        wanted = max(self._least, min(math.ceil(counts.waiting / self._target), self._most))
        if wanted >= seen.replicas:
            self._above_at = seen.now
            return wanted
        if seen.now - self._above_at < self._calm:
            return None
        self._above_at = seen.now
        return wanted


class Usage(_Baseline):
    """An HPA on how busy replicas are, as on CPU where work is all CPU. Never below one."""

    def __init__(self, trace: Trace, random: Random, *, used: float, window: float) -> None:
        """`used`: the share of a replica's slots that should be in use. `window`: the HPA's, seconds."""
        self._target = used
        self._slots = trace.slots
        self._hpa = Hpa(trace.policy.min, trace.policy.max, window)
        self._syncs = random.randrange(SYNC)
        self._measured: deque[float] = deque(maxlen=SYNC)
        """The share in use in each of the last seconds; what waits to be ended is in it for a moment, as it is in Kubernetes."""

    def step(self, seen: Seen) -> int | None:
        if seen.ready:
            self._measured.append(min(1.0, seen.in_flight / (seen.ready * self._slots)))
        if not seen.replicas:
            return 1
        if int(seen.now) % SYNC != self._syncs or not seen.ready or not self._measured:
            return None
        used = sum(self._measured) / len(self._measured)
        wanted = of_utilisation(used, self._target, seen.replicas, seen.ready)
        return self._hpa.step(seen.now, seen.replicas, wanted)
