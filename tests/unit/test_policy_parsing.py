"""Route policies as people write them: read, shown, and refused with everything that is wrong."""

import json
from datetime import UTC, date, datetime
from typing import Any

import pytest
from ruamel.yaml import YAML

from meshq.core.policy import Deprecation, Mirror, Policy, Retry, WhenAbsent
from meshq.core.policy_parsing import BadPolicy, doubts, parse_policy, parse_retry, policy_as_json

NOW = 1_800_000_000_000
SUNSET = int(datetime(2027, 1, 31, tzinfo=UTC).timestamp()) * 1000

INTERFACE = """
service: orders
weights: {"1": 90, "2": 10}      # split of calls that name no version
sticky: header:X-User            # the same value goes to the same version
mirror: {to: "3", percent: 5}    # copies whose answers are dropped
fallback: ["1"]                  # when the chosen version has no ready instance
whenAbsent: wait                 # wait (queue it) | fallback | fail
deprecated: {"1": {sunset: 2027-01-31, link: https://example.com/migrate}}
timeout: 10s
retry: {attempts: 5, delays: [1s, 5s, 30s, 2m]}
backlogLimit: 100000
allow: [checkout, gateway]       # callers; absent = all
"""


def read(**keys: Any) -> Policy:
    return parse_policy("orders", {key.replace("_", "-"): value for key, value in keys.items()}, now_ms=NOW)


def faults(data: object) -> dict[str, str]:
    with pytest.raises(BadPolicy) as caught:
        parse_policy("orders", data, now_ms=NOW)
    assert all(f"{key}: {said}" if key else said in str(caught.value) for key, said in caught.value.faults)
    return dict(caught.value.faults)


def test_the_policy_of_the_interface() -> None:
    policy = parse_policy("orders", YAML(typ="safe", pure=True).load(INTERFACE), now_ms=NOW)
    assert policy == Policy(
        "orders",
        {1: 90, 2: 10},
        "x-user",
        Mirror(3, 5.0),
        (1,),
        WhenAbsent.WAIT,
        {1: Deprecation(NOW, SUNSET, "https://example.com/migrate")},
        10_000,
        Retry(5, (1.0, 5.0, 30.0, 120.0)),
        100_000,
        frozenset({"checkout", "gateway"}),
    )
    shown = policy_as_json(policy)
    assert shown == {
        "service": "orders",
        "weights": {"1": 90, "2": 10},
        "sticky": "header:x-user",
        "mirror": {"to": "3", "percent": 5},
        "fallback": ["1"],
        "whenAbsent": "wait",
        "deprecated": {
            "1": {"since": "2027-01-15T08:00:00Z", "sunset": "2027-01-31", "link": "https://example.com/migrate"}
        },
        "timeout": "10s",
        "retry": {"attempts": 5, "delays": ["1s", "5s", "30s", "2m"]},
        "backlogLimit": 100_000,
        "allow": ["checkout", "gateway"],
    }
    assert parse_policy("orders", json.loads(json.dumps(shown))) == policy


def test_nothing_said_is_nothing() -> None:
    assert read() == Policy("orders")
    assert read(**dict.fromkeys(("weights", "sticky", "mirror", "fallback", "timeout", "allow"))) == Policy("orders")
    assert policy_as_json(Policy("orders")) == {"service": "orders"}


@pytest.mark.parametrize("majors", [("1", "2"), (1, 2)])
def test_majors_are_text_or_numbers(majors: tuple[Any, Any]) -> None:
    one, two = majors
    policy = read(weights={one: 1, two: 0}, mirror={"to": two, "percent": 0.5}, fallback=[two], deprecated={one: None})
    assert policy == Policy(
        "orders",
        {1: 1, 2: 0},
        "",
        Mirror(2, 0.5),
        (2,),
        WhenAbsent.FALLBACK,
        {1: Deprecation(NOW)},
    )


def test_when_absent_follows_the_fallback_list_where_it_is_not_said() -> None:
    assert read(fallback=["1"]).when_absent is WhenAbsent.FALLBACK
    assert read(fallback=["1"], whenAbsent="fail").when_absent is WhenAbsent.FAIL
    assert read(fallback=["1"], whenAbsent="wait").when_absent is WhenAbsent.WAIT
    assert read(fallback=[]).when_absent is WhenAbsent.WAIT


@pytest.mark.parametrize("fallback", [[], ["1"]])
@pytest.mark.parametrize("when_absent", [None, "wait", "fail", "fallback"])
def test_when_absent_is_shown_where_it_does_not_follow(fallback: list[str], when_absent: str | None) -> None:
    if when_absent == "fallback" and not fallback:
        return
    policy = read(fallback=fallback, whenAbsent=when_absent)
    shown = policy_as_json(policy)
    usual = "fallback" if fallback else "wait"
    assert shown.get("whenAbsent") == (None if when_absent == usual else when_absent)
    assert parse_policy("orders", shown) == policy


