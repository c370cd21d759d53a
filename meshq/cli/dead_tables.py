"""Dead letters as the control API answers them, for people: pure. What came from outside is shown without the control characters
that a terminal would obey."""

import re
from datetime import UTC, datetime
from typing import Any

from meshq.cli.tables import UNKNOWN, Cell, Table, ago, shown
from meshq.core.dead_views import short_id

LONGEST_PATH = 48

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
_CONTROL_IN_TEXT = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def letters(body: list[dict[str, Any]], now: datetime | None = None) -> Table:
    now = now or datetime.now(UTC)
    rows = [
        (
            Cell(short_id(letter["id"])),
            Cell(shown(letter["topic"])),
            Cell(_clean(letter["reason"])),
            Cell(shown(letter["status"])),
            Cell(shown(letter["attempts"])),
            Cell(ago(letter["at"], now).removesuffix(" ago")),
            Cell(_bytes(letter["size"])),
            Cell(_path(letter["path"])),
        )
        for letter in body
    ]
    headings = ("ID", "TOPIC", "REASON", "STATUS", "TRIES", "AGE", "SIZE", "PATH")
    return Table(headings, rows, "no dead letters", frozenset({3, 4, 5, 6}))


def outcomes(body: list[dict[str, Any]]) -> Table:
    """Of `replay` and `drop`."""
    rows = [
        (
            Cell(short_id(letter["id"])),
            Cell(_clean(letter["reason"])),
            Cell(letter["outcome"], "red" if letter["outcome"] == "kept" else ""),
            Cell(shown(letter["queue"])),
            Cell(_clean(letter["detail"])),
        )
        for letter in body
    ]
    return Table(("ID", "REASON", "OUTCOME", "QUEUE", "DETAIL"), rows, "no dead letters")


def letter(body: dict[str, Any], now: datetime | None = None) -> str:
    """One letter, as lines of text: what is known, then the fields, then the body."""
    now = now or datetime.now(UTC)
    said = [(name, value) for name, value in _facts(body, now) if value]
    width = max(len(name) for name, _ in said)
    lines = [f"{name.ljust(width)}  {_clean(value)}" for name, value in said]
    if body.get("headers"):
        lines += ["", *(f"{_clean(name)}: {_clean(value)}" for name, value in body["headers"])]
    if body["body"]:
        lines += ["", _CONTROL_IN_TEXT.sub("?", body["body"]).rstrip("\n")]
    if body["bodyCut"]:
        lines += ["", f"(the beginning of {_bytes(body['size'])}; --all shows all)"]
    return "\n".join(lines)


def _facts(body: dict[str, Any], now: datetime) -> list[tuple[str, str | None]]:
    known = body.get
    died = None if body["at"] is None else f"{body['at']} ({ago(body['at'], now)})"
    reason = body["reason"] if body["status"] is None else f"{body['reason']}, status {body['status']}"
    request = f"{known('method')} {body['path']}" if known("method") else None
    return [
        ("id", body["id"]),
        ("topic", body["topic"]),
        ("reason", reason),
        ("detail", body["detail"]),
        ("answer", " ".join(body["excerpt"].split()) if body["excerpt"] else None),
        ("died", died),
        ("attempts", None if body["attempts"] is None else str(body["attempts"])),
        ("given up by", body["servedBy"]),
        ("queue", body["queue"]),
        ("event" if known("event") else "request", known("event") or request or body["path"]),
        ("sender", body["sender"] or (f"{known('claimedCaller')} (claimed)" if known("claimedCaller") else None)),
        ("accepted", known("acceptedAt")),
        ("deadline", known("deadline")),
        ("key", known("key")),
        ("selector", known("selector")),
        ("replayed", f"{known('replays')} times" if known("replays") else None),
        ("body", f"{_bytes(body['size'])}{', shown in base64' if body['bodyEncoding'] == 'base64' else ''}"),
    ]


def _path(path: str | None) -> str:
    if path is None:
        return UNKNOWN
    clean = _clean(path)
    return clean if len(clean) <= LONGEST_PATH else f"{clean[: LONGEST_PATH - 1]}…"


def _clean(value: str) -> str:
    return _CONTROL.sub("?", value)


def _bytes(size: int) -> str:
    if size < 1024:
        return f"{size} B"
    return f"{size / 1024:.1f} KiB" if size < 2**20 else f"{size / 2**20:.1f} MiB"
