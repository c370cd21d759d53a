"""What travels in the body of a broker message: wire version 1.

A body is one or more records back to back (a pack; this version sends one and reads up to MAX_RECORDS):

    u8   wire version, 1
    u32  length of the header, big-endian
    u32  length of the payload, big-endian
    header   a msgpack map with short string keys, below
    payload  the HTTP body, raw; empty where there is none

The payload stands outside the map so that a large one is neither scanned nor copied twice, and so that what msgpack has to
parse is bounded by MAX_HEADER whatever a sender claims. Strings are msgpack str (UTF-8), bytes are bin. A reader ignores
keys it does not know; a missing key means the default. What is marked `word` is a str of visible ASCII, because it comes to
stand in a header. Test vectors: tests/vectors/message-v1.json.

    every record
      k   str   kind: "q" request, "r" response, "f" fault (an error by meshq itself), "x" dead letter
      i   str   message id, 1 to 64 characters of [A-Za-z0-9_-]; an answer bears the id of its request
    request
      m   str   method
      p   bin   origin-form target: path and query as the caller wrote them
      h   array field names and values in turn, all bin
      e   bool  the request had a body (possibly empty); default: payload is not empty
      f   word  the calling service, as it says itself
      s   str   selector the receiver has to satisfy; absent where the topic says it all
      d   uint  deadline, mesh time in Unix milliseconds; absent: none
      w   uint  milliseconds that were left of the deadline when it was sent
      n   uint  attempt, default 1
      o   uint  how often receivers outside the selector put it back, default 0
      c   word  who called, proved; believed only in a message published by the receiving service itself, or by an operator
      a   uint  it was accepted durably, at this mesh time in Unix milliseconds: nobody waits, so it is retried, then dead.
                Absent: a waited call, of which v, b, r and j are not looked at
      x   str   ordering key, 1 to 200 characters, none of them a control character
      z   bool  it is a copy made by a route policy's `mirror`: nobody wants its answer; default false
      v   word  of an event: its topic; the receiver's subscription then says the path, and p is not looked at
      b   bin   path of the caller's app to which its sidecar posts the result
      r   word  routing key on the replies exchange where a copy of the answer goes, for a caller who waits a while
      j   uint  how often it was brought back from the dead letters, default 0
    response
      s   uint  status
      h   array as above
      y   word  <service>/<version>/<instance> that served it
      n   uint  attempt, default 1
      f   word  of a result: why the request is dead nevertheless (the reason of its dead letter); absent: it is done
      b   bin   of a result: the callback of its request
    fault
      c   str   code, as in meshq.core.errors
      t   str   detail, for people
      r   bool  whether repeating the request may succeed
      y   word  who says so
      f, b      as in a response
    dead letter; its payload is the body of the broker message that could not be handled, as it was
      c   word  reason, as in meshq.core.dead
      t   str   detail, for people
      q   str   the queue it was in
      a   uint  when it died, mesh time in Unix milliseconds
      y   word  <service>/<version>/<instance> that gave up on it
      s   uint  status of the app's last answer, absent where there was none
      e   bin   how that answer began, at most MAX_EXCERPT bytes
      n   uint  attempts made, default 0
      u   word  who sent the message, as far as the broker or our own service proved it

AMQP properties repeat what brokers and operators look at (message_id, type, reply_to, expiration, user_id); a header table
would cost more to encode than all of this. A message with another content type than CONTENT_TYPE was not made by meshq.
"""

import re
import struct
from functools import lru_cache
from typing import Any, NamedTuple

import msgpack

from meshq.core.errors import TABLE, Code, Problem
from meshq.core.http import Headers

CONTENT_TYPE = "application/vnd.meshq.v1+msgpack"
WIRE_VERSION = 1
MAX_HEADER = 256 * 1024
"""Bytes of one record's header: the HTTP adapters take at most 64 KiB of fields, so there is room for what comes later."""
MAX_FIELDS = 512
MAX_RECORDS = 1000
MAX_EXCERPT = 1024
MAX_KEY = 200

_PREFIX = struct.Struct(">BII")
_ID = re.compile(r"[A-Za-z0-9_-]{1,64}", re.ASCII)
_PLAIN = re.compile(r"[\x21-\x7e]*", re.ASCII)
_METHOD = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,32}", re.ASCII)


# Methods and names of services come again and again.
@lru_cache(maxsize=256)
def is_method(text: str) -> bool:
    return _METHOD.fullmatch(text) is not None


