"""An instance's place in the registry: registered, renewed, told, and taken up again after any loss."""

import asyncio
import logging
from collections.abc import Awaitable, Callable

import pytest

from meshq.adapters.clock import ManualClock
from meshq.core.instances import EMPTY, Instance, Load, Renewal, Service, Snapshot, State
from meshq.core.names import parse_version
from meshq.ports import Fenced, RegistryAway
from meshq_sidecar import membership
from meshq_sidecar.membership import Membership
from tests.doubles import until

ME = Instance("orders", "i-1", parse_version("2.1.0"), (2,), State.STARTING)


class Registry:
    """`ports.Registry` of one instance; what it does next is up to the test."""

    def __init__(self) -> None:
        self.said: list[tuple[object, ...]] = []
        self.away = ""
        self.fenced = False
        self.known = False
        self.generation = 0
        self.picture = Snapshot(1, {"orders": Service("orders", {2: ME.version})})
        self.snapshots = 0
        self._changed = asyncio.Event()

    def _check(self, generation: int | None = None) -> None:
        if self.away:
            raise RegistryAway(self.away)
        if generation is not None and (self.fenced or generation != self.generation):
            raise Fenced

    async def open(self) -> None: ...
    async def close(self) -> None: ...

    async def register(self, instance: Instance) -> int:
        self._check()
        self.generation += 1
        self.known = True
        self.said.append(("register", instance.state))
        return self.generation

    async def renew(self, service: str, instance: str, generation: int, load: Load) -> Renewal | None:
        self._check(generation)
        self.said.append(("renew", load.in_flight))
        return Renewal(2_000_000_000_000, self.picture.revision) if self.known else None

    async def set_state(self, service: str, instance: str, generation: int, state: State) -> None:
        self._check(generation)
        self.said.append(("state", state))

    async def deregister(self, service: str, instance: str, generation: int) -> None:
        self._check(generation)
        self.said.append(("deregister", instance))

    async def snapshot(self) -> Snapshot:
        self._check()
        self.snapshots += 1
        return self.picture

    async def changed(self, revision: int, timeout: float) -> int:
        while self.picture.revision == revision and not self.away:
            self._changed.clear()
            await self._changed.wait()
        self._check()
        return self.picture.revision

    def change(self, picture: Snapshot | None = None, away: str = "") -> None:
        self.picture, self.away = picture or self.picture, away
        self._changed.set()


class World:
    def __init__(self) -> None:
        self.registry = Registry()
        self.clock = ManualClock()
        self.pictures = 0
        self.member = Membership(self.registry, self.clock, ME, lambda: Load(3, 16), self._on_picture)

    def _on_picture(self) -> None:
        self.pictures += 1


def run(test: Callable[[World], Awaitable[None]], monkeypatch: pytest.MonkeyPatch) -> None:
    """With every wait of the loops made short but the one between renewals, which only what is told may cut short."""
    monkeypatch.setattr(membership, "AWAY_BACKOFF", 0.001)
    monkeypatch.setattr(membership, "SNAPSHOT_GAP", 0.0)
    monkeypatch.setattr(membership, "RENEW_EVERY", 3600)

    async def inside() -> None:
        world = World()
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(world.member.keep()), group.create_task(world.member.follow())]
            await test(world)
            for task in tasks:
                task.cancel()

    asyncio.run(inside())


