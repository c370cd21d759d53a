"""Old events for new handlers: from one major version to the next, step by step."""

from collections.abc import Iterable
from typing import NamedTuple

from meshq.sdk.handlers import Handler


class Upgrade(NamedTuple):
    """One step."""

    event: str
    old: int
    new: int
    handler: Handler


def chain(upgrades: Iterable[Upgrade], event: str, old: int, new: int) -> tuple[Upgrade, ...]:
    """The fewest steps from `old` to `new`; () where there is no way, or none is needed."""
    steps = [each for each in upgrades if each.event == event]
    ways: dict[int, tuple[Upgrade, ...]] = {old: ()}
    ends = [old]
    while ends and new not in ways:
        following = []
        for end in ends:
            for step in steps:
                if step.old == end and step.new not in ways and step.new <= new:
                    ways[step.new] = (*ways[end], step)
                    following.append(step.new)
        ends = following
    return ways.get(new, ())
