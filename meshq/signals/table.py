"""The decisions: of every topic by its own policy, and by the wishes of everybody who asked for others."""

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from meshq.core import scaling
from meshq.core.scaling_leads import Leads
from meshq.core.scaling_memory import START, Memory
from meshq.core.scaling_values import Decision, Sample, ScalingPolicy
from meshq.core.scaling_words import NOTHING_YET
from meshq.signals.figures import NO_WISHES, Signal, Wishes
from meshq.signals.sampling import Topic

KEPT = 24
"""Samples of each topic, for whoever comes with wishes that nobody had before."""
FORGOTTEN = 600.0
"""Seconds after which wishes that nobody has any more are dropped."""
MAX_WISHES = 20
"""Of one topic. More can only be a mistake; the one asked for longest ago gives way."""


@dataclass(slots=True)
class _Followed:
    """One topic by one policy."""

    memory: Memory = START
    decision: Decision = NOTHING_YET
    asked_at: float = 0.0


@dataclass(slots=True)
class _Row:
    topic: Topic
    policy: ScalingPolicy
    at: float
    at_ms: int
    samples: deque[Sample] = field(default_factory=lambda: deque(maxlen=KEPT))
    followed: dict[Wishes, _Followed] = field(default_factory=lambda: {NO_WISHES: _Followed()})
    leads: Leads = field(default_factory=Leads)
    woken_at: float | None = None
    """When somebody sent to it while it had no replica, since the last sample."""


class Table:
    """`policy` says what is wanted of a topic. Times are seconds of the samples' clock, `at_ms` mesh time."""

    def __init__(self, policy: Callable[[Topic], ScalingPolicy]) -> None:
        self._policy = policy
        self._rows: dict[str, _Row] = {}

    def lead(self, topic: str) -> float | None:
        """Seconds that starts have taken; None where none was measured."""
        row = self._rows.get(topic)
        return None if row is None else row.leads.lead

    def take(self, topics: Iterable[Topic], samples: dict[str, Sample], at_ms: int) -> None:
        """One more sample of each, and of no other topic."""
        rows = {}
        for topic in topics:
            sample, policy = samples[topic.name], self._policy(topic)
            row = self._rows.get(topic.name)
            if row is None:
                row = _Row(topic, policy, sample.at, at_ms)
            row.topic, row.policy, row.at, row.at_ms, row.woken_at = topic, policy, sample.at, at_ms, None
            row.samples.append(sample)
            _advance(row, sample)
            rows[topic.name] = row
        self._rows = rows

    def wake(self, topic: str, at: float, at_ms: int) -> bool:
        """Somebody sends to it. True: it has no replica, and is to have one."""
        row = self._rows.get(topic)
        if row is None:
            return False
        woke = False
        for wishes, followed in row.followed.items():
            if not followed.memory.desired:
                policy = wishes.applied(row.policy)
                followed.memory, followed.decision = scaling.woken(followed.memory, at, policy)
                woke = True
        if woke:
            row.at_ms, row.woken_at = at_ms, at
            row.leads.note(at, row.followed[NO_WISHES].decision.desired, None)
        return woke

    def signal(self, topic: str, wishes: Wishes = NO_WISHES) -> Signal | None:
        row = self._rows.get(topic)
        if row is None:
            return None
        followed = row.followed.get(wishes)
        if followed is None:
            followed = _begun(row, wishes)
        followed.asked_at = row.at
        where = row.topic
        return Signal(
            where.service,
            where.major,
            where.name,
            where.version,
            wishes.applied(row.policy),
            row.samples[-1],
            followed.decision,
            row.at_ms,
        )

    def names(self) -> list[str]:
        """By service and major."""
        return [name for name, _ in sorted(self._rows.items(), key=lambda each: each[1].topic[:2])]

    def of_service(self, service: str) -> list[str]:
        return [name for name in self.names() if self._rows[name].topic.service == service]


def _advance(row: _Row, sample: Sample) -> None:
    for wishes, followed in list(row.followed.items()):
        if wishes != NO_WISHES and sample.at - followed.asked_at > FORGOTTEN:
            del row.followed[wishes]
            continue
        policy = wishes.applied(row.policy)
        followed.memory, followed.decision = scaling.advance(followed.memory, sample, policy)
    row.leads.note(sample.at, row.followed[NO_WISHES].decision.desired, sample.ready)


def _begun(row: _Row, wishes: Wishes) -> _Followed:
    others = [each for each in row.followed if each != NO_WISHES]
    if len(others) >= MAX_WISHES:
        del row.followed[min(others, key=lambda each: row.followed[each].asked_at)]
    followed = row.followed[wishes] = _Followed()
    policy = wishes.applied(row.policy)
    for sample in row.samples:
        followed.memory, followed.decision = scaling.advance(followed.memory, sample, policy)
    if row.woken_at is not None and not followed.memory.desired:
        followed.memory, followed.decision = scaling.woken(followed.memory, row.woken_at, policy)
    return followed
