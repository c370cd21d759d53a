"""Subscriptions as they are written: as JSON over the API, as YAML in the settings and in mesh.yaml (the same keys), or in the short
form of MESHQ_SUBSCRIBE."""

import json
import re
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import Any, TypeVar
from zlib import crc32

from meshq.core import names
from meshq.core.events import parse_event
from meshq.core.names import BadName
from meshq.core.subscriptions import ANY_NUMBER, Mode, Pattern, Start, Subscription
from meshq.core.times import parse_timestamp, show_timestamp

MAX_NAME = 63
MAX_FILTER = 20
MAX_PATH = 2000

_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", re.ASCII)
_PATH = re.compile(r"/[!\"$-~]*", re.ASCII)  # visible ASCII; a fragment never goes to a server
_HEADER = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,100}", re.ASCII)
_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?", re.ASCII)


_T = TypeVar("_T")


class BadSubscription(ValueError):
    """Everything that is wrong with one subscription: (key, what and what to do)."""

    def __init__(self, faults: list[tuple[str, str]]) -> None:
        super().__init__("; ".join(f"{key}: {message}" if key else message for key, message in faults))
        self.faults = faults


KEYS = ("name", "event", "events", "path", "mode", "filter", "from")


def parse(given: object, name: str | None = None) -> Subscription:
    """One subscription from JSON or YAML. `name` is what its address calls it; else it has a `name` itself, or one made of its
    event's. Raises BadSubscription with every fault."""
    if not isinstance(given, Mapping):
        raise BadSubscription([("", "give a map such as {event: payments.settled@1, path: /on/settled}")])
    faults = [(str(key), "no such key") for key in given if key not in KEYS]

    def read(key: str, parse: Callable[[Any], _T], default: _T) -> _T:
        value = given.get(key)
        if value is None:
            return default
        try:
            return parse(value)
        except ValueError as error:  # BadName is one
            faults.append((key, str(error)))
            return default

    events = read("event", _exact, None) or read("events", parse_pattern, None)
    path = read("path", check_path, "")
    mode = read("mode", parse_mode, Mode.SHARED)
    narrowed = read("filter", parse_filter, _EVERYTHING)
    start = read("from", parse_start, None)
    said = read("name", check_name, name)
    said_wrong = {key for key, _ in faults}
    if name is not None and said != name:
        faults.append(("name", f"it is {said!r} here and {name!r} in the address"))
    if given.get("event") is not None and given.get("events") is not None:
        faults.append(("events", "give event or events, not both"))
    elif events is None and not said_wrong & {"event", "events"}:
        faults.append(("event", "is required"))
    if not path and "path" not in said_wrong:
        faults.append(("path", "is required"))
    if mode is Mode.REPLAY and events is not None and events.wild:
        faults.append(("events", "replay reads the log of one event, so it takes no wildcards"))
    if start is not None and mode is not Mode.REPLAY and "mode" not in said_wrong:
        faults.append(("from", "goes only with mode: replay"))
    if faults or events is None:
        raise BadSubscription(faults)
    return Subscription(said or name_of(events), events, path, mode, narrowed, "first" if start is None else start)


def parse_list(given: object) -> tuple[Subscription, ...]:
    """MESHQ_SUBSCRIBE (the short form, or a JSON list) or a YAML list. Raises ValueError with every fault."""
    entries: Iterable[object]
    if isinstance(given, str):
        entries = _json_list(given) if given.lstrip().startswith("[") else _short_entries(given)
    elif isinstance(given, list | tuple):
        entries = given
    else:
        raise ValueError("give a list, or text such as settled:payments.settled@1=/on/settled")  # noqa: TRY004 - as for wrong values
    found: list[Subscription] = []
    faults: list[str] = []
    for index, entry in enumerate(entries):
        try:
            found.append(_entry(entry))
        except ValueError as error:
            faults.append(f"{entry!r}: {error}" if isinstance(entry, str) else f"entry {index + 1}: {error}")
    faults += twice(found)
    if faults:
        raise ValueError("; ".join(faults))
    return tuple(found)


def twice(found: Iterable[Subscription]) -> list[str]:
    """A sentence for each name that several have."""
    counted: dict[str, int] = {}
    for subscription in found:
        counted[subscription.name] = counted.get(subscription.name, 0) + 1
    return [
        f"{count} subscriptions are called {name!r}: give each a name of its own"
        for name, count in counted.items()
        if count > 1
    ]


def parse_short(text: str) -> Subscription:
    """`name:event@1=/path[:mode]`. Raises BadSubscription."""
    head, equals, rest = text.partition("=")
    name, colon, events = head.partition(":")
    if not colon or not equals:
        raise BadSubscription([("", "is not of the form name:event@1=/path[:mode]")])
    path, colon, mode = rest.rpartition(":")
    if not colon or "/" in mode:
        path, mode = rest, ""
    key = "events" if _is_wild(events) else "event"
    fields = {"name": name.strip(), key: events.strip(), "path": path.strip()}
    return parse(fields | ({"mode": mode.strip()} if mode else {}))


