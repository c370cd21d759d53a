"""The age of the oldest message by conservation of counts (statement A3), against queues that are simulated message by message."""

from random import Random
from typing import NamedTuple

from hypothesis import given
from hypothesis import strategies as st

from meshq.core.counting import Arrivals, Counters
from meshq.core.head_age import FULL
from meshq.core.scaling_values import EVERY

SLACK, PART = 2 * EVERY, 0.05


class Phase(NamedTuple):
    """Of a simulated queue: so long, so many messages a second in, so many out while there are any."""

    seconds: int
    arriving: float
    leaving: float
    """0: nobody takes any."""


phases = st.lists(
    st.builds(
        Phase,
        st.integers(5, 1500),
        st.sampled_from([0.0, 0.02, 0.7, 5.0, 40.0]),
        st.sampled_from([0.0, 0.0, 0.3, 6.0, 60.0]),
    ),
    min_size=1,
    max_size=8,
)


class Queue:
    """First in, first out. Nothing leaves it but what is acknowledged, a moment after it was handed out."""

    def __init__(self) -> None:
        self.came: list[float] = []
        """When each message did."""
        self.taken = self.acked = 0
        self._due_in = self._due_out = 0.0

    def second(self, at: float, phase: Phase) -> None:
        self.acked = self.taken
        self._due_in += phase.arriving
        while self._due_in >= 1:
            self._due_in -= 1
            self.came.append(at)
        self._due_out = min(self._due_out + phase.leaving, phase.leaving + 1)
        while self._due_out >= 1 and self.taken < len(self.came):
            self._due_out -= 1
            self.taken += 1

    @property
    def waiting(self) -> int:
        return len(self.came) - self.taken

    @property
    def there(self) -> int:
        return len(self.came) - self.acked

    def oldest_age(self, now: float) -> float:
        return now - self.came[self.taken] if self.waiting else 0.0


def within(told: float, true: float) -> bool:
    return abs(told - true) <= max(SLACK, PART * true)


@given(phases, st.integers(0, 300))
def test_the_oldest_age_is_told_to_within_two_intervals_or_five_percent(story: list[Phase], there_before: int) -> None:
    queue, arrivals, now = Queue(), Arrivals(), 1000.0
    queue.came = [now] * there_before
    start = now
    for phase in story:
        for _ in range(phase.seconds):
            if (now - start) % EVERY == 0:
                arrivals.read(now, float(queue.acked), queue.there)
                age = arrivals.history.oldest_age(now, queue.waiting)
                assert age is not None
                true = queue.oldest_age(now)
                if queue.taken < there_before and queue.waiting:  # it was there when nobody looked yet
                    assert age == (now - start, None)
                else:
                    assert age.most == age.least
                    assert within(age.least, true), (age, true)
            now += 1.0
            queue.second(now, phase)


@given(phases, st.sets(st.integers(1, 400)), st.integers(1, 400))
def test_what_is_unsure_is_told_as_bounds_that_hold(story: list[Phase], lost: set[int], again: int) -> None:
    """Looks in `lost` bring nothing, and at `again` the broker's counter begins anew."""
    queue, arrivals, now, looks, forgotten = Queue(), Arrivals(), 1000.0, 0, 0
    for phase in story:
        for _ in range(phase.seconds):
            if (now - 1000.0) % EVERY == 0:
                looks += 1
                if looks == again:
                    forgotten = queue.acked
                done = None if looks in lost else float(queue.acked - forgotten)
                arrivals.read(now, done, queue.there)
                age = arrivals.history.oldest_age(now, queue.waiting)
                if looks not in lost and age is not None:
                    true = queue.oldest_age(now)
                    assert age.least <= true + max(SLACK, PART * true), (age, true)
                    assert age.most is None or age.most >= true - max(SLACK, PART * true), (age, true)
            now += 1.0
            queue.second(now, phase)


@given(phases, st.randoms(use_true_random=False))
def test_figures_of_different_moments_are_wrong_by_what_left_between_them(story: list[Phase], random: Random) -> None:
    """The queue's own counts and that of acknowledgements are each up to an interval old, as RabbitMQ's are. What left in that time is
    counted twice or not at all; the oldest is then another, but never farther off, and nothing of it adds up."""
    queue, arrivals, now = Queue(), Arrivals(), 1000.0
    acked, there = [0] * 6, [0] * 6
    for phase in [*story, Phase(30, 0.0, 0.0)]:
        for _ in range(phase.seconds):
            acked, there = [*acked[1:], queue.acked], [*there[1:], queue.there]
            if (now - 1000.0) % EVERY == 0:
                arrivals.read(now, float(acked[-1 - random.randint(0, 5)]), there[-1 - random.randint(0, 5)])
            now += 1.0
            queue.second(now, phase)
    age = arrivals.history.oldest_age(now, queue.waiting)
    assert age is not None
    assert age.most == age.least
    off = 2 * int(EVERY * max(phase.leaving + 1 for phase in story))
    oldest = now - queue.came[max(queue.taken - off, 0)] if queue.waiting else 0.0
    youngest = now - queue.came[queue.taken + off] if queue.waiting > off else 0.0
    assert youngest - max(SLACK, PART * youngest) <= age.least <= oldest + max(SLACK, PART * oldest), (
        age,
        youngest,
        oldest,
    )


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


def test_a_history_of_a_day_is_small_and_still_finds_its_oldest() -> None:
    """A hundred come at once every ten minutes, and nobody takes any."""
    arrivals, every = Arrivals(), 600.0
    looks, count = int(86_400 / EVERY), 0
    for look in range(looks):
        if look and (look * EVERY) % every == 0:
            count += 100
        arrivals.read(look * EVERY, 0.0, count)
    now = (looks - 1) * EVERY
    for batch in range(1, count // 100 + 1):
        age = arrivals.history.oldest_age(now, count - 100 * (batch - 1))
        assert age is not None
        assert age.most == age.least
        assert within(age.least, now - batch * every)
    assert len(arrivals.history) < 4 * FULL / EVERY
