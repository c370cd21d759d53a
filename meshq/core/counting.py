"""Counters over time: what was added between two looks, though counters begin anew, come and go.

A look that brought no figure takes nothing away: what was added meanwhile is in the next one that does.
"""

from collections import defaultdict
from collections.abc import Mapping
from typing import NamedTuple

FORGET_AFTER = 900.0
"""Seconds after which a counter that is gone is new if it comes again."""


class Increase(NamedTuple):
    """What was added up to a look."""

    amount: float
    since: float
    """When the look was that it is added to."""
    whole: bool
    """False: there may have been more. A counter began anew, or one of several is gone, or is back after a while."""


class Counter:
    """One counter."""

    def __init__(self) -> None:
        self._at: float | None = None
        self._value = 0.0
        self._top: float | None = None
        """Where it stood before it fell. Should it come back to that, then the fall was perhaps half an answer and what it
        seems to have risen by was counted long ago."""

    def read(self, at: float, value: float | None) -> Increase | None:
        """`value` at the time `at`, which grows from look to look; None: not known. Returns None then, and for the first value."""
        if value is None:
            return None
        before, since = self._value, self._at
        self._value, self._at = value, at
        if since is None:
            return None
        if value < before:
            self._top = before if self._top is None else max(self._top, before)
            return Increase(0.0, since, whole=False)
        if self._top is not None and value >= self._top:
            self._top = None
            return Increase(0.0, since, whole=False)
        return Increase(value - before, since, whole=True)


class Counters:
    """Counters of one thing that several keep: nodes, channels, instances. One that was not there at the look before has counted from
    0 since then."""

    def __init__(self) -> None:
        self._at: float | None = None
        self._counters: dict[str, Counter] = defaultdict(Counter)
        self._seen: dict[str, float] = {}
        """When each was last there."""

    def read(self, at: float, values: Mapping[str, float] | None) -> Increase | None:
        """All that are there, by name; None: not known. Returns None then, and for the first look."""
        if values is None:
            return None
        since, self._at = self._at, at
        whole = self._all_there(since, values)
        amount = 0.0
        for name, value in values.items():
            added = self._counters[name].read(at, value)
            self._seen[name] = at
            if added is None:
                amount += value
            else:
                amount += added.amount
                whole = whole and added.whole and added.since == since
        self._forget(at)
        return None if since is None else Increase(amount, since, whole)

    def _all_there(self, since: float | None, values: Mapping[str, float]) -> bool:
        """Whether those that were there at the look before still are."""
        return all(name in values for name, seen in self._seen.items() if seen == since)

    def _forget(self, at: float) -> None:
        for name in [name for name, seen in self._seen.items() if at - seen > FORGET_AFTER]:
            del self._seen[name], self._counters[name]
