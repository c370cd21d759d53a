"""Writes message-v1.json beside it: `python -m tests.vectors.write_message_v1`.

The file is the wire format's memory, and other implementations are held to it. It is written anew on purpose only, when
wire version 1 gets something more; what was in it before must not change.
"""

import json
import struct
from pathlib import Path
from typing import Any

import msgpack

from meshq.core.errors import Code
from meshq.core.message import DeadLetter, Fault, Message, Request, Response, decode, encode

FILE = Path(__file__).with_name("message-v1.json")

PLAIN = Request("m1", "GET", b"/", [], None, "checkout")
FULL = Request(
    "0123456789abcdef0123456789ABCDEF",
    "POST",
    b"/orders/7%2F8?q=a+b&c=%C3%A9",
    [(b"Host", b"orders.mesh"), (b"X-Tag", b"1"), (b"x-tag", b"2"), (b"X-Latin", b"caf\xe9")],
    b'{"total": 7}\r\n\x00\xff',
    "checkout",
    "^2.1",
    1_700_000_030_000,
    30_000,
    3,
    2,
    "checkout",
)
ANSWER = Response("m1", 200, [(b"Content-Type", b"text/plain")], b"hello", "orders/2.1.0/orders-7d9f-k3m2qa")
FAULT = Fault("m1", Code.DEADLINE, "keine Antwort – 30 s", True, "orders/2.1.0/i-1")
DEAD = DeadLetter(
    "m1",
    "undecodable",
    "field i is not a message id",
    "meshq.orders.v2.call",
    1_700_000_000_123,
    "orders/2.1.0/i-1",
    b"\x00\x01",
)

KEYED = PLAIN._replace(method="PUT", key="customer 17 \u2013 \u00e9")
SENT = PLAIN._replace(id="m3", method="POST", body=b"x", accepted_ms=1_700_000_000_000)
ALL_SENT = FULL._replace(
    left_ms=None,
    accepted_ms=1_700_000_000_001,
    key="customer-17",
    callback=b"/done?order=7",
    answer_to="checkout.i-1.0a1b",
    replays=2,
)
EVENT = SENT._replace(target=b"/", key="k", event="payments.settled.v1", replays=1)
RESULT = ANSWER._replace(status=422, attempt=5, failed="rejected", callback=b"/done")
LOST_RESULT = FAULT._replace(failed="attempts", callback=b"/")
ALL_DEAD = DEAD._replace(
    reason="attempts", status=503, excerpt=b'{"out": "of stock"}\xff', attempts=5, sender="checkout"
)

GOOD: list[tuple[str, list[Message]]] = [
    ("request: the least there can be", [PLAIN]),
    ("request: everything there can be", [FULL]),
    ("request: an empty body is not no body", [PLAIN._replace(method="POST", body=b"")]),
    ("request: no body although the method could have one", [PLAIN._replace(method="POST")]),
    ("request: for the server itself", [PLAIN._replace(method="OPTIONS", target=b"*")]),
    ("request: largest numbers", [PLAIN._replace(deadline_ms=2**53 - 1, left_ms=2**53 - 1, attempt=2**53 - 1)]),
    ("request: a body that looks like a record", [PLAIN._replace(body=b"\x01\x00\x00\x00\x00\x00\x00\x00\x00")]),
    ("response: with a body", [ANSWER]),
    ("response: without one", [ANSWER._replace(status=204, headers=[], body=b"", served_by="")]),
    ("response: after another attempt", [ANSWER._replace(status=503, attempt=2)]),
    ("fault: with everything", [FAULT]),
    ("fault: the least there can be", [Fault("m1", Code.NO_INSTANCE, "", False)]),
    ("dead letter: with the body as it was", [DEAD]),
    ("dead letter: of an empty message", [DEAD._replace(body=b"", detail="", instance="", at_ms=0)]),
    ("pack: two requests", [PLAIN, PLAIN._replace(id="m2", body=b"x")]),
    ("pack: of every kind", [FULL, ANSWER, FAULT, DEAD]),
    ("request: a waited one with an ordering key", [KEYED]),
    ("request: the longest ordering key", [KEYED._replace(key="\u00e9" * 200)]),
    ("request: the least that was accepted durably", [SENT]),
    ("request: everything that one accepted durably can have", [ALL_SENT]),
    ("request: accepted at the beginning of time", [SENT._replace(accepted_ms=0)]),
    ("request: an event", [EVENT]),
    ("response: as the result of a dead request", [RESULT]),
    ("response: as a result that is posted", [RESULT._replace(failed="")]),
    ("fault: as the result of a dead request", [LOST_RESULT]),
    ("dead letter: with everything", [ALL_DEAD]),
    ("dead letter: the longest excerpt", [ALL_DEAD._replace(excerpt=b"\0" * 1024)]),
    ("request: a copy whose answer nobody wants", [KEYED._replace(mirrored=True)]),
    ("request: a copy of one accepted durably", [SENT._replace(mirrored=True)]),
    ("pack: results of one turn", [RESULT, LOST_RESULT, RESULT._replace(id="m2", failed="", callback=b"")]),
]


