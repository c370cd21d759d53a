"""Looks that begin with the first question and end when nobody asks any more."""

import asyncio

import pytest

from meshq.core.scaling_values import EVERY
from meshq.signals.on_demand import KEEP, LOOKS, Following, OnDemand
from tests.sampled_mesh import TOPIC, SampledMesh, told
from tests.virtual_time import pass_time

AWAY = "the broker is away"


def test_the_first_answer_takes_two_looks_and_the_next_none() -> None:
    async def story(mesh: SampledMesh) -> None:
        mesh.register("a")
        asked = OnDemand(mesh.sampler(), mesh.clock)
        before = mesh.clock.monotonic()
        (row,) = await asked.rows(None)
        assert mesh.clock.monotonic() - before == pytest.approx((LOOKS - 1) * EVERY)
        assert (row["topic"], row["desired"], row["arrivalRate"]) == (TOPIC, 1, None)
        before = mesh.clock.monotonic()
        (row,) = await asked.rows("orders")
        assert mesh.clock.monotonic() == before
        assert row["policy"]["max"] == 20
        assert await asked.rows("nobody") == []
        await asked.close()

    told(story)


def test_who_asks_meanwhile_waits_for_the_same_looks() -> None:
    async def story(mesh: SampledMesh) -> None:
        mesh.register("a")
        sampler, looks = mesh.sampler(), list[float]()
        sampler.on_look(looks.append)
        asked = OnDemand(sampler, mesh.clock)
        one, other = await asyncio.gather(asked.rows(None), asked.rows(None))
        assert one == other
        assert len(looks) == LOOKS
        await asked.close()

    told(story)


def test_it_ends_when_nobody_asks_and_begins_again() -> None:
    async def story(mesh: SampledMesh) -> None:
        mesh.register("a")
        sampler, looks = mesh.sampler(), list[float]()
        sampler.on_look(looks.append)
        asked = OnDemand(sampler, mesh.clock)
        await asked.rows(None)
        await pass_time(KEEP / 2)
        await asked.rows(None)
        await pass_time(KEEP - EVERY)
        still = len(looks)
        assert still == pytest.approx(1.5 * KEEP / EVERY, abs=3)
        await pass_time(10 * EVERY)
        assert len(looks) - still <= 2
        ended, before = len(looks), mesh.clock.monotonic()
        mesh.leave("a")
        (row,) = await asked.rows(None)
        assert len(looks) == ended + LOOKS
        assert mesh.clock.monotonic() - before == pytest.approx((LOOKS - 1) * EVERY)
        assert row["replicas"] == 0, "as it is now"
        await asked.close()

    told(story)


def test_what_is_not_known_is_said() -> None:
    async def story(mesh: SampledMesh) -> None:
        mesh.asked.away, mesh.broken = "the registry is away", OSError(AWAY)
        asked = OnDemand(mesh.sampler(), mesh.clock)
        with pytest.raises(OSError, match=f"{AWAY}; the registry is away"):
            await asked.rows(None)
        mesh.register("a")
        mesh.asked.away = ""
        await pass_time(2 * EVERY)
        (row,) = await asked.rows(None)
        assert (row["stale"], row["ready"], row["desired"]) == (True, None, 1), "the broker is still away"
        await asked.close()

    told(story)


def test_an_empty_mesh_has_no_rows() -> None:
    async def story(mesh: SampledMesh) -> None:
        asked = OnDemand(mesh.sampler(), mesh.clock)
        assert await asked.rows(None) == await asked.rows("orders") == []
        await asked.close()

    told(story)


def test_who_waits_when_it_is_closed_is_answered() -> None:
    async def story(mesh: SampledMesh) -> None:
        mesh.register("a")
        asked = OnDemand(mesh.sampler(), mesh.clock)
        async with asyncio.TaskGroup() as group:
            waits = group.create_task(asked.rows(None))
            await pass_time(EVERY / 2)
            await asked.close()
        assert [row["topic"] for row in waits.result()] == [TOPIC]

    told(story)


def test_who_asks_just_before_it_is_closed_is_answered() -> None:
    async def story(mesh: SampledMesh) -> None:
        asked = OnDemand(mesh.sampler(), mesh.clock)
        rows, _ = await asyncio.gather(asked.rows(None), asked.close(), return_exceptions=True)
        assert str(rows) == "nothing was counted yet: try again in a moment"

    told(story)


def test_signals_that_are_made_anyway_are_shown_at_once() -> None:
    async def story(mesh: SampledMesh) -> None:
        mesh.register("a")
        sampler = mesh.sampler()
        following = Following(sampler)
        with pytest.raises(OSError, match="nothing was counted yet"):
            await following.rows(None)
        await sampler.look()
        before = mesh.clock.monotonic()
        (row,) = await following.rows(None)
        assert (row["topic"], mesh.clock.monotonic()) == (TOPIC, before)
        await following.close()
        await sampler.look()
        assert await following.rows("orders"), "they go on"

    told(story)
