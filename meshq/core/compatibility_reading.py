"""Documents of contracts, read: references followed, and each schema as the variants it allows.

A variant is a JSON Schema of one type at most, without $ref, allOf, anyOf, oneOf, const and nullable: `{"type": ["integer", "null"]}` has
two, and so has `anyOf` of two models; `allOf` is merged into one. A value fits a schema if it fits one of its variants.
"""

from collections.abc import Iterator, Mapping
from itertools import product
from typing import Any
from urllib.parse import unquote

Variant = Mapping[str, Any]

MAX_VARIANTS = 1000
"""Of one schema; combinations of combinations grow without end."""

_ANNOTATIONS = frozenset(
    {"description", "default", "deprecated", "example", "examples", "readOnly", "writeOnly", "$comment"}
)
_COMBINING = ("$ref", "allOf", "anyOf", "oneOf", "nullable", "const")
_BOUNDS = {"minimum": max, "exclusiveMinimum": max, "minLength": max, "minItems": max, "minProperties": max} | {
    "maximum": min, "exclusiveMaximum": min, "maxLength": min, "maxItems": min, "maxProperties": min,
}  # fmt: skip
_SHAPES = {
    "type": str | list,
    "properties": Mapping,
    "required": list,
    "enum": list,
    "prefixItems": list,
} | dict.fromkeys(_BOUNDS, int | float)
_OF_OBJECTS = ("properties", "required", "additionalProperties", "patternProperties", "minProperties", "maxProperties")
_OF_ARRAYS = ("items", "prefixItems", "minItems", "maxItems", "uniqueItems")


class BadDocument(ValueError):
    """What was given is no such document; the message says where it is not."""


class Reading:
    """One document."""

    def __init__(self, document: Mapping[str, Any]) -> None:
        self.document = document
        self._variants: dict[int, tuple[Any, tuple[Variant, ...]]] = {}
        """By the identity of a schema, which is kept so that no other one gets it."""
        self._by_reference: dict[str, tuple[Variant, ...]] = {}
        self._together: dict[frozenset[int], Variant] = {}
        """By the identities of the parts."""

    def followed(self, node: Any, what: str) -> Mapping[str, Any]:
        """`node`, or what it refers to: a map. Raises BadDocument."""
        for _ in range(MAX_VARIANTS):
            if not isinstance(node, Mapping):
                raise BadDocument(f"{what} is not a map")
            if "$ref" not in node:
                return node
            node = self._target(node["$ref"])
        raise BadDocument(f"{what}: the reference {node['$ref']} leads to itself")

    def variants(self, schema: Any) -> tuple[Variant, ...]:
        """Of a schema; none where nothing fits it. The same schema has the same variants each time. Raises BadDocument."""
        known = self._variants.get(id(schema))
        if known is None:
            if isinstance(schema, Mapping) and schema.keys() == {"$ref"}:
                found = self._referred(schema)
            else:
                found = tuple(self._of(schema, ()))
            known = self._variants[id(schema)] = (schema, found)
        return known[1]

    def _referred(self, schema: Mapping[str, Any]) -> tuple[Variant, ...]:
        """Of a reference and nothing else. All of one target have the same variants, not only equal ones."""
        reference = str(schema["$ref"])
        if reference not in self._by_reference:
            self._by_reference[reference] = tuple(self._of(schema, ()))
        return self._by_reference[reference]

    def _target(self, reference: Any) -> Any:
        if not isinstance(reference, str) or not reference.startswith("#"):
            raise BadDocument(f"the reference {reference!r} leads out of the document: only #/... is followed")
        node: Any = self.document
        for token in reference.removeprefix("#").split("/")[1:]:
            key = unquote(token).replace("~1", "/").replace("~0", "~")
            try:
                node = node[int(key)] if isinstance(node, list) else node[key]
            except (KeyError, IndexError, ValueError, TypeError):
                raise BadDocument(f"the reference {reference} leads nowhere") from None
        return node

    def _of(self, schema: Any, through: tuple[str, ...]) -> Iterator[Variant]:
        """`through`: the references that led here. One that leads back adds nothing to what its schema allows."""
        if schema is False:
            return
        if schema is True:
            yield {}
            return
        if not isinstance(schema, Mapping):
            raise BadDocument(f"{str(schema)[:60]!r} is not a schema")
        _check(schema)
        own = {key: value for key, value in schema.items() if key not in _COMBINING and key not in _ANNOTATIONS}
        if "const" in schema:
            own["enum"] = [schema["const"]]
        parts: list[list[Variant]] = [list(_single(own, schema.get("nullable") is True))]
        if "$ref" in schema:
            if schema["$ref"] in through:
                return
            target, name = self._target(schema["$ref"]), schema["$ref"].rpartition("/")[2]
            parts.append([{"title": name, **each} for each in self._of(target, (*through, schema["$ref"]))])
        parts += [list(self._of(part, through)) for part in listed(schema, "allOf")]
        for key in ("anyOf", "oneOf"):
            if key in schema:
                parts.append([each for part in listed(schema, key) for each in self._of(part, through)])
        count = 0
        for combination in product(*parts):
            merged = self._merged(combination)
            if merged is not None:
                count += 1
                if count > MAX_VARIANTS:
                    raise BadDocument(f"a schema allows more than {MAX_VARIANTS} variants")
                yield merged

    # --- several that have to fit at once -------------------------------------------------------------------------------------

    def _merged(self, parts: tuple[Variant, ...]) -> Variant | None:
        """What fits all of them; None where nothing can."""
        found: dict[str, Any] = {}
        for part in parts:
            for key, value in part.items():
                if key not in found or found[key] == value:
                    found[key] = value
                elif key == "type":
                    if {found[key], value} != {"integer", "number"}:
                        return None
                    found[key] = "integer"
                elif key == "enum":
                    found[key] = [each for each in found[key] if each in value]
                    if not found[key]:
                        return None
                else:
                    found[key] = self._both(key, found[key], value)
        return found

    def _both(self, key: str, one: Any, other: Any) -> Any:
        if key == "properties":
            return {**one, **other, **{name: self._all(one[name], other[name]) for name in one if name in other}}
        if key == "required":
            return [*one, *(name for name in other if name not in one)]
        if key in _BOUNDS:
            return _BOUNDS[key](one, other)
        if key == "additionalProperties":
            return False if one is False or other is False else self._all(one, other)
        return other

    def _all(self, *schemas: Any) -> Any:
        """One schema for several: the same object each time, or models in circles would bring new ones without end."""
        parts: list[Any] = []
        for schema in schemas:
            alone = isinstance(schema, Mapping) and schema.keys() == {"allOf"}
            parts += [each for each in (listed(schema, "allOf") if alone else [schema]) if each not in parts]
        key = frozenset(map(id, parts))
        return parts[0] if len(parts) == 1 else self._together.setdefault(key, {"allOf": parts})


