"""Two variants of a writer and a reader: what differs between them alone, without what is in them; see compatibility_schemas."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, NamedTuple

from meshq.core.compatibility_limits import AS_THEY_ARE, changed, limits, shown
from meshq.core.compatibility_reading import Variant, kind

_ABSENT: dict[str, Any] = {}
"""Of a schema that says nothing: everything fits."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One difference."""

    place: str
    """`POST /create request.item`"""
    sentence: str
    breaking: bool
    """Whether callers of the old one may fail with the new one."""


class Way(Enum):
    REQUEST = "request"  # the old one writes, the new one reads
    RESPONSE = "response"  # the new one writes, the old one reads


class Inner(NamedTuple):
    """Two schemas that have to fit for those around them to fit."""

    place: str
    writer: Any
    reader: Any


class _Field(NamedTuple):
    """What a writer and a reader know of one field."""

    written: bool
    """The writer names it."""
    sure: bool
    """The writer always writes it."""
    read: bool
    needed: bool


class Judge:
    """Of one way."""

    def __init__(self, way: Way) -> None:
        self._way = way

    def own(self, place: str, writer: Variant, reader: Variant) -> Iterator[Finding]:
        """What two variants say themselves, without what is in them."""
        written, read = kind(writer), kind(reader)
        if written != read:  # the reader takes more
            wider = read or "anything"
            sentence = f"takes {wider} now" if self._way is Way.REQUEST else f"is {written} now, was {wider}"
            yield Finding(place, sentence, False)
        yield from self._values(place, writer, reader)
        yield from self._bounds(place, writer, reader)
        if read == "object":
            yield from self._fields(place, writer, reader)

    def _values(self, place: str, writer: Variant, reader: Variant) -> Iterator[Finding]:
        written, read = writer.get("enum"), reader.get("enum")
        request = self._way is Way.REQUEST
        if read is None:
            if written is not None:
                yield Finding(place, "takes any value now" if request else f"is one of {shown(written)} now", False)
            return
        if written is None:
            yield Finding(place, f"takes only {shown(read)} now" if request else "may be any value now", True)
            return
        if further := [each for each in written if each not in read]:
            sentence = f"no longer takes {shown(further)}" if request else f"may be {shown(further)} now"
            yield Finding(place, sentence, request)
        if fewer := [each for each in read if each not in written]:
            yield Finding(place, f"takes {shown(fewer)} too" if request else f"is no longer {shown(fewer)}", False)

    def _bounds(self, place: str, writer: Variant, reader: Variant) -> Iterator[Finding]:
        old, new = (writer, reader) if self._way is Way.REQUEST else (reader, writer)
        for name, narrow, wide in limits(writer, reader):
            if narrow != wide:
                tighter = wide is not None and (narrow is None or narrow < wide)
                yield Finding(place, changed(name, old, new), tighter)
        for name in AS_THEY_ARE:
            if (writer.get(name) or None) != (reader.get(name) or None):
                yield Finding(place, changed(name, old, new), bool(reader.get(name)))

    def _fields(self, place: str, writer: Variant, reader: Variant) -> Iterator[Finding]:
        tell = self._field_of_request if self._way is Way.REQUEST else self._field_of_response
        needed, sure = reader.get("required", ()), writer.get("required", ())
        written, read = writer.get("properties", _ABSENT), reader.get("properties", _ABSENT)
        for name in dict.fromkeys((*read, *needed, *written)):
            known = _Field(name in written, name in sure, name in read, name in needed)
            yield from tell(f"{place}.{name}", known, reader.get("additionalProperties", True))
        yield from self._further(place, writer, reader)

    def _field_of_request(self, place: str, field: _Field, further: Any) -> Iterator[Finding]:
        if field.needed and not field.sure:
            yield Finding(place, "is required now" if field.written else "is a new field, and required", True)
        elif field.sure and not field.needed and field.read:
            yield Finding(place, "may be absent now", False)
        elif field.read and not field.written and not field.sure:
            yield Finding(place, "is a new field", False)
        elif not field.read and further is False:
            yield Finding(place, "is refused now", True)
        elif not field.read and further is True:
            yield Finding(place, "is no longer known, and passed over", False)

    def _field_of_response(self, place: str, field: _Field, further: Any) -> Iterator[Finding]:
        if not field.written and not field.sure:
            yield Finding(place, "is gone", True)
        elif field.needed and not field.sure:
            yield Finding(place, "may be absent now", True)
        elif field.sure and not field.needed and field.read:
            yield Finding(place, "is always there now", False)
        elif not field.read and further is False:
            yield Finding(place, "is a new field, where none was to come besides those named", True)
        elif not field.read and further is True:
            yield Finding(place, "is a new field", False)

    def _further(self, place: str, writer: Variant, reader: Variant) -> Iterator[Finding]:
        """Fields that are not named."""
        writes, reads = self._further_fields(writer), reader.get("additionalProperties", True)
        request = self._way is Way.REQUEST
        if reads is False and writes is not False:
            refused = "refuses fields that it does not name now"
            yield Finding(place, refused if request else "may have fields that are not named now", True)
        elif request and writes is False and reads is not False:
            yield Finding(place, "takes fields that it does not name now", False)

    # --- no variant of one ----------------------------------------------------------------------------------------------------

    def untaken(self, place: str, writer: Variant, reads: Sequence[Variant]) -> Finding:
        others = " or ".join(dict.fromkeys(map(_named, reads))) or "nothing"
        if self._way is Way.REQUEST:
            return Finding(place, f"takes {others} now, no longer {_named(writer)}", True)
        return Finding(place, f"may be {_named(writer)} now, which was {others}", True)

    def unused(self, place: str, reader: Variant) -> Finding:
        said = f"takes {_named(reader)} too" if self._way is Way.REQUEST else f"is no longer {_named(reader)}"
        return Finding(place, said, False)

    # --- what is in them ------------------------------------------------------------------------------------------------------

    def inner(self, place: str, writer: Variant, reader: Variant) -> Iterator[Inner]:
        if kind(reader) == "object":
            yield from self._inner_fields(place, writer, reader)
        elif kind(reader) == "array":
            first = max(len(writer.get("prefixItems", ())), len(reader.get("prefixItems", ())))
            for at in range(first):
                yield Inner(f"{place}[{at}]", _item(writer, at), _item(reader, at))
            yield Inner(f"{place}[]", writer.get("items", True), reader.get("items", True))

    def _inner_fields(self, place: str, writer: Variant, reader: Variant) -> Iterator[Inner]:
        written, read = writer.get("properties", _ABSENT), reader.get("properties", _ABSENT)
        further, rest = self._further_fields(writer), reader.get("additionalProperties", True)
        for name in dict.fromkeys((*written, *read)):
            inner = Inner(f"{place}.{name}", written.get(name, further), read.get(name, rest))
            # What may come without a name is told once, below, and what has none is no field of either.
            if (name in written or not isinstance(further, bool)) and (name in read or not isinstance(rest, bool)):
                yield inner
        if further is not False and not isinstance(rest, bool):
            yield Inner(f"{place}.*", further, rest)

    def _further_fields(self, writer: Variant) -> Any:
        """The schema of fields that the writer does not name. Of a response with fields there are none, unless it says so."""
        closed = self._way is Way.RESPONSE and "properties" in writer
        return writer.get("additionalProperties", not closed)


