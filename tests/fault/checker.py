"""The total-queue checker: what must hold of a queue that promises at least once, whatever broke meanwhile.

After Jepsen's checker of that name (jepsen.checker/total-queue): a history of what was attempted, acknowledged to its sender
and delivered, that ends with a full drain. Nothing acknowledged may be missing at the end (`lost`), nothing may be delivered
that nobody sent (`unexpected`). Something delivered twice is `duplicated`, which at least once permits. Something delivered
whose sender got no acknowledgement is `recovered`: permitted too, its sender does not know. Here a message may also end in the
dead letters, with its reason.
"""

from collections import Counter
from collections.abc import Collection, Iterable
from typing import NamedTuple


class Report(NamedTuple):
    attempted: int
    acknowledged: int
    delivered: int
    """Different ones."""
    dead: int
    lost: frozenset[str]
    unexpected: frozenset[str]
    duplicated: dict[str, int]
    """Id -> how often it was delivered."""
    recovered: int

    @property
    def valid(self) -> bool:
        return not self.lost and not self.unexpected

    def __str__(self) -> str:
        return (
            f"{self.attempted} attempted, {self.acknowledged} acknowledged, {self.delivered} delivered, {self.dead} dead, "
            f"{len(self.lost)} lost, {len(self.unexpected)} unexpected, {len(self.duplicated)} duplicated, "
            f"{self.recovered} recovered"
        )


def check(
    attempted: Collection[str], acknowledged: Collection[str], delivered: Iterable[str], dead: Collection[str] = ()
) -> Report:
    """`delivered` has an id for each time it was delivered. Only after a full drain: until then what waits looks lost."""
    times = Counter(delivered)
    sent, taken, buried = set(attempted), set(acknowledged), set(dead)
    return Report(
        len(sent),
        len(taken),
        len(times),
        len(buried),
        lost=frozenset(taken - times.keys() - buried),
        unexpected=frozenset((times.keys() | buried) - sent),
        duplicated={ident: count for ident, count in times.items() if count > 1},
        recovered=len((times.keys() & sent) - taken),
    )
