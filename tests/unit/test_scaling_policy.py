"""Scaling policies as people write them."""

from typing import Any

import pytest

from meshq.core.policy_parsing import BadPolicy, parse_policy, policy_as_json
from meshq.core.scaling_policy import policy_as_json as version_as_json
from meshq.core.scaling_policy import read_policy, read_scaling, scaling_as_json
from meshq.core.scaling_values import Scaling, ScalingPolicy

WHOLE = {
    "min": 1,
    "max": 30,
    "wait": "2500ms",
    "quantile": 0.99,
    "lead": "8s",
    "idle": "2m",
    "stabilization": "90s",
    "versions": {"1": {"max": 2, "min": 0}},
}


def test_everything() -> None:
    scaling = read_scaling(WHOLE)
    assert scaling.usual == ScalingPolicy(2.5, 0.99, 1, 30, 8.0, 120.0, 90.0)
    assert scaling.of(2) == scaling.usual
    assert scaling.of(1) == ScalingPolicy(2.5, 0.99, 0, 2, 8.0, 120.0, 90.0)


def test_what_is_not_said_is_usual() -> None:
    assert read_scaling({}) == Scaling(ScalingPolicy())


def test_shown_it_is_read_as_the_same() -> None:
    for given in ({}, {"wait": "300ms"}, {**WHOLE, "wait": "1m"}):
        scaling = read_scaling(given)
        assert read_scaling(scaling_as_json(scaling)) == scaling
        assert read_policy(version_as_json(scaling.usual)) == scaling.usual


def test_it_is_a_part_of_the_route_policy() -> None:
    policy = parse_policy("orders", {"scale": {"max": 3, "versions": {"2": {"wait": "1s"}}}})
    assert policy.scale is not None
    assert (policy.scale.of(1).max, policy.scale.of(2).wait) == (3, 1.0)
    shown = policy_as_json(policy)
    assert shown["scale"] == {"max": 3, "versions": {"2": {"wait": "1s"}}}
    assert parse_policy("orders", shown) == policy
    assert parse_policy("orders", {}).scale is None


def test_numbers_may_be_text_as_in_the_metadata_of_keda() -> None:
    assert read_policy({"max": "12", "quantile": "0.9"}) == ScalingPolicy(max=12, quantile=0.9)


@pytest.mark.parametrize(
    ("given", "where", "said"),
    [
        ({"max": 0}, "max", "at least 1"),
        ({"max": True}, "max", "not a number of replicas"),
        ({"max": 10_001}, "max", "from 0 to 10000"),
        ({"min": -1}, "min", "not a number of replicas"),
        ({"min": 3, "max": 2}, "min", "above max, which is 2"),
        ({"wait": 10}, "wait", "write 10s"),
        ({"wait": "0s"}, "wait", "cannot be met"),
        ({"wait": "25h"}, "wait", "longer than a day"),
        ({"quantile": 1}, "quantile", "below 1"),
        ({"quantile": "much"}, "quantile", "below 1"),
        ({"quantile": "nan"}, "quantile", "below 1"),
        ({"maximum": 3}, "maximum", "no such key"),
        ({"versions": ["1"]}, "versions", "give versions"),
        ({"versions": {"one": {}}}, "versions.one", "one"),
        ({"versions": {"1": {"max": "x"}}}, "versions.1.max", "not a number"),
        ([1], "", "give a map"),
    ],
)
def test_what_is_wrong_is_said(given: Any, where: str, said: str) -> None:
    with pytest.raises(BadPolicy) as caught:
        read_scaling(given)
    ((key, message), *others) = caught.value.faults
    assert (key, others) == (where, [])
    assert said in message


def test_all_faults_at_once() -> None:
    with pytest.raises(BadPolicy) as caught:
        read_scaling({"wait": "x", "max": "y", "versions": {"1": {"min": "z"}}})
    assert {key for key, _ in caught.value.faults} == {"wait", "max", "versions.1.min"}
