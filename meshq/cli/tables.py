"""What the control API answers, as tables: pure. A cell is its text and, where a colour tells something, a style of rich's."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

UNKNOWN = "-"
_STATE_STYLES = {
    "ready": "green",
    "starting": "yellow",
    "paused": "yellow",
    "draining": "yellow",
    "suspect": "yellow",
    "unhealthy": "red",
    "down": "red",
}


class Cell(NamedTuple):
    text: str
    style: str = ""


class Table(NamedTuple):
    headings: tuple[str, ...]
    rows: Sequence[tuple[Cell, ...]]
    empty: str
    """What is said when there are no rows."""
    right: frozenset[int] = frozenset()
    """Columns of figures."""


def services(body: list[dict[str, Any]]) -> Table:
    rows = [
        (
            Cell(service["name"]),
            Cell(version["version"]),
            _cell(version["topic"]),
            _cell(version["instances"]),
            Cell(str(version["ready"]), "red" if version["instances"] and not version["ready"] else ""),
            _states(version["states"]),
        )
        for service in body
        for version in service["versions"]
    ]
    headings = ("SERVICE", "VERSION", "TOPIC", "INSTANCES", "READY", "STATES")
    return Table(headings, rows, "no services: none has registered yet", frozenset({3, 4}))


def instances(body: list[dict[str, Any]], now: datetime | None = None) -> Table:
    now = now or datetime.now(UTC)
    rows = [
        (
            Cell(instance["service"]),
            Cell(instance["version"]),
            Cell(instance["id"]),
            Cell(instance["state"], _STATE_STYLES.get(instance["state"], "")),
            Cell(ago(instance["lastSeen"], now)),
            Cell(f"{instance['inFlight']}/{instance['capacity']}" if instance["capacity"] else UNKNOWN),
            _cell(instance["address"] or None),
            Cell(_paused(instance.get("pause"), now)),
        )
        for instance in body
    ]
    headings = ("SERVICE", "VERSION", "INSTANCE", "STATE", "LAST SEEN", "IN FLIGHT", "ADDRESS", "NOTE")
    columns = len(headings) if any(row[-1].text for row in rows) else len(headings) - 1
    return Table(headings[:columns], [row[:columns] for row in rows], "no instances", frozenset({4, 5}))


def policies(body: list[dict[str, Any]]) -> Table:
    rows = [
        (
            Cell(policy["service"]),
            Cell(", ".join(f"v{major} {weight}" for major, weight in policy.get("weights", {}).items()) or UNKNOWN),
            Cell(", ".join(_short(name, value) for name, value in policy.items() if name not in _OF_POLICY)),
        )
        for policy in body
    ]
    return Table(("SERVICE", "WEIGHTS", "ELSE"), rows, "no route policies: calls that name no version go to the latest")


def reasons(body: dict[str, Any]) -> Table:
    """Of `retire`."""
    rows = [
        (Cell(reason["kind"]), Cell(clean(reason["detail"])), Cell("--force" if reason["forcible"] else ""))
        for reason in body["reasons"]
    ]
    return Table(("USED BY", "HOW", "PASSED OVER WITH"), rows, "nothing uses it")


def queues(body: list[dict[str, Any]]) -> Table:
    rows = [
        (
            _cell(queue["topic"]),
            Cell(queue["queue"]),
            Cell(queue["kind"]),
            _cell(queue["ready"]),
            _cell(queue["inFlight"]),
            Cell(shown(queue["consumers"]), "red" if _abandoned(queue) else ""),
            Cell(duration(queue["oldestAgeSeconds"])),
            Cell(rate(queue["inRate"])),
            Cell(rate(queue["outRate"])),
            Cell(shown(queue["dead"]), "red" if queue["dead"] else ""),
        )
        for queue in body
    ]
    headings = ("TOPIC", "QUEUE", "KIND", "READY", "IN FLIGHT", "CONSUMERS", "OLDEST", "IN/S", "OUT/S", "DEAD")
    return Table(headings, rows, "no queues: no service has declared one yet", frozenset(range(3, 10)))


def accepted(body: dict[str, Any]) -> Table:
    """Of `call --async`."""
    return Table(("ID", "STATUS", "TOPIC"), [tuple(Cell(shown(body[key])) for key in ("id", "status", "topic"))], "")


def published(body: dict[str, Any] | list[dict[str, Any]]) -> Table:
    """One event, or the events of a batch."""
    rows = [
        (
            Cell(shown(event["id"])),
            Cell(event["status"], "red" if event["status"] == "refused" else ""),
            Cell(shown(event["topic"])),
            Cell("nobody subscribes to it" if event.get("subscribers") == 0 else event.get("detail", "")),
        )
        for event in (body if isinstance(body, list) else [body])
    ]
    return Table(("ID", "STATUS", "TOPIC", "DETAIL"), rows, "no events: the batch is empty")


_OF_POLICY = ("service", "weights")


def _short(name: str, value: Any) -> str:
    """One key of a policy in a cell."""
    if isinstance(value, dict):
        return f"{name} {'/'.join(shown(part) for part in value)}"
    return f"{name} {'/'.join(map(shown, value)) if isinstance(value, list) else value}"


def paused_for(pause: dict[str, Any], now: datetime | None = None) -> str:
    """`for 4m10s`, `until it is resumed`"""
    if pause["until"] is None:
        return "until it is resumed" if pause["by"] == "operator" else "until it resumes"
    left = (datetime.fromisoformat(pause["until"]) - (now or datetime.now(UTC))).total_seconds()
    return f"for {duration(max(0.0, left))}"


def _paused(pause: dict[str, Any] | None, now: datetime) -> str:
    if pause is None:
        return ""
    whose = "by an operator" if pause["by"] == "operator" else "by itself"
    reason = f": {clean(pause['reason'])}" if pause["reason"] else ""
    return f"paused {whose} {paused_for(pause, now)}{reason}"


def clean(text: str) -> str:
    """Without what a terminal would obey."""
    return "".join(character if character.isprintable() else "?" for character in text)


def _abandoned(queue: dict[str, Any]) -> bool:
    """Something waits, and nobody takes it; what is dead waits for people."""
    return queue["consumers"] == 0 and bool(queue["ready"]) and queue["kind"] not in ("dead", "lost", "delay")


def _states(states: dict[str, int]) -> Cell:
    text = ", ".join(f"{count} {state}" for state, count in states.items()) or UNKNOWN
    style = next(iter({_STATE_STYLES.get(state, "") for state in states}), "") if len(states) == 1 else ""
    return Cell(text, style)


def _cell(value: Any) -> Cell:
    return Cell(shown(value))


def shown(value: Any) -> str:
    return UNKNOWN if value is None else str(value)


def rate(value: float | None) -> str:
    return UNKNOWN if value is None else f"{value:.1f}"


def ago(stamp: str | None, now: datetime) -> str:
    if stamp is None:
        return UNKNOWN
    return f"{duration(max(0.0, (now - datetime.fromisoformat(stamp)).total_seconds()))} ago"


def duration(seconds: float | None) -> str:
    """Two figures at most: 1.3s, 42s, 5m10s, 3h05m."""
    if seconds is None:
        return UNKNOWN
    if seconds < 10:
        return f"{seconds:.1f}s"
    if seconds < 60:
        return f"{seconds:.0f}s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes}m{rest:02}s"
    return f"{minutes // 60}h{minutes % 60:02}m"
