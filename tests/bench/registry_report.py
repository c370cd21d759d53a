"""What tests/bench/registry.py measured, as tables with the budget beside."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import NamedTuple

CORES = 1.0
RENEW_P99_MS = 20.0
PROPAGATION_MS = 2000.0
"""The budget: DESIGN part 8, and 2 s for 5,000 watchers (issue 4)."""
TITLE = (
    "### The registry with {instances:,} instances of {services} services, each watching "
    "(simulated by {processes} processes on the same machine)"
)
HEADER = (
    "| phase | CPU of Redis, cores (budget) | renewals/s | renew p50 ms | p99 ms (budget) | CPU of the load, cores "
    "| late itself: p50, p99 ms | pictures/s | commands/s | Redis sends MB/s | failed | steal % |\n"
    "|---|---|---|---|---|---|---|---|---|---|---|---|"
)


class Change(NamedTuple):
    began: float
    """When it was begun to be told, by the monotonic clock of this machine."""
    revision: int
    """Of the picture with it."""


@dataclass
class Phase:
    """Some seconds of one kind. CPU is in cores."""

    name: str
    seconds: float
    redis_cores: float
    load_cores: float
    """Of all the simulating processes together."""
    commands: float
    """Of all connections, a second."""
    sent_mb: float
    """By Redis, a second."""
    renewals: float
    """A second."""
    renew_p50_ms: float
    renew_p99_ms: float
    late_p50_ms: float
    late_p99_ms: float
    """How late the simulating processes were with what was due in themselves."""
    snapshots: float
    """Pictures taken, a second."""
    away: dict[str, int]
    """How many calls failed, by what the adapter said."""
    steal_percent: float
    """Of the machine's time taken by others on its host: distrust a phase with much of it."""
    propagation_ms: list[list[float]] = field(default_factory=list)
    """Of each change, until each watcher had the picture with it, sorted."""

    def __str__(self) -> str:
        text = (
            f"{self.name}: Redis {self.redis_cores:.2f} cores, load {self.load_cores:.2f}, {self.renewals:.0f} renewals/s, "
            f"p50 {self.renew_p50_ms:.1f} p99 {self.renew_p99_ms:.1f} ms"
        )
        longest = [times[-1] for times in self.propagation_ms if times]
        return f"{text}, a change at all after {max(longest):.0f} ms at the most" if longest else text


@dataclass
class Result:
    instances: int
    services: int
    processes: int
    registered_seconds: float
    """All at once."""
    bytes_an_instance: float
    """Of what is kept, without connections."""
    memory_mb: float
    rss_mb: float
    clients_mb: float
    """Of the memory, that of connections."""
    connections: int
    phases: list[Phase]


def table(result: Result) -> str:
    parts = [TITLE.format(**vars(result)), _phases(result.phases)]
    parts += [f"{phase.name}: {count} times: {fault}" for phase in result.phases for fault, count in phase.away.items()]
    changes = [times for phase in result.phases for times in phase.propagation_ms]
    if changes:
        parts.append(_propagation(changes, result.instances))
    parts.append(
        f"Redis: {result.bytes_an_instance:,.0f} bytes an instance; in all {result.memory_mb:.0f} MB (resident {result.rss_mb:.0f}), "
        f"of which {result.clients_mb:.0f} MB for {result.connections:,} connections. "
        f"All registered within {result.registered_seconds:.1f} s."
    )
    parts.append(
        "What a simulating process measures is too long by how late it is itself; beside a Redis alone on its cores a renewal "
        "and a change would be quicker by about that."
    )
    return "\n\n".join(parts)


def _phases(phases: Sequence[Phase]) -> str:
    rows = [
        f"| {phase.name} | {_held(phase.redis_cores, CORES, '.2f')} | {phase.renewals:,.0f} | {phase.renew_p50_ms:.1f} "
        f"| {_held(phase.renew_p99_ms, RENEW_P99_MS, '.1f')} | {phase.load_cores:.2f} "
        f"| {phase.late_p50_ms:.1f}, {phase.late_p99_ms:.1f} | {phase.snapshots:,.0f} | {phase.commands:,.0f} | {phase.sent_mb:.1f} | {sum(phase.away.values())} "
        f"| {phase.steal_percent:.1f} |"
        for phase in phases
    ]
    return "\n".join([HEADER, *rows])


def _propagation(changes: Sequence[Sequence[float]], watchers: int) -> str:
    """Each figure is the median over the changes, and the worst of them."""
    rows = [
        f"| of {len(changes)} changes | until p50 of the watchers have the picture, ms | p99 | all (budget) | watchers that missed it |",
        "|---|---|---|---|---|",
    ]
    figures = [(percentile(times, 50), percentile(times, 99), times[-1]) for times in changes if times]
    missed = sum(max(0, watchers - len(times)) for times in changes)
    if not figures:
        return "No watcher saw any change."
    p50, p99, most = zip(*figures, strict=True)
    rows.append(
        f"| median (worst) | {median(p50):.0f} ({max(p50):.0f}) | {median(p99):.0f} ({max(p99):.0f}) "
        f"| {median(most):.0f} ({_held(max(most), PROPAGATION_MS, '.0f')}) | {missed} |"
    )
    return "\n".join(rows)


def _held(value: float, budget: float, form: str) -> str:
    """The figure, and whether it is within its budget."""
    return f"{value:{form}} ({'≤' if value <= budget else '**over**'} {budget:g})"


def percentile(ordered: Sequence[float], percent: float) -> float:
    """Of sorted values; 0.0 of none."""
    return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))] if ordered else 0.0
