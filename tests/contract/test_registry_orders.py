"""Temporary unregistration, over every registry there is: an instance's own pause, an operator's, and his order to drain."""

import asyncio

from meshq.core.instances import Load, Orders, Pause, State
from tests.contract.registry_rigs import (
    DOWN_WITHIN,
    LONG_MS,
    SECOND,
    STEP,
    TTL_MS,
    RegistryRig,
    instance,
    only,
    waiting,
)

# --- a pause --------------------------------------------------------------------------------------------------------------


async def test_a_pause_is_seen_with_its_reason_and_its_end(registries: RegistryRig) -> None:
    owner, reader = await registries.connect(), await registries.connect()
    generation = await owner.register(instance(ttl_ms=LONG_MS))
    before = await reader.snapshot()
    assert await owner.pause("orders", "a", "zu heiß", 60_000, generation)
    after = await reader.snapshot()
    found = only(after)
    assert after.revision > before.revision
    assert (found.state, found.orders) == (State.PAUSED, Orders())
    assert found.pause is not None
    assert found.pause.reason == "zu heiß"
    renewal = await owner.renew("orders", "a", generation, Load())
    assert renewal is not None
    assert before.revision + 60_000 <= found.pause.until_ms <= renewal.now_ms + 60_000
    assert renewal.revision == after.revision, "renewing is no change"


async def test_a_paused_instance_goes_on_renewing(registries: RegistryRig) -> None:
    owner, reader = await registries.connect(), await registries.connect()
    generation = await owner.register(instance())
    assert await owner.pause("orders", "a", "", None, generation)
    begun = only(await reader.snapshot()).last_seen_ms
    for n in range(4):
        await registries.advance(0.6)
        renewal = await owner.renew("orders", "a", generation, Load(n, 16))
        assert renewal is not None
        found = only(await reader.snapshot())
        assert (found.state, found.load, found.last_seen_ms) == (State.PAUSED, Load(n, 16), renewal.now_ms)
    assert found.last_seen_ms > begun + 2 * TTL_MS


async def test_a_pause_ends_by_itself_and_wakes_who_watches(registries: RegistryRig) -> None:
    owner, reader = await registries.connect(), await registries.connect()
    for generation, who in ((await owner.register(instance(ttl_ms=LONG_MS)), "instance"), (None, "operator")):
        assert await owner.pause("orders", "a", who, TTL_MS, generation)
        paused = await reader.snapshot()
        assert only(paused).state is State.PAUSED
        watch = await waiting(reader.changed(paused.revision, 30))
        await registries.advance(1 + STEP)
        async with asyncio.timeout(1):
            assert await watch > paused.revision
        over = await reader.snapshot()
        assert over.revision >= paused.revision + TTL_MS
        assert (only(over).state, only(over).pause, only(over).orders) == (State.READY, None, Orders())


async def test_a_pause_without_an_end_stays_until_it_is_lifted(registries: RegistryRig) -> None:
    owner, reader = await registries.connect(), await registries.connect()
    generation = await owner.register(instance(ttl_ms=LONG_MS))
    for whose in (generation, None):
        assert await owner.pause("orders", "a", "", None, whose)
        paused = await reader.snapshot()
        await registries.advance(3)
        assert only(await reader.snapshot()).state is State.PAUSED
        watch = await waiting(reader.changed(paused.revision, 30))
        async with asyncio.timeout(1):
            assert await owner.resume("orders", "a", whose)
            assert await watch > paused.revision
        assert (only(await reader.snapshot()).state, only(await reader.snapshot()).pause) == (State.READY, None)


async def test_a_later_pause_takes_the_place_of_the_same_ones_earlier_one(registries: RegistryRig) -> None:
    registry = await registries.connect()
    generation = await registry.register(instance(ttl_ms=LONG_MS))
    for whose in (generation, None):
        assert await registry.pause("orders", "a", "for long", 60_000, whose)
        assert await registry.pause("orders", "a", "shorter", TTL_MS, whose)
        found = only(await registry.snapshot())
        pause = found.orders.pause if whose is None else found.pause
        assert pause is not None
        assert pause.reason == "shorter"
        await registries.seen(registry, lambda seen: only(seen).state is State.READY, 1 + SECOND)


