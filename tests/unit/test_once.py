"""Once per key: what a key covers, what ends it, and how it goes for messages with one, over the embedded store."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import uvloop

from meshq.adapters.clock import ManualClock
from meshq.adapters.embedded_store import EmbeddedStore, EmbeddedStoreHub
from meshq.core.errors import Code
from meshq.core.http import HttpResponse
from meshq.core.keeping import MAX_ANSWER, MAX_FIELDS
from meshq.core.message import DecodeError, Fault, Request, Response, encode
from meshq.core.once import decode_answer, digest, encode_answer, final, scope
from meshq.ports import Once, StoreAway
from meshq_sidecar.once import (
    LAST_PAUSE,
    MAX_DOUBTFUL,
    Answer,
    Away,
    Handle,
    NotKept,
    OncePerKey,
    Reused,
    Token,
    Verdict,
)
from tests.contract.broker_rigs import Recorder
from tests.doubles import Counted, settle

# --- core -------------------------------------------------------------------------------------------------------------------

ASKED = ("shop", "orders", 2, "POST", b"/pay", b"key-1")


@pytest.mark.parametrize(
    "other",
    [
        ("cart", *ASKED[1:]),
        (ASKED[0], "billing", *ASKED[2:]),
        (*ASKED[:2], 1, *ASKED[3:]),
        (*ASKED[:3], "PUT", *ASKED[4:]),
        (*ASKED[:4], b"/pays", ASKED[5]),
        (*ASKED[:5], b"key-2"),
        ("shopo", "rders", *ASKED[2:]),
        (*ASKED[:4], b"/paykey", b"-1"),
    ],
)
def test_a_key_is_one_callers_for_one_method_and_path_of_one_topic(other: tuple[Any, ...]) -> None:
    assert scope(*other) != scope(*ASKED) == scope(*ASKED)
    assert len(scope(*other)) == 32


def test_a_query_is_part_of_what_must_be_the_same_not_of_what_the_key_is_for() -> None:
    assert scope(*ASKED[:4], b"/pay?x=1", ASKED[5]) == scope(*ASKED)
    assert digest(b"body", b"x=1") != digest(b"body", b"x=2") != digest(b"body")
    assert digest(None) == digest(b"") != digest(b"\0")
    assert digest(b"bx", b"a") != digest(b"x", b"ab")


@pytest.mark.parametrize(
    ("ends", "statuses"),
    [(True, (200, 204, 302, 400, 404, 409, 422, 499)), (False, (408, 425, 429, 500, 503, 599))],
)
def test_what_ends_a_key(ends: bool, statuses: tuple[int, ...]) -> None:
    assert {final(status) for status in statuses} == {ends}


def test_an_answer_is_kept_with_who_gave_it() -> None:
    answer = HttpResponse(201, [(b"Content-Type", b"text/plain"), (b"X", b"\xff")], b"\x00yes")
    kept = decode_answer(encode_answer("m1", answer, "orders/2.1.0/i-1", 3))
    assert kept == Response("m1", 201, answer.headers, answer.body, "orders/2.1.0/i-1", 3)


def test_a_body_of_64_kib_is_kept_and_a_larger_one_is_not() -> None:
    fields = [(b"X-%d" % n, bytes(1000)) for n in range(64)]
    largest = encode_answer("m1", HttpResponse(200, fields, bytes(MAX_ANSWER)), "o/1.0.0/i", 1)
    assert MAX_ANSWER < len(largest) <= MAX_ANSWER + MAX_FIELDS
    assert encode_answer("m1", HttpResponse(200, [], bytes(MAX_ANSWER + 1)), "o/1.0.0/i", 1) == b""


@pytest.mark.parametrize("kept", [b"", b"x", encode(Fault("m1", Code.DEADLINE, "late", True))])
def test_what_is_no_answer_is_not_read_as_one(kept: bytes) -> None:
    with pytest.raises(DecodeError):
        decode_answer(kept)


def test_two_answers_are_not_one() -> None:
    one = encode_answer("m1", HttpResponse(200, [], b""), "o/1.0.0/i", 1)
    with pytest.raises(DecodeError):
        decode_answer(one + one)


# --- with a store -----------------------------------------------------------------------------------------------------------

PAY = Request("m1", "POST", b"/pay", [(b"idempotency-key", b"k")], b"5 EUR", "shop")
OK = HttpResponse(200, [(b"X", b"1")], b"paid")
LEASE = 60.0


class Store(EmbeddedStore):
    """One that can be away: it then does what it is told and says that it did not, or does not do it."""

    def __init__(self, hub: EmbeddedStoreHub) -> None:
        super().__init__(hub)
        self.away = False
        self.lost_answers = False
        """It is away only after it did what it was told."""
        self.fault: Exception | None = None

    async def once(self, service: str, scope: str, digest: str, owner: str, lease: float) -> Once:
        self._check()
        known = await super().once(service, scope, digest, owner, lease)
        self._check(done=True)
        return known

    async def done(self, service: str, scope: str, owner: str, answer: bytes, status: int, window: float) -> None:
        self._check()
        await super().done(service, scope, owner, answer, status, window)
        self._check(done=True)

    async def free(self, service: str, scope: str, owner: str) -> None:
        self._check()
        await super().free(service, scope, owner)

    def _check(self, done: bool = False) -> None:
        if self.fault is not None:
            raise self.fault
        if self.away and self.lost_answers is done:
            raise StoreAway("the test says so")


class World:
    """Two instances of `orders`."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.hub = EmbeddedStoreHub(self.clock)
        self.store = Store(self.hub)
        self.metrics = Counted()
        self.first, self.second = (self.instance(name) for name in ("i-1", "i-2"))

    def instance(self, name: str) -> OncePerKey:
        return OncePerKey(self.store, self.clock, self.metrics, f"orders/2.1.0/{name}", LEASE)

    async def ask(self, who: OncePerKey, request: Request = PAY, **more: Any) -> Verdict:
        verdicts = Recorder[Verdict]()
        who.begin(request, "orders.v2", "shop", verdicts, **more)
        assert not verdicts.seen, "not before it returned"
        (verdict,) = await verdicts.count(1)
        return verdict

    async def claim(self, who: OncePerKey, request: Request = PAY) -> Token:
        verdict = await self.ask(who, request)
        assert isinstance(verdict, Handle)
        return verdict.token

    async def finish(self, who: OncePerKey, token: Token, response: HttpResponse = OK) -> None:
        told = Recorder[None]()
        who.finish(token, response, lambda: told(None))
        assert not told.seen, "not before it returned"
        await told.count(1)