def test_it_registers_renews_and_tells_its_state(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(world: World) -> None:
        said = world.registry.said
        await until(lambda: len(said) == 2)
        assert said == [("register", State.STARTING), ("renew", 3)]
        assert world.clock.mesh_ms() == 2_000_000_000_000
        world.member.set_state(State.STARTING)
        world.member.set_state(State.READY)
        await until(lambda: len(said) == 4)
        assert said[2:] == [("state", State.READY), ("renew", 3)]
        assert (world.member.state, world.member.instance.state) == (State.READY, State.READY)
        await world.member.leave()
        assert said[-1] == ("deregister", "i-1")

    run(test, monkeypatch)


def test_a_registry_that_lost_its_data_is_told_again_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(world: World) -> None:
        said = world.registry.said
        await until(lambda: len(said) == 2)
        world.registry.known = False
        world.member.set_state(State.READY)
        await until(lambda: len(said) == 6)
        assert said[2:] == [("state", State.READY), ("renew", 3), ("register", State.READY), ("renew", 3)]

    run(test, monkeypatch)


def test_a_registry_that_is_away_is_asked_until_it_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(world: World) -> None:
        await until(lambda: world.member.pictured and world.registry.said)
        assert world.member.fault == ""
        world.registry.change(away="no redis")
        await until(lambda: world.member.picture.stale)
        assert (world.member.fault, world.member.picture.services) == ("no redis", world.registry.picture.services)
        world.member.set_state(State.READY)
        world.registry.change(away="")
        await until(lambda: ("state", State.READY) in world.registry.said and world.member.fault == "")

    run(test, monkeypatch)


def test_before_the_first_picture_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(world: World) -> None:
        world.registry.away = "no redis"
        assert (world.member.picture, world.member.pictured) == (EMPTY, False)
        assert world.member.fault == "the registry was not reached yet"
        await until(lambda: world.member.fault == "no redis")
        assert (world.member.pictured, world.pictures) == (False, 0)
        world.registry.change(away="")
        await until(lambda: world.member.pictured)
        assert world.pictures == 1

    run(test, monkeypatch)


def test_every_change_is_seen_also_one_backwards(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(world: World) -> None:
        await until(lambda: world.pictures == 1)
        for number, revision in enumerate((5, 9, 2), start=2):
            world.registry.change(Snapshot(revision, {}))
            await until(lambda number=number: world.pictures == number)
            assert world.member.picture.revision == revision
        assert world.registry.snapshots == 4

    run(test, monkeypatch)


OTHERS = Snapshot(9, {"billing": Service("billing", {1: ME.version})})


@pytest.mark.parametrize("loss", ["away", "emptied"])
def test_those_it_forgot_are_kept_until_they_had_time_to_return(loss: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(world: World) -> None:
        world.registry.picture = OTHERS
        await until(lambda: world.member.picture is OTHERS)
        if loss == "away":
            world.registry.change(away="no redis")
            await until(lambda: world.member.picture.stale)
            world.registry.change(Snapshot(9, {}))
        else:
            world.registry.change(Snapshot(2, {}))
        await until(lambda: world.pictures == 2)
        assert (set(world.member.picture.services), world.member.picture.stale) == ({"billing"}, True)
        world.clock.advance(membership.RETURN_WITHIN)
        world.registry.change(Snapshot(10, {}))
        await until(lambda: world.member.picture.revision == 10)
        assert (set(world.member.picture.services), world.member.picture.stale) == (set(), False)

    run(test, monkeypatch)


def test_one_that_is_fenced_says_so_and_stops(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def test(world: World) -> None:
        await until(lambda: world.registry.said and world.member.pictured)
        world.registry.change(away="no redis")
        await until(lambda: world.member.fault == "no redis")
        world.registry.fenced = True
        world.member.set_state(State.READY)
        world.registry.change(away="")
        await until(lambda: world.member.fenced)
        said = list(world.registry.said)
        assert "give each its own MESHQ_INSTANCE" in world.member.fault
        world.registry.change(Snapshot(9, {}))
        await until(lambda: world.member.picture.revision == 9)
        assert "MESHQ_INSTANCE" in world.member.fault, "a good picture does not make it well"
        await world.member.leave()
        assert world.registry.said == said, "the id is another's now"

    run(test, monkeypatch)
    assert "MESHQ_INSTANCE" in caplog.text


def test_leaving_a_registry_that_is_away_is_no_fault(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)

    async def test(world: World) -> None:
        await until(lambda: world.registry.said)
        world.registry.away = "no redis"
        await world.member.leave()

    run(test, monkeypatch)
    assert "not deregistered: no redis" in caplog.text
