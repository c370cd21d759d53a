"""One life of registry and store on each kind of Redis, and what only that kind can show. The whole suites run on all of them in
`make contract`."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
import redis

from meshq.adapters import choose
from meshq.adapters.clock import SystemClock
from meshq.adapters.redis import RedisRegistry
from meshq.adapters.redis_store import RedisStore
from meshq.adapters.tls import Renewed
from meshq.core import redis_acl
from meshq.core.instances import Load, State
from meshq.core.policy import Policy
from meshq.core.reports import Report
from meshq.ports import Once, OnceState, Registry, RegistryAway, RequestRecord, Store, StoreAway
from tests.contract.broker_rigs import eventually
from tests.contract.redis_rigs import MESH, QUOTED, USER, limited
from tests.contract.registry_rigs import instance, only, waiting
from tests.contract.store_rigs import LONG, PATIENCE
from tests.servers.redis import RedisDatabases
from tests.servers.redis_sets import MASTER, PASSWORD, Node, RedisCluster, Sentinel, TlsRedis, tls_redis

pytestmark = pytest.mark.redis


@pytest.fixture(scope="module")
def secure() -> Iterator[TlsRedis]:
    with tls_redis() as server:
        yield server


@asynccontextmanager
async def both(url: str, tls: Renewed | None = None) -> AsyncIterator[tuple[RedisRegistry, RedisStore]]:
    registry, store = RedisRegistry(url, MESH, tls=tls), RedisStore(url, MESH, tls=tls, seconds=PATIENCE)
    try:
        yield registry, store
    finally:
        await registry.close()
        await store.close()


async def live(registry: Registry, store: Store) -> None:
    """Something of everything."""
    empty = (await registry.snapshot()).revision
    watch = await waiting(registry.changed(empty, 30))
    generation = await registry.register(instance())
    assert await asyncio.wait_for(watch, 5) > empty
    for n in range(20):
        await registry.register(instance("a", service=f"service-{n}"))
    await registry.put_policy("orders", Policy("orders", fallback=(1,)))
    await registry.called("shop", ["orders.v2", "service-1.v2"])
    assert list(await registry.callers("orders")) == [(2, "shop")]
    assert await registry.pause("orders", "a", "by hand", None, None)
    after, _ = await registry.woken("", 0)
    assert await registry.renew("orders", "a", generation, Load(1, 2), Report(slots=2)) is not None
    assert [each.report for each in await registry.reports()] == [Report(slots=2)]
    await registry.wake(["stock.v1"])
    assert (await registry.woken(after, 5))[1] == ("stock.v1",)
    picture = await registry.snapshot()
    assert (only(picture).state, only(picture).load) == (State.PAUSED, Load(1, 2))
    assert len(picture.services) == 21
    assert list(picture.policies) == ["orders"]
    await registry.deregister("orders", "a", generation)
    assert await registry.retire("orders", 2)
    for n in range(5):
        assert await store.once(f"service-{n}", "k", "d", "me", LONG) == Once(OnceState.NEW)
        await store.done(f"service-{n}", "k", "me", b"yes", 200, LONG)
        assert await store.once(f"service-{n}", "k", "d", "you", LONG) == Once(OnceState.DONE, b"yes")
        await store.completed("shop", f"r{n}", f"service-{n}", b"result", 200)
        assert await store.request("shop", f"r{n}") == RequestRecord(b"result", f"service-{n}")


# --- users with few rights ------------------------------------------------------------------------------------------------------


async def test_a_user_with_the_rights_of_the_mesh_needs_no_more(redis_url: str) -> None:
    async with both(limited(redis_url)) as (registry, store):
        await live(registry, store)
    with redis.Redis.from_url(limited(redis_url)) as other:
        for words in (
            ("GET", "other"),
            ("SET", "mq:{other}:state", 1),
            ("HGETALL", "mq:{testing:orders}:inst"),
            ("KEYS", "*"),
        ):
            with pytest.raises(redis.exceptions.NoPermissionError):
                other.execute_command(*words)
        for words in ("'GET', 'other'", "'KEYS', '*'"):
            with pytest.raises(redis.exceptions.ResponseError, match="The user executing the script can't"):
                other.eval(f"return redis.call({words})", 0)


async def test_without_the_right_to_ask_for_the_server_all_else_works(redis_url: str) -> None:
    url = limited(redis_url)
    with redis.Redis.from_url(redis_url) as client:
        client.execute_command("ACL", "SETUSER", USER, "-info", "-role")
    async with both(url) as (registry, store):
        await live(registry, store)


async def test_a_missing_right_is_named(redis_url: str) -> None:
    url = limited(redis_url)
    with redis.Redis.from_url(redis_url) as client:
        client.execute_command("ACL", "SETUSER", USER, "resetkeys", "~elsewhere:*")
    async with both(url) as (registry, store):
        with pytest.raises(
            RegistryAway, match=r"refuses: .*no permissions.*; give the user the rights that meshq needs"
        ):
            await registry.snapshot()
        with pytest.raises(StoreAway, match=r"refuses: .*no permissions.*; give the user the rights that meshq needs"):
            await store.start("orders", ["r"])


# --- a cluster ------------------------------------------------------------------------------------------------------------------


async def test_a_cluster(redis_cluster: RedisCluster) -> None:
    redis_cluster.empty()
    rights = redis_acl.rules(MESH, cluster=True)
    for node in redis_cluster.nodes:
        with node.client() as client:
            client.execute_command("ACL", "SETUSER", USER, "reset", "on", ">p/ss@w:rd", *rights)
    async with both(redis_cluster.url.replace("://", f"://{USER}:{QUOTED}@")) as (registry, store):
        await live(registry, store)
    filled = []
    for node in redis_cluster.nodes:
        with node.client() as client:
            filled.append(client.dbsize())
    assert all(filled), "every server has some"


async def test_slots_that_move_disturb_nobody(redis_cluster: RedisCluster) -> None:
    redis_cluster.empty()
    async with both(redis_cluster.url) as (registry, store):
        generation = await registry.register(instance())
        with redis_cluster.moving("meshq:test:claim:{orders}:new"):
            assert await store.start("orders", ["new"]) == [True]
            assert await store.cancel("orders", "new") is False
        with redis_cluster.moving("mq:{test:new}:inst"), pytest.raises(RegistryAway, match="is moving the keys"):
            await registry.register(instance("a", service="new"))
        await registry.register(instance("a", service="new"))
        assert len((await registry.snapshot()).services) == 2
        for key in ("mq:{test:orders}:inst", "mq:{test}:state", "meshq:test:claim:{orders}:r"):
            with redis_cluster.moving(key):
                pass
            assert await registry.renew("orders", "a", generation, Load()) is not None
            await registry.set_state("orders", "a", generation, State.READY)
            assert await store.start("orders", [key]) == [True]
        assert len((await registry.snapshot()).services) == 2


async def test_a_server_of_a_cluster_that_is_gone(redis_cluster: RedisCluster) -> None:
    redis_cluster.empty()
    lost = redis_cluster.owner("mq:{test}:state")
    async with both(redis_cluster.url) as (registry, store):
        await registry.register(instance())
        lost.kill()
        try:
            with pytest.raises(RegistryAway, match=r"Redis at the cluster at 127\.0\.0\.1:\d+, "):
                await registry.snapshot()
            with suppress(StoreAway):
                await store.start("orders", ["r"])
        finally:
            await asyncio.to_thread(lost.start)
            await asyncio.to_thread(redis_cluster.wait_whole)
        assert (await registry.snapshot()).revision == 0, "that server lost what the mesh as a whole was"
        await starts_again(store)


async def starts_again(store: Store) -> None:
    async def starts() -> bool:
        with suppress(StoreAway):
            return await store.start("orders", ["again"]) == [True]
        return False

    await eventually(starts)


# --- Sentinel -------------------------------------------------------------------------------------------------------------------


async def test_a_master_that_sentinels_name(redis_sentinel: Sentinel) -> None:
    redis_sentinel.empty()
    async with both(redis_sentinel.url) as (registry, store):
        await live(registry, store)


async def test_sentinels_that_are_gone_cost_nothing(redis_sentinel: Sentinel) -> None:
    url = redis_sentinel.url.replace("@", "@127.0.0.1:1,nowhere.invalid,")
    async with both(url) as (registry, _):
        async with asyncio.timeout(2):
            await registry.snapshot()


async def test_one_password_for_all_need_be_given_once(
    redis_sentinel: Sentinel, tmp_path: Path, free_port: int
) -> None:
    watch = {
        "requirepass": PASSWORD,
        "sentinel monitor": f"other 127.0.0.1 {redis_sentinel.master.port} 1",
        "sentinel auth-pass": f"other {PASSWORD}",
    }
    sentinel = Node(tmp_path / "sentinel", free_port, watch, sentinel=True)
    await asyncio.to_thread(sentinel.start)
    try:
        async with both(f"redis+sentinel://:{PASSWORD}@127.0.0.1:{free_port}/other") as (registry, _):
            await registry.snapshot()
    finally:
        sentinel.kill()


# --- TLS ------------------------------------------------------------------------------------------------------------------------


async def test_tls_with_certificates_that_are_renewed(secure: TlsRedis) -> None:
    files = (secure.ca, secure.cert, secure.key)
    registry = choose.registry(secure.url, MESH, SystemClock(), files)
    store = choose.store(secure.url, MESH, SystemClock(), files)
    try:
        await store.open()
        await registry.register(instance())
        await asyncio.to_thread(secure.renew_certificates)
        generation = await registry.register(instance())
        assert await registry.renew("orders", "a", generation, Load()) is not None
        assert only(await registry.snapshot()).state is State.READY
        await starts_again(store)
    finally:
        await registry.close()
        await store.close()


async def test_a_certificate_that_is_not_trusted(secure: TlsRedis) -> None:
    async with both(secure.url) as (registry, store):
        with pytest.raises(RegistryAway, match=r"has a certificate that is not trusted: .*; set MESHQ_TLS_CA"):
            await registry.snapshot()
        with pytest.raises(StoreAway, match=r"has a certificate that is not trusted: .*; set MESHQ_TLS_CA"):
            await store.start("orders", ["r"])


# --- what is wrong is said --------------------------------------------------------------------------------------------------------


async def refusal(url: str) -> str:
    registry = RedisRegistry(url, MESH)
    try:
        with pytest.raises(RegistryAway) as raised:
            await registry.register(instance())
        return str(raised.value)
    finally:
        await registry.close()


async def test_a_wrong_kind_of_server_is_named(
    redis_server: RedisDatabases, redis_cluster: RedisCluster, redis_sentinel: Sentinel, free_port: int
) -> None:
    plain = f"127.0.0.1:{redis_server.port}"
    cluster = redis_cluster.owner("meshq:test:claim:{orders}:r").port
    elsewhere = next(node.port for node in redis_cluster.nodes if node.port != cluster)
    assert "is not a cluster: give MESHQ_REGISTRY_URL as redis://" in await refusal(f"redis+cluster://{plain}")
    assert "is that port one with TLS?" in await refusal(f"rediss://{plain}")
    assert "nothing listens there" in await refusal(f"redis://127.0.0.1:{free_port}")
    assert "check MESHQ_REGISTRY_URL and the DNS" in await refusal("redis://nowhere.invalid")
    assert "nothing listens there" in await refusal(f"redis+cluster://127.0.0.1:{free_port}")
    assert "nothing listens there" in await refusal(f"redis+sentinel://127.0.0.1:{free_port}/mesh")
    assert "refuses user or password" in await refusal(f"redis://me:wrong@{plain}")
    replica = redis_sentinel.replica
    assert "is a replica" in await refusal(f"redis://:{PASSWORD}@127.0.0.1:{replica.port}")
    nobody = redis_sentinel.url.replace(f"/{MASTER}?", "/nobody?")
    assert "know of no master 'nobody' that is up" in await refusal(nobody)
    async with both(f"redis://127.0.0.1:{elsewhere}") as (_, store):
        with pytest.raises(StoreAway, match=r"is a server of a cluster: give MESHQ_REGISTRY_URL as redis\+cluster://"):
            await store.start("orders", ["r"])
