"""`meshq scale status` and `explain` as tables."""

from dataclasses import replace
from typing import Any

from meshq.cli.scale_tables import explain, status
from meshq.cli.writing import as_text
from meshq.signals import views
from tests.told_signals import AWAY, never_counted, signal, stale


def lines(table: Any) -> list[str]:
    return as_text(table).plain.splitlines()


def test_the_status_is_a_line_a_topic() -> None:
    slow = signal("billing", 1, 4, replicas=4, terms={"serviceSeconds": 95.0})
    assert lines(status([views.status(slow), views.status(signal()), views.status(never_counted("shop", 3))])) == [
        "TOPIC       VERSION  REPLICAS  DESIRED  WAITING  IN FLIGHT  IN/S  TAKES  OLDEST  REASON",
        "billing.v1  1.1.0           4        4        7          3     -  1m35s       -  12.5 messages a second come",
        "orders.v2   2.1.0           2        3        7          3  12.5   50ms    1.5s  12.5 messages a second come",
        f"shop.v3     3.1.0           2        -        -          -     -      -       -  stale: {AWAY}",
    ]


def test_what_differs_or_is_stale_stands_out() -> None:
    differs, same, old = status([views.status(each) for each in (signal(), signal(desired=2), stale())]).rows
    assert [row[3].style for row in (differs, same)] == ["yellow", ""]
    assert [row[-1].style for row in (same, old)] == ["", "red"]


def test_an_explanation_is_a_line_a_term() -> None:
    decided = signal(terms={"eachRate": 15999.7, "serviceSeconds": 0.00062, "drain": 2.0, "arrivalRate": None})
    held = replace(decided, decision=replace(decided.decision, held="damped"))
    assert lines(explain([views.explain(held)])) == [
        "WHAT                                VALUE  MEANING",
        "topic                           orders.v2  version 2.1.0",
        "desired                                 3  12.5 messages a second come",
        "held                               damped  the guard that decided",
        "eachRate                            16000  messages a second that one replica can do",
        "serviceSeconds                    0.00062  seconds of work a message",
        "drain                                   2  replicas that work off what waits",
        "arrivalRate                             -  messages a second that are expected",
        "policy.wait                           10s  that a message may wait...",
        "policy.quantile                      0.95  ...for this part of all messages",
        "policy.min                              0  fewest replicas",
        "policy.max                             20  most replicas",
        "countedAt        2033-05-18T03:33:18.000Z  when the broker counted",
        "reportedAt       2033-05-18T03:33:15.000Z  when the instances reported, the first of them",
        "decidedAt        2033-05-18T03:33:20.000Z  when this was decided",
    ]


def test_all_versions_of_a_service_are_explained() -> None:
    body = [views.explain(each) for each in (signal(major=1), stale())]
    said = lines(explain(body))
    assert [line.split()[1] for line in said if line.startswith("topic ")] == ["orders.v1", "orders.v2"]
    assert [line.split()[1] for line in said if line.startswith("stale ")] == ["yes"]


def test_a_reason_cannot_write_to_the_terminal() -> None:
    sly = replace(signal(), decision=replace(signal().decision, reason="\x1b[2J all is well"))
    assert "\x1b" not in as_text(status([views.status(sly)])).plain + as_text(explain([views.explain(sly)])).plain
