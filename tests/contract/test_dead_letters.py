"""Dead letters over every broker there is: looking loses nothing, bringing back loses nothing, and what is dead is found."""

import asyncio
from contextlib import suppress
from typing import Any, NamedTuple

import pytest

from meshq.adapters.clock import SystemClock
from meshq.control.dead import DeadLetters
from meshq.control.unreachable import Unreachable
from meshq.core import dead, topology
from meshq.core.dead import LOST_TOPIC, MAX_REPLAYS
from meshq.core.dead_views import Wanted
from meshq.core.errors import Code, Refused
from meshq.core.instances import Service, Snapshot
from meshq.core.message import (
    DeadLetter,
    Request,
    Response,
    decode,
    encode_dead_letter,
    encode_request,
    encode_response,
)
from meshq.core.names import Version
from meshq.core.selectors import parse_address
from meshq.core.topology import Topology
from meshq.ports import Broker, Delivery, Publication, Published, QueueStats
from meshq.sending_handover import Handover
from tests.contract.broker_rigs import BrokerRig, Recorder, eventually, published

ORDERS, BILLING = "orders.v2", "billing.v1"
WORK = topology.work_queue(ORDERS)
ALL = Wanted()


def request(number: int, **more: Any) -> Request:
    made = Request(f"{number:032x}", "POST", b"/list?x=1", [], b"%d" % number, "shop", accepted_ms=1_795_341_600_000)
    return made._replace(**more)


def letter(number: int, reason: str = dead.REJECTED, queue: str = WORK, **more: Any) -> Publication:
    """A dead letter as a sidecar writes it, to the dead letters of the queue's topic."""
    body = encode_request(request(number, **more))
    record = DeadLetter(
        f"{number:032x}", reason, "the test says so", queue, 1_795_341_600_000 + number, "orders/2.0.0/host-a", body,
        422, b"no", 1, "shop",
    )  # fmt: skip
    return buried(record)


def buried(record: DeadLetter, topic: str = ORDERS) -> Publication:
    return Publication(topology.DEAD, topology.dead_queue(topic), encode_dead_letter(record), record.id, "dead")


class Desk(NamedTuple):
    """Somebody who looks after dead letters, in a process of his own."""

    client: Broker
    dead: DeadLetters

    async def ids(self, topic: str | None = ORDERS, wanted: Wanted = ALL) -> list[int]:
        return [int(row["id"], 16) for row in (await self.dead.rows(topic, wanted)).rows]


async def desk(rig: BrokerRig, *declared: Topology) -> Desk:
    client = await rig.connect()
    for each in (topology.service(ORDERS), *declared):
        await client.declare(each)
    clock = SystemClock()
    majors = {"orders": {2: Version(2, 0, 0)}, "billing": {1: Version(1, 0, 0)}}

    async def picture() -> Snapshot:
        return Snapshot(1, {name: Service(name, served) for name, served in majors.items()})

    async def listed() -> list[QueueStats]:
        return []

    handover = Handover(client, clock, lambda _: None)
    return Desk(client, DeadLetters(client, clock, handover.publish, picture, listed))


async def there(client: Broker, *messages: Publication) -> None:
    """Confirmed. What the broker left open, because it was busy, is published again: it may be there twice then."""
    left = messages

    async def all_confirmed() -> bool:
        nonlocal left
        fates = await published(client, *left)
        left = tuple(each for each, fate in zip(left, fates, strict=True) if fate is not Published.CONFIRMED)
        return not left

    await eventually(all_confirmed)


def requests(deliveries: list[Delivery]) -> list[Request]:
    return [message for each in deliveries for message in decode(each.body) if isinstance(message, Request)]


# --- looking ------------------------------------------------------------------------------------------------------------------

REASONS = (
    dead.REJECTED, dead.ATTEMPTS, dead.DEADLINE, dead.UNDECODABLE, dead.NO_SUCH_VERSION, dead.KEY_REUSED, dead.UNSENDABLE,
)  # fmt: skip