def run(story: Callable[[World], Awaitable[None]]) -> None:
    async def life() -> None:
        world = World()
        try:
            async with asyncio.timeout(60):
                await story(world)
        finally:
            await world.first.close()
            await world.second.close()

    uvloop.run(life())


def test_the_first_handles_it_and_a_repeat_gets_its_answer() -> None:
    async def story(world: World) -> None:
        await world.finish(world.first, await world.claim(world.first))
        repeat = await world.ask(world.second, PAY._replace(id="m2"))
        assert repeat == Answer(OK, "orders/2.1.0/i-1", "m1")
        assert world.metrics.events == {"key_repeated": 1}

    run(story)


def test_five_at_once_are_handled_once_and_get_the_same_answer() -> None:
    async def story(world: World) -> None:
        verdicts = Recorder[Verdict]()
        for n in range(5):
            who = (world.first, world.second)[n % 2]
            who.begin(PAY._replace(id=f"m{n}"), "orders.v2", "shop", verdicts)
        (handle,) = await verdicts.count(1)
        assert isinstance(handle, Handle)
        await settle()
        assert verdicts.seen == [handle], "the others wait"
        await world.finish(world.first, handle.token)
        answers = [verdict for verdict in await verdicts.count(5) if isinstance(verdict, Answer)]
        assert [answer.response for answer in answers] == [OK] * 4

    run(story)


def test_one_message_that_comes_twice_waits_for_itself() -> None:
    async def story(world: World) -> None:
        token = await world.claim(world.first)
        verdicts = Recorder[Verdict]()
        world.first.begin(PAY, "orders.v2", "shop", verdicts)
        await settle()
        assert not verdicts.seen
        await world.finish(world.first, token)
        assert await verdicts.count(1) == [Answer(OK, "orders/2.1.0/i-1", "m1")]

    run(story)


@pytest.mark.parametrize("status", [408, 429, 500, 503])
def test_an_answer_that_is_not_final_frees_the_key(status: int) -> None:
    async def story(world: World) -> None:
        await world.finish(world.first, await world.claim(world.first), HttpResponse(status, []))
        await world.claim(world.second)

    run(story)


