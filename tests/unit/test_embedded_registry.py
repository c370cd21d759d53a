"""What the embedded registry does beyond the contract suite: what takes minutes or a day, and the file that outlives a restart."""

import asyncio
from collections import Counter
from pathlib import Path
from random import Random

import pytest
import uvloop

from meshq.adapters.clock import ManualClock, SystemClock
from meshq.adapters.embedded_registry import EmbeddedRegistryHub
from meshq.core.eviction import GUARD_MOST_MS, SECOND_MS, allowance
from meshq.core.instances import FORGET_AFTER_MS, TTL_MS, Load, Orders, Pause, State
from meshq.core.policy import Policy, WhenAbsent
from tests.contract.registry_rigs import instance


def test_who_is_down_for_long_is_forgotten() -> None:
    clock = ManualClock()
    hub = EmbeddedRegistryHub(clock)
    generation = hub.register(instance())
    clock.advance(2 * TTL_MS / 1000)
    assert [i.state for i in hub.snapshot().services["orders"].instances] == [State.DOWN]
    clock.advance((FORGET_AFTER_MS - 1) / 1000)
    before = hub.snapshot()
    assert [i.state for i in before.services["orders"].instances] == [State.DOWN]
    clock.advance(0.001)
    after = hub.snapshot()
    assert after.services["orders"].instances == ()
    assert after.revision > before.revision
    assert hub.renew("orders", "a", generation, Load()) is None


def test_a_lease_ends_to_the_millisecond() -> None:
    clock = ManualClock()
    hub = EmbeddedRegistryHub(clock)
    hub.register(instance())
    states = []
    for milliseconds in (TTL_MS - 1, 1, TTL_MS - 1, 1):
        clock.advance(milliseconds / 1000)
        states += [i.state for i in hub.snapshot().services["orders"].instances]
    assert states == [State.READY, State.SUSPECT, State.SUSPECT, State.DOWN]


def states(hub: EmbeddedRegistryHub) -> Counter[State]:
    return Counter(i.state for service in hub.snapshot().services.values() for i in service.instances)


def test_who_was_silent_for_long_is_given_up_though_the_guard_holds() -> None:
    clock = ManualClock()
    hub = EmbeddedRegistryHub(clock)
    for n in range(200):
        hub.register(instance(f"silent-{n}", service=f"service-{n % 3}"))
    clock.advance((GUARD_MOST_MS - 1) / 1000)
    assert (states(hub), hub.snapshot().holding) == ({State.SUSPECT: 200}, True)
    clock.advance(0.001)
    left = [200]
    while left[-1]:
        left.append(states(hub)[State.SUSPECT])
        assert left[-2] - left[-1] == min(left[-2], allowance(left[-2]))
        clock.advance((SECOND_MS - 1) / 1000)
        assert states(hub)[State.SUSPECT] == left[-1], "not within the same second"
        clock.advance(0.001)
    assert not hub.snapshot().holding
    clock.advance(FORGET_AFTER_MS / 1000)
    assert states(hub) == {}


def test_when_one_is_back_the_others_have_time_to_come_back_too() -> None:
    clock = ManualClock()
    hub = EmbeddedRegistryHub(clock)
    hub.register(instance("lost"))
    generation = hub.register(instance("back"))
    clock.advance((2 * TTL_MS - 1000) / 1000)
    assert hub.renew("orders", "back", generation, Load()) is not None
    clock.advance(1)
    assert (states(hub)[State.SUSPECT], hub.snapshot().holding) == (1, True), "else it were down now"
    for _ in range(6):
        clock.advance((2 * TTL_MS - 1000) / 1000 / 6)
        assert hub.renew("orders", "back", generation, Load()) is not None
    assert (states(hub), hub.snapshot().holding) == ({State.READY: 1, State.DOWN: 1}, False)


def test_those_who_are_given_up_first_are_drawn() -> None:
    def first(seed: int) -> set[str]:
        clock = ManualClock()
        hub = EmbeddedRegistryHub(clock, chance=Random(seed))
        for n in range(100):
            hub.register(instance(f"silent-{n}"))
        clock.advance(GUARD_MOST_MS / 1000)
        return {i.id for i in hub.snapshot().services["orders"].instances if i.state is State.DOWN}

    assert first(1) == first(1) != first(2)
    assert len(first(1)) == len(first(2)) == allowance(100)


def test_changed_wakes_by_itself_when_one_may_go_after_another() -> None:
    async def story() -> None:
        hub = EmbeddedRegistryHub(SystemClock(), ttl_ms=50)
        for ident in ("a", "b"):
            hub.register(instance(ident))
        revision, down = hub.snapshot().revision, []
        async with asyncio.timeout(5):
            while states(hub)[State.DOWN] < 2:
                revision = await hub.changed(revision, 60)
                down.append((states(hub)[State.DOWN], revision))
        (first,) = (at for count, at in down if count == 1)
        assert down[-1][1] - first >= SECOND_MS - 1

    uvloop.run(story())


def test_callers_are_kept_for_a_day() -> None:
    clock = ManualClock()
    hub = EmbeddedRegistryHub(clock)
    said = clock.mesh_ms()
    hub.called("checkout", ["orders.v1", "orders.v2"])
    clock.advance(12 * 3600)
    hub.called("gateway", ["orders.v2"])
    clock.advance(12 * 3600 - 0.001)
    day = {(1, "checkout"): said, (2, "checkout"): said, (2, "gateway"): said + 12 * 3_600_000}
    assert hub.callers("orders") == day
    clock.advance(0.001)
    assert hub.callers("orders") == {(2, "gateway"): said + 12 * 3_600_000}


