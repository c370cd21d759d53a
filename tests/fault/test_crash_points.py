"""A process is stopped at every point between taking a request and answering it, and between a delivery and its acknowledgement:
whatever it had promised by then holds (DESIGN part 5).

A point is before anything that crosses the process's edge: what it publishes, is told, acknowledges, asks of the app or the
store, writes, answers. For every story the first run dies before the first crossing, the next before the second, until one
survives. After a death another process takes its place; then everything is drained, and the history is looked at. Time is
virtual and nothing is left to chance, so a failure says which point to look at, and comes again.
"""

import logging
from collections.abc import Callable, Coroutine
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from meshq.core import dead, topology
from meshq.core.callreq import Call, Durable
from meshq.core.http import HttpResponse
from meshq.core.message import Response
from meshq.core.selectors import parse_address
from meshq.ports import Publication
from tests.fault.crash_world import CrashWorld, Victim
from tests.still_disk import StillDisk
from tests.virtual_time import pass_time, run

Told = Callable[[CrashWorld], Coroutine[Any, Any, None]]

WAITED = Call(parse_address("orders@2"), "POST", b"/a", [], b"", 10_000, None, False)
DURABLE = WAITED._replace(durable=Durable())


class Story(NamedTuple):
    begin: Told
    """What is asked of the sender."""
    look: Told
    """What holds besides, however it went."""
    script: dict[str, list[int | HttpResponse]] = {}  # noqa: RUF012 - never changed
    """What the apps answer, where it is not 200."""
    dies_of: frozenset[str] = frozenset()
    """Reasons for which messages of this story may be dead."""
    spool: bool = False


# --- what holds in every story -------------------------------------------------------------------------------------------------


async def nothing_is_lost(world: CrashWorld) -> None:
    """Promise 1; and the sender gets to know how it ended."""
    ended = {each.ident for each in world.handled if isinstance(each.answer, HttpResponse) and each.answer.status < 400}
    ended |= {letter.id for letter in world.dead}
    for name, ident in world.accepted.items():
        result = None if name.startswith("event") else await world.result(name)
        assert ident in ended or result is not None, f"{name} was accepted, and is neither handled nor dead"
        assert result is not None or name.startswith("event"), f"nobody can know what became of {name}"


def nothing_is_made_up(world: CrashWorld) -> None:
    unexpected = {each.name for each in world.handled if each.name.split()[0] not in {*world.sent, "paid"}}
    assert not unexpected, "nobody sent these"


def nobody_is_blamed(world: CrashWorld, story: Story) -> None:
    """Promise 5: nothing is dead because a sidecar was killed."""
    for letter in world.dead:
        assert letter.reason in story.dies_of, letter


def order_is_kept(world: CrashWorld, story: Story) -> None:
    """Promise 6: the next of a key begins when the one before has ended, and then that does not come again. Where a death takes
    with it what was acknowledged last (on the broker's disk, or on the spool's), it goes back once to something earlier, and is
    in order from there on."""
    may_go_back = (world.victim is Victim.ALL) + (story.spool and world.victim is not Victim.RECEIVER)
    for key, handled in world.by_key().items():
        sent = [name for name in world.sent if name.startswith(key) and any(name == each for each, _ in handled)]
        at, ended, went_back = 0, False, 0
        for name, ends in handled:
            if name != sent[at]:
                went_back += sent.index(name) < at
                assert sent.index(name) < at or (ended and name == sent[at + 1]), f"of {key}: {handled}"
                at, ended = sent.index(name), False
            ended |= ends
        assert went_back <= may_go_back, f"of {key}: {handled}"


# --- the stories ---------------------------------------------------------------------------------------------------------------


async def nothing_more(world: CrashWorld) -> None: ...


async def a_durable_call(world: CrashWorld) -> None:
    world.send("call", DURABLE)


async def it_is_handled_once_or_twice(world: CrashWorld) -> None:
    if "call" in world.accepted:
        assert 1 <= world.times("call") <= (2 if world.died else 1)
        assert isinstance(await world.result("call"), Response)


