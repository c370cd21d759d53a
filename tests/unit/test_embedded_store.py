"""What the embedded store does beyond the contract suite: the file that outlives a restart."""

import asyncio
import logging
import sqlite3
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import uvloop

from meshq.adapters.clock import ManualClock
from meshq.adapters.embedded_store import EmbeddedStoreHub
from meshq.adapters.store_file import StoreUnusable
from meshq.core.keeping import DAY, Keeping
from meshq.ports import Once, OnceState, RequestRecord, Store, StoreAway

NEW = Once(OnceState.NEW)
HOUR = 3600.0


class Life:
    """A store on disk that is stopped and started again."""

    def __init__(self, path: Path, keeping: Keeping | None = None) -> None:
        self.clock = ManualClock()
        self.path = path
        self.keeping = keeping

    def run(self, story: Callable[[Store], Awaitable[None]]) -> None:
        """From a start to a stop."""

        async def life() -> None:
            hub = EmbeddedStoreHub(self.clock, self.path, keeping=self.keeping)
            try:
                await story(hub.connect())
            finally:
                await hub.close()

        uvloop.run(life())


@pytest.fixture
def life(tmp_path: Path) -> Life:
    return Life(tmp_path / "new folder" / "store.db")


def test_a_restart_loses_nothing_but_claims_and_leases(life: Life) -> None:
    async def before(store: Store) -> None:
        for scope in ("done", "not kept", "running", "freed"):
            assert await store.once("orders", scope, "d", "a", HOUR) == NEW
        await store.done("orders", "done", "a", b"\x00answer", 200, DAY)
        await store.done("orders", "not kept", "a", b"", 201, DAY)
        await store.free("orders", "freed", "a")
        await store.accepted("shop", "orders", ["pending", "completed"], DAY)
        await store.completed("shop", "completed", "orders", b"result", 200)
        await store.completed("shop", "not kept", "orders", b"", 202)
        await store.start("orders", ["started"])
        await store.cancel("orders", "cancelled")
        await store.lead("copy", "a", HOUR)
        await store.put_offset("copy", 2**40)

    async def after(store: Store) -> None:
        assert await store.once("orders", "done", "d", "b", HOUR) == Once(OnceState.DONE, b"\x00answer")
        assert await store.once("orders", "not kept", "d", "b", HOUR) == Once(OnceState.NOT_KEPT, status=201)
        assert await store.once("orders", "running", "d", "b", HOUR) == NEW
        assert await store.once("orders", "freed", "d", "b", HOUR) == NEW
        assert await store.request("shop", "pending") == RequestRecord(None, "orders")
        assert await store.request("shop", "completed") == RequestRecord(b"result", "orders")
        assert await store.request("shop", "not kept") == RequestRecord(None, "orders", status=202)
        assert await store.start("orders", ["started", "cancelled"]) == [True, False]
        assert await store.cancel("orders", "started") is False
        assert await store.lead("copy", "b", HOUR) is True
        assert await store.offset("copy") == 2**40

    life.run(before)
    life.run(after)


def test_what_ended_while_it_was_stopped_has_ended(life: Life) -> None:
    async def before(store: Store) -> None:
        await store.once("orders", "k", "d", "a", HOUR)
        await store.done("orders", "k", "a", b"answer", 200, HOUR)
        await store.completed("shop", "r", "orders", b"result", 200)

    async def after(store: Store) -> None:
        assert await store.once("orders", "k", "d", "b", HOUR) == NEW
        assert await store.request("shop", "r") == RequestRecord(None, "orders", expired=True)

    life.run(before)
    life.clock.advance(HOUR)
    life.run(after)
    with sqlite3.connect(life.path) as db:
        assert {name for (name,) in db.execute("SELECT name FROM key")} == {"req:shop:r"}
    db.close()


