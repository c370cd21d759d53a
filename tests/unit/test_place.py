"""What an instance says of its own registration."""

import asyncio

import pytest

from meshq.adapters.clock import ManualClock
from meshq.core.instances import Instance, Load, Snapshot
from meshq.core.picture_format import Kept
from meshq.core.reports import Report
from meshq.core.usage import Usage
from meshq.ports import RegistryAway
from meshq.settings import load
from meshq_sidecar.place import FIRST_LOOK, Place
from tests.told_registry import ToldRegistry
from tests.virtual_time import pass_time, run, until

SETTINGS = load(
    {
        "MESHQ_SERVICE": "shop",
        "MESHQ_SERVICE_VERSION": "1.0.0",
        "MESHQ_BROKER_URL": "embedded:",
        "MESHQ_REGISTRY_URL": "embedded:",
    }
)


class ReadOnly(ToldRegistry):
    readonly = True

    async def register(self, instance: Instance) -> int:
        if self.readonly:
            raise RegistryAway("no rights to write")
        return await super().register(instance)


class Disk:
    def load(self) -> Kept:
        return Kept(Snapshot(5, {}), 0)

    def save(self, picture: Snapshot, saved_ms: int) -> None: ...


def place(registry: ToldRegistry, clock: ManualClock, disk: Disk | None = None) -> Place:
    def nothing() -> None: ...

    return Place(
        SETTINGS,
        registry,
        clock,
        disk,
        start=nothing,
        stop=nothing,
        drain=nothing,
        load=Load,
        report=Report,
        usage=Usage,
    )


def test_one_that_can_read_and_not_register_is_not_ready() -> None:
    clock = ManualClock()

    async def story() -> None:
        registry = ReadOnly()
        here = place(registry, clock)
        tasks = [asyncio.create_task(work) for work in (here.pictures.follow(), here.membership.keep())]
        await until(lambda: here.pictures.pictured)
        assert (here.checks()["registry"], here.as_json()["registered"]) == ("no rights to write", False)
        registry.readonly = False
        await pass_time(10)
        assert (here.checks()["registry"], here.as_json()["registered"]) == ("", True)
        registry.change(away="no redis")
        await pass_time(60)
        assert here.checks()["registry"] == "", "the mesh knew it, and the picture serves"
        for task in tasks:
            task.cancel()

    run(clock, story())


def test_one_that_starts_on_a_picture_from_the_disk_is_ready() -> None:
    clock = ManualClock()

    async def story() -> None:
        registry = ToldRegistry()
        registry.away = "no redis"
        here = place(registry, clock, Disk())
        tasks = [asyncio.create_task(work) for work in (here.pictures.follow(), here.membership.keep())]
        await until(lambda: here.pictures.pictured)
        assert (here.checks()["registry"], here.as_json()["registered"]) == ("", False)
        for task in tasks:
            task.cancel()

    run(clock, story())


@pytest.mark.parametrize(("away", "disk"), [("", None), ("no redis", Disk()), ("no redis", None)])
def test_who_may_call_is_looked_up_before_the_first_message(away: str, disk: Disk | None) -> None:
    clock = ManualClock()

    async def story() -> None:
        registry = ToldRegistry()
        registry.away = away
        here = place(registry, clock, disk)
        looking = asyncio.create_task(here.look())
        following = asyncio.create_task(here.pictures.follow())
        await until(looking.done)
        assert here.pictures.pictured is (not away or disk is not None)
        following.cancel()

    run(clock, story())


def test_a_registry_that_says_nothing_holds_nobody_up_for_long() -> None:
    clock = ManualClock()

    async def story() -> None:
        looking = asyncio.create_task(place(ToldRegistry(), clock).look())
        await pass_time(FIRST_LOOK + 0.1)
        assert looking.done()

    run(clock, story())