async def a_call_with_a_callback(world: CrashWorld) -> None:
    world.send("call", DURABLE._replace(durable=Durable(callback=b"/done")))


async def its_result_is_posted(world: CrashWorld) -> None:
    if "call" in world.accepted:
        told = [each for each in world.handled if each.service == "checkout"]
        assert told
        assert {each.headers["meshq-request-id"] for each in told} == {world.accepted["call"]}
        assert len({each.ident for each in told}) == 1, "the app can tell the second from the first"
        assert len(told) <= (3 if world.died else 1)


async def one_that_is_tried_again(world: CrashWorld) -> None:
    world.send("call", DURABLE)


async def it_fails_and_then_works(world: CrashWorld) -> None:
    if "call" in world.accepted:
        assert 2 <= world.times("call") <= (3 if world.died else 2)
        result = await world.result("call")
        assert isinstance(result, Response)
        assert (result.status, result.failed) == (200, "")


async def it_is_dead(world: CrashWorld) -> None:
    if "call" in world.accepted:
        assert 1 <= len(world.dead) <= (2 if world.died else 1)
        assert {letter.id for letter in world.dead} == {world.accepted["call"]}
        result = await world.result("call")
        assert result is not None
        assert result.failed == world.dead[0].reason


async def it_is_dead_after_its_attempts(world: CrashWorld) -> None:
    await it_is_dead(world)
    if "call" in world.accepted:
        # Killed after its copy was published and before it was acknowledged, it is there twice.
        assert 3 <= world.times("call") <= (6 if world.died else 3)
        assert {letter.attempts for letter in world.dead} == {3}


async def two_calls_with_one_key(world: CrashWorld) -> None:
    keyed = DURABLE._replace(headers=[(b"Idempotency-Key", b"k")], body=b"paid")
    world.send("first", keyed)
    world.send("second", keyed)


async def everybody_has_the_same_answer(world: CrashWorld) -> None:
    """Promise 2. What was handled when its sidecar was killed is handled again, but nobody was told of the first."""
    bodies = set()
    for name in world.accepted:
        result = await world.result(name)
        assert isinstance(result, Response)
        bodies.add(result.body)
    assert len(bodies) <= 1
    assert world.times("paid") <= (2 if world.died else 1)


async def some_of_two_ordering_keys(world: CrashWorld) -> None:
    for name in ("a1", "b1", "a2", "a3", "b2"):
        world.send(name, DURABLE._replace(key=name[0]))


async def a_delayed_call(world: CrashWorld) -> None:
    world.send("call", DURABLE._replace(durable=Durable(delay=3)))


async def an_event(world: CrashWorld) -> None:
    world.emit("event")


async def it_reaches_its_subscriber(world: CrashWorld) -> None:
    if "event" in world.accepted:
        assert 1 <= world.times("event") <= (2 if world.died else 1)


async def a_waited_call_that_must_not_be_repeated(world: CrashWorld) -> None:
    world.send("call", WAITED)


async def it_is_handled_once_at_most(world: CrashWorld) -> None:
    """Promise 3."""
    assert world.times("call") <= 1
    if "call" in world.answers and world.answers["call"].status == 200:
        assert world.times("call") == 1


async def a_waited_call_that_may_be_repeated(world: CrashWorld) -> None:
    world.send("call", WAITED._replace(method="PUT"))


async def it_is_answered_whoever_dies(world: CrashWorld) -> None:
    if world.victim is not Victim.RECEIVER:
        return
    assert world.answers["call"].status == 200, "another instance handled it in time"


async def a_call_whose_sender_waits_a_while(world: CrashWorld) -> None:
    world.send("call", DURABLE._replace(durable=Durable(wait=5)))


async def it_is_answered_or_accepted(world: CrashWorld) -> None:
    if "call" in world.answers:
        assert world.answers["call"].status in (200, 202)
        assert world.times("call") >= 1


async def what_nobody_can_read(world: CrashWorld) -> None:
    work = topology.work_key("orders.v2")
    world.inject(Publication(topology.CALLS, work, b"garbage!!", "g1", "call"))