def test_what_is_released_is_the_next_ones_that_waits() -> None:
    async def story(world: World) -> None:
        token = await world.claim(world.first)
        waiting = Recorder[Verdict]()
        world.second.begin(PAY, "orders.v2", "shop", waiting)
        await settle()
        world.first.release(token)
        (verdict,) = await waiting.count(1)
        assert isinstance(verdict, Handle)

    run(story)


def test_another_body_or_query_is_refused() -> None:
    async def story(world: World) -> None:
        token = await world.claim(world.first)
        others = [PAY._replace(body=b"6 EUR"), PAY._replace(body=None), PAY._replace(target=b"/pay?twice")]
        assert [await world.ask(world.second, other) for other in others] == [Reused()] * 3
        await world.finish(world.first, token)
        assert await world.ask(world.second, others[0]) == Reused()

    run(story)


def test_other_keys_methods_paths_and_events_are_apart() -> None:
    async def story(world: World) -> None:
        await world.claim(world.first)
        for other in (
            PAY._replace(headers=[(b"Idempotency-Key", b"k2")]),
            PAY._replace(method="PUT"),
            PAY._replace(target=b"/pays"),
            PAY._replace(event="payments.settled.v1"),
        ):
            await world.claim(world.first, other)

    run(story)


def test_an_event_is_handled_once_by_each_subscription() -> None:
    async def story(world: World) -> None:
        event = PAY._replace(target=b"/", event="payments.settled.v1")
        for target in (b"/on/settled", b"/on/audit"):
            verdict = await world.ask(world.first, event, target=target)
            assert isinstance(verdict, Handle)
            await world.finish(world.first, verdict.token)
            assert isinstance(await world.ask(world.second, event, target=target), Answer)

    run(story)


def test_of_an_answer_that_is_too_large_the_status_is_known() -> None:
    async def story(world: World) -> None:
        await world.finish(world.first, await world.claim(world.first), HttpResponse(201, [], bytes(MAX_ANSWER + 1)))
        assert await world.ask(world.second) == NotKept(201)

    run(story)


def test_what_was_kept_and_cannot_be_read_is_not_handled_again() -> None:
    async def story(world: World) -> None:
        token = await world.claim(world.first)
        await world.store.done(token.service, token.scope, token.owner, b"of a later version", 200, LEASE)
        assert await world.ask(world.second) == NotKept(0)

    run(story)


# --- waiting and giving up ----------------------------------------------------------------------------------------------------


def test_a_claim_of_who_was_lost_ends_with_its_lease() -> None:
    async def story(world: World) -> None:
        lost = world.instance("i-3")
        await world.claim(lost)
        await lost.close()
        waiting = Recorder[Verdict]()
        world.second.begin(PAY, "orders.v2", "shop", waiting)
        await settle()
        assert not waiting.seen
        world.clock.advance(LEASE)
        (verdict,) = await waiting.count(1)
        assert isinstance(verdict, Handle)

    run(story)


def test_who_waits_for_longer_than_a_lease_is_told_so() -> None:
    async def story(world: World) -> None:
        token = await world.claim(world.first)
        waiting = Recorder[Verdict]()
        world.second.begin(PAY, "orders.v2", "shop", waiting)
        await settle()
        world.clock.advance(LEASE - 1)
        # As the renewal does, a third of a lease after the claim.
        await world.store.once(token.service, token.scope, token.digest, token.owner, LEASE)
        world.clock.advance(1)
        (verdict,) = await waiting.count(1)
        assert verdict == Away("another message with this key has been handled for more than 60 s")

    run(story)


def test_a_claim_is_renewed_for_as_long_as_it_is_held() -> None:
    async def story(world: World) -> None:
        quick = OncePerKey(world.store, world.clock, world.metrics, "orders/2.1.0/i-3", lease=0.06)
        token = await world.claim(quick)
        asked = Recorder[float]()
        plain = world.store.once

        async def once(service: str, scope: str, digest: str, owner: str, lease: float) -> Once:
            asked(lease)
            return await plain(service, scope, digest, owner, lease)

        world.store.once = once  # type: ignore[method-assign]
        for n in range(1, 4):
            await asked.count(n)
            world.clock.advance(0.05)
        world.store.once = plain  # type: ignore[method-assign]
        await world.finish(quick, token)
        assert isinstance(await world.ask(world.second), Answer), "0.15 s later the claim still stood"
        await quick.close()

    run(story)


