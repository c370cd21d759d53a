"""The decisions by topic and by the wishes of whoever asks."""

from dataclasses import replace
from typing import Any

import pytest

from meshq.core.names import parse_version
from meshq.core.scaling_values import EVERY, Sample, ScalingPolicy
from meshq.signals.figures import NO_WISHES, Wishes
from meshq.signals.sampling import Topic
from meshq.signals.table import FORGOTTEN, KEPT, MAX_WISHES, Table
from tests.scaling_group import BEGIN, NO_COUNTS, NO_REGISTRY, NOTHING

ORDERS = Topic("orders", 2, "orders.v2", str(parse_version("2.1.0")), ())
POLICY = ScalingPolicy(max=8)


class Looks:
    def __init__(self, *topics: Topic) -> None:
        self.policies = dict.fromkeys((topic.name for topic in topics), POLICY)
        self.table = Table(lambda topic: self.policies[topic.name])
        self.at = BEGIN
        self._topics = topics
        self._told: dict[str, Any] = {}

    def look(self, **told: Any) -> None:
        """The same of each topic; figures stay as they were told last."""
        self.at += EVERY
        self._told |= told
        sample = replace(NOTHING, at=self.at, counted_at=self.at, reported_at=self.at)
        self.take(replace(sample, **self._told))

    def take(self, sample: Sample) -> None:
        self.table.take(self._topics, {each.name: sample for each in self._topics}, self.at_ms)

    @property
    def at_ms(self) -> int:
        return round(self.at * 1000)

    def desired(self, wishes: Wishes = NO_WISHES) -> int | None:
        signal = self.table.signal("orders.v2", wishes)
        assert signal is not None
        return signal.decision.desired


def test_a_signal_says_what_it_is_of() -> None:
    looks = Looks(ORDERS)
    assert looks.table.signal("orders.v2") is None
    looks.look(waiting=5)
    signal = looks.table.signal("orders.v2")
    assert signal is not None
    assert (signal.service, signal.major, signal.topic, signal.version) == ("orders", 2, "orders.v2", "2.1.0")
    assert (signal.policy, signal.sample.waiting, signal.at_ms) == (POLICY, 5, looks.at_ms)
    assert looks.table.signal("orders.v3") is None


def test_in_the_order_of_services_and_majors() -> None:
    topics = [Topic(name, major, f"{name}.v{major}", "1.0.0", ()) for name, major in (("b", 10), ("b", 2), ("a", 1))]
    looks = Looks(*topics)
    looks.look()
    assert looks.table.names() == ["a.v1", "b.v2", "b.v10"]
    assert looks.table.of_service("b") == ["b.v2", "b.v10"]
    assert looks.table.of_service("c") == []


def test_a_topic_that_is_gone_is_forgotten() -> None:
    looks = Looks(ORDERS)
    looks.look()
    looks.table.take([], {}, looks.at_ms)
    assert looks.table.names() == []
    assert looks.table.signal("orders.v2") is None


def test_a_policy_that_changes_holds_from_the_next_look_on() -> None:
    looks = Looks(ORDERS)
    looks.look(replicas=6, ready=6)
    assert looks.desired() == 6
    looks.policies["orders.v2"] = ScalingPolicy(max=3)
    looks.look()
    assert looks.desired() == 3


# --- wishes ---------------------------------------------------------------------------------------------------------------------


def test_wishes_are_answered_from_the_samples_that_are_there() -> None:
    looks = Looks(ORDERS)
    for _ in range(KEPT):
        looks.look(replicas=2, ready=2)
    assert looks.desired(Wishes(min=5)) == 5
    assert looks.desired() == 2
    signal = looks.table.signal("orders.v2", Wishes(min=5, wait=3.0))
    assert signal is not None
    assert signal.policy == replace(POLICY, min=5, wait=3.0)


