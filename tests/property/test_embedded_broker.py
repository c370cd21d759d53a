"""The embedded broker against models: patterns against regular expressions, a queue against a sorted list, a log against a
list, the ways of messages through delays and dead letters against their due times."""

import asyncio
import re
from collections import Counter
from functools import partial

import uvloop
from hypothesis import given
from hypothesis import strategies as st

from meshq.adapters.clock import ManualClock
from meshq.adapters.embedded_broker import EmbeddedHub
from meshq.adapters.embedded_delivery import Entry, Holder
from meshq.adapters.embedded_exchange import Pattern, matches
from meshq.adapters.embedded_log import EmbeddedLog, MemoryRecords
from meshq.adapters.embedded_place import Place, Rate
from meshq.adapters.embedded_queue import EmbeddedQueue
from meshq.core import topology
from meshq.core.topology import DELAY, Queue
from meshq.ports import Delivery, Publication, Published
from tests.doubles import turn

words = st.lists(st.sampled_from(["a", "b", "ab", ""]), max_size=6)
patterns = st.lists(st.sampled_from(["a", "b", "*", "#"]), max_size=5)


@given(patterns, words)
def test_a_pattern_takes_what_its_regular_expression_takes(pattern: list[str], key: list[str]) -> None:
    # Each word ends in a dot here, so that no word and an empty word are two things.
    each = {"*": r"[^.]*\.", "#": r"(?:[^.]*\.)*"}
    expression = "".join(each.get(part, re.escape(part) + r"\.") for part in pattern)
    expected = bool(re.fullmatch(expression, "".join(f"{word}." for word in key)))
    assert matches(pattern, key) == Pattern(pattern).takes(key) == expected


class Hooks:
    """What a place asks of its broker, recorded. The time is turned by hand."""

    def __init__(self) -> None:
        self.time = 0.0
        self.lost: list[int] = []
        self.dead_ones: list[tuple[int, str]] = []

    def now(self) -> float:
        return self.time

    def mesh_ms(self) -> int:
        return round(self.time * 1000)

    def wake(self, place: Place) -> None:
        """The test delivers when it likes."""

    def arm(self, place: Place, when: float) -> None:
        place.armed = when

    def read(self, entry: Entry) -> bytes | None:
        raise AssertionError("everything is in memory here")

    def given_out(self, entry: Entry) -> None:
        """Nothing here is stored."""

    def gone(self, entry: Entry) -> None:
        self.lost.append(entry.seq)

    def dead(self, entry: Entry, reason: str) -> None:
        self.dead_ones.append((entry.seq, reason))


LIMIT = 3
OFTEN = ["put", "put", "put", "attach", "deliver", "deliver", "ack", "requeue"]
actions = st.lists(
    st.tuples(
        st.sampled_from([*OFTEN, *OFTEN, "put briefly", "pass time", "detach", "lose", "hold"]), st.integers(0, 9)
    ),
    min_size=20,
    max_size=80,
)


class Model:
    """What a queue should be: sorted lists. `faults` because a consumer that raises would only be logged."""

    def __init__(self, single: bool) -> None:
        self.single = single
        self.time = 0.0
        self.waiting: list[int] = []
        self.ends: dict[int, float] = {}
        self.out: dict[int, tuple[int, Delivery]] = {}
        """By message: who has it."""
        self.consumers: list[int] = []
        self.leaving: dict[int, list[int]] = {}
        """A single consumer that was cancelled, with what it gave back since."""
        self.came_back: Counter[int] = Counter()
        self.done: list[int] = []
        self.dead: list[tuple[int, str]] = []
        self.faults: list[str] = []

    def given_to(self, holder: int, delivery: Delivery) -> None:
        self.expire()
        seq = int(delivery.message_id)
        if not self.waiting or self.waiting.pop(0) != seq:
            self.faults.append(f"{seq} is not the first")
        if self.single and holder in self.consumers and (holder != self.consumers[0] or holder in self.leaving):
            self.faults.append(f"{seq} went to {holder}, and it is another's turn")
        if delivery.properties()["headers"] != {"x-delivery-count": self.came_back[seq]}:
            self.faults.append(f"{seq} says the wrong number of deliveries")
        self.out[seq] = holder, delivery

    def held_by(self, holder: int) -> list[int]:
        return [seq for seq, (owner, _) in self.out.items() if owner == holder]

    def detach(self, holder: int) -> None:
        if self.single and self.held_by(holder):
            self.leaving[holder] = []
        else:
            self.consumers.remove(holder)

    def requeue(self, seq: int) -> None:
        owner, _ = self.out.pop(seq)
        if owner in self.leaving:
            self.leaving[owner].append(seq)
        else:
            self.back(seq)
        self.left(owner)

    def ack(self, seq: int) -> None:
        owner, _ = self.out.pop(seq)
        self.done.append(seq)
        self.left(owner)

    def lose(self, holder: int) -> None:
        for seq in self.held_by(holder):
            del self.out[seq]
            self.back(seq)
        self.left(holder)

    def left(self, holder: int) -> None:
        if holder in self.leaving and not self.held_by(holder):
            for seq in self.leaving.pop(holder):
                self.back(seq)
            self.consumers.remove(holder)

    def back(self, seq: int) -> None:
        self.came_back[seq] += 1
        if self.came_back[seq] > LIMIT:
            self.dead.append((seq, "delivery_limit"))
        else:
            self.waiting = sorted([*self.waiting, seq])

    def expire(self) -> None:
        while self.waiting and self.ends.get(self.waiting[0], self.time + 1) <= self.time:
            self.dead.append((self.waiting.pop(0), "expired"))

    @property
    def figures(self) -> tuple[int, int, int]:
        returned = sum(len(seqs) for seqs in self.leaving.values())
        return len(self.waiting), len(self.out) + returned, len(self.consumers)


