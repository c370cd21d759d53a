"""Bodies to bytes and back."""

import json
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import date, datetime
from enum import Enum
from math import isnan
from typing import Annotated, Any
from uuid import UUID

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, Field

from meshq.sdk.bodies import BYTES, JSON, MSGPACK, TEXT, Encoded, Invalid, convert, decode, encode, is_msgpack

TYPES = [JSON, MSGPACK]


class Colour(Enum):
    RED = "red"


class Line(BaseModel):
    item: str
    count: int = Field(gt=0)


class Order(BaseModel):
    id: UUID
    at: datetime
    colour: Colour
    lines: list[Line]
    given_name: str = Field(alias="givenName")
    data: bytes = b""


@dataclass
class Parcel:
    day: date
    line: Line
    tags: dict[int, str] = field(default_factory=dict)


ORDER = Order(
    id=UUID(int=7),
    at=datetime(2026, 1, 2, 3, 4, 5),
    colour=Colour.RED,
    lines=[Line(item="tea", count=2)],
    givenName="Zoë",
)
PARCEL = Parcel(date(2026, 1, 2), Line(item="ü", count=1), {1: "one"})

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@given(json_values)
def test_whatever_json_has_comes_back(value: Any) -> None:
    body, content_type = encode(value)
    assert decode(body, content_type, Any) == value
    body, content_type = encode(value, JSON)
    if body is not None:
        assert json.loads(body) == value


@given(json_values | st.binary())
def test_whatever_msgpack_has_comes_back(value: Any) -> None:
    if isinstance(value, bytes):  # as they are, whatever they are said to be
        assert encode(value, MSGPACK) == Encoded(value, MSGPACK)
    else:
        assert decode(*encode(value, MSGPACK), Any) == value


@given(st.binary(max_size=200), st.sampled_from([*TYPES, TEXT, "", "application/problem+json"]))
def test_garbage_is_invalid_and_nothing_worse(body: bytes, content_type: str) -> None:
    for wanted in (Any, dict, str, int, Order, Parcel, list[Line], None, bytes):
        with suppress(Invalid):
            decode(body, content_type, wanted)


@pytest.mark.parametrize("content_type", TYPES)
@pytest.mark.parametrize(
    ("value", "wanted"), [(ORDER, Order), (PARCEL, Parcel), ([PARCEL], list[Parcel]), ({"a": ORDER}, dict[str, Order])]
)
def test_models_and_dataclasses_wherever_they_stand(value: Any, wanted: Any, content_type: str) -> None:
    body, said = encode(value, content_type)
    assert said == content_type
    assert decode(body, said, wanted) == value


@pytest.mark.parametrize("content_type", TYPES)
def test_aliases_are_the_wires_names(content_type: str) -> None:
    assert decode(*encode(ORDER, content_type), dict)["givenName"] == "Zoë"


def test_what_each_is_sent_as() -> None:
    assert encode(None) == Encoded(None, "")
    assert encode("grün") == Encoded("grün".encode(), TEXT)
    assert encode("a", JSON) == Encoded(b'"a"', JSON)
    assert encode(bytearray(b"a")) == encode(memoryview(b"a")) == Encoded(b"a", BYTES)
    assert encode(b"a", "image/png") == Encoded(b"a", "image/png")
    assert encode("a,b", "text/csv") == Encoded(b"a,b", "text/csv")
    assert encode({"ü": 1}) == Encoded('{"ü":1}'.encode(), JSON)
    assert encode({"day": date(2026, 1, 2)}) == Encoded(b'{"day":"2026-01-02"}', JSON)


def loop() -> list[Any]:
    found: list[Any] = []
    found.append(found)
    return found


@pytest.mark.parametrize("content_type", TYPES)
@pytest.mark.parametrize(
    "value", [object(), {"a": object()}, [1, {2: lambda: 0}], loop(), {"a": "\ud800"}, 2**70, float("nan")], ids=str
)
def test_what_has_no_form_is_a_type_error(value: Any, content_type: str) -> None:
    if content_type == JSON and value == 2**70:
        assert encode(value).body == str(2**70).encode()
    elif content_type == MSGPACK and isinstance(value, float):
        assert isnan(decode(*encode(value, MSGPACK), Any))
    else:
        with pytest.raises(TypeError):
            encode(value, content_type)


def test_a_value_has_no_form_as_an_image() -> None:
    with pytest.raises(TypeError, match="a dict has no form as image/png: give bytes"):
        encode({"a": 1}, "image/png")


@pytest.mark.parametrize(
    ("body", "content_type", "wanted", "value"),
    [
        (None, "", Any, None),
        (b"", "", Any, None),
        (None, "", bytes, b""),
        (b"{", JSON, bytes, b"{"),
        (b"{", JSON, None, None),
        (b"[1]", JSON, list, [1]),
        (b"[1]", "application/JSON; charset=utf-8", Any, [1]),
        (b'{"a":1}', "application/problem+json", dict, {"a": 1}),
        (b'"a"', JSON, str, "a"),
        (b"a", "text/plain", Any, "a"),
        (b"a", "text/plain", str, "a"),
        (b"a", "image/png", Any, b"a"),
        (b"a", "image/png", str, "a"),
        (b"7", JSON, int | None, 7),
        (b"null", JSON, int | None, None),
        (msgpack.packb({1: b"a"}), "application/x-msgpack", Any, {1: b"a"}),
    ],
)
def test_what_it_becomes(body: bytes | None, content_type: str, wanted: Any, value: Any) -> None:
    assert decode(body, content_type, wanted) == value


@pytest.mark.parametrize(
    ("body", "content_type", "wanted", "status", "detail"),
    [
        (b'{"item":1,"count":0}', JSON, Line, 422, "item: Input should be a valid string, and 1 more"),
        (b"{", JSON, dict, 422, "the body is not JSON: "),
        (b"[" * 100_000, JSON, Any, 422, "the body is not JSON: "),
        (b"\xc1", MSGPACK, Any, 422, "the body is not msgpack: "),
        (b"\x81\x90\x01", MSGPACK, Any, 422, "the body is not msgpack: "),
        (b"\xff", "text/plain", str, 422, "the body is not UTF-8: "),
        (b"a", "text/plain", Line, 415, "a body of type text/plain is not taken"),
        (None, "", Line, 422, "the body: "),
    ],
)
def test_what_is_wrong_with_it(body: bytes | None, content_type: str, wanted: Any, status: int, detail: str) -> None:
    with pytest.raises(Invalid) as caught:
        decode(body, content_type, wanted)
    problem = caught.value.problem
    assert (problem.code, problem.status) == ("invalid", status)
    assert problem.detail.startswith(detail)


def test_parameters() -> None:
    assert convert("7", int, "id") == 7
    assert convert("7", str, "id") == "7"
    assert convert("true", bool, "flag") is True
    assert convert("red", Colour, "colour") is Colour.RED
    with pytest.raises(Invalid) as caught:
        convert("-1", Annotated[int, Field(gt=0)], "id")
    assert caught.value.problem.fields["errors"] == [
        {"loc": ["id"], "msg": "Input should be greater than 0", "type": "greater_than"}
    ]


def test_msgpack_by_its_names() -> None:
    assert is_msgpack("application/msgpack")
    assert is_msgpack("Application/X-MsgPack; v=1")
    assert not is_msgpack("application/json")
