"""The registry as the control API sees it, while it answers and while it does not; registrations against one that moves on."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from meshq.control.pictures import Pictures
from meshq.control.registration import Registration
from meshq.control.unreachable import Unreachable
from meshq.core.errors import Code, Refused
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


def test_those_who_begin_to_wait_cost_no_picture_each() -> None:
    async def story(pictures: Pictures, registry: ToldRegistry) -> None:
        waiting = [await soon(pictures.after(1, 600)) for _ in range(50)]
        await within(pictures.after(-1, 600))
        assert registry.snapshots == 1
        registry.change(Snapshot(2, {}))
        waiting += [await soon(pictures.after(1, 600)) for _ in range(50)]
        for each in waiting:
            assert (await within(each)).revision == 2
        assert registry.snapshots == 2, "also where they come at once"

    told(story)


def test_who_begins_to_wait_while_the_registry_is_away() -> None:
    async def story(pictures: Pictures, registry: ToldRegistry) -> None:
        registry.change(away="Redis is away")
        with pytest.raises(Unreachable):
            await pictures.after(0, 600)
        registry.change()
        assert not (await pictures.current()).stale
        registry.change(away="Redis is away")
        behind = await within(pictures.after(0, 600))
        assert (behind.revision, behind.stale) == (1, True)
        waiting = await soon(pictures.after(1, 600))
        registry.change(Snapshot(2, {}))
        assert not (await within(waiting)).stale

    told(story)


class SlowRegistry(ToldRegistry):
    """Its pictures wait for `let`."""

    def __init__(self) -> None:
        super().__init__()
        self.let = asyncio.Event()
        self.asked = 0

    async def snapshot(self) -> Snapshot:
        self.asked += 1
        await self.let.wait()
        return await super().snapshot()


@pytest.mark.parametrize("away", ["", "Redis is away"])
def test_those_who_want_a_picture_at_once_share_what_comes_of_it(away: str) -> None:
    """Also that nothing comes: else each would wait until the registry is given up, one after the other."""

    async def run() -> None:
        registry = SlowRegistry()
        pictures = Pictures(registry)
        first = await soon(pictures.current())
        wanting = [await soon(pictures.current()) for _ in range(50)]
        gone = await soon(pictures.current())
        first.cancel()  # it hung up; what it asked for is nobody's
        gone.cancel()
        registry.change(away=away)
        registry.let.set()
        await asyncio.wait([first, *wanting])
        for each in wanting:
            if away:
                assert isinstance(each.exception(), Unreachable)
            else:
                assert each.result().revision == 1
        assert registry.asked == 2
        await pictures.close()

    asyncio.run(run())


def test_more_than_so_many_are_overloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("meshq.control.pictures.MAX_WAITING", 3)

    async def story(pictures: Pictures, registry: ToldRegistry) -> None:
        await pictures.current()
        waiting = [await soon(pictures.after(1, 600)) for _ in range(4)]
        done, left = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        (error,) = (each.exception() for each in done)
        assert isinstance(error, Refused)
        assert error.problem.code is Code.OVERLOADED
        assert (await within(pictures.after(0, 600))).revision == 1, "who is behind does not wait"
        registry.change(Snapshot(2, {}))
        for each in left:
            assert (await within(each)).revision == 2
        again = await soon(pictures.after(2, 600))
        registry.change(Snapshot(3, {}))
        assert (await within(again)).revision == 3

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


@pytest.mark.parametrize("wanted", [State.DRAINING, State.UNHEALTHY, State.STARTING, State.PAUSED])
def test_what_a_suspect_says_of_itself_is_stored(wanted: State) -> None:
    async def story(pictures: Pictures, registry: ToldRegistry) -> None:
        registry.known, registry.generation = True, 4
        registry.change(pictured(2, instance(4, State.SUSPECT)))
        registered = await Registration(pictures).put(instance(0, wanted))
        assert registered.instance.state is wanted
        assert registry.said == [("renew", 0), ("state", wanted)]

    told(story)


def test_nobody_registers_while_the_registry_is_away() -> None:
    async def story(pictures: Pictures, registry: ToldRegistry) -> None:
        registry.away = "Redis is away"
        with pytest.raises(Unreachable, match="Redis is away"):
            await Registration(pictures).put(instance(0))

    told(story)
