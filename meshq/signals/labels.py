"""Label selectors as Kubernetes writes them: `service=orders,version in (1, 2),!spare`. All requirements hold together."""

import re
from collections.abc import Mapping
from typing import NamedTuple

MAX_SELECTOR = 4096

_KEY = r"(?:[a-zA-Z0-9.-]{1,253}/)?[A-Za-z0-9](?:[A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?"
_VALUE = r"(?:[A-Za-z0-9](?:[A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?)?"
_REQUIREMENT = re.compile(
    rf"\s*(?:(?P<absent>!)\s*(?P<missing>{_KEY})"
    rf"|(?P<key>{_KEY})(?:\s*(?P<compare>==|!=|=)\s*(?P<value>{_VALUE})|\s+(?P<set>in|notin)\s*\((?P<values>[^()]*)\))?)"
    r"\s*(?:,|\Z)",
    re.ASCII,
)
_ONE_VALUE = re.compile(_VALUE, re.ASCII)


class Requirement(NamedTuple):
    """That the label `key` has one of `values`, or (`negated`) none of them, for which it need not be there. `values` None: that it is
    there at all, or is not."""

    key: str
    values: frozenset[str] | None
    negated: bool

    def holds(self, labels: Mapping[str, str]) -> bool:
        value = labels.get(self.key)
        found = value is not None and (self.values is None or value in self.values)
        return found is not self.negated


Selector = tuple[Requirement, ...]


def matches(selector: Selector, labels: Mapping[str, str]) -> bool:
    return all(requirement.holds(labels) for requirement in selector)


def parse_selector(text: str) -> Selector:
    """Of "" everything is selected. Raises ValueError."""
    if len(text) > MAX_SELECTOR:
        raise ValueError(f"a label selector is at most {MAX_SELECTOR} characters long")
    if not text.strip():
        return ()
    found, at, more = [], 0, True
    while more:
        match = _REQUIREMENT.match(text, at)
        if match is None:
            raise ValueError(f"{text[at : at + 60]!r} is no label selector such as service=orders,version in (1,2)")
        found.append(_requirement(match))
        at, more = match.end(), match[0].endswith(",")
    return tuple(found)


def _requirement(match: "re.Match[str]") -> Requirement:
    if match["absent"]:
        return Requirement(match["missing"], None, negated=True)
    if match["set"]:
        values = frozenset(value.strip() for value in match["values"].split(","))
        if faulty := [value for value in values if _ONE_VALUE.fullmatch(value) is None]:
            raise ValueError(f"{faulty[0][:60]!r} is no value that a label can have")
        return Requirement(match["key"], values, match["set"] == "notin")
    if match["compare"]:
        return Requirement(match["key"], frozenset([match["value"]]), match["compare"] == "!=")
    return Requirement(match["key"], None, negated=False)
