"""Room at the app: never more than the limit, and nobody is shut out."""

from collections import Counter, deque

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshq_sidecar.gate import Gate


class Queue:
    """Things that wait for room; those that begin go to `running`."""

    def __init__(self, gate: Gate, name: str, running: list[str], waiting: int) -> None:
        self.gate = gate
        self.name = name
        self.running = running
        self.waiting = waiting
        gate.pull(self.pull)

    def pull(self) -> bool:
        if not self.waiting:
            return False
        self.waiting -= 1
        self.gate.enter()
        self.running.append(self.name)
        return True


def end_one(gate: Gate, running: list[str]) -> None:
    running.pop(0)
    gate.leave()
    gate.fill()


def test_room_is_given_in_turn() -> None:
    gate, running = Gate(3), list[str]()
    for name, waiting in [("a", 100), ("b", 2), ("c", 100)]:
        Queue(gate, name, running, waiting)
    gate.fill()
    assert running == ["a", "b", "c"]
    began = list(running)
    for _ in range(9):
        end_one(gate, running)
        began.append(running[-1])
    assert began == ["a", "b", "c", "a", "b", "c", "a", "c", "a", "c", "a", "c"]


def test_a_gate_with_nothing_behind_it() -> None:
    gate = Gate(1)
    gate.fill()
    assert gate.free
    gate.enter()
    assert not gate.free
    gate.fill()
    gate.leave()
    assert gate.free


def test_what_ends_as_soon_as_it_begins_does_not_nest() -> None:
    """A thousand refused connections in a row must not be a thousand calls deep."""
    gate, waiting, depth = Gate(1), deque(range(2000)), Counter[str]()

    def pull() -> bool:
        if not waiting:
            return False
        waiting.popleft()
        depth["now"] += 1
        depth["most"] = max(depth["most"], depth["now"])
        gate.enter()
        gate.leave()
        gate.fill()
        depth["now"] -= 1
        return True

    gate.pull(pull)
    gate.fill()
    assert (len(waiting), gate.in_flight, depth["most"]) == (0, 0, 1)


def test_one_that_fails_leaves_the_gate_usable() -> None:
    gate = Gate(2)

    def fails() -> bool:
        raise RuntimeError("the test says so")

    gate.pull(fails)
    with pytest.raises(RuntimeError):
        gate.fill()
    with pytest.raises(RuntimeError):
        gate.fill()


@given(st.integers(1, 5), st.lists(st.integers(0, 30), min_size=1, max_size=4), st.lists(st.booleans(), max_size=60))
def test_it_is_full_whenever_something_waits_and_never_over(limit: int, amounts: list[int], steps: list[bool]) -> None:
    gate, running = Gate(limit), list[str]()
    queues = [Queue(gate, str(number), running, amount) for number, amount in enumerate(amounts)]
    for ends in steps:
        if ends and running:
            end_one(gate, running)
        else:
            gate.fill()
        assert gate.in_flight == len(running) <= limit
        assert gate.in_flight == limit or not any(queue.waiting for queue in queues)
