"""What stands in a route policy, key by key: each reader takes a value of YAML or JSON and returns ours, or raises ValueError with
what is wrong and what to do. `policy_parsing` puts them together."""

import re
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, date, datetime, timedelta
from typing import Any, TypeVar

from meshq.core import names
from meshq.core.durations import parse_duration_ms
from meshq.core.fields import MAX_DELAY, MAX_TIMEOUT_MS
from meshq.core.headers import HOP_BY_HOP
from meshq.core.policy import Deprecation, Mirror, Retry, WhenAbsent
from meshq.core.times import parse_timestamp, show_timestamp

MAX_MAJORS = 100
"""In one list or map of a policy."""
MAX_WEIGHT = 1_000_000
MAX_BACKLOG = 2**31 - 1
MAX_ALLOWED = 1000
MAX_LINK = 2000
MAX_DELAYS = 98
"""One before each attempt but the first."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)
_DATE = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)
_HEADER = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,100}", re.ASCII)
_LINK = re.compile(
    r"https?://[!#-;=?-~]+", re.ASCII | re.IGNORECASE
)  # visible ASCII without " < >: it stands in a Link field

_T = TypeVar("_T")


class BadPolicy(ValueError):
    """Everything that is wrong with one policy: (key, what and what to do)."""

    def __init__(self, faults: list[tuple[str, str]]) -> None:
        super().__init__("; ".join(f"{key}: {message}" if key else message for key, message in faults))
        self.faults = faults


class Reading:
    """One map, key by key; what is wrong is gathered."""

    def __init__(self, given: object, keys: tuple[str, ...], example: str) -> None:
        if not isinstance(given, Mapping):
            raise BadPolicy([("", f"give a map such as {example}")])
        self._given = given
        self.faults = [(_shown(key), _no_such_key(key, keys)) for key in given if key not in keys]

    def take(self, key: str, read: Callable[[Any], _T], default: _T) -> _T:
        value = self._given.get(key)
        if value is None:
            return default
        try:
            return read(value)
        except BadPolicy as error:
            self.faults += [(f"{key}.{inner}" if inner else key, message) for inner, message in error.faults]
        except ValueError as error:
            self.faults.append((key, str(error)))
        return default

    def take_all(self, read: Callable[[], _T], default: _T) -> _T:
        """What stands on this level itself, read elsewhere."""
        try:
            return read()
        except BadPolicy as error:
            self.faults += error.faults
        return default

    def well(self, key: str) -> bool:
        return all(fault.partition(".")[0] != key for fault, _ in self.faults)

    def end(self) -> None:
        """Raises BadPolicy."""
        if self.faults:
            raise BadPolicy(self.faults)


def parse_retry(value: object) -> Retry:
    """`5:1s,5s,30s,2m` or {attempts: 5, delays: [1s, 5s, 30s, 2m]}. Raises ValueError."""
    if isinstance(value, Retry):
        return value
    if isinstance(value, Mapping):
        attempts, listed = str(value.get("attempts", 5)), value.get("delays", ("1s", "5s", "30s", "2m"))
        if not value.keys() <= {"attempts", "delays"} or not isinstance(listed, list | tuple):
            raise ValueError("give {attempts: 5, delays: [1s, 5s, 30s, 2m]}")
        delays = [str(delay) for delay in listed]
    else:
        attempts, _, rest = str(value).partition(":")
        delays = [delay for delay in rest.split(",") if delay]
    if not re.fullmatch(r"[1-9][0-9]?", attempts, re.ASCII):
        raise ValueError(f"{attempts[:40]!r} is not a number of attempts from 1 to 99, as in 5:1s,5s,30s,2m")
    if len(delays) > MAX_DELAYS:
        raise ValueError(f"{len(delays)} delays are more than the {MAX_DELAYS} that there can be")
    return Retry(int(attempts), tuple(_delay(delay) for delay in delays) or Retry().delays)


def _delay(text: str) -> float:
    milliseconds = parse_duration_ms(text)
    if milliseconds > MAX_DELAY * 1000:
        raise ValueError(f"{text[:40]!r} is longer than 12 days")
    return milliseconds / 1000


def check_same_service(value: object, service: str) -> None:
    if value != service:
        raise ValueError(f"it is {str(value)[:80]!r} here, and the policy is for {service!r}")


def _major(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise ValueError(f'{_shown(value)!r} is not a major version such as "2"')  # noqa: TRY004 - as for wrong values
    return names.parse_major(str(value))


def _majors(given: Iterable[object]) -> list[int]:
    listed = list(given)
    if len(listed) > MAX_MAJORS:
        raise ValueError(f"{len(listed)} versions are more than {MAX_MAJORS}")
    majors = [_major(each) for each in listed]
    twice = sorted({major for major in majors if majors.count(major) > 1})
    if twice:
        raise ValueError(f"{twice[0]} is named twice")
    return majors


def read_weights(value: object) -> dict[int, int]:
    if not isinstance(value, Mapping):
        raise ValueError('give each version its share, as in {"1": 90, "2": 10}')  # noqa: TRY004
    majors, faults, found = _majors(value), [], {}
    for major, weight in zip(majors, value.values(), strict=True):
        try:
            found[major] = _number(weight, MAX_WEIGHT)
        except ValueError as error:
            faults.append((str(major), str(error)))
    if faults:
        raise BadPolicy(faults)
    if found and not any(found.values()):
        raise ValueError("they add up to 0, so calls that name no version would go nowhere: give one a share")
    return dict(sorted(found.items()))


def read_backlog_limit(value: object) -> int:
    return _number(value, MAX_BACKLOG)


def _number(value: object, most: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= most:
        raise ValueError(f"{_shown(value)!r} is not a whole number from 0 to {most}")
    return value


def read_sticky(value: object) -> str:
    kind, colon, name = value.partition(":") if isinstance(value, str) else ("", "", "")
    lowered = name.strip().lower()
    if kind.strip() != "header" or not colon:
        raise ValueError(f"{_shown(value)!r} is not of the form header:X-User")
    if _HEADER.fullmatch(lowered) is None:
        raise ValueError(f"{name.strip()[:80]!r} is not the name of a header")
    if lowered == "meshq-key":
        raise ValueError("calls with a Meshq-Key stick by it anyway; name a header of the app's")
    if lowered.startswith("meshq-") or lowered.encode() in HOP_BY_HOP:
        raise ValueError(f"{lowered} does not cross the mesh; name a header of the app's, such as X-User")
    return lowered


def read_mirror(value: object) -> Mirror:
    reading = Reading(value, ("to", "percent"), '{to: "3", percent: 5}')
    to = reading.take("to", _major, None)
    percent = reading.take("percent", _percent, None)
    assert isinstance(value, Mapping)
    for key in ("to", "percent"):
        if value.get(key) is None:
            reading.faults.append((key, "is required"))
    reading.end()
    assert to is not None
    assert percent is not None
    return Mirror(to, percent)


def _percent(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 100:
        raise ValueError(f"{_shown(value)!r} is not a percentage from 0 to 100")
    return float(value)


def read_fallback(value: object) -> tuple[int, ...]:
    if not isinstance(value, list | tuple):
        raise ValueError('give a list of versions such as ["1"], the first choice first')  # noqa: TRY004
    return tuple(_majors(value))


def read_when_absent(value: object) -> WhenAbsent:
    try:
        return WhenAbsent(value)
    except ValueError:
        known = ", ".join(each.value for each in WhenAbsent)
        raise ValueError(f"{_shown(value)!r} is none of {known}") from None


def read_deprecated(value: object, since: Mapping[int, int], now_ms: int) -> dict[int, Deprecation]:
    if not isinstance(value, Mapping):
        raise ValueError('give versions, as in {"1": {sunset: 2027-01-31, link: https://example.com/migrate}}')  # noqa: TRY004
    majors, faults, found = _majors(value), [], {}
    for major, told in zip(majors, value.values(), strict=True):
        try:
            found[major] = _deprecation(told, since.get(major, now_ms))
        except BadPolicy as error:
            faults += [(f"{major}.{key}" if key else str(major), message) for key, message in error.faults]
    if faults:
        raise BadPolicy(faults)
    return dict(sorted(found.items()))


def _deprecation(value: object, since_ms: int) -> Deprecation:
    reading = Reading({} if value is None else value, ("since", "sunset", "link"), "{sunset: 2027-01-31}")
    said = reading.take("since", _moment_ms, None)
    sunset = reading.take("sunset", _moment_ms, None)
    link = reading.take("link", _link, "")
    if said is not None and sunset is not None and sunset < said:
        reading.faults.append(("sunset", "comes before since: a version ends after it was deprecated (RFC 9745)"))
    reading.end()
    if said is None:
        said = since_ms if sunset is None else min(since_ms, sunset)
    return Deprecation(said, sunset, link)


def _moment_ms(value: object) -> int:
    """A date is its first moment in UTC; a time of YAML without a zone is in UTC (YAML 1.1)."""
    if isinstance(value, datetime):
        moment = value.replace(tzinfo=UTC) if value.tzinfo is None else value
    elif isinstance(value, date):
        moment = datetime(value.year, value.month, value.day, tzinfo=UTC)
    else:
        moment = _parse_moment(value)
    milliseconds = (moment - _EPOCH) // _MILLISECOND
    if milliseconds < 0:
        raise ValueError(f"{_shown(value)!r} is before 1970")
    return milliseconds


def _parse_moment(value: object) -> datetime:
    if isinstance(value, str):
        try:
            return parse_timestamp(f"{value}T00:00:00Z" if _DATE.fullmatch(value) else value)
        except ValueError:
            pass
    raise ValueError(f"{_shown(value)!r} is not a date such as 2027-01-31 or 2027-01-31T12:00:00Z (RFC 3339)")


def show_moment(milliseconds: int) -> str:
    text = show_timestamp(_EPOCH + milliseconds * _MILLISECOND)
    return text.removesuffix("T00:00:00Z")


def _link(value: object) -> str:
    if not isinstance(value, str) or len(value) > MAX_LINK or _LINK.fullmatch(value) is None:
        raise ValueError(f"{_shown(value)!r} is not a link such as https://example.com/migrate")
    return value


def read_timeout_ms(value: object) -> int:
    if not isinstance(value, str):
        raise ValueError(f"{_shown(value)!r} has no unit: write 10s or 500ms")  # noqa: TRY004
    milliseconds = parse_duration_ms(value)
    if not 0 < milliseconds <= MAX_TIMEOUT_MS:
        raise ValueError(f"{value[:40]!r} is not between 1ms and 24h")
    return milliseconds


def read_allow(value: object) -> frozenset[str]:
    if not isinstance(value, list | tuple) or len(value) > MAX_ALLOWED:
        raise ValueError(f"give a list of at most {MAX_ALLOWED} services that may call it, such as [checkout, gateway]")
    faults = []
    for each in value:
        try:
            names.check_service(str(each))
        except ValueError as error:
            faults.append(str(error))
    if faults:
        raise ValueError("; ".join(faults))
    return frozenset(str(each) for each in value)


# --- in words ---------------------------------------------------------------------------------------------------------------


def _shown(value: object) -> str:
    return str(value)[:80]


def _no_such_key(key: object, keys: tuple[str, ...]) -> str:
    from difflib import get_close_matches  # only those who mistyped pay for it

    close = get_close_matches(str(key)[:40], keys, n=1, cutoff=0.6)
    return f"no such key; did you mean {close[0]}?" if close else f"no such key; there are {', '.join(keys)}"