@given(actions, st.booleans())
def test_a_queue_loses_nothing_doubles_nothing_and_keeps_its_order(steps: list[tuple[str, int]], single: bool) -> None:
    hooks, model = Hooks(), Model(single)
    arguments = (("x-queue-type", "quorum"), ("x-delivery-limit", LIMIT), ("x-single-active-consumer", single))
    queue = EmbeddedQueue(Queue("q", arguments), hooks, 0.0)
    holders: list[Holder] = []

    def new_holder(prefetch: int) -> Holder:
        holders.append(Holder(prefetch, partial(model.given_to, len(holders))))
        return holders[-1]

    for seq, (action, number) in enumerate(steps):
        chosen = list(model.out)[number % len(model.out)] if model.out else None
        at = number % len(holders) if holders else None
        if action in ("put", "put briefly"):
            brief = number * 100 if action == "put briefly" else None
            publication = Publication("", "q", b"", str(seq), "call", expiration_ms=brief)
            queue.put(Entry(seq, queue, publication, "", hooks.time), hooks.time)
            model.waiting.append(seq)
            if brief is not None:
                model.ends[seq] = hooks.time + brief / 1000
        elif action == "pass time":
            hooks.time = model.time = hooks.time + number / 10
        elif action == "deliver":
            queue.deliver(hooks.time, number)
        elif action == "hold":
            queue.hold(new_holder(10), number, hooks.time)
        elif action == "attach":
            model.consumers.append(len(holders))
            queue.attach(new_holder(1 + number % 3))
        elif action == "detach" and at in model.consumers and at not in model.leaving:
            model.detach(at)
            queue.detach(holders[at])
        elif action == "lose" and at is not None:
            stale = [model.out[seq][1] for seq in model.held_by(at)]
            model.lose(at)
            holders[at].lose()
            assert not any(delivery.live for delivery in stale)
            for delivery in stale:
                delivery.ack()
        elif action in ("ack", "requeue") and chosen is not None:
            delivery = model.out[chosen][1]
            if action == "ack":
                model.ack(chosen)
                delivery.ack()
            else:
                model.requeue(chosen)
                delivery.requeue()
        figures = queue.stats(hooks.time)
        model.expire()
        assert not model.faults
        assert (figures.ready, figures.in_flight, figures.consumers) == model.figures
        assert hooks.lost == model.done
        assert sorted(hooks.dead_ones) == sorted(model.dead)
        if model.waiting and model.waiting[0] in model.ends:
            assert queue.armed is not None
            assert queue.armed <= model.ends[model.waiting[0]], "nobody would look when it is over its time"


log_steps = st.lists(
    st.tuples(
        st.sampled_from(["put", "put", "put", "read", "read", "ack", "attach", "detach", "lose"]), st.integers(0, 9)
    ),
    max_size=80,
)


