"""What durable messages need of a broker, over every broker there is: delays, dead letters, one active consumer, subscriptions,
logs, a look at what waits, and taking back what was declared.

Tests of one broker may follow each other at once, so each has service names of its own: a quorum queue that is deleted and
declared again under its old name misbehaves for a while.
"""

import asyncio
from collections import defaultdict
from datetime import UTC, datetime
from functools import partial
from typing import Any

import pytest

from meshq.core import topology
from meshq.core.topology import CALLS, DEAD, DELAY, EVENTS, LOST, Topology
from meshq.ports import Broker, BrokerAway, BrokerState, Delivery, Held, Publication, Published
from tests.contract.broker_rigs import BrokerRig, Recorder, eventually, published

EXCHANGES = Topology(exchanges=topology.shared().exchanges)
EARLY = 0.01
"""Seconds that a clock may differ from another on one machine."""


async def connect(rig: BrokerRig, *wanted: Topology) -> Broker:
    """A client with the exchanges of the mesh, and `wanted`, each a declaration of its own."""
    client = await rig.connect()
    for each in (EXCHANGES, *wanted):
        await client.declare(each)
    assert client.state.fault == ""
    return client


def work(topic: str, body: bytes, **more: Any) -> Publication:
    return Publication(CALLS, topology.work_key(topic), body, f"m-{body.decode()}", "call")._replace(**more)


def event(event_topic: str, body: bytes, key: str = "") -> Publication:
    routing = topology.event_key(event_topic, topology.partition_of(key))
    return Publication(EVENTS, routing, body, f"m-{body.decode()}", "event")


def delayed(seconds: int, destination: str, body: bytes) -> Publication:
    return Publication(DELAY, topology.delay_key(seconds, destination), body, f"m-{body.decode()}", "call")


def dead_letter(topic: str, body: bytes) -> Publication:
    return Publication(DEAD, topology.dead_queue(topic), body, f"m-{body.decode()}", "dead")


async def confirm(client: Broker, *publications: Publication) -> None:
    assert await published(client, *publications) == [Published.CONFIRMED] * len(publications)


def bodies(deliveries: list[Delivery]) -> list[bytes]:
    return [delivery.body for delivery in deliveries]


def numbers(start: int, end: int) -> list[bytes]:
    return [b"%d" % n for n in range(start, end)]


def headers(delivery: Delivery) -> dict[str, Any]:
    found = delivery.properties()["headers"]
    assert isinstance(found, dict)
    return found


def inbox_of(client: Broker, queue: str, prefetch: int = 100, **offset: int | str) -> Recorder[Delivery]:
    """What comes out of the queue, acknowledged at once."""
    inbox = Recorder[Delivery]()

    def take(delivery: Delivery) -> None:
        delivery.ack()
        inbox(delivery)

    client.subscribe(queue, prefetch, take, **offset)  # type: ignore[arg-type]
    return inbox


async def gone(client: Broker, queue: str) -> bool:
    return await client.stats([queue]) == []


async def cut(rig: BrokerRig, client: Broker) -> None:
    """Break its connection, and wait until it has another."""
    states = Recorder[BrokerState]()
    client.on_state(states)
    await rig.cut(client)
    await states.until(lambda seen: bool(seen) and seen[-1] == BrokerState(True, True, ""))


async def ready(client: Broker, queue: str, number: int) -> bool:
    return [s.ready for s in await client.stats([queue])] == [number]


# --- delays ---------------------------------------------------------------------------------------------------------------


