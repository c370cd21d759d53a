"""Rights as expressions; tests/contract/test_broker_rights.py holds them against brokers."""

import json
import re
import shlex

import pytest

from meshq.core import topology
from meshq.core.names import BadName
from meshq.core.rights import commands, definitions, rights
from meshq.core.topology import Topology

ALL_OF_IT = (
    topology.service("orders.v1", ordered=True)
    + topology.results("orders")
    + topology.replies("orders", "orders-7d9f-k3m2qa", "0f1e2d3c")
    + topology.subscription("orders.v1", "paid", "payments.settled.v1")
    + topology.subscription("orders.v1", "one", "payments.*.v1", exclusive=True)
    + topology.subscription("orders.v1", "all", "#.v1")
    + topology.ordered_subscription("orders.v1", "row", "payments.settled.v1")
    + topology.broadcast_subscription("orders.v1", "cast", "payments.#.v1", "orders-1")
    + topology.replay_subscription("orders.v1", "again")
)


def holds(expression: str, text: str) -> bool:
    return re.search(expression, text) is not None


def lacking(wanted: Topology, **limits: list[str]) -> list[str]:
    """What a service with its rights could not declare of it."""
    given = rights("orders", **limits)  # type: ignore[arg-type]
    readable = {each.exchange: each.read for each in given.topics}
    missing = [queue.name for queue in wanted.queues if not holds(given.configure, queue.name)]
    missing += [
        f"{binding.destination} to {binding.source}"
        for binding in wanted.bindings
        if not (
            holds(given.write, binding.destination)
            and holds(given.read, binding.source)
            and holds(readable[binding.source], binding.key)
        )
    ]
    return missing


def test_a_service_may_declare_all_that_it_needs() -> None:
    assert lacking(ALL_OF_IT) == []
    assert lacking(topology.log("orders.placed.v1"), logs=["orders.placed"]) == []
    assert lacking(topology.log("orders.placed.v1")) != []


@pytest.mark.parametrize(
    ("allowed", "pattern", "may"),
    [
        ("payments.settled", "payments.settled", True),
        ("payments.settled", "payments.*", False),
        ("payments.settled", "payments.settled.twice", False),
        ("payments.*", "payments.settled", True),
        ("payments.*", "payments.*", True),
        ("payments.*", "payments.#", False),
        ("payments.*", "payments.a.b", False),
        ("payments.#", "payments", True),
        ("payments.#", "payments.*.x", True),
        ("payments.**", "payments.#", True),
        ("payments.#", "#", False),
        ("#.settled", "settled", True),
        ("#.settled", "a.b.settled", True),
        ("#.settled", "a.b.settled.c", False),
        ("a.#.b", "a.b", True),
        ("a.#.b", "a.#.b", True),
        ("a.#.b", "a.c.d", False),
        ("#", "anything.at.all", True),
        ("#", "#", True),
    ],
)
def test_a_subscription_may_be_as_wide_as_it_was_allowed(allowed: str, pattern: str, may: bool) -> None:
    wanted = topology.subscription("orders.v1", "x", f"{pattern}.v1")
    assert (lacking(wanted, may_subscribe=[allowed]) == []) is may


def test_nothing_allowed_is_nothing() -> None:
    given = {t.exchange: t for t in rights("orders", may_call=[], may_publish=[], may_subscribe=[]).topics}
    assert not holds(given[topology.CALLS].write, "billing.v1.call")
    assert holds(given[topology.CALLS].write, "orders.v1.call")
    assert not holds(given[topology.EVENTS].write, "a.v1.0")
    assert not holds(given[topology.EVENTS].read, "a.v1.*")


@pytest.mark.parametrize(
    "bad",
    [
        {"may_call": ["Billing"]},
        {"called_by": ["a|b"]},
        {"may_publish": ["a..b"]},
        {"may_subscribe": ["a.b|c"]},
        {"logs": ["("]},
        {"may_subscribe": [""]},
    ],
)
def test_a_name_that_is_none_is_refused(bad: dict[str, list[str]]) -> None:
    with pytest.raises(BadName):
        rights("orders", **bad)  # type: ignore[arg-type]
    with pytest.raises(BadName):
        rights("log")


def test_the_lines_for_a_shell_are_read_back_as_these_rights() -> None:
    given = rights("orders", may_call=["billing"])
    first, *rest = [shlex.split(line) for line in commands(given, "shop's mesh")]
    assert first == [
        "rabbitmqctl",
        "set_permissions",
        "-p",
        "shop's mesh",
        "orders",
        given.configure,
        given.write,
        given.read,
    ]
    assert [tuple(line[5:]) for line in rest] == list(given.topics)
    assert all(line[:5] == ["rabbitmqctl", "set_topic_permissions", "-p", "shop's mesh", "orders"] for line in rest)
    assert shlex.split(commands(given, "default", user="ada")[0])[4] == "ada"


def test_the_definitions_are_these_rights() -> None:
    both = [rights("orders"), rights("billing")]
    found = json.loads(definitions(both, "default"))
    assert [each["user"] for each in found["permissions"]] == ["orders", "billing"]
    assert {each["exchange"] for each in found["topic_permissions"]} == {each.exchange for each in both[0].topics}
    assert "users" not in found
