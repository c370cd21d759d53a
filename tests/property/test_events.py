"""Events and subscriptions for all inputs: nothing but a refusal comes out of what is malformed, and what goes in comes out."""

import json
import re
from contextlib import suppress
from typing import Any
from urllib.parse import unquote

from hypothesis import given
from hypothesis import strategies as st

from meshq.adapters.embedded_exchange import matches
from meshq.core.cloudevents import Defaults, from_binary, from_structured, read_batch
from meshq.core.errors import Refused
from meshq.core.events import EventAddress, parse_event
from meshq.core.message import Request, decode, encode_request
from meshq.core.names import BadName
from meshq.core.subscription_parsing import BadSubscription, parse, parse_list, parse_pattern
from meshq.core.subscriptions import Mode, Pattern, Subscription
from meshq.core.topology import event_key

DEFAULTS = Defaults(b"/a", b"b", b"2026-11-22T10:00:00Z")

WILD = st.text(st.characters(exclude_categories=()) | st.just("\ud800"), max_size=8)
"""With halves of surrogate pairs, which JSON can say and UTF-8 cannot."""
JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=10,
)
ATTRIBUTES = st.sampled_from(
    [
        "id",
        "source",
        "type",
        "specversion",
        "time",
        "subject",
        "datacontenttype",
        "partitionkey",
        "ext1",
        "data",
        "data_base64",
    ]
)
LABEL = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,5}[a-z0-9])?", fullmatch=True)
EVENT = st.lists(LABEL, min_size=1, max_size=5).map(".".join)
MAJOR = st.integers(0, 99)


@given(JSON | st.dictionaries(ATTRIBUTES | WILD, JSON | WILD, max_size=8))
def test_any_value_becomes_an_event_that_can_travel_or_is_refused(value: Any) -> None:
    try:
        event = from_structured(value, [], "m1", DEFAULTS)
    except Refused as refused:
        refused.problem.as_response()  # which can be said
        return
    request = Request("m1", "POST", b"/", event.headers, event.body, "a", accepted_ms=1, key=event.key, event="b.v1")
    (back,) = decode(encode_request(request))
    assert back == request
    for name, text in event.headers:
        assert re.fullmatch(rb"(ce-[a-z0-9]+|Content-Type)", name)
        assert name == b"Content-Type" or re.fullmatch(rb"[\x21-\x7e]*", text)


@given(st.text(min_size=1, max_size=50).filter(lambda text: text.isprintable()), JSON)
def test_what_an_attribute_and_the_data_say_arrives(text: str, data: Any) -> None:
    try:
        event = from_structured({"subject": text, "data": data}, [], "m1", DEFAULTS)
    except Refused:
        assert re.search("NaN|Infinity", json.dumps(data)), "JSON has no such numbers"
        return
    assert unquote(dict(event.headers)[b"ce-subject"].decode()) == text
    if data is None:
        assert event.body is None
    else:
        assert event.body is not None
        assert json.loads(event.body) == data


@given(
    st.lists(
        st.tuples(
            st.sampled_from([b"ce-id", b"Ce-Time", b"ce-", b"CE-x", b"ce-partitionkey", b"x"]), st.binary(max_size=20)
        )
    )
)
def test_any_fields_are_taken_as_they_are_or_refused(headers: list[tuple[bytes, bytes]]) -> None:
    try:
        event = from_binary(headers, None, "m1", DEFAULTS)
    except Refused:
        return
    assert event.headers[: len(headers)] == headers
    names = [name.lower() for name, _ in event.headers if name.lower().startswith(b"ce-")]
    assert len(names) == len(set(names))
    assert {b"ce-id", b"ce-source", b"ce-type", b"ce-specversion", b"ce-time"} <= set(names)


@given(st.binary(max_size=200))
def test_any_body_is_a_batch_or_refused(body: bytes) -> None:
    try:
        assert isinstance(read_batch(body), list)
    except Refused as refused:
        refused.problem.as_response()


@given(EVENT, MAJOR)
def test_an_event_address_reads_as_it_is_written(name: str, major: int) -> None:
    address = EventAddress(name, major)
    assert parse_event(str(address)) == address


@given(st.text(max_size=30))
def test_any_text_is_an_event_address_or_named_as_none(text: str) -> None:
    with suppress(BadName):
        assert parse_event(text).topic


# --- patterns: the broker's own matching against what the words say --------------------------------------------------------

PATTERN = st.lists(LABEL | st.sampled_from(["*", "**", "#"]), min_size=1, max_size=4).map(".".join)


def stands_for(pattern: list[str], labels: list[str]) -> bool:
    if not pattern:
        return not labels
    if pattern[0] in ("**", "#"):
        return any(stands_for(pattern[1:], labels[n:]) for n in range(len(labels) + 1))
    return bool(labels) and pattern[0] in ("*", labels[0]) and stands_for(pattern[1:], labels[1:])


@given(
    PATTERN,
    st.lists(st.sampled_from(["a", "b", "v1", "v2", "0"]), min_size=1, max_size=4),
    MAJOR,
    MAJOR,
    st.integers(0, 7),
)
def test_a_binding_takes_what_its_pattern_says(
    text: str, labels: list[str], wanted: int, major: int, partition: int
) -> None:
    bound = f"{parse_pattern(f'{text}@{wanted}').binding}.*"
    key = event_key(EventAddress(".".join(labels), major).topic, partition)
    assert matches(bound.split("."), key.split(".")) == (wanted == major and stands_for(text.split("."), labels))


# --- subscriptions ----------------------------------------------------------------------------------------------------------

SUBSCRIPTION = st.builds(
    Subscription,
    LABEL,
    st.builds(Pattern, EVENT, MAJOR),
    st.from_regex(r"/[!-\"$-~]{0,20}", fullmatch=True),
    st.sampled_from(Mode),
    st.dictionaries(LABEL, st.text("abc äß%", max_size=5).map(str.strip), max_size=3).map(
        lambda found: tuple(found.items())
    ),
)


@given(SUBSCRIPTION)
def test_a_subscription_reads_as_it_is_written(subscription: Subscription) -> None:
    assert parse(json.loads(json.dumps(subscription.as_json()))) == subscription
    assert parse_list(json.dumps([subscription.as_json()])) == (subscription,)


@given(JSON | st.dictionaries(st.sampled_from(["name", "event", "events", "path", "mode", "filter", "from"]), JSON))
def test_any_value_is_a_subscription_or_says_why_not(value: Any) -> None:
    with suppress(BadSubscription):
        parse(value)


@given(st.text('ab:=/.@*,[]{}" 1', max_size=30))
def test_any_text_is_a_list_of_subscriptions_or_says_why_not(text: str) -> None:
    with suppress(ValueError):
        parse_list(text)
