"""What the scaling of one consumer group remembers from one sample to the next. Frozen: a decision gives back a new one."""

from dataclasses import dataclass, field

from meshq.core.scaling_values import Sample

REMEMBERED = 900.0
"""Seconds of arrivals: a burst that came once in this time is expected again."""


@dataclass(frozen=True, slots=True)
class Arrivals:
    """What came in, by conservation: what was settled and what is there now came in before."""

    times: tuple[float, ...] = ()
    """Seconds, one for each sample whose counts were known, at most REMEMBERED ago."""
    totals: tuple[float, ...] = ()
    """Messages that had come in by then, since some start; never less than before."""
    owed: float = 0.0
    """How far a sum of counts taken at slightly different moments fell below an earlier total: the next arrivals fill it first."""
    slow: float | None = None
    """Messages a second, smoothed over a minute or twenty messages."""
    done: float = 0.0
    """Of the last sample that knew it, as is `there`: a counter..."""
    there: int = 0
    """...and messages, waiting or in flight."""
    left: float = 0.0
    """Messages that were done between the last two of them."""


@dataclass(frozen=True, slots=True)
class Effort:
    """What messages took, from the instances' own clocks: sums in which older ones count for less."""

    messages: float = 0.0
    busy: float = 0.0
    """Seconds of work of those messages; `squares` of their squares."""
    squares: float = 0.0
    failed: float = 0.0
    stuck_since: float | None = None
    """Messages are in flight since then and none was ever handled."""
    recent: tuple[tuple[float, float, float], ...] = ()
    """Of the last samples, as long as more messages waited in each of them: when, messages worked on then, and messages settled until
    then (a counter)."""


@dataclass(frozen=True, slots=True)
class Growth:
    """Replicas that were added, to see whether they help."""

    at: float
    """When the last of them began to take messages."""
    ready: int
    """Replicas before..."""
    settled: float
    """...and messages a second that they settled."""


@dataclass(frozen=True, slots=True)
class Memory:
    last: Sample | None = None
    """The last one whose counts were known."""
    arrivals: Arrivals = field(default_factory=Arrivals)
    effort: Effort = field(default_factory=Effort)
    begun_at: float | None = None
    """When the first sample was whose counts were known."""
    needs: tuple[tuple[float, int], ...] = ()
    """When and how many replicas the terms asked for, for as long as a decision to go down looks back, without those since which as
    many or more were asked for: the first is the most."""
    backlogs: tuple[tuple[float, int], ...] = ()
    """The same of what worked off backlogs."""
    desired: int | None = None
    """As decided last."""
    lowered_at: float | None = None
    regretted_at: float | None = None
    """When more was needed so soon after there were fewer that it would have been better to keep them."""
    patience: float = 1.0
    """How many times longer than usual a need is remembered, because of regrets."""
    busy_at: float | None = None
    """When there was work last."""
    settling: float | None = None
    """Messages settled a second, smoothed over the last samples."""
    growth: Growth | None = None
    saturated_until: float = 0.0


START = Memory()
