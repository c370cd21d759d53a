"""Route policies applied: where calls go, and what is said with it."""

from collections import Counter
from random import Random
from typing import Any

import pytest

from meshq.core.callreq import Call
from meshq.core.errors import Code, Problem
from meshq.core.http import Headers
from meshq.core.instances import Instance, Service, Snapshot, State
from meshq.core.names import parse_version
from meshq.core.policy import Policy
from meshq.core.policy_parsing import parse_policy
from meshq.core.routing import Route, Routes, route
from meshq.core.selectors import parse_address
from meshq.core.standing import panics

READY, PAUSED, UNHEALTHY, DOWN = State.READY, State.PAUSED, State.UNHEALTHY, State.DOWN


def picture(states: dict[int, list[State]], policy: Policy | None = None) -> Snapshot:
    """`orders` with instances of each major in these states."""
    instances = tuple(
        Instance("orders", f"i{major}-{number}", parse_version(f"{major}.0.0"), (major,), state)
        for major, of_major in states.items()
        for number, state in enumerate(of_major)
    )
    majors = {major: parse_version(f"{major}.0.0") for major in states}
    policies = {} if policy is None else {"orders": policy}
    return Snapshot(1, {"orders": Service("orders", majors, instances)}, policies=policies)


def policy(**keys: Any) -> Policy:
    return parse_policy("orders", keys, now_ms=1_800_000_000_500)


def call(address: str = "orders", headers: Headers | None = None, key: str = "") -> Call:
    return Call(parse_address(address), "GET", b"/", headers or [], None, None, None, False, key=key)


class Sent:
    """The calls of `checkout`, with a seeded source of random bytes."""

    def __init__(self, snapshot: Snapshot) -> None:
        self.routes = Routes("checkout")
        self.snapshot = snapshot
        self._source = Random(11)

    def find(self, made: Call | None = None) -> Route | Problem:
        return self.routes.find(made or call(), self.snapshot, self._source.randbytes(16))

    def topic(self, made: Call | None = None) -> str:
        found = self.find(made)
        assert isinstance(found, Route), found
        return found.topic

    def spread(self, count: int, made: Call | None = None) -> Counter[str]:
        return Counter(self.topic(made) for _ in range(count))


BOTH = {1: [READY], 2: [READY]}


# --- weights ------------------------------------------------------------------------------------------------------------------


def test_weights_share_the_calls_that_name_no_version() -> None:
    sent = Sent(picture(BOTH, policy(weights={1: 90, 2: 10})))
    found = sent.spread(10_000)
    assert abs(found["orders.v1"] / 10_000 - 0.9) < 0.015
    assert found["orders.v1"] + found["orders.v2"] == 10_000


@pytest.mark.parametrize(
    ("address", "topic"),
    [("orders@2", "orders.v2"), ("orders@^2", "orders.v2"), ("orders@latest", "orders.v2"), ("orders@7", "orders.v7")],
)
def test_a_selector_beats_the_weights(address: str, topic: str) -> None:
    sent = Sent(picture(BOTH, policy(weights={1: 100})))
    assert sent.spread(50, call(address)) == {topic: 50}
    assert sent.spread(50) == {"orders.v1": 50}


def test_a_change_applies_to_the_next_call() -> None:
    sent = Sent(picture(BOTH, policy(weights={1: 90, 2: 10})))
    assert len(sent.spread(200)) == 2
    sent.snapshot = picture(BOTH, policy(weights={1: 0, 2: 100}))
    assert sent.spread(200) == {"orders.v2": 200}
    sent.snapshot = picture(BOTH)
    assert sent.spread(200) == {"orders.v2": 200}
    sent.snapshot = picture(BOTH, policy(weights={1: 1}))
    assert sent.spread(200) == {"orders.v1": 200}


