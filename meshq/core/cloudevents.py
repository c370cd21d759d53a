"""CloudEvents 1.0 as publishers write them.

What travels, and what a subscriber's app gets, is always the binary mode of the HTTP binding: attributes are `ce-*` fields, the
body is the data. A publisher may send that, the structured mode (`application/cloudevents+json`: one JSON object with
attributes and data) or a batch of those (`application/cloudevents-batch+json`: an array); the latter two are turned into it
here. Sections named below are of the HTTP protocol binding and of the JSON event format, both 1.0.2.
"""

import json
import re
from base64 import b64decode
from binascii import Error as Base64Error
from enum import Enum
from functools import lru_cache
from typing import Any, NamedTuple
from urllib.parse import quote, unquote

from meshq.core.errors import Code, refuse
from meshq.core.http import Headers
from meshq.core.message import MAX_KEY
from meshq.core.times import parse_timestamp

MAX_BATCH = 1000
"""Events in one batch."""
MAX_ATTRIBUTES = 64
MAX_ATTRIBUTE_BYTES = 32 * 1024
"""Of one event in the structured mode: its attributes as header fields, together. (Of a request's own fields the HTTP server
has the bounds.)"""

SPECVERSION = "1.0"
JSON = b"application/json"

_NAME = re.compile(r"[a-z0-9]{1,64}", re.ASCII)
# Section 3.1.3.2 of the HTTP binding: all but visible ASCII without the double quote and the percent sign is encoded.
_PLAIN = re.compile(r"[!#$&-~]+", re.ASCII)
_SAFE = "".join(chr(code) for code in range(0x21, 0x7F) if chr(code) not in '"%')
_JSON_TYPE = re.compile(r"application/json|text/json|[^/]+/[^/]+\+json", re.ASCII)

_encode_json = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode
_encode_ascii = json.JSONEncoder(ensure_ascii=True, allow_nan=False, separators=(",", ":")).encode


class ContentMode(Enum):
    """How a publisher writes events (section 1.3 of the HTTP binding)."""

    BINARY = "binary"
    STRUCTURED = "structured"
    BATCHED = "batched"


def mode_of(content_type: bytes | None) -> ContentMode:
    """Raises Refused with `bad-header` for a format of CloudEvents that is not read here."""
    media = b"" if content_type is None else content_type.partition(b";")[0].strip().lower()
    if not media.startswith(b"application/cloudevents"):
        return ContentMode.BINARY
    if media == b"application/cloudevents+json":
        return ContentMode.STRUCTURED
    if media == b"application/cloudevents-batch+json":
        return ContentMode.BATCHED
    raise refuse(
        Code.BAD_HEADER,
        f"Content-Type {media[:80].decode('latin-1')}: of CloudEvents the JSON format is read here, application/cloudevents+json "
        "or application/cloudevents-batch+json, and the binary mode with any content type",
    )


class Defaults(NamedTuple):
    """The required attributes where the publisher gave none, and the time."""

    source: bytes
    type: bytes
    time: bytes


class Event(NamedTuple):
    """One event as its subscribers get it."""

    headers: Headers
    body: bytes | None
    key: str
    """The ordering key of its own attributes, "" where they have none: the extension `meshqkey`, else `partitionkey`."""


def from_binary(headers: Headers, body: bytes | None, ident: str, defaults: Defaults) -> Event:
    """`headers` are the end-to-end fields. Raises Refused with `bad-header`."""
    names: set[str] = set()
    looked_at: dict[str, str] = {}
    for field, value in headers:
        name = _attribute_of(field)
        if name:
            if name in names:
                raise refuse(Code.BAD_HEADER, f"ce-{name}: an attribute is given once")
            names.add(name)
            if name in _LOOKED_AT:
                looked_at[name] = unquote(value.decode("latin-1").strip().strip('"'))
    _check(looked_at, Code.BAD_HEADER)
    filled = list(headers)
    _fill(filled, looked_at, ident, defaults)
    return Event(filled, body, _key(looked_at, Code.BAD_HEADER))


