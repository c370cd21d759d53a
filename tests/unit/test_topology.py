"""Names and arguments on the broker (DESIGN part 4), and the delay ladder walked with every kind of delay."""

from collections import Counter

import pytest

from meshq.adapters.embedded_exchange import matches
from meshq.core import topology
from meshq.core.topology import DELAY, DELAY_LEVELS, EVENTS, LOST, MAX_DELAY_SECONDS, RETURN, Queue, Topology

WORKED = {
    "x-queue-type": "quorum",
    "x-delivery-limit": 50,
    "x-dead-letter-exchange": "meshq.dead",
    "x-dead-letter-strategy": "at-least-once",
    "x-overflow": "reject-publish",
    "x-dead-letter-routing-key": "meshq.orders.v2.dead",
}
"""Arguments of a queue whose messages are handled at least once."""
ONE_AT_A_TIME = WORKED | {"x-single-active-consumer": True, "x-delivery-limit": 1_000_000}
TO_THE_DEAD = ("meshq.dead", "meshq.orders.v2.dead", "meshq.orders.v2.dead")
BITS = "*." * 20


def arguments_of(made: Topology) -> dict[str, dict[str, str | int]]:
    return {queue.name: dict(queue.arguments) for queue in made.queues}


def bindings_of(made: Topology) -> set[tuple[str, str, str]]:
    """(exchange, key, queue)"""
    return {(b.source, b.key, b.destination) for b in made.bindings}


def everything() -> Topology:
    """One of each kind of queue that a service may have."""
    made = topology.service("orders.v2", ordered=True) + topology.results("orders")
    made += topology.subscription("orders.v2", "settled", "payments.settled.v1")
    made += topology.subscription("orders.v2", "all", "payments.#.v1", exclusive=True)
    made += topology.ordered_subscription("orders.v2", "each", "payments.*.v1")
    made += topology.broadcast_subscription("orders.v2", "caches", "prices.changed.v1", "i-1")
    made += topology.replay_subscription("orders.v2", "audit")
    return made + topology.log("payments.settled.v1") + topology.replies("orders", "i-1", "0a1b")


def test_what_a_service_declares() -> None:
    made = topology.service("orders.v2")
    assert arguments_of(made) == {
        "meshq.orders.v2.call": {"x-queue-type": "quorum", "x-delivery-limit": 50},
        "meshq.orders.v2.dead": {"x-queue-type": "quorum", "x-delivery-limit": 1_000_000},
        "meshq.orders.v2.work": WORKED,
    }
    assert bindings_of(made) == {
        ("meshq.calls", "orders.v2.call", "meshq.orders.v2.call"),
        ("meshq.calls", "orders.v2.work", "meshq.orders.v2.work"),
        ("meshq.return", f"{BITS}meshq.orders.v2.work", "meshq.orders.v2.work"),
        TO_THE_DEAD,
    }
    assert all(queue.durable and not queue.exclusive for queue in made.queues)


def test_a_service_that_takes_keys_has_eight_queues_for_them() -> None:
    names = [f"meshq.orders.v2.key.{p}" for p in range(8)]
    more = arguments_of(topology.service("orders.v2", ordered=True))
    assert {name: more.get(name) for name in names} == dict.fromkeys(names, ONE_AT_A_TIME)
    assert more.keys() - names == arguments_of(topology.service("orders.v2")).keys()
    bindings = bindings_of(topology.service("orders.v2", ordered=True))
    for p, name in enumerate(names):
        assert {b for b in bindings if b[2] == name} == {
            ("meshq.calls", f"orders.v2.key.{p}", name),
            ("meshq.return", BITS + name, name),
        }


def test_results_come_to_the_service_and_not_to_a_version() -> None:
    made = topology.results("orders")
    assert arguments_of(made) == {"meshq.orders.results": {"x-queue-type": "quorum", "x-delivery-limit": 1_000_000}}
    assert bindings_of(made) == {
        ("meshq.replies", "orders.results", "meshq.orders.results"),
        ("meshq.return", f"{BITS}meshq.orders.results", "meshq.orders.results"),
    }


@pytest.mark.parametrize(("exclusive", "arguments"), [(False, WORKED), (True, ONE_AT_A_TIME)])
def test_a_subscription_takes_every_partition(exclusive: bool, arguments: dict[str, str | int]) -> None:
    made = topology.subscription("orders.v2", "settled", "payments.*.v1", exclusive=exclusive)
    name = "meshq.orders.v2.on.settled"
    assert arguments_of(made)[name] == arguments
    assert bindings_of(made) == {
        ("meshq.events", "payments.*.v1.*", name),
        ("meshq.return", f"{BITS}event.payments.*.v1.*", name),
        ("meshq.return", BITS + name, name),
        TO_THE_DEAD,
    }


def test_an_ordered_subscription_has_a_queue_for_each_partition() -> None:
    made = topology.ordered_subscription("orders.v2", "settled", "payments.settled.v1")
    names = [f"meshq.orders.v2.on.settled.k{p}" for p in range(8)]
    assert {n: a for n, a in arguments_of(made).items() if n in names} == dict.fromkeys(names, ONE_AT_A_TIME)
    for p, name in enumerate(names):
        assert {b for b in bindings_of(made) if b[2] == name} == {
            ("meshq.events", f"payments.settled.v1.{p}", name),
            ("meshq.return", f"{BITS}event.payments.settled.v1.{p}", name),
            ("meshq.return", BITS + name, name),
        }