async def test_neither_lifts_the_others_pause(registries: RegistryRig) -> None:
    owner, operator = await registries.connect(), await registries.connect()
    generation = await owner.register(instance(ttl_ms=LONG_MS))
    assert await operator.pause("orders", "a", "wait", None, None)
    assert await owner.resume("orders", "a", generation)
    found = only(await operator.snapshot())
    assert (found.state, found.pause, found.orders) == (State.PAUSED, None, Orders(Pause("wait")))
    assert await operator.resume("orders", "a", None)
    assert only(await operator.snapshot()).state is State.READY
    assert await owner.pause("orders", "a", "tired", None, generation)
    assert await operator.resume("orders", "a", None)
    found = only(await operator.snapshot())
    assert (found.state, found.pause, found.orders) == (State.PAUSED, Pause("tired"), Orders())


async def test_of_two_pauses_each_holds(registries: RegistryRig) -> None:
    owner, operator = await registries.connect(), await registries.connect()
    generation = await owner.register(instance(ttl_ms=LONG_MS))
    assert await owner.pause("orders", "a", "tired", TTL_MS, generation)
    assert await operator.pause("orders", "a", "wait", None, None)
    both = only(await operator.snapshot())
    assert (both.state, both.orders.pause) == (State.PAUSED, Pause("wait"))
    assert both.pause is not None
    over = await registries.seen(operator, lambda seen: only(seen).pause is None, 1 + SECOND)
    assert only(over).state is State.PAUSED
    assert await operator.resume("orders", "a", None)
    assert only(await operator.snapshot()).state is State.READY


async def test_a_pause_hides_only_what_could_be_given_work(registries: RegistryRig) -> None:
    registry = await registries.connect()
    generation = await registry.register(instance())
    assert await registry.pause("orders", "a", "", None, generation)
    for told, shown in (
        (State.UNHEALTHY, State.PAUSED),
        (State.STARTING, State.PAUSED),
        (State.DRAINING, State.DRAINING),
        (State.READY, State.PAUSED),
    ):
        await registry.set_state("orders", "a", generation, told)
        assert only(await registry.snapshot()).state is shown
    await registries.advance(1 + STEP)
    assert only(await registry.snapshot()).state is State.PAUSED, "it is no suspect, because those are used"
    await registries.seen(registry, lambda seen: only(seen).state is State.DOWN, DOWN_WITHIN)
    assert await registry.renew("orders", "a", generation, Load()) is not None
    assert only(await registry.snapshot()).state is State.PAUSED


async def test_a_major_whose_instances_are_all_paused_keeps_its_version(registries: RegistryRig) -> None:
    registry = await registries.connect()
    await registry.register(instance("low", "2.1.0", ttl_ms=LONG_MS))
    await registry.register(instance("high", "2.2.0", ttl_ms=LONG_MS))
    for paused, lowest in (("low", "2.2.0"), ("high", "2.2.0")):
        assert await registry.pause("orders", paused, "", None, None)
        assert str((await registry.snapshot()).services["orders"].majors[2]) == lowest
    assert await registry.resume("orders", "low", None)
    assert str((await registry.snapshot()).services["orders"].majors[2]) == "2.1.0"


async def test_nobody_pauses_whom_the_registry_does_not_know(registries: RegistryRig) -> None:
    registry = await registries.connect()
    generation = await registry.register(instance())
    before = (await registry.snapshot()).revision
    for whose in (generation, None):
        for service, ident in (("orders", "b"), ("billing", "a")):
            assert not await registry.pause(service, ident, "", None, whose)
            assert not await registry.resume(service, ident, whose)
            assert not await registry.order_drain(service, ident)
    assert (await registry.snapshot()).revision == before
    assert await registry.resume("orders", "a", generation), "there was nothing to lift, but it is there"
    assert (await registry.snapshot()).revision == before


# --- who registers again --------------------------------------------------------------------------------------------------


async def test_an_operators_pause_outlives_the_process_and_its_own_does_not(registries: RegistryRig) -> None:
    registry = await registries.connect()
    first = await registry.register(instance(ttl_ms=LONG_MS))
    assert await registry.pause("orders", "a", "tired", None, first)
    assert await registry.pause("orders", "a", "wait", 60_000, None)
    ordered = only(await registry.snapshot()).orders
    await registry.register(instance(ttl_ms=LONG_MS))
    found = only(await registry.snapshot())
    assert (found.state, found.pause, found.orders) == (State.PAUSED, None, ordered)
    assert await registry.resume("orders", "a", None)
    await registry.register(instance(ttl_ms=LONG_MS, pause=Pause("still tired")))
    found = only(await registry.snapshot())
    assert (found.state, found.pause, found.orders) == (State.PAUSED, Pause("still tired"), Orders())


