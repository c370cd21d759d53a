"""Bodies to bytes and back: pydantic models, dataclasses, whatever JSON has, bytes and text; as JSON, or msgpack by content type.

pydantic is imported when the first type asks for it: an app that sends and takes plain dicts never loads it.
"""

import json
from collections.abc import Callable
from dataclasses import is_dataclass
from typing import Any, NamedTuple

import msgpack

from meshq.sdk.problem import INVALID, Problem

JSON = "application/json"
MSGPACK = "application/msgpack"
BYTES = "application/octet-stream"
TEXT = "text/plain; charset=utf-8"
_MSGPACK_TYPES = frozenset({MSGPACK, "application/x-msgpack", "application/vnd.msgpack"})
_PLAIN = (dict, list, str, int, float, bool, type(None))

MAX_BODY = 16 * 2**20
"""Bytes of a request's body that are read; a sidecar takes less (MESHQ_MAX_BODY)."""

UNPROCESSABLE = 422
UNSUPPORTED = 415


class Encoded(NamedTuple):
    body: bytes | None
    """None where there is none."""
    content_type: str
    """"" without a body."""


class Invalid(ValueError):
    """A body or a parameter is not what is wanted; `problem` says which fields."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.detail)
        self.problem = problem


def is_msgpack(content_type: str) -> bool:
    return content_type.partition(";")[0].strip().lower() in _MSGPACK_TYPES


def encode(value: Any, content_type: str | None = None) -> Encoded:
    """`content_type` None: by the value. Raises TypeError for what has no form in it.

    >>> encode({"a": 1})
    Encoded(body=b'{"a":1}', content_type='application/json')
    >>> encode(b"raw").content_type
    'application/octet-stream'
    >>> encode(None)
    Encoded(body=None, content_type='')
    """
    if isinstance(value, bytes | bytearray | memoryview):
        return Encoded(bytes(value), content_type or BYTES)
    if content_type is not None and is_msgpack(content_type):
        return Encoded(_packed(value), content_type)
    if content_type is not None and not _is_json(content_type):
        if isinstance(value, str):
            return Encoded(value.encode(), content_type)
        raise TypeError(f"a {type(value).__name__} has no form as {content_type}: give bytes")
    if value is None:
        return Encoded(None, "")
    if isinstance(value, str) and content_type is None:
        return Encoded(value.encode(), TEXT)
    return Encoded(to_json(value), content_type or JSON)


def to_json(value: Any) -> bytes:
    """Raises TypeError."""
    dump = getattr(value, "model_dump_json", None)
    if dump is not None:
        return bytes(dump(by_alias=True), "utf-8")
    if type(value) in _PLAIN:
        try:
            return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()
        except TypeError:
            pass  # something in it has a form in JSON only to pydantic: a date, a model
        except (ValueError, RecursionError) as error:  # NaN, half of a surrogate pair, a list that contains itself
            raise TypeError(f"it has no form in JSON: {error}") from error
    try:
        return bytes(_adapter(type(value) if is_dataclass(value) else Any).dump_json(value, by_alias=True))
    except ValueError as error:
        raise TypeError(f"it has no form in JSON: {error}") from error


def decode(body: bytes | None, content_type: str, wanted: Any) -> Any:
    """Of type `wanted`: Any for whatever it is, bytes as it came, str for text (of JSON, a string), None for nothing. Raises Invalid.

    >>> decode(b'{"a":1}', "application/json", Any)
    {'a': 1}
    >>> decode(b"raw", "", bytes)
    b'raw'
    """
    if wanted is bytes:
        return body or b""
    if wanted is None or wanted is type(None):
        return None
    if body is None or (body == b"" and not content_type):
        return None if wanted is Any else _validated(wanted, None)
    if is_msgpack(content_type):
        return _validated(wanted, _unpacked(body))
    if _is_json(content_type):
        if wanted is Any or wanted in (dict, list):
            return _validated(wanted, _parsed(body))
        adapter = _adapter(wanted)
        return _checked(lambda: adapter.validate_json(body))
    if wanted is str or (wanted is Any and content_type.startswith("text/")):
        return _text(body)
    if wanted is Any:
        return body
    raise Invalid(
        Problem(
            INVALID,
            f"a body of type {content_type or 'unknown'} is not taken: send {JSON} or {MSGPACK}",
            status=UNSUPPORTED,
        )
    )


def convert(text: str, wanted: Any, name: str) -> Any:
    """A parameter of a path or a query. Raises Invalid."""
    if wanted is str or wanted is Any:
        return text
    adapter = _adapter(wanted)
    return _checked(lambda: adapter.validate_strings(text), name)


def _validated(wanted: Any, value: Any) -> Any:
    if wanted is Any or type(value) is wanted:
        return value
    adapter = _adapter(wanted)
    return _checked(lambda: adapter.validate_python(value))


def _checked(validate: Callable[[], Any], *where: str) -> Any:
    from pydantic import ValidationError

    try:
        return validate()
    except ValidationError as error:
        faults = [
            {"loc": [*where, *fault["loc"]], "msg": fault["msg"], "type": fault["type"]}
            for fault in error.errors(include_url=False, include_context=False, include_input=False)
        ]
        first = faults[0]
        place = ".".join(map(str, first["loc"])) or "the body"
        more = f", and {len(faults) - 1} more" if len(faults) > 1 else ""
        detail = f"{place}: {first['msg']}{more}"
        raise Invalid(Problem(INVALID, detail, status=UNPROCESSABLE, fields={"errors": faults})) from None


_adapters: dict[Any, Any] = {}
"""By type; of types there are as many as the app's own code has."""


