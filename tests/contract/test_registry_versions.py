"""What a registry keeps of versions, over every one there is: route policies, who calls which major, retiring one."""

from types import MappingProxyType

import pytest

from meshq.core.instances import Load, State
from meshq.core.policy import Deprecation, Mirror, Policy, Retry, WhenAbsent
from tests.contract.registry_rigs import DOWN_WITHIN, LONG_MS, STEP, RegistryRig, instance, majors, only

WHOLE = Policy(
    "orders",
    weights=MappingProxyType({1: 90, 2: 10}),
    sticky="x-user",
    mirror=Mirror(3, 5.5),
    fallback=(1, 2),
    when_absent=WhenAbsent.FALLBACK,
    deprecated=MappingProxyType({1: Deprecation(1_700_000_000_000, 1_801_353_600_000, "https://example.com/migrate")}),
    timeout_ms=10_000,
    retry=Retry(4, (1.0, 2.5, 30.0)),
    backlog_limit=100_000,
    allow=frozenset({"checkout", "gateway"}),
)

# --- policies -------------------------------------------------------------------------------------------------------------


async def test_a_policy_is_seen_as_it_was_put(registries: RegistryRig) -> None:
    operator, reader = await registries.connect(), await registries.connect()
    await operator.register(instance(ttl_ms=LONG_MS))
    revisions = [(await reader.snapshot()).revision]
    for policy in (WHOLE, Policy("orders", allow=frozenset()), Policy("orders", weights=MappingProxyType({2: 1}))):
        await operator.put_policy("orders", policy)
        picture = await reader.snapshot()
        assert picture.policies == {"orders": policy}
        revisions.append(picture.revision)
        await operator.put_policy("orders", policy)
        assert (await reader.snapshot()).revision == picture.revision, "the same again is no change"
    await operator.put_policy("orders", None)
    gone = await reader.snapshot()
    assert gone.policies == {}
    revisions.append(gone.revision)
    assert revisions == sorted(set(revisions))
    await operator.put_policy("orders", None)
    assert (await reader.snapshot()).revision == gone.revision


async def test_a_policy_needs_no_registration_and_is_none(registries: RegistryRig) -> None:
    operator, reader = await registries.connect(), await registries.connect()
    await operator.put_policy("orders", WHOLE)
    await operator.put_policy("billing", Policy("billing", sticky="x-user"))
    picture = await reader.snapshot()
    assert picture.policies == {"orders": WHOLE, "billing": Policy("billing", sticky="x-user")}
    assert picture.services == {}, "nobody ever registered"
    generation = await operator.register(instance())
    await operator.deregister("orders", "a", generation)
    await operator.put_policy("billing", None)
    picture = await reader.snapshot()
    assert picture.policies == {"orders": WHOLE}
    assert set(picture.services) == {"orders"}


# --- callers --------------------------------------------------------------------------------------------------------------


async def test_callers_are_known_by_the_major_they_call(registries: RegistryRig) -> None:
    caller, reader = await registries.connect(), await registries.connect()
    generation = await reader.register(instance())
    before = await reader.renew("orders", "a", generation, Load())
    assert await reader.callers("orders") == {}
    await caller.called("checkout", ["orders.v1", "orders.v2", "billing.v1"])
    await caller.called("gateway", ["orders.v2"])
    await caller.called("gateway", [])
    after = await reader.renew("orders", "a", generation, Load())
    assert before is not None
    assert after is not None
    assert before.revision == after.revision, "that is no change of the picture"
    found = await reader.callers("orders")
    assert set(found) == {(1, "checkout"), (2, "checkout"), (2, "gateway")}
    assert all(before.now_ms <= at <= after.now_ms for at in found.values())
    assert set(await reader.callers("billing")) == {(1, "checkout")}
    assert await reader.callers("shop") == {}


async def test_a_caller_is_known_by_the_last_time_it_said_so(registries: RegistryRig) -> None:
    registry = await registries.connect()
    await registry.called("checkout", ["orders.v1", "orders.v2"])
    first = await registry.callers("orders")
    await registries.advance(0.5)
    await registry.called("checkout", ["orders.v2"])
    second = await registry.callers("orders")
    assert second[1, "checkout"] == first[1, "checkout"]
    assert second[2, "checkout"] > first[2, "checkout"]


