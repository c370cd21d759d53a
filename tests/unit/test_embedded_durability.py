"""What the embedded broker keeps: through a kill, through a full disk, and from a second process."""

import asyncio
import resource
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import uvloop

from meshq.adapters import store
from meshq.adapters.clock import ManualClock, SystemClock
from meshq.adapters.embedded_broker import EmbeddedHub
from meshq.adapters.embedded_client import EmbeddedBroker
from meshq.adapters.store import StoreUnusable
from meshq.core import topology
from meshq.core.topology import Queue, Topology
from meshq.ports import BrokerState, Clock, Delivery, Published
from tests.contract.broker_rigs import Recorder, eventually, message, published, queue
from tests.unit.embedded_process import NAME

Story = Callable[[EmbeddedBroker], Awaitable[None]]


def tell(path: Path, story: Story, clock: Clock | None = None) -> None:
    """One life of a process: open the file, do things, close it."""

    async def told() -> None:
        hub = EmbeddedHub(path, clock or ManualClock())
        try:
            broker = hub.connect("orders")
            await broker.open()
            await asyncio.wait_for(story(broker), 20)
        finally:
            await hub.close()

    uvloop.run(told())


@contextmanager
def process(mode: str, path: Path) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-m", "tests.unit.embedded_process", mode, str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=Path(__file__).parents[2]) as running:
        try:
            yield running
        finally:
            running.kill()


def lines(running: subprocess.Popen[bytes]) -> Iterator[str]:
    assert running.stdout is not None
    for line in running.stdout:
        yield line.decode().strip()


async def drain(broker: EmbeddedBroker, number: int) -> list[Delivery]:
    """Take `number` messages and acknowledge each."""
    inbox = Recorder[Delivery]()

    def take(delivery: Delivery) -> None:
        delivery.ack()
        inbox(delivery)

    subscription = broker.subscribe(NAME, 100, take)
    found = await inbox.count(number)
    subscription.cancel()
    return found


async def ready(broker: EmbeddedBroker) -> int | None:
    return (await broker.stats([NAME]))[0].ready


def test_everything_confirmed_survives_a_kill_in_order(tmp_path: Path) -> None:
    path = tmp_path / "queues" / "broker.db"
    confirmed: list[int] = []
    with process("publish", path) as running:
        for line in lines(running):
            confirmed.append(int(line))
            if len(confirmed) == 500:
                running.kill()
    assert len(confirmed) >= 500

    async def story(broker: EmbeddedBroker) -> None:
        waiting = await ready(broker)
        assert waiting is not None
        found = [int(d.body.split()[0]) for d in await drain(broker, waiting)]
        # Each once and in order; what was written and not confirmed any more may be there behind them.
        assert found == list(range(len(found)))
        assert confirmed == list(range(len(confirmed)))
        assert len(found) >= len(confirmed)

    tell(path, story)
    tell(path, lambda broker: _assert_ready(broker, 0))


def test_what_was_on_its_way_through_delays_at_a_kill_comes_once(tmp_path: Path) -> None:
    path = tmp_path / "broker.db"
    confirmed: list[int] = []
    with process("delay", path) as running:
        begun = time.monotonic()
        for line in lines(running):
            confirmed.append(int(line))
            if time.monotonic() > begun + 2.5:  # by now they go in at one end and come out at the other
                running.kill()

    async def story(broker: EmbeddedBroker) -> None:
        found: Counter[int] = Counter()
        inbox = Recorder[int]()

        def take(delivery: Delivery) -> None:
            delivery.ack()
            found[int(delivery.body.split()[0])] += 1
            inbox(len(found))

        broker.subscribe(NAME, 1000, take)
        await inbox.until(lambda _: found.keys() >= set(confirmed))
        assert set(found.values()) == {1}
        levels = [f"{topology.DELAY}.{level}" for level in (0, 1)]
        await eventually(lambda: _empty(broker, [NAME, *levels]))
        assert set(found.values()) == {1}

    tell(path, story, SystemClock())


async def _empty(broker: EmbeddedBroker, queues: list[str]) -> bool:
    return all(figures.ready == figures.in_flight == 0 for figures in await broker.stats(queues))


async def _assert_ready(broker: EmbeddedBroker, number: int) -> None:
    assert await ready(broker) == number


def test_after_a_kill_the_rest_comes_again_and_says_what_was_given_out(tmp_path: Path) -> None:
    path = tmp_path / "broker.db"
    with process("consume", path) as running:
        assert next(lines(running)) == "ready"

    async def story(broker: EmbeddedBroker) -> None:
        assert await published(broker, message(NAME, b"7", "m7")) == [Published.CONFIRMED], "its binding is there too"
        found = await drain(broker, 6)
        assert [d.body for d in found] == [b"1", b"3", b"4", b"5", b"7", b"6"]
        assert [d.redelivered for d in found] == [True, True, False, False, False, False]
        assert {d.message_id: d.reply_to for d in found[:2]} == {"m1": "orders.a.1", "m3": "orders.a.1"}
        assert all(d.user_id == "orders" for d in found)
        await broker.declare(queue(NAME, limit=9))
        assert "x-delivery-limit is 50 and should be 9" in broker.state.fault, "its arguments are there too"

    tell(path, story)


