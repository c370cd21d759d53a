"""The picture of the mesh: followed, kept while the registry is away, kept on disk for a start without it."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest

from meshq.adapters.clock import ManualClock
from meshq.core.instances import EMPTY, Instance, Service, Snapshot, State
from meshq.core.names import parse_version
from meshq.core.picture_format import Kept
from meshq.core.policy import Policy
from meshq_sidecar.pictures import RETURN_WITHIN, SAVE_EVERY, SNAPSHOT_EVERY, Pictures
from tests.told_registry import ToldRegistry
from tests.virtual_time import pass_time, run, until

VERSION = parse_version("1.0.0")
ALLOW = Policy("orders", allow=frozenset({"shop"}))


def picture(revision: int, *services: str, epoch: str = "e") -> Snapshot:
    return Snapshot(revision, {name: Service(name, {1: VERSION}) for name in services}, epoch=epoch)


def ruled(revision: int, *policies: Policy, epoch: str = "e") -> Snapshot:
    """Of orders, with route policies."""
    return replace(picture(revision, "orders", epoch=epoch), policies={policy.service: policy for policy in policies})


class Disk:
    def __init__(self, kept: Kept | None) -> None:
        self.kept = kept
        self.loads = 0
        self.saved: list[Snapshot] = []

    def load(self) -> Kept | None:
        self.loads += 1
        return self.kept

    def save(self, picture: Snapshot, saved_ms: int) -> None:
        self.saved.append(picture)


class World:
    def __init__(self, clock: ManualClock, kept: Kept | None) -> None:
        self.clock = clock
        self.registry = ToldRegistry()
        self.registry.picture = picture(1, "orders")
        self.disk = Disk(kept)
        self.pictures = Pictures(self.registry, clock, self.disk, "orders")
        self.seen: list[Snapshot] = []
        self.pictures.on_change(self.seen.append)

    @property
    def shown(self) -> tuple[set[str], bool]:
        return set(self.pictures.picture.services), self.pictures.picture.stale


def story(test: Callable[[World], Awaitable[None]], away: str = "", kept: Kept | None = None) -> None:
    clock = ManualClock()

    async def inside() -> None:
        world = World(clock, kept)
        world.registry.away = away
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(world.pictures.follow()), group.create_task(world.pictures.keep())]
            await test(world)
            for task in tasks:
                task.cancel()
        await world.pictures.close()

    run(clock, inside())


def test_before_the_first_picture_there_is_none() -> None:
    async def test(world: World) -> None:
        pictures = world.pictures
        assert (pictures.picture, pictures.pictured, pictures.fault) == (
            EMPTY,
            False,
            "the registry was not reached yet",
        )
        await until(lambda: pictures.fault == "no redis")
        assert (pictures.pictured, world.seen) == (False, [])
        world.registry.change()
        await until(lambda: pictures.pictured)
        assert (world.shown, pictures.fault, pictures.from_disk) == (({"orders"}, False), "", False)

    story(test, away="no redis")


def test_every_change_is_seen_at_once_also_one_backwards() -> None:
    async def test(world: World) -> None:
        await until(lambda: world.seen)
        for revision in (5, 9, 2):
            await pass_time(2)
            before = world.clock.monotonic()
            world.registry.change(picture(revision))
            await until(lambda revision=revision: world.pictures.picture.revision == revision)
            assert world.clock.monotonic() - before < 0.1

    story(test)


def test_many_changes_are_seen_a_few_at_a_time() -> None:
    async def test(world: World) -> None:
        await until(lambda: world.seen)
        for revision in range(2, 10_002):
            world.registry.change(picture(revision))
            await pass_time(0.001)
        assert world.registry.snapshots < 10 * 4 + 5
        await pass_time(0.5)
        assert world.pictures.picture.revision == 10_001

    story(test)


def test_the_whole_picture_is_taken_again_now_and_then() -> None:
    async def test(world: World) -> None:
        await until(lambda: world.seen)
        await pass_time(SNAPSHOT_EVERY * 0.75)
        assert (world.registry.snapshots, world.pictures.age < 6) == (1, True)
        await pass_time(SNAPSHOT_EVERY / 2)
        assert world.registry.snapshots == 2

    story(test)


def test_the_last_one_serves_marked_stale_while_the_registry_is_away() -> None:
    async def test(world: World) -> None:
        await until(lambda: world.seen)
        world.registry.change(away="no redis")
        await until(lambda: world.pictures.picture.stale)
        assert (world.shown, world.pictures.fault) == (({"orders"}, True), "no redis")
        await pass_time(300)
        assert (world.shown, world.pictures.age > 299, len(world.seen)) == (({"orders"}, True), True, 2)
        world.registry.change(picture(2, "orders", "billing"))
        await pass_time(6.1)
        assert (world.shown, world.pictures.fault) == (({"orders", "billing"}, False), "")

    story(test)


def test_one_who_left_while_the_registry_was_away_is_gone_when_it_is_back() -> None:
    async def test(world: World) -> None:
        await until(lambda: world.seen)
        world.registry.change(away="no redis")
        await until(lambda: world.pictures.picture.stale)
        world.registry.change(picture(2))
        await until(lambda: world.pictures.picture.revision == 2)
        assert world.shown == (set(), False)

    story(test)


@pytest.mark.parametrize("after", [picture(0), picture(7, epoch="another")], ids=["backwards", "another epoch"])
def test_those_that_a_registry_forgot_are_kept_until_they_had_time_to_return(after: Snapshot) -> None:
    async def test(world: World) -> None:
        batch = Instance("batch", "i-1", VERSION, (), State.READY)
        first = picture(1, "orders")
        world.registry.change(replace(first, services={**first.services, "batch": Service("batch", {}, (batch,))}))
        await until(lambda: world.seen)
        world.registry.change(after)
        await until(lambda: world.pictures.picture.revision == after.revision)
        assert world.shown == ({"orders", "batch"}, True)
        await pass_time(RETURN_WITHIN / 2)
        assert world.shown == ({"orders", "batch"}, True)
        await pass_time(RETURN_WITHIN / 2 + 1)
        assert world.shown == ({"orders"}, False), "it has a queue"

    story(test)


def test_a_forgotten_service_is_known_until_the_registry_names_it() -> None:
    async def test(world: World) -> None:
        await until(lambda: world.seen)
        world.registry.change(picture(7, "billing", epoch="another"))
        await pass_time(RETURN_WITHIN + 600)
        assert world.shown == ({"orders", "billing"}, False)
        assert world.pictures.picture.services["orders"] == Service("orders", {1: VERSION})
        world.registry.change(picture(8, "orders", epoch="another"))
        await until(lambda: world.pictures.picture.revision == 8)
        world.registry.change(picture(9, epoch="another"))
        await until(lambda: world.pictures.picture.revision == 9)
        assert world.shown == (set(), False), "retired since"

    story(test)


def test_an_answer_that_makes_no_sense_does_not_end_the_following(caplog: pytest.LogCaptureFixture) -> None:
    async def test(world: World) -> None:
        await until(lambda: world.seen)
        snapshot = world.registry.snapshot

        async def mistaken() -> Snapshot:
            raise ValueError("a mistake")

        world.registry.snapshot = mistaken  # type: ignore[method-assign]
        world.registry.change(picture(2, "billing"))
        await pass_time(60)
        assert (world.shown, "a mistake" in world.pictures.fault) == (({"orders"}, True), True)
        world.registry.snapshot = snapshot  # type: ignore[method-assign]
        await pass_time(6.1)
        assert (world.shown, world.pictures.fault) == (({"billing"}, False), "")

    story(test)
    assert caplog.text.count("Traceback") == 1


# --- route policies that the registry lost -----------------------------------------------------------------------------------


def test_the_own_policy_is_put_back_once_and_holds_meanwhile() -> None:
    other = Policy("billing", allow=frozenset())

    async def test(world: World) -> None:
        world.registry.change(ruled(1, ALLOW, other))
        await until(lambda: world.seen)
        world.registry.change(ruled(7, epoch="another"))
        await until(lambda: world.registry.said)
        assert world.registry.said == [("policy", "orders", ALLOW)]
        assert world.pictures.picture.policies == {"orders": ALLOW, "billing": other}
        world.registry.change(ruled(8, ALLOW, epoch="another"))
        await pass_time(RETURN_WITHIN + 1)
        world.registry.change(ruled(9, epoch="another"))  # an operator's doing
        await pass_time(RETURN_WITHIN + 1)
        world.registry.change(ruled(2, epoch="another"))
        await pass_time(RETURN_WITHIN + 600)
        assert world.registry.said == [("policy", "orders", ALLOW)]
        assert world.pictures.picture.policies == {}

    story(test)


def test_a_policy_that_is_there_again_is_not_put_back() -> None:
    async def test(world: World) -> None:
        world.registry.change(ruled(1, ALLOW))
        await until(lambda: world.seen)
        world.registry.change(ruled(7, Policy("orders"), epoch="another"))
        await pass_time(RETURN_WITHIN)
        world.registry.change(ruled(8, epoch="another"))
        await pass_time(600)
        assert world.registry.said == []

    story(test)


def test_a_policy_that_cannot_be_put_back_is_tried_again_and_the_picture_serves(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def test(world: World) -> None:
        world.registry.change(ruled(1, ALLOW))
        await until(lambda: world.seen)
        world.registry.refuses_policies = True
        world.registry.change(ruled(0))
        await pass_time(RETURN_WITHIN + 1)
        assert (world.registry.said, world.pictures.picture.stale) == ([], False)
        world.registry.refuses_policies = False
        await pass_time(SNAPSHOT_EVERY * 1.2)
        assert world.registry.said == [("policy", "orders", ALLOW)]

    story(test)
    assert caplog.text.count("no rights") == 1, "said once, tried twice or more"


def test_a_policy_from_the_disk_is_not_put_back() -> None:
    async def test(world: World) -> None:
        await until(lambda: world.pictures.from_disk)
        world.registry.change(ruled(7, epoch="another"))
        await pass_time(60)
        assert world.registry.said == []

    story(test, away="no redis", kept=Kept(ruled(5, ALLOW), 1_700_000_000_000))


def test_who_looks_and_fails_stops_nobody_else(caplog: pytest.LogCaptureFixture) -> None:
    async def test(world: World) -> None:
        def fail(picture: Snapshot) -> None:
            raise KeyError("a mistake")

        world.pictures.on_change(fail)
        more: list[Snapshot] = []
        world.pictures.on_change(more.append)
        await until(lambda: world.seen)
        world.registry.change(picture(2))
        await until(lambda: len(more) == 2)

    story(test)
    assert "a mistake" in caplog.text


# --- on disk ----------------------------------------------------------------------------------------------------------------


def test_it_is_written_a_moment_after_each_change_and_at_the_end() -> None:
    worlds: list[World] = []

    async def test(world: World) -> None:
        worlds.append(world)
        await until(lambda: world.disk.saved)
        for revision in range(2, 30):
            world.registry.change(picture(revision))
            await pass_time(0.5)
        assert world.disk.saved[0].revision == 1
        assert 3 <= len(world.disk.saved) <= 2 + 14 / SAVE_EVERY
        await pass_time(SAVE_EVERY)
        world.registry.change(picture(99))
        await until(lambda: world.pictures.picture.revision == 99)

    story(test)
    saved = worlds[0].disk.saved
    assert saved[-1].revision == 99
    assert not any(p.stale for p in saved)


def test_the_one_from_the_disk_serves_until_the_registry_answers() -> None:
    kept = Kept(Snapshot(5, picture(5, "orders").services, stale=True, epoch="e"), 1_700_000_000_000 - 40_000)

    async def test(world: World) -> None:
        await until(lambda: world.pictures.pictured)
        assert (world.shown, world.pictures.from_disk) == (({"orders"}, True), True)
        assert 40 <= world.pictures.age < 41
        await pass_time(60)
        assert (world.disk.loads, world.disk.saved) == (1, []), "what is old is not written again"
        world.registry.change(picture(9, "billing"))
        await until(lambda: not world.pictures.picture.stale)
        assert (world.shown, world.pictures.from_disk) == (({"billing"}, False), False)

    story(test, away="no redis", kept=kept)


def test_a_registry_that_answers_is_believed_before_the_disk() -> None:
    async def test(world: World) -> None:
        await until(lambda: world.pictures.pictured)
        await pass_time(10)
        assert (world.disk.loads, world.shown) == (0, ({"orders"}, False))

    story(test, kept=Kept(picture(5, "old"), 0))


def test_nothing_on_the_disk_is_no_fault() -> None:
    async def test(world: World) -> None:
        await pass_time(60)
        assert (world.pictures.pictured, world.disk.loads) == (False, 1)

    story(test, away="no redis")