def test_wishes_remember_as_the_policy_does() -> None:
    looks = Looks(ORDERS)
    looks.look(replicas=2, ready=2)
    patient, hasty = Wishes(idle=600.0), Wishes(idle=10.0)
    assert looks.desired(patient) == looks.desired(hasty) == 2
    for _ in range(4):
        looks.look()
    assert (looks.desired(patient), looks.desired(hasty)) == (2, 0)


def test_wishes_that_nobody_has_any_more_are_dropped() -> None:
    """Of one followed all the time it is known that there was a message; of one that begins anew, not."""
    looks, wishes = Looks(ORDERS), Wishes(idle=FORGOTTEN + 120.0)
    looks.look(in_flight=1)
    assert looks.desired(wishes) == 1
    looks.look(in_flight=0, replicas=0, ready=0)
    for _ in range(round(FORGOTTEN / EVERY) - 1):
        looks.look()
    assert looks.desired(wishes) == 1, "it is remembered"
    for _ in range(round(FORGOTTEN / EVERY) + 2):
        looks.look()
    assert looks.desired(wishes) == 0


def test_too_many_wishes_drop_the_one_asked_for_longest_ago() -> None:
    looks = Looks(ORDERS)
    looks.look(in_flight=1)
    wishes = [Wishes(idle=3600.0 + number) for number in range(MAX_WISHES + 1)]
    for each in wishes[:MAX_WISHES]:
        assert looks.desired(each) == 1
    looks.look(in_flight=0, replicas=0, ready=0)
    for each in wishes[1:MAX_WISHES]:
        looks.desired(each)
    looks.desired(wishes[-1])
    for _ in range(KEPT):
        looks.look()
    assert looks.desired(wishes[1]) == 1, "asked for lately"
    assert looks.desired(wishes[0]) == 0, "begun anew from the samples that are left"
    assert looks.desired() == 1


# --- wakes ----------------------------------------------------------------------------------------------------------------------


def test_a_wake_is_for_what_has_no_replica() -> None:
    looks = Looks(ORDERS)
    looks.look(replicas=0, ready=0)
    assert not looks.table.wake("orders.v3", looks.at, looks.at_ms), "nobody knows it"
    assert looks.table.wake("orders.v2", looks.at + 1.0, looks.at_ms + 1000)
    signal = looks.table.signal("orders.v2")
    assert signal is not None
    assert (signal.decision.desired, signal.at_ms) == (1, looks.at_ms + 1000)
    assert not looks.table.wake("orders.v2", looks.at + 2.0, looks.at_ms + 2000), "one is ordered"
    looks.look()
    assert looks.desired() == 1


def test_a_wake_is_for_all_wishes() -> None:
    looks = Looks(ORDERS)
    looks.look(replicas=0, ready=0)
    assert looks.desired(Wishes(max=3)) == 0
    looks.table.wake("orders.v2", looks.at, looks.at_ms)
    assert looks.desired(Wishes(max=3)) == 1
    assert looks.desired(Wishes(max=5)) == 1, "of one who comes just then too"
    looks.look()
    assert looks.desired(Wishes(max=5)) == 1


# --- what is not known ------------------------------------------------------------------------------------------------------------


def test_figures_that_are_missing_leave_what_is_there() -> None:
    looks = Looks(ORDERS)
    looks.look(replicas=4, ready=4)
    for _ in range(200):
        looks.look(**NO_COUNTS, **NO_REGISTRY)
        assert looks.desired() == looks.desired(Wishes(max=7)) == 4


# --- leads ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wakes", [False, True])
def test_how_long_starts_take_is_measured(wakes: bool) -> None:
    looks = Looks(ORDERS)
    looks.look(replicas=0, ready=0)
    assert looks.table.lead("orders.v2") is None
    if wakes:
        looks.table.wake("orders.v2", looks.at, looks.at_ms)
    else:
        looks.take(replace(NOTHING, at=looks.at, counted_at=looks.at, replicas=0, ready=0, waiting=1))
    looks.look(replicas=1)
    looks.look()
    looks.look(ready=1)
    assert looks.table.lead("orders.v2") == 3 * EVERY
    assert looks.table.lead("orders.v3") is None
