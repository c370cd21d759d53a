"""What only the store on Redis can show: Redis away and back, scripts forgotten, calls that share round trips, room by a window."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from meshq.adapters.redis import RedisRegistry
from meshq.adapters.redis_store import RedisStore
from meshq.adapters.redis_turns import MAX_ITEMS, MAX_WAITING
from meshq.core.keeping import MAX_RESULT, Keeping
from meshq.ports import Once, OnceState, RequestRecord, Store, StoreAway
from tests.contract.broker_rigs import eventually
from tests.contract.store_rigs import LONG, PATIENCE, RedisStoreRig
from tests.doubles import turn
from tests.servers.redis import RedisServer

pytestmark = pytest.mark.redis

NEW = Once(OnceState.NEW)


@pytest.fixture
def stores(redis_url: str) -> RedisStoreRig:
    return RedisStoreRig(redis_url)


def operations(store: Store) -> list[Callable[[], Awaitable[object]]]:
    return [
        lambda: store.once("orders", "k", "d", "a", LONG),
        lambda: store.done("orders", "k", "a", b"yes", 200, LONG),
        lambda: store.free("orders", "k", "a"),
        lambda: store.accepted("shop", "orders", ["r"], LONG),
        lambda: store.completed("shop", "r", "orders", b"result", 200),
        lambda: store.request("shop", "r"),
        lambda: store.start("orders", ["r"]),
        lambda: store.cancel("orders", "r"),
        lambda: store.lead("copy", "a", LONG),
        lambda: store.put_offset("copy", 1),
        lambda: store.offset("copy"),
    ]


async def works_again(store: Store) -> None:
    async def starts() -> bool:
        try:
            return await store.start("orders", ["back"]) == [True]
        except StoreAway:
            return False

    await eventually(starts)


# --- away -------------------------------------------------------------------------------------------------------------------


async def test_redis_killed_is_away_at_once_and_comes_back_by_itself(fault_redis: RedisServer) -> None:
    store = RedisStore(fault_redis.url, "test")
    await store.open()
    try:
        await works_again(store)
        await asyncio.to_thread(fault_redis.kill)
        began = time.monotonic()
        for _ in range(50):
            for operation in operations(store):
                with pytest.raises(StoreAway, match=r"Redis at 127\.0\.0\.1:\d+ "):
                    await operation()
        assert time.monotonic() - began < 3, "each waited"
        await asyncio.to_thread(fault_redis.start)
        await works_again(store)
        assert await store.cancel("orders", "back") is False
        assert await store.request("shop", "r") is None, "it lost all it knew"
    finally:
        await store.close()


async def test_a_store_opened_without_redis_works_once_it_is_there(fault_redis: RedisServer) -> None:
    await asyncio.to_thread(fault_redis.kill)
    store = RedisStore(fault_redis.url, "test")
    await store.open()
    try:
        with pytest.raises(StoreAway):
            await store.start("orders", ["r"])
        await asyncio.to_thread(fault_redis.start)
        await works_again(store)
    finally:
        await store.close()


async def test_an_idle_connection_that_broke_costs_no_operation(fault_redis: RedisServer) -> None:
    store = RedisStore(fault_redis.url, "test", seconds=PATIENCE)
    try:
        await store.start("orders", ["r"])
        await asyncio.to_thread(fault_redis.stop)
        await asyncio.to_thread(fault_redis.start)
        assert await store.cancel("orders", "r") is True
    finally:
        await store.close()


@asynccontextmanager
async def silent_server() -> AsyncIterator[str]:
    """The URL of something that takes connections and says nothing."""

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(-1)
        writer.close()

    server = await asyncio.start_server(silent, "127.0.0.1", 0)
    try:
        yield f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        await server.wait_closed()


async def test_a_redis_that_does_not_answer_is_away_within_the_time_and_then_at_once() -> None:
    async with silent_server() as url:
        store = RedisStore(url, "test", seconds=2)
        try:
            began = time.monotonic()
            first = asyncio.gather(*(operation() for operation in operations(store)), return_exceptions=True)
            assert {type(said) for said in await first} == {StoreAway}
            waited = time.monotonic() - began
            with pytest.raises(StoreAway, match=r"did not answer in 1 s"):
                await store.start("orders", ["r"])
            assert waited >= 1
            assert time.monotonic() - began - waited < 1, "it waited once more"
        finally:
            await store.close()


async def test_a_password_is_in_no_message(fault_redis: RedisServer) -> None:
    store = RedisStore(fault_redis.url.replace("redis://", "redis://me:tops3cret@"), "test", seconds=PATIENCE)
    try:
        with pytest.raises(StoreAway) as raised:
            await store.start("orders", ["r"])
        assert "tops3cret" not in str(raised.value)
    finally:
        await store.close()


async def test_what_is_asked_of_a_closed_store_fails(stores: RedisStoreRig) -> None:
    store = await stores.connect()
    asked = asyncio.ensure_future(store.start("orders", ["r"]))
    await turn()
    await store.close()
    with pytest.raises(StoreAway):
        await asked
    with pytest.raises(StoreAway):
        await store.start("orders", ["r"])


async def test_a_cancelled_caller_leaves_the_store_usable(stores: RedisStoreRig) -> None:
    store = await stores.connect()
    for n in range(20):
        asked = asyncio.ensure_future(store.start("orders", [f"r{n}"]))
        await asyncio.wait([asked], timeout=0.0001 * n)
        asked.cancel()
        await asyncio.wait([asked])
    assert await store.start("orders", ["last"]) == [True]


def test_other_schemes_are_refused() -> None:
    with pytest.raises(ValueError, match="has no scheme of Redis"):
        RedisStore("amqp://localhost", "test")


# --- what Redis refuses -----------------------------------------------------------------------------------------------------


async def test_forgotten_scripts_are_sent_again(stores: RedisStoreRig) -> None:
    store = await stores.connect()
    async with stores.redis() as client:
        for operation in operations(store):
            await client.script_flush()
            await operation()
        await client.script_flush()
    seen = await asyncio.gather(*(operation() for operation in operations(store)))
    assert seen[0] == Once(OnceState.DONE, b"yes")
    assert seen[5] == RequestRecord(b"result", "orders")


async def test_a_full_redis_refuses_what_is_new_and_serves_the_rest(fault_redis: RedisServer) -> None:
    rig = RedisStoreRig(fault_redis.url)
    store = await rig.connect()
    try:
        await store.completed("shop", "r", "orders", b"result", 200)
        assert await store.once("orders", "k", "d", "a", LONG) == NEW
        async with rig.redis() as client:
            await client.config_set("maxmemory", 1)
            with pytest.raises(
                StoreAway,
                match=r"refuses: command not allowed when used memory > 'maxmemory'; it is full, raise its maxmemory$",
            ):
                await store.completed("shop", "r2", "orders", b"result", 200)
            assert await store.request("shop", "r") == RequestRecord(b"result", "orders")
            await store.free("orders", "k", "a")
            await client.config_set("maxmemory", 0)
        assert await store.once("orders", "k", "d", "b", LONG) == NEW
    finally:
        await rig.close()


async def test_one_call_that_fails_leaves_the_others_alone(stores: RedisStoreRig) -> None:
    store = await stores.connect()
    async with stores.redis() as client:
        await client.set("meshq:test:once:{orders}:k", "not a hash")
    calls = [operation() for operation in operations(store)]
    seen = await asyncio.gather(*calls, return_exceptions=True)
    failed = [n for n, said in enumerate(seen) if isinstance(said, StoreAway)]
    assert failed == [0, 1, 2], "those about that key"
    assert await store.start("orders", ["r2"]) == [True], "and Redis is not away"


# --- round trips ------------------------------------------------------------------------------------------------------------


async def evaluations(client: Any) -> int:
    stats = await client.info("commandstats")
    return sum(int(stats.get(f"cmdstat_{name}", {}).get("calls", 0)) for name in ("eval", "evalsha"))


async def test_calls_of_one_turn_share_a_round_trip(stores: RedisStoreRig) -> None:
    store = await stores.connect()
    await asyncio.gather(*(operation() for operation in operations(store)))
    async with stores.redis() as client:
        await client.config_resetstat()
        starts = (store.start("orders", [f"r{n}", f"s{n}"]) for n in range(100))
        accepts = (store.accepted("shop", "orders", [f"r{n}"], LONG) for n in range(100))
        results = (store.completed("shop", f"t{n}", "orders", b"result", 200) for n in range(100))
        await asyncio.gather(*starts, *accepts, *results)
        # start, accepted, room; then completed and settled.
        assert await evaluations(client) == 5


async def test_one_script_call_does_not_grow_without_bound(stores: RedisStoreRig) -> None:
    store = await stores.connect()
    ids = [f"r{n}" for n in range(3 * MAX_ITEMS)]
    seen = await asyncio.gather(*(store.start("orders", [ident]) for ident in ids))
    assert seen == [[True]] * len(ids)
    async with stores.redis() as client:
        await client.config_resetstat()
        await asyncio.gather(*(store.start("orders", [ident]) for ident in ids))
        assert await evaluations(client) == 3


async def test_what_waits_is_bounded(stores: RedisStoreRig) -> None:
    store = await stores.connect()
    result = bytes(MAX_RESULT)
    calls = [store.completed("shop", f"r{n}", "orders", result, 200) for n in range(MAX_WAITING // MAX_RESULT + 2)]
    seen = await asyncio.gather(*calls, return_exceptions=True)
    refused = [said for said in seen if said is not None]
    assert 1 <= len(refused) <= 3
    assert all(isinstance(said, StoreAway) and "wait already" in str(said) for said in refused)
    assert await store.request("shop", "r0") == RequestRecord(result, "orders")


async def test_the_registry_and_the_store_do_not_share_connections(stores: RedisStoreRig) -> None:
    store = await stores.connect()
    registry = RedisRegistry(stores.url, "test")
    watch = asyncio.ensure_future(registry.changed(0, 30))
    try:
        for n in range(50):
            assert await store.start("orders", [f"r{n}"]) == [True]
        assert not watch.done()
    finally:
        watch.cancel()
        await asyncio.wait([watch])
        await registry.close()


# --- keys -------------------------------------------------------------------------------------------------------------------


async def test_keys_of_one_service_share_a_slot_and_all_expire_but_offsets_and_counts(stores: RedisStoreRig) -> None:
    store = await stores.connect()
    await asyncio.gather(*(operation() for operation in operations(store)))
    await store.once("orders", "k", "d", "a", LONG)
    async with stores.redis() as client:
        keys = {key.decode() for key in await client.keys()}
        lasting = {key for key in keys if await client.pttl(key) < 0}
    of_services = {"once:{orders}:k", "claim:{orders}:r", "req:{shop}:r", "result:{shop}:r", "lead:{copy}"}
    counts = {"{room}:bytes", "{room}:tombstones", "offset:{copy}"}
    assert keys == {f"meshq:test:{name}" for name in of_services | counts}
    assert lasting == {f"meshq:test:{name}" for name in counts}


async def test_meshes_are_apart(stores: RedisStoreRig) -> None:
    store = await stores.connect()
    await asyncio.gather(*(operation() for operation in operations(store)))
    other = RedisStore(stores.url, "other", seconds=PATIENCE)
    try:
        assert await other.request("shop", "r") is None
        assert await other.cancel("orders", "r") is True
    finally:
        await other.close()


# --- room -------------------------------------------------------------------------------------------------------------------

PART = 600_000
"""Milliseconds of one part of the window."""


async def test_room_is_free_again_when_the_window_has_passed(stores: RedisStoreRig) -> None:
    stores.keeping = Keeping(room=1000)
    store = await stores.connect()
    await store.completed("shop", "r1", "orders", bytes(900), 200)
    ledger = "meshq:test:{room}:bytes"
    async with stores.redis() as client:
        seconds, _ = await client.time()
        (ends,) = [int(field) for field in await client.hkeys(ledger) if field.isdigit()]
        assert abs(ends - (seconds + 3600) * 1000 // PART) <= 1, "entered under the ten minutes in which it ends"
        # As if it had been entered so long ago that this ended in the last ten minutes.
        present = seconds * 1000 // PART
        await client.delete(ledger)
        await client.hset(ledger, mapping={"total": 900, str(present): 900, "first": present - 1})
        await store.completed("shop", "r2", "orders", bytes(200), 200)
        assert await store.request("shop", "r2") == RequestRecord(None, "orders", status=200), "it counts until then"
        await client.delete(ledger)
        await client.hset(ledger, mapping={"total": 900, str(present - 1): 900, "first": present - 2})
        await store.completed("shop", "r3", "orders", bytes(200), 200)
        assert await store.request("shop", "r3") == RequestRecord(bytes(200), "orders")
        assert int(await client.hget(ledger, "total")) == 200
