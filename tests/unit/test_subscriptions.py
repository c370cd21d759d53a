"""Subscriptions as values: how they are written, what they need on the broker, which events they admit."""

from datetime import UTC, datetime
from typing import Any

import pytest

from meshq.core.events import EventAddress, parse_event
from meshq.core.message import Request
from meshq.core.names import BadName
from meshq.core.subscription_parsing import (
    BadSubscription,
    name_of,
    parse,
    parse_list,
    parse_pattern,
    parse_short,
    parse_start,
)
from meshq.core.subscriptions import Mode, Pattern, Subscription, admission, declarations, queues
from meshq.core.topology import EVENTS, RETURN, dead

SETTLED = Subscription("settled", Pattern("payments.settled"), "/on/settled")


def faults(given: Any, name: str | None = None) -> list[tuple[str, str]]:
    with pytest.raises(BadSubscription) as bad:
        parse(given, name)
    return bad.value.faults


# --- events ---------------------------------------------------------------------------------------------------------------


def test_an_event_address_without_a_major_means_the_first() -> None:
    assert parse_event("payments.settled") == EventAddress("payments.settled", 1)
    assert parse_event("payments.settled@12").topic == "payments.settled.v12"
    assert str(parse_event("a")) == "a@1"


@pytest.mark.parametrize("text", ["", "@1", "A", "a..b", "a@", "a@x", "a@01", "a@1@2", "a*", "x" * 121, "a b", "-a"])
def test_what_is_no_event_address(text: str) -> None:
    with pytest.raises(BadName):
        parse_event(text)


# --- reading --------------------------------------------------------------------------------------------------------------


def test_all_that_a_subscription_can_say() -> None:
    given = {
        "event": "payments.settled@2",
        "path": "/on/settled?x=1",
        "mode": "replay",
        "filter": {"ce-type": "paid", "X-Shop": "berlin", "x-count": 5, "x-last": True},
        "from": "2026-11-01T01:00:00+01:00",
    }
    narrowed = (("ce-type", "paid"), ("x-shop", "berlin"), ("x-count", "5"), ("x-last", "true"))
    wanted = Subscription(
        "audit", Pattern("payments.settled", 2), "/on/settled?x=1", Mode.REPLAY, narrowed, "2026-11-01T00:00:00Z"
    )
    assert parse(given, "audit") == wanted
    assert parse(wanted.as_json()) == wanted


def test_what_is_left_out_has_its_default() -> None:
    assert parse({"event": "payments.settled", "path": "/on/settled"}, "settled") == SETTLED
    assert (
        parse({"event": "payments.settled", "path": "/on/settled", "mode": None, "filter": None}, "settled") == SETTLED
    )
    assert parse({"event": "a.b", "path": "/x", "mode": "replay"}).start == "first"


def test_a_name_is_made_of_the_events_where_there_is_none() -> None:
    assert parse({"event": "payments.settled", "path": "/x"}).name == "payments-settled-v1"
    assert parse({"events": "payments.*@2", "path": "/x"}).name == "payments-any-v2"
    assert parse({"events": "payments.**", "path": "/x"}).name == parse({"events": "payments.#", "path": "/x"}).name
    long = [name_of(Pattern(f"{'x' * 100}.{last}")) for last in "ab"]
    assert len(set(long)) == 2
    assert all(len(name) <= 63 for name in long)


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ([], [("", "give a map such as {event: payments.settled@1, path: /on/settled}")]),
        ({}, [("event", "is required"), ("path", "is required")]),
        ({"event": "a", "events": "b", "path": "/x"}, [("events", "give event or events, not both")]),
        ({"event": "a", "path": "/x", "pth": 1}, [("pth", "no such key")]),
        (
            {"event": "a", "path": "/x", "from": "first"},
            [("from", "goes only with mode: replay")],
        ),
        (
            {"events": "a.*", "path": "/x", "mode": "replay"},
            [("events", "replay reads the log of one event, so it takes no wildcards")],
        ),
        ({"event": "a.*", "path": "/x"}, [("event", "'a.*' is a pattern: give it as events")]),
        ({"event": 5, "path": "/x"}, [("event", "give an event such as payments.settled@1")]),
        ({"events": 5, "path": "/x"}, [("events", "give a pattern such as payments.*")]),
    ],
)
def test_what_is_wrong_is_said_with_its_key(given: Any, found: list[tuple[str, str]]) -> None:
    assert faults(given) == found


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("path", "on/settled", "is not a path such as /on/settled"),
        ("path", "/a b", "is not a path"),
        ("path", "/a#b", "is not a path"),
        ("path", "/" + "x" * 2000, "is not a path"),
        ("mode", "any", "there is no mode 'any'; there are shared, broadcast, ordered, exclusive, replay"),
        ("mode", ["shared"], "there is no mode"),
        ("filter", ["a"], "give at most 20 header names"),
        ("filter", {f"x-{n}": "" for n in range(21)}, "give at most 20 header names"),
        ("filter", {"a b": "c"}, "'a b' is not the name of a header"),
        ("filter", {"Meshq-Caller": "x"}, "meshq-caller is not a header of the event"),
        ("filter", {"A": "x", "a": "y"}, "a is named twice"),
        ("filter", {"a": ["x"]}, "a: give the value as text"),
        ("filter", {"a": "x\ny"}, "a: give the value as text"),
        ("name", "A", "'A' is not a name"),
        ("name", "a.b", "'a.b' is not a name"),
        ("name", "x" * 64, "is not a name"),
        ("event", "A", "is not an event name"),
    ],
)
def test_each_key_has_its_rule(key: str, value: Any, says: str) -> None:
    ((where, message),) = faults({"name": "n", "event": "a", "path": "/x"} | {key: value})
    assert where == key
    assert says in message


