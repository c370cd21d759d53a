"""Points in time as people and CloudEvents write them: RFC 3339, as 2026-11-01T00:00:00Z."""

import re
from datetime import UTC, datetime

# RFC 3339 section 5.6, without its leap seconds.
_TIMESTAMP = re.compile(
    r"\d{4}-\d\d-\d\d[Tt](?:[01]\d|2[0-3]):[0-5]\d:[0-5]\d(?:\.\d{1,9})?(?:[Zz]|[+-](?:[01]\d|2[0-3]):[0-5]\d)",
    re.ASCII,
)


def parse_timestamp(text: str) -> datetime:
    """In UTC; digits beyond microseconds are cut off. Raises ValueError."""
    if _TIMESTAMP.fullmatch(text) is not None:
        try:
            return datetime.fromisoformat(text.upper()).astimezone(UTC)
        except (ValueError, OverflowError):  # the 30th of February, the year 0
            pass
    raise ValueError(f"{text[:40]!r} is not a time such as 2026-11-01T00:00:00Z (RFC 3339)")


def show_timestamp(time: datetime) -> str:
    """The shortest form that says the same, to the microsecond. Raises ValueError for a time without a zone."""
    if time.tzinfo is None:
        raise ValueError(f"{time} names no time zone: write it as 2026-11-01T00:00:00Z")
    return time.astimezone(UTC).isoformat().replace("+00:00", "Z")
