"""The link between an app and its sidecar: the frames of version 1, `meshq-link/1`.

An app opens it on the sidecar's port with `GET /v1/link`, `Connection: Upgrade` and `Upgrade: meshq-link/1`; after the 101 both
ends send frames, and each may ask the other: the app calls and publishes, the sidecar delivers. A frame is

    u32  length of the rest, big-endian, at most MAX_FRAME
    a msgpack array, whose first element says its kind

    HELLO     [0, {"requests": uint, "serves": bool}]   first from each end, once: how many requests the other end may have open,
                                                        and (from an app) whether it handles any
    REQUEST   [1, id, method, target, fields, body]     all bin; fields: names and values in turn; body: bin, or nil where there is none
    RESPONSE  [2, id, status, fields, body]
    FAILED    [3, id, failure, detail, status]          instead of a response: a value of core.http.Failure, a sentence, and the
                                                        status of a response that was too large, else nil
    CANCEL    [4, id]                                   whoever asked wants no answer any more; none need follow
    CREDIT    [5, requests]                             from now on the other end may have so many requests open
    GOODBYE   [6]                                       ask nothing more here; what was asked is answered still
    PING      [7, number]                               is answered with a PONG, in its turn
    PONG      [8, number, fault, less]                  the PING's number; "" or why it is not well; whether it wants less work

An id is a uint below 2^53 that whoever asks chooses; each end counts its own, and uses none twice while it is open. A request is
open from REQUEST until RESPONSE, FAILED or CANCEL. Whoever has as many open as it was granted waits. A reader passes over kinds
that it does not know, and elements and keys behind those it does. Test vectors: tests/vectors/link-v1.json.

Whoever said GOODBYE closes the connection when nothing is open in either direction, and not before the PONG to a PING sent behind
it has come: a REQUEST that crossed the GOODBYE comes before that, and is FAILED as refused, so that it can be asked elsewhere.

A REQUEST whose fields or target cannot be is answered with 400, a RESPONSE that cannot be counts as none; what else is not as
written here (a frame that is none, another frame before HELLO, an id that is open, more open than was granted) ends the link.

What a request and its response mean is what they mean over HTTP (the sidecar's port, and what it asks of apps): the link is
another way for the same, so framing fields, `Host` and `Connection` have no place in it, and none is needed.
"""

import re
import struct
from collections.abc import Iterator
from enum import IntEnum
from functools import lru_cache
from itertools import chain
from typing import Any, NamedTuple

import msgpack

from meshq.core.http import Failed, Failure, Headers, HttpRequest, HttpResponse
from meshq.core.message import MAX_FIELDS, DecodeError, is_method, read_headers

PROTOCOL = "meshq-link/1"
PATH = b"/v1/link"
MAX_FRAME = 17 * 2**20
"""The largest body there is (15 MiB) and its fields."""
MAX_BODY = 16 * 2**20
MAX_FIELDS_BYTES = 128 * 1024
"""The HTTP adapters take 64 KiB; what the mesh adds on the way comes on top."""
MAX_TARGET = 8 * 1024
"""As over HTTP."""
MAX_BESIDE_BODY = 256 * 1024
"""Bytes of a frame without its largest bin: more than that is no request or response, but makes many small objects."""

_LENGTH = struct.Struct(">I")
_MOST_ELEMENTS = 2 * (MAX_FIELDS + 64)  # of fields; there is room for what the mesh adds
_TOKEN = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,256}")
_TARGET = re.compile(rb'/[!"$-~]*')
"""Visible ASCII without `#`: as strict as the HTTP server is."""
_CONTROL = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
_BINS = (0xC4, 0xC5, 0xC6)  # how a msgpack bin begins
_FAILURES = {failure.value: failure for failure in Failure}


class TooLong(ValueError):
    """A request or response that no reader takes in one frame."""


class Kind(IntEnum):
    HELLO = 0
    REQUEST = 1
    RESPONSE = 2
    FAILED = 3
    CANCEL = 4
    CREDIT = 5
    GOODBYE = 6
    PING = 7
    PONG = 8


