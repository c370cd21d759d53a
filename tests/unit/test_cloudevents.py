"""CloudEvents as publishers write them: what is filled in, what is refused, what the structured mode and batches become."""

import json
from typing import Any

import pytest

from meshq.core.cloudevents import (
    MAX_BATCH,
    ContentMode,
    Defaults,
    Event,
    from_binary,
    from_structured,
    mode_of,
    read_batch,
    read_structured,
)
from meshq.core.errors import Code, Refused
from meshq.core.http import Headers

DEFAULTS = Defaults(b"/payments", b"payments.settled", b"2026-11-22T10:00:00.000Z")
FILLED = [
    (b"ce-specversion", b"1.0"),
    (b"ce-id", b"m1"),
    (b"ce-source", b"/payments"),
    (b"ce-type", b"payments.settled"),
    (b"ce-time", b"2026-11-22T10:00:00.000Z"),
]


def binary(headers: Headers, body: bytes | None = b"{}") -> Event:
    return from_binary(headers, body, "m1", DEFAULTS)


def structured(value: Any, common: Headers | None = None) -> Event:
    return from_structured(value, common or [], "m1", DEFAULTS)


def refusal(function: Any, *args: Any) -> tuple[Code, str]:
    with pytest.raises(Refused) as refused:
        function(*args)
    return refused.value.problem.code, refused.value.problem.detail


# --- binary mode ----------------------------------------------------------------------------------------------------------


def test_what_is_missing_is_filled_in() -> None:
    given = [(b"Content-Type", b"text/plain"), (b"X-Shop", b"berlin")]
    assert binary(given, b"paid") == Event(given + FILLED, b"paid", "")
    assert binary([], None).body is None


def test_what_is_given_stays_as_it_is() -> None:
    given = [
        (b"CE-Id", b"A 1"),
        (b"ce-source", b"https://pay.example/%C3%A4"),
        (b"ce-type", b"com.example.other"),
        (b"ce-specversion", b"1.0"),
        (b"ce-time", b"2026-11-22T10:00:00+01:00"),
        (b"ce-subject", b"a%20b"),
        (b"ce-myext1", b"x"),
    ]
    assert binary(given).headers == given


@pytest.mark.parametrize(
    ("headers", "says"),
    [
        ([(b"ce-specversion", b"0.3")], "ce-specversion is '0.3'; CloudEvents 1.0 is what is read here"),
        ([(b"ce-specversion", b"")], "ce-specversion is ''"),
        ([(b"ce-id", b"")], "ce-id is empty"),
        ([(b"ce-source", b" ")], "ce-source is empty"),
        ([(b"Ce-Type", b"")], "ce-type is empty"),
        ([(b"ce-time", b"yesterday")], "ce-time: 'yesterday' is not a time such as"),
        ([(b"ce-time", b"2026-02-30T10:00:00Z")], "ce-time: '2026-02-30T10:00:00Z' is not a time"),
        ([(b"ce-id", b"1"), (b"CE-ID", b"2")], "ce-id: an attribute is given once"),
        ([(b"ce-my_ext", b"1")], "ce-my_ext: an attribute's name is letters and digits"),
        ([(b"ce-", b"1")], "ce-: an attribute's name"),
        ([(b"ce-partitionkey", b"x" * 201)], "ce-partitionkey: an ordering key has at most 200 printable characters"),
        ([(b"ce-meshqkey", b"a%0Ab")], "ce-meshqkey: an ordering key"),
    ],
)
def test_what_is_malformed_is_a_bad_header(headers: Headers, says: str) -> None:
    code, detail = refusal(binary, headers)
    assert code is Code.BAD_HEADER
    assert says in detail


def test_an_ordering_key_may_be_an_attribute() -> None:
    assert binary([(b"ce-partitionkey", b"order%2017")]).key == "order 17"
    assert binary([(b"ce-partitionkey", b"a"), (b"ce-meshqkey", b"%C3%A4")]).key == "ä"
    assert binary([(b"ce-partitionkey", b"")]).key == ""


# --- which mode -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content_type", "mode"),
    [
        (None, ContentMode.BINARY),
        (b"application/json", ContentMode.BINARY),
        (b"application/cloudevents+json; charset=UTF-8", ContentMode.STRUCTURED),
        (b"Application/CloudEvents+JSON", ContentMode.STRUCTURED),
        (b"application/cloudevents-batch+json", ContentMode.BATCHED),
    ],
)
def test_the_content_type_says_the_mode(content_type: bytes | None, mode: ContentMode) -> None:
    assert mode_of(content_type) is mode


def test_other_formats_of_cloudevents_are_refused() -> None:
    code, detail = refusal(mode_of, b"application/cloudevents+avro")
    assert code is Code.BAD_HEADER
    assert "of CloudEvents the JSON format is read here" in detail


# --- structured mode ------------------------------------------------------------------------------------------------------

WHOLE = {
    "specversion": "1.0",
    "id": "A-1",
    "source": "/tills/3",
    "type": "com.example.paid",
    "time": "2026-11-22T10:00:00Z",
    "subject": 'Straße "7" 100%',
    "datacontenttype": "application/json; charset=utf-8",
    "count": 7,
    "last": True,
    "gone": None,
    "data": {"ä": [1, 2.5, None]},
}


