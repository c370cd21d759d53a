"""What only the Redis registry can show: Redis away and back, scripts forgotten, records that others wrote."""

import asyncio
import logging
import time
from dataclasses import replace
from typing import Any

import msgpack
import pytest

from meshq.adapters.redis import RedisRegistry
from meshq.adapters.redis_keys import Keys, service_script
from meshq.core.eviction import GUARD_AFTER_RETURN_MS, allowance
from meshq.core.instances import FORGET_AFTER_MS, Instance, Load, Snapshot, State
from meshq.core.instances import TTL_MS as USUAL_TTL_MS
from meshq.core.policy import Policy
from meshq.ports import Fenced, Registry, RegistryAway
from tests.contract.redis_rigs import RegistryOn, limited
from tests.contract.registry_rigs import DOWN_WITHIN, LONG_MS, SECOND, TTL_MS, instance, majors, only, waiting
from tests.servers.redis import RedisServer

pytestmark = pytest.mark.redis

INSTANCES = "mq:{test:orders}:inst"
LEASES = "mq:{test:orders}:lease"
GONE = "mq:{test:orders}:gone"
ABOUT = "mq:{test:orders}:about"
STATE = "mq:{test}:state"
LOG = "mq:{test}:log"


@pytest.fixture
def rig(redis_url: str) -> RegistryOn:
    return RegistryOn(limited(redis_url), redis_url)


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
        assert (await registry.snapshot()).services == {}
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


async def test_forgotten_scripts_are_sent_again(rig: RegistryOn) -> None:
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


async def test_the_keys_of_one_service_share_a_slot_and_meshes_are_apart(rig: RegistryOn) -> None:
    registry = await rig.connect()
    await registry.register(instance())
    other = RedisRegistry(rig.servers[0], "other")
    try:
        assert (await other.snapshot()).services == {}
    finally:
        await other.close()
    async with rig.redis() as client:
        keys = {key.decode() for key in await client.keys()}
    service = {f"mq:{{test:orders}}:{name}" for name in ("inst", "lease", "ready", "about")}
    assert keys == service | {f"mq:{{test}}:{name}" for name in ("state", "log", "services")} | {"mq:{other}:state"}


async def test_nothing_is_left_of_who_deregistered_but_the_majors(rig: RegistryOn) -> None:
    registry = await rig.connect()
    generation = await registry.register(instance(metadata={"zone": "eu-1"}))
    await registry.pause("orders", "a", "own", 60_000, generation)
    await registry.deregister("orders", "a", generation)
    async with rig.redis() as client:
        keys = {key.decode() for key in await client.keys() if b"orders" in key}
    assert keys == {ABOUT}


async def test_nothing_is_left_of_a_service_that_is_retired(rig: RegistryOn) -> None:
    registry = await rig.connect()
    generation = await registry.register(instance())
    await registry.deregister("orders", "a", generation)
    assert await registry.retire("orders", 2)
    async with rig.redis() as client:
        assert not [key for key in await client.keys() if b"orders" in key]
        assert await client.smembers("mq:{test}:services") == set()


async def tamper(client: Any, ident: str, record: bytes) -> None:
    """What a stranger, or another version of meshq, could have written."""
    await client.hset(INSTANCES, mapping={ident: record, f"{ident}:status": "1 ready 0 0 1 400 0"})
    await client.zadd(LEASES, {ident: 2**50})


GOOD = {"version": "2.0.0", "order": "x", "majors": [2], "address": "", "endpoints": {}, "ttl": 0}


async def test_records_that_cannot_be_read_are_left_out_and_said_once(
    rig: RegistryOn, caplog: pytest.LogCaptureFixture
) -> None:
    registry = await rig.connect()
    await registry.register(instance())
    broken = [
        b"",
        b"\xc1",
        b"\x93" * 2000,
        msgpack.packb([1, 2]),
        msgpack.packb({}),
        *(msgpack.packb(GOOD | {name: -1.5}) for name in ("version", "majors", "address", "endpoints", "ttl")),
        msgpack.packb(GOOD | {"version": "two"}),
        msgpack.packb(GOOD | {"endpoints": {"a": 1}}),
    ]
    async with rig.redis() as client:
        for n, record in enumerate(broken):
            await tamper(client, f"broken-{n}", record)
        await client.zadd(LEASES, {"no-record": 2**50})
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            assert ids(await registry.snapshot()) == ["a"]
    assert len(caplog.records) == len(broken) + 1


