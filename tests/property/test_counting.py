"""Counters that begin anew."""

from hypothesis import given
from hypothesis import strategies as st

from meshq.core.counting import Counters


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 50), st.booleans()), min_size=1, max_size=60))
def test_several_counters_never_make_more_than_was_counted(steps: list[tuple[str, int, bool]]) -> None:
    """`a`, `b` and `c` count, and restart; each look says at least what was added, and exactly that where it says so."""
    counters, values = Counters(), {"a": 0.0, "b": 0.0, "c": 0.0}
    counters.read(0.0, values)
    for at, (name, more, restarts) in enumerate(steps, 1):
        values = {**values, name: more + (0.0 if restarts else values[name])}
        added = counters.read(float(at), values)
        assert added is not None
        assert added.amount <= more
        if added.whole:
            assert added.amount == more or restarts