def test_attributes_become_fields_and_data_the_body() -> None:
    event = structured(WHOLE, [(b"X-Shop", b"berlin")])
    assert event.body == '{"ä":[1,2.5,null]}'.encode()
    assert event.headers == [
        (b"X-Shop", b"berlin"),
        (b"ce-specversion", b"1.0"),
        (b"ce-id", b"A-1"),
        (b"ce-source", b"/tills/3"),
        (b"ce-type", b"com.example.paid"),
        (b"ce-time", b"2026-11-22T10:00:00Z"),
        (b"ce-subject", b"Stra%C3%9Fe%20%227%22%20100%25"),
        (b"ce-count", b"7"),
        (b"ce-last", b"true"),
        (b"Content-Type", b"application/json; charset=utf-8"),
    ]


@pytest.mark.parametrize(
    ("given", "body", "content_type"),
    [
        ({"data": {"a": 1}}, b'{"a":1}', b"application/json"),
        ({"data": "text"}, b'"text"', b"application/json"),
        ({"data": "text", "datacontenttype": "text/plain"}, b"text", b"text/plain"),
        ({"data": "text", "datacontenttype": "application/vnd.x+json"}, b'"text"', b"application/vnd.x+json"),
        ({"data": [1], "datacontenttype": "text/plain"}, b"[1]", b"text/plain"),
        ({"data": "\ud800"}, b'"\\ud800"', b"application/json"),
        ({"data": False}, b"false", b"application/json"),
        ({"data": 0}, b"0", b"application/json"),
        ({"data_base64": "AAEC/w=="}, b"\x00\x01\x02\xff", None),
        ({"data_base64": "AAEC", "datacontenttype": "image/png"}, b"\x00\x01\x02", b"image/png"),
        ({"data": None}, None, None),
        ({"datacontenttype": "text/plain"}, None, b"text/plain"),
        ({}, None, None),
    ],
)
def test_what_the_data_become(given: dict[str, Any], body: bytes | None, content_type: bytes | None) -> None:
    event = structured(given)
    assert event.body == body
    assert dict(event.headers).get(b"Content-Type") == content_type
    assert dict(event.headers)[b"ce-id"] == b"m1", "filled in as in the binary mode"


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (5, "an event is a JSON object"),
        ({"specversion": "0.3"}, "ce-specversion is '0.3'"),
        ({"id": ""}, "ce-id is empty"),
        ({"time": "now"}, "ce-time: 'now' is not a time"),
        ({"Subject": "x"}, "'Subject': an attribute's name is lower-case letters and digits"),
        ({"myExt": "a"}, "'myExt': an attribute's name"),
        ({"ext": {"a": 1}}, "the attribute 'ext' is neither text, nor a whole number"),
        ({"ext": 1.5}, "the attribute 'ext' is neither text"),
        ({"ext": "\ud800"}, "the attribute 'ext' is not Unicode text"),
        ({"data": 1, "data_base64": "AA=="}, "data or data_base64, not both"),
        ({"data_base64": "%%"}, "data_base64 is not Base64"),
        ({"data_base64": 7}, "data_base64 is not Base64"),
        ({"data": float("inf")}, "a number or a text that cannot be passed on"),
        ({"data": "\ud800", "datacontenttype": "text/plain"}, "a number or a text that cannot be passed on"),
        ({"datacontenttype": "a\nb"}, "datacontenttype is not a media type"),
        ({"datacontenttype": ""}, "datacontenttype is not a media type"),
        ({f"a{n}": "x" for n in range(65)}, "at most 64 attributes"),
        ({"subject": "x" * 40_000}, "32768 bytes in all"),
        ({"partitionkey": "x" * 201}, "ce-partitionkey: an ordering key"),
    ],
)
def test_an_event_that_is_malformed_says_why(value: Any, says: str) -> None:
    code, detail = refusal(structured, value)
    assert code is Code.BAD_REQUEST
    assert says in detail


def test_an_event_s_own_key() -> None:
    assert structured({"partitionkey": "a", "meshqkey": "b c"}).key == "b c"
    assert structured({"partitionkey": "a"}).key == "a"


# --- bodies ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (None, "the body is not JSON"),
        (b"{", "the body is not JSON"),
        (b"\xff\xfe", "the body is not JSON"),
        (b'{"data": NaN}', "NaN is not JSON"),
        (b"[" * 100_000, "the body is not JSON"),
        (b"[]", "an event in the structured mode is a JSON object"),
    ],
)
def test_a_body_that_is_no_event(body: bytes | None, says: str) -> None:
    code, detail = refusal(read_structured, body)
    assert code is Code.BAD_REQUEST
    assert says in detail


def test_a_batch_is_a_bounded_array() -> None:
    assert read_batch(b"[]") == []
    assert read_batch(b'[{"id": "1"}, 5]') == [{"id": "1"}, 5], "each is looked at by itself"
    assert refusal(read_batch, b"{}") == (Code.BAD_REQUEST, "a batch is a JSON array of events")
    code, detail = refusal(read_batch, json.dumps([1] * (MAX_BATCH + 1)).encode())
    assert (code, detail) == (Code.TOO_LARGE, "1001 events in one batch; send at most 1000 at a time")
