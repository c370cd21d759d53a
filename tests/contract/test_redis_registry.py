"""What only the Redis registry can show: Redis away and back, scripts forgotten, records that others wrote."""

import asyncio
import logging
import time
from typing import Any

import msgpack
import pytest

from meshq.adapters.redis import RedisRegistry
from meshq.core.instances import FORGET_AFTER_MS, Load, Snapshot, State
from meshq.ports import Registry, RegistryAway
from tests.contract.registry_rigs import TTL_MS, RedisRig, instance
from tests.servers.redis import RedisServer

pytestmark = pytest.mark.redis

INSTANCES = "mq:{test:orders}:inst"
LEASES = "mq:{test:orders}:lease"


@pytest.fixture
def rig(redis_url: str) -> RedisRig:
    return RedisRig(redis_url)


def ids(snapshot: Snapshot) -> list[str]:
    return [i.id for i in snapshot.services["orders"].instances]


async def assert_away(registry: Registry, generation: int) -> None:
    for call in (
        registry.register(instance()),
        registry.renew("orders", "a", generation, Load()),
        registry.set_state("orders", "a", generation, State.READY),
        registry.deregister("orders", "a", generation),
        registry.snapshot(),
        registry.changed(0, 30),
    ):
        began = time.monotonic()
        with pytest.raises(RegistryAway, match=r"Redis at 127\.0\.0\.1:\d+ "):
            await call
        assert time.monotonic() - began < 3


async def test_redis_killed_is_away_at_once_and_back_it_works(fault_redis: RedisServer) -> None:
    registry = RedisRegistry(fault_redis.url, "test", ttl_ms=10_000)
    await registry.open()
    try:
        generation = await registry.register(instance())
        watch = asyncio.ensure_future(registry.changed((await registry.snapshot()).revision, 60))
        await asyncio.to_thread(fault_redis.kill)
        with pytest.raises(RegistryAway):
            await asyncio.wait_for(watch, 5)
        await assert_away(registry, generation)
        await asyncio.to_thread(fault_redis.start)
        assert await registry.renew("orders", "a", generation, Load()) is None, "it lost all it knew"
        assert await registry.snapshot() == Snapshot(0, {})
        again = await registry.register(instance())
        assert again > generation
        assert ids(await registry.snapshot()) == ["a"]
    finally:
        await registry.close()


async def test_an_idle_connection_that_broke_costs_no_call(fault_redis: RedisServer) -> None:
    registry = RedisRegistry(fault_redis.url, "test")
    try:
        await registry.register(instance())
        await asyncio.to_thread(fault_redis.stop)
        await asyncio.to_thread(fault_redis.start)
        assert await registry.register(instance()) > 0
    finally:
        await registry.close()