async def it_lies_among_the_dead(world: CrashWorld) -> None:
    if world.injected:
        assert {letter.body for letter in world.dead} == {b"garbage!!"}
    assert len(world.dead) <= (2 if world.died else 1)


async def calls_while_the_broker_is_away(world: CrashWorld) -> None:
    world.sender.client.drop("cut by the test")
    for name in ("a1", "a2", "a3"):
        world.send(name, DURABLE._replace(key="a"))
    world.send("call", DURABLE)
    client = world.sender.client
    process = world.sender

    async def back() -> None:
        if process.fuse.alive:
            await client.open()

    world.tasks.start(_after(2.0, back), "the broker comes back")


async def they_come_out_of_the_spool(world: CrashWorld) -> None:
    if "call" in world.accepted:
        # The broker delivers it again, and the spool gives it to the broker again.
        assert 1 <= world.times("call") <= (3 if world.died else 1)


STORIES = {
    "a durable call": Story(a_durable_call, it_is_handled_once_or_twice),
    "a durable call with a callback": Story(a_call_with_a_callback, its_result_is_posted),
    "one that is tried again": Story(one_that_is_tried_again, it_fails_and_then_works, {"call": [500, 200]}),
    "one that is wrong": Story(a_durable_call, it_is_dead, {"call": [422]}, frozenset({dead.REJECTED})),
    "a poison message": Story(
        a_durable_call, it_is_dead_after_its_attempts, {"call": [500]}, frozenset({dead.ATTEMPTS})
    ),
    "two with one idempotency key": Story(two_calls_with_one_key, everybody_has_the_same_answer),
    "some in order": Story(some_of_two_ordering_keys, nothing_more, {"a1": [500, 200], "b1": [500, 200]}),
    "one in order that is poison": Story(
        some_of_two_ordering_keys, nothing_more, {"a1": [500], "b1": [404]}, frozenset({dead.ATTEMPTS, dead.REJECTED})
    ),
    "a delayed call": Story(a_delayed_call, it_is_handled_once_or_twice),
    "an event": Story(an_event, it_reaches_its_subscriber),
    "an event that is tried again": Story(an_event, nothing_more, {"event": [503, 200]}),
    "a waited call that must not be repeated": Story(
        a_waited_call_that_must_not_be_repeated, it_is_handled_once_at_most
    ),
    "a waited call that may be repeated": Story(a_waited_call_that_may_be_repeated, it_is_answered_whoever_dies),
    "a call whose sender waits a while": Story(a_call_whose_sender_waits_a_while, it_is_answered_or_accepted),
    "what nobody can read": Story(what_nobody_can_read, it_lies_among_the_dead, {}, frozenset({dead.UNDECODABLE})),
    "calls while the broker is away": Story(calls_while_the_broker_is_away, they_come_out_of_the_spool, spool=True),
}


async def _after(seconds: float, then: Callable[[], Coroutine[Any, Any, None]]) -> None:
    await pass_time(seconds)
    await then()


async def live(world: CrashWorld, story: Story) -> None:
    try:
        world.script = story.script
        await world.start()
        await story.begin(world)
        await world.drain()
        await world.finish()
        await nothing_is_lost(world)
        nothing_is_made_up(world)
        nobody_is_blamed(world, story)
        order_is_kept(world, story)
        await story.look(world)
    finally:
        await world.close()


@pytest.mark.parametrize("victim", Victim, ids=lambda victim: victim.value)
@pytest.mark.parametrize("name", STORIES)
def test_the_promises_hold_wherever_it_is_stopped(
    name: str, victim: Victim, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL)
    disk, story = StillDisk(monkeypatch), STORIES[name]
    for crossings in count(1):
        world = CrashWorld(tmp_path / str(crossings), disk, victim, crossings, spool=story.spool)
        try:
            run(world.clock, live(world, story), disk.write)
        except BaseException as error:
            error.add_note(f"{victim.value} died before crossing {crossings} of these: {world.mortal.crossed}")
            raise
        if not world.died:
            return
