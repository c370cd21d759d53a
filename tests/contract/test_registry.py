"""What meshq.ports.Registry promises, over every registry there is."""

import asyncio
from collections.abc import Awaitable

import pytest

from meshq.core.instances import Instance, Load, Renewal, Snapshot, State
from meshq.core.names import parse_version
from meshq.ports import Fenced, Registry
from tests.contract.registry_rigs import TTL_MS, RegistryRig, instance


def only(snapshot: Snapshot) -> Instance:
    (found,) = snapshot.services["orders"].instances
    return found


def majors(snapshot: Snapshot) -> dict[int, str]:
    return {major: str(version) for major, version in snapshot.services["orders"].majors.items()}


async def waiting(change: Awaitable[int]) -> asyncio.Future[int]:
    """`change`, begun: it waits already."""
    task = asyncio.ensure_future(change)
    done, _ = await asyncio.wait([task], timeout=0.05)
    assert not done, "it did not wait"
    return task


# --- one instance ---------------------------------------------------------------------------------------------------------


async def test_an_empty_registry_has_an_empty_picture(registries: RegistryRig) -> None:
    registry = await registries.connect()
    assert await registry.snapshot() == Snapshot(0, {})


async def test_who_registers_is_in_the_picture_with_all_it_said(registries: RegistryRig) -> None:
    owner, reader = await registries.connect(), await registries.connect()
    told = instance(
        "a-1",
        "2.3.1-rc.1+b5",
        State.STARTING,
        majors=(1, 2),
        address="10.1.2.3",
        metadata={"zone": "eu-1", "büro": "→"},
        load=Load(3, 16),
    )
    generation = await owner.register(told)
    found = only(await reader.snapshot())
    assert found.last_seen_ms > 1_600_000_000_000
    assert found == Instance(
        *(told.service, told.id, told.version, told.majors, told.state, told.address, told.metadata, told.load),
        last_seen_ms=found.last_seen_ms,
        generation=generation,
    )


async def test_a_renewal_prolongs_the_lease_and_reports_the_load(registries: RegistryRig) -> None:
    registry = await registries.connect()
    generation = await registry.register(instance())
    before = await registry.snapshot()
    for n in range(3):
        await registries.advance(0.6)
        renewal = await registry.renew("orders", "a", generation, Load(n, 16))
    assert isinstance(renewal, Renewal)
    after = await registry.snapshot()
    assert renewal.revision == after.revision == before.revision, "a renewal alone is no visible change"
    found = only(after)
    assert (found.state, found.load) == (State.READY, Load(2, 16))
    assert found.last_seen_ms == renewal.now_ms >= only(before).last_seen_ms + 1.8 * TTL_MS


async def test_renewing_what_the_registry_does_not_know(registries: RegistryRig) -> None:
    registry = await registries.connect()
    assert await registry.renew("orders", "a", 1, Load()) is None
    generation = await registry.register(instance("a"))
    assert await registry.renew("orders", "b", generation, Load()) is None
    assert await registry.renew("billing", "a", generation, Load()) is None
    await registry.set_state("orders", "b", generation, State.READY)
    await registry.deregister("billing", "a", generation)
    assert [i.id for i in (await registry.snapshot()).services["orders"].instances] == ["a"]


async def test_who_registers_later_fences_off_who_was_before(registries: RegistryRig) -> None:
    old, new = await registries.connect(), await registries.connect()
    first = await old.register(instance(version="2.3.1"))
    second = await new.register(instance(version="3.0.0"))
    assert first < second
    for late in (
        old.renew("orders", "a", first, Load(1, 1)),
        old.set_state("orders", "a", first, State.DRAINING),
        old.deregister("orders", "a", first),
    ):
        with pytest.raises(Fenced):
            await late
    found = only(await new.snapshot())
    assert (str(found.version), found.state, found.load, found.generation) == ("3.0.0", State.READY, Load(), second)
    assert await new.renew("orders", "a", second, Load()) is not None


async def test_a_state_is_seen(registries: RegistryRig) -> None:
    registry = await registries.connect()
    generation = await registry.register(instance(state=State.STARTING))
    revisions = [(await registry.snapshot()).revision]
    for state in (State.READY, State.UNHEALTHY, State.PAUSED, State.DRAINING):
        await registry.set_state("orders", "a", generation, state)
        picture = await registry.snapshot()
        assert only(picture).state is state
        revisions.append(picture.revision)
    assert revisions == sorted(set(revisions)), "each is a visible change"
    await registry.set_state("orders", "a", generation, State.DRAINING)
    assert (await registry.snapshot()).revision == revisions[-1], "the same state again is none"