async def test_an_operators_pause_is_not_lifted_by_leaving_and_coming_back(registries: RegistryRig) -> None:
    registry = await registries.connect()
    generation = await registry.register(instance(ttl_ms=LONG_MS))
    assert await registry.pause("orders", "a", "wait", None, None)
    assert await registry.pause("orders", "a", "tired", None, generation)
    await registry.deregister("orders", "a", generation)
    assert (await registry.snapshot()).services["orders"].instances == ()
    await registry.register(instance("b", ttl_ms=LONG_MS))
    await registry.register(instance("a", ttl_ms=LONG_MS))
    found = {i.id: (i.state, i.pause, i.orders) for i in (await registry.snapshot()).services["orders"].instances}
    assert found == {
        "a": (State.PAUSED, None, Orders(Pause("wait"))),
        "b": (State.READY, None, Orders()),
    }


async def test_an_operators_pause_that_the_registry_lost_comes_back_with_the_instance(registries: RegistryRig) -> None:
    registry = await registries.connect()
    await registry.register(instance(ttl_ms=LONG_MS))
    assert await registry.pause("orders", "a", "wait", None, None)
    seen = only(await registry.snapshot())
    await registries.lose_data()
    await registry.register(instance(ttl_ms=LONG_MS, orders=seen.orders))
    found = only(await registry.snapshot())
    assert (found.state, found.orders) == (State.PAUSED, seen.orders)


async def test_a_pause_that_was_lifted_does_not_come_back_with_the_instance(registries: RegistryRig) -> None:
    registry = await registries.connect()
    await registry.register(instance(ttl_ms=LONG_MS))
    assert await registry.pause("orders", "a", "wait", None, None)
    seen = only(await registry.snapshot())
    assert await registry.resume("orders", "a", None)
    await registry.register(instance(ttl_ms=LONG_MS, orders=seen.orders))
    assert (only(await registry.snapshot()).state, only(await registry.snapshot()).orders) == (State.READY, Orders())


# --- drain ----------------------------------------------------------------------------------------------------------------


async def test_an_order_to_drain_is_seen_and_is_for_this_process_only(registries: RegistryRig) -> None:
    owner, operator = await registries.connect(), await registries.connect()
    generation = await owner.register(instance(ttl_ms=LONG_MS))
    before = await owner.snapshot()
    watch = await waiting(owner.changed(before.revision, 30))
    async with asyncio.timeout(1):
        assert await operator.order_drain("orders", "a")
        assert await watch > before.revision
    found = only(await owner.snapshot())
    assert (found.state, found.orders) == (State.READY, Orders(drain=True)), "it is the instance that drains"
    await owner.set_state("orders", "a", generation, State.DRAINING)
    found = only(await operator.snapshot())
    assert (found.state, found.orders) == (State.DRAINING, Orders(drain=True))
    await owner.register(instance(ttl_ms=LONG_MS, orders=found.orders))
    assert (only(await owner.snapshot()).state, only(await owner.snapshot()).orders) == (State.READY, Orders())


async def test_an_order_to_drain_leaves_a_pause_alone(registries: RegistryRig) -> None:
    registry = await registries.connect()
    await registry.register(instance(ttl_ms=LONG_MS))
    assert await registry.pause("orders", "a", "wait", None, None)
    assert await registry.order_drain("orders", "a")
    assert only(await registry.snapshot()).orders == Orders(Pause("wait"), drain=True)
    assert await registry.resume("orders", "a", None)
    assert only(await registry.snapshot()).orders == Orders(drain=True)


# --- what it says of itself -------------------------------------------------------------------------------------------------


async def test_metadata_is_replaced(registries: RegistryRig) -> None:
    owner, reader = await registries.connect(), await registries.connect()
    generation = await owner.register(instance(metadata={"zone": "eu-1", "rack": "7"}, ttl_ms=LONG_MS))
    before = await reader.snapshot()
    await owner.describe("orders", "a", generation, {"zone": "eu-2", "büro": "→"})
    after = await reader.snapshot()
    assert only(after).metadata == {"zone": "eu-2", "büro": "→"}
    assert after.revision > before.revision
    await owner.describe("orders", "a", generation, {"zone": "eu-2", "büro": "→"})
    assert (await reader.snapshot()).revision == after.revision, "the same again is no change"
    await owner.describe("orders", "a", generation, {})
    assert only(await reader.snapshot()).metadata == {}