async def test_what_sidecars_gave_up_is_listed_by_its_reasons(rig: BrokerRig) -> None:
    at = await desk(rig)
    await there(at.client, *(letter(number, reason) for number, reason in enumerate(REASONS)))
    found = await at.dead.rows(ORDERS, ALL)
    assert ([row["reason"] for row in found.rows], found.more) == (list(REASONS), 0)
    assert found.rows[0] == {
        "id": f"{0:032x}", "topic": ORDERS, "at": "2026-11-22T10:00:00.000Z", "reason": "rejected", "status": 422,
        "attempts": 1, "instance": "host-a", "path": "/list?x=1", "size": 1,
    }  # fmt: skip
    assert await at.ids(wanted=Wanted(reason=dead.DEADLINE)) == [2]
    assert await at.ids(wanted=Wanted(since_ms=1_795_341_600_005)) == [5, 6]
    assert await at.ids(None) == list(range(7))
    assert await at.ids(LOST_TOPIC) == []


@pytest.mark.long
async def test_looking_a_hundred_times_loses_nothing(rig: BrokerRig) -> None:
    at = await desk(rig)
    await there(at.client, *(letter(number) for number in range(40)))
    for _ in range(100):
        assert await at.ids(wanted=Wanted(limit=40)) == list(range(40))
    assert await at.ids() == list(range(40))


async def test_looking_four_at_once_loses_nothing(rig: BrokerRig) -> None:
    """Each in a process of its own: for a moment what one holds the others do not see, and then all is there again."""
    desks = [await desk(rig) for _ in range(4)]
    await there(desks[0].client, *(letter(number) for number in range(100)))

    async def look(at: Desk) -> None:
        for _ in range(10):
            seen = await at.ids()
            assert len(seen) == len(set(seen)) <= 100

    await asyncio.gather(*(look(at) for at in desks))
    for at in desks:
        assert sorted(await at.ids()) == list(range(100))


async def test_those_who_look_through_one_control_api_all_see_everything(rig: BrokerRig) -> None:
    at = await desk(rig)
    await there(at.client, *(letter(number) for number in range(50)))
    assert await asyncio.gather(*(at.ids() for _ in range(8))) == [list(range(50))] * 8


async def test_a_limit_says_how_many_more_there_are(rig: BrokerRig) -> None:
    at = await desk(rig)
    await there(at.client, *(letter(number) for number in range(60)))
    found = await at.dead.rows(ORDERS, Wanted(limit=25))
    assert ([int(row["id"], 16) for row in found.rows], found.more) == (list(range(25)), 35)
    found = await at.dead.rows(None, Wanted(limit=1))
    assert (len(found.rows), found.more) == (1, 59)
    found = await at.dead.rows(ORDERS, Wanted(limit=100))
    assert (len(found.rows), found.more) == (60, 0)


async def test_one_is_shown_whole(rig: BrokerRig) -> None:
    at = await desk(rig)
    body = b"x" * 100_000
    await there(at.client, letter(1, body=body, headers=[(b"X-Trace", b"7")]), letter(2))
    (shown,) = (await at.dead.show(ORDERS, Wanted(frozenset([f"{1:032x}"])), whole=True)).rows
    assert (shown["method"], shown["path"], shown["sender"], shown["excerpt"]) == ("POST", "/list?x=1", "shop", "no")
    assert (shown["headers"], shown["body"], shown["size"]) == ([["X-Trace", "7"]], body.decode(), 100_000)


async def test_of_large_ones_a_part_is_looked_at_and_the_rest_counted(rig: BrokerRig) -> None:
    at = await desk(rig)
    for start in (0, 40):  # the window of what is not confirmed holds 64 MiB
        await there(at.client, *(letter(start + number, body=b"x" * 2**20) for number in range(40)))
    found = await at.dead.rows(ORDERS, ALL)
    assert len(found.rows) >= 60
    assert len(found.rows) + found.more == 80
    dropped = await at.dead.drop(ORDERS, ALL)
    assert len(dropped.letters) + len((await at.dead.rows(ORDERS, ALL)).rows) == 80


