"""What meshq.ports.Broker promises, over every broker there is."""

import os
from functools import partial

from meshq.core.message import CONTENT_TYPE
from meshq.core.topology import REPLIES, Binding, ExchangeSpec, Topology
from meshq.ports import BrokerState, Delivery, Publication, Published
from tests.contract.broker_rigs import BrokerRig, Recorder, Replies, eventually, message, published, queue

ORDERS, BILLING = "meshq.orders.v1.work", "meshq.billing.v1.work"


def bodies(deliveries: list[Delivery]) -> list[bytes]:
    return [delivery.body for delivery in deliveries]


def numbered(name: str, numbers: range) -> list[Publication]:
    return [message(name, b"%d" % n, f"m{n}") for n in numbers]


# --- one message ----------------------------------------------------------------------------------------------------------


async def test_what_is_sent_arrives_with_its_properties(rig: BrokerRig) -> None:
    sender, receiver = await rig.connect(), await rig.connect()
    await receiver.declare(queue(ORDERS))
    inbox = Recorder[Delivery]()
    receiver.subscribe(ORDERS, 10, inbox)
    assert sender.send(message(ORDERS, b"the body", "m-17", reply_to="orders.a.1", expiration_ms=60_000))
    (delivery,) = await inbox.count(1)
    assert (delivery.body, delivery.message_id, delivery.content_type) == (b"the body", "m-17", CONTENT_TYPE)
    assert (delivery.reply_to, delivery.queue, delivery.redelivered) == ("orders.a.1", ORDERS, False)
    assert delivery.user_id == sender.user != ""
    assert delivery.live
    properties = delivery.properties()
    assert (properties["message_id"], properties["type"], properties["reply_to"]) == ("m-17", "call", "orders.a.1")
    delivery.ack()


async def test_any_bytes_of_any_size_arrive_unchanged(rig: BrokerRig) -> None:
    client = await rig.connect()
    await client.declare(queue(ORDERS))
    inbox = Recorder[Delivery]()
    client.subscribe(ORDERS, 10, inbox)
    sent = [b"", b"\0", bytes(range(256)), b"\xce" * 131_072, os.urandom(3 * 2**20 + 1)]
    fates = await published(client, *(message(ORDERS, body, f"m{n}") for n, body in enumerate(sent)))
    assert fates == [Published.CONFIRMED] * len(sent)
    assert bodies(await inbox.count(len(sent))) == sent


async def test_a_thousand_confirmed_messages_are_drained_in_order(rig: BrokerRig) -> None:
    client = await rig.connect()
    await client.declare(queue(ORDERS))
    messages = numbered(ORDERS, range(1000))
    assert await published(client, *messages) == [Published.CONFIRMED] * 1000
    inbox = Recorder[Delivery]()

    def take(delivery: Delivery) -> None:
        delivery.ack()
        inbox(delivery)

    client.subscribe(ORDERS, 100, take)
    assert bodies(await inbox.count(1000)) == [m.body for m in messages]


async def test_sent_messages_keep_their_order(rig: BrokerRig) -> None:
    client = await rig.connect()
    await client.declare(queue(ORDERS))
    inbox = Recorder[Delivery]()
    client.subscribe(ORDERS, 500, inbox)
    messages = numbered(ORDERS, range(200))
    assert all(client.send(m) for m in messages)
    assert bodies(await inbox.count(200)) == [m.body for m in messages]


# --- nobody takes it ------------------------------------------------------------------------------------------------------


async def test_a_publication_that_no_queue_takes_is_unroutable(rig: BrokerRig) -> None:
    client = await rig.connect()
    await client.declare(queue(ORDERS))
    fates = await published(client, message("nowhere"), message(ORDERS), message("nowhere", ident="m2"))
    assert fates == [Published.UNROUTABLE, Published.CONFIRMED, Published.UNROUTABLE]


async def test_a_sent_message_that_no_queue_takes_comes_back_by_its_id(rig: BrokerRig) -> None:
    client = rig.client()
    replies = Replies()
    client.open_replies("orders", "a", replies)
    await client.open()
    assert client.send(message("nowhere", ident="lost-1"))
    assert replies.unroutable.seen == [], "before send returned, its caller cannot know what it would be about"
    assert await replies.unroutable.count(1) == ["lost-1"]


# --- consumers ------------------------------------------------------------------------------------------------------------


