"""Scaling decisions as tables: pure."""

from collections.abc import Iterable
from typing import Any

from meshq.cli.tables import Cell, Table, clean, duration, rate, shown

_UNITS = {
    "arrivalRate": "messages a second that are expected",
    "serviceSeconds": "seconds of work a message",
    "variation": "squared coefficient of variation of that",
    "oldestAgeSeconds": "seconds that the oldest has waited",
    "leadSeconds": "seconds that a replica takes to start",
    "eachRate": "messages a second of one replica",
    "slots": "messages at once of one replica",
    "waiting": "messages in the queues",
    "inFlight": "messages handed out and not settled",
    "spooled": "messages that senders keep on their disks",
    "replicas": "instances that are there",
    "ready": "of them take messages",
    "flow": "replicas that keep up with what comes",
    "drain": "replicas that work off what waits",
    "atWork": "replicas that long work holds",
    "burst": "replicas for a burst like the last ones",
    "failing": "part of the messages that fail",
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
            Cell(duration(row["serviceSeconds"])),
            Cell(duration(row["oldestAgeSeconds"])),
            Cell(f"{'stale: ' if row['stale'] else ''}{clean(row['reason'])}", "red" if row["stale"] else ""),
        )
        for row in body
    ]
    headings = ("TOPIC", "VERSION", "REPLICAS", "DESIRED", "READY", "IN FLIGHT", "IN/S", "TAKES", "OLDEST", "REASON")
    return Table(headings, rows, "no services: none has registered yet", frozenset(range(2, 9)))


def explain(body: list[dict[str, Any]]) -> Table:
    """One term a line."""
    return Table(
        ("TOPIC", "WHAT", "VALUE", "MEANING"), [line for row in body for line in _lines(row)], "", frozenset({2})
    )


def _lines(row: dict[str, Any]) -> Iterable[tuple[Cell, ...]]:
    topic = Cell(row["topic"])
    yield topic, Cell("desired"), Cell(shown(row["desired"]), "bold"), Cell(clean(row["reason"]))
    if row["held"]:
        yield topic, Cell("held"), Cell(row["held"], "yellow"), Cell("the guard that decided")
    if row["stale"]:
        yield topic, Cell("stale"), Cell("yes", "red"), Cell("figures are missing or old: nothing goes")
    for name, value in row["terms"].items():
        yield topic, Cell(name), Cell(_figure(value)), Cell(_UNITS.get(name, ""))
    for name, value in row["policy"].items():
        yield topic, Cell(f"policy.{name}"), Cell(shown(value)), Cell("what is wanted")
    for name in ("countedAt", "reportedAt", "decidedAt"):
        yield topic, Cell(name), Cell(shown(row[name])), Cell("")


def _figure(value: float | None) -> str:
    return shown(None if value is None else f"{value:.4g}")