def _adapter(wanted: Any) -> Any:
    found = _adapters.get(wanted)
    if found is None:
        from pydantic import TypeAdapter

        found = _adapters[wanted] = TypeAdapter(wanted)
    return found


def _packed(value: Any) -> bytes:
    """Raises TypeError."""
    try:
        return bytes(msgpack.packb(value, default=_plain))
    except (
        ValueError,
        OverflowError,
        RecursionError,
    ) as error:  # an integer of more than 64 bits, a list that contains itself
        raise TypeError(f"it has no form in msgpack: {error}") from error


def _plain(value: Any) -> Any:
    """What msgpack does not know as what it does: models and dataclasses as maps, and of the rest what stands for it in JSON."""
    dump = getattr(value, "model_dump", None)
    if dump is not None:
        return dump(by_alias=True)
    if is_dataclass(value) and not isinstance(value, type):
        return _adapter(type(value)).dump_python(value, by_alias=True)
    from pydantic_core import PydanticSerializationError, to_jsonable_python

    try:
        return to_jsonable_python(value)
    except PydanticSerializationError as error:
        raise TypeError(f"it has no form in msgpack: {error}") from error


def _parsed(body: bytes) -> Any:
    try:
        return json.loads(body)
    except (ValueError, RecursionError) as error:
        raise Invalid(Problem(INVALID, f"the body is not JSON: {error}", status=UNPROCESSABLE)) from None


def _unpacked(body: bytes) -> Any:
    try:
        return msgpack.unpackb(body, strict_map_key=False)
    except (ValueError, TypeError, msgpack.UnpackException, RecursionError, OverflowError) as error:
        raise Invalid(Problem(INVALID, f"the body is not msgpack: {error}", status=UNPROCESSABLE)) from None


def _text(body: bytes) -> str:
    try:
        return body.decode()
    except UnicodeDecodeError as error:
        raise Invalid(Problem(INVALID, f"the body is not UTF-8: {error}", status=UNPROCESSABLE)) from None


def _is_json(content_type: str) -> bool:
    kind = content_type.partition(";")[0].strip().lower()
    return kind == JSON or kind.endswith("+json")
