"""What meshq.ports.Registry promises to whoever scales services: reports, and who is to be woken. Over every registry there is."""

import asyncio
import logging

import pytest

from meshq.core.instances import Load, State
from meshq.core.reports import Calls, Report, Reported, Work
from meshq.ports import Registry
from tests.contract.redis_rigs import RegistryOn, limited
from tests.contract.registry_rigs import DOWN_WITHIN, LONG_MS, RegistryRig, instance

REPORT = Report(
    {"orders.v2": Work(1.5, 2.25, 3, 1)},
    {"billing.v1": Calls(10, 7, 1, 2, 0.75)},
    {"stock.v1": 4},
    16,
)
KEY = "mq:{test:orders}:reports"


@pytest.fixture
def rig(redis_url: str) -> RegistryOn:
    return RegistryOn(limited(redis_url), redis_url)


async def reported(registry: Registry) -> dict[str, Report]:
    return {each.instance: each.report for each in await registry.reports()}


# --- reports ------------------------------------------------------------------------------------------------------------------


async def test_the_last_report_of_each_instance_is_told_with_its_time(registries: RegistryRig) -> None:
    owner, reader = await registries.connect(), await registries.connect()
    assert list(await reader.reports()) == []
    a = await owner.register(instance("a", ttl_ms=LONG_MS))
    b = await owner.register(instance("b", service="billing", ttl_ms=LONG_MS))
    await owner.register(instance("silent", ttl_ms=LONG_MS))
    first = await owner.renew("orders", "a", a, Load(), Report(slots=1))
    assert first is not None
    second = await owner.renew("billing", "b", b, Load(), Report())
    await registries.advance(0.1)
    third = await owner.renew("orders", "a", a, Load(), REPORT)
    assert second is not None
    assert third is not None
    assert sorted(await reader.reports(), key=lambda each: each.instance) == [
        Reported("orders", "a", third.now_ms, REPORT),
        Reported("billing", "b", second.now_ms, Report()),
    ]
    assert third.now_ms > first.now_ms


async def test_a_report_is_no_visible_change_and_in_no_picture(registries: RegistryRig) -> None:
    registry = await registries.connect()
    generation = await registry.register(instance(ttl_ms=LONG_MS))
    before = await registry.snapshot()
    renewal = await registry.renew("orders", "a", generation, Load(), REPORT)
    assert renewal is not None
    after = await registry.snapshot()
    assert renewal.revision == after.revision == before.revision
    (found,) = after.services["orders"].instances
    (known,) = before.services["orders"].instances
    assert (found.metadata, found.load, found.state) == (known.metadata, known.load, known.state)


async def test_a_renewal_without_a_report_leaves_the_last_one(registries: RegistryRig) -> None:
    registry = await registries.connect()
    generation = await registry.register(instance(ttl_ms=LONG_MS))
    assert await registry.renew("orders", "a", generation, Load(), REPORT) is not None
    (before,) = await registry.reports()
    await registries.advance(0.1)
    assert await registry.renew("orders", "a", generation, Load()) is not None
    assert list(await registry.reports()) == [before]


async def test_who_goes_or_begins_anew_has_reported_nothing(registries: RegistryRig) -> None:
    registry = await registries.connect()
    generations = {ident: await registry.register(instance(ident, ttl_ms=LONG_MS)) for ident in ("a", "b", "c")}
    for ident, generation in generations.items():
        assert await registry.renew("orders", ident, generation, Load(), REPORT) is not None
    await registry.deregister("orders", "a", generations["a"])
    again = await registry.register(instance("b", ttl_ms=LONG_MS))
    assert await reported(registry) == {"c": REPORT}
    assert await registry.renew("orders", "b", again, Load(), Report(slots=2)) is not None
    assert await reported(registry) == {"b": Report(slots=2), "c": REPORT}


async def test_who_was_fenced_off_or_is_not_known_reports_nothing(registries: RegistryRig) -> None:
    registry = await registries.connect()
    assert await registry.renew("orders", "a", 1, Load(), REPORT) is None
    assert list(await registry.reports()) == []


async def test_who_is_suspect_has_its_last_report_and_who_is_down_none(registries: RegistryRig) -> None:
    registry = await registries.connect()
    await registry.register(instance("b", ttl_ms=LONG_MS))
    generation = await registry.register(instance("a"))
    assert await registry.renew("orders", "a", generation, Load(), REPORT) is not None

    async def seen(state: State) -> None:
        await registries.seen(
            registry,
            lambda picture: [i.state for i in picture.services["orders"].instances if i.id == "a"] == [state],
            DOWN_WITHIN,
        )

    await seen(State.SUSPECT)
    assert await reported(registry) == {"a": REPORT}
    await seen(State.DOWN)
    assert await reported(registry) == {}
    assert await registry.renew("orders", "a", generation, Load()) is not None
    assert await reported(registry) == {}, "it comes back with its next one"
    assert await registry.renew("orders", "a", generation, Load(), REPORT) is not None
    assert await reported(registry) == {"a": REPORT}