async def test_delayed_messages_come_when_they_are_due_in_order(rig: BrokerRig) -> None:
    topic, now = "ladder.v1", asyncio.get_running_loop().time
    client = await connect(rig, topology.shared(), topology.service(topic))
    queue = topology.work_queue(topic)
    arrived: dict[int, float] = {}
    inbox = Recorder[Delivery]()

    def take(delivery: Delivery) -> None:
        arrived[int(delivery.body)] = now()
        delivery.ack()
        inbox(delivery)

    client.subscribe(queue, 10, take)
    sent: dict[int, float] = {}
    for seconds in (3, 0, 2, 1):
        sent[seconds] = now()
        await confirm(client, delayed(seconds, queue, b"%d" % seconds)._replace(reply_to="orders.results"))
    found = await inbox.count(4)
    assert bodies(found) == [b"0", b"1", b"2", b"3"]
    early = [seconds for seconds in sent if arrived[seconds] - sent[seconds] < seconds - EARLY]
    assert not early, f"sent at {sent}, came at {arrived}"
    last = found[-1]
    assert (last.message_id, last.reply_to, last.user_id) == ("m-3", "orders.results", client.user)
    assert not any(delivery.redelivered for delivery in found)
    waited = [(death["reason"], death["queue"], death["count"]) for death in headers(last)["x-death"]]
    assert waited == [("expired", "meshq.delay.0", 1), ("expired", "meshq.delay.1", 1)]


async def test_what_is_delayed_for_a_queue_that_is_gone_is_found_among_the_lost(rig: BrokerRig) -> None:
    client = await connect(rig, topology.shared(), topology.service("stays.v1"))
    leaver = await connect(rig, topology.service("leaves.v1"))
    here, away = topology.work_queue("stays.v1"), topology.work_queue("leaves.v1")
    await leaver.withdraw(topology.service("leaves.v1"))
    await eventually(partial(gone, client, away))
    inbox, lost = inbox_of(client, here), inbox_of(client, LOST)
    await confirm(client, *(delayed(1, away, body) for body in numbers(0, 20)), delayed(1, here, b"mine"))
    await confirm(client, delayed(0, away, b"at once"))
    assert bodies(await inbox.count(1)) == [b"mine"]
    assert sorted(bodies(await lost.count(21))) == sorted([*numbers(0, 20), b"at once"])


# --- dead letters ---------------------------------------------------------------------------------------------------------


async def test_a_message_that_comes_back_too_often_is_dead(rig: BrokerRig) -> None:
    topic = "crashing.v1"
    client = await connect(rig, topology.service(topic))
    await confirm(client, work(topic, b"poison", reply_to="orders.results"))
    tries = Recorder[int | None]()

    def crash(delivery: Delivery) -> None:
        tries(delivery.deliveries)
        delivery.requeue()

    client.subscribe(topology.work_queue(topic), 1, crash)
    (dead,) = await inbox_of(client, topology.dead_queue(topic)).count(1)
    assert tries.seen == list(range(topology.BACKSTOP_DELIVERIES + 1))
    assert (dead.body, dead.message_id, dead.reply_to) == (b"poison", "m-poison", "orders.results")
    assert (dead.user_id, dead.redelivered) == (client.user, False)
    (death,) = headers(dead)["x-death"]
    assert {name: death[name] for name in ("reason", "queue", "exchange", "routing-keys", "count")} == {
        "reason": "delivery_limit",
        "queue": topology.work_queue(topic),
        "exchange": CALLS,
        "routing-keys": [topology.work_key(topic)],
        "count": 1,
    }


async def test_a_message_over_its_time_is_dead_where_its_queue_has_dead_letters(rig: BrokerRig) -> None:
    topic = "late.v1"
    client = await connect(rig, topology.service(topic))
    await confirm(client, *(work(topic, body, expiration_ms=50) for body in numbers(0, 5)), work(topic, b"stays"))
    found = await inbox_of(client, topology.dead_queue(topic)).count(5)
    assert bodies(found) == numbers(0, 5)
    assert [headers(delivery)["x-death"][0]["reason"] for delivery in found] == ["expired"] * 5
    assert "expiration" not in found[0].properties(), "in its dead queue it has time"
    assert bodies(await inbox_of(client, topology.work_queue(topic)).count(1)) == [b"stays"]


