"""Writes link-v1.json beside it: `python -m tests.vectors.write_link_v1`.

The file is the link's memory, and other implementations are held to it. It is written anew on purpose only, when version 1 gets
something more; what was in it before must not change.
"""

import json
import struct
from pathlib import Path
from typing import Any

import msgpack

from meshq.core import link
from meshq.core.http import Failed, Failure, HttpRequest, HttpResponse
from meshq.core.link import Hello, Pong

FILE = Path(__file__).with_name("link-v1.json")

MOST = 2**53 - 1

WRITERS = {
    "HELLO": lambda hello: link.hello(Hello(**hello)),
    "REQUEST": lambda id, request: link.request(id, _request(request)),
    "RESPONSE": lambda id, response: link.response(id, _response(response)),
    "FAILED": lambda id, failed: link.failed(
        id, Failed(Failure(failed["failure"]), failed["detail"], failed["status"])
    ),
    "CANCEL": lambda id: link.cancel(id),
    "CREDIT": lambda requests: link.credit(requests),
    "GOODBYE": lambda: link.goodbye(),
    "PING": lambda number: link.ping(number),
    "PONG": lambda number, pong: link.pong(number, Pong(**pong)),
}
"""From the words of JSON to the bytes of a frame."""


def as_json(frame: list[Any]) -> dict[str, Any]:
    """What a reader makes of a frame of a kind that it knows, in words of JSON: bytes as hexadecimal digits."""
    kind = link.Kind(frame[0]).name
    match kind:
        case "HELLO":
            said: dict[str, Any] = {"hello": link.read_hello(frame)._asdict()}
        case "REQUEST":
            request = link.read_request(frame)._asdict()
            said = {"id": link.read_number(frame), "request": {name: _words(value) for name, value in request.items()}}
        case "RESPONSE":
            response = link.read_response(frame)._asdict()
            said = {
                "id": link.read_number(frame),
                "response": {name: _words(value) for name, value in response.items()},
            }
        case "FAILED":
            failed = link.read_failed(frame)
            words = {"failure": failed.failure.value, "detail": failed.detail, "status": failed.status}
            said = {"id": link.read_number(frame), "failed": words}
        case "CANCEL":
            said = {"id": link.read_number(frame)}
        case "CREDIT":
            said = {"requests": link.read_number(frame)}
        case "PING":
            said = {"number": link.read_number(frame)}
        case "PONG":
            said = {"number": link.read_number(frame), "pong": link.read_pong(frame)._asdict()}
        case _:
            said = {}
    return {"kind": kind, **said}


def from_json(said: dict[str, Any]) -> bytes:
    """What `as_json` made, as the bytes of a frame again."""
    given = dict(said)
    return WRITERS[given.pop("kind")](**given)


def _words(value: Any) -> Any:
    match value:
        case bytes():
            return value.hex()
        case list():
            return [[name.hex(), content.hex()] for name, content in value]
    return value


def _request(said: dict[str, Any]) -> HttpRequest:
    method, target = bytes.fromhex(said["method"]), bytes.fromhex(said["target"])
    return HttpRequest(method, target, _fields(said["headers"]), _body(said["body"]))


def _response(said: dict[str, Any]) -> HttpResponse:
    return HttpResponse(said["status"], _fields(said["headers"]), bytes.fromhex(said["body"]))


def _fields(said: list[list[str]]) -> list[tuple[bytes, bytes]]:
    return [(bytes.fromhex(name), bytes.fromhex(value)) for name, value in said]


def _body(said: str | None) -> bytes | None:
    return None if said is None else bytes.fromhex(said)


LEAST = HttpRequest(b"GET", b"/", [], None)
FULL = HttpRequest(
    b"POST",
    b"/v1/call/orders@^2/create?a=b&c=%C3%A9",
    [(b"Content-Type", b"application/json"), (b"X-Tag", b"1"), (b"x-tag", b"2"), (b"X-Latin", b"caf\xe9\ttea")],
    b'{"total": 7}\r\n\x00\xff',
)
ANSWER = HttpResponse(200, [(b"Content-Type", b"text/plain")], b"hello")

