"""The topology that a client wants of its broker, as the set of what it declared: several declarations may want the same thing
(every subscription of a service has the same dead queue), so one that is withdrawn takes away only what no other wants."""

from collections.abc import Sequence
from typing import TypeVar

from meshq.core.topology import Topology

T = TypeVar("T")


class Desired:
    def __init__(self, first: Topology) -> None:
        self._declared = [first]
        self.all = first
        """Everything wanted."""

    def add(self, wanted: Topology) -> None:
        if wanted not in self._declared:
            self._declared.append(wanted)
            self.all += wanted

    def remove(self, unwanted: Topology) -> Topology:
        """Returns what nobody wants any more. What was not declared as it is, but only as parts of more, is wanted still."""
        if unwanted in self._declared:
            self._declared.remove(unwanted)
            self.all = sum(self._declared, Topology())
        return without(unwanted, self.all)


def without(some: Topology, others: Topology) -> Topology:
    """`some` less what is in `others` too."""
    return Topology(
        _difference(some.exchanges, others.exchanges),
        _difference(some.queues, others.queues),
        _difference(some.bindings, others.bindings),
    )


def _difference(some: Sequence[T], others: Sequence[T]) -> tuple[T, ...]:
    gone = set(others)
    return tuple(thing for thing in some if thing not in gone)