async def test_a_topic_that_nobody_knows_is_said_with_those_there_are(rig: BrokerRig) -> None:
    at = await desk(rig)
    with pytest.raises(Refused, match=r"no dead letters of order\.v2; topics known: billing\.v1, orders\.v2"):
        await at.dead.rows("order.v2", ALL)
    with pytest.raises(Refused, match=r"'orders' is not a topic such as orders\.v2; lost stands for"):
        await at.dead.rows("orders", ALL)


async def test_without_a_connection_it_is_said(rig: BrokerRig) -> None:
    at = await desk(rig)
    await at.client.close()
    with pytest.raises(Unreachable):
        await at.dead.rows(ORDERS, ALL)


# --- bringing back ------------------------------------------------------------------------------------------------------------


async def test_back_to_the_queue_that_it_came_from(rig: BrokerRig) -> None:
    at = await desk(rig)
    inbox = Recorder[Delivery]()
    at.client.subscribe(WORK, 10, inbox)
    await there(at.client, *(letter(number, attempt=4, misses=3) for number in range(3)))
    changed = await at.dead.replay(ORDERS, ALL, None)
    assert [(each["outcome"], each["queue"], each["detail"]) for each in changed.letters] == [
        ("replayed", WORK, "")
    ] * 3
    assert (changed.more, changed.missing, changed.fault) == (0, [], "")
    came = await inbox.count(3)
    assert sorted(requests(came)) == [request(number, replays=1, proved_caller="shop") for number in range(3)]
    assert {each.reply_to for each in came} == {"shop.results"}
    assert await at.ids() == []


async def test_to_another_address(rig: BrokerRig) -> None:
    at = await desk(rig, topology.service(BILLING))
    inbox = Recorder[Delivery]()
    at.client.subscribe(topology.work_queue(BILLING), 10, inbox)
    await there(at.client, letter(1), letter(2))
    changed = await at.dead.replay(ORDERS, Wanted(limit=1), parse_address("billing@1"))
    assert [(each["outcome"], each["queue"]) for each in changed.letters] == [("replayed", "meshq.billing.v1.work")]
    assert changed.more == 1
    assert requests(await inbox.count(1)) == [request(1, replays=1)]
    assert await at.ids() == [2]


async def test_what_no_queue_takes_stays(rig: BrokerRig) -> None:
    at = await desk(rig)
    await there(at.client, letter(1))
    changed = await at.dead.replay(ORDERS, ALL, parse_address("billing@7"))
    assert [(each["outcome"], each["detail"]) for each in changed.letters] == [
        ("kept", "no queue takes it: meshq.billing.v7.work is not there")
    ]
    with pytest.raises(Refused) as refused:
        await at.dead.replay(ORDERS, ALL, parse_address("nobody"))
    assert refused.value.problem.code is Code.UNKNOWN_SERVICE
    assert await at.ids() == [1]


async def test_an_event_goes_back_to_the_one_subscription_that_could_not_handle_it(rig: BrokerRig) -> None:
    shared = topology.shared()
    first, second = (topology.subscription(ORDERS, name, "payments.settled.v1") for name in ("one", "two"))
    at = await desk(rig, shared, first, second)
    one, two = Recorder[Delivery](), Recorder[Delivery]()
    at.client.subscribe("meshq.orders.v2.on.one", 10, one)
    at.client.subscribe("meshq.orders.v2.on.two", 10, two)
    await there(at.client, letter(1, queue="meshq.orders.v2.on.one", event="payments.settled.v1"))
    await at.dead.replay(ORDERS, ALL, None)
    (came,) = requests(await one.count(1))
    assert (came.event, came.replays) == ("payments.settled.v1", 1)
    event = Publication(topology.EVENTS, "payments.settled.v1.0", b"for both", "e", "event")
    await there(at.client, event)
    assert [each.body for each in await two.count(1)] == [b"for both"]


async def test_an_event_whose_subscription_is_gone_stays(rig: BrokerRig) -> None:
    at = await desk(rig, topology.shared())
    await there(at.client, letter(1, queue="meshq.orders.v2.on.one", event="payments.settled.v1"))
    changed = await at.dead.replay(ORDERS, ALL, None)
    assert [(each["outcome"], each["detail"]) for each in changed.letters] == [
        ("kept", "meshq.orders.v2.on.one does not exist; --to names an address")
    ]
    assert await at.ids() == [1]