async def test_who_deregisters_is_gone_at_once(registries: RegistryRig) -> None:
    registry = await registries.connect()
    generation = await registry.register(instance("a"))
    await registry.register(instance("b"))
    before = await registry.snapshot()
    await registry.deregister("orders", "a", generation)
    after = await registry.snapshot()
    assert [i.id for i in after.services["orders"].instances] == ["b"]
    assert after.revision > before.revision
    assert await registry.renew("orders", "a", generation, Load()) is None
    again = await registry.register(instance("a"))
    assert again > generation


# --- leases ---------------------------------------------------------------------------------------------------------------


async def test_a_lease_that_runs_out_makes_suspect_then_down(registries: RegistryRig) -> None:
    registry = await registries.connect()
    generation = await registry.register(instance())
    assert only(await registry.snapshot()).state is State.READY
    await registries.advance(1.1)
    assert only(await registry.snapshot()).state is State.SUSPECT
    await registries.advance(1.0)
    assert only(await registry.snapshot()).state is State.DOWN
    assert await registry.renew("orders", "a", generation, Load()) is not None
    assert only(await registry.snapshot()).state is State.READY


async def test_a_paused_instance_whose_lease_runs_out_is_not_used_as_a_suspect(registries: RegistryRig) -> None:
    registry = await registries.connect()
    await registry.register(instance(state=State.PAUSED))
    await registries.advance(1.1)
    assert only(await registry.snapshot()).state is State.PAUSED
    await registries.advance(1.0)
    assert only(await registry.snapshot()).state is State.DOWN


async def test_a_lease_that_runs_out_and_one_that_comes_back_are_visible_changes(registries: RegistryRig) -> None:
    owner, reader = await registries.connect(), await registries.connect()
    generation = await owner.register(instance())
    revisions = [(await reader.snapshot()).revision]
    await registries.advance(1.1)
    for _ in range(2):
        revisions.append(await reader.changed(revisions[-1], 10))
        await reader.snapshot()
        await registries.advance(1.0)
    renewal = await owner.renew("orders", "a", generation, Load())
    assert renewal is not None
    revisions.append(renewal.revision)
    assert await reader.changed(revisions[-2], 10) == renewal.revision
    assert revisions == sorted(set(revisions))
    assert only(await reader.snapshot()).state is State.READY


# --- majors ---------------------------------------------------------------------------------------------------------------


async def test_majors_are_known_from_the_first_registration(registries: RegistryRig) -> None:
    registry = await registries.connect()
    await registry.register(instance(version="2.3.1", majors=(1, 2), state=State.STARTING))
    assert majors(await registry.snapshot()) == {1: "2.3.1", 2: "2.3.1"}


async def test_a_major_has_its_lowest_ready_version_and_keeps_the_last(registries: RegistryRig) -> None:
    registry = await registries.connect()
    old = await registry.register(instance("old", "2.3.1"))
    new = await registry.register(instance("new", "2.10.0"))
    await registry.register(instance("starting", "2.0.0", State.STARTING))
    assert majors(await registry.snapshot()) == {2: "2.3.1"}
    await registry.set_state("orders", "old", old, State.DRAINING)
    assert majors(await registry.snapshot()) == {2: "2.10.0"}
    await registry.set_state("orders", "old", old, State.READY)
    assert majors(await registry.snapshot()) == {2: "2.3.1"}
    await registry.deregister("orders", "old", old)
    assert majors(await registry.snapshot()) == {2: "2.10.0"}
    await registry.deregister("orders", "new", new)
    assert majors(await registry.snapshot()) == {2: "2.10.0"}, "of the last that was ready"
    await registry.register(instance("next", "2.4.0-rc.1"))
    assert majors(await registry.snapshot()) == {2: "2.4.0-rc.1"}
    await registry.register(instance("next", "3.0.0"))
    assert majors(await registry.snapshot()) == {2: "2.4.0-rc.1", 3: "3.0.0"}