GOOD: list[tuple[str, bytes]] = [
    ("hello: of a sidecar", link.hello(Hello(4096))),
    ("hello: of an app that handles requests", link.hello(Hello(4096, True))),
    ("hello: that grants nothing yet", link.hello(Hello(0))),
    ("request: the least there can be", link.request(1, LEAST)),
    ("request: everything there can be", link.request(2, FULL)),
    ("request: an empty body is not no body", link.request(3, LEAST._replace(method=b"POST", body=b""))),
    ("request: for the server itself", link.request(4, LEAST._replace(method=b"OPTIONS", target=b"*"))),
    ("request: the largest id", link.request(MOST, LEAST)),
    ("request: id 0", link.request(0, LEAST)),
    ("request: a body that looks like a frame", link.request(5, LEAST._replace(body=link.goodbye()))),
    ("response: with a body", link.response(2, ANSWER)),
    ("response: without one", link.response(2, HttpResponse(204, []))),
    ("response: an unknown status", link.response(2, HttpResponse(799, []))),
    *((f"failed: {failure.value}", link.failed(3, Failed(failure, "why – 30 s"))) for failure in Failure),
    ("failed: without a word", link.failed(3, Failed(Failure.REFUSED, ""))),
    ("failed: with the status that was known", link.failed(3, Failed(Failure.TOO_LARGE, "over 4 MiB", 201))),
    ("cancel", link.cancel(4)),
    ("credit", link.credit(17)),
    ("credit: none from now on", link.credit(0)),
    ("goodbye", link.goodbye()),
    ("ping", link.ping(6)),
    ("pong: all is well", link.pong(6, Pong())),
    ("pong: with a fault, and wanting less", link.pong(6, Pong("the database is away", True))),
]


def frame(elements: Any) -> bytes:
    """A frame of this, made from the words of the format and not by meshq's encoder. Bytes go in as they are."""
    packed: bytes = elements if isinstance(elements, bytes) else msgpack.packb(elements)
    return struct.pack(">I", len(packed)) + packed


LENIENT: list[tuple[str, bytes]] = [
    ("hello: unknown keys and elements are passed over", frame([0, {"requests": 1, "later": [None]}, "more"])),
    ("hello: does not serve unless it says so", frame([0, {"requests": 1, "serves": 1}])),
    ("request: unknown elements are passed over", frame([1, 1, b"GET", b"/", [], None, {"later": 1}, "more"])),
    ("request: an id wider than it needs to be", frame(b"\x96\x01\xcf" + bytes(7) + b"\x02\xc4\x01M\xc4\x01/\x90\xc0")),
    ("response: unknown elements are passed over", frame([2, 1, 200, [], b"", None])),
    ("failed: an unknown failure counts as broken", frame([3, 1, "melted", "why", None])),
    ("failed: the status may be missing", frame([3, 1, "too-large", "why"])),
    ("failed: a status that is none", frame([3, 1, "too-large", "why", "201"])),
    ("goodbye: unknown elements are passed over", frame([6, "because"])),
    ("pong: wants no less unless it says so", frame([8, 1, "", 1])),
]
"""Read, but written otherwise."""

UNKNOWN: list[tuple[str, bytes]] = [
    ("the first kind that there is not yet", frame([9])),
    ("any other", frame([2**53 - 1, {"a": [b"b", None, 1.5]}])),
]
"""Passed over."""

_TWO_HOSTS = [b"Host", b"a", b"host", b"b"]

