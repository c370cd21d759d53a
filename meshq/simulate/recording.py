"""From what a live service counts to a trace of it. No I/O: whoever records looks, this puts together.

What came between two looks is known by conservation: what left, and what is there more than before. It is spread over that time as a
Poisson process would (drawn.times). What was there at the first look comes then. Messages are taken in the order in which they came,
so that the work that was measured belongs to those that left; each such group gets service times of its mean and variation
(drawn.services). A message that fails and is tried again came twice. No message is in a trace that was not counted.
"""

import math
from collections import deque
from dataclasses import dataclass
from random import Random
from typing import NamedTuple

from meshq.core.scaling_values import STALE_AFTER, ScalingPolicy
from meshq.simulate import drawn
from meshq.simulate.drawn import Takes
from meshq.simulate.traces import MOST, Outage, Span, Trace


class Counts(NamedTuple):
    """Of the broker."""

    arrived: float
    """A counter: what left so far, and what is there."""
    waiting: float
    in_flight: float

    @property
    def there(self) -> float:
        return self.waiting + self.in_flight

    @property
    def left(self) -> float:
        return self.arrived - self.there


class Work(NamedTuple):
    """Of the sidecars, all together. Counters: they may begin anew."""

    handled: float
    busy: float
    """Seconds."""
    squares: float
    """The sum of the squares of those times, s^2."""


class Look(NamedTuple):
    at: float
    """Seconds of one clock."""
    counts: Counts | None
    """None: not known."""
    work: Work | None
    """None: not known."""


@dataclass(frozen=True, slots=True)
class Recorded:
    """What a trace says besides messages."""

    name: str
    policy: ScalingPolicy
    slots: int
    replicas: int
    """Ready at the first look."""
    startup: float
    takes: Takes | None
    """How long messages took before, for when none is handled while it is recorded. None: nobody knows."""


class _Came(NamedTuple):
    begins: float
    ends: float
    messages: int


class _Took(NamedTuple):
    """Messages up to number `until`, in the order in which they came, from where those before end."""

    until: int
    takes: Takes


