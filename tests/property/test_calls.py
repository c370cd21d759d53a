"""The table of pending calls against a plain dictionary, step by step."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from meshq.core.calls import Full, PendingCalls

LIMIT, LIMIT_BYTES = 600, 40_000
names = st.integers(0, 700).map(str)


class Calls(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.table: PendingCalls[str] = PendingCalls(LIMIT, LIMIT_BYTES)
        self.model: dict[str, tuple[float, int]] = {}
        self.now = 0.0
        self.fresh = 1000

    def _open(self, call: str, wait: float, size: int) -> None:
        used = sum(size for _, size in self.model.values())
        if call in self.model:
            with pytest.raises(KeyError):
                self.table.open(call, self.now + wait, size, f"entry {call}")
        elif len(self.model) >= LIMIT or used + size > LIMIT_BYTES:
            with pytest.raises(Full):
                self.table.open(call, self.now + wait, size, f"entry {call}")
        else:
            self.table.open(call, self.now + wait, size, f"entry {call}")
            self.model[call] = (self.now + wait, size)

    @rule(call=names, wait=st.integers(0, 30), size=st.sampled_from([0, 10, 500, 30_000]))
    def open(self, call: str, wait: int, size: int) -> None:
        self._open(call, wait, size)

    @rule(count=st.integers(1, 400), wait=st.integers(1, 60))
    def open_many(self, count: int, wait: int) -> None:
        for _ in range(count):
            self.fresh += 1
            self._open(str(self.fresh), wait, 1)

    @rule(call=names)
    def resolve(self, call: str) -> None:
        expected = f"entry {call}" if call in self.model else None
        assert self.table.get(call) == expected
        assert self.table.resolve(call) == expected
        self.model.pop(call, None)
        assert self.table.resolve(call) is None

    @precondition(lambda self: self.model)
    @rule(count=st.integers(1, 400))
    def resolve_the_newest(self, count: int) -> None:
        for call in list(self.model)[-count:]:
            assert self.table.resolve(call) == f"entry {call}"
            del self.model[call]

    @rule(seconds=st.integers(0, 40))
    def expire(self, seconds: int) -> None:
        self.now += seconds
        due = sorted((deadline, call) for call, (deadline, _) in self.model.items() if deadline <= self.now)
        assert self.table.expire(self.now) == [f"entry {call}" for _, call in due]
        for _, call in due:
            del self.model[call]

    @invariant()
    def agrees(self) -> None:
        assert len(self.table) == len(self.model) <= LIMIT
        assert self.table.bytes == sum(size for _, size in self.model.values()) <= LIMIT_BYTES
        assert sorted(self.table.entries()) == sorted((call, f"entry {call}") for call in self.model)

    @invariant()
    def wakes_in_time(self) -> None:
        first = min((deadline for deadline, _ in self.model.values()), default=None)
        following = self.table.next_deadline()
        assert first is None or (following is not None and following <= first)

    @invariant()
    def heap_is_bounded(self) -> None:
        assert len(self.table._heap) <= 2 * len(self.model) + 257


TestCalls = Calls.TestCase
TestCalls.settings = settings(stateful_step_count=20)