class Hello(NamedTuple):
    requests: int
    """How many requests the other end may have open."""
    serves: bool = False


class Pong(NamedTuple):
    fault: str = ""
    less: bool = False


# --- out ---------------------------------------------------------------------------------------------------------------------


def hello(said: Hello) -> bytes:
    return _frame([0, {"requests": said.requests, "serves": said.serves}])


def request(number: int, asked: HttpRequest) -> bytes:
    """Raises TooLong."""
    fields = list(chain.from_iterable(asked.headers))
    return _bounded(_frame([1, number, asked.method, asked.target, fields, asked.body]), fields, asked.body or b"")


def response(number: int, answer: HttpResponse) -> bytes:
    """Raises TooLong."""
    fields = list(chain.from_iterable(answer.headers))
    return _bounded(_frame([2, number, answer.status, fields, answer.body]), fields, answer.body)


def failed(number: int, outcome: Failed) -> bytes:
    return _frame([3, number, outcome.failure.value, outcome.detail, outcome.status])


def cancel(number: int) -> bytes:
    return _frame([4, number])


def credit(requests: int) -> bytes:
    return _frame([5, requests])


def goodbye() -> bytes:
    return _frame([6])


def ping(number: int) -> bytes:
    return _frame([7, number])


def pong(number: int, said: Pong) -> bytes:
    return _frame([8, number, said.fault, said.less])


_pack = msgpack.Packer(autoreset=True).pack


def _frame(elements: list[Any]) -> bytes:
    packed: bytes = _pack(elements)
    return _LENGTH.pack(len(packed)) + packed


def _bounded(frame: bytes, fields: list[bytes], body: bytes) -> bytes:
    if len(body) > MAX_BODY:
        raise TooLong(f"the body is over {MAX_BODY} bytes, the most that a link carries")
    if len(frame) - len(body) > MAX_BESIDE_BODY or len(fields) > _MOST_ELEMENTS:
        raise TooLong(f"{len(fields) // 2} fields of {sum(map(len, fields))} bytes are more than a link carries")
    return frame


# --- in ----------------------------------------------------------------------------------------------------------------------


class FrameReader:
    """Cuts bytes as they come into frames: arrays whose first element is a uint."""

    def __init__(self, limit: int = MAX_FRAME) -> None:
        self._limit = limit
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[list[Any]]:
        """What is whole now. Raises DecodeError; nothing that follows can be read then."""
        if self._buffer:
            self._buffer += data
            whole: bytes | bytearray = self._buffer
        else:
            whole = data
        at, size = 0, len(whole)
        with memoryview(whole) as view:
            while size - at >= 4:
                (length,) = _LENGTH.unpack_from(view, at)
                if length > self._limit:
                    raise DecodeError(f"a frame of {length} bytes: at most {self._limit} are taken")
                if size - at - 4 < length:
                    break
                at += 4 + length
                with view[at - length : at] as packed:
                    elements = _unpack(packed)
                yield elements
        if whole is data:
            self._buffer += data[at:]
        else:
            del self._buffer[:at]


def _unpack(packed: memoryview) -> list[Any]:
    try:
        if len(packed) > MAX_BESIDE_BODY:
            _check_bulk(packed)
        elements = msgpack.unpackb(packed, max_ext_len=0, max_array_len=_MOST_ELEMENTS, max_map_len=64)
    except (ValueError, msgpack.UnpackException, RecursionError, OverflowError, TypeError) as error:
        raise DecodeError(f"a frame is not msgpack: {str(error)[:200]}") from error
    if not isinstance(elements, list) or not elements or not _is_uint(elements[0]):
        raise DecodeError("a frame is not an array that begins with its kind")
    return elements


def _check_bulk(packed: memoryview) -> None:
    """Raises DecodeError for a large frame whose bytes are not those of one bin: a byte of anything else can become an object of
    many."""
    reader = msgpack.Unpacker(max_buffer_size=len(packed))
    reader.feed(packed)
    largest = 0
    for _ in range(reader.read_array_header()):
        begin = reader.tell()
        reader.skip()
        if packed[begin] in _BINS:
            largest = max(largest, reader.tell() - begin)
    if len(packed) - largest > MAX_BESIDE_BODY:
        raise DecodeError(
            f"a frame has {len(packed) - largest} bytes beside a body: at most {MAX_BESIDE_BODY} are taken"
        )