def record(header: Any, payload: bytes = b"", version: int = 1) -> bytes:
    """A record with this header, made from the words of the format and not by meshq's encoder. A header given as bytes goes
    in as it is."""
    packed: bytes = header if isinstance(header, bytes) else msgpack.packb(header)
    return struct.pack(">BII", version, len(packed), len(payload)) + packed + payload


LEAST = {"k": "q", "i": "m1", "m": "GET", "p": b"/", "h": []}
"""The header of the smallest request."""

_OF_DURABLE = {"v": 1, "b": b"no path", "r": "two\nlines", "j": -1}
"""Nothing that a durable request could have."""

LENIENT: list[tuple[str, bytes]] = [
    ("request: unknown keys are ignored", record(LEAST | {"zz": [1, {"a": None}], "new": b"x"})),
    ("request: missing keys mean their defaults", record(LEAST)),
    ("request: keys in another order", record(dict(reversed(LEAST.items())))),
    (
        "request: numbers wider than they need to be",
        record(b"\x86" + msgpack.packb(LEAST)[1:] + b"\xa1n\xcf" + bytes(7) + b"\x02"),
    ),
    ("request: a body needs no flag", record(LEAST, b"x")),
    ("fault: retryable by the table where nothing is said", record({"k": "f", "i": "m1", "c": "unavailable"})),
    ("response: an unknown status", record({"k": "r", "i": "m1", "s": 799, "h": []})),
    ("request: what belongs to durable ones is not looked at in a waited one", record(LEAST | _OF_DURABLE)),
    ("request: no copy", record(LEAST | {"z": False})),
    ("request: a time of nil is none", record(LEAST | _OF_DURABLE | {"a": None})),
    ("dead letter: the least there can be", record({"k": "x", "i": "m1", "c": "rejected"})),
    ("dead letter: nothing is nothing", record({"k": "x", "i": "m1", "c": "rejected", "s": None, "e": b"", "n": 0})),
]

