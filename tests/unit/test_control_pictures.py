"""The registry as the control API sees it, while it answers and while it does not; registrations against one that moves on."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from meshq.control.pictures import Pictures
from meshq.control.registration import Registration
from meshq.control.unreachable import Unreachable
from meshq.core.instances import Instance, Service, Snapshot, State
from meshq.core.names import Version
from tests.control_mesh import soon
from tests.http_tools import within
from tests.told_registry import ToldRegistry

Story = Callable[[Pictures, ToldRegistry], Awaitable[None]]


def told(story: Story) -> None:
    async def run() -> None:
        registry = ToldRegistry()
        pictures = Pictures(registry)
        await pictures.open()
        await story(pictures, registry)
        await pictures.close()

    asyncio.run(run())


def test_the_last_picture_serves_marked_stale() -> None:
    async def story(pictures: Pictures, registry: ToldRegistry) -> None:
        registry.away = "Redis is away"
        with pytest.raises(Unreachable, match="Redis is away; is it running"):
            await pictures.now()
        registry.away = ""
        assert not (await pictures.now()).stale
        registry.away = "Redis is away"
        assert (await pictures.now()).stale
        with pytest.raises(Unreachable):
            await pictures.current()
        registry.away = ""
        assert not (await pictures.current()).stale

    told(story)


def test_without_a_registry() -> None:
    async def run() -> None:
        with pytest.raises(Unreachable, match="set MESHQ_REGISTRY_URL"):
            await Pictures(None).now()

    asyncio.run(run())


def test_the_current_picture_is_taken_only_when_it_changed() -> None:
    async def story(pictures: Pictures, registry: ToldRegistry) -> None:
        for _ in range(3):
            assert (await pictures.current()).revision == 1
        assert registry.snapshots == 1
        registry.change(Snapshot(2, {}))
        assert (await pictures.current()).revision == 2
        assert registry.snapshots == 2

    told(story)


def test_many_who_wait_are_one_who_asks() -> None:
    async def story(pictures: Pictures, registry: ToldRegistry) -> None:
        waiting = [await soon(pictures.after(1, 600)) for _ in range(50)]
        for each in waiting:
            await within(pictures.after(-1, 600))  # who is behind does not wait, nor make the others wait
            assert not each.done()
        before = registry.snapshots
        registry.change(Snapshot(2, {}))
        for each in waiting:
            assert (await within(each)).revision == 2
        assert registry.snapshots == before + 1

    told(story)


def test_who_waits_while_the_registry_is_away_has_the_last_picture_in_the_end() -> None:
    async def story(pictures: Pictures, registry: ToldRegistry) -> None:
        waiting = await soon(pictures.after(1, 0.05))
        registry.change(away="Redis is away")
        found = await within(waiting)
        assert (found.revision, found.stale) == (1, True)
        registry.change()
        again = await soon(pictures.after(1, 600))
        registry.change(Snapshot(3, {}))
        assert (await within(again)).revision == 3

    told(story)


# --- registrations --------------------------------------------------------------------------------------------------------------


def instance(generation: int, state: State = State.READY) -> Instance:
    return Instance("orders", "pod-7", Version(1, 0, 0), (), state, ttl_ms=15_000, generation=generation)


def pictured(revision: int, *instances: Instance) -> Snapshot:
    return Snapshot(revision, {"orders": Service("orders", {}, instances)})


def test_another_replica_was_faster() -> None:
    """The picture is of before its registration: this one is fenced, and registers again."""

    async def story(pictures: Pictures, registry: ToldRegistry) -> None:
        registry.known, registry.generation = True, 5
        registry.change(pictured(2, instance(4)))
        registered = await Registration(pictures).put(instance(0))
        assert (registered.created, registry.generation) == (False, 6)
        registry.change(pictured(3, instance(6)))
        await Registration(pictures).put(instance(0))
        assert registry.said == [("register", State.READY), ("renew", 0)], "and by the next one all is quiet"

    told(story)


def test_one_that_was_given_up_registers_again() -> None:
    async def story(pictures: Pictures, registry: ToldRegistry) -> None:
        registry.known, registry.generation = True, 4
        registry.change(pictured(2, instance(4, State.DOWN)))
        assert (await Registration(pictures).put(instance(0))).created
        assert registry.said == [("register", State.READY)]

    told(story)


def test_a_suspect_is_ready_once_it_renewed() -> None:
    async def story(pictures: Pictures, registry: ToldRegistry) -> None:
        registry.known, registry.generation = True, 4
        registry.change(pictured(2, instance(4, State.SUSPECT)))
        registered = await Registration(pictures).put(instance(0))
        assert (registered.created, registered.instance.state) == (False, State.READY)
        assert registry.said == [("renew", 0)]

    told(story)


def test_nobody_registers_while_the_registry_is_away() -> None:
    async def story(pictures: Pictures, registry: ToldRegistry) -> None:
        registry.away = "Redis is away"
        with pytest.raises(Unreachable, match="Redis is away"):
            await Registration(pictures).put(instance(0))

    told(story)