async def test_a_call_over_its_time_leaves_nothing(rig: BrokerRig) -> None:
    topic = "waited.v1"
    client = await connect(rig, topology.service(topic))
    queue = topology.call_queue(topic)
    call = Publication(CALLS, topology.call_key(topic), b"late", "m1", "call", expiration_ms=50)
    await confirm(client, call, work(topic, b"work"))
    await eventually(partial(ready, client, queue, 0))
    await confirm(client, dead_letter(topic, b"marker"))
    assert bodies(await inbox_of(client, topology.dead_queue(topic)).count(1)) == [b"marker"]


# --- one active consumer --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("end", ["closed", "cut"])
async def test_the_next_consumer_takes_over_everything_unsettled_in_order(rig: BrokerRig, end: str) -> None:
    topic = f"single-{end}.v1"
    sender = await connect(rig, topology.subscription(topic, "all", "sensor.read.v1", exclusive=True))
    queue = topology.subscription_queue(topic, "all")
    first, second = await rig.connect(), await rig.connect()
    held, after = Recorder[Delivery](), Recorder[Delivery]()
    first.subscribe(queue, 4, held)
    await confirm(sender, *(event("sensor.read.v1", body) for body in numbers(0, 10)))
    await held.count(4)
    second.subscribe(queue, 100, after)
    held.seen[1].ack()
    assert bodies(await held.count(5)) == numbers(0, 5)
    assert after.seen == [], "one gets everything"
    if end == "closed":
        await first.close()
    else:
        await rig.cut(first)
    found = await after.count(9)
    assert bodies(found) == [b"0", *numbers(2, 10)]
    assert [delivery.redelivered for delivery in found] == [True] * 4 + [False] * 5
    assert len(held.seen) == 5


async def test_a_cancelled_consumer_hands_over_in_order_once_it_has_settled_everything(rig: BrokerRig) -> None:
    topic = "handover.v1"
    wanted = topology.subscription(topic, "all", "sensor.read.v1", exclusive=True)
    first, second = await connect(rig, wanted), await connect(rig, wanted)
    queue = topology.subscription_queue(topic, "all")
    held, after = Recorder[Delivery](), Recorder[Delivery]()
    subscription = first.subscribe(queue, 4, held)
    await confirm(second, *(event("sensor.read.v1", body) for body in numbers(0, 10)))
    await held.count(4)
    second.subscribe(queue, 100, after)
    subscription.cancel()
    held.seen[0].ack()
    held.seen[1].requeue()
    held.seen[3].requeue()
    await confirm(second, event("sensor.read.v1", b"10"))
    assert after.seen == [], "the first still works on something"
    held.seen[2].ack()
    found = await after.count(9)
    assert bodies(found) == [b"1", *numbers(3, 11)]
    assert [delivery.redelivered for delivery in found[:2]] == [True] * 2


async def test_messages_with_a_key_go_to_its_partition_and_stay_in_order(rig: BrokerRig) -> None:
    topic, keys = "keyed.v1", ["a", "b", "c", "d", "e", "f"]
    sender = await connect(rig, topology.ordered_subscription(topic, "paid", "order.paid.v1"))
    inbox = Recorder[Delivery]()

    def take(delivery: Delivery) -> None:
        delivery.ack()
        inbox(delivery)

    for partition in range(topology.PARTITIONS):
        sender.subscribe(topology.partition_queue(topic, "paid", partition), 10, take)
    sent = [(key, b"%s %d" % (key.encode(), n)) for n in range(10) for key in keys]
    await confirm(sender, *(event("order.paid.v1", body, key) for key, body in sent))
    came: dict[str, list[bytes]] = defaultdict(list)
    for delivery in await inbox.count(len(sent)):
        came[delivery.queue].append(delivery.body)
    for key in keys:
        queue = topology.partition_queue(topic, "paid", topology.partition_of(key))
        mine = [body for body in came[queue] if body.startswith(key.encode())]
        assert mine == [body for other, body in sent if other == key]


# --- events ---------------------------------------------------------------------------------------------------------------