async def test_fields_of_a_later_version_are_ignored(rig: RegistryOn) -> None:
    registry = await rig.connect()
    await registry.register(instance())
    async with rig.redis() as client:
        await tamper(client, "later", msgpack.packb(GOOD | {"colour": "blue", "9": [1]}))
    assert ids(await registry.snapshot()) == ["a", "later"]


async def test_broken_records_of_an_instance_do_not_stop_its_scripts(rig: RegistryOn) -> None:
    registry = await rig.connect()
    async with rig.redis() as client:
        await registry.register(instance())
        for record in (b"\xc1", msgpack.packb({}), msgpack.packb({"majors": [2]}), msgpack.packb([1])):
            await tamper(client, "a", record)
            assert await registry.renew("orders", "a", 1, Load()) is not None
            await registry.set_state("orders", "a", 1, State.PAUSED)
            await registry.deregister("orders", "a", 1)
    assert (await registry.snapshot()).services["orders"].instances == ()


async def test_a_policy_that_cannot_be_read_is_left_out_and_said_once(
    rig: RegistryOn, caplog: pytest.LogCaptureFixture
) -> None:
    registry = await rig.connect()
    await registry.put_policy("orders", Policy("orders", fallback=(1,)))
    await registry.put_policy("billing", Policy("billing", fallback=(1,)))
    async with rig.redis() as client:
        for broken in ("{", "[" * 50_000, '{"weights": {"one": 1}}', "7"):
            caplog.clear()
            await client.hset(ABOUT, "policy", broken)
            with caplog.at_level(logging.WARNING):
                for _ in range(3):
                    assert list((await registry.snapshot()).policies) == ["billing"]
            assert len(caplog.records) == 1


async def test_who_is_down_for_long_is_forgotten(rig: RegistryOn) -> None:
    registry = await rig.connect()
    generation = await registry.register(instance())
    picture = await rig.seen(registry, lambda seen: only(seen).state is State.DOWN, 2.5)
    async with rig.redis() as client:
        seconds, _ = await client.time()
        await client.zadd(GONE, {"a": seconds * 1000 - FORGET_AFTER_MS - 1000})
        await client.hset(STATE, "sweep", seconds * 1000)
        assert await registry.changed(picture.revision, 5) > picture.revision
        assert (await registry.snapshot()).services["orders"].instances == ()
        assert await client.exists(INSTANCES, LEASES, GONE) == 0
    assert await registry.renew("orders", "a", generation, Load()) is None


async def test_a_retired_major_stays_gone_when_its_last_instance_is_forgotten(rig: RegistryOn) -> None:
    registry = await rig.connect()
    await registry.register(instance("a", "1.0.0"))
    await registry.register(instance("b", "2.0.0", ttl_ms=LONG_MS))
    await rig.seen(
        registry, lambda seen: State.DOWN in {i.state for i in seen.services["orders"].instances}, DOWN_WITHIN
    )
    assert await registry.retire("orders", 1)
    picture = await registry.snapshot()
    async with rig.redis() as client:
        seconds, _ = await client.time()
        await client.zadd(GONE, {"a": seconds * 1000 - FORGET_AFTER_MS - 1000})
        await client.hset(STATE, "sweep", seconds * 1000)
    assert await registry.changed(picture.revision, 5) > picture.revision
    after = await registry.snapshot()
    assert (ids(after), majors(after)) == (["b"], {2: "2.0.0"})


async def test_neither_generation_nor_revision_goes_back_with_the_clock(rig: RegistryOn) -> None:
    registry = await rig.connect()
    await registry.register(instance())
    future = 2**51
    async with rig.redis() as client:
        status = (await client.hget(INSTANCES, "a:status")).decode().split()
        await client.hset(INSTANCES, "a:status", " ".join([str(future), *status[1:]]))
        await client.hset(STATE, "rev", f"{future}-1")
    assert await registry.register(instance()) == future + 1
    assert (await registry.snapshot()).revision == future + 1