async def test_who_registers_again_as_another_version_counts_as_that_one(registries: RegistryRig) -> None:
    registry = await registries.connect()
    await registry.register(instance("a", "2.1.0"))
    await registry.register(instance("b", "2.5.0"))
    await registry.register(instance("a", "2.6.0"))
    assert majors(await registry.snapshot()) == {2: "2.5.0"}
    await registry.register(instance("b", "3.0.0"))
    assert majors(await registry.snapshot()) == {2: "2.6.0", 3: "3.0.0"}


async def test_a_lost_instance_counts_no_more_as_ready(registries: RegistryRig) -> None:
    owner, reader = await registries.connect(), await registries.connect()
    low = await owner.register(instance("low", "2.1.0"))
    high = await owner.register(instance("high", "2.2.0"))
    revision = (await reader.snapshot()).revision
    await registries.advance(0.6)
    assert await owner.renew("orders", "high", high, Load()) is not None
    await registries.advance(0.6)
    await reader.changed(revision, 10)
    assert majors(await reader.snapshot()) == {2: "2.2.0"}
    assert await owner.renew("orders", "low", low, Load()) is not None
    assert majors(await reader.snapshot()) == {2: "2.1.0"}


# --- watching -------------------------------------------------------------------------------------------------------------


async def test_changed_returns_at_once_when_the_picture_is_another(registries: RegistryRig) -> None:
    registry = await registries.connect()
    empty = (await registry.snapshot()).revision
    await registry.register(instance())
    async with asyncio.timeout(1):
        assert await registry.changed(empty, 30) == (await registry.snapshot()).revision != empty


async def test_changed_gives_up_when_its_time_is_over(registries: RegistryRig) -> None:
    registry = await registries.connect()
    revision = (await registry.snapshot()).revision
    assert await registry.changed(revision, 0) == revision
    assert await registry.changed(revision, 0.1) == revision


@pytest.mark.parametrize("change", ["register", "set_state", "deregister", "return"])
async def test_changed_wakes_within_a_second(registries: RegistryRig, change: str) -> None:
    owner, reader = await registries.connect(), await registries.connect()
    generation = await owner.register(instance("a"))
    if change == "return":
        await registries.advance(1.1)
        await owner.changed((await owner.snapshot()).revision, 0)
    revision = (await reader.snapshot()).revision
    if change == "return":
        revision = await reader.changed(revision, 0)
    elif await owner.renew("orders", "a", generation, Load()) is None:
        raise AssertionError("it is registered")
    watch = await waiting(reader.changed(revision, 30))
    async with asyncio.timeout(1):
        if change == "register":
            await owner.register(instance("b"))
        elif change == "set_state":
            await owner.set_state("orders", "a", generation, State.PAUSED)
        elif change == "deregister":
            await owner.deregister("orders", "a", generation)
        else:
            await owner.renew("orders", "a", generation, Load())
        assert await watch > revision


async def test_changed_wakes_when_a_lease_runs_out(registries: RegistryRig) -> None:
    owner, reader = await registries.connect(), await registries.connect()
    await owner.register(instance("a"))
    revision = (await reader.snapshot()).revision
    watch = await waiting(reader.changed(revision, 30))
    await registries.advance(1.1)
    async with asyncio.timeout(1):
        assert await watch > revision
    assert only(await reader.snapshot()).state is State.SUSPECT


async def test_many_watchers_all_see_a_change(registries: RegistryRig) -> None:
    owner = await registries.connect()
    readers: list[Registry] = [await registries.connect() for _ in range(10)]
    revision = (await owner.snapshot()).revision
    watches = [await waiting(reader.changed(revision, 30)) for reader in readers]
    await owner.register(instance())
    async with asyncio.timeout(2):
        assert set(await asyncio.gather(*watches)) == {(await owner.snapshot()).revision}


# --- loss -----------------------------------------------------------------------------------------------------------------


async def test_after_a_loss_of_data_owners_are_unknown_and_register_again(registries: RegistryRig) -> None:
    owner, reader = await registries.connect(), await registries.connect()
    generation = await owner.register(instance())
    revision = (await reader.snapshot()).revision
    await registries.lose_data()
    lost = await reader.changed(revision, 5)
    assert lost < revision
    assert (await reader.snapshot()).services == {}
    assert await owner.renew("orders", "a", generation, Load()) is None
    again = await owner.register(instance())
    assert again > generation, "a fencing token from before the loss is never given again"
    assert await reader.changed(lost, 5) > revision
    assert only(await reader.snapshot()).version == parse_version("2.3.1")