async def test_the_loop_guard(rig: BrokerRig) -> None:
    at = await desk(rig)
    await there(at.client, letter(1, replays=MAX_REPLAYS), letter(2, replays=MAX_REPLAYS - 1))
    changed = await at.dead.replay(ORDERS, ALL, None)
    assert [each["outcome"] for each in changed.letters] == ["kept", "replayed"]
    assert changed.letters[0]["detail"].endswith("--force does it again (loop)")
    assert await at.ids() == [1]
    assert [each["outcome"] for each in (await at.dead.replay(ORDERS, ALL, None, force=True)).letters] == ["replayed"]
    assert await at.ids() == []


async def test_what_dies_again_is_a_new_dead_letter(rig: BrokerRig) -> None:
    at = await desk(rig)

    def give_up(delivery: Delivery) -> None:
        (again,) = requests([delivery])
        record = DeadLetter(again.id, dead.REJECTED, "again", WORK, 1, "orders/2.0.0/host-a", delivery.body)
        at.client.publish(buried(record), lambda _: delivery.ack())

    at.client.subscribe(WORK, 10, give_up)
    await there(at.client, letter(1))
    for _ in range(3):
        assert len((await at.dead.replay(ORDERS, ALL, None)).letters) == 1

        async def is_back() -> bool:
            return await at.ids() == [1]

        await eventually(is_back)
    (shown,) = (await at.dead.show(ORDERS, ALL, whole=False)).rows
    assert shown["replays"] == 3


async def test_a_thousand_are_brought_back_and_each_once(rig: BrokerRig) -> None:
    at = await desk(rig)
    await there(at.client, *(letter(number) for number in range(1000)))
    changed = await at.dead.replay(ORDERS, ALL, None)
    assert [each["outcome"] for each in changed.letters] == ["replayed"] * 1000
    inbox = Recorder[Delivery]()

    def take(delivery: Delivery) -> None:
        delivery.ack()
        inbox(delivery)

    at.client.subscribe(WORK, 200, take)
    came = requests(await inbox.count(1000))
    assert sorted(each.id for each in came) == [f"{number:032x}" for number in range(1000)]
    assert await at.ids() == []


async def test_a_connection_that_is_lost_meanwhile_loses_no_letter(rig: BrokerRig) -> None:
    """What was confirmed and could not be taken out any more may come twice; nothing comes never."""
    at = await desk(rig)
    await there(at.client, *(letter(number) for number in range(300)))
    replaying = asyncio.ensure_future(at.dead.replay(ORDERS, ALL, None))
    other = await desk(rig)

    async def begun() -> bool:
        figures = await other.client.stats([WORK])
        return bool(figures and figures[0].ready) or replaying.done()

    await eventually(begun)
    await rig.cut(at.client)
    with suppress(Unreachable):
        await replaying
    inbox = Recorder[Delivery]()
    other.client.subscribe(WORK, 1000, inbox)

    async def all_there() -> bool:
        back = {int(each.id, 16) for each in requests(inbox.seen)}
        return back | set(await other.ids()) == set(range(300))

    await eventually(all_there)


# --- dropping -----------------------------------------------------------------------------------------------------------------


async def test_dropped_by_reason_and_by_id(rig: BrokerRig) -> None:
    at = await desk(rig)
    await there(at.client, letter(1), letter(2, dead.ATTEMPTS), letter(3), letter(4))
    changed = await at.dead.drop(ORDERS, Wanted(reason=dead.ATTEMPTS))
    assert [(each["outcome"], each["queue"]) for each in changed.letters] == [("dropped", None)]
    assert await at.ids() == [1, 3, 4]
    changed = await at.dead.drop(ORDERS, Wanted(frozenset([f"{3:032x}", "nobody"])))
    assert (len(changed.letters), changed.missing) == (1, ["nobody"])
    assert await at.ids() == [1, 4]


