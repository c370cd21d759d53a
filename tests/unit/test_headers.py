"""Which fields cross the mesh, and trace context."""

import pytest

from meshq.core.headers import carry, carry_response, root_traceparent, valid_traceparent
from meshq.core.http import Headers

HOP_BY_HOP = [
    b"Connection", b"Keep-Alive", b"Proxy-Connection", b"TE", b"Trailer", b"Transfer-Encoding", b"Upgrade", b"Proxy-Authorization",
]  # fmt: skip


@pytest.mark.parametrize("name", [*HOP_BY_HOP, b"Content-Length", b"Expect"])
def test_what_is_for_one_hop_stays_behind(name: bytes) -> None:
    for spelled in (name, name.lower(), name.upper()):
        assert carry([(b"A", b"1"), (spelled, b"x"), (b"B", b"2")]).headers == [(b"A", b"1"), (b"B", b"2")]


def test_what_connection_names_stays_behind() -> None:
    headers = [
        (b"X-One", b"1"),
        (b"Connection", b"close, X-One"),
        (b"x-two", b"2"),
        (b"connection", b"X-TWO ,"),
        (b"Y", b"3"),
    ]
    assert carry(headers).headers == [(b"Y", b"3")]


@pytest.mark.parametrize(
    "name", [b"Host", b"Authorization", b"Content-Type", b"Content-Encoding", b"Cookie", b"Origin", b"Traceparent"]
)
def test_connection_cannot_take_away_who_calls_and_what_the_body_is(name: bytes) -> None:
    assert carry([(b"Connection", name), (name, b"x")]).headers == [(name, b"x")]


def test_the_meshs_own_fields_are_read_and_never_cross() -> None:
    kept, control, _ = carry(
        [(b"Meshq-Timeout", b"1s"), (b"MESHQ-CALLER", b"admin"), (b"meshq-timeout", b"2s"), (b"Meshqx", b"y")]
    )
    assert kept == [(b"Meshqx", b"y")]
    assert control == {b"meshq-timeout": b"2s", b"meshq-caller": b"admin"}


def test_what_the_mesh_looks_at_is_noted_as_it_crosses() -> None:
    headers = [
        (b"HOST", b"a"),
        (b"Origin", b"b"),
        (b"TraceParent", b"c"),
        (b"traceparent", b"d"),
        (b"Idempotency-Key", b"e"),
    ]
    assert carry(headers).noted == {b"host": b"a", b"origin": b"b", b"traceparent": b"c", b"idempotency-key": b"e"}
    assert carry([*headers, (b"Connection", b"traceparent, origin")]).headers == headers


def test_order_case_and_repetition_are_kept() -> None:
    headers = [(b"b", b"1"), (b"A", b""), (b"B", b"2"), (b"Set-Cookie", b"x"), (b"set-cookie", b"y"), (b"b", b"1")]
    assert carry(headers).headers == headers


def test_a_length_is_kept_where_there_is_no_body_to_count() -> None:
    headers: Headers = [(b"A", b"1"), (b"Content-Length", b"7"), (b"Transfer-Encoding", b"chunked")]
    assert carry_response(headers, keep_length=False) == [(b"A", b"1")]
    assert carry_response(headers, keep_length=True) == [(b"A", b"1"), (b"Content-Length", b"7")]


TRACE, SPAN = b"4bf92f3577b34da6a3ce929d0e0e4736", b"00f067aa0ba902b7"


@pytest.mark.parametrize(
    "value",
    [
        b"00-%b-%b-01" % (TRACE, SPAN),
        b"00-%b-%b-00" % (TRACE, SPAN),
        b"cc-%b-%b-01" % (TRACE, SPAN),
        b"cc-%b-%b-01-what-the-future-will-be-like" % (TRACE, SPAN),
    ],
)
def test_a_trace_that_goes_on(value: bytes) -> None:
    assert valid_traceparent(value)


@pytest.mark.parametrize(
    "value",
    [
        None,
        b"",
        b"00-%b-%b" % (TRACE, SPAN),
        b"00-%b-%b-1" % (TRACE, SPAN),
        b"00-%b-%b-01-what-the-future-will-be-like" % (TRACE, SPAN),
        b"00-%b-%b-01." % (TRACE, SPAN),
        b"00-%b-%b-01-" % (TRACE, SPAN),
        b"cc-%b-%b-01.what" % (TRACE, SPAN),
        b"ff-%b-%b-01" % (TRACE, SPAN),
        b"00-%b-%b-01" % (TRACE.upper(), SPAN),
        b"00-%b-%b-01" % (b"0" * 32, SPAN),
        b"00-%b-%b-01" % (TRACE, b"0" * 16),
        b"0-%b-%b-01" % (TRACE, SPAN),
        b" 00-%b-%b-01" % (TRACE, SPAN),
        b"cc-%b-%b-01-%b" % (TRACE, SPAN, b"x" * 200),
    ],
)
def test_a_trace_that_begins_anew(value: bytes | None) -> None:
    assert not valid_traceparent(value)


def test_a_root_is_valid_and_sampled() -> None:
    root = root_traceparent(bytes(range(24)))
    assert root == b"00-000102030405060708090a0b0c0d0e0f-1011121314151617-01"
    assert valid_traceparent(root)
