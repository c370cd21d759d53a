"""Header hygiene, for any fields."""

from hypothesis import given
from hypothesis import strategies as st

from meshq.core.headers import HOP_BY_HOP, carry, carry_response, root_traceparent, valid_traceparent
from meshq.core.http import Headers, header

NOTED = [b"host", b"origin", b"traceparent", b"idempotency-key"]
some = [
    *NOTED,
    b"x-a",
    b"x-b",
    b"accept",
    b"host",
    b"cookie",
    b"content-length",
    b"expect",
    b"meshq-caller",
    b"Meshq-",
    b"meshq-x",
]
cased = st.sampled_from([*sorted(HOP_BY_HOP), *some]).flatmap(lambda n: st.sampled_from([n, n.upper(), n.title()]))
names = cased | st.binary(max_size=12)
lists = st.lists(
    st.sampled_from([b"x-a", b"X-B", b"close", b"keep-alive", b"host", b"origin", b"cookie", b"", b" x-a "]), max_size=4
)
fields = st.lists(
    st.tuples(names, st.binary(max_size=8)) | lists.map(lambda p: (b"Connection", b",".join(p))), max_size=15
)


def is_subsequence(part: Headers, whole: Headers) -> bool:
    rest = iter(whole)
    return all(field in rest for field in part)


@given(fields)
def test_only_what_is_end_to_end_crosses_in_order(headers: Headers) -> None:
    kept, control, noted = carry(headers)
    assert is_subsequence(kept, headers)
    lowered = [name.lower() for name, _ in kept]
    assert not set(lowered) & (HOP_BY_HOP | {b"content-length", b"expect"})
    assert not any(name.startswith(b"meshq-") for name in lowered)
    assert all(name.startswith(b"meshq-") for name in control)
    assert carry(kept) == (kept, {}, noted), "once is enough"
    assert noted == {name: value for name in NOTED if (value := header(kept, name)) is not None}


@given(fields)
def test_nothing_else_is_lost(headers: Headers) -> None:
    named = {n.strip() for name, v in headers if name.lower() == b"connection" for n in v.lower().split(b",")}
    kept = carry(headers).headers
    for field in headers:
        name = field[0].lower()
        gone = name in HOP_BY_HOP | {b"content-length", b"expect"} or name.startswith(b"meshq-")
        if not gone and name not in named:
            assert kept.count(field) == headers.count(field)


@given(fields, st.booleans())
def test_a_response_has_at_most_its_lengths_more(headers: Headers, keep: bool) -> None:
    lengths = [field for field in headers if keep and field[0].lower() == b"content-length"]
    assert carry_response(headers, keep) == carry(headers).headers + lengths


@given(st.binary(max_size=120))
def test_any_traceparent_is_judged(value: bytes) -> None:
    assert valid_traceparent(value) in (True, False)


@given(st.binary(min_size=24, max_size=24).filter(lambda b: any(b[:16]) and any(b[16:])))
def test_a_root_is_valid(random: bytes) -> None:
    assert valid_traceparent(root_traceparent(random))