@lru_cache(maxsize=4096)
def _is_plain(text: str) -> bool:
    return _PLAIN.fullmatch(text) is not None


class DecodeError(ValueError):
    """Bytes that are not wire version 1; the message says where and why."""


class Request(NamedTuple):
    id: str
    method: str
    target: bytes
    headers: Headers
    body: bytes | None
    caller: str
    selector: str = ""
    deadline_ms: int | None = None
    left_ms: int | None = None
    attempt: int = 1
    misses: int = 0
    proved_caller: str = ""
    accepted_ms: int | None = None
    key: str = ""
    event: str = ""
    callback: bytes = b""
    answer_to: str = ""
    replays: int = 0
    mirrored: bool = False
    """A copy of a call that another version handles. It comes without `reply_to`, `callback` and `answer_to`, waited or durable;
    its answer is dropped, and so is it itself where it cannot be handled. The app is told by `Meshq-Mirror: 1`."""

    @property
    def durable(self) -> bool:
        return self.accepted_ms is not None


class Response(NamedTuple):
    id: str
    status: int
    headers: Headers
    body: bytes
    served_by: str
    attempt: int = 1
    failed: str = ""
    callback: bytes = b""


class Fault(NamedTuple):
    id: str
    code: Code
    detail: str
    retryable: bool
    served_by: str = ""
    failed: str = ""
    callback: bytes = b""

    def as_problem(self) -> Problem:
        return Problem(self.code, self.detail, self.retryable)


class DeadLetter(NamedTuple):
    id: str
    reason: str
    detail: str
    queue: str
    at_ms: int
    instance: str
    body: bytes
    status: int | None = None
    excerpt: bytes = b""
    attempts: int = 0
    sender: str = ""


Message = Request | Response | Fault | DeadLetter


def is_id(text: str) -> bool:
    """Whether this can be the id of a message."""
    return _ID.fullmatch(text) is not None


def encode_request(message: Request) -> bytes:
    header: dict[str, Any] = {
        "k": "q",
        "i": message.id,
        "m": message.method,
        "p": message.target,
        "h": _flat(message.headers),
        "f": message.caller,
    }
    body = message.body
    if body == b"":
        header["e"] = True
    if message.selector:
        header["s"] = message.selector
    if message.deadline_ms is not None:
        header["d"] = message.deadline_ms
    if message.left_ms is not None:
        header["w"] = message.left_ms
    if message.attempt != 1:
        header["n"] = message.attempt
    if message.misses:
        header["o"] = message.misses
    if message.proved_caller:
        header["c"] = message.proved_caller
    if message.key:
        header["x"] = message.key
    if message.mirrored:
        header["z"] = True
    if message.accepted_ms is not None:
        _add_durable(header, message)
    return _record(header, body or b"")


def _add_durable(header: dict[str, Any], message: Request) -> None:
    header["a"] = message.accepted_ms
    if message.event:
        header["v"] = message.event
    if message.callback:
        header["b"] = message.callback
    if message.answer_to:
        header["r"] = message.answer_to
    if message.replays:
        header["j"] = message.replays


def encode_response(message: Response) -> bytes:
    header: dict[str, Any] = {
        "k": "r",
        "i": message.id,
        "s": message.status,
        "h": _flat(message.headers),
        "y": message.served_by,
    }
    if message.attempt != 1:
        header["n"] = message.attempt
    _add_result(header, message)
    return _record(header, message.body)


def encode_fault(message: Fault) -> bytes:
    header = {"k": "f", "i": message.id, "c": message.code.value, "t": message.detail, "r": message.retryable}
    if message.served_by:
        header["y"] = message.served_by
    _add_result(header, message)
    return _record(header, b"")


def _add_result(header: dict[str, Any], message: Response | Fault) -> None:
    if message.failed:
        header["f"] = message.failed
    if message.callback:
        header["b"] = message.callback


def encode_dead_letter(message: DeadLetter) -> bytes:
    header = {
        "k": "x",
        "i": message.id,
        "c": message.reason,
        "t": message.detail,
        "q": message.queue,
        "a": message.at_ms,
        "y": message.instance,
    }
    if message.status is not None:
        header["s"] = message.status
    if message.excerpt:
        header["e"] = message.excerpt
    if message.attempts:
        header["n"] = message.attempts
    if message.sender:
        header["u"] = message.sender
    return _record(header, message.body)