BAD: list[tuple[str, bytes]] = [
    ("nothing at all", b""),
    ("cut off in the prefix", record(LEAST)[:8]),
    ("cut off in the header", record(LEAST)[:-1]),
    ("cut off in the payload", record(LEAST, b"xyz")[:-1]),
    ("something behind the record", record(LEAST) + b"\x01"),
    ("another wire version", record(LEAST, version=2)),
    ("a header longer than all there is", b"\x01\xff\xff\xff\xff\x00\x00\x00\x00"),
    ("a header longer than is allowed", record(LEAST | {"zz": b"x" * 2**18})[:64]),
    ("a payload longer than all there is", b"\x01\x00\x00\x00\x01\xff\xff\xff\xff\x80"),
    ("a header that is not msgpack", record(b"\xc1")),
    ("an empty header", record(b"")),
    ("two things in a header", record(msgpack.packb(LEAST) + b"\xc0")),
    ("a header that is no map", record([1, 2])),
    ("a key that is no string", record(b"\x81\x01\x02")),
    ("text that is not UTF-8", record(b"\x82\xa1k\xa1q\xa1i\xa1\xff")),
    ("an extension type", record(b"\x81\xa1i\xd4\x05\x00")),
    ("no id", record({"k": "q"})),
    ("an id with a character that is none of an id", record(LEAST | {"i": "m 1"})),
    ("an id of 65 characters", record(LEAST | {"i": "m" * 65})),
    ("no kind", record({"i": "m1"})),
    ("an unknown kind", record(LEAST | {"k": "z"})),
    ("a kind that is no text", record(LEAST | {"k": [[[]]]})),
    ("a method that is none", record(LEAST | {"m": "GET /"})),
    ("a target that is bytes of nothing", record(LEAST | {"p": b""})),
    ("a target that is text", record(LEAST | {"p": "/"})),
    ("a target in absolute form", record(LEAST | {"p": b"http://a/"})),
    ("a target with a line break", record(LEAST | {"p": b"/\r\nX: y"})),
    ("no header fields", record({k: v for k, v in LEAST.items() if k != "h"})),
    ("a field without a value", record(LEAST | {"h": [b"A"]})),
    ("a field that is text", record(LEAST | {"h": ["A", "b"]})),
    ("a field with a line break", record(LEAST | {"h": [b"A", b"b\nC: d"]})),
    ("a field with a NUL", record(LEAST | {"h": [b"A\0", b"b"]})),
    ("a caller with a line break", record(LEAST | {"f": "a\r\nX: y"})),
    ("a caller that is too long", record(LEAST | {"f": "a" * 64})),
    ("a negative deadline", record(LEAST | {"d": -1})),
    ("a deadline of 2^53", record(LEAST | {"d": 2**53})),
    ("an attempt that is a boolean", record(LEAST | {"n": True})),
    ("an attempt that is a fraction", record(LEAST | {"n": 1.0})),
    ("an informational status", record({"k": "r", "i": "m1", "s": 100, "h": []})),
    ("a status of four digits", record({"k": "r", "i": "m1", "s": 1000, "h": []})),
    ("who served it, with a line break", record({"k": "r", "i": "m1", "s": 200, "h": [], "y": "a\r\nX: y"})),
    ("an error code that is none", record({"k": "f", "i": "m1", "c": "oops"})),
    ("retryable as a number", record({"k": "f", "i": "m1", "c": "deadline", "r": 1})),
    ("a dead letter without a reason", record({"k": "x", "i": "m1"})),
    ("a good record, then a bad one", record(LEAST) + record({"k": "q"})),
    ("accepted before time began", record(LEAST | {"a": -1})),
    ("accepted in words", record(LEAST | {"a": "now"})),
    ("a copy by number", record(LEAST | {"z": 1})),
    ("an empty ordering key", record(LEAST | {"x": ""})),
    ("an ordering key of 201 characters", record(LEAST | {"x": "k" * 201})),
    ("an ordering key with a line break", record(LEAST | {"x": "a\r\nX: y"})),
    ("an ordering key with a line separator", record(LEAST | {"x": "a\u2028b"})),
    ("an ordering key that is bytes", record(LEAST | {"x": b"k"})),
    ("an event with a line break", record(LEAST | {"a": 1, "v": "a\nb"})),
    ("an event that is too long", record(LEAST | {"a": 1, "v": "a" * 161})),
    ("a callback that is text", record(LEAST | {"a": 1, "b": "/done"})),
    ("a callback to another host", record(LEAST | {"a": 1, "b": b"http://elsewhere/"})),
    ("a callback with a line break", record(LEAST | {"a": 1, "b": b"/done\r\nX: y"})),
    ("a routing key for the answer that is no word", record(LEAST | {"a": 1, "r": "a b"})),
    ("a routing key for the answer that is too long", record(LEAST | {"a": 1, "r": "a" * 256})),
    ("a negative number of replays", record(LEAST | {"a": 1, "j": -1})),
    ("a response that failed in two lines", record({"k": "r", "i": "m1", "s": 200, "h": [], "f": "a\nb"})),
    ("a response with a callback that is none", record({"k": "r", "i": "m1", "s": 200, "h": [], "b": b"done"})),
    ("a fault that failed as a number", record({"k": "f", "i": "m1", "c": "deadline", "f": 1})),
    ("a fault with a callback of two words", record({"k": "f", "i": "m1", "c": "deadline", "b": b"/a b"})),
    ("a dead letter whose status is text", record({"k": "x", "i": "m1", "c": "rejected", "s": "422"})),
    ("a dead letter whose excerpt is text", record({"k": "x", "i": "m1", "c": "rejected", "e": "no"})),
    ("a dead letter whose excerpt is too long", record({"k": "x", "i": "m1", "c": "rejected", "e": b"x" * 1025})),
    ("a dead letter with attempts below none", record({"k": "x", "i": "m1", "c": "rejected", "n": -1})),
    ("a dead letter whose sender has two lines", record({"k": "x", "i": "m1", "c": "rejected", "u": "a\nb"})),
]


def as_json(message: Message) -> dict[str, Any]:
    """The fields of a message in words of JSON: bytes as hexadecimal digits, codes by their value."""
    return {"kind": type(message).__name__, **{k: _value(v) for k, v in message._asdict().items()}}


def _value(value: Any) -> Any:
    match value:
        case bytes():
            return value.hex()
        case Code():
            return value.value
        case list():
            return [[name.hex(), content.hex()] for name, content in value]
    return value


def from_json(fields: dict[str, Any]) -> Message:
    """What `as_json` made, as a message again."""
    given = dict(fields)
    kind = {"Request": Request, "Response": Response, "Fault": Fault, "DeadLetter": DeadLetter}[given.pop("kind")]
    if "target" in given:
        given["target"] = bytes.fromhex(given["target"])
    if "headers" in given:
        given["headers"] = [(bytes.fromhex(n), bytes.fromhex(v)) for n, v in given["headers"]]
    for name in ("body", "callback", "excerpt"):
        if given.get(name) is not None:
            given[name] = bytes.fromhex(given[name])
    if "code" in given:
        given["code"] = Code(given["code"])
    return kind(**given)


def vectors() -> dict[str, Any]:
    good = [(name, messages, b"".join(map(encode, messages)), True) for name, messages in GOOD]
    good += [(name, decode(wire), wire, False) for name, wire in LENIENT]
    return {
        "format": "meshq message, wire version 1; the words are in meshq/core/message.py",
        "bytes": "in hexadecimal digits, here and in every field below that is bytes",
        "good": [
            {"name": name, "wire": wire.hex(), "canonical": canonical, "messages": [as_json(m) for m in messages]}
            for name, messages, wire, canonical in good
        ],
        "bad": [{"name": name, "wire": wire.hex()} for name, wire in BAD],
    }


if __name__ == "__main__":
    FILE.write_text(json.dumps(vectors(), indent=1, ensure_ascii=False) + "\n")
