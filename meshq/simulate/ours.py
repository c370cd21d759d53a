"""meshq's own rule in the simulation: the counts and reports as samples for meshq.core.scaling, and what it says carried out."""

from collections.abc import Callable
from random import Random
from typing import Any, ClassVar, NamedTuple

from meshq.core.scaling_values import EVERY, Decision, Sample, ScalingPolicy
from meshq.simulate.hpa import SYNC, Hpa
from meshq.simulate.seen import Reports, Seen
from meshq.simulate.traces import Trace


class Rule(NamedTuple):
    """meshq.core.scaling's functions, or what is tried in their place."""

    start: Any
    advance: Callable[[Any, Sample, ScalingPolicy], tuple[Any, Decision]]
    woken: Callable[[Any, float, ScalingPolicy], tuple[Any, Decision]]


NOISE = 0.1
"""Busy times are measured this much too high or too low, evenly spread."""
KEDA_POLL = 15
"""Seconds between two looks of KEDA at whether it may go to zero."""


class Ours:
    """Asked every five seconds, and done as it says by the direct mode: the least busy drain, and go when they have finished."""

    every: ClassVar[int] = int(EVERY)
    spares_busy: ClassVar[bool] = True
    drains: ClassVar[bool] = True

    def __init__(self, trace: Trace, random: Random, *, rule: Rule) -> None:
        self._policy = trace.policy
        self._slots = trace.slots
        self._random = random
        self._rule = rule
        self._memory = rule.start
        self._busy = self._squares = 0.0
        self._counted: Reports | None = None
        self._stale = False
        """Whether figures were missing or too old at the last step."""

    def step(self, seen: Seen) -> int | None:
        self._memory, decision = self._rule.advance(self._memory, self._sample(seen), self._policy)
        self._stale = decision.stale
        return decision.desired

    def wake(self, now: float) -> int | None:
        self._memory, decision = self._rule.woken(self._memory, now, self._policy)
        return decision.desired

    def _sample(self, seen: Seen) -> Sample:
        counts, reports = seen.counts, seen.reports
        if reports is not None and reports is not self._counted:
            self._measure(reports)
        known = reports is not None
        return Sample(
            at=seen.now,
            counted_at=None if counts is None else counts.at,
            waiting=None if counts is None else counts.waiting,
            in_flight=None if counts is None else counts.in_flight,
            done=None if counts is None else counts.done,
            reported_at=None if reports is None else reports.at,
            replicas=seen.replicas,
            ready=seen.ready,
            slots=self._slots if known else None,
            busy=self._busy if known else None,
            busy_squares=self._squares if known else None,
            handled=None if reports is None else reports.handled,
            failed=None if reports is None else reports.failed,
            lead=seen.lead,
        )

    def _measure(self, reports: Reports) -> None:
        """Each report's growth with its own error."""
        last = self._counted
        error = 1 + self._random.uniform(-NOISE, NOISE)
        self._busy += error * (reports.busy - (last.busy if last else 0.0))
        self._squares += error**2 * (reports.busy_squares - (last.busy_squares if last else 0.0))
        self._counted = reports


class OursThroughHpa(Ours):
    """The same through KEDA and an HPA with the manifest's settings: tolerance and windows 0, any growth at once. Replicas are ended by
    SIGTERM at once, and have their grace."""

    every: ClassVar[int] = 1
    drains: ClassVar[bool] = False

    def __init__(self, trace: Trace, random: Random, *, rule: Rule) -> None:
        super().__init__(trace, random, rule=rule)
        self._hpa = Hpa(trace.policy.min, trace.policy.max, window=0.0, at_once=True)
        self._samples, self._syncs = random.randrange(super().every), random.randrange(SYNC)
        self._polls = random.randrange(KEDA_POLL)
        self._desired: int | None = None

    def wake(self, now: float) -> int | None:
        """KEDA's push only starts it."""
        self._desired = super().wake(now)
        return max(1, self._policy.min)

    def step(self, seen: Seen) -> int | None:
        second = int(seen.now)
        if second % Ours.every == self._samples:
            self._desired = super().step(seen)
        if self._desired is None or self._stale or not seen.replicas:
            return None  # stale: it is told that nobody knows, and holds
        if self._desired == 0:
            return 0 if second % KEDA_POLL == self._polls else None
        return self._hpa.step(seen.now, seen.replicas, self._desired) if second % SYNC == self._syncs else None