def encode(message: Message) -> bytes:
    match message:
        case Request():
            return encode_request(message)
        case Response():
            return encode_response(message)
        case Fault():
            return encode_fault(message)
        case DeadLetter():
            return encode_dead_letter(message)


def decode(data: bytes) -> list[Message]:
    """The records of one body, at least one. Any bytes give that or DecodeError, in time and memory linear in their
    number: lengths are checked before anything is taken out, and msgpack sees at most MAX_HEADER bytes at a time."""
    end = len(data)
    messages: list[Message] = []
    at = 0
    while True:
        if end - at < _PREFIX.size:
            raise DecodeError(f"cut off: {end - at} bytes at offset {at}, where a record begins with {_PREFIX.size}")
        version, header_size, payload_size = _PREFIX.unpack_from(data, at)
        if version != WIRE_VERSION:
            raise DecodeError(f"wire version {version} at offset {at}; this reads version {WIRE_VERSION}")
        start = at + _PREFIX.size
        if header_size > MAX_HEADER or start + header_size + payload_size > end:
            raise DecodeError(
                f"record at offset {at} claims {header_size} + {payload_size} bytes, {end - start} are there"
            )
        payload_at = start + header_size
        at = payload_at + payload_size
        messages.append(_message(data[start:payload_at], data[payload_at:at]))
        if at == end:
            return messages
        if len(messages) == MAX_RECORDS:
            raise DecodeError(f"more than {MAX_RECORDS} records in one body")


def _record(header: dict[str, Any], payload: bytes) -> bytes:
    packed: bytes = msgpack.packb(header)
    return _PREFIX.pack(WIRE_VERSION, len(packed), len(payload)) + packed + payload


def _flat(headers: Headers) -> list[bytes]:
    return [part for field in headers for part in field]


def _no_extension(code: int, data: bytes) -> Any:
    raise DecodeError(f"msgpack extension type {code}, which wire version 1 does not use")


def _message(header: bytes, payload: bytes) -> Message:
    try:
        fields = msgpack.unpackb(header, ext_hook=_no_extension, max_map_len=64, max_array_len=2 * MAX_FIELDS)
    except DecodeError:
        raise
    except (ValueError, msgpack.UnpackException, RecursionError, OverflowError, TypeError) as error:
        raise DecodeError(f"the header is not msgpack: {str(error)[:200]}") from error
    if not isinstance(fields, dict):
        raise DecodeError(f"the header is a {type(fields).__name__}, not a map")
    get = fields.get
    ident = get("i")
    if not isinstance(ident, str) or _ID.fullmatch(ident) is None:
        raise DecodeError("field i is not a message id")
    kind = get("k")
    if kind == "q":
        return _request(ident, fields, payload)
    if kind == "r":
        return _response(ident, fields, payload)
    if kind == "f":
        return _fault(ident, fields)
    if kind == "x":
        return _dead_letter(ident, fields, payload)
    raise DecodeError(f"field k is {kind[:20]!r}, not q, r, f or x" if isinstance(kind, str) else "field k is no str")


def _request(ident: str, fields: dict[str, Any], payload: bytes) -> Request:
    get = fields.get
    method, target = get("m"), get("p")
    if not isinstance(method, str) or not is_method(method):
        raise DecodeError("field m is not a method")
    if not isinstance(target, bytes) or not (target.startswith(b"/") or target == b"*") or not _clean_target(target):
        raise DecodeError("field p is not the path of a request")
    accepted_ms = _number(fields["a"], "a") if "a" in fields else None
    return Request(
        ident,
        method,
        target,
        read_headers(get("h")),
        payload if payload or get("e") is True else None,
        _plain(get("f", ""), "f", 63),
        # Most messages have none of what follows: a look costs less than a check of its default.
        _text(fields["s"], "s", 100) if "s" in fields else "",
        _number(fields["d"], "d") if "d" in fields else None,
        _number(fields["w"], "w") if "w" in fields else None,
        _number(fields["n"], "n") or 1 if "n" in fields else 1,
        _number(fields["o"], "o") or 0 if "o" in fields else 0,
        _plain(fields["c"], "c", 63) if "c" in fields else "",
        accepted_ms,
        _key(fields["x"]) if "x" in fields else "",
        *(_NOTHING_DURABLE if accepted_ms is None else _durable(fields)),
        "z" in fields and _is_copy(fields["z"]),
    )


_NOTHING_DURABLE = ("", b"", "", 0)


