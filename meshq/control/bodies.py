"""Bodies of requests to the control API, as values: JSON, or YAML where a policy is written so."""

import json
from collections.abc import Collection, Iterable
from contextlib import suppress
from typing import Any

from meshq.core.durations import parse_duration_ms
from meshq.core.errors import Code, refuse
from meshq.core.http import HttpRequest, header

MAX_BODY = 64 * 1024
MAX_DEPTH = 20


def read(request: HttpRequest) -> Any:
    """By its content type JSON or YAML; where that is neither, whichever it is. Raises Refused."""
    body = _checked(request)
    kind = (header(request.headers, b"content-type") or b"").lower()
    if b"json" in kind:
        return _json(body)
    if b"yaml" not in kind:
        with suppress(ValueError, RecursionError):
            return _with_texts(json.loads(body))
    return _yaml(body)


def read_map(request: HttpRequest, known: Collection[str]) -> dict[str, Any]:
    """A JSON object with none but the `known` keys; an empty body is an empty one. Raises Refused."""
    body = _json(_checked(request)) if request.body else {}
    if not isinstance(body, dict):
        raise refuse(Code.BAD_REQUEST, f"the body is a JSON object with {', '.join(known)}")
    if unknown := [key[:40] for key in body if key not in known]:
        raise refuse(
            Code.BAD_REQUEST, f"{', '.join(map(repr, unknown[:5]))}: no such key; there are {', '.join(known)}"
        )
    return body


def read_duration_ms(value: Any) -> int:
    """`5m`, or a number of seconds. Raises ValueError."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return parse_duration_ms(f"{value:.3f}s") if 0 <= value < 1e9 else _no_duration(value)
    return parse_duration_ms(value) if isinstance(value, str) else _no_duration(value)


def _no_duration(value: Any) -> int:
    raise ValueError(f"{str(value)[:40]} is not a duration such as 30s or 5m, nor a number of seconds")


def _checked(request: HttpRequest) -> bytes:
    body = request.body or b""
    if len(body) > MAX_BODY:
        raise refuse(Code.TOO_LARGE, f"the body is over {MAX_BODY:,} bytes")
    return body


def _json(body: bytes) -> Any:
    try:
        found = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise refuse(Code.BAD_REQUEST, f"the body is not JSON: {error}") from error
    return _with_texts(found)


def _yaml(body: bytes) -> Any:
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    try:
        text = body.decode()
        _check_shape(YAML(typ="safe", pure=True).parse(text))
        return _with_texts(YAML(typ="safe", pure=True).load(text))
    except (YAMLError, ValueError, RecursionError) as error:  # ValueError: not UTF-8, or a date that is none
        mark = getattr(error, "problem_mark", None)
        where = f" in line {mark.line + 1}" if mark is not None else ""
        said = getattr(error, "problem", None) or str(error).partition("\n")[0]
        raise refuse(Code.BAD_REQUEST, f"the body is neither JSON nor YAML{where}: {said}") from error


def _with_texts(found: Any) -> Any:
    """`found`, if its texts can be written again: an escape can name half of a surrogate pair, which no encoding has."""
    left = [found]
    while left:
        each = left.pop()
        if isinstance(each, dict):
            left += [*each.keys(), *each.values()]
        elif isinstance(each, list | tuple | set):
            left += each
        elif isinstance(each, str) and any("\ud800" <= character <= "\udfff" for character in each):
            raise refuse(Code.BAD_REQUEST, f"{each[:40]!r} is no text: it has half of a surrogate pair")
    return found


def _check_shape(events: Iterable[object]) -> None:
    """Before a value is made: with aliases a short text can stand for one without end, and a deep one takes the parser long."""
    from ruamel.yaml.events import AliasEvent, CollectionEndEvent, CollectionStartEvent

    depth = 0
    for event in events:
        depth += isinstance(event, CollectionStartEvent) - isinstance(event, CollectionEndEvent)
        if isinstance(event, AliasEvent):
            raise refuse(Code.BAD_REQUEST, "the YAML has an alias (*name): write what it stands for")
        if depth > MAX_DEPTH:
            raise refuse(Code.BAD_REQUEST, f"the YAML is nested more than {MAX_DEPTH} deep")
