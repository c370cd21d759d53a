"""Route policies: what is shown is read again as the same; weights share calls as they say; what sticks moves only as far as it must."""

import json
import random
from collections import Counter
from types import MappingProxyType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshq.core.names import RESERVED
from meshq.core.policy import Deprecation, Mirror, Policy, Retry, WhenAbsent
from meshq.core.policy_parsing import KEYS, BadPolicy, parse_policy, policy_as_json
from meshq.core.shares import DRAWS, Shares

majors = st.integers(0, 2**31 - 1)
services = st.from_regex(r"[a-z]([a-z0-9-]{0,38}[a-z0-9])?", fullmatch=True).filter(lambda name: name not in RESERVED)
weights = st.dictionaries(majors, st.integers(0, 1_000_000), max_size=5).filter(lambda w: not w or any(w.values()))
headers = st.from_regex(r"[a-z][a-z0-9-]{0,30}", fullmatch=True).filter(lambda name: not name.startswith("meshq-"))
percents = st.floats(0, 100) | st.integers(0, 100).map(float)
links = st.from_regex(r"https?://[a-z0-9./?=&%#-]{1,50}", fullmatch=True)
moments = st.integers(0, 253_402_300_799_999)
LAST = 253_402_300_799_999
"""The end of the year 9999, in milliseconds."""


@st.composite
def deprecations(draw: st.DrawFn) -> Deprecation:
    since = draw(moments)
    return Deprecation(since, draw(st.none() | st.integers(since, LAST)), draw(st.just("") | links))


@st.composite
def policies(draw: st.DrawFn) -> Policy:
    spread = draw(weights)
    carrying = [major for major, weight in spread.items() if weight]
    mirror = draw(st.none() | st.builds(Mirror, majors, percents))
    fallback = draw(st.lists(majors, unique=True, max_size=4).map(tuple))
    absent = draw(st.sampled_from(WhenAbsent))
    delays = st.integers(0, 12 * 86_400_000).map(lambda ms: ms / 1000)
    return Policy(
        draw(services),
        MappingProxyType(spread),
        draw(st.just("") | headers.filter(lambda name: name not in HOP_BY_HOP)),
        None if mirror is not None and carrying == [mirror.to] else mirror,
        fallback,
        WhenAbsent.WAIT if absent is WhenAbsent.FALLBACK and not fallback else absent,
        draw(st.dictionaries(majors, deprecations(), max_size=3).map(MappingProxyType)),
        draw(st.none() | st.integers(1, 86_400_000)),
        draw(st.none() | st.builds(Retry, st.integers(1, 99), st.lists(delays, min_size=1, max_size=98).map(tuple))),
        draw(st.none() | st.integers(0, 2**31 - 1)),
        draw(st.none() | st.frozensets(services, max_size=5)),
    )


HOP_BY_HOP = {"connection", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade"} | {
    "proxy-authorization"
}


@given(policies(), st.integers(0, LAST))
def test_what_is_shown_is_read_again_as_the_same(policy: Policy, now_ms: int) -> None:
    shown = json.loads(json.dumps(policy_as_json(policy)))
    assert parse_policy(policy.service, shown, now_ms=now_ms) == policy


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.dates() | st.datetimes(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8) | st.integers(), inner, max_size=3),
    max_leaves=10,
)


@given(values | st.dictionaries(st.sampled_from(KEYS), values, max_size=5))
def test_anything_is_a_policy_or_has_its_faults_named(data: object) -> None:
    policy: Policy | None
    try:
        policy = parse_policy("orders", data)
    except BadPolicy as bad:
        policy, named = None, bad.faults
    if policy is None:
        assert named
        assert all(message for _, message in named)
    else:
        assert parse_policy("orders", policy_as_json(policy)) == policy


# --- shares -------------------------------------------------------------------------------------------------------------------

shares = st.dictionaries(st.integers(0, 1000), st.integers(1, 1000), min_size=1, max_size=6)


def expected(of: dict[int, int], major: int) -> float:
    return of[major] / sum(of.values())


@pytest.mark.parametrize("of", [{1: 90, 2: 10}, {1: 1}, {1: 1, 2: 1, 3: 1}, {1: 999, 2: 1}, {7: 3, 2: 5, 9: 2}])
def test_calls_are_shared_as_the_weights_say(of: dict[int, int]) -> None:
    """Of 20,000 calls; the bound is five standard deviations of what chance allows."""
    source, count, made = random.Random(7), 20_000, Shares(of)
    for pick in (lambda: made.at(source.randrange(DRAWS)), lambda: made.of(source.randbytes(8))):
        found = Counter(pick() for _ in range(count))
        assert set(found) <= set(of)
        for major in of:
            share = expected(of, major)
            assert abs(found[major] / count - share) <= 5 * (share * (1 - share) / count) ** 0.5 + 1e-9


@given(shares, st.integers(0, DRAWS - 1), st.binary(max_size=50))
def test_every_draw_and_value_has_a_version(of: dict[int, int], draw: int, value: bytes) -> None:
    assert Shares(of).at(draw) in of
    assert Shares(of).of(value) in of


@given(shares)
def test_the_first_and_the_last_draw(of: dict[int, int]) -> None:
    made = Shares(of)
    assert (made.at(0), made.at(DRAWS - 1)) == (next(iter(of)), list(of)[-1])


@given(shares, st.integers(1, 1000), st.data())
def test_a_version_that_gains_only_takes_and_one_that_loses_only_gives(
    before: dict[int, int], weight: int, data: st.DataObject
) -> None:
    changed = data.draw(st.sampled_from(sorted(before)) | st.integers(0, 1000))
    after = before | {changed: weight}
    grows = weight > before.get(changed, 0)
    old, new = Shares(before), Shares(after)
    for number in range(200):
        value = b"user-%d" % number
        was, now = old.of(value), new.of(value)
        if was != now:
            assert (now if grows else was) == changed


def test_no_more_values_move_than_the_share_that_changed() -> None:
    values, of = [b"user-%d" % number for number in range(20_000)], {1: 90, 2: 10}
    for after in ({1: 80, 2: 20}, {1: 45, 2: 45, 3: 10}, {1: 0, 2: 100}):
        carrying = {major: weight for major, weight in after.items() if weight}
        moved = sum(Shares(of).of(value) != Shares(carrying).of(value) for value in values) / len(values)
        must = sum(max(0.0, expected(after, major) - (expected(of, major) if major in of else 0)) for major in after)
        assert abs(moved - must) < 0.02, (after, moved, must)


def test_where_a_value_goes_is_the_same_everywhere() -> None:
    """Written down, because every sidecar of a mesh has to come to the same result, whatever its version."""
    made = Shares({1: 50, 2: 30, 3: 20})
    assert [made.of(b"user-%d" % number) for number in range(12)] == WRITTEN_DOWN


WRITTEN_DOWN = [1, 2, 3, 1, 1, 1, 1, 3, 3, 1, 1, 1]