def test_the_address_has_the_last_word_on_the_name() -> None:
    assert parse({"name": "a", "event": "x", "path": "/x"}, "a").name == "a"
    assert faults({"name": "b", "event": "x", "path": "/x"}, "a") == [("name", "it is 'b' here and 'a' in the address")]


@pytest.mark.parametrize(
    ("value", "start"),
    [
        ("first", "first"),
        ("next", "next"),
        (0, 0),
        (2**40, 2**40),
        ("2026-11-01T00:00:00Z", "2026-11-01T00:00:00Z"),
        ("2026-11-01t02:30:00.25+02:30", "2026-11-01T00:00:00.250000Z"),
        (datetime(2026, 11, 1, tzinfo=UTC), "2026-11-01T00:00:00Z"),
    ],
)
def test_where_a_replay_begins(value: Any, start: int | str) -> None:
    assert parse_start(value) == start


@pytest.mark.parametrize(
    "value", ["last", "5", -1, True, 1.5, 2**63, "2026-11-01", "2026-13-01T00:00:00Z", datetime(2026, 1, 1)]
)
def test_what_is_no_place_in_a_log(value: Any) -> None:
    with pytest.raises(ValueError, match="2026-11-01T00:00:00Z"):
        parse_start(value)


# --- the short form -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("settled:payments.settled@1=/on/settled", SETTLED),
        ("settled:payments.settled=/on/settled:shared", SETTLED),
        (" s : a.b@3 = /x : ordered ", Subscription("s", Pattern("a.b", 3), "/x", Mode.ORDERED)),
        ("s:a=/x:8/y", Subscription("s", Pattern("a"), "/x:8/y")),
        ("s:a=/x?y=z", Subscription("s", Pattern("a"), "/x?y=z")),
        ("s:a.**=/x", Subscription("s", Pattern("a.**"), "/x")),
    ],
)
def test_the_short_form(text: str, found: Subscription) -> None:
    assert parse_short(text) == found


@pytest.mark.parametrize(
    "text", ["", "a", "a=b", "a:b", ":b=/x", "a:=/x", "a:b=", "a:b=x", "a:b=/x:any", "a:b.*=/x:replay"]
)
def test_what_is_not_of_the_short_form(text: str) -> None:
    with pytest.raises(BadSubscription):
        parse_short(text)


def test_a_list_tells_every_fault() -> None:
    assert parse_list("") == ()
    assert parse_list("s:a=/x, t:b=/y") == (
        Subscription("s", Pattern("a"), "/x"),
        Subscription("t", Pattern("b"), "/y"),
    )
    assert parse_list([SETTLED, "s:a=/x", {"event": "b", "path": "/y"}])[0] is SETTLED
    with pytest.raises(
        ValueError, match=r"'a': is not of the form.*entry 2: event: is required; 2 subscriptions are called 's'"
    ):
        parse_list(["a", {"path": "/x"}, "s:a=/x", "s:b=/y"])
    with pytest.raises(ValueError, match="give a list"):
        parse_list(5)


