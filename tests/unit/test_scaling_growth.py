"""Whether more replicas help."""

from meshq.core.scaling_growth import LOOKS_AFTER, SATURATED, is_saturated
from meshq.core.scaling_values import EVERY, ScalingPolicy
from tests.scaling_group import Group

EACH = 10.0
"""Messages a second that a replica is meant to do: 0.1 s each."""


def crowded(ready: int = 2, done: float = 2 * EACH) -> Group:
    """More waits than they can do."""
    group = Group(ScalingPolicy(max=50), replicas=ready, ready=ready, waiting=10_000)
    group.pass_time(60, done=done * EVERY)
    return group


def saturated(group: Group) -> bool:
    return is_saturated(group.memory, group.sample)


def test_those_that_help() -> None:
    group = crowded()
    group.pass_time(2 * LOOKS_AFTER, done=5 * EACH * EVERY, ready=5)
    assert not saturated(group)


def test_those_that_do_not_help_are_the_last_for_a_while() -> None:
    group = crowded()
    group.pass_time(2 * LOOKS_AFTER, done=2 * EACH * EVERY, ready=5)
    assert saturated(group)
    group.pass_time(SATURATED, done=2 * EACH * EVERY)
    assert not saturated(group)


def test_an_empty_queue_ends_it() -> None:
    group = crowded()
    group.pass_time(2 * LOOKS_AFTER, done=2 * EACH * EVERY, ready=5)
    assert saturated(group)
    group.look(waiting=0)
    assert not saturated(group)


def test_the_last_that_came_get_their_time_too() -> None:
    """One more, and, before it was looked whether that helps, ten: judged then, they would all be said to do nothing."""
    group = crowded()
    group.pass_time(LOOKS_AFTER - EVERY, done=3 * EACH * EVERY, ready=3)
    group.pass_time(2 * EVERY, done=3 * EACH * EVERY, ready=13)
    assert not saturated(group)
    group.pass_time(2 * LOOKS_AFTER, done=13 * EACH * EVERY)
    assert not saturated(group)


def test_nothing_is_said_of_those_that_are_gone_again() -> None:
    group = crowded()
    group.look(done=2 * EACH * EVERY, ready=5)
    group.pass_time(2 * LOOKS_AFTER, done=2 * EACH * EVERY, ready=2)
    assert not saturated(group)


def test_nothing_is_said_where_there_was_nobody() -> None:
    group = crowded(ready=0, done=0)
    group.pass_time(2 * LOOKS_AFTER, done=0, ready=3)
    assert not saturated(group)


def test_a_few_messages_say_nothing() -> None:
    """Three of 20 s each should have done six in 40 s: fewer may be chance."""
    group = Group(service=20.0, replicas=1, ready=1, waiting=100)
    group.pass_time(200, done=0.25)
    group.pass_time(100, done=0.25, ready=4)
    assert not saturated(group)
