"""Which versions of a service an address accepts: `2`, `^2.1`, `~2.1.3`, `>=2.1,<3`, `2.3.1`, `latest`.

A bare number or pair is a prefix (`2` is every 2.x.y, `2.1` every 2.1.y); a full version is that one; comparators joined
by commas must all hold. A pre-release is accepted only by a selector that names one of the same major.minor.patch (the
rule of npm's semver, so that `^2` never picks 2.4.0-rc.1 by surprise) and by one that names it exactly.
"""

import re
from collections.abc import Iterable
from functools import lru_cache
from typing import NamedTuple

from meshq.core.names import MAX_MAJOR, BadName, Version, check_service, parse_version

MAX_SELECTOR = 100
MAX_COMPARATORS = 8

_PARTIAL = re.compile(r"(0|[1-9]\d{0,9})(?:\.(0|[1-9]\d{0,9}))?", re.ASCII)
_COMPARATOR = re.compile(r"(\^|~|>=|<=|>|<|=)?(.+)", re.ASCII | re.DOTALL)

_Key = tuple[int, int, int, bool, tuple[tuple[bool, int, str], ...]]


class Bound(NamedTuple):
    """One side of a range: versions below (or, with `low`, not below) `version`."""

    version: Version
    low: bool
    inclusive: bool

    def admits(self, key: _Key) -> bool:
        edge = self.version.key()
        if key == edge:
            return self.inclusive
        return key > edge if self.low else key < edge


class Selector(NamedTuple):
    """What stands after the @ of an address. `text` is how it was written and how it travels with a message."""

    text: str
    bounds: tuple[Bound, ...] = ()
    major: int | None = None
    """Set when the selector is a bare major: routed by topic alone, no range to check at the receiver."""

    @property
    def latest(self) -> bool:
        return self.text == "latest"

    def admits(self, version: Version) -> bool:
        """Whether an instance of this version may take the message."""
        if self.latest:
            return True
        if self.major is not None:
            return version.major == self.major
        key = version.key()
        if not all(bound.admits(key) for bound in self.bounds):
            return False
        return not version.pre or any(b.version.pre and b.version[:3] == version[:3] for b in self.bounds)


class Address(NamedTuple):
    service: str
    selector: Selector | None = None

    def __str__(self) -> str:
        return self.service if self.selector is None else f"{self.service}@{self.selector.text}"


@lru_cache(maxsize=4096)  # an app calls the same few addresses again and again
def parse_address(text: str) -> Address:
    """`orders`, `orders@2`, `orders@^2.1` -> Address. Raises BadName."""
    service, at, selector = text.partition("@")
    check_service(service)
    return Address(service, parse_selector(selector) if at else None)


def major_selector(major: int) -> Selector:
    return Selector(str(major), major=major)


def parse_selector(text: str) -> Selector:
    if text == "latest":
        return Selector(text)
    if not text or len(text) > MAX_SELECTOR:
        raise BadName(f"{text[:MAX_SELECTOR]!r} is not a version selector such as 2, ^2.1, >=2.1,<3 or latest")
    parts = text.split(",")
    if len(parts) > MAX_COMPARATORS:
        raise BadName(f"{text!r} has more than {MAX_COMPARATORS} comparators")
    bounds: list[Bound] = []
    for part in parts:
        bounds += _comparator(part.strip(" "), text)
    partial = _PARTIAL.fullmatch(text)
    if partial and partial[2] is None:
        return major_selector(int(partial[1]))
    return Selector(text, tuple(bounds))


def _comparator(part: str, whole: str) -> Iterable[Bound]:
    match = _COMPARATOR.fullmatch(part)
    if match is None:
        raise BadName(f"{whole!r} has an empty comparator")
    operator, operand = match[1] or "", match[2].strip(" ")
    floor, above = _operand(operand, whole)
    match operator:
        case "" | "=":
            return (_from(floor), _to(above)) if above else (_from(floor), Bound(floor, low=False, inclusive=True))
        case "^":
            return _from(floor), _to(_caret_end(floor, operand))
        case "~":
            return _from(floor), _to(above or _next_minor(floor))
        case ">=":
            return (_from(floor),)
        case "<":
            return (_to(floor) if above else Bound(floor, low=False, inclusive=False),)
        case ">":
            return (_from(above) if above else Bound(floor, low=True, inclusive=False),)
        case _:  # <=
            return (_to(above) if above else Bound(floor, low=False, inclusive=True),)


def _operand(text: str, whole: str) -> tuple[Version, Version | None]:
    """The lowest version that `text` means, and for a partial one (`2`, `2.1`) the first above all that it means."""
    partial = _PARTIAL.fullmatch(text)
    try:
        if partial is None:
            return parse_version(text), None
        major, minor = int(partial[1]), partial[2]
        if major > MAX_MAJOR:
            raise BadName("too large")
    except BadName:
        raise BadName(f"{whole!r} is not a version selector such as 2, ^2.1, >=2.1,<3 or latest") from None
    if minor is None:
        return Version(major, 0, 0), Version(major + 1, 0, 0)
    return Version(major, int(minor), 0), Version(major, int(minor) + 1, 0)


def _caret_end(floor: Version, operand: str) -> Version:
    """The first version not compatible with `floor`: the leftmost non-zero part may not change (npm's semver)."""
    if floor.major > 0 or (_PARTIAL.fullmatch(operand) and "." not in operand):
        return Version(floor.major + 1, 0, 0)
    if floor.minor > 0 or _PARTIAL.fullmatch(operand):
        return Version(0, floor.minor + 1, 0)
    return Version(0, 0, floor.patch + 1)


def _next_minor(floor: Version) -> Version:
    return Version(floor.major, floor.minor + 1, 0)


def _from(version: Version) -> Bound:
    return Bound(version, low=True, inclusive=True)


def _to(version: Version) -> Bound:
    """Below `version`, its own pre-releases excluded too: 3.0.0-rc.1 is not compatible with ^2."""
    return Bound(version._replace(pre=("0",)), low=False, inclusive=False)  # -0 is the lowest pre-release there is