# --- retiring -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", [State.STARTING, State.READY, State.UNHEALTHY, State.PAUSED, State.DRAINING])
async def test_a_major_that_is_served_is_not_retired(registries: RegistryRig, state: State) -> None:
    registry = await registries.connect()
    generation = await registry.register(instance(version="2.3.1", majors=(1, 2), state=state, ttl_ms=LONG_MS))
    before = await registry.snapshot()
    for major in (1, 2):
        assert not await registry.retire("orders", major)
    assert await registry.snapshot() == before
    await registry.deregister("orders", "a", generation)
    assert await registry.retire("orders", 1)
    assert majors(await registry.snapshot()) == {2: "2.3.1"}


async def test_a_suspect_still_serves_and_who_is_down_does_not(registries: RegistryRig) -> None:
    registry = await registries.connect()
    generation = await registry.register(instance("a", "1.0.0"))
    await registry.register(instance("b", "2.0.0", ttl_ms=LONG_MS))
    await registries.advance(1 + STEP)
    assert not await registry.retire("orders", 1)
    await registries.seen(
        registry, lambda seen: State.DOWN in {i.state for i in seen.services["orders"].instances}, DOWN_WITHIN
    )
    assert await registry.retire("orders", 1)
    assert majors(await registry.snapshot()) == {2: "2.0.0"}
    assert await registry.renew("orders", "a", generation, Load()) is not None
    assert majors(await registry.snapshot()) == {1: "1.0.0", 2: "2.0.0"}, "it was not gone, after all"


async def test_the_service_goes_with_its_last_major(registries: RegistryRig) -> None:
    registry = await registries.connect()
    for version in ("1.0.0", "2.0.0"):
        generation = await registry.register(instance("a", version))
    await registry.deregister("orders", "a", generation)
    await registry.register(instance("b", service="billing", ttl_ms=LONG_MS))
    revisions = [(await registry.snapshot()).revision]
    assert await registry.retire("orders", 2)
    picture = await registry.snapshot()
    assert majors(picture) == {1: "1.0.0"}
    revisions.append(picture.revision)
    assert await registry.retire("orders", 1)
    picture = await registry.snapshot()
    assert set(picture.services) == {"billing"}
    revisions.append(picture.revision)
    assert revisions == sorted(set(revisions))
    await registry.register(instance("a", "2.1.0"))
    assert majors(await registry.snapshot()) == {2: "2.1.0"}


async def test_who_was_down_when_its_service_went_registers_again(registries: RegistryRig) -> None:
    registry = await registries.connect()
    generation = await registry.register(instance())
    await registries.seen(registry, lambda seen: only(seen).state is State.DOWN, DOWN_WITHIN)
    assert await registry.retire("orders", 2)
    assert (await registry.snapshot()).services == {}
    assert await registry.renew("orders", "a", generation, Load()) is None
    again = await registry.register(instance())
    assert again > generation
    assert only(await registry.snapshot()).state is State.READY


async def test_a_major_that_was_retired_does_not_come_back_by_itself(registries: RegistryRig) -> None:
    registry = await registries.connect()
    await registry.register(instance("a", "1.0.0"))
    await registry.register(instance("b", "2.0.0", ttl_ms=LONG_MS))
    await registries.seen(
        registry, lambda seen: State.DOWN in {i.state for i in seen.services["orders"].instances}, DOWN_WITHIN
    )
    assert await registry.retire("orders", 1)
    await registry.pause("orders", "a", "of one that is gone", None, None)
    assert majors(await registry.snapshot()) == {2: "2.0.0"}
    await registry.register(instance("a", "2.1.0", ttl_ms=LONG_MS))
    assert majors(await registry.snapshot()) == {2: "2.0.0"}, "it has another version now"


async def test_a_service_that_only_calls_stays_without_its_last_major(registries: RegistryRig) -> None:
    registry = await registries.connect()
    await registry.register(instance("calls", majors=(), ttl_ms=LONG_MS))
    generation = await registry.register(instance("serves", ttl_ms=LONG_MS))
    await registry.deregister("orders", "serves", generation)
    assert await registry.retire("orders", 2)
    picture = await registry.snapshot()
    assert (only(picture).id, majors(picture)) == ("calls", {})


async def test_what_is_not_there_is_retired_already(registries: RegistryRig) -> None:
    registry = await registries.connect()
    assert await registry.retire("orders", 1)
    generation = await registry.register(instance(version="2.0.0", ttl_ms=LONG_MS))
    before = await registry.snapshot()
    assert await registry.retire("orders", 1)
    assert await registry.snapshot() == before
    assert await registry.renew("orders", "a", generation, Load()) is not None
