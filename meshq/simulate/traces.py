"""What came in and how long it took: a trace, as a value and as a CSV file.

A file begins with lines `# key: value` (KEYS), then `at,service`, then a line for each message: the second at which it came, counted
from the start of the trace, and the seconds that an app worked on it. Lines that begin with `# note:` are for people.
"""

import csv
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from meshq.core import scaling_policy
from meshq.core.scaling_values import ScalingPolicy

COLUMNS = ("at", "service")
MOST = 1_000_000
"""Messages of one trace."""
TAIL = 60.0
"""Seconds that are replayed after the last message where a file does not say how long the trace lasts."""


class BadTrace(ValueError):
    """Says in which file and line, and what is expected there."""


class Span(NamedTuple):
    """Some seconds of a trace, its end not in it."""

    begins: float
    ends: float

    def holds(self, at: float) -> bool:
        return self.begins <= at < self.ends


class Outage(NamedTuple):
    """The broker's statistics are not to be had."""

    span: Span
    missing: bool = False
    """The figures are missing from answers that look good (keda#7180); else asking fails."""


class Slow(NamedTuple):
    """Whatever starts in the span takes `factor` times as long."""

    span: Span
    factor: float


class Failing(NamedTuple):
    """Of what ends in the span this share fails, and is tried again after a delay."""

    span: Span
    share: float


@dataclass(frozen=True, slots=True)
class Trace:
    name: str
    arrivals: tuple[tuple[float, float], ...]
    """When each message came, and the seconds that an app works on it; in order of time."""
    lasts: float
    """Seconds that are replayed. What waits then waits no longer; what has waited too long by then is counted as such."""
    slots: int = 1
    """Messages that one instance works on at once."""
    replicas: int = 0
    """Instances that are ready at the start."""
    policy: ScalingPolicy = field(default_factory=ScalingPolicy)
    startup: float = 12.0
    """Median seconds from the order of a replica to its first message."""
    grace: float = 30.0
    """Seconds that a replica has to end what it has begun."""
    steps: tuple[float, ...] = ()
    """When load rose at once."""
    outages: tuple[Outage, ...] = ()
    slow: tuple[Slow, ...] = ()
    failing: tuple[Failing, ...] = ()

    @property
    def work(self) -> float:
        """Seconds of work in all messages."""
        return math.fsum(service for _, service in self.arrivals)

    @property
    def service(self) -> float:
        """Mean seconds of work in a message, which whoever tunes a scaling rule is taken to know."""
        return self.work / len(self.arrivals) if self.arrivals else 1.0


# --- files --------------------------------------------------------------------------------------------------------------------