def test_a_version_that_never_was_there_has_no_part_in_it() -> None:
    assert Sent(picture({1: [READY]}, policy(weights={1: 50, 2: 50}))).spread(100) == {"orders.v1": 100}
    refused = Sent(picture({1: [READY]}, policy(weights={2: 1, 3: 1}))).find()
    assert isinstance(refused, Problem)
    assert refused.code is Code.NO_SUCH_VERSION
    assert "sends its calls to v2, v3, which never was there; it has v1" in refused.detail


def test_an_operators_message_goes_where_most_go() -> None:
    address = parse_address("orders")
    for weights, topic in [({1: 90, 2: 10}, "orders.v1"), ({1: 10, 2: 90}, "orders.v2"), ({1: 5, 2: 5}, "orders.v2")]:
        found = route(address, picture(BOTH, policy(weights=weights, allow=[])))
        assert isinstance(found, Route)
        assert found.topic == topic


# --- sticking -----------------------------------------------------------------------------------------------------------------


def of_users(sent: Sent, key: str = "") -> dict[int, str]:
    return {n: sent.topic(call(headers=[(b"x-USER", b"u%d" % n)], key=key and f"{key}{n}")) for n in range(500)}


def test_the_same_value_goes_to_the_same_version() -> None:
    sent = Sent(picture(BOTH, policy(weights={1: 70, 2: 30}, sticky="header:X-User")))
    first = of_users(sent)
    assert 0.2 < Counter(first.values())["orders.v2"] / 500 < 0.4
    assert of_users(sent) == first
    assert of_users(sent, "k") == first, "the header says more than the key"
    sent.snapshot = picture(BOTH, policy(weights={1: 60, 2: 40}, sticky="header:X-User"))
    later = of_users(sent)
    assert {later[n] for n in first if first[n] == "orders.v2"} == {"orders.v2"}, "nobody moves to the one that shrank"
    assert 0.05 < sum(first[n] != later[n] for n in first) / 500 < 0.15


@pytest.mark.parametrize("headers", [[], [(b"X-User", b"")]])
def test_without_the_header_a_call_goes_by_its_weights(headers: Headers) -> None:
    sent = Sent(picture(BOTH, policy(weights={1: 50, 2: 50}, sticky="header:X-User")))
    assert len(sent.spread(100, call(headers=headers))) == 2


@pytest.mark.parametrize("sticky", ["header:X-User", None])
def test_calls_with_one_key_stay_with_one_version(sticky: str | None) -> None:
    sent = Sent(picture(BOTH, policy(weights={1: 50, 2: 50}, sticky=sticky)))
    by_key = {n: sent.spread(20, call(key=f"customer-{n}")) for n in range(50)}
    assert all(len(found) == 1 for found in by_key.values())
    assert len({topic for found in by_key.values() for topic in found}) == 2


# --- nobody is ready ----------------------------------------------------------------------------------------------------------


def test_a_repeat_comes_to_the_version_of_the_first() -> None:
    sent = Sent(picture({1: [READY], 2: [READY]}, policy(weights={"1": 50, "2": 50})))
    for number in range(20):
        assert len(sent.spread(20, call(headers=[(b"Idempotency-Key", b"k%d" % number)]))) == 1


@pytest.mark.parametrize(
    ("address", "topic", "event"),
    [
        ("orders", "orders.v1", "fallback"),
        ("orders@latest", "orders.v3", ""),
        ("orders@2", "orders.v2", ""),
        ("orders@^2", "orders.v2", ""),
    ],
)
def test_a_fallback_is_for_calls_that_name_no_version(address: str, topic: str, event: str) -> None:
    states = {1: [State.SUSPECT], 2: [PAUSED], 3: [READY], 4: []}
    found = Sent(picture(states, policy(weights={2: 1}, fallback=[4, 1, 3]))).find(call(address))
    assert isinstance(found, Route)
    assert (found.topic, found.event) == (topic, event)


def test_latest_falls_back_too() -> None:
    states = {1: [READY], 2: [PAUSED]}
    assert Sent(picture(states, policy(fallback=[1]))).topic(call("orders@latest")) == "orders.v1"
    only = {1: [PAUSED], 2: [State.STARTING]}
    assert Sent(picture(only, policy(fallback=[1]))).topic(call("orders@latest")) == "orders.v2"


