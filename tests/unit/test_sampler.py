"""The sampler at a mesh: what it looks at is an embedded broker and registry, and time is told."""

import asyncio
import logging

import pytest

from meshq.core.instances import State
from meshq.core.policy_parsing import parse_policy
from meshq.core.scaling_values import EVERY, ScalingPolicy
from meshq.signals.figures import NO_WISHES, Wishes
from meshq.signals.sampler import AGAIN, ANSWERS_WITHIN, WAKES_WAIT, Sampler
from meshq.tasks import Tasks
from tests.sampled_mesh import SLOTS, TOPIC, SampledMesh, told
from tests.virtual_time import pass_time, until

REFUSED = ConnectionRefusedError("the broker's management API at http://rabbit:15672 does not answer: is it on?")


def desired(sampler: Sampler, wishes: Wishes = NO_WISHES) -> int | None:
    signal = sampler.of_topic(TOPIC, wishes)
    assert signal is not None
    return signal.decision.desired


def test_a_look_is_a_sample_of_every_topic() -> None:
    async def story(mesh: SampledMesh) -> None:
        sampler = mesh.sampler()
        assert (sampler.all(), sampler.fault) == ([], "nothing was counted yet: try again in a moment")
        mesh.register("a")
        mesh.report("a", 20)
        await mesh.send(7)
        await sampler.look()
        (signal,) = sampler.all()
        sample = signal.sample
        assert (sample.waiting, sample.in_flight, sample.done, sample.replicas, sample.ready) == (7, 0, 0.0, 1, 1)
        assert (sample.slots, sample.handled, sample.busy) == (SLOTS, 20.0, 2.0)
        assert (signal.topic, signal.version, sampler.fault) == (TOPIC, "2.1.0", "")
        assert sampler.of_service("orders") == [signal]
        assert (sampler.of_service("shop"), sampler.of_topic("shop.v1")) == ([], None)
        assert sampler.picture.instance_count == 1
        assert (sampler.leading, sampler.leader) == (None, "")

    told(story)


def test_it_looks_every_few_seconds_and_tells_of_it() -> None:
    async def story(mesh: SampledMesh) -> None:
        mesh.register("a")
        sampler, heard, took, tasks = mesh.sampler(), list[str](), list[float](), Tasks()
        end = sampler.on_change(heard.append)
        sampler.on_look(took.append)
        tasks.start(sampler.run(), "look")
        await pass_time(4.5 * EVERY)
        assert heard == [TOPIC] * 5
        assert len(took) == 5
        assert sampler.pass_seconds == took[-1]
        end()
        await pass_time(EVERY)
        assert len(heard) == 5
        await tasks.close()

    told(story)


def test_a_broker_that_raises_takes_nothing_away_and_is_named(caplog: pytest.LogCaptureFixture) -> None:
    """Also the regression of KEDA issue 7180: statistics that are missing are not zero."""

    async def story(mesh: SampledMesh) -> None:
        mesh.register("a")
        mesh.register("b")
        await mesh.send(7)
        sampler = mesh.sampler()
        await sampler.look()
        assert desired(sampler) == 2
        mesh.broken = REFUSED
        for _ in range(200):
            await pass_time(EVERY)
            mesh.report("a")
            mesh.report("b")
            await sampler.look()
            signal = sampler.of_topic(TOPIC)
            assert signal is not None
            assert (signal.decision.desired, signal.decision.stale, signal.sample.waiting) == (2, True, None)
            assert sampler.fault == str(REFUSED)
        mesh.broken = None
        await sampler.look()
        assert (desired(sampler), sampler.fault) == (2, "")

    with caplog.at_level(logging.WARNING, "meshq.signals"):
        told(story)
    assert [record.message for record in caplog.records] == [f"{REFUSED}; what is not known is not taken for 0"]


def test_a_broker_that_does_not_answer_in_time_is_not_waited_for() -> None:
    async def story(mesh: SampledMesh) -> None:
        mesh.register("a")
        sampler, mesh.held = mesh.sampler(), asyncio.Event()
        before = mesh.clock.monotonic()
        await sampler.look()
        assert mesh.clock.monotonic() - before == pytest.approx(ANSWERS_WITHIN)
        assert sampler.fault == f"the queues did not answer within {ANSWERS_WITHIN:g} s"
        assert (desired(sampler), sampler.of_service("orders")[0].decision.stale) == (1, True)

    told(story)


def test_a_registry_that_is_away_leaves_the_topics_and_what_is_there() -> None:
    async def story(mesh: SampledMesh) -> None:
        for ident in "abc":
            mesh.register(ident)
            mesh.report(ident)
        sampler = mesh.sampler()
        await sampler.look()
        mesh.asked.away = "the registry is away"
        for _ in range(200):
            await pass_time(EVERY)
            await sampler.look()
            signal = sampler.of_topic(TOPIC)
            assert signal is not None
            assert (signal.decision.desired, signal.decision.stale, signal.sample.replicas) == (3, True, None)
        assert sampler.fault == "the registry is away"
        mesh.asked.away = ""
        await sampler.look()
        assert sampler.fault == ""

    told(story)