def read_structured(body: bytes | None) -> dict[str, Any]:
    """Raises Refused with `bad-request`."""
    value = _read_json(body)
    if not isinstance(value, dict):
        raise refuse(
            Code.BAD_REQUEST, "an event in the structured mode is a JSON object with its attributes and its data"
        )
    return value


def read_batch(body: bytes | None) -> list[Any]:
    """The members of a batch, not looked at yet. Raises Refused with `bad-request` or `too-large`."""
    value = _read_json(body)
    if not isinstance(value, list):
        raise refuse(Code.BAD_REQUEST, "a batch is a JSON array of events")
    if len(value) > MAX_BATCH:
        raise refuse(Code.TOO_LARGE, f"{len(value)} events in one batch; send at most {MAX_BATCH} at a time")
    return value


def from_structured(value: Any, common: Headers, ident: str, defaults: Defaults) -> Event:
    """A JSON object as `read_structured` gives it, or a member of a batch. `common` are fields that go with it besides its own.
    Raises Refused with `bad-request`."""
    if not isinstance(value, dict):
        raise refuse(Code.BAD_REQUEST, "an event is a JSON object with its attributes and its data")
    headers, size = list(common), 0
    looked_at: dict[str, str] = {}
    for name, given in value.items():
        if given is None or name in _NOT_FIELDS:
            continue
        text = given if type(given) is str else _attribute_text(name, given)
        encoded = text.encode() if _PLAIN.fullmatch(text) is not None else _encoded(name, text)
        headers.append((_field_of(name), encoded))
        size += len(name) + len(encoded)
        if name in _LOOKED_AT:
            looked_at[name] = text
    if len(headers) - len(common) > MAX_ATTRIBUTES or size > MAX_ATTRIBUTE_BYTES:
        raise refuse(
            Code.BAD_REQUEST,
            f"an event has at most {MAX_ATTRIBUTES} attributes of {MAX_ATTRIBUTE_BYTES} bytes in all; put the rest into its data",
        )
    _check(looked_at, Code.BAD_REQUEST)
    given_type = value.get("datacontenttype")
    content_type = None if given_type is None else _attribute_text("datacontenttype", given_type)
    body = _data(value, content_type)
    if content_type is not None:
        headers.append((b"Content-Type", _content_type(content_type)))
    elif body is not None and "data_base64" not in value:
        headers.append((b"Content-Type", JSON))
    _fill(headers, looked_at, ident, defaults)
    return Event(headers, body, _key(looked_at, Code.BAD_REQUEST))


# --- attributes -------------------------------------------------------------------------------------------------------------

_NOT_FIELDS = frozenset({"data", "data_base64", "datacontenttype"})
_KEYS = ("meshqkey", "partitionkey")
"""Extensions that are an ordering key, the first of them first."""
_LOOKED_AT = frozenset({"specversion", "id", "source", "type", "time", *_KEYS})


@lru_cache(maxsize=4096)  # the same names come with every event
def _attribute_of(field: bytes) -> str:
    """The attribute that a field stands for; "" for a field that is none. Raises Refused."""
    lowered = field.lower()
    if not lowered.startswith(b"ce-"):
        return ""
    name = lowered[3:].decode("latin-1")
    if _NAME.fullmatch(name) is None:
        raise refuse(Code.BAD_HEADER, f"{field[:80].decode('latin-1')}: an attribute's name is letters and digits")
    return name


@lru_cache(maxsize=4096)
def _field_of(name: str) -> bytes:
    """The field that an attribute stands in. Raises Refused."""
    if _NAME.fullmatch(name) is None:
        raise refuse(Code.BAD_REQUEST, f"{name[:80]!r}: an attribute's name is lower-case letters and digits")
    return b"ce-" + name.encode()