def test_only_those_whose_version_has_nobody_fall_back() -> None:
    states = {1: [READY], 2: [PAUSED], 3: [READY]}
    found = Sent(picture(states, policy(weights={2: 50, 3: 50}, fallback=[1]))).spread(400)
    assert set(found) == {"orders.v1", "orders.v3"}


def test_where_no_fallback_is_ready_either_it_waits() -> None:
    assert Sent(picture({1: [DOWN], 2: [PAUSED]}, policy(weights={2: 1}, fallback=[1]))).topic() == "orders.v2"


def test_who_waits_does_not_fall_back() -> None:
    states = {1: [READY], 2: [PAUSED]}
    found = Sent(picture(states, policy(weights={2: 1}, fallback=[1], whenAbsent="wait"))).find()
    assert found == Route("orders.v2", "")


@pytest.mark.parametrize("address", ["orders", "orders@2", "orders@^2", "orders@2.0.0"])
def test_whose_policy_says_fail_fails(address: str) -> None:
    states = {2: [PAUSED, State.STARTING, PAUSED]}
    refused = Sent(picture(states, policy(whenAbsent="fail"))).find(call(address))
    assert isinstance(refused, Problem)
    assert refused.code is Code.NO_INSTANCE
    assert refused.detail == (
        "no instance of orders.v2 is ready (2 paused, 1 starting), and its route policy says whenAbsent: fail"
    )
    for state in (READY, State.SUSPECT):
        assert Sent(picture({2: [PAUSED, state]}, policy(whenAbsent="fail"))).topic(call(address)) == "orders.v2"


def test_at_zero_instances_fail_fails_too() -> None:
    refused = Sent(picture({2: []}, policy(whenAbsent="fail"))).find()
    assert isinstance(refused, Problem)
    assert "(there is none)" in refused.detail


def test_a_version_that_nobody_knows_is_the_brokers_to_refuse() -> None:
    assert Sent(picture(BOTH, policy(whenAbsent="fail"))).topic(call("orders@7")) == "orders.v7"


# --- panic --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("states", "panic"),
    [
        ({1: [UNHEALTHY], 2: [UNHEALTHY, UNHEALTHY]}, True),
        ({2: [UNHEALTHY, DOWN, State.DRAINING]}, True),
        ({1: [READY], 2: [UNHEALTHY]}, False),
        ({1: [State.STARTING], 2: [UNHEALTHY]}, False),
        ({2: [UNHEALTHY, PAUSED]}, False),
        ({2: [DOWN]}, False),
        ({2: []}, False),
    ],
)
@pytest.mark.parametrize("address", ["orders", "orders@2"])
def test_when_everybody_is_unhealthy_nothing_fails(states: dict[int, list[State]], panic: bool, address: str) -> None:
    snapshot = picture(states, policy(weights={2: 1}, whenAbsent="fail"))
    assert panics(snapshot.services["orders"]) is panic
    found = Sent(snapshot).find(call(address))
    if panic:
        assert found == Route("orders.v2", "", "panic")
    else:
        assert isinstance(found, Problem)


def test_an_instance_that_only_calls_out_has_no_say_in_it() -> None:
    calling = Instance("orders", "c", parse_version("1.0.0"), (), READY)
    assert panics(Service("orders", {}, (calling,))) is False
    probed = Instance("orders", "p", parse_version("1.0.0"), (1,), UNHEALTHY)
    assert panics(Service("orders", {}, (calling, probed))) is True


def test_it_is_said_without_a_policy_too() -> None:
    assert Sent(picture({1: [UNHEALTHY]})).find() == Route("orders.v1", "", "panic")


