"""The wire format, held to its vectors, and what it does with bytes that are meant to hurt."""

import json
import struct
import tracemalloc
from typing import Any

import msgpack
import pytest

from meshq.core import message
from meshq.core.errors import Code, Problem
from meshq.core.message import (
    MAX_HEADER,
    MAX_RECORDS,
    DecodeError,
    Fault,
    Request,
    decode,
    encode,
    is_id,
)
from tests.vectors.write_message_v1 import FILE, LEAST, PLAIN, as_json, from_json, record, vectors

VECTORS = json.loads(FILE.read_text())


@pytest.mark.parametrize("vector", VECTORS["good"], ids=lambda v: v["name"])
def test_a_good_vector_is_read(vector: dict[str, Any]) -> None:
    assert [as_json(m) for m in decode(bytes.fromhex(vector["wire"]))] == vector["messages"]


@pytest.mark.parametrize("vector", [v for v in VECTORS["good"] if v["canonical"]], ids=lambda v: v["name"])
def test_a_good_vector_is_written(vector: dict[str, Any]) -> None:
    assert b"".join(encode(from_json(m)) for m in vector["messages"]).hex() == vector["wire"]


@pytest.mark.parametrize("vector", VECTORS["bad"], ids=lambda v: v["name"])
def test_a_bad_vector_is_refused(vector: dict[str, Any]) -> None:
    with pytest.raises(DecodeError):
        decode(bytes.fromhex(vector["wire"]))


def test_the_file_is_what_its_writer_writes() -> None:
    assert vectors() == VECTORS, "on purpose? then: python -m tests.vectors.write_message_v1"


@pytest.mark.parametrize(
    ("wire", "says"),
    [
        (b"", "cut off: 0 bytes at offset 0"),
        (record(LEAST, version=7), "wire version 7 at offset 0; this reads version 1"),
        (record(LEAST) + record({"k": "q"}), "field i is not a message id"),
        (record(LEAST | {"k": "z"}), "field k is 'z', not q, r, f or x"),
        (record(LEAST | {"f": "a\nb"}), "field f has something else than visible ASCII"),
        (b"\x01" + struct.pack(">II", 2**32 - 1, 2**32 - 1), "claims 4294967295 \\+ 4294967295 bytes, 0 are there"),
    ],
)
def test_the_error_says_where_and_why(wire: bytes, says: str) -> None:
    with pytest.raises(DecodeError, match=says):
        decode(wire)


def test_a_pack_has_a_bound() -> None:
    wire = encode(PLAIN)
    assert len(decode(wire * MAX_RECORDS)) == MAX_RECORDS
    with pytest.raises(DecodeError, match="more than 1000 records"):
        decode(wire * (MAX_RECORDS + 1))


def test_a_header_has_a_bound() -> None:
    room = MAX_HEADER - len(encode(PLAIN._replace(headers=[(b"A", b"x" * 70_000)]))) + message._PREFIX.size
    largest = PLAIN._replace(headers=[(b"A", b"x" * (70_000 + room))])
    assert decode(encode(largest)) == [largest]
    with pytest.raises(DecodeError, match="claims 262145"):
        decode(encode(largest._replace(headers=[(b"A", b"x" * (70_001 + room))])))


def test_ids() -> None:
    assert is_id("a" * 64)
    assert is_id("A-z_0")
    assert not any(map(is_id, ["", "a" * 65, "a b", "a/b", "é", "a\n"]))


def test_a_fault_becomes_a_problem() -> None:
    assert Fault("m1", Code.DEADLINE, "late", True).as_problem() == Problem(Code.DEADLINE, "late", True)


# --- bytes that are meant to hurt ------------------------------------------------------------------------------------------

MIB = 2**20
START = b"\x82\xa1i\xa1a\xa1k"
"""The header of something with the id `a`, as far as its kind."""
BOMBS = {
    "arrays in arrays": record(START + b"\x91" * 1000 + b"\xc0"),
    "arrays in arrays, deeper than any stack": record(START + b"\x91" * (MAX_HEADER - 6)),
    "maps in maps": record(START + b"\x81\xa1a" * 1000 + b"\xc0"),
    "arrays that claim to be long, one in the other": record((START + b"\xdc\x04\x00" * MAX_HEADER)[:MAX_HEADER]),
    "an array that claims 2^32 - 1": record(START + b"\xdd\xff\xff\xff\xff"),
    "a map that claims 2^32 - 1": record(START + b"\xdf\xff\xff\xff\xff"),
    "a text that claims 2^32 - 1": record(START + b"\xdb\xff\xff\xff\xff"),
    "bytes that claim 2^32 - 1": record(START + b"\xc6\xff\xff\xff\xff"),
    "an extension that claims 2^32 - 1": record(START + b"\xc9\xff\xff\xff\xff\x05"),
    "as many empty arrays as go in": record(
        (START + b"\xdc\x04\x00" + (b"\xdc\x04\x00" + b"\x90" * 1024) * 300)[:MAX_HEADER]
    ),
    "as many empty maps as go in": record(
        (START + b"\xdc\x04\x00" + (b"\xdc\x04\x00" + b"\x80" * 1024) * 300)[:MAX_HEADER]
    ),
    "15 MiB of nil as a header": record(b"\xc0" * 15 * MIB),
    "15 MiB of empty arrays as a header": record(b"\x90" * 15 * MIB),
    "a header said to be 15 MiB": b"\x01" + struct.pack(">II", 15 * MIB, 0) + b"\xdc\xff\xff" * 5 * MIB,
    "a payload said to be 4 GiB": b"\x01" + struct.pack(">II", 1, 2**32 - 1) + b"\x80" * 15 * MIB,
    "15 MiB of prefixes": struct.pack(">BII", 1, 0, 0) * (15 * MIB // 9),
    "15 MiB of empty maps": (struct.pack(">BII", 1, 1, 0) + b"\x80") * (15 * MIB // 10),
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_is_refused_within_bounds(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    unpackb = msgpack.unpackb

    def watched(data: bytes, **options: Any) -> Any:
        seen.append(len(data))
        return unpackb(data, **options)

    monkeypatch.setattr(message.msgpack, "unpackb", watched)
    tracemalloc.start()
    try:
        with pytest.raises(DecodeError):
            decode(BOMBS[name])
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert max(seen, default=0) <= MAX_HEADER
    # An element of a byte becomes an object of up to 72 bytes: what one header can become is the constant part.
    assert peak <= 2 * len(BOMBS[name]) + 80 * MAX_HEADER


def test_a_large_body_is_copied_once() -> None:
    wire = encode(PLAIN._replace(method="POST", body=b"x" * 15 * MIB))
    tracemalloc.start()
    try:
        decoded = decode(wire)[0]
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert isinstance(decoded, Request)
    assert len(decoded.body or b"") == 15 * MIB
    assert peak < 1.1 * len(wire)


def test_a_pack_of_the_most_costly_good_records_stays_within_a_multiple_of_its_size() -> None:
    fields: list[bytes] = [b"", b""] * 512
    wire = record(LEAST | {"h": fields}) * MAX_RECORDS
    tracemalloc.start()
    try:
        assert len(decode(wire)) == MAX_RECORDS
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 40 * len(wire)
