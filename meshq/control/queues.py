"""The rows of `meshq queues`: what a queue is by its name (DESIGN part 4), and its figures beside those of its dead letters.
A figure that nobody knows is None, never 0."""

from collections.abc import Iterable, Sequence
from typing import Any

from meshq.core import names, topology
from meshq.core.instances import Snapshot
from meshq.core.queue_names import QueueName, read_name
from meshq.ports import QueueStats

HIDDEN = frozenset({"delay", "reply"})
"""Kinds that say nothing about a service's work; `--all` shows them."""


def expected(picture: Snapshot) -> list[str]:
    """The queues that the registry's picture speaks of: to be asked for by name where the broker lists none."""
    of_topics = [
        queue
        for service in picture.services.values()
        for major in service.majors
        for queue in _of_topic(names.topic(service.name, major))
    ]
    return [*of_topics, topology.LOST]


def _of_topic(topic: str) -> tuple[str, ...]:
    return topology.call_queue(topic), topology.work_queue(topic), topology.dead_queue(topic)


def rows(stats: Iterable[QueueStats], everything: bool) -> list[dict[str, Any]]:
    """JSON of `queues` (INTERFACE part 9), by topic and kind."""
    known = [(name, figures) for figures in stats if (name := read_name(figures.queue)) is not None]
    dead = {name.topic: _there(figures) for name, figures in known if name.kind == "dead"}
    shown = [(name, figures) for name, figures in known if everything or not _is_quiet(name, figures)]
    shown.sort(key=lambda row: (row[0].topic is None, row[0].topic or "", row[1].queue))
    return [_row(name, figures, None if name.topic is None else dead.get(name.topic)) for name, figures in shown]


def _there(figures: QueueStats) -> int | None:
    """Dead letters that somebody looks at are in flight for that moment."""
    return None if figures.ready is None else figures.ready + (figures.in_flight or 0)


def _is_quiet(name: QueueName, figures: QueueStats) -> bool:
    return name.kind in HIDDEN or (name.kind == "lost" and not _there(figures))


def _row(name: QueueName, figures: QueueStats, dead: int | None) -> dict[str, Any]:
    return {
        "topic": name.topic,
        "queue": figures.queue,
        "kind": name.kind,
        "ready": figures.ready,
        "inFlight": figures.in_flight,
        "consumers": figures.consumers,
        "oldestAgeSeconds": _rounded(figures.oldest_age_seconds),
        "inRate": _rounded(figures.in_rate),
        "outRate": _rounded(figures.out_rate),
        "dead": dead,
    }


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)


def merged(listed: Sequence[QueueStats], asked: Sequence[QueueStats]) -> list[QueueStats]:
    """What was listed, and what only the asking by name found."""
    seen = {figures.queue for figures in listed}
    return [*listed, *(figures for figures in asked if figures.queue not in seen)]