@pytest.mark.parametrize(
    ("written", "ms"),
    [
        (date(2027, 1, 31), SUNSET),
        (datetime(2027, 1, 31), SUNSET),
        (datetime(2027, 1, 31, tzinfo=UTC), SUNSET),
        ("2027-01-31", SUNSET),
        ("2027-01-31T02:00:00.5+02:00", SUNSET + 500),
    ],
)
def test_dates(written: object, ms: int) -> None:
    assert read(deprecated={1: {"sunset": written}}).deprecated[1].sunset_ms == ms


def test_since_when_it_is_deprecated() -> None:
    told = read(deprecated={1: {"since": "2026-01-01"}, 2: None, 3: {"sunset": "2020-01-01"}})
    first = int(datetime(2026, 1, 1, tzinfo=UTC).timestamp()) * 1000
    past = int(datetime(2020, 1, 1, tzinfo=UTC).timestamp()) * 1000
    assert [told.deprecated[major].since_ms for major in (1, 2, 3)] == [first, NOW, past]
    later = parse_policy("orders", {"deprecated": {1: None, 2: None, 4: None}}, now_ms=NOW + 5, before=told)
    assert [later.deprecated[major].since_ms for major in (1, 2, 4)] == [first, NOW, NOW + 5]


@pytest.mark.parametrize(
    ("data", "where", "says"),
    [
        ([], "", "give a map"),
        ("orders", "", "give a map"),
        ({"service": "billing"}, "service", "the policy is for 'orders'"),
        ({"wieghts": {}}, "wieghts", "did you mean weights?"),
        ({"when_absent": "fail"}, "when_absent", "did you mean whenAbsent?"),
        ({"zzz": 1}, "zzz", "there are service, weights"),
        ({7: 1}, "7", "no such key"),
        ({"weights": [90, 10]}, "weights", "give each version its share"),
        ({"weights": {"1": 0, "2": 0}}, "weights", "add up to 0"),
        ({"weights": {"1": -1}}, "weights.1", "not a whole number from 0"),
        ({"weights": {"1": True}}, "weights.1", "not a whole number from 0"),
        ({"weights": {"1": 0.5}}, "weights.1", "not a whole number from 0"),
        ({"weights": {"v1": 5}}, "weights", "not a major version"),
        ({"weights": {True: 5}}, "weights", "not a major version"),
        ({"weights": {"1": 5, 1: 6}}, "weights", "1 is named twice"),
        ({"weights": dict.fromkeys(range(101), 1)}, "weights", "101 versions are more than 100"),
        ({"sticky": "X-User"}, "sticky", "header:X-User"),
        ({"sticky": "cookie:a"}, "sticky", "header:X-User"),
        ({"sticky": "header:"}, "sticky", "not the name of a header"),
        ({"sticky": "header:a b"}, "sticky", "not the name of a header"),
        ({"sticky": "header:Meshq-Key"}, "sticky", "stick by it anyway"),
        ({"sticky": "header:Meshq-Token"}, "sticky", "does not cross the mesh"),
        ({"sticky": "header:Connection"}, "sticky", "does not cross the mesh"),
        ({"sticky": 5}, "sticky", "header:X-User"),
        ({"mirror": "3"}, "mirror", "give a map"),
        ({"mirror": {"percent": 5}}, "mirror.to", "is required"),
        ({"mirror": {"to": 3}}, "mirror.percent", "is required"),
        ({"mirror": {"to": 3, "percent": 101}}, "mirror.percent", "not a percentage"),
        ({"mirror": {"to": 3, "percent": -1}}, "mirror.percent", "not a percentage"),
        ({"mirror": {"to": 3, "percent": float("nan")}}, "mirror.percent", "not a percentage"),
        ({"mirror": {"to": 3, "percent": "5%"}}, "mirror.percent", "not a percentage"),
        ({"mirror": {"to": 3, "percent": 5, "precent": 5}}, "mirror.precent", "did you mean percent?"),
        ({"mirror": {"to": 3, "percent": 5}, "weights": {3: 1, 2: 0}}, "mirror.to", "every call goes to 3 already"),
        ({"fallback": "1"}, "fallback", "give a list of versions"),
        ({"fallback": ["1", 1]}, "fallback", "1 is named twice"),
        ({"fallback": ["one"]}, "fallback", "not a major version"),
        ({"whenAbsent": "fallback"}, "whenAbsent", "needs a list of versions"),
        ({"whenAbsent": "queue"}, "whenAbsent", "none of wait, fallback, fail"),
        ({"whenAbsent": ["wait"]}, "whenAbsent", "none of wait, fallback, fail"),
        ({"deprecated": ["1"]}, "deprecated", "give versions"),
        ({"deprecated": {"x": None}}, "deprecated", "not a major version"),
        ({"deprecated": {"1": "2027-01-31"}}, "deprecated.1", "give a map"),
        ({"deprecated": {"1": {"sunset": "soon"}}}, "deprecated.1.sunset", "not a date such as"),
        ({"deprecated": {"1": {"sunset": 2027}}}, "deprecated.1.sunset", "not a date such as"),
        ({"deprecated": {"1": {"sunset": "2027-02-30"}}}, "deprecated.1.sunset", "not a date such as"),
        ({"deprecated": {"1": {"sunset": "1969-12-31"}}}, "deprecated.1.sunset", "before 1970"),
        ({"deprecated": {"1": {"since": "2027-01-02", "sunset": "2027-01-01"}}}, "deprecated.1.sunset", "comes before"),
        ({"deprecated": {"1": {"link": "example.com"}}}, "deprecated.1.link", "not a link"),
        ({"deprecated": {"1": {"link": "ftp://example.com"}}}, "deprecated.1.link", "not a link"),
        ({"deprecated": {"1": {"link": 'https://a/">; rel="x'}}}, "deprecated.1.link", "not a link"),
        ({"deprecated": {"1": {"link": "https://a/\r\nX: y"}}}, "deprecated.1.link", "not a link"),
        ({"deprecated": {"1": {"link": "https://a/" + "x" * 2000}}}, "deprecated.1.link", "not a link"),
        ({"deprecated": {"1": {"sunst": 1}}}, "deprecated.1.sunst", "did you mean sunset?"),
        ({"timeout": 10}, "timeout", "has no unit"),
        ({"timeout": "10"}, "timeout", "not a duration"),
        ({"timeout": "0s"}, "timeout", "not between 1ms and 24h"),
        ({"timeout": "25h"}, "timeout", "not between 1ms and 24h"),
        ({"retry": {"attempts": 0}}, "retry", "number of attempts from 1 to 99"),
        ({"retry": {"attempts": 100}}, "retry", "number of attempts from 1 to 99"),
        ({"retry": {"delays": ["13d"]}}, "retry", "longer than 12 days"),
        ({"retry": {"delays": ["1s"] * 99}}, "retry", "99 delays are more than the 98"),
        ({"retry": {"delay": ["1s"]}}, "retry", "give {attempts"),
        ({"retry": {"delays": "1s"}}, "retry", "give {attempts"),
        ({"backlogLimit": -1}, "backlogLimit", "not a whole number"),
        ({"backlogLimit": "100"}, "backlogLimit", "not a whole number"),
        ({"backlogLimit": True}, "backlogLimit", "not a whole number"),
        ({"allow": "checkout"}, "allow", "give a list"),
        ({"allow": ["Checkout", "dead"]}, "allow", "'Checkout' is not a service name"),
        ({"allow": ["a"] * 1001}, "allow", "give a list of at most 1000"),
    ],
)
def test_what_is_wrong(data: object, where: str, says: str) -> None:
    found = faults(data)
    assert list(found) == [where]
    assert says in found[where]


