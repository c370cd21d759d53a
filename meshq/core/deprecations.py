"""What callers of a deprecated version are told with its answers: Deprecation (RFC 9745), Sunset (RFC 8594), Link."""

from datetime import UTC, datetime

from meshq.core.http import Headers
from meshq.core.policy import Deprecation

Fields = tuple[tuple[bytes, bytes], ...]


def deprecation_fields(told: Deprecation) -> Fields:
    """`Deprecation: @1688169599`, `Sunset: Sun, 31 Jan 2027 00:00:00 GMT`, `Link: <...>; rel="deprecation"`."""
    from email.utils import format_datetime  # only those who deprecate something pay for it

    fields = [(b"Deprecation", b"@%d" % (told.since_ms // 1000))]
    if told.sunset_ms is not None:
        sunset = datetime.fromtimestamp(told.sunset_ms // 1000, UTC)
        fields.append((b"Sunset", format_datetime(sunset, usegmt=True).encode()))
    if told.link:
        fields.append((b"Link", b'<%b>; rel="deprecation"' % told.link.encode()))
    return tuple(fields)


def tell(headers: Headers, fields: Fields) -> None:
    """Add them to an answer's. What the app itself says of being deprecated stays: it knows of the resource, the policy only of
    the version. There may be many links."""
    said = {name.lower() for name, _ in headers}
    headers += [field for field in fields if field[0] == b"Link" or field[0].lower() not in said]
