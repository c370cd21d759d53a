"""What the registry and the store on Redis make of its failures: killed and back, replaced by a replica that had not all of it,
connections cut in the middle."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import pytest
import redis.asyncio
import uvloop

from meshq.adapters.redis import RedisRegistry
from meshq.adapters.redis_store import RedisStore
from meshq.core.instances import Instance, Load, Snapshot, State
from meshq.core.names import parse_version
from meshq.ports import OnceState, RegistryAway, StoreAway
from tests.fault.proxy import proxies
from tests.servers.processes import LOOPBACK, free_port
from tests.servers.redis import RedisDatabases
from tests.servers.redis_sets import Node, Sentinel, key_slot, redis_cluster

pytestmark = pytest.mark.redis

T = TypeVar("T")

TTL_MS = 500
LONG_MS = 60_000
SECONDS = 60
"""The longest that a test takes; most take a few seconds."""


def run(test: Coroutine[Any, Any, None]) -> None:
    async def limited() -> None:
        async with asyncio.timeout(SECONDS):
            await test

    uvloop.run(limited())


def instance(ident: str, state: State = State.READY, ttl_ms: int = 0) -> Instance:
    return Instance("orders", ident, parse_version("2.3.1"), (2,), state, ttl_ms=ttl_ms)


def states(picture: Snapshot) -> dict[str, State]:
    return {i.id: i.state for service in picture.services.values() for i in service.instances}


@asynccontextmanager
async def registries(url: str, count: int = 2) -> AsyncIterator[list[RedisRegistry]]:
    async with AsyncExitStack() as stack:
        made = [RedisRegistry(url, "test", ttl_ms=TTL_MS) for _ in range(count)]
        for registry in made:
            stack.push_async_callback(registry.close)
        yield made


async def again(call: Callable[[], Awaitable[T]]) -> T:
    """Its answer, once there is one: the caller's part while Redis is away."""
    never = asyncio.Event()
    while True:
        with suppress(RegistryAway, StoreAway):
            return await call()
        with suppress(TimeoutError):
            await asyncio.wait_for(never.wait(), 0.05)


async def follow(reader: RedisRegistry, until: Callable[[Snapshot], object]) -> list[Snapshot]:
    """Every picture that one sees who follows the changes, up to the first that `until` holds of."""
    pictures = [await again(reader.snapshot)]
    while not until(pictures[-1]):
        revision = pictures[-1].revision
        await again(lambda revision=revision: reader.changed(revision, 10))  # type: ignore[misc]
        pictures.append(await again(reader.snapshot))
    return pictures


async def pass_time(server: RedisDatabases, ttls: float) -> None:
    """Another Redis waits, on a list that stays empty."""
    async with redis.asyncio.Redis.from_url(server.url, protocol=2, socket_timeout=None) as client:
        await client.blpop(["nothing comes here"], timeout=ttls * TTL_MS / 1000)


@pytest.fixture
def lasting(tmp_path: Path) -> Iterator[Node]:
    """A Redis that keeps what it has when it is killed."""
    node = Node(tmp_path / "redis", free_port(), {"appendonly": "yes", "appendfsync": "always"})
    node.start()
    yield node
    node.kill()


@pytest.mark.parametrize("count", [2, 20])
def test_killed_and_back_with_its_data_nobody_is_given_up_who_comes_back(
    lasting: Node, redis_server: RedisDatabases, count: int
) -> None:
    async def test() -> None:
        async with registries(lasting.url) as (owner, reader):
            generations = {f"i{n}": await owner.register(instance(f"i{n}")) for n in range(count)}
            before = await reader.snapshot()
            lasting.kill()
            await pass_time(redis_server, 4)
            await asyncio.to_thread(lasting.start)
            back = await again(owner.snapshot)
            assert states(back) == dict.fromkeys(generations, State.SUSPECT)
            assert (back.epoch, back.holding) == (before.epoch, True)
            for ident, generation in generations.items():
                assert await again(lambda i=ident, g=generation: owner.renew("orders", i, g, Load())) is not None  # type: ignore[misc]
            assert states(await owner.snapshot()) == dict.fromkeys(generations, State.READY)
            # Who does not come back is given up when the guard ends.
            del generations["i0"]
            for _ in range(20):
                await pass_time(redis_server, 0.4)
                for ident, generation in generations.items():
                    assert await owner.renew("orders", ident, generation, Load()) is not None
                if (seen := states(await reader.snapshot()))["i0"] is State.DOWN:
                    break
            assert seen == {"i0": State.DOWN, **dict.fromkeys(generations, State.READY)}

    run(test())