def kind(variant: Variant) -> str | None:
    """Its type, said or meant; None for any."""
    if "type" in variant:
        return str(variant["type"])
    if any(key in variant for key in _OF_OBJECTS):
        return "object"
    return "array" if any(key in variant for key in _OF_ARRAYS) else None


def listed(node: Mapping[str, Any], key: str) -> list[Any]:
    """Raises BadDocument."""
    found = node.get(key, [])
    if not isinstance(found, list):
        raise BadDocument(f"{key} is not a list")
    return found


def _check(schema: Mapping[str, Any]) -> None:
    for key, wanted in _SHAPES.items():
        if key in schema and not isinstance(schema[key], wanted):
            raise BadDocument(f"{key} of a schema is not what it has to be: {str(schema[key])[:60]!r}")
    if not all(isinstance(each, str) for key in ("type", "required") for each in schema.get(key, ())):
        raise BadDocument("type and required of a schema name what is no name")


def _single(schema: dict[str, Any], nullable: bool) -> Iterator[Variant]:
    """Of a schema without combinations: one for each of its types."""
    said = schema.pop("type", None)
    values = schema.pop("enum", None)
    if said is None and values is None:
        yield schema
        return
    types = [said] if isinstance(said, str) else list(said) if said is not None else _types_of(values)
    if nullable and "null" not in types:
        types.append("null")
    for each in types:
        if each == "null":
            if nullable or values is None or None in values:
                yield {"type": "null"}
        elif values is None:
            yield {**schema, "type": each}
        elif fitting := [value for value in values if _is_of(value, each)]:
            yield {**schema, "type": each, "enum": fitting}


def _types_of(values: list[Any]) -> list[str]:
    return list(dict.fromkeys(_type_of(value) for value in values))


def _type_of(value: Any) -> str:
    for name, types in (
        ("null", type(None)), ("boolean", bool), ("integer", int), ("number", float), ("string", str), ("array", list),
    ):  # fmt: skip
        if isinstance(value, types):
            return name
    return "object"


def _is_of(value: Any, wanted: str) -> bool:
    found = _type_of(value)
    return found == wanted or (found == "integer" and wanted == "number")
