"""An instance's place in the registry: registered, renewed, told, and taken up again after any loss."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest

from meshq.adapters.clock import ManualClock
from meshq.core.instances import RENEW_EVERY, Instance, Load, Orders, Pause, State
from meshq.core.names import parse_version
from meshq.core.reports import Report
from meshq.core.usage import Usage
from meshq_sidecar.membership import AWAY_MOST, Membership
from meshq_sidecar.pausing import Held
from tests.told_registry import NOW_MS, ToldRegistry
from tests.virtual_time import pass_time, run, until

ME = Instance("orders", "i-1", parse_version("2.1.0"), (2,), State.STARTING)
REPORT = Report(slots=16)


class World:
    def __init__(self, clock: ManualClock) -> None:
        self.registry = ToldRegistry()
        self.said = self.registry.said
        self.clock = clock
        self.usage = Usage()
        self.fences = 0
        self.member = Membership(
            self.registry, clock, ME, lambda: Load(3, 16), lambda: REPORT, lambda: self.usage, self._fenced
        )

    def _fenced(self) -> None:
        self.fences += 1

    def renewals(self) -> int:
        return self.said.count(("renew", 3))


def story(test: Callable[[World], Awaitable[None]]) -> None:
    clock = ManualClock()

    async def inside() -> None:
        world = World(clock)
        async with asyncio.TaskGroup() as group:
            keeping = group.create_task(world.member.keep())
            await test(world)
            keeping.cancel()

    run(clock, inside())


async def registered(world: World) -> None:
    await until(lambda: world.renewals() == 1)
    assert world.said == [("register", State.STARTING), ("renew", 3)]
    world.said.clear()


def test_it_registers_and_renews_every_third_of_its_lease() -> None:
    async def test(world: World) -> None:
        await registered(world)
        assert world.registry.registered == [replace(ME, load=Load(3, 16))]
        assert world.registry.report is REPORT
        assert 0 <= world.clock.mesh_ms() - NOW_MS < 100
        assert world.member.fault == ""
        await pass_time(RENEW_EVERY * 1.1 * 10)
        assert 10 <= world.renewals() <= 12
        assert world.said == [("renew", 3)] * world.renewals()

    story(test)


def test_what_changes_is_told_at_once() -> None:
    async def test(world: World) -> None:
        await registered(world)
        before = world.clock.monotonic()
        world.member.set_state(State.STARTING)  # it is that already
        world.member.set_state(State.READY)
        world.member.describe({"zone": "a"})
        world.member.set_pause(Held("lunch", world.clock.monotonic() + 60))
        await until(lambda: world.renewals() == 1)
        assert world.said[:3] == [("state", State.READY), ("pause", "lunch", 60_000), ("describe", {"zone": "a"})]
        world.member.set_pause(None)
        await until(lambda: world.renewals() == 2)
        assert world.said[4:] == [("resume",), ("renew", 3)]
        assert world.clock.monotonic() - before < 1
        await world.member.leave()
        assert world.said[-1] == ("deregister", "i-1")

    story(test)


def test_a_registry_that_lost_its_data_is_told_all_of_it_again_at_once() -> None:
    async def test(world: World) -> None:
        orders = Orders(Pause("an operator's", NOW_MS + 1), drain=True)
        await registered(world)
        world.member.ordered(orders)
        world.member.describe({"zone": "a"})
        world.member.set_state(State.READY)
        world.member.set_pause(Held("lunch", world.clock.monotonic() + 60))
        await until(lambda: world.renewals() == 1)
        world.said.clear()
        await pass_time(1)
        world.registry.known = False
        await until(lambda: world.renewals() == 2)
        # Paused from the first moment on; until when, is said by what is left of it.
        left = world.said[2][2]
        assert isinstance(left, int)
        assert 53_000 <= left < 59_000
        assert world.said == [("renew", 3), ("register", State.READY), ("pause", "lunch", left), ("renew", 3)]
        again = world.registry.registered[-1]
        assert (again.state, again.metadata, again.orders) == (State.READY, {"zone": "a"}, orders)
        assert again.pause == Pause("lunch", None)

    story(test)


def test_a_registry_that_forgets_it_again_and_again_is_not_flooded() -> None:
    async def test(world: World) -> None:
        await registered(world)
        renew = world.registry.renew

        async def forgetting(*args: object) -> None:
            await renew(*args)  # type: ignore[arg-type]

        world.registry.renew = forgetting  # type: ignore[method-assign, assignment]
        await pass_time(60)
        assert 50 <= len(world.registry.registered) <= 62

    story(test)


def test_a_registry_that_is_away_is_asked_until_it_answers_and_told_what_changed_meanwhile() -> None:
    async def test(world: World) -> None:
        await registered(world)
        world.registry.away = "no redis"
        await until(lambda: world.member.fault == "no redis")
        world.member.set_state(State.READY)
        world.member.set_pause(Held("", None))
        await pass_time(300)
        assert world.said == []
        world.registry.away = ""
        await pass_time(AWAY_MOST * 1.5 + 0.1)
        assert world.said[:3] == [("state", State.READY), ("pause", "", None), ("renew", 3)]
        assert world.member.fault == ""

    story(test)


def test_one_renewal_is_on_its_way_at_a_time() -> None:
    async def test(world: World) -> None:
        await registered(world)
        world.registry.held = asyncio.Event()
        for state in (State.READY, State.UNHEALTHY, State.READY):
            world.member.set_state(state)
            await pass_time(RENEW_EVERY * 2)
        world.registry.held.set()
        await pass_time(RENEW_EVERY * 2)
        assert world.registry.most_renewing == 1

    story(test)


def test_it_does_not_come_back_after_it_left() -> None:
    async def test(world: World) -> None:
        await registered(world)
        world.registry.held = asyncio.Event()
        world.member.set_state(State.READY)
        await until(lambda: world.registry.renewing)
        async with asyncio.TaskGroup() as group:
            group.create_task(world.member.leave())
            await pass_time(1)
            assert ("deregister", "i-1") not in world.said, "what is on its way goes before"
            world.registry.held.set()
        world.member.set_state(State.DRAINING)
        await pass_time(60)
        assert world.said[-1] == ("deregister", "i-1")
        assert len(world.registry.registered) == 1

    story(test)


def test_what_it_sends_to_is_told_with_a_renewal() -> None:
    async def test(world: World) -> None:
        world.usage.note("billing.v1", world.clock.monotonic())
        await until(lambda: ("called", "billing.v1") in world.said)
        world.said.clear()
        for _ in range(9):
            await pass_time(6)
            world.usage.note("billing.v1", world.clock.monotonic())
        assert ("called", "billing.v1") not in world.said, "at most once a minute"
        await pass_time(20)
        assert world.said.count(("called", "billing.v1")) == 1

    story(test)


def test_one_that_is_fenced_says_so_and_stops(caplog: pytest.LogCaptureFixture) -> None:
    async def test(world: World) -> None:
        await registered(world)
        world.registry.fenced = True
        world.member.set_state(State.READY)
        await until(lambda: world.member.fenced)
        assert (world.fences, world.said) == (1, [])
        assert "give each its own MESHQ_INSTANCE" in world.member.fault
        world.registry.fenced = False
        world.member.set_state(State.UNHEALTHY)
        await pass_time(60)
        await world.member.leave()
        assert world.said == [], "the id is another's now"

    story(test)
    assert "MESHQ_INSTANCE" in caplog.text


def test_leaving_a_registry_that_is_away_is_no_fault(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)

    async def test(world: World) -> None:
        await registered(world)
        world.registry.away = "no redis"
        await world.member.leave()

    story(test)
    assert "not deregistered: no redis" in caplog.text


def test_why_it_is_not_registered_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    async def test(world: World) -> None:
        world.registry.away = "no rights to write"
        await pass_time(300)
        assert not world.member.was_registered
        world.registry.away = ""
        await pass_time(AWAY_MOST * 1.5 + 0.1)
        assert (world.member.was_registered, world.member.fault) == (True, "")
        world.registry.away = "no redis"
        await pass_time(300)
        assert world.member.was_registered

    story(test)
    assert [record.getMessage() for record in caplog.records] == [
        "not registered: no rights to write",
        "not renewed: no redis",
    ]


def test_an_answer_that_makes_no_sense_ends_no_registration(caplog: pytest.LogCaptureFixture) -> None:
    async def test(world: World) -> None:
        await registered(world)
        renew = world.registry.renew

        async def mistaken(*args: object) -> None:
            raise ValueError("a mistake")

        world.registry.renew = mistaken  # type: ignore[method-assign, assignment]
        await pass_time(300)
        assert "a mistake" in world.member.fault
        world.registry.renew = renew  # type: ignore[method-assign]
        await pass_time(AWAY_MOST * 1.5 + 0.1)
        assert (world.member.fault, world.renewals() >= 1) == ("", True)

    story(test)
    assert caplog.text.count("Traceback") == 1


def test_one_that_gave_up_saying_goodbye_does_not_register() -> None:
    async def test(world: World) -> None:
        await registered(world)
        world.registry.known = False
        world.member.set_state(State.READY)
        await until(lambda: len(world.registry.registered) == 2)
        world.registry.known = False  # once more: the next registration has to wait
        world.member.set_state(State.UNHEALTHY)
        await until(lambda: world.member.generation is None)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await world.member.leave()
        await pass_time(60)
        assert len(world.registry.registered) == 2

    story(test)