def test_everything_that_is_wrong_is_said_at_once() -> None:
    found = faults(
        {
            "weights": {"1": -1, "2": "x"},
            "mirror": {"to": "x", "percent": 500},
            "fallback": 5,
            "whenAbsent": "never",
            "deprecated": {"1": {"sunset": "soon", "link": "here"}, "2": {"since": 1}},
            "tiemout": "10s",
            "allow": ["ok", "Not Ok", "reply"],
        }
    )
    assert set(found) == {
        *("weights.1", "weights.2", "mirror.to", "mirror.percent", "fallback", "whenAbsent", "tiemout", "allow"),
        *("deprecated.1.sunset", "deprecated.1.link", "deprecated.2.since"),
    }
    assert "'Not Ok'" in found["allow"]
    assert "reserved" in found["allow"]


def test_an_empty_allow_list_allows_nobody() -> None:
    policy = read(allow=[])
    assert policy.allow == frozenset()
    assert parse_policy("orders", policy_as_json(policy)) == policy


@pytest.mark.parametrize(
    ("value", "retry"),
    [
        ("3:1s,2s", Retry(3, (1.0, 2.0))),
        ("3", Retry(3)),
        ({"attempts": 1}, Retry(1)),
        ({"delays": ["12d", "1500ms"]}, Retry(5, (12 * 86_400.0, 1.5))),
        (Retry(2), Retry(2)),
    ],
)
def test_retries(value: object, retry: Retry) -> None:
    assert parse_retry(value) == retry


def test_versions_that_never_were_there_are_doubted() -> None:
    policy = read(weights={1: 1, 2: 0, 3: 5}, mirror={"to": 4, "percent": 1}, fallback=[1, 5], deprecated={1: None})
    assert doubts(policy, {1, 2}) == [
        "weights: no instance of orders ever served v3; it has v1, v2",
        "mirror.to: no instance of orders ever served v4; it has v1, v2",
        "fallback: no instance of orders ever served v5; it has v1, v2",
    ]
    assert doubts(policy, {1, 3, 4, 5}) == []
    assert doubts(read(weights={1: 1}), ()) == ["weights: no instance of orders ever served v1; it has no version yet"]


@pytest.mark.parametrize("when_absent", ["wait", "fail"])
def test_a_fallback_list_without_effect_is_doubted(when_absent: str) -> None:
    said = f"fallback is not looked at with whenAbsent: {when_absent}"
    assert doubts(read(fallback=[1], whenAbsent=when_absent), {1}) == [said]
    assert doubts(read(fallback=[1]), {1}) == []