def _check(attributes: dict[str, str], code: Code) -> None:
    version = attributes.get("specversion", SPECVERSION)
    if version != SPECVERSION:
        raise refuse(code, f"ce-specversion is {version[:40]!r}; CloudEvents 1.0 is what is read here")
    time = attributes.get("time")
    if time is not None:
        try:
            parse_timestamp(time)
        except ValueError as error:
            raise refuse(code, f"ce-time: {error}") from error
    for name in ("id", "source", "type"):
        if attributes.get(name) == "":
            raise refuse(code, f"ce-{name} is empty; leave it out, and it is filled in")


def _fill(headers: Headers, attributes: dict[str, str], ident: str, defaults: Defaults) -> None:
    if "specversion" not in attributes:
        headers.append((b"ce-specversion", SPECVERSION.encode()))
    if "id" not in attributes:
        headers.append((b"ce-id", ident.encode()))
    if "source" not in attributes:
        headers.append((b"ce-source", defaults.source))
    if "type" not in attributes:
        headers.append((b"ce-type", defaults.type))
    if "time" not in attributes:
        headers.append((b"ce-time", defaults.time))


def _key(attributes: dict[str, str], code: Code) -> str:
    for name in _KEYS:
        key = attributes.get(name)
        if key:
            if len(key) > MAX_KEY or not key.isprintable():
                raise refuse(code, f"ce-{name}: an ordering key has at most {MAX_KEY} printable characters")
            return key
    return ""


def percent_encoded(text: str) -> str:
    """An attribute's value as a field writes it. Raises UnicodeEncodeError."""
    return quote(text, safe=_SAFE)


def _encoded(name: str, text: str) -> bytes:
    try:
        return percent_encoded(text).encode()
    except UnicodeEncodeError:  # half of a surrogate pair
        raise refuse(Code.BAD_REQUEST, f"the attribute {name[:80]!r} is not Unicode text") from None


# --- JSON -------------------------------------------------------------------------------------------------------------------


def _read_json(body: bytes | None) -> Any:
    try:
        return json.loads((body or b"").decode(), parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise refuse(Code.BAD_REQUEST, f"the body is not JSON: {str(error)[:200]}") from error


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _attribute_text(name: str, value: Any) -> str:
    """Section 2.2: what an attribute's JSON value is as text."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    raise refuse(
        Code.BAD_REQUEST, f"the attribute {name[:80]!r} is neither text, nor a whole number, nor true or false"
    )


def _content_type(text: str) -> bytes:
    if not text.isascii() or not text.isprintable() or not text.strip():
        raise refuse(Code.BAD_REQUEST, "the attribute datacontenttype is not a media type")
    return text.strip().encode()


def _data(value: dict[str, Any], content_type: str | None) -> bytes | None:
    """Section 3.1: `data_base64` is bytes, `data` is JSON or, with a content type that is no JSON, text."""
    data, encoded = value.get("data"), value.get("data_base64")
    if encoded is not None:
        if data is not None:
            raise refuse(Code.BAD_REQUEST, "an event has data or data_base64, not both")
        try:
            return b64decode(encoded, validate=True)
        except (Base64Error, ValueError, TypeError):
            raise refuse(Code.BAD_REQUEST, "data_base64 is not Base64 text") from None
    if data is None:
        return None
    try:
        if isinstance(data, str) and content_type is not None and not _is_json(content_type):
            return data.encode()
        try:
            return _encode_json(data).encode()
        except UnicodeEncodeError:  # half of a surrogate pair: JSON can say it, UTF-8 cannot
            return _encode_ascii(data).encode()
    except ValueError:  # a number that no double can hold, or text that is not Unicode
        raise refuse(Code.BAD_REQUEST, "the data has a number or a text that cannot be passed on") from None


@lru_cache(maxsize=256)
def _is_json(content_type: str) -> bool:
    return _JSON_TYPE.fullmatch(content_type.partition(";")[0].strip().lower()) is not None
