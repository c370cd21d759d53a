"""The link's frames, held to their vectors, and what is made of bytes that are meant to hurt."""

import json
import struct
import tracemalloc
from collections.abc import Callable
from typing import Any

import msgpack
import pytest

from meshq.core import link
from meshq.core.http import HttpRequest, HttpResponse
from meshq.core.link import MAX_BODY, MAX_FRAME, FrameReader, Hello, TooLong
from meshq.core.message import DecodeError
from tests.vectors.write_link_v1 import FILE, as_json, frame, from_json, only, vectors

VECTORS = json.loads(FILE.read_text())


def wire(vector: dict[str, Any]) -> bytes:
    return bytes.fromhex(vector["wire"])


def named(vector: dict[str, Any]) -> str:
    return str(vector["name"])


@pytest.mark.parametrize("vector", VECTORS["good"], ids=named)
def test_a_good_vector_is_read(vector: dict[str, Any]) -> None:
    assert as_json(only(wire(vector))) == vector["frame"]


@pytest.mark.parametrize("vector", [each for each in VECTORS["good"] if each["canonical"]], ids=named)
def test_a_good_vector_is_written(vector: dict[str, Any]) -> None:
    assert from_json(vector["frame"]).hex() == vector["wire"]


@pytest.mark.parametrize("vector", VECTORS["unknown"], ids=named)
def test_an_unknown_kind_is_a_frame_all_the_same(vector: dict[str, Any]) -> None:
    assert only(wire(vector))[0] not in set(link.Kind)


@pytest.mark.parametrize("vector", VECTORS["refused"], ids=named)
def test_of_a_refused_vector_the_id_is_known(vector: dict[str, Any]) -> None:
    found = only(wire(vector))
    assert link.read_number(found) == 7
    with pytest.raises(DecodeError):
        as_json(found)


@pytest.mark.parametrize("vector", VECTORS["bad"], ids=named)
def test_a_bad_vector_ends_the_link(vector: dict[str, Any]) -> None:
    with pytest.raises(DecodeError):
        as_json(only(wire(vector)))


def test_the_file_is_what_its_writer_writes() -> None:
    assert vectors() == VECTORS, "on purpose? then: python -m tests.vectors.write_link_v1"


def test_a_stream_cut_anywhere_is_the_same_frames() -> None:
    stream = b"".join(wire(vector) for vector in VECTORS["good"])
    whole = list(FrameReader().feed(stream))
    assert len(whole) == len(VECTORS["good"])
    bytewise = FrameReader()
    assert [found for at in range(len(stream)) for found in bytewise.feed(stream[at : at + 1])] == whole
    for cut in range(1, len(stream)):
        reader = FrameReader()
        assert [*reader.feed(stream[:cut]), *reader.feed(stream[cut:])] == whole


def test_a_length_that_is_too_long_is_refused_before_anything_of_it_came() -> None:
    reader = FrameReader()
    assert list(reader.feed(struct.pack(">I", MAX_FRAME))) == []
    with pytest.raises(DecodeError, match="a frame of 17825793 bytes: at most 17825792 are taken"):
        list(FrameReader().feed(struct.pack(">I", MAX_FRAME + 1)))


@pytest.mark.parametrize(
    "packed",
    [
        b"\xdd\xff\xff\xff\xff",
        b"\x92\x01\xdd\xff\xff\xff\xff",
        b"\x92\x01" + b"\xdd\x00\xff\xff\xff" * 50_000,
        b"\x92\x06\xdd" + struct.pack(">I", MAX_FRAME - 100) + bytes(MAX_FRAME - 100),
        msgpack.packb([1, [[[]] * 1000] * 1000]),
        msgpack.packb([1, 1, b"GET", b"/", [], None, {str(n): {} for n in range(50_000)}]),
        msgpack.packb([1, 1, b"GET", b"/", [], "x" * 300_000]),
    ],
    ids=["array", "in an array", "nested", "of small numbers", "of arrays", "a wide map", "a long str"],
)
def test_what_is_meant_to_grow_does_not(packed: bytes) -> None:
    data = frame(packed)
    tracemalloc.start()
    try:
        with pytest.raises(DecodeError):
            only(data)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < 2 * len(data) + 2**24


def test_the_largest_request_and_response_pass() -> None:
    fields = [(b"X-%03d" % n, b"v" * 200) for n in range(500)]
    body = bytes(MAX_BODY)
    asked, answer = HttpRequest(b"PUT", b"/" + b"a" * 8000, fields, body), HttpResponse(200, fields, body)
    assert link.read_request(only(link.request(2**53 - 1, asked))) == asked
    assert link.read_response(only(link.response(2**53 - 1, answer))) == answer


@pytest.mark.parametrize(
    ("fields", "body"),
    [([], bytes(MAX_BODY + 1)), ([(b"X", bytes(300_000))], b""), ([(b"X", b"y")] * 600, b"")],
    ids=["body", "bytes", "fields"],
)
def test_what_no_reader_would_take_is_not_written(fields: list[tuple[bytes, bytes]], body: bytes) -> None:
    with pytest.raises(TooLong):
        link.request(1, HttpRequest(b"PUT", b"/", fields, body))
    with pytest.raises(TooLong):
        link.response(1, HttpResponse(200, fields, body))


def test_a_frame_whose_body_is_not_its_last_element_is_as_good() -> None:
    body = bytes(400_000)
    found = only(frame([1, 1, b"PUT", b"/", [], body, "of a later version"]))
    assert link.read_request(found) == HttpRequest(b"PUT", b"/", [], body)


@pytest.mark.parametrize(
    ("read", "said", "says"),
    [
        (link.read_hello, [0, {}], "HELLO does not say how many requests it takes"),
        (link.read_number, [4, "x"], "a frame of kind 4 has no number"),
        (link.read_request, [1, 1, b"GET", b"orders", [], None], "no origin-form target of at most 8192 bytes"),
        (link.read_request, [1, 1, b"GET", b"/", [b"Host", b"a"] * 2, None], "more than one Host"),
        (link.read_request, [1, 1, b"GET", b"/", [b"X", b"y"] * 513, None], "513 fields: at most 512 are taken"),
        (link.read_response, [2, 1, 99, [], b""], "RESPONSE has no status"),
    ],
)
def test_the_error_says_why(read: Callable[[list[Any]], object], said: list[Any], says: str) -> None:
    with pytest.raises(DecodeError, match=says):
        read(said)


def test_a_later_hello_may_say_more() -> None:
    assert link.read_hello([0, {"requests": 3, "serves": True, "colour": "blue"}]) == Hello(3, True)
