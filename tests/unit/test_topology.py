"""Names and arguments on the broker (DESIGN part 4), and the delay ladder walked with every kind of delay."""

import pytest

from meshq.adapters.embedded_exchange import matches
from meshq.core import topology
from meshq.core.topology import DELAY, DELAY_LEVELS, LOST, MAX_DELAY_SECONDS, RETURN, Topology


def test_what_a_service_declares_for_its_calls() -> None:
    made = topology.calls("orders.v2")
    arguments = {queue.name: dict(queue.arguments) for queue in made.queues}
    assert arguments == {
        "meshq.orders.v2.call": {"x-queue-type": "quorum", "x-delivery-limit": 50},
        "meshq.orders.v2.dead": {"x-queue-type": "quorum", "x-delivery-limit": 1_000_000},
    }
    assert {(b.source, b.key, b.destination) for b in made.bindings} == {
        ("meshq.calls", "orders.v2.call", "meshq.orders.v2.call"),
        ("meshq.dead", "meshq.orders.v2.dead", "meshq.orders.v2.dead"),
    }
    assert all(queue.durable and not queue.exclusive for queue in made.queues)


def test_a_reply_queue_goes_with_its_connection() -> None:
    made = topology.replies("orders", "i-1", "0a1b")
    (queue,) = made.queues
    assert (queue.name, queue.durable, queue.exclusive) == ("meshq.orders.reply.i-1.0a1b", False, True)
    (binding,) = made.bindings
    assert (binding.source, binding.key) == ("meshq.replies", topology.reply_key("orders", "i-1", "0a1b"))


def test_every_exchange_takes_topic_permissions_but_the_last() -> None:
    kinds = {exchange.name: exchange.kind for exchange in topology.shared().exchanges}
    assert {name for name, kind in kinds.items() if kind != "topic"} == {LOST}
    internal = {exchange.name for exchange in topology.shared().exchanges if exchange.internal}
    assert internal == {f"meshq.delay.{i}" for i in range(DELAY_LEVELS - 1)} | {RETURN, LOST}
    assert {e.name for e in topology.base().exchanges} == {"meshq.calls", "meshq.replies", "meshq.dead"}
    assert set(topology.base().exchanges) <= set(topology.shared().exchanges)


def test_every_quorum_queue_says_how_often_it_delivers() -> None:
    """The default differs between the broker's versions, and what exceeds it would be lost."""
    for queue in (topology.shared() + topology.calls("orders.v2")).queues:
        assert "x-delivery-limit" in dict(queue.arguments)


def test_topologies_add_up_without_doubles() -> None:
    both = topology.calls("orders.v1") + topology.calls("orders.v2") + topology.calls("orders.v1")
    assert len(both.queues) == len(both.bindings) == 4
    assert both + Topology() == both


def walk(seconds: int) -> int:
    """Through the ladder as the broker would go: the sum of the waits, to the exchange that returns."""
    shared = topology.shared()
    ttl = {q.name: dict(q.arguments) for q in shared.queues}
    bits = [str(seconds >> level & 1) for level in reversed(range(DELAY_LEVELS))]
    key = [*bits, "meshq", "orders", "v2", "work"]
    exchange, waited = DELAY, 0
    while exchange != RETURN:
        (binding,) = [b for b in shared.bindings if b.source == exchange and matches(b.key.split("."), key)]
        if binding.to_exchange:
            exchange = binding.destination
        else:
            arguments = ttl[binding.destination]
            waited += int(arguments["x-message-ttl"])
            exchange = str(arguments["x-dead-letter-exchange"])
    return waited // 1000


@pytest.mark.parametrize("seconds", [0, 1, 2, 3, 5, 30, 120, 86_399, 2**19, 2**19 - 1, MAX_DELAY_SECONDS])
def test_the_ladder_waits_as_long_as_its_key_says(seconds: int) -> None:
    assert walk(seconds) == seconds


def test_the_longest_delay_is_over_12_days() -> None:
    assert MAX_DELAY_SECONDS > 12 * 86_400


def test_what_finds_no_way_back_is_kept() -> None:
    (returning,) = [e for e in topology.shared().exchanges if e.name == RETURN]
    assert returning.arguments == (("alternate-exchange", LOST),)
    assert [b.destination for b in topology.shared().bindings if b.source == LOST] == [LOST]
