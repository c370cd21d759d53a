"""The embedded broker against models: patterns against regular expressions, a queue against a sorted list."""

import re

from hypothesis import given
from hypothesis import strategies as st

from meshq.adapters.embedded_exchange import matches
from meshq.adapters.embedded_queue import EmbeddedQueue, Entry, Holder, Rate
from meshq.core.topology import Queue
from meshq.ports import Delivery, Publication

words = st.lists(st.sampled_from(["a", "b", "ab", ""]), max_size=6)
patterns = st.lists(st.sampled_from(["a", "b", "*", "#"]), max_size=5)


@given(patterns, words)
def test_a_pattern_takes_what_its_regular_expression_takes(pattern: list[str], key: list[str]) -> None:
    # Each word ends in a dot here, so that no word and an empty word are two things.
    each = {"*": r"[^.]*\.", "#": r"(?:[^.]*\.)*"}
    expression = "".join(each.get(part, re.escape(part) + r"\.") for part in pattern)
    assert matches(pattern, key) == bool(re.fullmatch(expression, "".join(f"{word}." for word in key)))


class Hooks:
    """What a queue asks of its broker, recorded."""

    def __init__(self) -> None:
        self.lost: list[int] = []

    def now(self) -> float:
        return 0.0

    def wake(self, queue: EmbeddedQueue) -> None:
        """The test delivers when it likes."""

    def gone(self, entry: Entry) -> None:
        self.lost.append(entry.seq)

    def given_out(self, entry: Entry) -> None:
        """Nothing here is stored."""


actions = st.lists(
    st.tuples(
        st.sampled_from(["put", "put", "put", "deliver", "deliver", "ack", "requeue", "lose", "attach", "detach"]),
        st.integers(0, 9),
    ),
    max_size=60,
)


@given(actions)
def test_a_queue_loses_nothing_doubles_nothing_and_keeps_its_order(steps: list[tuple[str, int]]) -> None:
    hooks = Hooks()
    queue = EmbeddedQueue(Queue("q", ()), hooks, 0.0)
    waiting: list[int] = []  # the model: what is ready, in order
    out: dict[int, Delivery] = {}
    seen_before: set[int] = set()
    done: list[int] = []
    holders: list[Holder] = []
    attached: set[int] = set()

    def given_to(delivery: Delivery) -> None:
        seq = int(delivery.message_id)
        assert seq == waiting.pop(0), "not the first"
        assert delivery.redelivered == (seq in seen_before)
        seen_before.add(seq)
        out[seq] = delivery

    def back(seqs: list[int]) -> None:
        waiting.extend(seqs)
        waiting.sort()

    for seq, (action, number) in enumerate(steps):
        chosen = list(out)[number % len(out)] if out else None
        at = number % len(holders) if holders else None
        if action == "put":
            queue.put(Entry(seq, queue, Publication("", "q", b"", str(seq), "call"), "", 0.0, False), 0.0)
            waiting.append(seq)
        elif action == "deliver":
            queue.deliver(0.0, number)
        elif action == "attach":
            holders.append(Holder(1 + number % 3, given_to))
            attached.add(len(holders) - 1)
            queue.attach(holders[-1])
        elif action == "detach" and at in attached:
            attached.remove(at)
            queue.detach(holders[at])
        elif action == "lose" and at is not None:
            mine = list(holders[at].unsettled)
            stale = [out.pop(held) for held in mine]
            holders[at].lose()
            back(mine)
            for delivery in stale:
                assert not delivery.live
                delivery.ack()
        elif action == "ack" and chosen is not None:
            out.pop(chosen).ack()
            done.append(chosen)
        elif action == "requeue" and chosen is not None:
            out.pop(chosen).requeue()
            back([chosen])
        figures = queue.stats(0.0)
        assert (figures.ready, figures.in_flight, figures.consumers) == (len(waiting), len(out), len(attached))
        assert hooks.lost == done


@given(st.lists(st.floats(0, 30, allow_nan=False), max_size=80), st.floats(0, 40, allow_nan=False))
def test_a_rate_is_the_mean_of_the_last_whole_seconds(times: list[float], later: float) -> None:
    rate = Rate(0.0)
    for moment in sorted(times):
        rate.count(moment)
    now = max([later, *times])
    begin, end = max(1, int(now) - 5), int(now)
    expected = sum(begin <= moment < end for moment in times) / (end - begin) if end > begin else None
    assert rate.per_second(now) == expected