async def test_reports_go_with_the_registrys_data(registries: RegistryRig) -> None:
    registry = await registries.connect()
    generation = await registry.register(instance(ttl_ms=LONG_MS))
    assert await registry.renew("orders", "a", generation, Load(), REPORT) is not None
    await registries.lose_data()
    assert list(await registry.reports()) == []


# --- waking -------------------------------------------------------------------------------------------------------------------


async def test_every_watcher_is_told_who_is_to_be_woken(registries: RegistryRig) -> None:
    sidecar = await registries.connect()
    watchers = [await registries.connect() for _ in range(3)]
    await sidecar.wake(["long.v1"])
    now = [(await each.woken("", 0))[0] for each in watchers]
    waiting = [asyncio.ensure_future(each.woken(at, 30)) for each, at in zip(watchers, now, strict=True)]
    done, _ = await asyncio.wait(waiting, timeout=0.05)
    assert not done, "what was before is not told"
    await sidecar.wake(["orders.v2", "billing.v1"])
    for _, topics in await asyncio.wait_for(asyncio.gather(*waiting), 1):
        assert topics == ("orders.v2", "billing.v1")


async def test_who_watches_from_now_on_is_told_what_comes_while_it_waits(registries: RegistryRig) -> None:
    sidecar, watcher = await registries.connect(), await registries.connect()
    await sidecar.wake(["long.v1"])
    waiting = asyncio.ensure_future(watcher.woken("", 30))
    done, _ = await asyncio.wait([waiting], timeout=0.2)
    assert not done
    await sidecar.wake(["orders.v2"])
    _, topics = await asyncio.wait_for(waiting, 1)
    assert topics == ("orders.v2",)


async def test_what_came_between_two_looks_is_told_once_each(registries: RegistryRig) -> None:
    sidecar, watcher = await registries.connect(), await registries.connect()
    at, topics = await watcher.woken("", 0)
    assert topics == ()
    for topic in ("orders.v2", "billing.v1", "orders.v2"):
        await sidecar.wake([topic])
    at, topics = await watcher.woken(at, 0)
    assert topics == ("orders.v2", "billing.v1")
    assert (await watcher.woken(at, 0.01)) == (at, ())
    await sidecar.wake(["stock.v1"])
    at, topics = await watcher.woken(at, 30)
    assert topics == ("stock.v1",)


async def test_only_so_many_are_kept(registries: RegistryRig) -> None:
    sidecar, watcher = await registries.connect(), await registries.connect()
    at, _ = await watcher.woken("", 0)
    for n in range(1500):
        await sidecar.wake([f"s{n}.v1"])
    found: list[str] = []
    while found[-1:] != ["s1499.v1"]:
        at, topics = await watcher.woken(at, 0)
        found += topics
    assert found[-1000:] == [f"s{n}.v1" for n in range(500, 1500)]
    assert len(found) <= 1200


async def test_a_wake_is_no_visible_change(registries: RegistryRig) -> None:
    registry = await registries.connect()
    before = await registry.snapshot()
    await registry.wake(["orders.v2"])
    assert await registry.snapshot() == before


# --- only Redis -----------------------------------------------------------------------------------------------------------------


@pytest.mark.redis
async def test_reports_that_cannot_be_read_are_left_out_and_said_once(
    rig: RegistryOn, caplog: pytest.LogCaptureFixture
) -> None:
    registry = await rig.connect()
    for ident in ("a", "b", "c", "d"):
        generation = await registry.register(instance(ident, ttl_ms=LONG_MS))
        assert await registry.renew("orders", ident, generation, Load(), REPORT) is not None
    async with rig.redis() as client:
        await client.hset(KEY, mapping={"a": b"", "b": b"12 \xc1", "c": b"soon \x80"})
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            assert await reported(registry) == {"d": REPORT}
    assert len(caplog.records) == 3


@pytest.mark.redis
async def test_what_an_older_sidecar_left_behind_is_cleared_away(rig: RegistryOn) -> None:
    registry = await rig.connect()
    generation = await registry.register(instance(ttl_ms=LONG_MS))
    assert await registry.renew("orders", "a", generation, Load(), REPORT) is not None
    async with rig.redis() as client:
        await client.hset(KEY, "deregistered-by-it", await client.hget(KEY, "a"))
        assert list(await reported(registry)) == ["a"]
        assert await client.hkeys(KEY) == [b"a"]
        await registry.deregister("orders", "a", generation)
        assert await client.exists(KEY) == 0
        await client.hset(KEY, "deregistered-by-it", b"1 \x80")
        assert await registry.retire("orders", 2)
        assert await client.exists(KEY) == 0


@pytest.mark.redis
async def test_something_else_in_the_place_of_one_services_reports_hides_no_others(rig: RegistryOn) -> None:
    registry = await rig.connect()
    for service in ("orders", "billing"):
        generation = await registry.register(instance(service=service, ttl_ms=LONG_MS))
        assert await registry.renew(service, "a", generation, Load(), REPORT) is not None
    async with rig.redis() as client:
        await client.set(KEY, "a stranger's")
    assert [each.service for each in await registry.reports()] == ["billing"]