async def test_consumers_compete_for_the_messages_of_one_queue(rig: BrokerRig) -> None:
    sender, left, right = await rig.connect(), await rig.connect(), await rig.connect()
    await sender.declare(queue(ORDERS))
    taken: dict[str, list[bytes]] = {"left": [], "right": []}
    together = Recorder[bytes]()

    def taker(name: str) -> Recorder[Delivery]:
        class Taker(Recorder[Delivery]):
            def __call__(self, delivery: Delivery) -> None:
                taken[name].append(delivery.body)
                together(delivery.body)

        return Taker()

    left.subscribe(ORDERS, 10, taker("left"))
    right.subscribe(ORDERS, 10, taker("right"))
    both = [2]

    async def two_consumers() -> bool:
        return [s.consumers for s in await sender.stats([ORDERS])] == both

    await eventually(two_consumers)
    await published(sender, *numbered(ORDERS, range(20)))
    # Nobody settles, so each can hold ten: all twenty come only if they are shared out evenly.
    assert sorted(await together.count(20), key=int) == [b"%d" % n for n in range(20)]
    assert {name: len(bodies) for name, bodies in taken.items()} == {"left": 10, "right": 10}


async def test_no_more_than_prefetch_are_unsettled(rig: BrokerRig) -> None:
    client = await rig.connect()
    await client.declare(queue(ORDERS) + queue(BILLING))
    inbox, marks = Recorder[Delivery](), Recorder[Delivery]()
    client.subscribe(ORDERS, 3, inbox)
    client.subscribe(BILLING, 10, marks)
    await published(client, *numbered(ORDERS, range(8)), message(BILLING))
    await inbox.count(3)
    await marks.count(1)
    assert bodies(inbox.seen) == [b"0", b"1", b"2"]
    inbox.seen[1].ack()
    assert bodies(await inbox.count(4)) == [b"0", b"1", b"2", b"3"]
    for delivery in inbox.seen:  # the one settled already gives no credit again
        delivery.ack()
    await inbox.count(7)
    await published(client, message(BILLING))
    await marks.count(2)
    assert bodies(inbox.seen) == [b"%d" % n for n in range(7)]


async def test_settling_twice_is_settling_once(rig: BrokerRig) -> None:
    client = await rig.connect()
    await client.declare(queue(ORDERS))
    inbox = Recorder[Delivery]()
    client.subscribe(ORDERS, 1, inbox)
    await published(client, *numbered(ORDERS, range(3)))
    (first,) = await inbox.count(1)
    first.ack()
    first.ack()
    first.requeue()
    (_, second) = await inbox.count(2)
    second.requeue()
    second.ack()
    again = (await inbox.count(3))[2]
    assert (again.body, again.redelivered) == (b"1", True)
    again.ack()
    assert bodies(await inbox.count(4)) == [b"0", b"1", b"1", b"2"]


async def test_what_a_closed_client_held_is_at_the_front_again_in_order(rig: BrokerRig) -> None:
    sender, first, second = await rig.connect(), await rig.connect(), await rig.connect()
    await sender.declare(queue(ORDERS))
    await published(sender, *numbered(ORDERS, range(6)))
    lost, inbox = Recorder[Delivery](), Recorder[Delivery]()
    first.subscribe(ORDERS, 4, lost)
    await lost.count(4)
    lost.seen[1].ack()
    await lost.count(5)
    await first.close()
    second.subscribe(ORDERS, 10, inbox)
    found = await inbox.count(5)
    assert bodies(found) == [b"0", b"2", b"3", b"4", b"5"]
    assert [delivery.redelivered for delivery in found] == [True, True, True, True, False]


async def test_a_delivery_of_a_lost_connection_settles_nothing(rig: BrokerRig) -> None:
    client = await rig.connect()
    await client.declare(queue(ORDERS))
    inbox = Recorder[Delivery]()
    client.subscribe(ORDERS, 10, inbox)
    await published(client, message(ORDERS))
    (before,) = await inbox.count(1)
    await rig.cut(client)
    (_, after) = await inbox.count(2)
    assert not before.live
    before.ack()
    before.requeue()
    assert after.live
    assert after.redelivered
    assert after.body == before.body
    after.requeue()
    assert (await inbox.count(3))[2].redelivered, "the stale ack had taken it away"