def read_number(frame: list[Any]) -> int:
    """The id, number or count of a frame whose second element is one. Raises DecodeError, as all of these do."""
    if len(frame) < 2 or not _is_uint(frame[1]):
        raise DecodeError(f"a frame of kind {frame[0]} has no number")
    return int(frame[1])


def read_hello(frame: list[Any]) -> Hello:
    said = frame[1] if len(frame) > 1 else None
    if not isinstance(said, dict) or not _is_uint(said.get("requests")):
        raise DecodeError("HELLO does not say how many requests it takes")
    return Hello(said["requests"], said.get("serves", False) is True)


def read_request(frame: list[Any]) -> HttpRequest:
    if len(frame) < 6:
        raise DecodeError("REQUEST is cut short")
    _, _, method, target, fields, body = frame[:6]
    if not isinstance(method, bytes) or not method.isascii() or not is_method(method.decode()):
        raise DecodeError("REQUEST has no method")
    if not isinstance(target, bytes) or not _is_target(method, target):
        raise DecodeError(f"REQUEST has no origin-form target of at most {MAX_TARGET} bytes")
    if body is not None and not isinstance(body, bytes):
        raise DecodeError("the body of a REQUEST is neither bin nor nil")
    headers = _fields(fields)
    if _CONTROL.search(b"".join(fields)) is not None:
        raise DecodeError("a field of a REQUEST has a control character in it")
    if sum(map(_is_host, fields[::2])) > 1:
        raise DecodeError("REQUEST has more than one Host")
    return HttpRequest(method, target, headers, body)


def read_response(frame: list[Any]) -> HttpResponse:
    if len(frame) < 5:
        raise DecodeError("RESPONSE is cut short")
    _, _, status, fields, body = frame[:5]
    if not _is_status(status):
        raise DecodeError("RESPONSE has no status")
    if not isinstance(body, bytes):
        raise DecodeError("the body of a RESPONSE is not bin")
    return HttpResponse(status, _fields(fields), body)


def read_failed(frame: list[Any]) -> Failed:
    if len(frame) < 4 or not isinstance(frame[2], str) or not isinstance(frame[3], str):
        raise DecodeError("FAILED does not say what failed")
    status = frame[4] if len(frame) > 4 and _is_status(frame[4]) else None
    return Failed(_FAILURES.get(frame[2], Failure.BROKEN), frame[3], status)


def read_pong(frame: list[Any]) -> Pong:
    if len(frame) < 4 or not isinstance(frame[2], str):
        raise DecodeError("PONG is cut short")
    return Pong(frame[2], frame[3] is True)


def _fields(flat: Any) -> Headers:
    headers = read_headers(flat)
    if len(headers) > MAX_FIELDS:
        raise DecodeError(f"{len(headers)} fields: at most {MAX_FIELDS} are taken")
    if sum(map(len, flat)) > MAX_FIELDS_BYTES:
        raise DecodeError(f"more than {MAX_FIELDS_BYTES} bytes of fields")
    if not all(map(_is_name, flat[::2])):
        raise DecodeError("a field has no name")
    return headers


def _is_target(method: bytes, target: bytes) -> bool:
    if len(target) > MAX_TARGET:
        return False
    return target == b"*" if method == b"OPTIONS" and target[:1] == b"*" else _TARGET.fullmatch(target) is not None


@lru_cache(maxsize=4096)  # the same few come again and again
def _is_name(name: bytes) -> bool:
    return _TOKEN.fullmatch(name) is not None


@lru_cache(maxsize=4096)
def _is_host(name: bytes) -> bool:
    return name.lower() == b"host"


def _is_status(value: Any) -> bool:
    return type(value) is int and 200 <= value <= 999


def _is_uint(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**53