class Recording:
    """One service. Times are the looks', but those of a trace, which count from the first look."""

    def __init__(self) -> None:
        self.messages = 0
        """That came so far."""
        self._first: float | None = None
        self._last = -math.inf
        self._counted: tuple[float, Counts] | None = None
        """The last counts that were known, and when."""
        self._unknown_since: float | None = None
        self._outages: list[Span] = []
        self._came: list[_Came] = []
        self._owed = 0.0
        """What was counted twice, in the queue and as gone: so much that comes is not new."""
        self._left = 0.0
        """What left before the last look."""
        self._worked: Work | None = None
        """The sums at which the last group ends."""
        self._took: list[_Took] = []
        self._gone: deque[tuple[float, int]] = deque()
        """How many of the messages had left at a look; the first is STALE_AFTER old or more, once there is such."""

    # --- looking ----------------------------------------------------------------------------------------------------------------

    def take(self, look: Look) -> bool:
        """Returns whether it is a new one: what is of the time of the look before, or of one before it, says nothing more."""
        if look.at <= self._last:
            return False
        self._last = look.at
        if self._first is None:
            self._first = look.at
        if look.counts is None:
            self._unknown_since = look.at if self._unknown_since is None else self._unknown_since
            return True
        before, self._counted = self._counted, (look.at, look.counts)
        begun_anew = before is not None and look.counts.left < before[1].left
        unknown_since = before[0] if before is not None and begun_anew else self._unknown_since
        if unknown_since is not None:
            self._outages.append(Span(unknown_since, look.at))
        self._unknown_since = None
        self._count(look.at, look.counts, before, begun_anew)
        if look.work is not None:
            self._measure(look.counts, look.work)
        return True

    @property
    def is_full(self) -> bool:
        """A trace holds no more."""
        return self.messages >= MOST

    @property
    def seconds(self) -> float:
        return 0.0 if self._first is None else self._last - self._first

    @property
    def known(self) -> bool:
        """Whether any look brought counts."""
        return self._counted is not None

    @property
    def unknown_seconds(self) -> float:
        return sum(span.ends - span.begins for span in self._unknown())

    # --- what came ----------------------------------------------------------------------------------------------------------------

    def _count(self, at: float, counts: Counts, before: tuple[float, Counts] | None, begun_anew: bool) -> None:
        if before is None:
            self._add(at, at, counts.there)
        elif begun_anew:
            self._owed = self._left = 0.0
        else:
            left = counts.left - before[1].left
            net = counts.arrived - before[1].arrived - self._owed
            self._add(before[0], at, max(0.0, net))
            # Only what left just before can have been counted twice. Where more is missing, messages were deleted.
            self._owed = min(max(0.0, -net), self._left + left)
            self._left = left
        self._gone.append((at, max(0, self.messages - round(counts.there))))
        while len(self._gone) > 1 and self._gone[1][0] <= at - STALE_AFTER:
            self._gone.popleft()

    def _add(self, begins: float, ends: float, count: float) -> None:
        if whole := round(count):
            self._came.append(_Came(begins, ends, whole))
            self.messages += whole

    # --- what it took ---------------------------------------------------------------------------------------------------------------

    def _measure(self, counts: Counts, work: Work) -> None:
        """The sums wait until messages have left that they can be of."""
        before = self._worked
        if before is None or any(now < then for now, then in zip(work, before, strict=True)):
            self._worked = work
            return
        grown = Work(*(now - then for now, then in zip(work, before, strict=True)))
        covered = self._took[-1].until if self._took else 0
        until = self._until(covered + round(grown.handled), counts)
        if grown.handled > 0 and until > covered:
            self._took.append(_Took(until, _takes(grown)))
            self._worked = work

    def _until(self, number: int, counts: Counts) -> int:
        """`number`, but neither before what left long ago, which no report will tell of any more (it expired, or its instance is gone),
        nor beyond what was handed out."""
        longest_ago, gone = self._gone[0]
        if self._gone[-1][0] - longest_ago < STALE_AFTER:
            gone = 0
        return min(max(number, gone), self.messages - round(counts.waiting))

    # --- the trace --------------------------------------------------------------------------------------------------------------------

    def trace(self, recorded: Recorded) -> Trace | None:
        """The same for the same looks. None where nobody knows how long messages take."""
        if self._first is None or not (self._took or recorded.takes):
            return None
        random = Random(f"recording:{recorded.name}")
        first = self._first
        times = [at - first for came in self._came for at in drawn.times(random, came.messages, came.begins, came.ends)]
        services = self._services(random, recorded.takes)
        arrivals = tuple((round(at, 4), round(takes, 5)) for at, takes in zip(times, services, strict=True))
        return Trace(
            recorded.name,
            arrivals[:MOST],
            lasts=max(1.0, math.ceil(self.seconds)),
            slots=recorded.slots,
            replicas=recorded.replicas,
            policy=recorded.policy,
            startup=recorded.startup,
            outages=tuple(_outages(self._unknown(), first)),
        )

    def _services(self, random: Random, usual: Takes | None) -> list[float]:
        """Those that came last, which nobody had handled yet, take as long as those before them."""
        found: list[float] = []
        for until, takes in self._took:
            found += drawn.services(random, until - len(found), takes)
        last = self._took[-1].takes if self._took else usual
        return found if last is None else found + drawn.services(random, self.messages - len(found), last)

    def _unknown(self) -> list[Span]:
        if self._unknown_since is None:
            return self._outages
        return [*self._outages, Span(self._unknown_since, self._last)]


def _takes(work: Work) -> Takes:
    if work.busy <= 0:
        return Takes(0.0)
    return Takes(work.busy / work.handled, max(0.0, work.squares * work.handled / work.busy**2 - 1))


def _outages(spans: list[Span], first: float) -> list[Outage]:
    """To a tenth of a second of the trace."""
    rounded = [Span(round(span.begins - first, 1), round(span.ends - first, 1)) for span in spans]
    return [Outage(span) for span in rounded if span.begins < span.ends]
