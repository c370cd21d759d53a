"""How long the message has waited that waits longest, from how many came until when: of `waiting` messages it is the one before
which all others had come. Without a look at any message, and also where nobody takes them.

It is exact up to the time between two looks, for messages that are taken in the order in which they came. Figures of one queue are
not of one moment (RabbitMQ: up to an interval apart), so that a message that just left may be counted in the queue and as gone, or as
neither. So a count that falls is believed when it stays low for SETTLED_AFTER, and as far as messages left lately: they had been counted
twice. If it fell by more, then the others have left without being counted (expired, dead-lettered).
"""

from bisect import bisect_left, bisect_right
from collections import deque
from typing import NamedTuple

from meshq.core.scaling_values import EVERY

SETTLED_AFTER = 2 * EVERY
"""Seconds after which all figures tell of what happened then."""
FULL = 900.0
"""Seconds for which every look is kept..."""
THINNED = 0.04
"""...and of older ones, as many that two are no farther apart than this part of their age."""
_THIN_AT = int(2 * FULL / EVERY)
"""Looks kept before old ones are thinned out, the first time."""


class Age(NamedTuple):
    """Seconds; `least` and `most` are the same where it is known."""

    least: float
    most: float | None
    """None: nobody knows for how long."""


class History:
    """How many messages came until when. Times are of one clock that never goes backwards."""

    def __init__(self) -> None:
        self._times: list[float] = []
        self._counts: list[float] = []
        """Messages that came from the first look to each of `_times`, never fewer than to the one before."""
        self._unsure: list[bool] = []
        """For each: whether more may have come since the one before than is counted."""
        self._levels: deque[tuple[float, float]] = deque()
        """The last counts as they were told, with when, the latest last: each may be lower than one before."""
        self._left: deque[tuple[float, float]] = deque()
        """When how many left, lately: no more than that can have been counted twice."""
        self._sure_since = 0.0
        """When the look was since which nothing is unsure."""
        self._thin_at = _THIN_AT

    def __len__(self) -> int:
        """How many looks are kept."""
        return len(self._times)

    def begin(self, at: float) -> None:
        """The first look."""
        self._sure_since = at
        self._levels.append((at, 0.0))
        self._append(at, 0.0, unsure=False)

    def add(self, at: float, came: float, left: float) -> float:
        """`came` since the look before, below 0 to take back, while so many `left`. Returns by how much that changes the count."""
        before, level = self._counts[-1], self._levels[-1][1] + came
        _remember(self._left, at, left, 2 * SETTLED_AFTER)
        _remember(self._levels, at, level, SETTLED_AFTER)
        highest = max(level for _, level in self._levels)
        if before - highest > sum(left for _, left in self._left):
            self._levels = deque([(at, before)])
        else:
            self._lower(highest)
        self._append(at, max(highest, self._counts[-1]), unsure=False)
        return self._counts[-1] - before

    def add_at_least(self, at: float, came: float) -> None:
        """`came` since the look before, and perhaps more."""
        level = self._counts[-1] + came
        self._levels, self._sure_since = deque([(at, level)]), at
        self._append(at, level, unsure=True)

    def oldest_age(self, now: float, waiting: float) -> Age | None:
        """Of the oldest of `waiting` messages, as of the last look. None before the first; 0 where nothing waits."""
        if not self._times:
            return None
        if waiting <= 0:
            return Age(0.0, 0.0)
        sure = self._sure_from()
        before_it = self._counts[-1] - waiting
        if before_it < self._counts[0]:
            return Age(now - self._times[sure], None)
        at = bisect_right(self._counts, before_it) - 1
        if at >= sure:
            age = now - self._when(at, before_it)
            return Age(age, age)
        came_at = self._times[at] if self._unsure[at + 1] else self._when(at, before_it)
        return Age(now - self._times[sure], now - came_at)

    def _when(self, at: int, count: float) -> float:
        """When so many had come, between the looks `at` and `at` + 1."""
        part = (count - self._counts[at]) / (self._counts[at + 1] - self._counts[at])
        return self._times[at] + part * (self._times[at + 1] - self._times[at])

    def _sure_from(self) -> int:
        """The look that `_sure_since` is, or the first one after it that is kept."""
        return bisect_left(self._times, self._sure_since)

    def _lower(self, highest: float) -> None:
        """Nothing that was counted before can be more than this."""
        for at in reversed(range(len(self._counts))):
            if self._counts[at] <= highest:
                break
            self._counts[at] = highest

    def _append(self, at: float, count: float, unsure: bool) -> None:
        self._times.append(at)
        self._counts.append(count)
        self._unsure.append(unsure)
        if len(self._times) >= self._thin_at:
            self._thin(at)
            self._thin_at = len(self._times) + _THIN_AT // 2

    def _thin(self, now: float) -> None:
        times, counts, unsure = self._times, self._counts, self._unsure
        self._times, self._counts, self._unsure = times[:1], counts[:1], unsure[:1]
        skipped_unsure = False
        for at in range(1, len(times)):
            last = at == len(times) - 1
            if last or now - times[at] <= FULL or times[at + 1] - self._times[-1] > THINNED * (now - times[at + 1]):
                self._times.append(times[at])
                self._counts.append(counts[at])
                self._unsure.append(unsure[at] or skipped_unsure)
                skipped_unsure = False
            else:
                skipped_unsure = skipped_unsure or unsure[at]


def _remember(looks: deque[tuple[float, float]], at: float, value: float, seconds: float) -> None:
    """And forget what was longer ago than so many seconds."""
    looks.append((at, value))
    while at - looks[0][0] > seconds:
        looks.popleft()
