"""Scaling decisions as tables: pure."""

from collections.abc import Iterable
from typing import Any

from meshq.cli.tables import Cell, Table, clean, duration, rate, shown

_TERMS = {
    "arrivalRate": "messages a second that are expected",
    "serviceSeconds": "seconds of work a message",
    "variation": "squared coefficient of variation of that",
    "oldestAgeSeconds": "seconds that the oldest has waited",
    "leadSeconds": "seconds that a replica takes to start",
    "eachRate": "messages a second that one replica can do",
    "slots": "messages at once of one replica",
    "waiting": "messages in the queues",
    "inFlight": "messages handed out and not settled",
    "spooled": "messages that senders keep on their disks",
    "replicas": "instances that are there",
    "ready": "of them take messages",
    "flow": "replicas that keep up with what comes",
    "drain": "replicas that work off what waits",
    "atWork": "replicas that long work holds",
    "failing": "part of the messages that fail",
}
_POLICY = {
    "wait": "that a message may wait...",
    "quantile": "...for this part of all messages",
    "min": "fewest replicas",
    "max": "most replicas",
    "lead": "that a replica takes to start, instead of what was measured",
    "idle": "without any work before the last replica goes",
    "stabilization": "for which a need is remembered before fewer replicas will do",
}
_DATES = {
    "countedAt": "when the broker counted",
    "reportedAt": "when the instances reported, the first of them",
    "decidedAt": "when this was decided",
}


def status(body: list[dict[str, Any]]) -> Table:
    rows = [
        (
            Cell(row["topic"]),
            Cell(row["version"]),
            Cell(shown(row["replicas"])),
            Cell(shown(row["desired"]), "yellow" if row["desired"] != row["replicas"] else ""),
            Cell(shown(row["ready"])),
            Cell(shown(row["inFlight"])),
            Cell(rate(row["arrivalRate"])),
            Cell(_takes(row["serviceSeconds"])),
            Cell(duration(row["oldestAgeSeconds"])),
            Cell(f"{'stale: ' if row['stale'] else ''}{clean(row['reason'])}", "red" if row["stale"] else ""),
        )
        for row in body
    ]
    headings = ("TOPIC", "VERSION", "REPLICAS", "DESIRED", "WAITING", "IN FLIGHT", "IN/S", "TAKES", "OLDEST", "REASON")
    return Table(headings, rows, "no services: none has registered yet", frozenset(range(2, 9)))


def explain(body: list[dict[str, Any]]) -> Table:
    """One term a line, of each topic one after the other."""
    return Table(("WHAT", "VALUE", "MEANING"), [line for row in body for line in _lines(row)], "", frozenset({1}))


def _lines(row: dict[str, Any]) -> Iterable[tuple[Cell, ...]]:
    yield Cell("topic"), Cell(row["topic"], "bold"), Cell(f"version {row['version']}")
    yield Cell("desired"), Cell(shown(row["desired"]), "bold"), Cell(clean(row["reason"]))
    if row["held"]:
        yield Cell("held"), Cell(row["held"], "yellow"), Cell("the guard that decided")
    if row["stale"]:
        yield Cell("stale"), Cell("yes", "red"), Cell("figures are missing or old: nothing goes")
    for name, value in row["terms"].items():
        yield Cell(name), Cell(_figure(value)), Cell(_TERMS.get(name, ""))
    for name, value in row["policy"].items():
        yield Cell(f"policy.{name}"), Cell(shown(value)), Cell(_POLICY.get(name, ""))
    for name, meaning in _DATES.items():
        yield Cell(name), Cell(shown(row[name])), Cell(meaning)


def _figure(value: float | None) -> str:
    """Four digits, or as many as a whole number has."""
    return shown(None if value is None else f"{value:.0f}" if abs(value) >= 1000 else f"{value:.4g}")


def _takes(seconds: float | None) -> str:
    """As `duration`, and below a second in milliseconds: 0.4ms, 50ms, 1.3s."""
    return duration(seconds) if seconds is None or seconds >= 1 else f"{seconds * 1000:.3g}ms"