def test_a_mesh_that_nobody_ever_told_of_has_no_topics() -> None:
    async def story(mesh: SampledMesh) -> None:
        mesh.register("a")
        mesh.asked.away, mesh.broken = "the registry is away", REFUSED
        sampler = mesh.sampler()
        await sampler.look()
        assert (sampler.all(), sampler.of_topic(TOPIC)) == ([], None)
        assert str(REFUSED) in sampler.fault

    told(story)


# --- wakes ----------------------------------------------------------------------------------------------------------------------


async def asleep(mesh: SampledMesh) -> tuple[Sampler, Tasks, list[tuple[float, str]]]:
    """A service at zero, a sampler that has just looked, and what it tells of, when."""
    mesh.register("a")
    mesh.leave("a")
    sampler, tasks, heard = mesh.sampler(), Tasks(), list[tuple[float, str]]()
    tasks.start(sampler.run(), "look")
    await until(lambda: sampler.pass_seconds is not None)
    assert desired(sampler) == 0
    sampler.on_change(lambda topic: heard.append((mesh.clock.monotonic(), topic)))
    return sampler, tasks, heard


def test_a_wake_does_not_wait_for_the_next_look() -> None:
    async def story(mesh: SampledMesh) -> None:
        sampler, tasks, heard = await asleep(mesh)
        now = mesh.clock.monotonic()
        mesh.registry.wake([TOPIC, "nobody.v1"])
        await until(lambda: heard)
        ((at, topic),) = heard
        assert (topic, at - now < 0.1) == (TOPIC, True)
        assert desired(sampler) == desired(sampler, Wishes(max=2)) == 1
        await pass_time(3 * EVERY)
        assert desired(sampler) == 1, "its message may still be on its way"
        await tasks.close()

    told(story)


def test_a_wake_long_after_the_last_is_heard_too() -> None:
    async def story(mesh: SampledMesh) -> None:
        sampler, tasks, _ = await asleep(mesh)
        await pass_time(2.5 * WAKES_WAIT)
        mesh.registry.wake([TOPIC])
        await pass_time(0.1)
        assert desired(sampler) == 1
        await tasks.close()

    told(story)


def test_wakes_are_heard_again_when_the_registry_is_back() -> None:
    async def story(mesh: SampledMesh) -> None:
        sampler, tasks, _ = await asleep(mesh)
        mesh.asked.away = "the registry is away"
        await pass_time(WAKES_WAIT + 5.0)
        mesh.registry.wake([TOPIC])
        await pass_time(3.0)
        assert desired(sampler) == 0
        mesh.asked.away = ""
        await pass_time(AGAIN + 0.1)
        assert desired(sampler) == 1, "what was said meanwhile"
        await tasks.close()

    told(story)


def test_a_wake_of_what_is_there_changes_nothing() -> None:
    async def story(mesh: SampledMesh) -> None:
        mesh.register("a")
        sampler, tasks, heard = mesh.sampler(), Tasks(), list[str]()
        tasks.start(sampler.run(), "look")
        await until(lambda: sampler.pass_seconds is not None)
        sampler.on_change(heard.append)
        mesh.registry.wake([TOPIC])
        await pass_time(1.0)
        assert (heard, desired(sampler)) == ([], 1)
        await tasks.close()

    told(story)


# --- policies -------------------------------------------------------------------------------------------------------------------


def test_a_route_policy_says_what_is_wanted() -> None:
    async def story(mesh: SampledMesh) -> None:
        mesh.register("a")
        own = ScalingPolicy(min=2)
        sampler = mesh.sampler(own_policy=lambda topic: own if topic.name == TOPIC else None)
        await sampler.look()
        assert desired(sampler) == 2
        mesh.scaled_by(parse_policy("orders", {"scale": {"min": 3, "versions": {"2": {"min": 4}}}}))
        await sampler.look()
        assert desired(sampler) == 4
        mesh.scaled_by(parse_policy("orders", {"timeout": "5s"}))
        await sampler.look()
        (signal,) = sampler.all()
        assert signal.policy == own, "a policy that says nothing of it"

    told(story)


def test_without_any_the_usual_holds() -> None:
    async def story(mesh: SampledMesh) -> None:
        mesh.register("a", State.STARTING)
        sampler = mesh.sampler()
        await sampler.look()
        (signal,) = sampler.all()
        assert (signal.policy, signal.decision.desired) == (ScalingPolicy(), 1)

    told(story)
