"""What a schema rules out by numbers and patterns: which of two lets less through, and how that is said."""

import json
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from meshq.core.compatibility_reading import Variant

AS_THEY_ARE = (
    "pattern",
    "format",
    "multipleOf",
    "uniqueItems",
    "not",
    "contains",
    "propertyNames",
    "patternProperties",
)
"""Constraints of which only the same, or none, is sure to take what the other does."""
_LOWER = ("minLength", "minItems", "minProperties")
_UPPER = ("maxLength", "maxItems", "maxProperties")


class Limit(NamedTuple):
    """Of two, the greater one lets less through."""

    at: float
    exclusive: bool = False


def limits(writer: Variant, reader: Variant) -> Iterator[tuple[str, Limit | None, Limit | None]]:
    """Name, the writer's, the reader's."""
    yield "minimum", _edge(writer, "minimum", "exclusiveMinimum", 1), _edge(reader, "minimum", "exclusiveMinimum", 1)
    yield "maximum", _edge(writer, "maximum", "exclusiveMaximum", -1), _edge(reader, "maximum", "exclusiveMaximum", -1)
    for name in _LOWER:  # 0 is no limit
        yield name, _limit(writer.get(name) or None, 1), _limit(reader.get(name) or None, 1)
    for name in _UPPER:
        yield name, _limit(writer.get(name), -1), _limit(reader.get(name), -1)


def _limit(value: Any, sign: int, exclusive: bool = False) -> Limit | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return Limit(sign * value, exclusive)


def _edge(variant: Variant, name: str, exclusive: str, sign: int) -> Limit | None:
    """Of OpenAPI 3.0 too, where an exclusive limit is a flag beside the other. For integers there is no exclusive one."""
    said = variant.get(exclusive)
    found = [_limit(variant.get(name), sign, said is True), _limit(said, sign, True)]
    limits = [
        Limit(each.at + 1) if each.exclusive and variant.get("type") == "integer" else each
        for each in found
        if each is not None
    ]
    return max(limits, default=None)


def shown(values: Sequence[Any]) -> str:
    return ", ".join(json.dumps(each, ensure_ascii=False) for each in values)


def changed(name: str, old: Variant, new: Variant) -> str:
    was, now = _constraint(name, old), _constraint(name, new)
    if was is None:
        return f"has a {name} now: {now}"
    return f"has no {name} any more, was {was}" if now is None else f"{name} is {now} now, was {was}"


def _constraint(name: str, variant: Variant) -> str | None:
    if name in ("minimum", "maximum"):
        exclusive = f"exclusive{name.capitalize()}"
        said = variant.get(exclusive)
        if said is not None and not isinstance(said, bool):
            return f"{'above' if name == 'minimum' else 'below'} {said}"
    return None if name not in variant else shown([variant[name]])[:200]