def _durable(fields: dict[str, Any]) -> tuple[str, bytes, str, int]:
    return (
        _plain(fields["v"], "v", 160) if "v" in fields else "",
        _path(fields["b"]) if "b" in fields else b"",
        _plain(fields["r"], "r", 255) if "r" in fields else "",
        _number(fields["j"], "j") or 0 if "j" in fields else 0,
    )


def _is_copy(value: Any) -> bool:
    if type(value) is not bool:
        raise DecodeError("field z is not a boolean")
    return value


def _response(ident: str, fields: dict[str, Any], payload: bytes) -> Response:
    get = fields.get
    status = get("s")
    if type(status) is not int or not 200 <= status <= 999:
        raise DecodeError("field s is not the status of a response")
    attempt = _number(fields["n"], "n") or 1 if "n" in fields else 1
    served_by = _plain(get("y", ""), "y", 300)
    return Response(ident, status, read_headers(get("h")), payload, served_by, attempt, *_result(fields))


def _result(fields: dict[str, Any]) -> tuple[str, bytes]:
    failed = _plain(fields["f"], "f", 63) if "f" in fields else ""
    return failed, _path(fields["b"]) if "b" in fields else b""


_CODES = {code.value: code for code in Code}


def _fault(ident: str, fields: dict[str, Any]) -> Fault:
    get = fields.get
    name = get("c")
    code = _CODES.get(name) if isinstance(name, str) else None
    if code is None:
        raise DecodeError("field c is not an error code")
    retryable = get("r", TABLE[code].retryable)
    if type(retryable) is not bool:
        raise DecodeError("field r is not a boolean")
    detail, served_by = _text(get("t", ""), "t", MAX_HEADER), _plain(get("y", ""), "y", 300)
    return Fault(ident, code, detail, retryable, served_by, *_result(fields))


def _dead_letter(ident: str, fields: dict[str, Any], payload: bytes) -> DeadLetter:
    get = fields.get
    return DeadLetter(
        ident,
        _plain(get("c"), "c", 63),
        _text(get("t", ""), "t", MAX_HEADER),
        _text(get("q", ""), "q", 255),
        _number(get("a", 0), "a") or 0,
        _plain(get("y", ""), "y", 300),
        payload,
        _number(fields["s"], "s") if "s" in fields else None,
        _excerpt(get("e", b"")),
        _number(get("n", 0), "n") or 0,
        _plain(get("u", ""), "u", 63),
    )


def _excerpt(value: Any) -> bytes:
    if not isinstance(value, bytes) or len(value) > MAX_EXCERPT:
        raise DecodeError(f"field e is not an excerpt of at most {MAX_EXCERPT} bytes")
    return value


def _key(value: Any) -> str:
    text = _text(value, "x", MAX_KEY)
    if not text or not text.isprintable():
        raise DecodeError("field x is not an ordering key")
    return text


def _path(value: Any) -> bytes:
    if not isinstance(value, bytes) or not value.startswith(b"/") or not _clean_target(value):
        raise DecodeError("field b is not a path")
    return value


def read_headers(flat: Any) -> Headers:
    if not isinstance(flat, list) or len(flat) % 2:
        raise DecodeError("field h is not an array of names and values")
    if flat and set(map(type, flat)) != {bytes}:
        raise DecodeError("field h has something else than bytes in it")
    pairs = iter(flat)
    headers = list(zip(pairs, pairs, strict=True))
    joined = b"".join(flat)
    # One look over all of it: a line break in here would be another header, or another request, at the app.
    if b"\n" in joined or b"\r" in joined or b"\0" in joined:
        raise DecodeError("field h has a line break or NUL in it")
    return headers


def _clean_target(target: bytes) -> bool:
    return not (b" " in target or b"\n" in target or b"\r" in target or b"\0" in target or b"\t" in target)


def _text(value: Any, name: str, longest: int) -> str:
    if not isinstance(value, str) or len(value) > longest:
        raise DecodeError(f"field {name} is not a text of at most {longest} characters")
    return value


def _plain(value: Any, name: str, longest: int) -> str:
    """What becomes a header's value at one end or the other: a line break in here would be another header."""
    if not _is_plain(_text(value, name, longest)):
        raise DecodeError(f"field {name} has something else than visible ASCII in it")
    return str(value)


def _number(value: Any, name: str) -> int | None:
    if value is None:
        return None
    if type(value) is not int or not 0 <= value < 2**53:
        raise DecodeError(f"field {name} is not a number from 0 to 2^53")
    return value