def test_a_pause_of_one_who_left_is_remembered_for_a_while() -> None:
    for seconds, orders in (((FORGET_AFTER_MS - 1) / 1000, Orders(Pause("wait"))), (FORGET_AFTER_MS / 1000, Orders())):
        clock = ManualClock()
        hub = EmbeddedRegistryHub(clock)
        generation = hub.register(instance())
        assert hub.pause("orders", "a", "wait", None, None)
        hub.deregister("orders", "a", generation)
        clock.advance(seconds)
        hub.register(instance())
        assert [i.orders for i in hub.snapshot().services["orders"].instances] == [orders]


def test_changed_wakes_by_itself_when_a_pause_is_over() -> None:
    async def story() -> None:
        hub = EmbeddedRegistryHub(SystemClock())
        generation = hub.register(instance())
        hub.pause("orders", "a", "", 100, generation)
        async with asyncio.timeout(5):
            await hub.changed(hub.snapshot().revision, 60)
        assert states(hub) == {State.READY: 1}

    uvloop.run(story())


def test_changed_wakes_by_itself_when_a_lease_runs_out() -> None:
    async def story() -> None:
        hub = EmbeddedRegistryHub(SystemClock(), ttl_ms=100)
        hub.register(instance())
        revision = hub.snapshot().revision
        states = []
        async with asyncio.timeout(5):
            for _ in range(2):
                revision = await hub.changed(revision, 60)
                states += [i.state for i in hub.snapshot().services["orders"].instances]
        assert states == [State.SUSPECT, State.DOWN]

    uvloop.run(story())


def test_a_snapshot_does_not_change_afterwards() -> None:
    clock = ManualClock()
    hub = EmbeddedRegistryHub(clock)
    hub.register(instance("a"))
    before = hub.snapshot()
    hub.register(instance("b", "2.0.0"))
    clock.advance(60)
    assert [(i.id, i.state) for i in before.services["orders"].instances] == [("a", State.READY)]
    assert str(before.services["orders"].majors[2]) == "2.3.1"


def test_versions_are_known_after_a_restart_and_instances_are_not(tmp_path: Path) -> None:
    path = tmp_path / "state" / "registry.json"
    clock = ManualClock()
    first = EmbeddedRegistryHub(clock, path)
    generation = first.register(instance(version="2.3.1-rc.1+7"))
    first.deregister("orders", "a", generation)
    revision = first.snapshot().revision
    clock.advance(1)
    second = EmbeddedRegistryHub(clock, path)
    picture = second.snapshot()
    assert picture.services["orders"].instances == ()
    assert {major: str(version) for major, version in picture.services["orders"].majors.items()} == {2: "2.3.1-rc.1+7"}
    assert picture.revision > revision
    assert second.renew("orders", "a", generation, Load()) is None


def test_policies_are_known_after_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "registry.json"
    clock = ManualClock()
    policies = {
        "billing": Policy("billing", allow=frozenset({"orders"})),
        "orders": Policy("orders", weights={1: 90, 2: 10}, fallback=(1,), when_absent=WhenAbsent.FALLBACK),
    }
    first = EmbeddedRegistryHub(clock, path)
    for name, policy in policies.items():
        first.put_policy(name, policy)
    first.put_policy("shop", Policy("shop"))
    first.put_policy("shop", None)
    clock.advance(1)
    second = EmbeddedRegistryHub(clock, path)
    picture = second.snapshot()
    assert (picture.policies, picture.services) == (policies, {})
    assert picture.revision > first.snapshot().revision
    assert picture.epoch != first.snapshot().epoch


def test_what_was_retired_is_not_known_after_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "registry.json"
    hub = EmbeddedRegistryHub(ManualClock(), path)
    for version in ("1.0.0", "2.0.0"):
        generation = hub.register(instance("a", version))
    hub.deregister("orders", "a", generation)
    assert hub.retire("orders", 1)
    assert set(EmbeddedRegistryHub(ManualClock(), path).snapshot().services["orders"].majors) == {2}
    assert hub.retire("orders", 2)
    assert EmbeddedRegistryHub(ManualClock(), path).snapshot().services == {}


def test_a_file_that_cannot_be_written_costs_nothing_but_itself(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "registry.json.new").mkdir()
    hub = EmbeddedRegistryHub(ManualClock(), tmp_path / "registry.json")
    hub.register(instance())
    assert states(hub) == {State.READY: 1}
    assert "are not kept" in caplog.text


def test_a_file_that_is_not_ours_is_not_used(tmp_path: Path) -> None:
    path = tmp_path / "registry.json"
    for content in (
        "",
        "[]",
        "{",
        '{"majors": {}}',
        '{"majors": {}, "policies": []}',
        '{"majors": {"orders": 1}, "policies": {}}',
        '{"majors": {"Orders!": {}}, "policies": {}}',
        '{"majors": {"orders": {"2": "two"}}, "policies": {}}',
        '{"majors": {"orders": {"2": 3}}, "policies": {}}',
        '{"majors": {}, "policies": {"orders": {"weights": 7}}}',
    ):
        path.write_text(content)
        hub = EmbeddedRegistryHub(ManualClock(), path)
        assert hub.snapshot().services == {}
        hub.register(instance())
        assert set(EmbeddedRegistryHub(ManualClock(), path).snapshot().services) == {"orders"}