def test_a_broadcast_subscription_is_gone_with_its_connection() -> None:
    made = topology.broadcast_subscription("orders.v2", "caches", "prices.changed.v1", "i-1")
    (queue,) = [q for q in made.queues if q.exclusive]
    assert (queue.name, queue.arguments, queue.durable) == ("meshq.orders.v2.on.caches.i-1", (), False)
    assert len([b for b in made.bindings if b.destination == queue.name]) == 3


def test_nothing_but_its_instance_puts_messages_into_a_replay() -> None:
    made = topology.replay_subscription("orders.v2", "audit")
    name = "meshq.orders.v2.on.audit"
    assert arguments_of(made)[name] == WORKED
    assert bindings_of(made) == {("meshq.return", BITS + name, name), TO_THE_DEAD}


def test_a_log_is_bounded_by_age_and_size() -> None:
    made = topology.log("payments.settled.v1")
    assert arguments_of(made) == {
        "meshq.log.payments.settled.v1": {
            "x-queue-type": "stream",
            "x-max-age": "7D",
            "x-max-length-bytes": 2**30,
        }
    }
    assert bindings_of(made) == {
        ("meshq.events", "payments.settled.v1.*", "meshq.log.payments.settled.v1"),
        ("meshq.return", f"{BITS}event.payments.settled.v1.*", "meshq.log.payments.settled.v1"),
    }


def test_every_queue_of_a_service_is_its_own_by_its_name() -> None:
    """The broker's permissions of a service are `^meshq\\.orders\\.`."""
    for queue in everything().queues:
        assert queue.name.startswith(("meshq.orders.", "meshq.log."))
    keys = {
        (topology.results_queue("orders"), topology.results_key("orders")),
        (topology.work_queue("orders.v2"), topology.work_key("orders.v2")),
        (topology.call_queue("orders.v2"), topology.call_key("orders.v2")),
        (topology.key_queue("orders.v2", 3), topology.key_key("orders.v2", 3)),
    }
    assert all(queue == f"meshq.{key}" for queue, key in keys)


@pytest.mark.parametrize(
    ("key", "partition"),
    [
        ("", 0),
        ("a", 3),
        ("b", 1),
        ("customer-17", 7),
        ("customer-18", 6),
        ("é", 6),
        ("\u4e2d\u6587", 7),
        ("k" * 200, 4),
    ],
)
def test_the_partition_of_a_key_never_changes(key: str, partition: int) -> None:
    """Two versions that disagree would handle one key in two places. These are also for other implementations."""
    assert topology.partition_of(key) == partition


def test_keys_spread_over_the_partitions() -> None:
    counts = Counter(topology.partition_of(f"customer-{n}") for n in range(8000))
    assert sorted(counts) == list(range(8))
    assert min(counts.values()) > 800


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
    for queue in (topology.shared() + everything()).queues:
        arguments = dict(queue.arguments)
        if arguments.get("x-queue-type") == "quorum":
            assert "x-delivery-limit" in arguments
        else:
            assert queue.exclusive or arguments["x-queue-type"] == "stream"


def test_topologies_add_up_without_doubles() -> None:
    both = topology.service("orders.v1") + topology.service("orders.v2") + topology.service("orders.v1")
    assert (len(both.queues), len(both.bindings)) == (6, 8)
    assert both + Topology() == both


def walk(routing_key: str) -> int:
    """Through the ladder as the broker would go: the sum of the waits, to the exchange that returns."""
    shared = topology.shared()
    ttl = {q.name: dict(q.arguments) for q in shared.queues}
    key = routing_key.split(".")
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
    assert walk(topology.delay_key(seconds, "meshq.orders.v2.work")) == seconds
    assert walk(topology.delay_key(seconds, topology.delayed_event("payments.settled.v1.0"))) == seconds


@pytest.mark.parametrize("seconds", [-1, MAX_DELAY_SECONDS + 1])
def test_no_key_leads_further(seconds: int) -> None:
    with pytest.raises(ValueError, match=f"a delay of {seconds} s is not between"):
        topology.delay_key(seconds, "q")


def returned_to(made: Topology, routing_key: str) -> set[str]:
    """Where a message with this key comes out of the ladder."""
    words = routing_key.split(".")
    return {b.destination for b in made.bindings if b.source == RETURN and matches(b.key.split("."), words)}


@pytest.mark.parametrize("queue", [q for q in everything().queues if "dead" not in q.name], ids=lambda q: q.name)
def test_what_is_tried_again_comes_back_to_its_own_queue_and_no_other(queue: Queue) -> None:
    named = topology.delay_key(7, queue.name)
    comes_back = not queue.name.endswith((".call", ".0a1b")) and "log" not in queue.name
    assert returned_to(everything(), named) == ({queue.name} if comes_back else set())


def test_a_delayed_event_comes_out_where_one_without_delay_would() -> None:
    made = everything()
    for event in ("payments.settled.v1", "payments.refunds.v1", "prices.changed.v1", "payments.settled.v2", "x.y.v1"):
        for p in range(8):
            key = topology.event_key(event, p)
            at_once = {
                b.destination for b in made.bindings if b.source == EVENTS and matches(b.key.split("."), key.split("."))
            }
            assert returned_to(made, topology.delay_key(3, topology.delayed_event(key))) == at_once


def test_the_longest_delay_is_over_12_days() -> None:
    assert MAX_DELAY_SECONDS > 12 * 86_400


def test_what_finds_no_way_back_is_kept() -> None:
    (returning,) = [e for e in topology.shared().exchanges if e.name == RETURN]
    assert returning.arguments == (("alternate-exchange", LOST),)
    assert [b.destination for b in topology.shared().bindings if b.source == LOST] == [LOST]
