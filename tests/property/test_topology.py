"""Ways back out of the delay levels: whatever the names and patterns, a message comes to its own destination alone."""

from hypothesis import assume, given
from hypothesis import strategies as st

from meshq.adapters.embedded_exchange import matches
from meshq.core import topology
from meshq.core.topology import MAX_DELAY_SECONDS, PARTITIONS, RETURN, Topology

services = st.from_regex(r"[a-z]([a-z0-9-]{0,6}[a-z0-9])?", fullmatch=True)
topics = st.builds(lambda service, major: f"{service}.v{major}", services, st.integers(0, 30))
labels = st.from_regex(r"[a-z]([a-z0-9-]{0,5}[a-z0-9])?", fullmatch=True) | st.sampled_from(
    ["event", "meshq", "on", "k0"]
)
events = st.builds(
    lambda names, major: f"{'.'.join(names)}.v{major}", st.lists(labels, min_size=1, max_size=4), st.integers(1, 3)
)
patterns = st.builds(
    lambda parts, major: f"{'.'.join(parts)}.v{major}",
    st.lists(labels | st.sampled_from("*#"), min_size=1, max_size=4),
    st.integers(1, 3),
)
seconds = st.integers(0, MAX_DELAY_SECONDS)
partitions = st.integers(0, PARTITIONS - 1)
instances = st.from_regex(r"[a-z]{1,4}-[a-z0-9]{6}", fullmatch=True)

made = st.one_of(
    st.builds(topology.service, topics, st.booleans()),
    st.builds(topology.results, services),
    st.builds(topology.subscription, topics, labels, patterns),
    st.builds(topology.ordered_subscription, topics, labels, patterns),
    st.builds(topology.broadcast_subscription, topics, labels, patterns, instances),
    st.builds(topology.replay_subscription, topics, labels),
    st.builds(topology.log, events),
)


def out_of(parts: list[Topology], key: str) -> set[str]:
    words = key.split(".")
    bindings = [binding for part in parts for binding in part.bindings if binding.source == RETURN]
    return {binding.destination for binding in bindings if matches(binding.key.split("."), words)}


@given(st.lists(made, min_size=1, max_size=5), seconds, st.data())
def test_what_is_tried_again_comes_back_to_its_own_queue_and_no_other(
    parts: list[Topology], delay: int, data: st.DataObject
) -> None:
    queues = {
        b.destination for part in parts for b in part.bindings if b.source == RETURN and b.key.endswith(b.destination)
    }
    assume(queues)
    queue = data.draw(st.sampled_from(sorted(queues)))
    assert out_of(parts, topology.delay_key(delay, queue)) == {queue}


@given(st.lists(made, max_size=5), seconds, topics, labels)
def test_what_is_for_a_queue_that_is_gone_comes_nowhere(
    parts: list[Topology], delay: int, topic: str, name: str
) -> None:
    gone = topology.subscription_queue(topic, name)
    assume(all(queue.name != gone for part in parts for queue in part.queues))
    assert out_of(parts, topology.delay_key(delay, gone)) == set()


@given(st.lists(made, max_size=5), seconds, events, partitions)
def test_a_delayed_event_comes_out_where_one_without_delay_would(
    parts: list[Topology], delay: int, event: str, partition: int
) -> None:
    key = topology.event_key(event, partition)
    bindings = [b for part in parts for b in part.bindings if b.source == topology.EVENTS]
    at_once = {b.destination for b in bindings if matches(b.key.split("."), key.split("."))}
    assert out_of(parts, topology.delay_key(delay, topology.delayed_event(key))) == at_once


@given(st.text(max_size=200))
def test_every_key_has_one_partition(key: str) -> None:
    assert topology.partition_of(key) in range(PARTITIONS)


@given(seconds, seconds)
def test_delays_have_keys_of_their_own(one: int, other: int) -> None:
    keys = {topology.delay_key(one, "q"), topology.delay_key(other, "q")}
    assert len(keys) == len({one, other})
    assert len(topology.delay_key(one, "")) == 40