async def test_of_many_those_that_were_meant_go_and_no_others(rig: BrokerRig) -> None:
    """A channel keeps acknowledgements back that a queue has no room for, and forgets them when it closes."""
    at = await desk(rig)
    await there(at.client, *(letter(n, dead.ATTEMPTS if n % 2 else dead.REJECTED) for n in range(400)))
    assert len((await at.dead.drop(ORDERS, Wanted(reason=dead.REJECTED))).letters) == 200
    assert await at.ids() == list(range(1, 400, 2))
    assert len((await at.dead.replay(ORDERS, Wanted(limit=100), None)).letters) == 100
    assert await at.ids() == list(range(201, 400, 2))


async def test_a_dry_run_says_what_would_be_and_changes_nothing(rig: BrokerRig) -> None:
    at = await desk(rig)
    await there(at.client, letter(1), letter(2, replays=MAX_REPLAYS))
    replayed = await at.dead.replay(ORDERS, ALL, None, dry_run=True)
    assert [(each["outcome"], each["queue"]) for each in replayed.letters] == [("replayed", WORK), ("kept", None)]
    dropped = await at.dead.drop(ORDERS, ALL, dry_run=True)
    assert [each["outcome"] for each in dropped.letters] == ["dropped"] * 2
    assert await at.ids() == [1, 2]
    assert [figures.ready for figures in await at.client.stats([WORK])] == [0]


async def test_a_short_id_that_stands_for_several_is_refused(rig: BrokerRig) -> None:
    at = await desk(rig)
    await there(at.client, letter(1), letter(2))
    with pytest.raises(Refused, match="000000000000 stands for several"):
        await at.dead.drop(ORDERS, Wanted(frozenset(["0" * 12])))
    assert await at.ids() == [1, 2]


# --- what the broker gives up ---------------------------------------------------------------------------------------------------


async def test_a_message_that_kills_whoever_has_it_is_dead_by_the_brokers_limit(rig: BrokerRig) -> None:
    at = await desk(rig)
    seen = Recorder[Delivery]()

    def give_back(delivery: Delivery) -> None:
        seen(delivery)
        delivery.requeue()

    subscription = at.client.subscribe(WORK, 1, give_back)
    work = Publication(
        topology.CALLS, topology.work_key(ORDERS), encode_request(request(1)), f"{1:032x}", "call", "shop.results"
    )
    await there(at.client, work)

    async def is_dead() -> bool:
        return await at.ids() == [1]

    await eventually(is_dead)
    subscription.cancel()
    assert len(seen.seen) in (topology.BACKSTOP_DELIVERIES, topology.BACKSTOP_DELIVERIES + 1)
    (shown,) = (await at.dead.show(ORDERS, ALL, whole=False)).rows
    assert (shown["reason"], shown["queue"], shown["attempts"], shown["body"]) == ("delivery-limit", WORK, 1, "1")
    assert shown["at"] is not None
    assert shown["sender"] == at.client.user
    inbox = Recorder[Delivery]()
    at.client.subscribe(WORK, 10, inbox)
    await at.dead.replay(ORDERS, ALL, None)
    (came,) = await inbox.count(1)
    assert requests([came]) == [request(1, replays=1, proved_caller=at.client.user)]
    assert came.reply_to == "shop.results"


async def test_an_answer_whose_queue_was_gone_comes_back_to_its_caller(rig: BrokerRig) -> None:
    at = await desk(rig, topology.shared())
    answer = Response("r1", 200, [], b"done", "billing/1.0.0/host-b")
    key = topology.delay_key(1, topology.results_queue("orders"))
    await there(at.client, Publication(topology.DELAY, key, encode_response(answer), "r1", "result"))

    async def lost() -> list[tuple[str, str, int]]:
        return [(row["id"], row["reason"], row["size"]) for row in (await at.dead.rows(LOST_TOPIC, ALL)).rows]

    async def is_lost() -> bool:
        return await lost() == [("r1", "queue-gone", 4)]

    await eventually(is_lost)
    assert [each["outcome"] for each in (await at.dead.replay(LOST_TOPIC, ALL, None)).letters] == ["kept"]
    await at.client.declare(topology.results("orders"))
    inbox = Recorder[Delivery]()
    at.client.subscribe(topology.results_queue("orders"), 10, inbox)
    assert [each["outcome"] for each in (await at.dead.replay(LOST_TOPIC, ALL, None)).letters] == ["replayed"]
    assert decode((await inbox.count(1))[0].body) == [answer]
    assert await lost() == []