async def test_many_who_look_at_once_keep_to_what_may_go_in_a_second(rig: RegistryOn) -> None:
    owner = await rig.connect()
    readers = [await rig.connect() for _ in range(10)]
    for n in range(8):
        await owner.register(instance(f"lives-{n}", ttl_ms=LONG_MS))
    for n in range(3):
        await owner.register(instance(f"silent-{n}"))
    assert allowance(11) == 1

    def down(picture: Snapshot) -> int:
        return sum(i.state is State.DOWN for i in picture.services["orders"].instances)

    await rig.advance(2.1)
    pictures = await asyncio.gather(*(reader.snapshot() for reader in readers))
    revisions = [picture.revision for picture in pictures if down(picture)]
    assert max(map(down, pictures)) == 1
    assert min(revisions) + 1000 > max(revisions)
    assert down(await rig.seen(readers[0], lambda seen: down(seen) == 3, 3 * SECOND)) == 3


# --- the log ----------------------------------------------------------------------------------------------------------------


async def test_changed_survives_a_log_that_is_ahead(rig: RegistryOn) -> None:
    registry = await rig.connect()
    await registry.register(instance())
    async with rig.redis() as client:
        await client.hdel(STATE, "rev")
        await client.xadd(LOG, {"x": "y"}, id="9999999999999-0")
    lost = await registry.changed(1, 5)
    assert lost == 0
    await registry.register(instance("b"))
    assert await registry.changed(lost, 5) == (await registry.snapshot()).revision > 0
    async with rig.redis() as client:
        assert await client.xlen(LOG) == 1


@pytest.fixture
def seldom_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """Followers read only what changed, however few there are."""
    monkeypatch.setattr("meshq.adapters.redis_pictures.READINGS", 1e-6)


async def reads(client: Any) -> int:
    """How many services were read as a whole since the last time."""
    stats = await client.info("commandstats")
    await client.config_resetstat()
    return int(stats.get("cmdstat_zrange", {}).get("calls", 0)) // 2  # who lives, and who was given up


@pytest.mark.usefixtures("seldom_whole")
async def test_who_follows_reads_only_what_changed(rig: RegistryOn) -> None:
    owner, reader = await rig.connect(), await rig.connect()
    await owner.register(instance("a", service="billing", ttl_ms=60_000))
    await owner.register(instance("b", "2.5.0", ttl_ms=60_000))
    generation = await owner.register(instance("a", ttl_ms=60_000))
    before = await reader.snapshot()
    async with rig.redis() as client:
        await reads(client)
        await owner.set_state("orders", "a", generation, State.PAUSED)
        assert await reader.changed(before.revision, 5) > before.revision
        paused = await reader.snapshot()
        await owner.put_policy("orders", Policy("orders", fallback=(1,)))
        await owner.register(instance("c", service="new", ttl_ms=60_000))
        assert await reader.changed(paused.revision, 5) > paused.revision
        picture = await reader.snapshot()
        assert await reads(client) == 1, "only the one that is new"
        assert picture.services["billing"] is before.services["billing"]
        assert {i.id: i.state for i in paused.services["orders"].instances} == {"a": State.PAUSED, "b": State.READY}
        assert majors(paused) == {2: "2.5.0"}
        assert list(picture.policies) == ["orders"]
        await owner.deregister("orders", "a", generation)
        assert await reader.changed(picture.revision, 5) > picture.revision
        gone = await reader.snapshot()
        assert ids(gone) == ["b"]
        assert await reads(client) == 0
        assert replace(await reader.snapshot(), revision=0) == replace(gone, revision=0)
        assert await reads(client) == 3, "who does not follow gets the whole"


@pytest.mark.usefixtures("seldom_whole")
async def test_a_gap_in_the_log_is_noticed(rig: RegistryOn) -> None:
    owner, reader = await rig.connect(), await rig.connect()
    generation = await owner.register(instance("a", ttl_ms=60_000))
    before = await reader.snapshot()
    await owner.deregister("orders", "a", generation)
    await owner.register(instance("b", service="billing", ttl_ms=60_000))
    async with rig.redis() as client:
        await client.xtrim(LOG, maxlen=1, approximate=False)
        await reads(client)
        assert await reader.changed(before.revision, 5) > before.revision
        picture = await reader.snapshot()
        assert await reads(client) == 2, "all of them"
    assert picture.services["orders"].instances == ()
    assert [i.id for i in picture.services["billing"].instances] == ["b"]


