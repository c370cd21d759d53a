"""Dead letters as people and scripts see them: the JSON of `meshq dead`, and which of them are asked for. camelCase keys; what is
not known is None, never 0 or an empty text."""

import base64
import re
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any, NamedTuple

from meshq.core.dead import LOST_TOPIC, Letter
from meshq.core.durations import parse_duration_ms
from meshq.core.http import header
from meshq.core.message import Fault, Message, Request, Response
from meshq.core.queue_names import delayed_event_topic
from meshq.core.views import timestamp

MOST_SHOWN = 64 * 1024
"""Bytes of a body that are shown, unless somebody wants all."""

LAST_MS = int(datetime(9999, 12, 31, tzinfo=UTC).timestamp() * 1000)
SHORT_ID = 12
_MADE_BY_US = re.compile(r"[0-9a-f]{32}")

_NOT_TEXT = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
"""Control characters but tab and line ends: a terminal would obey them."""


class Wanted(NamedTuple):
    """Which dead letters; each part narrows. The default is all."""

    ids: frozenset[str] = frozenset()
    """Whole, or the beginnings of ids made by meshq, from `short_id` on."""
    reason: str = ""
    since_ms: int | None = None
    limit: int | None = None
    """The oldest so many of them."""

    @property
    def everything(self) -> bool:
        return not self.ids and not self.reason and self.since_ms is None

    def missing(self, found: Iterable[str]) -> list[str]:
        """Which of `ids` are none of these."""
        return sorted(self.ids.difference(*map(_names, found)))

    def ambiguous(self, found: Iterable[str]) -> list[str]:
        """Which of `ids` stand for several of these."""
        meant: dict[str, set[str]] = {}
        for ident in found:
            for name in self.ids.intersection(_names(ident)):
                meant.setdefault(name, set()).add(ident)
        return sorted(name for name, idents in meant.items() if len(idents) > 1)

    def takes(self, letter: Letter) -> bool:
        """One whose time is not known is in no "since"."""
        if self.ids and self.ids.isdisjoint(_names(letter.id)):
            return False
        if self.reason and letter.reason != self.reason:
            return False
        return self.since_ms is None or (letter.at_ms is not None and letter.at_ms >= self.since_ms)


def short_id(ident: str) -> str:
    """What people may call it: of an id made by meshq, 32 hexadecimal digits, the first 12."""
    return ident[:SHORT_ID] if _MADE_BY_US.fullmatch(ident) else ident


def _names(ident: str) -> list[str]:
    """What a letter may be called."""
    return [ident[:size] for size in range(SHORT_ID, len(ident) + 1)] if _MADE_BY_US.fullmatch(ident) else [ident]


def of_topic(letter: Letter, topic: str | None) -> bool:
    """Whether it is one of this topic's; None stands for every topic, LOST_TOPIC for none in particular."""
    return topic is None or topic == LOST_TOPIC or letter.topic == topic


def parse_since(text: str, now_ms: int) -> int:
    """`2h` (that long ago) or a time as `2026-11-01T10:00:00Z` (UTC where it names no zone) -> Unix milliseconds. Raises
    ValueError."""
    try:
        return now_ms - parse_duration_ms(text)
    except ValueError:
        pass
    try:
        time = datetime.fromisoformat(text.strip())
        return int((time if time.tzinfo is not None else time.replace(tzinfo=UTC)).timestamp() * 1000)
    except (ValueError, OverflowError):
        raise ValueError(
            f"{text[:40]!r} is neither how long ago (30m, 2h, 1d) nor a time such as 2026-11-01T10:00:00Z"
        ) from None


def row(letter: Letter) -> dict[str, Any]:
    """JSON of `dead list` (INTERFACE part 9). `path` is the path at the app with its query, or the topic of an event."""
    return {
        "id": letter.id,
        "topic": letter.topic,
        "at": when(letter.at_ms),
        "reason": letter.reason,
        "status": letter.status,
        "attempts": letter.attempts,
        "instance": letter.instance,
        "path": _path(letter),
        "size": _size(letter),
    }


def full(letter: Letter, whole: bool) -> dict[str, Any]:
    """JSON of `dead show`. Of the body at most MOST_SHOWN bytes, unless `whole`; `bodyEncoding` is `text` or `base64`."""
    request = letter.request
    said = {} if request is None else _of_request(request)
    return {
        **row(letter),
        "detail": letter.detail,
        "excerpt": _text_or_none(letter.excerpt),
        "queue": letter.queue or None,
        "liesIn": letter.lies_in,
        "servedBy": letter.served_by or None,
        "sender": letter.sender or None,
        **said,
        **_body(_payload(letter), whole),
    }


def _of_request(request: Request) -> dict[str, Any]:
    return {
        "method": request.method,
        "event": request.event or None,
        "key": request.key or None,
        "claimedCaller": request.caller or None,
        "selector": request.selector or None,
        "acceptedAt": when(request.accepted_ms),
        "deadline": when(request.deadline_ms),
        "replays": request.replays,
        "idempotencyKey": _text_or_none(header(request.headers, b"idempotency-key") or b""),
        "headers": [[name.decode("latin-1"), value.decode("latin-1")] for name, value in request.headers],
    }


def when(unix_ms: int | None) -> str | None:
    """None also for a time that no calendar has: these figures are their sender's."""
    return timestamp(unix_ms) if unix_ms is not None and unix_ms < LAST_MS else None


def _path(letter: Letter) -> str | None:
    request = letter.request
    if request is None:
        return delayed_event_topic(letter.queue)
    # Where a subscription leads to is known to its sidecar only.
    path = request.target if request.target != b"/" or not request.event else request.event.encode()
    return path.decode("latin-1")


def _payload(letter: Letter) -> bytes:
    """What the sender wrote, without what the mesh put around it, where that can be told apart."""
    return _content(letter.records[0]) if len(letter.records) == 1 else letter.body


def _size(letter: Letter) -> int:
    return len(_payload(letter))


def _content(record: Message) -> bytes:
    match record:
        case Request():
            return record.body or b""
        case Response():
            return record.body
        case Fault():
            return record.detail.encode()
        case _:
            return record.body


def _body(content: bytes, whole: bool) -> dict[str, Any]:
    shown = content if whole else content[:MOST_SHOWN]
    cut = len(shown) < len(content)
    text = _text(shown, cut)
    return {
        "body": base64.b64encode(shown).decode() if text is None else text,
        "bodyEncoding": "base64" if text is None else "text",
        "bodyCut": cut,
    }


def _text(data: bytes, cut: bool) -> str | None:
    """None for what is no text. `cut`: it may end in the middle of a character."""
    for end in range(len(data), len(data) - (4 if cut else 1), -1):
        try:
            text = data[: max(end, 0)].decode()
        except UnicodeDecodeError:
            continue
        return None if _NOT_TEXT.search(text) else text
    return None


def _text_or_none(data: bytes) -> str | None:
    """For people: what cannot be read is replaced."""
    return data.decode("utf-8", "replace") if data else None
