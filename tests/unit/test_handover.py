"""Handing durable messages over: each has one fate, whatever the broker and the spool do, and nothing waits for ever. What the
real brokers do is in tests/contract/test_sender.py; here are the answers that they give rarely, and the times."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from meshq import sending_handover
from meshq.adapters.clock import ManualClock
from meshq.core.errors import Code, Problem
from meshq.ports import BrokerState, Publication, Published, Spooled
from meshq.sending_handover import LONGEST, PATIENCE, Fate, Handover
from tests.doubles import until
from tests.told_broker import ToldBroker


class Shelf:
    """A spool whose answers the test gives."""

    def __init__(self) -> None:
        self.idle = True
        self.put: list[tuple[Publication, Callable[[Spooled], None]]] = []

    def accept(self, publication: Publication, done: Callable[[Spooled], None]) -> None:
        self.put.append((publication, done))

    def say(self, outcome: Spooled) -> None:
        self.put.pop(0)[1](outcome)


class World:
    def __init__(self, spool: bool = False, always_spool: bool = False) -> None:
        self.clock = ManualClock()
        self.broker = ToldBroker()
        self.shelf = Shelf()
        self.denied: Problem | None = None
        self.handover = Handover(
            self.broker,  # type: ignore[arg-type]
            self.clock,
            lambda publication: self.denied,
            self.shelf if spool else None,
            always_spool=always_spool,
        )
        self.fates: list[Fate | Problem] = []

    def publish(self, ident: str = "m", body: bytes = b"body") -> None:
        self.handover.publish(Publication("x", "k", body, ident, "call"), self.fates.append)

    async def later(self, seconds: float) -> None:
        """Let so much time pass, in steps that a timer could have looked in between."""
        for _ in range(round(seconds / 0.25)):
            self.clock.advance(0.25)
            looked = asyncio.Event()
            asyncio.get_running_loop().call_later(0.003, looked.set)
            await looked.wait()

    async def fate(self) -> Fate | Problem:
        await until(lambda: self.fates)
        return self.fates.pop(0)

    async def code(self) -> Code:
        fate = await self.fate()
        assert isinstance(fate, Problem)
        return fate.code


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sending_handover, "LOOK_EVERY", 0.001)


def run(test: Callable[[World], Awaitable[None]], **options: bool) -> None:
    async def inside() -> None:
        world = World(**options)
        await test(world)
        assert not world.fates, "one fate a message"
        assert (len(world.handover), world.handover._bytes) == (0, 0), "and nothing is left of it"

    asyncio.run(inside())


@pytest.mark.parametrize(
    ("outcome", "fate"), [(Published.CONFIRMED, Fate.CONFIRMED), (Published.UNROUTABLE, Fate.UNROUTABLE)]
)
def test_what_the_broker_says(outcome: Published, fate: Fate) -> None:
    async def test(world: World) -> None:
        world.publish()
        assert len(world.handover) == 1
        world.broker.say(outcome)
        assert world.fates.pop() is fate
        world.broker.at_once = outcome
        world.publish()
        assert world.fates.pop() is fate, "also while it is still being given"

    run(test)


# --- without a spool ----------------------------------------------------------------------------------------------------------


def test_while_the_broker_is_being_found_again_messages_are_held() -> None:
    async def test(world: World) -> None:
        world.clock.advance(60)
        world.broker.tell(False, "cut")
        for ident in "abc":
            world.publish(ident)
        await world.later(1)
        assert not world.fates
        world.broker.tell(True)
        assert [publication.message_id for publication, _ in world.broker.asked] == ["a", "b", "c"]
        for _ in "abc":
            world.broker.say(Published.CONFIRMED)
        assert world.fates == [Fate.CONFIRMED] * 3
        world.fates.clear()

    run(test)


def test_patience_ends_and_begins_with_each_loss() -> None:
    async def test(world: World) -> None:
        world.broker.tell(False, "cut by the test")
        world.publish()
        await world.later(PATIENCE[Published.AWAY])
        fate = await world.fate()
        assert fate == Problem(Code.UNAVAILABLE, "cut by the test")
        world.publish()
        assert world.fates.pop() == fate, "at once, now that it is away for longer"
        world.broker.tell(True)
        world.broker.tell(False, "cut again")
        world.publish()
        assert not world.fates
        await world.later(PATIENCE[Published.AWAY])
        assert await world.fate() == Problem(Code.UNAVAILABLE, "cut again")

    run(test)


def test_what_is_over_the_brokers_window_waits_a_little() -> None:
    async def test(world: World) -> None:
        world.broker.at_once = Published.FULL
        world.publish("a")
        world.publish("b")
        await world.later(1)
        world.broker.at_once = Published.CONFIRMED
        await world.later(0.25)
        assert (await world.fate(), await world.fate()) == (Fate.CONFIRMED, Fate.CONFIRMED)
        world.broker.at_once = Published.FULL
        world.publish()
        await world.later(PATIENCE[Published.FULL])
        assert await world.code() is Code.OVERLOADED

    run(test)


def test_backpressure_that_nobody_told_of_is_no_loss() -> None:
    async def test(world: World) -> None:
        world.clock.advance(60)
        world.broker.at_once = Published.AWAY  # the socket takes no more; the state is not told for that
        world.publish()
        await world.later(1)
        assert not world.fates
        world.broker.at_once = Published.CONFIRMED
        await world.later(0.25)
        assert await world.fate() is Fate.CONFIRMED
        world.broker.at_once = Published.AWAY
        world.publish()
        await world.later(PATIENCE[Published.AWAY])
        assert await world.code() is Code.OVERLOADED

    run(test)


def test_a_loss_that_nobody_told_of_is_seen() -> None:
    async def test(world: World) -> None:
        world.publish("a")
        world.broker.say(Published.UNKNOWN)
        world.clock.advance(5)
        world.broker.state = BrokerState(False, True, "")
        await world.later(0.25)
        world.publish("b")
        await world.later(1)
        assert not world.fates
        world.broker.state = BrokerState(True, True, "")
        await world.later(1)
        for _ in "ab":
            world.broker.say(Published.CONFIRMED)
        assert world.fates == [Fate.CONFIRMED] * 2
        world.fates.clear()

    run(test)


def test_after_an_unknown_outcome_it_is_not_called_refused() -> None:
    async def test(world: World) -> None:
        world.publish()
        world.broker.say(Published.UNKNOWN)
        for _ in range(60):
            await world.later(0.25)
            if world.broker.asked:
                world.broker.say(Published.REFUSED)
        fate = await world.fate()
        assert isinstance(fate, Problem)
        assert (fate.code, "not known" in fate.detail) == (Code.UNAVAILABLE, True)

    run(test)


def test_a_refusal_is_tried_again_more_and_more_rarely() -> None:
    async def test(world: World) -> None:
        world.broker.at_once = None
        world.publish()
        tries = 0
        for _ in range(40):
            if world.broker.asked:
                tries += 1
                world.broker.say(Published.REFUSED)
            await world.later(0.25)
        assert 4 < tries < 12
        fate = await world.fate()
        assert isinstance(fate, Problem)
        assert (fate.code, "refused" in fate.detail) == (Code.UNAVAILABLE, True)

    run(test)


def test_a_refusal_that_ends() -> None:
    async def test(world: World) -> None:
        world.publish()
        world.broker.say(Published.REFUSED)
        await world.later(0.25)
        world.broker.say(Published.CONFIRMED)
        assert await world.fate() is Fate.CONFIRMED

    run(test)


def test_one_refused_message_holds_up_no_other() -> None:
    async def test(world: World) -> None:
        world.publish("a")
        world.broker.say(Published.REFUSED)
        world.publish("b")
        world.broker.say(Published.CONFIRMED)
        assert world.fates == [Fate.CONFIRMED]
        await world.later(0.25)
        world.broker.say(Published.CONFIRMED)
        assert world.fates == [Fate.CONFIRMED] * 2
        world.fates.clear()

    run(test)


def test_a_missing_right_is_said_at_once() -> None:
    async def test(world: World) -> None:
        world.publish()
        world.denied = Problem(Code.DENIED, "no")
        world.broker.say(Published.UNKNOWN)  # the broker refuses by closing the channel
        await world.later(0.5)
        assert await world.fate() == world.denied
        world.publish()
        assert world.fates.pop() == world.denied
        assert not world.broker.asked

    run(test)


def test_what_was_on_a_lost_connection_is_published_again() -> None:
    async def test(world: World) -> None:
        world.publish()
        first = world.broker.asked[0][0]
        world.broker.say(Published.UNKNOWN)
        world.broker.tell(False, "cut")
        await world.later(5)
        assert not world.fates
        world.broker.tell(True)
        assert world.broker.asked[0][0] == first, "with the same id"
        world.broker.say(Published.CONFIRMED)
        assert await world.fate() is Fate.CONFIRMED
        world.publish()
        world.broker.say(Published.UNKNOWN)
        world.broker.tell(False, "cut")
        await world.later(PATIENCE[Published.UNKNOWN])
        assert await world.code() is Code.UNAVAILABLE

    run(test)


def test_a_confirm_that_never_comes() -> None:
    async def test(world: World) -> None:
        world.publish()
        await world.later(LONGEST)
        fate = await world.fate()
        assert isinstance(fate, Problem)
        assert (fate.code, "not known" in fate.detail) == (Code.UNAVAILABLE, True)
        world.broker.say(Published.CONFIRMED)
        assert not world.fates

    run(test)


def test_what_is_open_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sending_handover, "MAX_OPEN", 3)
    monkeypatch.setattr(sending_handover, "MAX_OPEN_BYTES", 10)

    async def test(world: World) -> None:
        world.publish(body=b"12345")
        world.publish(body=b"12345")
        world.publish(body=b"1")
        assert await world.code() is Code.OVERLOADED
        world.publish(body=b"")
        world.publish(body=b"")
        assert await world.code() is Code.OVERLOADED
        for _ in range(3):
            world.broker.say(Published.CONFIRMED)
        assert world.fates == [Fate.CONFIRMED] * 3
        world.fates.clear()

    run(test)


# --- with a spool ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("outcome", [Published.AWAY, Published.FULL])
def test_what_the_broker_does_not_take_is_spooled(outcome: Published) -> None:
    async def test(world: World) -> None:
        world.broker.at_once = outcome
        world.publish()
        assert not world.fates
        world.shelf.say(Spooled.WRITTEN)
        assert world.fates.pop() is Fate.SPOOLED

    run(test, spool=True)


def test_what_the_spool_cannot_take_is_refused() -> None:
    async def test(world: World) -> None:
        world.broker.tell(False, "cut")
        world.publish()
        world.shelf.say(Spooled.FULL)
        assert await world.code() is Code.UNAVAILABLE
        world.publish()
        world.shelf.say(Spooled.FAILED)
        assert await world.code() is Code.DISK_FULL

    run(test, spool=True)


def test_behind_what_is_spooled_goes_all_else() -> None:
    async def test(world: World) -> None:
        world.shelf.idle = False
        world.publish()
        assert not world.broker.asked
        world.shelf.say(Spooled.WRITTEN)
        world.shelf.idle = True
        world.publish()
        world.broker.say(Published.CONFIRMED)
        assert world.fates == [Fate.SPOOLED, Fate.CONFIRMED]
        world.fates.clear()

    run(test, spool=True)


def test_the_spool_first() -> None:
    async def test(world: World) -> None:
        world.publish()
        assert not world.broker.asked
        world.shelf.say(Spooled.WRITTEN)
        assert world.fates.pop() is Fate.SPOOLED

    run(test, spool=True, always_spool=True)


@pytest.mark.parametrize("outcome", [Published.REFUSED, Published.UNKNOWN])
def test_what_the_broker_had_its_chances_with_is_spooled(outcome: Published) -> None:
    async def test(world: World) -> None:
        world.publish()
        for _ in range(60):
            if world.broker.asked:
                world.broker.say(outcome)
            await world.later(0.25)
        assert len(world.shelf.put) == 1
        world.shelf.say(Spooled.WRITTEN)
        assert await world.fate() is Fate.SPOOLED

    run(test, spool=True)


@pytest.mark.parametrize("outcome", [Published.UNKNOWN, Published.REFUSED, Published.AWAY])
def test_a_confirm_that_does_not_come_is_spooled_before_it_is_too_late(outcome: Published) -> None:
    async def test(world: World) -> None:
        world.publish()
        await world.later(PATIENCE[Published.UNKNOWN])
        await until(lambda: world.shelf.put)
        await world.later(1)
        assert len(world.shelf.put) == 1
        world.broker.say(outcome)
        await world.later(1)
        assert (len(world.shelf.put), world.broker.asked) == (1, []), "once it is the spool's it is tried no more"
        world.shelf.say(Spooled.WRITTEN)
        assert await world.fate() is Fate.SPOOLED

    run(test, spool=True)


def test_a_confirm_that_comes_while_it_is_being_spooled_counts() -> None:
    async def test(world: World) -> None:
        world.publish()
        await world.later(PATIENCE[Published.UNKNOWN])
        await until(lambda: world.shelf.put)
        world.broker.say(Published.CONFIRMED)
        assert world.fates.pop() is Fate.CONFIRMED
        world.shelf.say(Spooled.WRITTEN)

    run(test, spool=True)


def test_a_spool_that_does_not_answer() -> None:
    async def test(world: World) -> None:
        world.broker.tell(False, "cut")
        world.publish()
        await world.later(LONGEST)
        assert await world.code() is Code.UNAVAILABLE
        world.shelf.say(Spooled.WRITTEN)

    run(test, spool=True)