def test_what_ends_while_it_runs_goes_from_the_disk_and_makes_room(tmp_path: Path) -> None:
    life = Life(tmp_path / "store.db", Keeping(room=1000))

    async def story(store: Store) -> None:
        for ident in ("r1", "r2"):
            await store.completed("shop", ident, "orders", bytes(600), 200)
        assert await store.request("shop", "r2") == RequestRecord(None, "orders", status=200)
        life.clock.advance(HOUR)
        await store.completed("shop", "r3", "orders", bytes(600), 200)
        assert await store.request("shop", "r3") == RequestRecord(bytes(600), "orders")
        life.clock.advance(2 * DAY)
        await store.accepted("shop", "orders", ["r4"], DAY)

    async def restarted(store: Store) -> None:
        await store.completed("shop", "r5", "orders", bytes(1000), 200)
        assert await store.request("shop", "r5") == RequestRecord(bytes(1000), "orders")
        await store.completed("shop", "r6", "orders", b"x", 200)
        assert await store.request("shop", "r6") == RequestRecord(None, "orders", status=200)

    life.run(story)
    with sqlite3.connect(life.path) as db:
        assert [name for (name,) in db.execute("SELECT name FROM key")] == ["req:shop:r4"]
    db.close()
    life.run(restarted)


def test_a_disk_that_cannot_be_written_is_a_store_away_and_what_was_said_meanwhile_is_not_lost(life: Life) -> None:
    async def before(store: Store) -> None:
        with sqlite3.connect(life.path) as stranger:
            stranger.execute("CREATE TRIGGER full BEFORE INSERT ON key BEGIN SELECT RAISE(ABORT, 'no space'); END")
        await store.put_offset("copy", 1)
        with pytest.raises(StoreAway, match=r"store\.db cannot be written \(no space\): free some space"):
            await store.completed("shop", "r1", "orders", b"result", 200)
        with stranger:
            stranger.execute("DROP TRIGGER full")
        stranger.close()
        # Told again, as whoever gets StoreAway does: it is there already, and returns once it is on the disk.
        await store.completed("shop", "r1", "orders", b"result", 200)

    async def after(store: Store) -> None:
        assert await store.request("shop", "r1") == RequestRecord(b"result", "orders")
        assert await store.offset("copy") == 1

    life.run(before)
    life.run(after)


def test_many_at_once_share_a_sync(life: Life) -> None:
    async def story(store: Store) -> None:
        calls = [store.completed("shop", f"r{n}", "orders", b"result", 200) for n in range(500)]
        async with asyncio.timeout(30):
            await asyncio.gather(*calls)
        seen = [await store.request("shop", f"r{n}") for n in range(500)]
        assert seen == [RequestRecord(b"result", "orders")] * 500

    life.run(story)


def test_what_another_version_wrote_is_left_out(life: Life, caplog: pytest.LogCaptureFixture) -> None:
    async def put(store: Store) -> None:
        await store.put_offset("copy", 7)

    async def look(store: Store) -> None:
        assert await store.offset("copy") == 7
        assert await store.request("shop", "r") is None

    life.run(put)
    with sqlite3.connect(life.path) as db:
        for name, value in (("req:shop:r", b"\xc1"), ("req:shop:s", b"\x97\1\1\1\1\1\1\1"), ("colour:x", b"\x91\1")):
            db.execute("INSERT INTO key VALUES (?, ?, NULL)", (name, value))
    db.close()
    with caplog.at_level(logging.WARNING):
        life.run(look)
    assert [record.getMessage().split(" is left out")[0] for record in caplog.records] == [
        f"what the store's file says of {name}" for name in ("req:shop:r", "req:shop:s", "colour:x")
    ]


def test_two_processes_do_not_open_one_file(life: Life) -> None:
    async def story(store: Store) -> None:
        with pytest.raises(StoreUnusable, match="is in use by process"):
            EmbeddedStoreHub(life.clock, life.path)

    life.run(story)


def test_a_file_that_is_no_database_is_named(tmp_path: Path) -> None:
    (tmp_path / "store.db").write_bytes(b"not a database, but long enough to look like one" * 100)
    with pytest.raises(StoreUnusable, match=r"store\.db cannot be used .*move it away"):
        uvloop.run(EmbeddedStoreHub(ManualClock(), tmp_path / "store.db").close())
    (tmp_path / "store.db").unlink()
    uvloop.run(EmbeddedStoreHub(ManualClock(), tmp_path / "store.db").close())