# --- the rest of the policy -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("address", ["orders", "orders@2", "orders@^2", "orders@latest", "orders@9"])
def test_who_is_not_allowed_is_denied_whatever_he_calls(address: str) -> None:
    refused = Sent(picture(BOTH, policy(allow=["gateway"]))).find(call(address))
    assert isinstance(refused, Problem)
    assert refused.code is Code.DENIED
    assert "does not allow checkout" in refused.detail
    assert isinstance(Sent(picture(BOTH, policy(allow=["gateway", "checkout"]))).find(call(address)), Route)
    assert isinstance(Sent(picture(BOTH, policy(allow=[]))).find(call(address)), Problem)


def test_callers_of_a_deprecated_version_are_told() -> None:
    made = policy(
        weights={2: 1},
        fallback=[1],
        deprecated={1: {"sunset": "2027-01-31", "link": "https://example.com/migrate"}, 3: None},
    )
    told = (
        (b"Deprecation", b"@1800000000"),
        (b"Sunset", b"Sun, 31 Jan 2027 00:00:00 GMT"),
        (b"Link", b'<https://example.com/migrate>; rel="deprecation"'),
    )
    states = {1: [READY], 2: [READY], 3: [READY]}
    assert [Sent(picture(states, made)).find(call(a)).told for a in ("orders@1", "orders", "orders@3")] == [  # type: ignore[union-attr]
        told,
        (),
        ((b"Deprecation", b"@1800000000"),),
    ]
    fallen = Sent(picture(states | {2: [PAUSED]}, made)).find()
    assert isinstance(fallen, Route)
    assert (fallen.topic, fallen.told) == ("orders.v1", told)


def test_the_timeout_is_for_every_call_of_the_service() -> None:
    for address in ("orders", "orders@1", "orders@^1"):
        found = Sent(picture(BOTH, policy(timeout="250ms"))).find(call(address))
        assert isinstance(found, Route)
        assert found.timeout_ms == 250


def copied(sent: Sent, count: int, made: Call | None = None) -> list[tuple[str, str]]:
    """(topic of the call, topic of the copy) for calls that are copied."""
    source, found = Random(5), []
    for _ in range(count):
        random = source.randbytes(16)
        way = sent.routes.find(made or call(), sent.snapshot, random)
        assert isinstance(way, Route)
        if way.copies is not None and way.copies.take(random):
            found.append((way.topic, way.copies.topic))
    return found


def test_a_part_of_the_calls_is_copied_whichever_version_they_go_to() -> None:
    three = {1: [READY], 2: [READY], 3: [READY]}
    sent = Sent(picture(three, policy(weights={1: 50, 2: 50}, mirror={"to": 3, "percent": 20})))
    found = Counter(copied(sent, 10_000))
    assert set(found) == {("orders.v1", "orders.v3"), ("orders.v2", "orders.v3")}
    assert all(abs(count / 10_000 - 0.1) < 0.015 for count in found.values())
    assert not copied(sent, 200, call("orders@3")), "it goes there already"
    assert len(copied(sent, 200, call("orders@1"))) > 10


@pytest.mark.parametrize(("percent", "count"), [(0, 0), (100, 300)])
def test_no_call_or_every_call_is_copied(percent: int, count: int) -> None:
    sent = Sent(picture(BOTH, policy(weights={1: 1}, mirror={"to": 2, "percent": percent})))
    assert len(copied(sent, 300)) == count


@pytest.mark.parametrize("state", [PAUSED, UNHEALTHY, DOWN])
def test_nothing_is_copied_to_a_version_with_nobody_ready(state: State) -> None:
    found = Sent(picture({1: [READY], 3: [state]}, policy(weights={"1": 1}, mirror={"to": "3", "percent": 100}))).find()
    assert isinstance(found, Route)
    assert found.copies is None


def test_nothing_is_copied_to_a_version_that_never_was_there() -> None:
    assert not copied(Sent(picture(BOTH, policy(mirror={"to": 7, "percent": 100}))), 50)


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("meshq.core.routing.MAX_ROUTES", 2)
    sent = Sent(picture(BOTH))
    for address in ("orders@1", "orders@2", "orders@3", "orders@4"):
        assert sent.topic(call(address)) == f"orders.v{address[-1]}"
    assert len(sent.routes._known) == 2