REFUSED: list[tuple[str, bytes]] = [
    ("request: cut short", frame([1, 7, b"GET", b"/", []])),
    ("request: the method is str", frame([1, 7, "GET", b"/", [], None])),
    ("request: the method is no token", frame([1, 7, b"GET /", b"/", [], None])),
    ("request: absolute-form", frame([1, 7, b"GET", b"http://orders.mesh/", [], None])),
    ("request: no target", frame([1, 7, b"GET", b"", [], None])),
    ("request: * without OPTIONS", frame([1, 7, b"GET", b"*", [], None])),
    ("request: a space in the target", frame([1, 7, b"GET", b"/a b", [], None])),
    ("request: a fragment in the target", frame([1, 7, b"GET", b"/#a", [], None])),
    ("request: fields that are pairs", frame([1, 7, b"GET", b"/", [[b"a", b"b"]], None])),
    ("request: a name without a value", frame([1, 7, b"GET", b"/", [b"a"], None])),
    ("request: a field of str", frame([1, 7, b"GET", b"/", ["a", "b"], None])),
    ("request: a line break in a value", frame([1, 7, b"GET", b"/", [b"a", b"b\r\nc: d"], None])),
    ("request: a control character in a value", frame([1, 7, b"GET", b"/", [b"a", b"b\x1b"], None])),
    ("request: a name that is none", frame([1, 7, b"GET", b"/", [b"a b", b"c"], None])),
    ("request: an empty name", frame([1, 7, b"GET", b"/", [b"", b"c"], None])),
    ("request: two Hosts", frame([1, 7, b"GET", b"/", _TWO_HOSTS, None])),
    ("request: the body is str", frame([1, 7, b"GET", b"/", [], "body"])),
    ("response: cut short", frame([2, 7, 200, []])),
    ("response: an interim status", frame([2, 7, 101, [], b""])),
    ("response: a status that is none", frame([2, 7, "200", [], b""])),
    ("response: a status over 999", frame([2, 7, 1000, [], b""])),
    ("response: a line break in a value", frame([2, 7, 200, [b"a", b"b\nc: d"], b""])),
    ("response: no body", frame([2, 7, 200, [], None])),
]
"""Not as they should be, but of a request that is known: it alone fails."""

BAD: list[tuple[str, bytes]] = [
    ("longer than a frame may be", struct.pack(">I", link.MAX_FRAME + 1)),
    ("empty", frame(b"")),
    ("no array", frame({0: 1})),
    ("an empty array", frame([])),
    ("a kind that is no number", frame(["HELLO"])),
    ("a negative kind", frame([-1])),
    ("not msgpack", frame(b"\x91\xc1")),
    ("cut off inside", frame(b"\x92\x06")),
    ("bytes behind the array", frame(b"\x91\x06\x00")),
    ("an extension type", frame([6, msgpack.ExtType(1, b"x")])),
    ("hello: no map", frame([0])),
    ("hello: says no number", frame([0, {"serves": True}])),
    ("hello: a negative number", frame([0, {"requests": -1}])),
    ("hello: a boolean for a number", frame([0, {"requests": True}])),
    ("request: no id", frame([1])),
    ("request: a negative id", frame([1, -1, b"GET", b"/", [], None])),
    ("response: an id of 2^53", frame([2, 2**53, 200, [], b""])),
    ("failed: no sentence", frame([3, 1, "broken"])),
    ("cancel: a fraction", frame([4, 1.0])),
    ("credit: no number", frame([5, None])),
    ("ping: no number", frame([7])),
    ("pong: cut short", frame([8, 1, ""])),
    ("pong: a fault that is no str", frame([8, 1, None, False])),
]
"""These end the link."""


def only(wire: bytes) -> list[Any]:
    """The one frame of `wire`. Raises DecodeError."""
    (found,) = link.FrameReader().feed(wire)
    return found


def vectors() -> dict[str, Any]:
    good = [(name, wire, True) for name, wire in GOOD] + [(name, wire, False) for name, wire in LENIENT]
    return {
        "format": "meshq link, meshq-link/1; the words are in meshq/core/link.py",
        "bytes": "in hexadecimal digits, here and in every field below that is bytes",
        "good": [
            {"name": name, "wire": wire.hex(), "canonical": canonical, "frame": as_json(only(wire))}
            for name, wire, canonical in good
        ],
        "unknown": [{"name": name, "wire": wire.hex()} for name, wire in UNKNOWN],
        "refused": [{"name": name, "wire": wire.hex()} for name, wire in REFUSED],
        "bad": [{"name": name, "wire": wire.hex()} for name, wire in BAD],
    }


if __name__ == "__main__":
    FILE.write_text(json.dumps(vectors(), indent=1, ensure_ascii=False) + "\n")