# --- two variants -----------------------------------------------------------------------------------------------------------


def candidates(writer: Variant, writes: Sequence[Variant], reads: Sequence[Variant]) -> list[Variant]:
    """Those that could take it by their type, and in a union of objects by their tags; the likeliest first."""
    union = any(sum(kind(each) == "object" for each in side) > 1 for side in (writes, reads))
    found = [each for each in reads if _takes_type(writer, each) and not (union and _tags_differ(writer, each))]
    return sorted(found, key=lambda each: _distance(writer, each))


def _distance(one: Variant, other: Variant) -> tuple[bool, bool, int]:
    """How unlike they are at first sight: type, title, names of fields."""
    names = one.get("properties", _ABSENT).keys() ^ other.get("properties", _ABSENT).keys()
    return kind(one) != kind(other), one.get("title") != other.get("title"), len(names)


def _takes_type(writer: Variant, reader: Variant) -> bool:
    written, read = kind(writer), kind(reader)
    return read is None or read == written or (written == "integer" and read == "number")


def _tags_differ(one: Variant, other: Variant) -> bool:
    """Whether a field that has one value only, as a discriminator has, has another one in each."""
    mine, theirs = _tags(one), _tags(other)
    return any(mine[name] != theirs[name] for name in mine if name in theirs)


def _tags(variant: Variant) -> dict[str, Any]:
    found = {}
    for name, schema in variant.get("properties", _ABSENT).items():
        if isinstance(schema, dict):
            values = [schema["const"]] if "const" in schema else schema.get("enum", [])
            if len(values) == 1:
                found[name] = values[0]
    return found


def _item(variant: Variant, at: int) -> Any:
    first: list[Any] = variant.get("prefixItems", [])
    return first[at] if at < len(first) else variant.get("items", True)


def _named(variant: Variant) -> str:
    found = kind(variant) or "anything"
    return str(variant["title"]) if found == "object" and "title" in variant else found
