"""Where messages go in the embedded broker that their queue gives up, beyond the contract suite: to the second, through
restarts, and when there is nowhere to go."""

import sqlite3
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from meshq.adapters.clock import ManualClock
from meshq.adapters.embedded_dead import Death, died, pack, table, unpack
from meshq.adapters.store import MessageStore
from meshq.core import topology
from meshq.core.topology import CALLS, DELAY, Binding, ExchangeSpec, Queue, Topology
from meshq.ports import Delivery, Publication
from tests.contract.broker_rigs import Recorder
from tests.unit.embedded_hub import Life, bodies, live
from tests.unit.test_embedded_durability import files_no_larger_than

TOPIC = "orders.v1"
WORK, DEAD = topology.work_queue(TOPIC), topology.dead_queue(TOPIC)
ORDERS = topology.service(TOPIC)
START_MS = 1_700_000_000_000


@pytest.fixture(params=["in memory", "on disk"])
def file(request: pytest.FixtureRequest, tmp_path: Path) -> Path | None:
    return tmp_path / "broker.db" if request.param == "on disk" else None


def delayed(seconds: int, body: bytes, **more: Any) -> Publication:
    return Publication(DELAY, topology.delay_key(seconds, WORK), body, "m1", "call")._replace(**more)


def work(body: bytes, **more: Any) -> Publication:
    return Publication(CALLS, topology.work_key(TOPIC), body, "m1", "call")._replace(**more)


def test_a_delay_ends_to_the_second(file: Path | None) -> None:
    async def story(life: Life) -> None:
        inbox = life.inbox(WORK)
        await life.confirm(*(delayed(seconds, b"%d" % seconds) for seconds in (100_000, 61, 7, 1, 0)))
        passed = 0.0
        for seconds in (1, 7, 61, 100_000):
            await life.pass_time(seconds - 0.001 - passed)
            came = len(inbox.seen)
            await life.pass_time(0.001)
            assert bodies(inbox.seen[came:]) == [b"%d" % seconds]
            passed = seconds
        assert bodies(inbox.seen) == [b"0", b"1", b"7", b"61", b"100000"]

    live(story, file, ORDERS)


def test_a_delay_goes_on_while_nobody_is_there(tmp_path: Path) -> None:
    async def first(life: Life) -> None:
        await life.confirm(*(delayed(seconds, b"%d" % seconds) for seconds in (100, 10, 1000)))
        await life.pass_time(4)

    async def second(life: Life) -> None:  # 40 s later
        inbox = life.inbox(WORK)
        await life.pass_time(0)
        assert bodies(inbox.seen) == [b"10"]
        await life.pass_time(55.9)
        assert bodies(inbox.seen) == [b"10"]
        await life.pass_time(0.1)
        assert bodies(inbox.seen) == [b"10", b"100"]
        assert inbox.seen[1].user_id == "orders"

    async def third(life: Life) -> None:  # 2000 s later: every level it had to pass is over
        inbox = life.inbox(WORK)
        await life.pass_time(0)
        assert bodies(inbox.seen) == [b"1000"]
        waited = {death["queue"]: death["count"] for death in inbox.seen[0].properties()["headers"]["x-death"]}
        assert waited == {f"meshq.delay.{level}": 1 for level in range(10) if 1000 >> level & 1}

    path = tmp_path / "broker.db"
    live(first, path, ORDERS, clock=ManualClock(mesh_ms=START_MS))
    live(second, path, clock=ManualClock(monotonic=5.0, mesh_ms=START_MS + 44_000))
    live(third, path, clock=ManualClock(monotonic=77.0, mesh_ms=START_MS + 2_100_000))


def test_high_priority_does_not_hold_up_what_is_due(file: Path | None) -> None:
    async def story(life: Life) -> None:
        inbox = life.inbox(WORK)
        await life.confirm(delayed(8, b"first", priority=1))
        await life.pass_time(4)
        await life.confirm(delayed(8, b"second", priority=9))
        await life.pass_time(4)
        assert bodies(inbox.seen) == [b"first"]
        await life.pass_time(4)
        assert [delivery.properties()["priority"] for delivery in inbox.seen] == [1, 9]

    live(story, file, ORDERS)


