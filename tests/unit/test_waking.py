"""Whoever scales services is told at once of a message for one that nobody is there for."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from meshq import Problem, Service
from meshq.adapters.clock import ManualClock
from meshq.core import topology
from meshq.core.instances import Instance, Snapshot, State
from meshq.core.names import parse_version
from meshq.core.policy import Policy, WhenAbsent
from meshq.core.routing import Absent, Route, route
from meshq.core.selectors import parse_address
from meshq.tasks import Tasks
from meshq.testing import TestMesh, run
from meshq.waking import EVERY, MAX_TOPICS, Waking
from tests import virtual_time
from tests.told_registry import ToldRegistry
from tests.unit.test_routing import instance, picture
from tests.virtual_time import pass_time

# --- for whom -----------------------------------------------------------------------------------------------------------------


def wakes(address: str, snapshot: Snapshot) -> str:
    found = route(parse_address(address), snapshot)
    assert isinstance(found, Route | Absent)
    return found.wakes


@pytest.mark.parametrize("state", set(State) - {State.DRAINING, State.DOWN})
def test_who_is_there_or_starting_is_not_woken(state: State) -> None:
    assert wakes("orders@2", picture({2: "2.0.0"}, instance("2.0.0", state))) == ""


@pytest.mark.parametrize("states", [(), (State.DOWN,), (State.DRAINING, State.DOWN)])
def test_who_has_nobody_or_only_some_that_go_is_woken(states: tuple[State, ...]) -> None:
    asleep = picture({2: "2.0.0"}, *(instance("2.0.0", state) for state in states))
    assert wakes("orders@2", asleep) == wakes("orders", asleep) == "orders.v2"


def with_policy(snapshot: Snapshot, policy: Policy) -> Snapshot:
    return Snapshot(1, snapshot.services, policies={"orders": policy})


def test_a_call_that_falls_back_or_fails_wakes_whom_it_was_meant_for() -> None:
    both = picture({1: "1.0.0", 2: "2.0.0"}, instance("1.0.0"))
    instead = Policy("orders", weights={2: 1}, fallback=(1,), when_absent=WhenAbsent.FALLBACK)
    found = route(parse_address("orders"), with_policy(both, instead))
    assert found == Route("orders.v1", "", "fallback", wakes="orders.v2")
    failing = Policy("orders", when_absent=WhenAbsent.FAIL)
    refused = route(parse_address("orders@2"), with_policy(both, failing))
    assert isinstance(refused, Absent)
    assert refused.wakes == "orders.v2"
    coming = picture({2: "2.0.0"}, instance("2.0.0", State.STARTING))
    assert wakes("orders@2", with_policy(coming, failing)) == ""


# --- how often ------------------------------------------------------------------------------------------------------------------


class World:
    def __init__(self, clock: ManualClock) -> None:
        self.registry = ToldRegistry()
        self.said = self.registry.said
        self.tasks = Tasks()
        self.waking = Waking(self.registry, clock, self.tasks)


def story(test: Callable[[World], Awaitable[None]]) -> None:
    clock = ManualClock()

    async def inside() -> None:
        world = World(clock)
        await test(world)
        await world.tasks.close()

    virtual_time.run(clock, inside())


def test_the_same_topic_is_told_of_once_a_second() -> None:
    async def test(world: World) -> None:
        for _ in range(10):
            world.waking.wake("orders.v2")
            world.waking.wake("stock.v1")
        await pass_time(0.9 * EVERY)
        world.waking.wake("orders.v2")
        await pass_time(0)
        assert world.said == [("wake", "orders.v2", "stock.v1")]
        await pass_time(0.2 * EVERY)
        world.waking.wake("orders.v2")
        await pass_time(0)
        assert world.said[1:] == [("wake", "orders.v2")]

    story(test)


def test_what_comes_while_the_registry_is_asked_goes_together_after_that() -> None:
    async def test(world: World) -> None:
        world.registry.waking = asyncio.Event()
        world.waking.wake("a.v1")
        await pass_time(0)
        world.waking.wake("b.v1")
        world.waking.wake("c.v1")
        world.registry.waking.set()
        await pass_time(0.01)
        assert world.said == [("wake", "a.v1"), ("wake", "b.v1", "c.v1")]

    story(test)


def test_a_registry_that_is_away_is_not_asked_again_for_the_same(caplog: pytest.LogCaptureFixture) -> None:
    async def test(world: World) -> None:
        world.registry.away = "no redis"
        world.waking.wake("orders.v2")
        await pass_time(0.1)
        world.registry.away = ""
        world.waking.wake("orders.v2")
        await pass_time(0.1)
        assert world.said == []
        await pass_time(EVERY)
        world.waking.wake("orders.v2")
        await pass_time(0.1)
        assert world.said == [("wake", "orders.v2")]

    story(test)
    assert not caplog.records


def test_names_that_callers_make_up_are_bounded() -> None:
    async def test(world: World) -> None:
        for n in range(MAX_TOPICS + 10):
            world.waking.wake(f"made-up-{n}.v1")
        await pass_time(EVERY)
        assert [len(each) - 1 for each in world.said] == [MAX_TOPICS]
        world.waking.wake("orders.v2")
        await pass_time(0)
        assert world.said[1:] == [("wake", "orders.v2")]

    story(test)


# --- real sidecars ----------------------------------------------------------------------------------------------------------------


async def asleep(mesh: TestMesh, policy: Policy | None = None) -> None:
    """Orders 2 were there once, and are scaled to zero."""
    registry = mesh._parts.registry
    version = parse_version("2.3.0")
    registry.deregister("orders", "o-1", registry.register(Instance("orders", "o-1", version, (2,), State.READY)))
    if policy is not None:
        registry.put_policy("orders", policy)
    broker = mesh._parts.hub.connect("orders")
    await broker.open()
    await broker.declare(topology.service("orders.v2"))
    mesh.client("shop")
    await mesh.serve(Service("billing"))


@run
@pytest.mark.parametrize("waits", [True, False])
async def test_a_call_to_a_service_at_zero_wakes_it_before_time_passes(waits: bool) -> None:
    async with TestMesh() as mesh:
        await asleep(mesh)
        shop, registry = mesh.client("shop"), mesh._parts.registry
        began, after = mesh.now, (await registry.woken("", 0))[0]
        call = shop.call("orders", "POST /create", timeout=30) if waits else shop.send("orders", "POST /create")
        task = asyncio.ensure_future(call)
        _, topics = await mesh.watch(registry.woken(after, 1))
        assert topics == ("orders.v2",)
        assert mesh.now == began
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@run
async def test_a_call_that_fails_for_that_wakes_it_too() -> None:
    async with TestMesh() as mesh:
        await asleep(mesh, Policy("orders", when_absent=WhenAbsent.FAIL))
        shop, registry = mesh.client("shop"), mesh._parts.registry
        after, _ = await registry.woken("", 0)
        with pytest.raises(Problem, match="whenAbsent: fail") as refused:
            await shop.call("orders", "POST /create")
        assert refused.value.status == 503
        assert (await registry.woken(after, 0))[1] == ("orders.v2",)


@run
async def test_what_is_to_be_delayed_and_who_is_there_wakes_nobody() -> None:
    async with TestMesh() as mesh:
        await asleep(mesh)
        shop, registry = mesh.client("shop"), mesh._parts.registry
        after, _ = await registry.woken("", 0)
        await shop.send("orders", "POST /create", delay=3600)
        await shop.send("billing", "POST /charge")
        await mesh.settle()
        assert (await registry.woken(after, 0))[1] == ()