def test_what_was_held_when_it_closed_comes_again(tmp_path: Path) -> None:
    path = tmp_path / "broker.db"

    async def first(broker: EmbeddedBroker) -> None:
        await broker.declare(queue(NAME))
        await published(broker, *(message(NAME, b"%d" % n) for n in range(3)))
        inbox = Recorder[Delivery]()
        broker.subscribe(NAME, 2, inbox)
        (await inbox.count(2))[0].ack()
        await inbox.count(3)

    async def second(broker: EmbeddedBroker) -> None:
        found = await drain(broker, 2)
        assert [(d.body, d.redelivered) for d in found] == [(b"1", True), (b"2", True)]

    tell(path, first)
    tell(path, second)


def test_what_need_not_last_does_not(tmp_path: Path) -> None:
    path = tmp_path / "broker.db"

    async def first(broker: EmbeddedBroker) -> None:
        mine = Topology(queues=(Queue("mine", (), durable=False, exclusive=True),))
        await broker.declare(queue(NAME) + mine)
        assert broker.send(message(NAME, b"a waited call"))
        to_mine = message(NAME)._replace(exchange="", key="mine")
        assert await published(broker, message(NAME, b"durable"), to_mine) == [Published.CONFIRMED] * 2

    async def second(broker: EmbeddedBroker) -> None:
        assert await broker.stats(["mine"]) == []
        assert [d.body for d in await drain(broker, 1)] == [b"durable"]
        assert await ready(broker) == 0

    tell(path, first)
    tell(path, second)


def test_time_runs_while_nobody_is_there(tmp_path: Path) -> None:
    path = tmp_path / "broker.db"

    async def first(broker: EmbeddedBroker) -> None:
        await broker.declare(queue(NAME))
        short, long = (message(NAME, word, expiration_ms=ms) for word, ms in ((b"short", 5_000), (b"long", 60_000)))
        await published(broker, short, long)

    async def second(broker: EmbeddedBroker) -> None:
        (figures,) = await broker.stats([NAME])
        assert figures.ready == 1
        assert figures.oldest_age_seconds == 10
        assert [d.body for d in await drain(broker, 1)] == [b"long"]

    tell(path, first, ManualClock(mesh_ms=1_700_000_000_000))
    tell(path, second, ManualClock(monotonic=5.0, mesh_ms=1_700_000_010_000))


def test_two_processes_do_not_open_one_file(tmp_path: Path) -> None:
    path = tmp_path / "broker.db"
    with process("hold", path) as running:
        assert next(lines(running)) == "ready"
        with pytest.raises(StoreUnusable, match=f"{path} is in use by process {running.pid}: stop that one"):
            EmbeddedHub(path, ManualClock())
    tell(path, lambda broker: broker.declare(queue(NAME)))


def test_a_file_that_is_no_database_is_named(tmp_path: Path) -> None:
    path = tmp_path / "broker.db"
    path.write_bytes(b"no database at all" * 100)
    for _ in range(2):  # and the lock is let go again
        with pytest.raises(StoreUnusable, match=f"{path} cannot be used .* move it away"):
            EmbeddedHub(path, ManualClock())
    assert path.read_bytes().startswith(b"no database")