async def test_another_epoch_ends_the_wait(rig: RegistryOn) -> None:
    owner, reader = await rig.connect(), await rig.connect()
    await owner.register(instance("a"))
    before = await reader.snapshot()
    assert before.epoch
    watch = await waiting(reader.changed(before.revision, 30))
    await rig.lose_data()
    await owner.register(instance("b"))
    assert await asyncio.wait_for(watch, 5) != before.revision
    after = await reader.snapshot()
    assert after.epoch not in ("", before.epoch)
    assert ids(after) == ["b"]


async def test_a_thousand_changes_a_second_keep_no_watcher_busy(rig: RegistryOn) -> None:
    owner, reader = await rig.connect(), await rig.connect()
    generation = await owner.register(instance("a", ttl_ms=60_000))
    began = asyncio.get_running_loop().time()
    told = 0

    async def follow() -> None:
        nonlocal told
        revision = (await reader.snapshot()).revision
        while True:
            new = await reader.changed(revision, 5)
            told += new != revision
            revision = (await reader.snapshot()).revision

    following = asyncio.ensure_future(follow())
    states = (State.READY, State.UNHEALTHY)
    for n in range(1000):
        await owner.set_state("orders", "a", generation, states[(n + 1) % 2])
    seconds = asyncio.get_running_loop().time() - began
    following.cancel()
    await asyncio.wait([following])
    assert 1 <= told <= 2 + 10 * seconds
    assert only(await reader.snapshot()).state is states[0]