async def test_a_cancelled_subscription_gets_nothing_more(rig: BrokerRig) -> None:
    client, other = await rig.connect(), await rig.connect()
    await client.declare(queue(ORDERS))
    inbox, elsewhere = Recorder[Delivery](), Recorder[Delivery]()
    subscription = client.subscribe(ORDERS, 10, inbox)
    await published(client, message(ORDERS, b"before"))
    (held,) = await inbox.count(1)
    subscription.cancel()
    subscription.cancel()
    held.ack()

    async def not_consumed() -> bool:
        return [s.consumers for s in await other.stats([ORDERS])] == [0]

    await eventually(not_consumed)
    await published(client, *numbered(ORDERS, range(4)))
    other.subscribe(ORDERS, 10, elsewhere)
    found = await elsewhere.count(4)
    assert bodies(found) == [b"0", b"1", b"2", b"3"], "the held one could be settled still"
    assert bodies(inbox.seen) == [b"before"]


async def test_a_subscription_waits_for_its_queue(rig: BrokerRig) -> None:
    client = await rig.connect()
    inbox = Recorder[Delivery]()
    client.subscribe(ORDERS, 10, inbox)
    await client.declare(queue(ORDERS))

    async def sent() -> bool:
        return await published(client, message(ORDERS)) == [Published.CONFIRMED]

    await eventually(sent)
    assert (await inbox.count(1))[0].body == b"hello"


async def test_what_is_wanted_before_open_is_there_after_it(rig: BrokerRig) -> None:
    client = rig.client()
    inbox, replies = Recorder[Delivery](), Replies()
    await client.declare(queue(ORDERS))
    client.subscribe(ORDERS, 10, inbox)
    client.open_replies("orders", "a", replies)
    assert client.reply_to == ""
    await client.open()

    async def replies_open() -> bool:
        return client.reply_to != ""

    await eventually(replies_open)
    assert await published(client, message(ORDERS)) == [Published.CONFIRMED]
    await inbox.count(1)


# --- time -----------------------------------------------------------------------------------------------------------------


async def test_a_message_over_its_time_vanishes_at_the_head(rig: BrokerRig) -> None:
    client = await rig.connect()
    await client.declare(queue(ORDERS))
    short, long = (
        message(ORDERS, b"short", "m1", expiration_ms=50),
        message(ORDERS, b"long", "m2", expiration_ms=60_000),
    )
    await published(client, short, long)

    async def one_left() -> bool:
        return [s.ready for s in await client.stats([ORDERS])] == [1]

    await eventually(one_left)
    inbox = Recorder[Delivery]()
    client.subscribe(ORDERS, 10, inbox)
    assert bodies(await inbox.count(1)) == [b"long"]


async def test_a_message_that_waited_too_long_behind_another_is_not_delivered(rig: BrokerRig) -> None:
    client = await rig.connect()
    await client.declare(queue(ORDERS))
    inbox = Recorder[Delivery]()
    client.subscribe(ORDERS, 1, inbox)
    await published(client, message(ORDERS, b"first"), message(ORDERS, b"short", "m2", expiration_ms=50))
    (first,) = await inbox.count(1)

    async def none_left() -> bool:
        return [s.ready for s in await client.stats([ORDERS])] == [0]

    await eventually(none_left)
    first.ack()
    await published(client, message(ORDERS, b"last", "m3"))
    assert bodies(await inbox.count(2)) == [b"first", b"last"]


# --- replies --------------------------------------------------------------------------------------------------------------


async def test_a_reply_finds_who_asked(rig: BrokerRig) -> None:
    asker, answerer = await rig.connect(), await rig.connect()
    replies = Replies()
    asker.open_replies("orders", "a", replies)
    await eventually(lambda: _has_replies(asker))
    assert asker.reply_to.startswith("orders.a.")
    inbox = Recorder[Delivery]()
    await answerer.declare(queue(BILLING))
    answerer.subscribe(BILLING, 10, inbox)
    assert asker.send(message(BILLING, ident="question-1", reply_to=asker.reply_to))
    (question,) = await inbox.count(1)
    answer = Publication(REPLIES, question.reply_to, b"42", question.message_id, "reply")
    assert answerer.send(answer)
    ((correlation_id, delivery),) = await replies.answers.count(1)
    assert (correlation_id, delivery.body, delivery.user_id) == ("question-1", b"42", answerer.user)
    delivery.ack()  # needs none, and takes none amiss


