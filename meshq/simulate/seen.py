"""What a scaling rule gets to see of a simulated service, how old it is, and the shape of a rule."""

from collections.abc import Callable
from random import Random
from typing import NamedTuple, Protocol

from meshq.simulate.traces import Trace


class Counts(NamedTuple):
    """The broker's statistics, collected every five seconds."""

    at: float
    waiting: int
    in_flight: int
    done: int
    """A counter."""
    published: int
    """A counter."""
    rate: float
    """Messages a second that were published between the last two collections."""


class Reports(NamedTuple):
    """What the sidecars said in their renewals, every five seconds. Counters go on when replicas go."""

    at: float
    busy: float
    busy_squares: float
    handled: int
    failed: int


class Seen(NamedTuple):
    now: float
    replicas: int
    """Ordered, and not being ended: live, as Kubernetes has it."""
    ready: int
    """Of them those that work: live."""
    in_flight: int
    """Live: for a rule that watches how busy replicas are."""
    counts: Counts | None
    """None: they cannot be had now."""
    reads_zero: bool
    """Where `counts` is None: the answers look good, and who reads nothing where a figure should be reads 0."""
    reports: Reports | None
    """None: nobody has reported yet."""
    lead: float | None
    """Seconds from order to first message, p90 of the last starts; None before the first."""


class Controller(Protocol):
    """A scaling rule at work on one service."""

    @property
    def every(self) -> int:
        """Whole seconds between two questions."""

    @property
    def spares_busy(self) -> bool:
        """Whether the least busy replicas are ended first; else the newest, as Kubernetes does."""

    @property
    def drains(self) -> bool:
        """Whether replicas finish what they have before they are ended, however long that takes; else they have their grace for it."""

    def step(self, seen: Seen) -> int | None:
        """How many replicas there should be; None: as many as there are."""

    def wake(self, now: float) -> int | None:
        """The same, within a second of the first message to a service without replicas. None: nothing tells it of that."""


Make = Callable[[Trace, Random], Controller]
"""A rule at the start of a trace. The random numbers are for what nobody chooses, such as when in its period a poll falls."""
