"""The table of pending calls: its bounds and its order."""

import pytest

from meshq.core.calls import Full, PendingCalls


def test_a_call_is_taken_out_once() -> None:
    table: PendingCalls[str] = PendingCalls(10, 100)
    table.open("a", 5.0, 7, "entry")
    assert (table.get("a"), len(table), table.bytes) == ("entry", 1, 7)
    assert table.resolve("a") == "entry"
    assert (table.resolve("a"), table.get("a"), len(table), table.bytes) == (None, None, 0, 0)


def test_a_call_waits_once() -> None:
    table: PendingCalls[str] = PendingCalls(10, 100)
    table.open("a", 5.0, 0, "first")
    with pytest.raises(KeyError):
        table.open("a", 6.0, 0, "second")
    assert table.get("a") == "first"


def test_the_bounds_in_number_and_bytes() -> None:
    table: PendingCalls[str] = PendingCalls(2, 100)
    table.open("a", 1.0, 60, "")
    with pytest.raises(Full):
        table.open("b", 1.0, 41, "")
    table.open("b", 1.0, 40, "")
    with pytest.raises(Full):
        table.open("c", 1.0, 0, "")
    table.resolve("a")
    table.open("c", 1.0, 60, "")


def test_what_is_due_comes_out_earliest_first() -> None:
    table: PendingCalls[str] = PendingCalls(10, 100)
    for name, deadline in (("late", 9.0), ("b", 2.0), ("a", 1.0), ("answered", 0.5)):
        table.open(name, deadline, 0, name)
    table.resolve("answered")
    assert table.expire(0.4) == []
    assert table.expire(2.0) == ["a", "b"]
    assert table.next_deadline() == 9.0
    assert table.expire(100.0) == ["late"]
    assert table.next_deadline() is None


def test_a_name_used_again_has_its_own_deadline() -> None:
    table: PendingCalls[str] = PendingCalls(10, 100)
    table.open("a", 1.0, 0, "first")
    table.resolve("a")
    table.open("a", 5.0, 0, "second")
    assert table.expire(1.0) == []
    assert table.expire(5.0) == ["second"]


def test_a_hundred_thousand_answered_calls_leave_nothing_behind() -> None:
    table: PendingCalls[None] = PendingCalls(10, 100)
    for number in range(100_000):
        table.open(str(number), 1e9, 0, None)
        table.resolve(str(number))
        assert len(table._heap) <= 258