def test_who_gave_up_hears_nothing_and_claims_nothing() -> None:
    async def story(world: World) -> None:
        token = await world.claim(world.first)
        waiting = Recorder[Verdict]()
        give_up = world.second.begin(PAY, "orders.v2", "shop", waiting)
        at_once = world.second.begin(PAY._replace(target=b"/other"), "orders.v2", "shop", waiting)
        at_once()
        await settle()
        give_up()
        await world.finish(world.first, token, HttpResponse(500, []))
        await world.claim(world.first)
        await world.claim(world.first, PAY._replace(target=b"/other"))
        give_up()
        assert not waiting.seen

    run(story)


def test_a_callback_that_fails_stops_nothing(caplog: pytest.LogCaptureFixture) -> None:
    async def story(world: World) -> None:
        def fail(*_: object) -> None:
            raise RuntimeError("a mistake")

        world.first.begin(PAY, "orders.v2", "shop", fail)
        token = await world.claim(world.first, PAY._replace(target=b"/other"))
        world.first.finish(token, OK, fail)
        assert isinstance(await world.ask(world.first, PAY._replace(target=b"/other")), Answer)

    run(story)
    assert [record.exc_info is not None for record in caplog.records] == [True, True]


def test_a_mistake_in_a_store_leaves_no_message_waiting(caplog: pytest.LogCaptureFixture) -> None:
    async def story(world: World) -> None:
        token = await world.claim(world.first)
        world.store.fault = RuntimeError("a mistake")
        assert isinstance(await world.ask(world.second), Away)
        await world.finish(world.first, token)

    run(story)
    assert [record.exc_info is not None for record in caplog.records] == [True, True]


# --- the store away -------------------------------------------------------------------------------------------------------------


def test_with_the_store_away_nothing_begins() -> None:
    async def story(world: World) -> None:
        world.store.away = True
        assert await world.ask(world.first) == Away("the test says so")
        assert world.metrics.events == {"store_away": 1}
        world.store.away = False
        await world.claim(world.second)

    run(story)


def test_a_claim_whose_answer_was_lost_is_given_up() -> None:
    async def story(world: World) -> None:
        world.store.away = world.store.lost_answers = True
        assert await world.ask(world.first) == Away("the test says so")
        world.store.away = False
        await world.claim(world.second)

    run(story)


def test_a_store_that_stays_away_makes_nothing_pile_up() -> None:
    async def story(world: World) -> None:
        world.store.away = True
        before = len(asyncio.all_tasks())
        for n in range(MAX_DOUBTFUL + 100):
            assert isinstance(await world.ask(world.first, PAY._replace(id=f"m{n}")), Away)
        await settle()
        assert len(asyncio.all_tasks()) <= before + 1
        world.store.away = False
        await world.claim(world.second)

    run(story)


@pytest.mark.parametrize("lost_answers", [False, True])
def test_what_was_handled_meanwhile_is_stored_when_the_store_is_back(lost_answers: bool) -> None:
    async def story(world: World) -> None:
        token = await world.claim(world.first)
        world.store.away, world.store.lost_answers = True, lost_answers
        await world.finish(world.first, token)  # whoever waits for the answer does not wait for the store
        world.store.away = False
        await world.first.close()
        assert isinstance(await world.ask(world.second), Answer)

    run(story)


def test_what_cannot_be_stored_within_the_lease_is_given_up_and_said(caplog: pytest.LogCaptureFixture) -> None:
    async def story(world: World) -> None:
        token = await world.claim(world.first)
        world.store.away = True
        await world.finish(world.first, token)
        world.clock.advance(LEASE)
        await world.first.close()
        world.store.away = False
        await world.claim(world.second)

    run(story)
    assert "a repeat of it is handled again" in caplog.text


def test_closing_does_not_wait_for_a_store_that_stays_away() -> None:
    async def story(world: World) -> None:
        token = await world.claim(world.first)
        world.store.away = True
        await world.finish(world.first, token)
        async with asyncio.timeout(10 * LAST_PAUSE):
            await world.first.close()

    run(story)
