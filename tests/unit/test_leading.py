"""Two replicas of the server at one embedded store: one of them leads."""

import logging
from collections.abc import Awaitable, Callable

import pytest

from meshq.adapters.clock import ManualClock
from meshq.adapters.embedded_store import EmbeddedStoreHub
from meshq.ports import Store, StoreAway
from meshq.signals.leading import LEASE, RENEW_EVERY, Leading
from meshq.tasks import Tasks
from tests.virtual_time import pass_time, run


class AwayStore:
    """What a replica asks of `ports.Store`, of one that can be away for it."""

    def __init__(self, store: Store) -> None:
        self.away = False
        self._store = store

    async def lead(self, name: str, owner: str, seconds: float) -> bool:
        if self.away:
            raise StoreAway("the store is away")
        return await self._store.lead(name, owner, seconds)


class Replica:
    def __init__(self, hub: EmbeddedStoreHub, owner: str) -> None:
        self.store = AwayStore(hub.connect())
        self.role = Leading(self.store, owner)  # type: ignore[arg-type]
        self._tasks = Tasks()

    def start(self) -> None:
        self._tasks.start(self.role.run(), "lead")

    async def stop(self) -> None:
        await self._tasks.close()


def told(story: Callable[[Replica, Replica], Awaitable[None]]) -> None:
    clock = ManualClock()

    async def inside() -> None:
        hub = EmbeddedStoreHub(clock)
        one, other = Replica(hub, "one"), Replica(hub, "other")
        one.start()
        await pass_time(0.1)
        other.start()
        try:
            await pass_time(0.1)
            await story(one, other)
        finally:
            await one.stop()
            await other.stop()

    run(clock, inside())


def test_the_first_leads_and_stays() -> None:
    async def story(one: Replica, other: Replica) -> None:
        for _ in range(20):
            assert (one.role.now, other.role.now) == (True, False)
            await pass_time(RENEW_EVERY)

    told(story)


def test_nobody_leads_before_it_asked() -> None:
    assert not Leading(EmbeddedStoreHub(ManualClock()).connect(), "one").now


def test_the_other_takes_over_once_the_lease_of_one_that_is_gone_is_over() -> None:
    async def story(one: Replica, other: Replica) -> None:
        await one.stop()
        await pass_time(LEASE - RENEW_EVERY - 1.0)
        assert not other.role.now
        await pass_time(2 * RENEW_EVERY + 1.0)
        assert other.role.now
        one.start()
        await pass_time(RENEW_EVERY)
        assert (one.role.now, other.role.now) == (False, True), "it does not take it back"

    told(story)


def test_who_cannot_ask_does_not_lead(caplog: pytest.LogCaptureFixture) -> None:
    async def story(one: Replica, other: Replica) -> None:
        one.store.away = True
        await pass_time(RENEW_EVERY)
        assert (one.role.now, other.role.now) == (False, False)
        await pass_time(LEASE + RENEW_EVERY)
        assert (one.role.now, other.role.now) == (False, True)
        one.store.away = False
        await pass_time(RENEW_EVERY)
        assert (one.role.now, other.role.now) == (False, True)

    with caplog.at_level(logging.INFO, "meshq.signals"):
        told(story)
    assert [record.message for record in caplog.records] == [
        "one leads",
        "the store is away; nobody leads until it answers",
        "one does not lead any more",
        "other leads",
    ]


def test_never_two_at_once() -> None:
    """Each loses the store for a while, in turn and together."""

    async def story(one: Replica, other: Replica) -> None:
        led = set()
        for second in range(600):
            one.store.away = second % 97 < 30
            other.store.away = second % 61 < 25
            await pass_time(1.0)
            assert not (one.role.now and other.role.now)
            led |= {each.role.owner for each in (one, other) if each.role.now}
        assert led == {"one", "other"}

    told(story)
