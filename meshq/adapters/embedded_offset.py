"""Where a reader of a log begins."""

from datetime import UTC, datetime
from typing import Literal, NamedTuple


class Since(NamedTuple):
    """The first record written at this time or after it."""

    at_ms: int


Offset = int | Since | Literal["first", "next"]
"""A number: that record, or where it is gone the first after it. "next": what is yet to come."""


def read_offset(given: int | str | None) -> Offset:
    """As `Broker.subscribe` takes it. Raises ValueError."""
    if given is None or given == "next":
        return "next"
    if given == "first":
        return "first"
    if isinstance(given, int):
        if given >= 0:
            return given
    else:
        try:
            moment = datetime.fromisoformat(given)
        except ValueError:
            pass
        else:
            moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
            return Since(round(moment.timestamp() * 1000))
    raise ValueError(
        f"offset {given!r} is neither the number of a message nor first, next or a time such as 2026-11-01T00:00:00Z"
    )
