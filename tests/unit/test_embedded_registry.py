"""What the embedded registry does beyond the contract suite: forgetting, and the file that outlives a restart."""

import asyncio
from pathlib import Path

import uvloop

from meshq.adapters.clock import ManualClock, SystemClock
from meshq.adapters.embedded_registry import EmbeddedRegistryHub
from meshq.core.instances import FORGET_AFTER_MS, TTL_MS, Load, State
from tests.contract.registry_rigs import instance


def test_who_is_down_for_long_is_forgotten() -> None:
    clock = ManualClock()
    hub = EmbeddedRegistryHub(clock)
    generation = hub.register(instance())
    clock.advance((2 * TTL_MS + FORGET_AFTER_MS - 1) / 1000)
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


def test_a_file_that_is_not_ours_is_not_used(tmp_path: Path) -> None:
    path = tmp_path / "registry.json"
    for content in (
        "",
        "[]",
        "{",
        '{"orders": 1}',
        '{"Orders!": {}}',
        '{"orders": {"2": "two"}}',
        '{"orders": {"2": 3}}',
    ):
        path.write_text(content)
        hub = EmbeddedRegistryHub(ManualClock(), path)
        assert hub.snapshot().services == {}
        hub.register(instance())
        assert set(EmbeddedRegistryHub(ManualClock(), path).snapshot().services) == {"orders"}