async def test_an_event_goes_to_every_subscription_whose_pattern_takes_it(rig: BrokerRig) -> None:
    patterns = {"exact": "payments.settled.v1", "one": "payments.*.v1", "any": "payments.#.v1"}
    wanted = [topology.subscription("ledger.v1", name, pattern) for name, pattern in patterns.items()]
    client = await connect(rig, *wanted)
    inboxes = {name: inbox_of(client, topology.subscription_queue("ledger.v1", name)) for name in patterns}
    takers = {
        "payments.settled.v1": {"exact", "one", "any"},
        "payments.refunded.v1": {"one", "any"},
        "payments.card.settled.v1": {"any"},
        "payments.settled.v2": set(),
        "payment.settled.v1": set(),
    }
    fates = await published(client, *(event(topic, topic.encode()) for topic in takers))
    assert fates == [Published.CONFIRMED if names else Published.UNROUTABLE for names in takers.values()]
    for name, inbox in inboxes.items():
        expected = [topic.encode() for topic, names in takers.items() if name in names]
        assert bodies(await inbox.count(len(expected))) == expected
    assert {d.user_id for inbox in inboxes.values() for d in inbox.seen} == {client.user}


async def test_a_delayed_event_comes_to_every_subscription_once(rig: BrokerRig) -> None:
    topic = "order.shipped.v1"
    wanted = [topology.subscription(service, "shipped", topic) for service in ("mailer.v1", "stats.v1")]
    client = await connect(rig, topology.shared(), *wanted)
    inboxes = [inbox_of(client, topology.subscription_queue(s, "shipped")) for s in ("mailer.v1", "stats.v1")]
    lost = inbox_of(client, LOST)
    for body in numbers(0, 3):
        await confirm(client, delayed(1, topology.delayed_event(topology.event_key(topic)), body))
    await confirm(client, delayed(1, topology.delayed_event(topology.event_key("order.unknown.v1")), b"nobody"))
    for inbox in inboxes:
        assert sorted(bodies(await inbox.count(3))) == numbers(0, 3)
    assert bodies(await lost.count(1)) == [b"nobody"]


async def test_a_retry_comes_back_to_its_own_subscription_only(rig: BrokerRig) -> None:
    topic = "stock.low.v1"
    wanted = [topology.subscription("buyer.v1", name, topic) for name in ("first", "second")]
    client = await connect(rig, topology.shared(), *wanted)
    first, second = (topology.subscription_queue("buyer.v1", name) for name in ("first", "second"))
    inbox, other = inbox_of(client, first), inbox_of(client, second)
    await confirm(client, delayed(1, first, b"again"))
    await confirm(client, delayed(0, second, b"at once"))
    assert bodies(await inbox.count(1)) == [b"again"]
    assert bodies(await other.count(1)) == [b"at once"]


async def test_a_broadcast_goes_to_every_instance_that_is_connected(rig: BrokerRig) -> None:
    topic, pattern = "cache.v1", "prices.changed.v1"
    names = {instance: topology.broadcast_queue(topic, "prices", instance) for instance in ("a", "b")}
    sender = await connect(rig, topology.shared())
    clients, inboxes = {}, {}
    for instance, queue in names.items():
        wanted = topology.broadcast_subscription(topic, "prices", pattern, instance)
        clients[instance] = await connect(rig, wanted)
        inboxes[instance] = inbox_of(clients[instance], queue)
    await confirm(sender, event(pattern, b"both"))
    for inbox in inboxes.values():
        assert bodies(await inbox.count(1)) == [b"both"]
    await confirm(sender, delayed(1, names["a"], b"again"), delayed(1, names["b"], b"too late"))
    await clients["b"].close()
    await eventually(partial(gone, sender, names["b"]))
    assert bodies(await inboxes["a"].count(2)) == [b"both", b"again"]
    assert bodies(await inbox_of(sender, LOST).count(1)) == [b"too late"]
    await confirm(sender, event(pattern, b"one"))
    assert bodies(await inboxes["a"].count(3)) == [b"both", b"again", b"one"]
    assert bodies(inboxes["b"].seen) == [b"both"]


# --- logs -----------------------------------------------------------------------------------------------------------------