async def test_a_hundred_retries_of_a_queue_that_was_deleted_are_found_and_hold_up_nobody(rig: BrokerRig) -> None:
    billing = topology.work_queue(BILLING)
    at = await desk(rig, topology.shared(), topology.service(BILLING))
    others = Recorder[Delivery]()
    at.client.subscribe(billing, 200, others)

    def retry(number: int, queue: str) -> Publication:
        again = request(number, attempt=2)
        return Publication(
            topology.DELAY, topology.delay_key(1, queue), encode_request(again), again.id, "retry", "shop.results"
        )

    work = Topology(queues=tuple(queue for queue in topology.service(ORDERS).queues if queue.name == WORK))

    another = await rig.connect()

    async def deleted() -> bool:
        await another.withdraw(work)
        return await at.client.stats([WORK]) == []

    # Before they are on their way, not while: the delay levels do not look at where they lead to, and deleting takes its time.
    await eventually(deleted)
    await there(at.client, *(retry(n, WORK) for n in range(100)), *(retry(n, billing) for n in range(100, 200)))
    await others.until(lambda seen: len({each.message_id for each in seen}) == 100)

    async def all_lost() -> bool:
        return set(await at.ids(LOST_TOPIC)) == set(range(100))

    await eventually(all_lost)
    found = (await at.dead.rows(ORDERS, ALL)).rows
    assert {int(row["id"], 16) for row in found} == set(range(100))
    assert {(row["topic"], row["reason"], row["attempts"]) for row in found} == {(ORDERS, "queue-gone", 1)}
    assert await at.ids(BILLING) == []
    assert set(await at.ids(None)) == set(range(100))
    stays = await at.dead.replay(ORDERS, ALL, None)
    assert {each["detail"] for each in stays.letters} == {f"no queue takes it: {WORK} is not there"}
    again = await desk(rig)
    inbox = Recorder[Delivery]()
    again.client.subscribe(WORK, 200, inbox)
    assert {each["outcome"] for each in (await again.dead.replay(ORDERS, ALL, None)).letters} == {"replayed"}
    came = await inbox.until(lambda seen: len({each.message_id for each in seen}) == 100)
    assert set(map(str, requests(came))) == {str(request(number, replays=1)) for number in range(100)}
    assert await again.ids(None) == []


async def test_a_delayed_event_that_nobody_subscribes_to_any_more_is_found_under_its_topic(rig: BrokerRig) -> None:
    at = await desk(rig, topology.shared())
    event = topology.event_key("payments.settled.v1", 3)
    key = topology.delay_key(1, topology.delayed_event(event))
    made = request(1, event="payments.settled.v1", target=b"/")
    await there(at.client, Publication(topology.DELAY, key, encode_request(made), made.id, "event"))

    async def is_lost() -> bool:
        return len(await at.ids(LOST_TOPIC)) == 1

    await eventually(is_lost)
    (row,) = (await at.dead.rows("payments.settled.v1", ALL)).rows
    assert (row["topic"], row["reason"], row["path"]) == ("payments.settled.v1", "queue-gone", "payments.settled.v1")
    assert [each["outcome"] for each in (await at.dead.replay("payments.settled.v1", ALL, None)).letters] == ["kept"]
    subscribed = topology.subscription(ORDERS, "late", "payments.settled.v1")
    await at.client.declare(subscribed)
    inbox = Recorder[Delivery]()
    at.client.subscribe("meshq.orders.v2.on.late", 10, inbox)
    assert [each["outcome"] for each in (await at.dead.replay("payments.settled.v1", ALL, None)).letters] == [
        "replayed"
    ]
    assert requests(await inbox.count(1)) == [made._replace(replays=1)]