def _entry(entry: object) -> Subscription:
    if isinstance(entry, Subscription):
        return entry
    return parse_short(entry) if isinstance(entry, str) else parse(entry)


def _json_list(text: str) -> list[object]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"begins like a JSON list and is none: {error}") from error
    assert isinstance(found, list)  # what begins with [ is one
    return found


def _short_entries(text: str) -> list[str]:
    return [item.strip() for item in text.split(",") if item.strip()]


# --- one key each -----------------------------------------------------------------------------------------------------------


def check_name(value: object) -> str:
    if not isinstance(value, str) or _NAME.fullmatch(value) is None:
        raise ValueError(
            f"{str(value)[:80]!r} is not a name: up to {MAX_NAME} lower-case letters, digits and hyphens, first and last no hyphen"
        )
    return value


def name_of(events: Pattern) -> str:
    """For a subscription that was given none: the same for the same events."""
    words = {"*": "any", "**": "all", "#": "all"}
    plain = "-".join([*(words.get(label, label) for label in events.text.split(".")), f"v{events.major}"])
    digest = f"-{crc32(plain.encode()):08x}"
    return plain if len(plain) <= MAX_NAME else plain[: MAX_NAME - len(digest)].rstrip("-") + digest


def _exact(value: object) -> Pattern:
    if not isinstance(value, str):
        raise ValueError("give an event such as payments.settled@1")  # noqa: TRY004 - as for wrong values
    if _is_wild(value):
        raise ValueError(f"{value[:130]!r} is a pattern: give it as events")
    return Pattern(*parse_event(value))


def parse_pattern(value: object) -> Pattern:
    """`payments.*`, `payments.#@2`. Raises ValueError."""
    if not isinstance(value, str):
        raise ValueError("give a pattern such as payments.*")  # noqa: TRY004 - as for wrong values
    text, at, major = value.partition("@")
    labels = text.split(".")
    good = all(label == "*" or label in ANY_NUMBER or _LABEL.fullmatch(label) for label in labels)
    if not good or len(text) > names.MAX_EVENT:
        raise BadName(
            f"{text[:130]!r} is not a pattern of events: dotted lower-case labels, * for any one, ** or # for any number of them, "
            f"at most {names.MAX_EVENT} characters"
        )
    return Pattern(text, names.parse_major(major) if at else 1)


def _is_wild(text: str) -> bool:
    return "*" in text or "#" in text


def check_path(value: object) -> str:
    if not isinstance(value, str) or len(value) > MAX_PATH or _PATH.fullmatch(value) is None:
        raise ValueError(f"{str(value)[:80]!r} is not a path such as /on/settled")
    return value


def parse_mode(value: object) -> Mode:
    try:
        return Mode(value)
    except ValueError:
        known = ", ".join(mode.value for mode in Mode)
        raise ValueError(f"there is no mode {str(value)[:40]!r}; there are {known}") from None


_EVERYTHING: tuple[tuple[str, str], ...] = ()


def parse_filter(value: object) -> tuple[tuple[str, str], ...]:
    if not isinstance(value, Mapping) or len(value) > MAX_FILTER:
        raise ValueError(f"give at most {MAX_FILTER} header names with the value that each must have")
    found: dict[str, str] = {}
    for name, wanted in value.items():
        lowered = str(name).lower()
        if _HEADER.fullmatch(lowered) is None:
            raise ValueError(f"{str(name)[:80]!r} is not the name of a header")
        if lowered.startswith("meshq-"):
            raise ValueError(f"{lowered} is not a header of the event, but added at its delivery")
        if lowered in found:
            raise ValueError(f"{lowered} is named twice")
        found[lowered] = _filter_value(lowered, wanted)
    return tuple(found.items())


def _filter_value(name: str, value: object) -> str:
    if isinstance(value, bool):  # as CloudEvents writes one
        return str(value).lower()
    if isinstance(value, int):
        return str(value)
    if not isinstance(value, str) or any(character < " " for character in value):
        raise ValueError(f"{name}: give the value as text")
    return value.strip()


def parse_start(value: object) -> Start:
    """ "first", "next", the number of a message, or a time (YAML reads an unquoted one as such)."""
    if isinstance(value, datetime):
        return show_timestamp(value)
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63:
        return value
    if value in ("first", "next"):
        return str(value)
    if isinstance(value, str):
        try:
            return show_timestamp(parse_timestamp(value))
        except ValueError:
            pass
    raise ValueError(
        f"{str(value)[:40]!r} is not a place in a log: first, next, the number of a message, or a time such as 2026-11-01T00:00:00Z"
    )