async def test_a_log_is_read_from_anywhere_and_keeps_what_was_read(rig: BrokerRig) -> None:
    topic = "price.set.v1"
    client = await connect(rig, topology.log(topic))
    log = topology.log_queue(topic)
    await confirm(client, *(event(topic, body) for body in numbers(0, 10)))
    first = await inbox_of(client, log, offset="first").count(10)
    assert bodies(first) == numbers(0, 10)
    offsets = [headers(delivery)["x-stream-offset"] for delivery in first]
    assert offsets == sorted(set(offsets))
    assert not any(delivery.redelivered for delivery in first)
    again, middle = inbox_of(client, log, offset="first"), inbox_of(client, log, offset=offsets[6])
    assert bodies(await again.count(10)) == numbers(0, 10)
    assert bodies(await middle.count(4)) == numbers(6, 10)
    assert [headers(delivery)["x-stream-offset"] for delivery in middle.seen] == offsets[6:]
    await confirm(client, event(topic, b"10"))
    for inbox, start in ((again, 0), (middle, 6)):
        assert bodies(await inbox.until(lambda seen: seen[-1].body == b"10")) == numbers(start, 11)


async def test_a_log_gives_no_more_than_prefetch_unsettled(rig: BrokerRig) -> None:
    topic = "price.read.v1"
    client = await connect(rig, topology.log(topic), topology.service("marks.v1"))
    await confirm(client, *(event(topic, body) for body in numbers(0, 10)))
    inbox, marks = Recorder[Delivery](), inbox_of(client, topology.work_queue("marks.v1"))
    client.subscribe(topology.log_queue(topic), 3, inbox, offset="first")
    await inbox.count(3)
    await confirm(client, work("marks.v1", b"mark"))
    await marks.count(1)
    assert bodies(inbox.seen) == numbers(0, 3)
    for delivery in inbox.seen[:2]:
        delivery.ack()
    assert bodies(await inbox.count(5)) == numbers(0, 5)
    taken = 2
    while taken < 10:
        await inbox.count(taken + 1)
        inbox.seen[taken].ack()
        taken += 1
    assert bodies(inbox.seen) == numbers(0, 10)


async def test_the_next_of_a_log_is_what_comes_from_now_on(rig: BrokerRig) -> None:
    topic = "price.next.v1"
    client = await connect(rig, topology.log(topic))
    await confirm(client, *(event(topic, body) for body in numbers(0, 5)))
    inbox = inbox_of(client, topology.log_queue(topic), offset="next")

    async def some_came() -> bool:  # nothing says when the reader stands where it begins
        await confirm(client, event(topic, b"new"))
        return bool(inbox.seen)

    await eventually(some_came)
    assert set(bodies(inbox.seen)) == {b"new"}