# --- on the broker --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "binding", "wild"),
    [
        ("payments.settled", "payments.settled.v1", False),
        ("payments.*", "payments.*.v1", True),
        ("payments.*.done@2", "payments.*.done.v2", True),
        ("payments.**", "payments.#.v1", True),
        ("payments.#@3", "payments.#.v3", True),
        ("*", "*.v1", True),
    ],
)
def test_a_pattern_as_the_broker_takes_it(text: str, binding: str, wild: bool) -> None:
    pattern = parse_pattern(text)
    assert (pattern.binding, pattern.wild) == (binding, wild)


@pytest.mark.parametrize("text", ["", "a.*b", "a.***", "a..b", "A.*", "*@", "*@v1", ".".join("a" * 61)])
def test_what_is_no_pattern(text: str) -> None:
    with pytest.raises(BadName):
        parse_pattern(text)


def declared(mode: Mode) -> tuple[list[str], list[str], set[str]]:
    """What it consumes, the queues that it declares, its keys on the exchange of events."""
    subscription = Subscription("settled", Pattern("payments.*"), "/x", mode)
    topology = declarations(subscription, "shop.v2", "shop-a")
    assert {b.source for b in topology.bindings} <= {EVENTS, RETURN}
    assert not set(topology.queues) & set(dead("shop.v2").queues), "the dead letters are not its own"
    keys = {b.key for b in topology.bindings if b.source == EVENTS}
    return queues(subscription, "shop.v2", "shop-a"), [queue.name for queue in topology.queues], keys


@pytest.mark.parametrize("mode", [Mode.SHARED, Mode.EXCLUSIVE])
def test_one_queue_for_all_instances(mode: Mode) -> None:
    assert declared(mode) == (["meshq.shop.v2.on.settled"], ["meshq.shop.v2.on.settled"], {"payments.*.v1.*"})


def test_ordered_has_a_queue_for_each_partition() -> None:
    consumed, queues, keys = declared(Mode.ORDERED)
    assert consumed == queues == [f"meshq.shop.v2.on.settled.k{p}" for p in range(8)]
    assert keys == {f"payments.*.v1.{p}" for p in range(8)}


def test_broadcast_has_a_queue_for_each_instance() -> None:
    consumed, queues, keys = declared(Mode.BROADCAST)
    assert consumed == queues == ["meshq.shop.v2.on.settled.shop-a"]
    assert keys == {"payments.*.v1.*"}


def test_the_queue_of_a_replay_is_filled_by_hand() -> None:
    assert declared(Mode.REPLAY) == (["meshq.shop.v2.on.settled"], ["meshq.shop.v2.on.settled"], set())


# --- filters --------------------------------------------------------------------------------------------------------------


def admitted(filter: dict[str, str], *headers: tuple[bytes, bytes]) -> bool:
    subscription = parse({"event": "a", "path": "/x", "filter": filter})
    admits = admission(subscription)
    assert admits is not None
    return admits(Request("m1", "POST", b"/", list(headers), None, "payments"))


def test_without_a_filter_everything_is_wanted() -> None:
    assert admission(SETTLED) is None
    assert admission(parse({"event": "a", "path": "/x", "filter": {}})) is None


def test_all_of_a_filter_must_hold() -> None:
    both = {"CE-Type": "paid", "x-shop": "berlin"}
    assert admitted(both, (b"X-Shop", b"berlin"), (b"ce-type", b"paid"), (b"Other", b"1"))
    assert not admitted(both, (b"x-shop", b"berlin"))
    assert not admitted(both, (b"x-shop", b"Berlin"), (b"ce-type", b"paid"))
    assert admitted({"x-shop": "berlin"}, (b"x-shop", b"paris"), (b"x-shop", b"berlin")), "one of several will do"
    assert not admitted(both, (b"x-shop", b"berlin"), (b"x-shop", b"berlin"))


def test_an_attribute_is_compared_by_what_it_says() -> None:
    assert admitted({"ce-subject": "Straße 7"}, (b"ce-subject", b"Stra%C3%9Fe%207"))
    assert admitted({"ce-subject": "Straße 7"}, (b"ce-subject", "Straße 7".encode()))
    assert not admitted({"x-subject": "a b"}, (b"x-subject", b"a%20b")), "only attributes of CloudEvents are encoded"
