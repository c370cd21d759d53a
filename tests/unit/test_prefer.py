"""The Prefer field: the grammar of RFC 7240, and forgiving of what is not."""

import pytest

from meshq.core.prefer import MAX_WAIT, Prefer, parse_prefer

ASYNC = Prefer(True)


@pytest.mark.parametrize(
    ("value", "prefer"),
    [
        (b"respond-async", ASYNC),
        (b"Respond-ASYNC", ASYNC),
        (b"respond-async, wait=10", Prefer(True, 10)),
        (b"wait=10,respond-async", Prefer(True, 10)),
        (b"respond-async,wait = 10", Prefer(True, 10)),
        (b'respond-async, wait="10"', Prefer(True, 10)),
        (b"respond-async; foo=bar; wait=3", ASYNC),
        (b"respond-async;wait=3 , wait=4", Prefer(True, 4)),
        (b"wait=1, wait=2", Prefer(wait=1)),
        (b'respond-async=""', ASYNC),
        (b"respond-async=", ASYNC),
        (b"return=minimal, foo; some-parameter, respond-async", ASYNC),
        (b'foo="a, respond-async, b"', Prefer()),
        (b'foo="a\\", respond-async", wait=2', Prefer(wait=2)),
        (b",, ,respond-async,,", ASYNC),
        (b"respond-async, wait=99999999999", Prefer(True, MAX_WAIT)),
        (b"wait=0", Prefer(wait=0)),
    ],
)
def test_what_is_wished(value: bytes, prefer: Prefer) -> None:
    assert parse_prefer(value) == prefer


@pytest.mark.parametrize("wait", [b"", b"x", b"-1", b"1.5", b"\xb2", b'"', b"1 2"])
def test_a_wait_that_makes_no_sense_is_passed_over(wait: bytes) -> None:
    assert parse_prefer(b"respond-async, wait=" + wait) == ASYNC


@pytest.mark.parametrize(
    "value", [b"", b",", b'"', b'"respond-async"', b"=", b"\xff", b"respond-async\xff", b"respond async"]
)
def test_what_is_no_wish(value: bytes) -> None:
    assert parse_prefer(value) == Prefer()


@pytest.mark.parametrize("piece", [b'"', b'a="\\', b",", b'a="b" ', b"\\", b'""'])
def test_long_nonsense_takes_no_longer_than_it_is_long(piece: bytes) -> None:
    parse_prefer(piece * 50_000)
