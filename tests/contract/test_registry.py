"""What meshq.ports.Registry promises, over every registry there is."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest

from meshq.core.instances import Load, Pause, Renewal, State
from meshq.core.names import parse_version
from meshq.core.policy import Policy
from meshq.ports import Fenced, Registry
from tests.contract.registry_rigs import (
    DOWN_WITHIN,
    LONG_MS,
    SUSPECT_WITHIN,
    TTL_MS,
    RegistryRig,
    instance,
    majors,
    only,
    waiting,
)

# --- one instance ---------------------------------------------------------------------------------------------------------


async def test_an_empty_registry_has_an_empty_picture(registries: RegistryRig) -> None:
    registry = await registries.connect()
    picture = await registry.snapshot()
    assert (picture.revision, dict(picture.services), dict(picture.policies)) == (0, {}, {})
    assert (picture.stale, picture.holding) == (False, False)


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
        endpoints={"http": "10.1.2.3:8080", "grpc": "10.1.2.3:9090"},
        ttl_ms=LONG_MS,
        pause=Pause("Überprüfung"),
    )
    generation = await owner.register(told)
    found = only(await reader.snapshot())
    assert found.last_seen_ms > 1_600_000_000_000
    assert found == replace(told, state=State.PAUSED, last_seen_ms=found.last_seen_ms, generation=generation)


async def test_a_renewal_prolongs_the_lease_and_reports_the_load(registries: RegistryRig) -> None:
    registry = await registries.connect()
    generation = await registry.register(instance(ttl_ms=3 * TTL_MS))
    before = await registry.snapshot()
    for n in range(3):
        await registries.advance(1.2)
        renewal = await registry.renew("orders", "a", generation, Load(n, 16))
    assert isinstance(renewal, Renewal)
    after = await registry.snapshot()
    assert renewal.revision == after.revision == before.revision, "a renewal alone is no visible change"
    found = only(after)
    assert (found.state, found.load) == (State.READY, Load(2, 16))
    assert found.last_seen_ms == renewal.now_ms >= only(before).last_seen_ms + 3.6 * TTL_MS


async def test_renewing_what_the_registry_does_not_know(registries: RegistryRig) -> None:
    registry = await registries.connect()
    assert await registry.renew("orders", "a", 1, Load()) is None
    generation = await registry.register(instance("a"))
    assert await registry.renew("orders", "b", generation, Load()) is None
    assert await registry.renew("billing", "a", generation, Load()) is None
    await registry.set_state("orders", "b", generation, State.READY)
    await registry.describe("orders", "b", generation, {"zone": "eu-1"})
    assert not await registry.pause("orders", "b", "", None, generation)
    assert not await registry.resume("orders", "b", generation)
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
        old.describe("orders", "a", first, {"zone": "eu-1"}),
        old.pause("orders", "a", "mine", 1000, first),
        old.resume("orders", "a", first),
        old.deregister("orders", "a", first),
    ):
        with pytest.raises(Fenced):
            await late
    found = only(await new.snapshot())
    assert (str(found.version), found.state, found.load, found.generation) == ("3.0.0", State.READY, Load(), second)
    assert (found.metadata, found.pause) == ({}, None)
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
    found = only(await registry.snapshot())
    assert found.state is State.READY
    suspect = await registries.seen(registry, lambda seen: only(seen).state is State.SUSPECT, SUSPECT_WITHIN)
    assert suspect.revision >= found.last_seen_ms + TTL_MS
    down = await registries.seen(registry, lambda seen: only(seen).state is State.DOWN, DOWN_WITHIN)
    assert down.revision >= found.last_seen_ms + 2 * TTL_MS
    renewal = await registry.renew("orders", "a", generation, Load())
    assert renewal is not None
    assert renewal.revision > down.revision
    assert only(await registry.snapshot()).state is State.READY


async def test_a_lease_may_have_a_length_of_its_own(registries: RegistryRig) -> None:
    registry = await registries.connect()
    generation = await registry.register(instance(ttl_ms=3 * TTL_MS))
    for _ in range(2):
        begun = only(await registry.snapshot()).last_seen_ms
        suspect = await registries.seen(registry, lambda seen: only(seen).state is State.SUSPECT, 3 * SUSPECT_WITHIN)
        assert suspect.revision >= begun + 3 * TTL_MS
        assert await registry.renew("orders", "a", generation, Load()) is not None
    down = await registries.seen(registry, lambda seen: only(seen).state is State.DOWN, 3 * DOWN_WITHIN)
    assert down.revision >= only(down).last_seen_ms + 6 * TTL_MS


async def test_a_paused_instance_whose_lease_runs_out_is_not_used_as_a_suspect(registries: RegistryRig) -> None:
    registry = await registries.connect()
    await registry.register(instance(state=State.PAUSED))
    await registries.advance(1.1)
    assert only(await registry.snapshot()).state is State.PAUSED
    await registries.seen(registry, lambda seen: only(seen).state is State.DOWN, DOWN_WITHIN)


async def test_a_lease_that_runs_out_and_one_that_comes_back_are_visible_changes(registries: RegistryRig) -> None:
    owner, reader = await registries.connect(), await registries.connect()
    generation = await owner.register(instance())
    revisions = [(await reader.snapshot()).revision]
    for state, within in ((State.SUSPECT, SUSPECT_WITHIN), (State.DOWN, DOWN_WITHIN)):
        seen = await registries.seen(reader, lambda seen, state=state: only(seen).state is state, within)
        revisions.append(seen.revision)
        assert await reader.changed(seen.revision, 0) == seen.revision, "the picture was as of then"
    renewal = await owner.renew("orders", "a", generation, Load())
    assert renewal is not None
    revisions.append(renewal.revision)
    assert await reader.changed(revisions[-2], 10) == renewal.revision
    assert revisions == sorted(set(revisions))
    assert only(await reader.snapshot()).state is State.READY


@pytest.mark.parametrize("hours", [-1, 1])
async def test_clocks_of_clients_that_are_wrong_change_nothing(
    registries: RegistryRig, monkeypatch: pytest.MonkeyPatch, hours: int
) -> None:
    right = time.time
    owner, reader = await registries.connect(), await registries.connect()
    monkeypatch.setattr(time, "time", lambda: right() + 3600 * hours)
    generation = await owner.register(instance())
    begun = only(await reader.snapshot())
    assert begun.state is State.READY
    assert await owner.renew("orders", "a", generation, Load()) is not None
    assert await owner.pause("orders", "a", "", TTL_MS, generation)
    monkeypatch.setattr(time, "time", lambda: right() - 3600 * hours)
    paused = only(await reader.snapshot())
    assert paused.state is State.PAUSED
    assert paused.last_seen_ms - begun.last_seen_ms < 60_000
    suspect = await registries.seen(reader, lambda seen: only(seen).state is State.SUSPECT, SUSPECT_WITHIN)
    assert only(suspect).pause is None
    assert suspect.revision >= paused.last_seen_ms + TTL_MS
    await registries.seen(reader, lambda seen: only(seen).state is State.DOWN, DOWN_WITHIN)


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
    high = await owner.register(instance("high", "2.2.0", ttl_ms=LONG_MS))
    revision = (await reader.snapshot()).revision
    assert majors(await reader.snapshot()) == {2: "2.1.0"}
    lost = await registries.seen(reader, lambda seen: majors(seen) == {2: "2.2.0"}, SUSPECT_WITHIN)
    assert lost.revision > revision
    assert await owner.renew("orders", "high", high, Load()) is not None
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


CHANGES: dict[str, Callable[[Registry, int], Awaitable[object]]] = {
    "register": lambda registry, generation: registry.register(instance("b")),
    "set_state": lambda registry, generation: registry.set_state("orders", "a", generation, State.DRAINING),
    "describe": lambda registry, generation: registry.describe("orders", "a", generation, {"zone": "eu-1"}),
    "deregister": lambda registry, generation: registry.deregister("orders", "a", generation),
    "pause": lambda registry, generation: registry.pause("orders", "a", "tired", 60_000, generation),
    "operator's pause": lambda registry, generation: registry.pause("orders", "a", "wait", None, None),
    "order to drain": lambda registry, generation: registry.order_drain("orders", "a"),
    "policy": lambda registry, generation: registry.put_policy("orders", Policy("orders", sticky="x-user")),
    "retire": lambda registry, generation: registry.retire("orders", 7),
}


@pytest.mark.parametrize("change", CHANGES)
async def test_changed_wakes_within_a_second(registries: RegistryRig, change: str) -> None:
    owner, reader = await registries.connect(), await registries.connect()
    gone = await owner.register(instance("gone", "7.0.0"))
    await owner.deregister("orders", "gone", gone)
    generation = await owner.register(instance("a", ttl_ms=LONG_MS))
    revision = (await reader.snapshot()).revision
    watch = await waiting(reader.changed(revision, 30))
    async with asyncio.timeout(1):
        await CHANGES[change](owner, generation)
        assert await watch > revision


async def test_changed_wakes_within_a_second_when_one_is_back(registries: RegistryRig) -> None:
    owner, reader = await registries.connect(), await registries.connect()
    generation = await owner.register(instance("a"))
    down = await registries.seen(reader, lambda seen: only(seen).state is State.DOWN, DOWN_WITHIN)
    watch = await waiting(reader.changed(down.revision, 30))
    async with asyncio.timeout(1):
        await owner.renew("orders", "a", generation, Load())
        assert await watch > down.revision


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


async def test_a_watcher_that_slept_through_many_changes_is_told_of_the_last(registries: RegistryRig) -> None:
    owner, reader = await registries.connect(), await registries.connect()
    generation = await owner.register(instance(ttl_ms=LONG_MS))
    revision = (await reader.snapshot()).revision
    for n in range(100):
        await owner.describe("orders", "a", generation, {"n": str(n)})
    latest = await reader.changed(revision, 30)
    picture = await reader.snapshot()
    assert latest == picture.revision
    assert only(picture).metadata == {"n": "99"}
    assert await reader.changed(latest, 0.05) == latest


# --- loss -----------------------------------------------------------------------------------------------------------------


async def test_after_a_loss_of_data_owners_are_unknown_and_register_again(registries: RegistryRig) -> None:
    owner, reader = await registries.connect(), await registries.connect()
    generation = await owner.register(instance())
    before = await reader.snapshot()
    revision = before.revision
    assert before.epoch
    assert (await owner.snapshot()).epoch == before.epoch
    await owner.set_state("orders", "a", generation, State.STARTING)
    assert (await reader.snapshot()).epoch == before.epoch
    await registries.lose_data()
    lost = await reader.changed(revision, 5)
    assert lost < revision
    assert (await reader.snapshot()).services == {}
    assert await owner.renew("orders", "a", generation, Load()) is None
    again = await owner.register(instance())
    assert again > generation, "a fencing token from before the loss is never given again"
    assert await reader.changed(lost, 5) > revision
    after = await reader.snapshot()
    assert only(after).version == parse_version("2.3.1")
    assert after.epoch
    assert after.epoch != before.epoch