async def test_many_instances_are_watched_without_a_connection_that_waits(
    rig: RegistryOn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("meshq.adapters.redis_watch.MANY", 0)
    owner, reader = await rig.connect(), await rig.connect()
    await owner.register(instance("a", ttl_ms=60_000))
    before = await reader.snapshot()
    watch = await waiting(reader.changed(before.revision, 30))
    async with rig.redis() as client:
        assert not [c for c in await client.client_list() if c["cmd"] == "xread"]
    await owner.register(instance("b", ttl_ms=60_000))
    assert await asyncio.wait_for(watch, 2) > before.revision
    assert ids(await reader.snapshot()) == ["a", "b"]


# --- what a failover may lose -------------------------------------------------------------------------------------------------


async def lost(rig: RegistryOn, *, fields: dict[str, bytes | None], state: dict[bytes, bytes]) -> None:
    """Put back what was there: as a replica that had not got the last writes has it."""
    async with rig.redis() as client:
        for field, content in fields.items():
            await (client.hdel(INSTANCES, field) if content is None else client.hset(INSTANCES, field, content))
        await client.delete(STATE)
        await client.hset(STATE, mapping=state)
        await client.xtrim(LOG, minid=(int(state[b"rev"].partition(b"-")[0]) + 1), approximate=False)


async def test_a_state_that_was_lost_is_told_again(rig: RegistryOn) -> None:
    owner, reader = await rig.connect(), await rig.connect()
    generation = await owner.register(instance(state=State.STARTING, ttl_ms=60_000))
    async with rig.redis() as client:
        before = await client.hget(INSTANCES, "a:status")
    await owner.set_state("orders", "a", generation, State.READY)
    assert await owner.renew("orders", "a", generation, Load()) is not None
    async with rig.redis() as client:
        await client.hset(INSTANCES, "a:status", before)
    assert await owner.renew("orders", "a", generation, Load()) is None, "register again"
    again = await owner.register(instance(ttl_ms=60_000))
    assert again > generation
    assert only(await reader.snapshot()).state is State.READY


async def test_a_pause_by_an_operator_that_was_lost_comes_back_from_the_instance(rig: RegistryOn) -> None:
    owner, operator = await rig.connect(), await rig.connect()
    generation = await owner.register(instance(ttl_ms=60_000))
    async with rig.redis() as client:
        before = await client.hget(INSTANCES, "a:status")
        assert await operator.pause("orders", "a", "by hand", None, None)
        assert await owner.renew("orders", "a", generation, Load()) is not None
        orders = only(await owner.snapshot()).orders
        await client.hset(INSTANCES, "a:status", before)
        await client.hdel(INSTANCES, "a:wants")
    assert await owner.renew("orders", "a", generation, Load()) is None
    await owner.register(instance(orders=orders, ttl_ms=60_000))
    seen: Instance = only(await operator.snapshot())
    assert (seen.state, seen.orders) == (State.PAUSED, orders)


async def test_a_registration_that_was_lost_fences_nobody_off(rig: RegistryOn) -> None:
    registry = await rig.connect()
    await registry.register(instance(ttl_ms=60_000))
    async with rig.redis() as client:
        before = await client.hgetall(INSTANCES)
    generation = await registry.register(instance(ttl_ms=60_000))
    async with rig.redis() as client:
        await client.hset(INSTANCES, mapping=before)
    assert await registry.renew("orders", "a", generation, Load()) is None
    assert await registry.register(instance(ttl_ms=60_000)) > generation


async def test_a_service_that_the_mesh_lost_is_found_by_who_renews(rig: RegistryOn) -> None:
    owner, reader = await rig.connect(), await rig.connect()
    generation = await owner.register(instance(ttl_ms=60_000))
    async with rig.redis() as client:
        await client.srem("mq:{test}:services", "orders")
    before = await reader.snapshot()
    assert before.services == {}
    watch = await waiting(reader.changed(before.revision, 30))
    assert await owner.renew("orders", "a", generation, Load()) is not None
    assert await asyncio.wait_for(watch, 5) > before.revision
    assert ids(await reader.snapshot()) == ["a"]


async def test_a_change_that_was_broken_off_is_told_later(rig: RegistryOn) -> None:
    owner, reader = await rig.connect(), await rig.connect()
    generation = await owner.register(instance(ttl_ms=60_000))
    before = await reader.snapshot()
    async with rig.redis() as client:
        kept = await client.dump(STATE)
        await client.set(STATE, "in the way")
        with pytest.raises(RegistryAway):
            await owner.set_state("orders", "a", generation, State.PAUSED)
        await client.restore(STATE, 0, kept, replace=True)
    assert (await reader.changed(before.revision, 0)) == before.revision, "nobody was told"
    await owner.set_state("orders", "a", generation, State.PAUSED)
    assert await owner.renew("orders", "a", generation, Load()) is not None
    assert await reader.changed(before.revision, 5) > before.revision
    assert only(await reader.snapshot()).state is State.PAUSED


async def test_what_is_not_told_by_who_did_it_is_told_by_the_instance(rig: RegistryOn) -> None:
    owner, operator, reader = await rig.connect(), await rig.connect(), await rig.connect()
    generation = await owner.register(instance(ttl_ms=60_000))
    before = await reader.snapshot()
    async with rig.redis() as client:
        kept = await client.dump(STATE)
        await client.set(STATE, "in the way")
        with pytest.raises(RegistryAway):
            await operator.pause("orders", "a", "", None, None)
        await client.restore(STATE, 0, kept, replace=True)
    await operator.close()
    assert await owner.renew("orders", "a", generation, Load()) is not None
    told = await reader.changed(before.revision, 5)
    assert told > before.revision
    assert await owner.renew("orders", "a", generation, Load()) is not None
    assert await reader.changed(told, 0) == told, "once"


async def test_what_is_not_told_by_who_looked_at_the_leases_is_told_by_the_next(rig: RegistryOn) -> None:
    owner, reader = await rig.connect(), await rig.connect()
    await owner.register(instance(ttl_ms=5 * TTL_MS))
    before = await reader.snapshot()
    await rig.advance(5.1)
    async with rig.redis() as client:
        script = service_script("sweep")
        keys = Keys("test").service("orders")
        found = await client.eval(script.source, len(keys), *keys, 2 * TTL_MS, FORGET_AFTER_MS)
        assert found[0] == [b"a"]
    assert await reader.changed(before.revision, 1) > before.revision
    told = await reader.snapshot()
    assert only(told).state is State.SUSPECT
    assert await reader.changed(told.revision, 0) == told.revision, "once"


async def test_one_service_that_is_broken_stops_no_other(rig: RegistryOn, caplog: pytest.LogCaptureFixture) -> None:
    owner, reader = await rig.connect(), await rig.connect()
    await owner.register(instance())
    await owner.register(instance("b", service="broken", majors=(), ttl_ms=LONG_MS))
    async with rig.redis() as client:
        await client.set("mq:{test:broken}:ends", "not a sorted set")
        await tamper(client, "x", msgpack.packb(GOOD | {"majors": ["x"]}))
        await client.zadd(LEASES, {"x": 1})
    with caplog.at_level(logging.WARNING):
        await rig.seen(
            reader,
            lambda seen: [i.state for i in seen.services["orders"].instances] == [State.DOWN],
            DOWN_WITHIN + SECOND,
        )
    assert "broken}" in caplog.text


async def test_a_registration_that_is_executed_late_fences_its_own_process_off_for_no_time(rig: RegistryOn) -> None:
    owner, other = await rig.connect(), await rig.connect()
    generation = await owner.register(instance(ttl_ms=LONG_MS))
    await owner.register(instance(ttl_ms=LONG_MS))  # as one of before, whose answer nobody got
    await owner.set_state("orders", "a", generation, State.PAUSED)
    assert await owner.renew("orders", "a", generation, Load()) is None, "register again"
    again = await owner.register(instance(ttl_ms=LONG_MS))
    assert await owner.renew("orders", "a", again, Load()) is not None
    await other.register(instance(ttl_ms=LONG_MS))
    with pytest.raises(Fenced):
        await owner.renew("orders", "a", again, Load())


SLACK_MS = 50
"""Between the renewal by which the registry's quiet time begins and the look at its clock."""


async def now_ms(rig: RegistryOn) -> int:
    """By Redis's clock."""
    async with rig.redis() as client:
        seconds, micros = await client.time()
    return int(seconds * 1000 + micros // 1000)


async def test_after_a_return_nobody_is_given_up_until_all_had_time_to(rig: RegistryOn) -> None:
    owner, reader = await rig.connect(), await rig.connect()
    generations = {ident: await owner.register(instance(ident)) for ident in "abcd"}
    await rig.advance(3)  # nobody looks: the network is out
    seen: list[Snapshot] = []
    quiet_until_ms = 0
    for back in ("a", "ab", "abc", "abc"):
        for ident in back:
            assert await owner.renew("orders", ident, generations[ident], Load()) is not None
        quiet_until_ms = quiet_until_ms or await now_ms(rig) + GUARD_AFTER_RETURN_MS * TTL_MS // USUAL_TTL_MS - SLACK_MS
        picture = await reader.snapshot()
        if await now_ms(rig) < quiet_until_ms:  # on a busy machine the quiet time may be over before the last look
            seen.append(picture)
        await rig.advance(0.45)
    assert len(seen) > 1, "the machine is too slow for this"
    assert not [i for picture in seen for i in picture.services["orders"].instances if i.state is State.DOWN]
    assert seen[-1].holding
    for _ in range(20):
        for ident in "abc":
            assert await owner.renew("orders", ident, generations[ident], Load()) is not None
        picture = await reader.snapshot()
        if (states := {i.id: i.state for i in picture.services["orders"].instances})["d"] is State.DOWN:
            break
        await rig.advance(0.4)
    assert states == {**dict.fromkeys("abc", State.READY), "d": State.DOWN}
    assert not picture.holding


async def test_a_cancelled_watch_leaves_the_registry_usable(rig: RegistryOn) -> None:
    registry = await rig.connect()
    for _ in range(20):
        watch = asyncio.ensure_future(registry.changed(0, 30))
        await asyncio.wait([watch], timeout=0.01)
        watch.cancel()
        with pytest.raises(asyncio.CancelledError):
            await watch
    await registry.register(instance())
    assert ids(await registry.snapshot()) == ["a"]


def test_other_schemes_are_refused() -> None:
    with pytest.raises(ValueError, match="has no scheme of Redis"):
        RedisRegistry("amqp://localhost", "test")