@given(log_steps)
def test_every_reader_of_a_log_gets_all_of_it_in_order_from_its_place_on(steps: list[tuple[str, int]]) -> None:
    hooks = Hooks()
    log = EmbeddedLog(Queue("l", (("x-max-length-bytes", 10_000),)), hooks, MemoryRecords(), None, 0.0)
    seen: list[list[int]] = []
    starts: list[int] = []
    unsettled: list[list[Delivery]] = []
    holders: list[Holder] = []
    attached: set[int] = set()
    written = 0
    total = partial(lambda: log.stats(0.0).ready or 0)

    def take(reader: int, delivery: Delivery) -> None:
        number = delivery.properties()["headers"]["x-stream-offset"]
        seen[reader].append(number if delivery.body == b"%d" % number else -1)
        unsettled[reader].append(delivery)

    for action, number in steps:
        at = number % len(holders) if holders else None
        if action == "put":
            publication = Publication("", "l", b"%d" % written, "m", "event")
            assert log.next_number() == written
            log.put(Entry(written, log, publication, "", 0.0), 0.0)
            written += 1
        elif action == "attach":
            starts.append(written if number == 9 else number)
            seen.append([])
            unsettled.append([])
            attached.add(len(holders))
            holders.append(Holder(3, partial(take, len(holders)), "next" if number == 9 else number))
            log.attach(holders[-1])
        elif action == "read":
            while log.deliver(0.0, 1 + number):
                pass
        elif at is not None and at in attached:
            if action == "detach":
                attached.remove(at)
                log.detach(holders[at])
            elif action == "lose":
                unsettled[at].clear()
                holders[at].lose()
            elif action == "ack" and unsettled[at]:
                unsettled[at].pop(number % len(unsettled[at])).ack()
        assert total() <= 20
        for reader, numbers in enumerate(seen):
            assert len(unsettled[reader]) <= 3
            assert numbers == sorted(set(numbers))
            if numbers:
                assert starts[reader] <= numbers[0]
                assert numbers[-1] < written
    for at in attached:
        while True:
            log.deliver(0.0, 100)
            if not unsettled[at]:
                break
            unsettled[at].pop(0).ack()
        kept = list(range(max(starts[at], written - total()), written))
        assert seen[at][-len(kept) :] == kept or not kept, "something that is kept was passed over"


DESTINATION = topology.work_queue("orders.v1")
waits = st.lists(
    st.one_of(
        st.tuples(st.just("publish"), st.sampled_from([0, 1, 2, 3, 5, 6, 7, 8, 100, 4095])),
        st.tuples(st.just("pass time"), st.integers(1, 40_000).map(lambda eighths: eighths / 8)),
    ),
    min_size=1,
    max_size=12,
)


@given(waits)
def test_whatever_is_delayed_comes_once_and_when_it_is_due(steps: list[tuple[str, float]]) -> None:
    async def story() -> None:
        clock = ManualClock()
        hub = EmbeddedHub(None, clock)
        broker = hub.connect("orders")
        await broker.open()
        await broker.declare(topology.service("orders.v1"))
        came: list[tuple[int, float]] = []

        def take(delivery: Delivery) -> None:
            came.append((int(delivery.message_id), clock.monotonic()))
            delivery.ack()

        broker.subscribe(DESTINATION, 100, take)
        due: list[float] = []
        for action, amount in steps:
            if action == "publish":
                key = topology.delay_key(int(amount), DESTINATION)
                fates: list[Published] = []
                broker.publish(Publication(DELAY, key, b"", str(len(due)), "call"), fates.append)
                assert fates == [Published.CONFIRMED]
                due.append(clock.monotonic() + amount)
            else:
                clock.advance(amount)
            for _ in range(topology.DELAY_LEVELS):  # what leaves one level late leaves the next at once
                hub.tick()
                for _ in range(4):
                    await turn()
            assert Counter(number for number, _ in came) == Counter(
                number for number, moment in enumerate(due) if moment <= clock.monotonic()
            )
        assert all(moment >= due[number] for number, moment in came)
        await hub.close()

    uvloop.run(asyncio.wait_for(story(), 60))


@given(st.lists(st.floats(0, 30, allow_nan=False), max_size=80), st.floats(0, 40, allow_nan=False))
def test_a_rate_is_the_mean_of_the_last_whole_seconds(times: list[float], later: float) -> None:
    rate = Rate(0.0)
    for moment in sorted(times):
        rate.count(moment)
    now = max([later, *times])
    begin, end = max(1, int(now) - 5), int(now)
    expected = sum(begin <= moment < end for moment in times) / (end - begin) if end > begin else None
    assert rate.per_second(now) == expected