def test_who_watches_while_it_is_killed_sees_nobody_down(lasting: Node, redis_server: RedisDatabases) -> None:
    async def test() -> None:
        async with registries(lasting.url) as (owner, reader):
            generations = {f"i{n}": await owner.register(instance(f"i{n}")) for n in range(2)}
            seen: list[Snapshot] = []

            async def watch() -> None:
                while True:
                    seen.append(await again(reader.snapshot))
                    await again(lambda: reader.changed(seen[-1].revision, 0.2))

            async def renew() -> None:
                for ident, generation in generations.items():
                    assert await owner.renew("orders", ident, generation, Load()) is not None

            watching = asyncio.ensure_future(watch())
            for _ in range(2):
                lasting.kill()
                await pass_time(redis_server, 3)
                await asyncio.to_thread(lasting.start)
                await again(renew)
            back = await owner.snapshot()
            watching.cancel()
            assert set(states(back).values()) == {State.READY}
            assert State.DOWN not in {state for picture in seen for state in states(picture).values()}

    run(test())


def test_a_replica_promoted_with_lost_writes_leaves_no_ghost(fault_sentinel: Sentinel) -> None:
    async def test() -> None:
        async with registries(fault_sentinel.url) as (owner, reader):
            stays = await owner.register(instance("stays", State.STARTING, LONG_MS))
            ghost = await owner.register(instance("ghost"))
            fault_sentinel.wait_replicated()
            old, replica = fault_sentinel.master, fault_sentinel.replica
            replica.kill()
            # From here on, nothing that is written outlives the master.
            await owner.set_state("orders", "stays", stays, State.READY)
            await owner.deregister("orders", "ghost", ghost)
            late = await owner.register(instance("late", ttl_ms=LONG_MS))
            before = await reader.snapshot()
            assert states(before) == {"stays": State.READY, "late": State.READY}
            watch = asyncio.ensure_future(again(lambda: reader.changed(before.revision, 30)))
            old.kill()
            await asyncio.to_thread(replica.start)
            await asyncio.to_thread(fault_sentinel.wait_failed_over, old)
            assert await watch != before.revision, "who watches is told"
            after = await again(reader.snapshot)
            assert after.epoch == before.epoch
            assert states(after).keys() == {"stays", "ghost"}
            assert states(after)["stays"] is State.STARTING
            # The owners find out, and say again what was lost.
            assert await again(lambda: owner.renew("orders", "stays", stays, Load())) is None
            assert await again(lambda: owner.renew("orders", "late", late, Load())) is None
            assert await owner.register(instance("stays", ttl_ms=LONG_MS)) > stays
            assert await owner.register(instance("late", ttl_ms=LONG_MS)) > late
            pictures = await follow(reader, lambda seen: states(seen).get("ghost") is State.DOWN)
            assert states(pictures[-1]) == {"stays": State.READY, "late": State.READY, "ghost": State.DOWN}
            lost = [state for picture in pictures for ident, state in states(picture).items() if ident != "ghost"]
            assert not {State.SUSPECT, State.DOWN} & set(lost), "nobody flapped"

    run(test())