async def test_many_replies_arrive_without_being_settled(rig: BrokerRig) -> None:
    client = await rig.connect()
    replies = Replies()
    client.open_replies("orders", "a", replies)
    await eventually(lambda: _has_replies(client))
    for n in range(600):
        assert client.send(Publication(REPLIES, client.reply_to, b"", f"q{n}", "reply"))
    assert [ident for ident, _ in await replies.answers.count(600)] == [f"q{n}" for n in range(600)]


async def test_the_reply_queue_goes_with_its_connection(rig: BrokerRig) -> None:
    asker, answerer = await rig.connect(), await rig.connect()
    replies = Replies()
    asker.open_replies("orders", "a", replies)
    await eventually(lambda: _has_replies(asker))
    old = asker.reply_to
    await rig.cut(asker)
    await replies.losses.count(1)
    await replies.sends_lost.count(1)
    await eventually(lambda: _has_replies(asker))
    assert asker.reply_to != old
    assert answerer.send(Publication(REPLIES, old, b"late", "q1", "reply"))
    assert answerer.send(Publication(REPLIES, asker.reply_to, b"in time", "q2", "reply"))
    ((correlation_id, _),) = await replies.answers.count(1)
    assert correlation_id == "q2"
    assert replies.unroutable.seen == []
    assert len(replies.losses.seen) == len(replies.sends_lost.seen) == 1


async def _has_replies(client: object) -> bool:
    return bool(getattr(client, "reply_to"))  # noqa: B009


# --- the connection -------------------------------------------------------------------------------------------------------


async def test_the_state_says_how_it_is(rig: BrokerRig) -> None:
    client = rig.client()
    states = Recorder[BrokerState]()
    client.on_state(states)
    assert not client.state.publishing
    assert not client.state.consuming
    await client.open()
    await states.until(lambda seen: bool(seen) and seen[-1] == BrokerState(True, True, ""))
    assert client.state == BrokerState(True, True, "")
    await rig.cut(client)
    await states.until(lambda seen: any(not s.publishing and not s.consuming and s.fault for s in seen))
    await states.until(lambda seen: seen[-1] == BrokerState(True, True, ""))
    await client.close()
    assert not client.state.publishing
    assert not client.state.consuming


async def test_without_a_connection_nothing_is_taken(rig: BrokerRig) -> None:
    client = rig.client()
    assert not client.send(message(ORDERS))
    assert await published(client, message(ORDERS)) == [Published.AWAY]
    await client.open()
    await client.declare(queue(ORDERS))
    assert await published(client, message(ORDERS)) == [Published.CONFIRMED]
    await client.close()
    assert not client.send(message(ORDERS))
    assert await published(client, message(ORDERS)) == [Published.AWAY]
    assert await client.stats([ORDERS]) == []


async def test_closing_flushes_what_was_published(rig: BrokerRig) -> None:
    sender, receiver = await rig.connect(), await rig.connect()
    await receiver.declare(queue(ORDERS))
    # A queue so new that its leader is not known yet may refuse its first messages, or be seconds with them on a busy machine.
    while await published(sender, message(ORDERS)) != [Published.CONFIRMED]:
        pass
    inbox = Recorder[Delivery]()
    receiver.subscribe(ORDERS, 100, inbox)
    before = len(await inbox.count(1))
    fates: dict[int, Published] = {}
    for number, m in enumerate(numbered(ORDERS, range(50))):
        sender.publish(m, partial(fates.__setitem__, number))
    await sender.close()
    assert fates == dict.fromkeys(range(50), Published.CONFIRMED)
    assert bodies(await inbox.count(before + 50))[-50:] == [b"%d" % number for number in range(50)]


async def test_subscriptions_and_topology_come_back_with_the_connection(rig: BrokerRig) -> None:
    client = await rig.connect()
    await client.declare(queue(ORDERS))
    inbox = Recorder[Delivery]()
    client.subscribe(ORDERS, 10, inbox)
    await published(client, message(ORDERS, b"before"))
    (await inbox.count(1))[0].ack()
    states = Recorder[BrokerState]()
    client.on_state(states)
    await rig.cut(client)
    await states.until(lambda seen: bool(seen) and seen[-1] == BrokerState(True, True, ""))
    assert await published(client, message(ORDERS, b"after", "m2")) == [Published.CONFIRMED]
    await inbox.until(lambda seen: b"after" in bodies(seen))