@contextmanager
def files_no_larger_than(size: int) -> Iterator[None]:
    """The kernel refuses every write beyond `size`, as it does on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_refuses_and_recovers(tmp_path: Path) -> None:
    path = tmp_path / "broker.db"

    async def story(broker: EmbeddedBroker) -> None:
        await broker.declare(queue(NAME))
        assert await published(broker, message(NAME, b"before")) == [Published.CONFIRMED]
        states = Recorder[BrokerState]()
        broker.on_state(states)
        inbox = Recorder[Delivery]()
        broker.subscribe(NAME, 10, inbox)
        with files_no_larger_than(path.with_name("broker.db-wal").stat().st_size):
            assert await published(broker, message(NAME, b"lost"), message(NAME, b"lost")) == [Published.REFUSED] * 2
            (state,) = await states.count(1)
            assert state.publishing
            assert str(tmp_path) in state.fault
            assert "free some space" in state.fault
            assert broker.send(message(NAME, b"waited call")), "what needs no disk goes on"
            for delivery in await inbox.count(2):
                delivery.ack()
            # Refused together with the acknowledgement, so that one was tried, too.
            assert await published(broker, message(NAME, b"lost")) == [Published.REFUSED]
        await states.until(lambda seen: seen[-1] == BrokerState(True, True, ""))
        assert await published(broker, message(NAME, b"after")) == [Published.CONFIRMED]
        assert [d.body for d in await inbox.count(3)] == [b"before", b"waited call", b"after"]

    tell(path, story)

    async def second(broker: EmbeddedBroker) -> None:
        assert [d.body for d in await drain(broker, 1)] == [b"after"], "the acknowledgement was kept and written later"
        assert await ready(broker) == 0

    tell(path, second)


def test_a_disk_that_is_still_full_is_not_called_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "broker.db"
    monkeypatch.setattr(store, "RETRY_SECONDS", 0.01)

    async def story(broker: EmbeddedBroker) -> None:
        await broker.declare(queue(NAME))
        await published(broker, message(NAME))
        states = Recorder[BrokerState]()
        broker.on_state(states)
        with files_no_larger_than(path.with_name("broker.db-wal").stat().st_size):
            assert await published(broker, message(NAME)) == [Published.REFUSED]
            with pytest.raises(TimeoutError):  # twenty tries, with nothing else to write
                await asyncio.wait_for(states.count(2), 0.2)
        await states.until(lambda seen: seen[-1].fault == "")

    tell(path, story)


def test_what_sqlite_cannot_hold_is_refused_alone(tmp_path: Path) -> None:
    path = tmp_path / "broker.db"

    async def story(broker: EmbeddedBroker) -> None:
        await broker.declare(queue(NAME))
        assert await published(broker, message(NAME, ident="\ud800")) == [Published.REFUSED]
        await eventually(lambda: _confirmed(broker))
        assert [d.body for d in await drain(broker, 1)] == [b"hello"]

    tell(path, story)


async def _confirmed(broker: EmbeddedBroker) -> bool:
    return await published(broker, message(NAME)) == [Published.CONFIRMED]


def test_a_file_of_an_earlier_version_is_brought_up(tmp_path: Path) -> None:
    path = tmp_path / "broker.db"
    with sqlite3.connect(path) as db:
        db.executescript(OLD_FILE)
    db.close()

    async def story(broker: EmbeddedBroker) -> None:
        assert broker.state.fault == ""
        found = await drain(broker, 2)
        assert [(d.body, d.message_id, d.user_id, d.redelivered) for d in found] == [
            (b"the first", "m1", "checkout", True),
            (b"the second", "m2", "checkout", False),
        ]
        assert found[1].properties()["expiration"] == "60000"
        assert await published(broker, message(NAME)) == [Published.CONFIRMED]

    tell(path, story, ManualClock(mesh_ms=1_700_000_010_000))
    tell(path, lambda broker: _assert_ready(broker, 1))


OLD_FILE = f"""
CREATE TABLE exchange (name TEXT PRIMARY KEY, kind TEXT, internal INTEGER, arguments BLOB) WITHOUT ROWID;
CREATE TABLE queue (name TEXT PRIMARY KEY, arguments BLOB) WITHOUT ROWID;
CREATE TABLE binding (source TEXT, destination TEXT, key TEXT, to_exchange INTEGER,
    PRIMARY KEY (source, destination, key, to_exchange)) WITHOUT ROWID;
CREATE TABLE message (seq INTEGER PRIMARY KEY, queue TEXT, exchange TEXT, key TEXT, message_id TEXT, kind TEXT,
    reply_to TEXT, user TEXT, expires_ms INTEGER, arrived_ms INTEGER, priority INTEGER, body BLOB);
CREATE TABLE delivered (seq INTEGER PRIMARY KEY);
CREATE TABLE probe (one INTEGER PRIMARY KEY, times INTEGER);
INSERT INTO exchange VALUES ('meshq.calls', 'topic', 0, X'90');
INSERT INTO queue VALUES ('{NAME}', X'90');
INSERT INTO binding VALUES ('meshq.calls', '{NAME}', '{NAME}', 0);
INSERT INTO message VALUES
    (7, '{NAME}', 'meshq.calls', '{NAME}', 'm1', 'call', '', 'checkout', NULL, 1700000000000, NULL, CAST('the first' AS BLOB)),
    (9, '{NAME}', 'meshq.calls', '{NAME}', 'm2', 'call', '', 'checkout', 1700000060000, 1700000000000, NULL,
        CAST('the second' AS BLOB));
INSERT INTO delivered VALUES (7);
"""


def test_a_file_of_a_later_version_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "broker.db"
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA user_version = 99")
    db.close()
    with pytest.raises(StoreUnusable, match=f"{path} is of a later version of meshq: run that one"):
        EmbeddedHub(path, ManualClock())


def test_an_empty_queue_leaves_nothing_in_the_file(tmp_path: Path) -> None:
    path = tmp_path / "broker.db"

    async def story(broker: EmbeddedBroker) -> None:
        await broker.declare(queue(NAME))
        await published(broker, *(message(NAME) for _ in range(50)))
        await drain(broker, 50)

    tell(path, story)
    with sqlite3.connect(path) as db:
        assert [db.execute(f"SELECT count(*) FROM {t}").fetchone() for t in ("message", "delivered")] == [(0,), (0,)]
    db.close()