def test_the_store_follows_a_failover(fault_sentinel: Sentinel) -> None:
    async def test() -> None:
        store = RedisStore(fault_sentinel.url, "test")
        try:
            await store.open()
            assert (await again(lambda: store.once("orders", "k", "d", "me", 600))).state is OnceState.NEW
            fault_sentinel.wait_replicated()
            old = fault_sentinel.master
            old.kill()
            with pytest.raises(StoreAway):
                await store.once("orders", "k", "d", "you", 600)
            await asyncio.to_thread(fault_sentinel.wait_failed_over, old)
            assert (await again(lambda: store.once("orders", "k", "d", "you", 600))).state is OnceState.RUNNING
        finally:
            await store.close()

    run(test())


def test_a_master_that_is_made_a_replica_is_left(fault_sentinel: Sentinel) -> None:
    async def test() -> None:
        async with registries(fault_sentinel.url) as (owner, reader):
            generation = await owner.register(instance("a", ttl_ms=LONG_MS))
            revision = (await reader.snapshot()).revision
            watch = asyncio.ensure_future(again(lambda: reader.changed(revision, 30)))
            old = fault_sentinel.master
            fault_sentinel.wait_replicated()
            with fault_sentinel.sentinels[0].client() as client:
                client.execute_command("SENTINEL", "FAILOVER", "mesh")
            await asyncio.to_thread(fault_sentinel.wait_failed_over, old)
            assert await again(lambda: owner.renew("orders", "a", generation, Load())) is not None
            await again(lambda: owner.set_state("orders", "a", generation, State.PAUSED))
            assert await watch > revision
            pictures = await follow(reader, lambda seen: states(seen) == {"a": State.PAUSED})
            assert {picture.epoch for picture in pictures} == {pictures[0].epoch}
            with fault_sentinel.master.client() as client:
                assert client.exists("mq:{test}:state"), "it was asked, not the old one"

    run(test())


@pytest.mark.parametrize("back", [False, True], ids=["asked", "answered"])
def test_connections_cut_anywhere_lose_no_change(redis_url: str, redis_server: RedisDatabases, back: bool) -> None:
    async def test() -> None:
        path = redis_url.rpartition("/")[2]
        with proxies([(LOOPBACK, redis_server.port)]) as (proxy,):
            cut = f"redis://{LOOPBACK}:{proxy.port}/{path}"
            async with registries(cut, 1) as (owner,), registries(redis_url, 1) as (reader,):
                generation = await owner.register(instance("a", ttl_ms=LONG_MS))
                wanted = State.READY
                for count in range(0, 124, 4) if back else range(0, 700, 23):
                    proxy.cut_after(count, back=back)
                    wanted = State.PAUSED if wanted is State.READY else State.READY
                    revision = (await reader.snapshot()).revision
                    await again(lambda: owner.set_state("orders", "a", generation, wanted))  # noqa: B023 - at once
                    assert await again(lambda: owner.renew("orders", "a", generation, Load())) is not None
                    assert await reader.changed(revision, 5) > revision
                    assert states(await reader.snapshot()) == {"a": wanted}
            assert proxy.cuts > 20

    run(test())


def test_a_master_of_a_cluster_that_is_silent_is_left_for_who_has_its_keys_now() -> None:
    """As when the host of a master is gone and its replica took over: no connection is refused, and none is reset."""

    async def test() -> None:
        with redis_cluster() as cluster:
            silent = cluster.owner("mq:{test}:state")
            others = [node for node in cluster.nodes if node is not silent]
            async with registries(cluster.url, 1) as (registry,):
                assert (await registry.snapshot()).services == {}
                silent.process.pause()
                with pytest.raises(RegistryAway, match="did not answer"):
                    await registry.snapshot()
                with others[0].client() as client:
                    heir = client.execute_command("CLUSTER", "MYID")
                for node in others:
                    with node.client() as client:
                        client.execute_command("CONFIG", "SET", "cluster-require-full-coverage", "no")
                        client.execute_command("CLUSTER", "SETSLOT", key_slot(b"mq:{test}:state"), "NODE", heir)
                assert (await again(registry.snapshot)).services == {}

    run(test())
