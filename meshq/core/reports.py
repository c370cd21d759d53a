"""What a sidecar tells whoever scales services with each renewal of its registration, and how that is written.

    msgpack map
      w   map   topic of its service -> [busy, busy squares, handled, failed]
      c   map   topic that its app calls -> [sent, answered, expired, open, oldest open]
      s   map   topic -> messages in its spool
      n   uint  slots

A reader ignores keys that it does not know and what follows in an array; a missing key means that there is nothing of it. Counters
begin at 0 with the process.
"""

import heapq
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import isfinite
from types import MappingProxyType
from typing import Any, NamedTuple, TypeVar

import msgpack

MAX_TOPICS = 200
"""Of each map: the busiest, so that a renewal stays small."""

T = TypeVar("T")


class Work(NamedTuple):
    """What its app made of the messages of one topic: waited and durable ones, and those of the subscriptions that belong to it."""

    busy: float = 0.0
    """Seconds, all messages together, from when the app was asked to its answer. A counter, as what follows is."""
    busy_squares: float = 0.0
    """The sum of the squares of those times, s^2."""
    handled: int = 0
    """Messages behind `busy`. What the app did not take is not among them."""
    failed: int = 0
    """Of those: what is tried again, is dead, or could not be answered."""


class Calls(NamedTuple):
    """What became of the waited calls to one topic. Those with an ordering key are not among them: they go to other queues."""

    sent: int = 0
    """A counter, as the two that follow are; it is what they and `open` come to."""
    answered: int = 0
    """By whom they were sent to, or by the mesh, which refused them; or their callers hung up."""
    expired: int = 0
    """Their time was over before."""
    open: int = 0
    """That wait now."""
    oldest_open: float = 0.0
    """Seconds that the one of them has waited that waits longest; 0 where there is none."""


@dataclass(frozen=True, slots=True)
class Report:
    """Of one sidecar. By topic; see `bounded`."""

    work: Mapping[str, Work] = field(default_factory=lambda: MappingProxyType({}))
    calls: Mapping[str, Calls] = field(default_factory=lambda: MappingProxyType({}))
    spooled: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))
    """Durable calls that are still on its disk; without those that are to be delayed."""
    slots: int = 0
    """Messages that its app works on at once; 0 where it takes none."""


class Reported(NamedTuple):
    """The last report of one instance."""

    service: str
    instance: str
    at_ms: int
    """When it came, Unix milliseconds of the registry's clock."""
    report: Report


def bounded(work: Mapping[str, Work], calls: Mapping[str, Calls], spooled: Mapping[str, int], slots: int) -> Report:
    """With the MAX_TOPICS busiest topics of each."""
    return Report(
        _busiest(work, lambda of: of.handled),
        _busiest(calls, lambda of: of.sent),
        _busiest(spooled, lambda of: of),
        slots,
    )


def _busiest(found: Mapping[str, T], size: Callable[[T], int]) -> Mapping[str, T]:
    if len(found) <= MAX_TOPICS:
        return MappingProxyType(dict(found))
    return MappingProxyType(dict(heapq.nlargest(MAX_TOPICS, found.items(), key=lambda each: size(each[1]))))


# --- as bytes ---------------------------------------------------------------------------------------------------------------


def encode_report(report: Report) -> bytes:
    content = {"w": dict(report.work), "c": dict(report.calls), "s": dict(report.spooled), "n": report.slots}
    packed: bytes = msgpack.packb(content)
    return packed


def decode_report(packed: bytes) -> Report:
    """Raises ValueError for what is no report. Topics beyond MAX_TOPICS are left out."""
    try:
        content = msgpack.unpackb(packed)
    except (ValueError, msgpack.UnpackException, RecursionError) as error:
        raise ValueError("it is not msgpack") from error
    if not isinstance(content, dict):
        raise ValueError("it is not a map")  # noqa: TRY004 - what cannot be read is one kind of fault
    return Report(
        _by_topic(content, "w", _work),
        _by_topic(content, "c", _calls),
        _by_topic(content, "s", _count),
        _count(content.get("n", 0)),
    )


def _by_topic(content: dict[Any, Any], key: str, read: Callable[[Any], T]) -> Mapping[str, T]:
    found = content.get(key, {})
    if not isinstance(found, dict) or not all(isinstance(topic, str) for topic in found):
        raise ValueError(f"{key} is not a map by topic")
    return MappingProxyType({topic: read(found[topic]) for topic in list(found)[:MAX_TOPICS]})


def _work(row: Any) -> Work:
    busy, squares, handled, failed = _row(row, 4)
    return Work(_seconds(busy), _seconds(squares), _count(handled), _count(failed))


def _calls(row: Any) -> Calls:
    sent, answered, expired, waiting, oldest = _row(row, 5)
    return Calls(_count(sent), _count(answered), _count(expired), _count(waiting), _seconds(oldest))


def _row(row: Any, length: int) -> list[Any]:
    if not isinstance(row, list) or len(row) < length:
        raise ValueError(f"it is not an array of {length}")
    return row[:length]


def _count(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise ValueError(f"{value!r} is not a count")
    return value


def _seconds(value: Any) -> float:
    if type(value) not in (int, float) or not isfinite(value) or value < 0:
        raise ValueError(f"{value!r} is no number of seconds")
    return float(value)
