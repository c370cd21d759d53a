"""What a service sends to, told at most once a minute for each topic."""

import pytest

from meshq.core import usage
from meshq.core.usage import Usage


def test_what_was_sent_to_is_due_until_it_is_told() -> None:
    used = Usage()
    used.note("orders.v1", 10.0)
    used.note("stock.v2", 11.0)
    assert used.due(12.0) == ["orders.v1", "stock.v2"]
    assert used.due(12.0) == ["orders.v1", "stock.v2"], "the registry was away"
    used.tell(["orders.v1"], 12.0)
    assert used.due(13.0) == ["stock.v2"]


def test_the_same_topic_is_due_again_a_minute_later_if_it_was_used_since() -> None:
    used = Usage()
    used.note("orders.v1", 10.0)
    used.tell(used.due(10.0), 10.0)
    assert used.due(100.0) == []
    used.note("orders.v1", 30.0)
    assert used.due(69.0) == []
    assert used.due(70.0) == ["orders.v1"]


def test_what_is_not_used_any_more_is_forgotten() -> None:
    used = Usage()
    for number in range(5):
        used.note(f"orders.v{number}", float(number))
    used.tell(used.due(5.0), 5.0)
    used.note("orders.v4", 50.0)
    used.tell(used.due(70.0), 70.0)
    assert (list(used._sent), list(used._told)) == (["orders.v4"], ["orders.v4"])


def test_what_does_not_exist_is_not_told_of() -> None:
    used = Usage()
    used.note("nobody.v9", 1.0)
    used.forget("nobody.v9")
    used.forget("nobody.v8")
    assert used.due(2.0) == []


def test_it_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(usage, "MAX_TOPICS", 2)
    used = Usage()
    for topic in ("a.v1", "b.v1", "c.v1", "a.v1"):
        used.note(topic, 1.0)
    assert used.due(2.0) == ["a.v1", "b.v1"]