def test_one_queue_twice_is_one_death_counted_twice() -> None:
    first = Death("work", "expired", CALLS, "orders.v1.work", START_MS, 500)
    other = Death("delay", "expired", DELAY, "1.work", START_MS + 1000, None)
    assert died(died((), first), other) == (other, first)
    again = died((other, first), first._replace(at_ms=START_MS + 2000))
    assert again == (first._replace(times=2), other), "the latest first, with the time of the first"
    assert died(again, first._replace(reason="delivery_limit"))[0].times == 1
    shown = table(unpack(pack(again)))
    assert [(death["queue"], death["count"]) for death in shown] == [("work", 2), ("delay", 1)]
    assert shown[0] == {
        "count": 2,
        "reason": "expired",
        "queue": "work",
        "time": datetime.fromtimestamp(START_MS // 1000, UTC),
        "exchange": CALLS,
        "routing-keys": ["orders.v1.work"],
        "original-expiration": "500",
    }


def test_a_dead_letter_that_no_queue_takes_waits_for_one(file: Path | None, caplog: pytest.LogCaptureFixture) -> None:
    lossless = (
        ("x-dead-letter-exchange", "late"),
        ("x-dead-letter-strategy", "at-least-once"),
        ("x-message-ttl", 1000),
    )
    lossy = (("x-dead-letter-exchange", "late"), ("x-message-ttl", 1000))
    before = Topology(queues=(Queue("kept", lossless), Queue("dropped", lossy), Queue("plain", lossy[1:])))
    after = Topology((ExchangeSpec("late", "fanout"),), (Queue("there", ()),), (Binding("late", "there", ""),))

    async def first(life: Life) -> None:
        await life.confirm(
            *(Publication("", name, name.encode(), "m1", "call") for name in ("kept", "dropped", "plain"))
        )
        await life.pass_time(1)
        assert await life.ready("kept", "dropped", "plain") == [0, 0, 0]
        await life.broker.withdraw(before)
        assert [figures.queue for figures in await life.broker.stats(["kept", "dropped", "plain"])] == ["kept"]

    async def second(life: Life) -> None:
        await life.pass_time(0)
        await life.broker.declare(after)
        found = await life.inbox("there").count(1)
        assert bodies(found) == [b"kept"]
        assert (found[0].properties()["headers"]["x-death"][0]["queue"]) == "kept"
        await life.broker.withdraw(before)
        assert await life.broker.stats(["kept"]) == []

    async def both(life: Life) -> None:
        await first(life)
        await second(life)

    if file is None:
        live(both, None, before)
    else:
        live(first, file, before, clock=ManualClock(mesh_ms=START_MS))
        live(second, file, clock=ManualClock(mesh_ms=START_MS + 1000))
    assert "dead letters of kept wait: no queue takes 'kept' from 'late'" in caplog.text


def test_deliveries_are_counted_through_restarts(tmp_path: Path) -> None:
    path = tmp_path / "broker.db"
    limited = Topology(
        queues=(
            Queue("work", (("x-queue-type", "quorum"), ("x-delivery-limit", 2), ("x-dead-letter-exchange", ""))),
            Queue("meshq.dead", ()),
        )
    )
    seen: list[int | None] = []

    async def taken_and_lost(life: Life) -> None:
        inbox = Recorder[Delivery]()
        life.broker.subscribe("work", 1, inbox)
        (delivery,) = await inbox.count(1)
        seen.append(delivery.deliveries)

    async def first(life: Life) -> None:
        await life.broker.declare(to_dead(limited))
        await life.confirm(Publication("", "work", b"poison", "m1", "call"))
        await taken_and_lost(life)

    async def last(life: Life) -> None:
        (dead,) = await life.inbox("meshq.dead").count(1)
        assert dead.properties()["headers"]["x-death"][0]["reason"] == "delivery_limit"
        assert await life.ready("work") == [0]

    live(first, path)
    live(taken_and_lost, path)
    live(taken_and_lost, path)
    live(last, path)
    assert seen == [0, 1, 2]


def to_dead(limited: Topology) -> Topology:
    work, dead = limited.queues
    key = ("x-dead-letter-routing-key", dead.name)
    return Topology(queues=(Queue(work.name, (*work.arguments, key)), dead))


def test_without_dead_letters_what_comes_back_too_often_is_dropped(file: Path | None) -> None:
    async def story(life: Life) -> None:
        await life.confirm(Publication("", "work", b"poison", "m1", "call"))
        tries = Recorder[int | None]()

        def give_back(delivery: Delivery) -> None:
            tries(delivery.deliveries)
            delivery.requeue()

        life.broker.subscribe("work", 1, give_back)
        assert await tries.count(4) == [0, 1, 2, 3]
        await life.pass_time(0)
        assert (len(tries.seen), await life.ready("work")) == (4, [0])

    limit = (("x-queue-type", "quorum"), ("x-delivery-limit", 3))
    live(story, file, Topology(queues=(Queue("work", limit),)))


def test_what_is_due_while_the_disk_is_full_goes_on_when_there_is_room(tmp_path: Path) -> None:
    path = tmp_path / "broker.db"

    async def story(life: Life) -> None:
        inbox = life.inbox(WORK)
        await life.confirm(*(delayed(3, b"%d" % n + bytes(5000)) for n in range(5)))
        with files_no_larger_than(path.with_name("broker.db-wal").stat().st_size):
            life.clock.advance(3)
            life.hub.tick()
            states = Recorder[object]()
            life.broker.on_state(states)
            await states.count(1)
            assert "free some space" in life.broker.state.fault
            assert inbox.seen == []
        assert [delivery.body[:1] for delivery in await inbox.count(5)] == [b"%d" % n for n in range(5)]
        assert life.broker.state.fault == ""

    live(story, path, ORDERS)
    live(lambda life: _empty(life), path)


async def _empty(life: Life) -> None:
    assert await life.ready(WORK, "meshq.delay.1", "meshq.delay.0") == [0, 0, 0]


def rows(path: Path, *tables: str) -> list[int]:
    with sqlite3.connect(path) as db:
        found = [db.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in tables]
    db.close()
    return found


def subscriptions(number: int) -> Iterator[Topology]:
    for n in range(number):
        yield topology.subscription(f"taker{n}.v1", "settled", "payments.settled.v1")


def test_an_event_for_many_is_one_body_on_the_disk(tmp_path: Path) -> None:
    path = tmp_path / "broker.db"
    event = Publication(topology.EVENTS, "payments.settled.v1.0", b"the body", "m1", "event")

    async def first(life: Life) -> None:
        await life.confirm(event)
        later = topology.delay_key(2, topology.delayed_event("payments.settled.v1.0"))
        await life.confirm(event._replace(exchange=DELAY, key=later))
        await life.pass_time(2)

    async def second(life: Life) -> None:
        for n in range(5):
            inbox = life.inbox(topology.subscription_queue(f"taker{n}.v1", "settled"))
            assert bodies(await inbox.count(2)) == [b"the body"] * 2
            if n == 3:
                await life.hub.flush()
                assert rows(path, "message", "body") == [2, 2], "the last one's is still there"

    live(first, path, *subscriptions(5))
    assert rows(path, "message", "body") == [10, 2]
    live(second, path)
    assert rows(path, "message", "body", "delivered") == [0, 0, 0]


def test_a_body_that_cannot_be_read_stays_in_its_queue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def story(life: Life) -> None:
        await life.confirm(work(b"first"), work(b"second"))
        inbox = life.inbox(WORK)
        with monkeypatch.context() as broken:
            broken.setattr(MessageStore, "body", lambda *_: None)
            await life.pass_time(0)
            held = await life.broker.hold(WORK, 10)
            assert (inbox.seen, held.deliveries, held.behind) == ([], [], 2)
        await life.confirm(work(b"third"))
        assert bodies(await inbox.count(3)) == [b"first", b"second", b"third"]

    live(story, tmp_path / "broker.db", ORDERS, kept_bytes=0)


def test_bodies_that_are_not_kept_in_memory_are_read_from_the_disk(tmp_path: Path) -> None:
    path, topic = tmp_path / "broker.db", "payments.settled.v1"
    large = [b"%d" % n + bytes(50_000) for n in range(6)]
    wanted = (ORDERS, topology.log(topic), topology.broadcast_subscription(TOPIC, "all", topic, "a"), *subscriptions(1))

    async def story(life: Life) -> None:
        await life.confirm(*(work(body) for body in large))
        out = Recorder[Delivery]()
        subscription = life.broker.subscribe(WORK, 4, out)
        assert bodies(await out.count(4)) == large[:4]
        subscription.cancel()
        for delivery in out.seen:
            delivery.requeue()
        assert bodies(await life.inbox(WORK).count(6)) == large
        # To a queue, to one that does not last and to a log, by way of a delay level.
        later = topology.delay_key(1, topology.delayed_event(topology.event_key(topic)))
        await life.confirm(*(Publication(DELAY, later, body, "m1", "event") for body in large))
        await life.pass_time(1)
        for queue in (
            topology.subscription_queue("taker0.v1", "settled"),
            topology.broadcast_queue(TOPIC, "all", "a"),
            topology.log_queue(topic),
        ):
            assert bodies(await life.inbox(queue, offset="first").count(6)) == large

    live(story, path, *wanted, kept_bytes=120_000)
    assert rows(path, "message", "body", "record") == [0, 0, 6]