def read(file: Path) -> Trace:
    """Raises BadTrace."""
    try:
        with file.open(encoding="utf-8", newline="") as lines:
            return parse(lines, file.stem, str(file))
    except OSError as error:
        raise BadTrace(f"{file} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise BadTrace(f"{file} is not a text file in UTF-8: byte {error.start} is not") from error


def parse(lines: Iterable[str], name: str, source: str) -> Trace:
    """`name` is the trace's where the text gives none; `source` is named in errors. Raises BadTrace."""
    reading = _Reading(name)
    number = 0
    for number, line in enumerate(lines, 1):
        try:
            reading.take(line.strip())
        except ValueError as error:
            raise BadTrace(f"{source}, line {number}: {error}") from error
    try:
        return reading.trace()
    except ValueError as error:
        raise BadTrace(f"{source}, line {number}: {error}") from error


class _Reading:
    def __init__(self, name: str) -> None:
        self._fields: dict[str, Any] = {"name": name}
        self._policy: dict[str, Any] = {}
        self._arrivals: list[tuple[float, float]] = []
        self._headed = False

    def take(self, line: str) -> None:
        if not line:
            return
        if line.startswith("#"):
            self._take_key(line)
        elif not self._headed:
            if tuple(part.strip() for part in line.split(",")) != COLUMNS:
                raise ValueError(f"{line[:40]!r} is not the heading {','.join(COLUMNS)!r}")
            self._headed = True
        else:
            self._take_message(line)

    def _take_key(self, line: str) -> None:
        key, colon, text = (part.strip() for part in line.lstrip("# ").partition(":"))
        if not colon or self._headed:
            raise ValueError(f"{line[:40]!r} is not a line `# key: value` above the heading")
        if key == "note":
            return
        if key in scaling_policy.KEYS:
            self._policy[key] = text
            scaling_policy.read_policy({key: text}, _WIDEST)
        elif key in _MANY:
            field_name, parsed = _MANY[key]
            self._fields[field_name] = (*self._fields.get(field_name, ()), parsed(text))
        elif key in _KEYS:
            self._fields[key] = _KEYS[key](text)
        else:
            raise ValueError(f"{key[:40]!r} is not known here; known are {', '.join(KEYS)}")

    def _take_message(self, line: str) -> None:
        parts = line.split(",")
        if len(parts) != len(COLUMNS):
            raise ValueError(f"{line[:40]!r} has {len(parts)} columns, not {len(COLUMNS)}")
        at, service = seconds(parts[0]), seconds(parts[1])
        if self._arrivals and at < self._arrivals[-1][0]:
            raise ValueError(f"{at:g} comes before {self._arrivals[-1][0]:g} of the line above: sort the lines by time")
        if len(self._arrivals) == MOST:
            raise ValueError(f"there are more than {MOST} messages: cut the trace into several")
        self._arrivals.append((at, service))

    def trace(self) -> Trace:
        if not self._headed:
            raise ValueError(f"the heading {','.join(COLUMNS)!r} is missing")
        last = self._arrivals[-1][0] if self._arrivals else 0.0
        lasts = self._fields.setdefault("lasts", last + TAIL)
        if lasts <= 0 or lasts < last:
            raise ValueError(f"the trace lasts {lasts:g} s, but its last message comes at {last:g}")
        policy = scaling_policy.read_policy(self._policy)
        return Trace(arrivals=tuple(self._arrivals), policy=policy, **self._fields)


def seconds(text: str) -> float:
    """Raises ValueError."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (0 <= value < math.inf):
        raise ValueError(f"{text.strip()[:40]!r} is not a number of seconds from 0 on")
    return value


def count(text: str) -> int:
    """Raises ValueError."""
    if not (text.isascii() and text.isdigit() and len(text) < 7):
        raise ValueError(f"{text[:40]!r} is not a whole number below a million")
    return int(text)


def at_least_one(text: str) -> int:
    """Raises ValueError."""
    if (value := count(text)) < 1:
        raise ValueError(f"{text!r} is below 1")
    return value


def above_zero(text: str) -> float:
    """Raises ValueError."""
    if (value := seconds(text)) == 0:
        raise ValueError(f"{text!r} is not above 0")
    return value


def share(text: str) -> float:
    """Above 0 and below 1. Raises ValueError."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (0 < value < 1):
        raise ValueError(f"{text[:40]!r} is not a number above 0 and below 1")
    return value


def _name(text: str) -> str:
    if not text or not all(each.isalnum() or each in "-_." for each in text) or text.startswith(".") or len(text) > 80:
        raise ValueError(f"{text[:40]!r} is not a name of letters, digits, `-`, `_` and `.`")
    return text


def _span(text: str) -> Span:
    first, dash, second = text.partition("-")
    if not dash:
        raise ValueError(f"{text[:40]!r} is not a span of seconds such as 600-660")
    span = Span(seconds(first), seconds(second))
    if span.begins >= span.ends:
        raise ValueError(f"{text[:40]!r} ends before it begins")
    return span


def _outage(text: str) -> Outage:
    span, _, kind = text.partition(" ")
    if kind not in ("", "missing"):
        raise ValueError(f"{kind[:40]!r} is not `missing`, which is all that may follow an outage's span")
    return Outage(_span(span), missing=bool(kind))


def _slow(text: str) -> Slow:
    span, _, factor = text.partition(" ")
    return Slow(_span(span), above_zero(factor))


def _failing(text: str) -> Failing:
    span, _, part = text.partition(" ")
    return Failing(_span(span), share(part))


_KEYS: dict[str, Callable[[str], Any]] = {
    "name": _name,
    "lasts": above_zero,
    "slots": at_least_one,
    "replicas": count,
    "startup": above_zero,
    "grace": seconds,
}
_MANY: dict[str, tuple[str, Callable[[str], Any]]] = {
    "step": ("steps", seconds),
    "outage": ("outages", _outage),
    "slow": ("slow", _slow),
    "failing": ("failing", _failing),
}
KEYS = (*_KEYS, *scaling_policy.KEYS, *_MANY, "note")
"""Those of `_MANY` and `note` may stand several times; those of the policy as in `scale:` of a route policy, `10s`."""
_WIDEST = ScalingPolicy(max=scaling_policy.MOST_REPLICAS)
"""For one line of a policy, whose bounds are looked at when all are there."""


def write(trace: Trace, file: Path) -> None:
    """Raises OSError."""
    with file.open("w", encoding="utf-8", newline="") as lines:
        lines.writelines(f"# {key}: {text}\n" for key, text in _header(trace))
        writer = csv.writer(lines, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows((f"{at:.4f}", f"{service:.5f}") for at, service in trace.arrivals)


def _header(trace: Trace) -> Iterator[tuple[str, str]]:
    yield "name", trace.name
    yield from ((key, f"{getattr(trace, key):g}") for key in _KEYS if key != "name")
    yield from ((key, str(value)) for key, value in scaling_policy.policy_as_json(trace.policy).items())
    yield from (("step", f"{at:g}") for at in trace.steps)
    yield from (("outage", _shown(span) + (" missing" if missing else "")) for span, missing in trace.outages)
    yield from (("slow", f"{_shown(span)} {factor:g}") for span, factor in trace.slow)
    yield from (("failing", f"{_shown(span)} {part:g}") for span, part in trace.failing)


def _shown(span: Span) -> str:
    return f"{span.begins:g}-{span.ends:g}"