# --- topology -------------------------------------------------------------------------------------------------------------


async def test_declaring_again_changes_nothing(rig: BrokerRig) -> None:
    first, second = await rig.connect(), await rig.connect()
    await first.declare(queue(ORDERS))
    await published(first, message(ORDERS))
    await first.declare(queue(ORDERS))
    await second.declare(queue(ORDERS) + queue(ORDERS))
    assert first.state.fault == second.state.fault == ""
    inbox = Recorder[Delivery]()
    second.subscribe(ORDERS, 10, inbox)
    assert len(await inbox.count(1)) == 1


async def test_a_queue_with_other_arguments_is_a_fault_and_all_else_works(rig: BrokerRig) -> None:
    first, second = await rig.connect(), await rig.connect()
    await first.declare(queue(ORDERS, limit=50))
    states = Recorder[BrokerState]()
    second.on_state(states)
    await second.declare(queue(ORDERS, limit=60) + queue(BILLING))
    (state, *_) = await states.until(lambda seen: any(s.fault for s in seen))
    fault = state.fault
    assert all(word in fault for word in (ORDERS, "x-delivery-limit", "50", "60")), fault
    assert BILLING not in fault
    assert state.publishing
    assert state.consuming
    inbox = Recorder[Delivery]()
    second.subscribe(BILLING, 10, inbox)
    assert await published(second, message(BILLING), message(ORDERS)) == [Published.CONFIRMED] * 2
    assert bodies(await inbox.count(1)) == [b"hello"]
    assert first.state.fault == ""


async def test_exchanges_route_by_pattern_to_all_and_to_the_alternate(rig: BrokerRig) -> None:
    client = await rig.connect()
    one, many, rest = "meshq.orders.v1.on.one", "meshq.orders.v1.on.many", "meshq.test.rest"
    await client.declare(
        Topology(
            (
                ExchangeSpec("meshq.test.lost", "fanout"),
                ExchangeSpec("meshq.test.inner"),
                ExchangeSpec("meshq.test", arguments=(("alternate-exchange", "meshq.test.lost"),)),
            ),
            queue(one).queues + queue(many).queues + queue(rest).queues,
            (
                Binding("meshq.test", one, "a.*.c"),
                Binding("meshq.test", "meshq.test.inner", "a.#", to_exchange=True),
                Binding("meshq.test.inner", many, "#.c"),
                Binding("meshq.test.lost", rest, ""),
            ),
        )
    )
    assert client.state.fault == ""
    inboxes = {name: Recorder[Delivery]() for name in (one, many, rest)}
    for name, inbox in inboxes.items():
        client.subscribe(name, 100, inbox)
    keys = ["a.b.c", "a.c", "a.b.b.c", "c", "a", "b.a.c", "a.b.d"]
    publications = [Publication("meshq.test", key, key.encode(), f"m{n}", "event") for n, key in enumerate(keys)]
    fates = await published(client, *publications)
    # "a" and "a.b.d" reach the inner exchange, which has no queue for them: nothing falls back from there.
    unroutable = [key for key, fate in zip(keys, fates, strict=True) if fate is Published.UNROUTABLE]
    assert unroutable == ["a", "a.b.d"]
    assert bodies(await inboxes[one].count(1)) == [b"a.b.c"]
    assert bodies(await inboxes[many].count(3)) == [b"a.b.c", b"a.c", b"a.b.b.c"]
    assert bodies(await inboxes[rest].count(2)) == [b"c", b"b.a.c"]


# --- figures --------------------------------------------------------------------------------------------------------------


async def test_stats_are_of_the_queues_that_are_there_in_the_order_asked_for(rig: BrokerRig) -> None:
    client = await rig.connect()
    await client.declare(queue(ORDERS) + queue(BILLING))
    await published(client, *numbered(ORDERS, range(3)))
    inbox = Recorder[Delivery]()
    client.subscribe(BILLING, 10, inbox)

    async def right() -> bool:
        found = await client.stats([BILLING, "meshq.nobody.v1.work", ORDERS])
        return [(s.queue, s.ready, s.consumers) for s in found] == [(BILLING, 0, 1), (ORDERS, 3, 0)]

    await eventually(right)