async def test_a_redis_that_does_not_answer_is_away() -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(-1)
        writer.close()

    server = await asyncio.start_server(silent, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    registry = RedisRegistry(f"redis://127.0.0.1:{port}", "test")
    try:
        began = time.monotonic()
        with pytest.raises(RegistryAway, match="did not answer in 2 s"):
            await registry.snapshot()
        assert time.monotonic() - began < 3
    finally:
        await registry.close()
        server.close()
        await server.wait_closed()


async def test_a_password_is_in_no_message(fault_redis: RedisServer) -> None:
    registry = RedisRegistry(fault_redis.url.replace("redis://", "redis://me:tops3cret@"), "test")
    try:
        with pytest.raises(RegistryAway) as raised:
            await registry.snapshot()
        assert "tops3cret" not in str(raised.value)
    finally:
        await registry.close()


async def test_forgotten_scripts_are_sent_again(rig: RedisRig) -> None:
    registry = await rig.connect()
    generation = await registry.register(instance())
    async with rig.redis() as client:
        for call in (
            lambda: registry.renew("orders", "a", generation, Load()),
            registry.snapshot,
            lambda: registry.set_state("orders", "a", generation, State.PAUSED),
            lambda: registry.register(instance("b")),
        ):
            await client.script_flush()
            await call()
    assert ids(await registry.snapshot()) == ["a", "b"]


async def test_the_keys_of_one_service_share_a_slot_and_meshes_are_apart(rig: RedisRig) -> None:
    registry = await rig.connect()
    await registry.register(instance())
    other = RedisRegistry(rig.url, "other")
    try:
        assert (await other.snapshot()).services == {}
    finally:
        await other.close()
    async with rig.redis() as client:
        keys = {key.decode() for key in await client.keys()}
    service = {f"mq:{{test:orders}}:{name}" for name in ("inst", "lease", "ready", "majors")}
    assert keys == service | {f"mq:{{test}}:{name}" for name in ("rev", "log", "services")}


async def test_nothing_is_left_of_who_deregistered_but_the_majors(rig: RedisRig) -> None:
    registry = await rig.connect()
    generation = await registry.register(instance())
    await registry.deregister("orders", "a", generation)
    async with rig.redis() as client:
        keys = {key.decode() for key in await client.keys() if b"orders" in key}
    assert keys == {"mq:{test:orders}:majors"}


async def tamper(client: Any, ident: str, record: bytes) -> None:
    """What a stranger, or another version of meshq, could have written."""
    await client.hset(
        INSTANCES, mapping={ident: record, f"{ident}:gen": 1, f"{ident}:state": "ready", f"{ident}:load": "0 1"}
    )
    await client.zadd(LEASES, {ident: 2**50})


GOOD = {"version": "2.0.0", "order": "x", "majors": [2], "address": "", "metadata": {}}


async def test_records_that_cannot_be_read_are_left_out_and_said_once(
    rig: RedisRig, caplog: pytest.LogCaptureFixture
) -> None:
    registry = await rig.connect()
    await registry.register(instance())
    broken = [
        b"",
        b"\xc1",
        b"\x93" * 2000,
        msgpack.packb([1, 2]),
        msgpack.packb({}),
        *(msgpack.packb(GOOD | {name: -1.5}) for name in ("version", "majors", "address", "metadata")),
        msgpack.packb(GOOD | {"version": "two"}),
        msgpack.packb(GOOD | {"metadata": {"a": 1}}),
    ]
    async with rig.redis() as client:
        for n, record in enumerate(broken):
            await tamper(client, f"broken-{n}", record)
        await client.zadd(LEASES, {"no-record": 2**50})
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            assert ids(await registry.snapshot()) == ["a"]
    assert len(caplog.records) == len(broken) + 1


async def test_fields_of_a_later_version_are_ignored(rig: RedisRig) -> None:
    registry = await rig.connect()
    await registry.register(instance())
    async with rig.redis() as client:
        await tamper(client, "later", msgpack.packb(GOOD | {"colour": "blue", "9": [1]}))
    assert ids(await registry.snapshot()) == ["a", "later"]


async def test_broken_records_of_an_instance_do_not_stop_its_scripts(rig: RedisRig) -> None:
    registry = await rig.connect()
    async with rig.redis() as client:
        await registry.register(instance())
        for record in (b"\xc1", msgpack.packb({}), msgpack.packb({"majors": [2]}), msgpack.packb([1])):
            await tamper(client, "a", record)
            assert await registry.renew("orders", "a", 1, Load()) is not None
            await registry.set_state("orders", "a", 1, State.PAUSED)
            await registry.deregister("orders", "a", 1)
    assert (await registry.snapshot()).services["orders"].instances == ()


async def test_who_is_down_for_long_is_forgotten(rig: RedisRig) -> None:
    registry = await rig.connect()
    generation = await registry.register(instance())
    async with rig.redis() as client:
        seconds, _ = await client.time()
        await client.zadd(LEASES, {"a": seconds * 1000 - TTL_MS - FORGET_AFTER_MS - 1000})
        picture = await registry.snapshot()
        assert picture.services["orders"].instances == ()
        assert await registry.changed(picture.revision, 5) > picture.revision
        assert await client.exists(INSTANCES, LEASES) == 0
    assert await registry.renew("orders", "a", generation, Load()) is None


async def test_neither_generation_nor_revision_goes_back_with_the_clock(rig: RedisRig) -> None:
    registry = await rig.connect()
    await registry.register(instance())
    future = 2**51
    async with rig.redis() as client:
        await client.hset(INSTANCES, "a:gen", future)
        await client.set("mq:{test}:rev", future)
    assert await registry.register(instance()) == future + 1
    assert (await registry.snapshot()).revision == future + 1


async def test_changed_survives_a_log_that_is_ahead(rig: RedisRig) -> None:
    registry = await rig.connect()
    await registry.register(instance())
    async with rig.redis() as client:
        await client.delete("mq:{test}:rev")
        await client.xadd("mq:{test}:log", {"x": "y"}, id="9999999999999-0")
    lost = await registry.changed(1, 5)
    assert lost == 0
    await registry.register(instance("b"))
    assert await registry.changed(lost, 5) == (await registry.snapshot()).revision > 0
    async with rig.redis() as client:
        assert await client.xlen("mq:{test}:log") == 1


async def test_a_cancelled_watch_leaves_the_registry_usable(rig: RedisRig) -> None:
    registry = await rig.connect()
    for _ in range(20):
        watch = asyncio.ensure_future(registry.changed(0, 30))
        await asyncio.wait([watch], timeout=0.01)
        watch.cancel()
        with pytest.raises(asyncio.CancelledError):
            await watch
    await registry.register(instance())
    assert ids(await registry.snapshot()) == ["a"]


@pytest.mark.parametrize("url", ["http://localhost", "redis+sentinel://a,b/main", "amqp://localhost"])
def test_other_schemes_are_refused(url: str) -> None:
    with pytest.raises(ValueError, match="is not a scheme of the Redis registry"):
        RedisRegistry(url, "test")
