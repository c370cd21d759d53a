"""Whatever lies among dead letters can be looked at: any bytes under any headers give a letter that can be shown, and a decision."""

import json
from datetime import UTC, datetime
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from meshq.core import topology
from meshq.core.dead import UNSENDABLE, Letter, read
from meshq.core.dead_replay import Resend, Stays, resend
from meshq.core.dead_views import Wanted, full, row
from meshq.core.http import Headers
from meshq.core.message import (
    CONTENT_TYPE,
    DeadLetter,
    Message,
    Request,
    decode,
    encode_dead_letter,
    encode_request,
    is_id,
)

NAMES = st.sampled_from(
    [
        "meshq.orders.v2.work", "meshq.orders.v2.dead", "meshq.orders.v2.on.x.k3", "meshq.orders.results", "meshq.lost", "event.a.v1.0",
        "meshq.orders.v2.key.3", "", "meshq.", "meshq..v1.work", "event.", "orders.v2.work", topology.delay_key(3, "meshq.a.v1.work"),
    ]
)  # fmt: skip


def request(
    target: bytes,
    headers: Headers,
    body: bytes | None,
    caller: str,
    deadline_ms: int | None,
    accepted_ms: int | None,
    event: str,
    replays: int,
) -> Request:
    return Request(
        "id-1", "POST", target, headers, body, caller, deadline_ms=deadline_ms, accepted_ms=accepted_ms, event=event,
        replays=replays,
    )  # fmt: skip


REQUESTS = st.builds(
    request,
    st.sampled_from([b"/", b"/x?y=%1b", b"*", b"/\xff\x1b"]),
    st.lists(
        st.tuples(st.just(b"X-Y"), st.binary(max_size=5).filter(lambda v: not set(v) & set(b"\r\n\0"))), max_size=2
    ),
    st.none() | st.binary(max_size=20),
    st.sampled_from(["", "shop"]),
    st.none() | st.integers(0, 2**53 - 1),
    st.none() | st.integers(0, 2**53 - 1),
    st.sampled_from(["", "payments.settled.v1"]),
    st.integers(0, 20),
)
BODIES = st.binary(max_size=60) | REQUESTS.map(encode_request)
RECORDS = st.builds(
    DeadLetter,
    st.sampled_from(["id-1", "unknown"]),
    st.sampled_from(["attempts", UNSENDABLE, ""]),
    st.text(max_size=10),
    NAMES,
    st.integers(0, 2**53 - 1),
    st.sampled_from(["", "a/1.0.0/b", "///"]),
    BODIES,
    st.none() | st.integers(0, 999),
    st.binary(max_size=10),
    st.integers(0, 9),
    st.sampled_from(["", "shop"]),
)
ANYTHING: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.integers()
    | st.text(max_size=5)
    | NAMES
    | st.just(datetime(2026, 1, 1, tzinfo=UTC))
    | st.datetimes(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["queue", "reason", "time", "routing-keys", "count"]), inner, max_size=5)
    ),
    max_leaves=8,
)
LETTERS = st.builds(
    read,
    BODIES | RECORDS.map(encode_dead_letter),
    NAMES,
    st.sampled_from([CONTENT_TYPE, "text/plain", ""]),
    st.sampled_from(["", "id-1", "unknown", "no id"]),
    st.sampled_from(["", "shop"]),
    st.sampled_from(["", "shop.results"]),
    st.dictionaries(st.sampled_from(["x-death", "other"]), ANYTHING, max_size=2),
)


@given(LETTERS, st.booleans())
def test_every_letter_can_be_shown(letter: Letter, whole: bool) -> None:
    assert is_id(letter.id)
    json.dumps(row(letter))
    json.dumps(full(letter, whole))
    assert Wanted(frozenset([letter.id])).takes(letter)


@given(LETTERS, st.integers(0, 2**53 - 1), st.booleans())
def test_every_letter_is_sent_as_something_readable_or_stays_for_a_reason(
    letter: Letter, now_ms: int, force: bool
) -> None:
    plan = resend(letter, None, now_ms, force)
    if isinstance(plan, Stays):
        assert plan.detail
        return
    assert isinstance(plan, Resend)
    assert plan.exchange in (topology.CALLS, topology.DELAY, topology.EVENTS, topology.REPLIES)
    again: list[Message] = decode(plan.body)
    assert [message.id for message in again] == [message.id for message in letter.records]