async def test_a_log_is_read_from_a_time(rig: BrokerRig) -> None:
    topic = "price.time.v1"
    client = await connect(rig, topology.log(topic))
    await confirm(client, *(event(topic, body) for body in numbers(0, 3)))
    before = datetime.now(UTC)

    async def two_seconds_on() -> bool:  # brokers keep whole seconds
        return (datetime.now(UTC) - before).total_seconds() > 2

    await eventually(two_seconds_on)
    await confirm(client, *(event(topic, body) for body in numbers(3, 6)))
    since = datetime.fromtimestamp(int(before.timestamp()) + 1, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    assert bodies(await inbox_of(client, topology.log_queue(topic), offset=since).count(3)) == numbers(3, 6)
    all_of_it = inbox_of(client, topology.log_queue(topic), offset="2020-01-01T00:00:00Z")
    assert bodies(await all_of_it.count(6)) == numbers(0, 6)


async def test_a_reader_of_a_log_begins_again_with_its_connection(rig: BrokerRig) -> None:
    topic = "price.again.v1"
    client = await connect(rig, topology.log(topic))
    await confirm(client, *(event(topic, body) for body in numbers(0, 3)))
    inbox = inbox_of(client, topology.log_queue(topic), offset="first")
    await inbox.count(3)
    await rig.cut(client)
    assert bodies(await inbox.count(6)) == numbers(0, 3) * 2


async def test_an_event_goes_to_its_log_and_to_its_subscriptions(rig: BrokerRig) -> None:
    topic, name = "price.both.v1", "both"
    client = await connect(rig, topology.shared(), topology.log(topic), topology.subscription("shop.v1", name, topic))
    log = inbox_of(client, topology.log_queue(topic), offset="first")
    subscription = inbox_of(client, topology.subscription_queue("shop.v1", name))
    later = topology.delayed_event(topology.event_key(topic))
    await confirm(client, event(topic, b"now"), delayed(1, later, b"later"))
    for inbox in (log, subscription):
        assert bodies(await inbox.count(2)) == [b"now", b"later"]


# --- a look at what waits -------------------------------------------------------------------------------------------------


@pytest.mark.long  # of two versions of RabbitMQ test_rabbitmq_only has it, of the embedded one test_dead_letters
async def test_a_queue_looked_at_a_hundred_times_still_holds_everything_in_order(rig: BrokerRig) -> None:
    topic = "looked-at.v1"
    client, viewer = await connect(rig, topology.dead(topic)), await rig.connect()
    queue = topology.dead_queue(topic)
    await confirm(client, *(dead_letter(topic, body) for body in numbers(0, 30)))
    for _ in range(100):
        held = await viewer.hold(queue, 1000)
        assert bodies(list(held.deliveries)) == numbers(0, 30)
        assert held.behind == 0
        await held.release()
    assert bodies(await inbox_of(client, queue).count(30)) == numbers(0, 30)


async def test_what_is_held_comes_back_to_its_place_but_for_what_was_acknowledged(rig: BrokerRig) -> None:
    topic = "held.v1"
    client, viewer = await connect(rig, topology.dead(topic)), await rig.connect()
    queue = topology.dead_queue(topic)
    await confirm(client, *(dead_letter(topic, body) for body in numbers(0, 10)))
    held = await viewer.hold(queue, 4)
    assert bodies(list(held.deliveries)) == numbers(0, 4)
    assert held.behind == 6
    assert all(delivery.live and delivery.queue == queue for delivery in held.deliveries)
    await eventually(partial(ready, client, queue, 6))
    held.deliveries[1].ack()
    await held.release()
    await held.release()
    assert not any(delivery.live for delivery in held.deliveries)
    again = await viewer.hold(queue, 1000)
    assert bodies(list(again.deliveries)) == [b"0", *numbers(2, 10)]
    assert [delivery.redelivered for delivery in again.deliveries[:3]] == [True] * 3
    await again.release()


async def test_held_messages_are_nobody_elses_until_they_are_released(rig: BrokerRig) -> None:
    topic = "held-back.v1"
    client, viewer = await connect(rig, topology.dead(topic)), await rig.connect()
    queue = topology.dead_queue(topic)
    await confirm(client, *(dead_letter(topic, body) for body in numbers(0, 4)))
    held = await viewer.hold(queue, 3)
    inbox = inbox_of(client, queue)
    assert bodies(await inbox.count(1)) == [b"3"]
    assert bodies(list((await viewer.hold(queue, 3)).deliveries)) == []
    await held.release()
    assert bodies(await inbox.count(4)) == [b"3", *numbers(0, 3)]


async def test_what_was_held_comes_back_when_the_connection_goes(rig: BrokerRig) -> None:
    topic = "held-lost.v1"
    client, viewer = await connect(rig, topology.dead(topic)), await rig.connect()
    queue = topology.dead_queue(topic)
    await confirm(client, *(dead_letter(topic, body) for body in numbers(0, 4)))
    held = await viewer.hold(queue, 3)
    assert bodies(list(held.deliveries)) == numbers(0, 3)
    await rig.cut(viewer)
    assert bodies(await inbox_of(client, queue).count(4)) == numbers(0, 4)
    assert not any(delivery.live for delivery in held.deliveries)
    held.deliveries[0].ack()
    await held.release()


async def test_nothing_is_held_of_what_is_not_there(rig: BrokerRig) -> None:
    client = await connect(rig, topology.dead("empty.v1"))
    assert _seen(await client.hold("meshq.nobody.v1.dead", 10)) == ([], 0)
    held = await client.hold(topology.dead_queue("empty.v1"), 10)
    assert _seen(held) == ([], 0)
    await held.release()
    away = rig.client()
    with pytest.raises(BrokerAway):
        await away.hold(topology.dead_queue("empty.v1"), 10)


def _seen(held: Held) -> tuple[list[bytes], int]:
    return bodies(list(held.deliveries)), held.behind


# --- taking back ----------------------------------------------------------------------------------------------------------


async def test_what_is_withdrawn_is_gone_and_stays_away(rig: BrokerRig) -> None:
    topic, pattern = "leaver.v1", "user.left.v1"
    unwanted = topology.subscription(topic, "left", pattern)
    queue = topology.subscription_queue(topic, "left")
    client = await connect(rig, topology.service(topic), unwanted)
    await confirm(client, event(pattern, b"0"))
    subscription = client.subscribe(queue, 10, lambda delivery: delivery.ack())
    await eventually(partial(ready, client, queue, 0))
    await client.withdraw(unwanted)
    assert await published(client, event(pattern, b"1")) == [Published.UNROUTABLE]
    assert not await gone(client, queue), "somebody consumes it"
    subscription.cancel()

    async def withdrawn() -> bool:
        await client.withdraw(unwanted)
        return await gone(client, queue)

    await eventually(withdrawn)
    await cut(rig, client)
    assert await gone(client, queue)
    assert await published(client, event(pattern, b"2")) == [Published.UNROUTABLE]
    await confirm(client, dead_letter(topic, b"0"), work(topic, b"0"))  # the service's own are still there, bound


async def test_a_queue_with_something_in_it_is_not_deleted(rig: BrokerRig) -> None:
    topic, pattern = "keeper.v1", "user.kept.v1"
    unwanted = topology.subscription(topic, "kept", pattern)
    queue = topology.subscription_queue(topic, "kept")
    client = await connect(rig, topology.service(topic), unwanted)
    await confirm(client, event(pattern, b"0"))
    await client.withdraw(unwanted)
    assert await published(client, event(pattern, b"1")) == [Published.UNROUTABLE]
    assert client.state == BrokerState(True, True, "")
    assert bodies(await inbox_of(client, queue).count(1)) == [b"0"]


async def test_what_two_declarations_want_stays_until_both_are_withdrawn(rig: BrokerRig) -> None:
    topic, pattern = "twice.v1", "user.twice.v1"
    one, other = topology.subscription(topic, "one", pattern), topology.subscription(topic, "other", pattern)
    client = await connect(rig, one, other)
    await client.withdraw(one)
    await eventually(partial(gone, client, topology.subscription_queue(topic, "one")))
    await confirm(client, event(pattern, b"0"))
    assert bodies(await inbox_of(client, topology.subscription_queue(topic, "other")).count(1)) == [b"0"]
    assert not await gone(client, topology.dead_queue(topic))
    await client.withdraw(other)
    await eventually(partial(gone, client, topology.dead_queue(topic)))


async def test_a_log_with_something_in_it_is_not_deleted(rig: BrokerRig) -> None:
    topic = "price.kept.v1"
    client = await connect(rig, topology.log(topic))
    await confirm(client, event(topic, b"0"))
    await client.withdraw(topology.log(topic))
    assert await published(client, event(topic, b"1")) == [Published.UNROUTABLE]
    assert bodies(await inbox_of(client, topology.log_queue(topic), offset="first").count(1)) == [b"0"]


async def test_what_is_withdrawn_without_a_connection_is_not_declared_again(rig: BrokerRig) -> None:
    topic = "never.v1"
    client = rig.client()
    for wanted in (EXCHANGES, topology.dead(topic), topology.dead("always.v1")):
        await client.declare(wanted)
    await client.withdraw(topology.dead(topic))
    await client.open()
    assert client.state == BrokerState(True, True, "")
    assert await gone(client, topology.dead_queue(topic))
    assert not await gone(client, topology.dead_queue("always.v1"))
