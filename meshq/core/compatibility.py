"""Whether a new version of a service breaks callers of the old one, by what both promise: two OpenAPI or two AsyncAPI documents."""

from collections.abc import Mapping
from typing import Any

from meshq.core import compatibility_asyncapi, compatibility_openapi
from meshq.core.compatibility_reading import BadDocument, Reading
from meshq.core.compatibility_variants import Finding
from meshq.core.names import BadName, parse_version

__all__ = ["KINDS", "BadDocument", "Finding", "compare", "is_new_major", "kind_of", "version_of"]

_COMPARE = {"openapi": (compatibility_openapi.compare, "3."), "asyncapi": (compatibility_asyncapi.compare, "3.")}
KINDS = tuple(_COMPARE)


def compare(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[Finding]:
    """What is different, in the order of the old document; what only adds too, as not breaking.

    Raises:
        BadDocument: one is no such document, or they are not of one kind.

    Example:
        >>> body = {"content": {"application/json": {"schema": {"type": "object", "properties": {"item": {"type": "string"}}}}}}
        >>> def document(method, **operation):
        ...     return {"openapi": "3.1.0", "info": {}, "paths": {"/create": {method: operation}}}
        >>> compare(document("post", requestBody=body), document("post", requestBody={**body, "required": True}))
        [Finding(place='POST /create request', sentence='is required now', breaking=True)]
    """
    kinds = [kind_of(each) for each in (old, new)]
    if kinds[0] != kinds[1]:
        raise BadDocument(f"one document is of {kinds[0]} and the other of {kinds[1]}: they cannot be compared")
    compared, _ = _COMPARE[kinds[0]]
    try:
        return compared(Reading(old), Reading(new))
    except RecursionError:
        raise BadDocument("a schema is nested too deep") from None


def kind_of(document: Mapping[str, Any]) -> str:
    """`openapi` or `asyncapi`. Raises BadDocument for another one."""
    for kind, (_, version) in _COMPARE.items():
        if kind in document:
            if not str(document[kind]).startswith(version):
                raise BadDocument(f"{kind} {document[kind]} is not read here, {version}x is")
            return kind
    raise BadDocument(f"there is neither {' nor '.join(KINDS)} at its top, so it is no such document")


def version_of(document: Mapping[str, Any]) -> str:
    """Of the service; "" where it does not say."""
    info = document.get("info")
    return str(info.get("version", "")) if isinstance(info, Mapping) else ""


def is_new_major(old: str, new: str) -> bool:
    """Whether `new` is a higher major version than `old`, so that it may break.

    >>> is_new_major("1.9.0", "2.0.0"), is_new_major("2.0.0", "2.1.0")
    (True, False)
    """
    try:
        return parse_version(new).major > parse_version(old).major
    except BadName:
        return False
