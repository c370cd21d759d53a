"""Two pauses, each with its own end."""

from collections.abc import Awaitable, Callable

from meshq.adapters.clock import ManualClock
from meshq.core.instances import Pause
from meshq_sidecar.pausing import Pauses
from tests.virtual_time import pass_time, run


class World:
    def __init__(self, clock: ManualClock) -> None:
        self.clock = clock
        self.changes = 0
        self.pauses = Pauses(clock, self._changed)

    def _changed(self) -> None:
        self.changes += 1

    @property
    def held(self) -> tuple[str | None, str | None]:
        """Reasons: its own, an operator's."""
        own, ordered = self.pauses.own, self.pauses.ordered
        return own and own.reason, ordered and ordered.reason


def story(test: Callable[[World], Awaitable[None]]) -> None:
    clock = ManualClock()

    async def inside() -> None:
        await test(World(clock))

    run(clock, inside())


def test_its_own_ends_by_itself_or_when_it_is_lifted() -> None:
    async def test(world: World) -> None:
        world.pauses.pause("lunch", 60_000)
        await pass_time(59)
        assert world.held == ("lunch", None)
        await pass_time(2)
        assert (world.held, world.changes) == ((None, None), 2)
        world.pauses.pause("for long", None)
        await pass_time(100_000)
        assert world.held == ("for long", None)
        world.pauses.resume()
        assert (world.held, world.changes) == ((None, None), 4)

    story(test)


def test_a_new_one_replaces_the_one_before_and_its_end() -> None:
    async def test(world: World) -> None:
        world.pauses.pause("short", 10_000)
        world.pauses.pause("long", 60_000)
        await pass_time(30)
        assert world.held == ("long", None)
        world.pauses.pause("short", 1000)
        await pass_time(2)
        assert world.held == (None, None)
        await pass_time(60)
        assert world.changes == 4

    story(test)


def test_a_step_of_mesh_time_moves_no_end() -> None:
    async def test(world: World) -> None:
        world.pauses.pause("lunch", 60_000)
        world.clock.learn(world.clock.mesh_ms() + 3_600_000)
        await pass_time(59)
        assert world.held == ("lunch", None)

    story(test)


def test_an_operators_is_another_and_only_the_operator_lifts_it() -> None:
    async def test(world: World) -> None:
        until = world.clock.mesh_ms() + 60_000
        world.pauses.pause("lunch", 120_000)
        world.pauses.obey(Pause("incident", until))
        assert world.held == ("lunch", "incident")
        world.pauses.resume()
        assert world.held == (None, "incident")
        assert world.pauses.ordered is not None
        assert world.pauses.as_pause(world.pauses.ordered) == Pause("incident", until)
        before = world.changes
        world.pauses.obey(Pause("incident", until))
        assert world.changes == before, "the same one, seen again"
        await pass_time(61)
        assert world.held == (None, None)
        world.pauses.obey(Pause("incident", until))
        assert world.held == (None, None), "its time is over, whatever an old picture says"
        world.pauses.obey(Pause("", None))
        world.pauses.obey(None)
        assert world.held == (None, None)

    story(test)


def test_when_it_ends_is_said_in_mesh_time() -> None:
    async def test(world: World) -> None:
        world.pauses.pause("lunch", 60_000)
        assert world.pauses.own is not None
        assert world.pauses.as_pause(world.pauses.own) == Pause("lunch", world.clock.mesh_ms() + 60_000)
        world.pauses.pause("", None)
        assert world.pauses.own is not None
        assert world.pauses.as_pause(world.pauses.own) == Pause("", None)
        world.pauses.close()

    story(test)
