"""Dead letters when something goes wrong in the middle: what was done is told, what was not done is still there."""

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import pytest

from meshq.adapters.clock import SystemClock
from meshq.adapters.embedded_broker import EmbeddedHub
from meshq.adapters.embedded_client import EmbeddedBroker
from meshq.control import dead as control
from meshq.control import dead_replays, holding
from meshq.control.dead import DeadLetters
from meshq.control.unreachable import Unreachable
from meshq.core import dead, topology
from meshq.core.dead_views import Wanted
from meshq.core.errors import Code, Problem
from meshq.core.instances import EMPTY, Snapshot
from meshq.core.message import DeadLetter, Request, encode_dead_letter, encode_request
from meshq.ports import BrokerAway, Held, Publication, QueueStats
from meshq.sending import Fate, Told
from tests.doubles import until

ORDERS = "orders.v2"
ALL = Wanted()


class Desk:
    """Five dead letters of orders.v2; `publish` is what the test makes of it."""

    def __init__(self, client: EmbeddedBroker, publish: Callable[[Publication, Told], None]) -> None:
        self.client = client
        self.published: list[Publication] = []

        def note(publication: Publication, told: Told) -> None:
            self.published.append(publication)
            publish(publication, told)

        async def picture() -> Snapshot:
            return EMPTY

        async def listed() -> list[QueueStats]:
            return []

        self.dead = DeadLetters(client, SystemClock(), note, picture, listed)

    async def left(self) -> list[int]:
        return [int(row["path"][1:]) for row in (await self.dead.rows(ORDERS, ALL)).rows]


def told(story: Callable[[Desk], Awaitable[None]], publish: Callable[[Publication, Told], None]) -> None:
    async def run() -> None:
        hub = EmbeddedHub(None, SystemClock())
        client = hub.connect("meshq-control")
        await client.open()
        await client.declare(topology.service(ORDERS))
        for number in range(5):
            request = Request(f"m-{number}", "POST", b"/%d" % number, [], None, "shop", accepted_ms=1)
            record = DeadLetter(
                request.id, dead.REJECTED, "", topology.work_queue(ORDERS), number + 1, "", encode_request(request)
            )
            queue = topology.dead_queue(ORDERS)
            client.publish(Publication(topology.DEAD, queue, encode_dead_letter(record), "x", "dead"), lambda _: None)
        try:
            await story(Desk(client, publish))
        finally:
            await hub.close()

    asyncio.run(run())


def confirm(_: Publication, told: Told) -> None:
    told(Fate.CONFIRMED)


def outcomes(changed: control.Changed) -> list[tuple[str, str]]:
    return [(letter["outcome"], letter["detail"]) for letter in changed.letters]


def test_where_the_broker_takes_no_more_the_rest_is_not_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dead_replays, "AT_ONCE", 2)
    fates: list[Fate | Problem] = [Fate.CONFIRMED, Problem(Code.UNAVAILABLE, "it is away")]

    async def story(desk: Desk) -> None:
        changed = await desk.dead.replay(ORDERS, ALL, None)
        assert outcomes(changed) == [("replayed", ""), ("kept", "it is away")] + [("kept", "not tried: it is away")] * 3
        assert len(desk.published) == 2
        assert await desk.left() == [1, 2, 3, 4]

    told(story, lambda _, told: told(fates.pop(0)))


def test_after_a_minute_no_more_are_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dead_replays, "AT_ONCE", 2)
    monkeypatch.setattr(dead_replays, "SECONDS", -1.0)

    async def story(desk: Desk) -> None:
        changed = await desk.dead.replay(ORDERS, ALL, None)
        assert outcomes(changed) == [("replayed", "")] * 2 + [("kept", "not tried: -1 s are over")] * 3
        assert await desk.left() == [2, 3, 4]

    told(story, confirm)


def test_a_letter_that_was_lost_with_the_connection_is_said_and_there_again() -> None:
    async def story(desk: Desk) -> None:
        changed = await desk.dead.replay(ORDERS, Wanted(limit=1), None)
        said = "it was replayed, but the connection was lost before it could be taken out of the dead letters"
        assert outcomes(changed) == [("kept", said)]
        await desk.client.open()
        assert await desk.left() == [0, 1, 2, 3, 4]

    clients: list[EmbeddedBroker] = []

    def cut(_: Publication, told: Told) -> None:
        clients[0].drop("cut by the test")
        told(Fate.CONFIRMED)

    async def with_client(desk: Desk) -> None:
        clients.append(desk.client)
        await story(desk)

    told(with_client, cut)


def test_what_was_done_is_told_even_where_the_second_queue_cannot_be_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    async def story(desk: Desk) -> None:
        hold = desk.client.hold

        async def but_not_lost(queue: str, most: int) -> Held:
            if queue == topology.LOST:
                raise BrokerAway("no leader")
            return await hold(queue, most)

        monkeypatch.setattr(desk.client, "hold", but_not_lost)
        changed = await desk.dead.drop(ORDERS, Wanted(frozenset(["m-3"])))
        assert (outcomes(changed), changed.fault) == ([("dropped", "")], "no leader")
        with pytest.raises(Unreachable, match="no leader"):
            await desk.dead.drop(ORDERS, Wanted(frozenset(["m-3"])))

    told(story, confirm)


def test_looking_has_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "LOOK_SECONDS", 0.05)

    async def story(desk: Desk) -> None:
        async def never(queue: str, most: int) -> Held:
            await asyncio.Event().wait()
            raise AssertionError

        monkeypatch.setattr(desk.client, "hold", never)
        waiting = [asyncio.ensure_future(desk.dead.rows(ORDERS, ALL)) for _ in range(3)]
        for each in waiting:
            with pytest.raises(Unreachable, match="did not answer within"):
                await each

    told(story, confirm)


def test_after_a_while_queues_are_only_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "ENOUGH_SECONDS", -1.0)

    async def story(desk: Desk) -> None:
        found = await desk.dead.rows(ORDERS, ALL)
        assert (found.rows, found.more) == ([], 5)

    told(story, confirm)


def test_everything_is_given_back_when_looking_ends_early() -> None:
    async def story(desk: Desk) -> None:
        looking = asyncio.ensure_future(desk.dead.replay(ORDERS, ALL, None))
        await until(lambda: desk.published)
        looking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await looking
        assert await desk.left() == [0, 1, 2, 3, 4]

    told(story, lambda _publication, _told: None)


def test_no_more_are_held_than_may_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(holding, "MAX_HELD", 3)

    async def story(desk: Desk) -> None:
        found = await desk.dead.rows(ORDERS, ALL)
        assert (len(found.rows), found.more) == (3, 2)
        found = await desk.dead.rows(ORDERS, Wanted(reason="none such"))
        assert (found.rows, found.more) == ([], 2)
        found = await desk.dead.rows(ORDERS, Wanted(limit=100))
        assert (len(found.rows), found.more) == (3, 2)

    told(story, confirm)


def test_a_second_limit_counts_what_the_first_queue_had(monkeypatch: pytest.MonkeyPatch) -> None:
    async def story(desk: Desk) -> None:
        looked: list[Any] = []
        hold = desk.client.hold

        async def noted(queue: str, most: int) -> Held:
            looked.append((queue, most))
            return await hold(queue, most)

        monkeypatch.setattr(desk.client, "hold", noted)
        changed = await desk.dead.drop(ORDERS, Wanted(limit=2))
        assert (len(changed.letters), changed.more) == (2, 3)
        assert looked == [(topology.dead_queue(ORDERS), 2)]

    told(story, confirm)


def test_a_dry_run_publishes_nothing() -> None:
    async def story(desk: Desk) -> None:
        replay = partial(desk.dead.replay, ORDERS, ALL, None)
        assert outcomes(await replay(dry_run=True)) == [("replayed", "")] * 5
        assert desk.published == []
        assert outcomes(await replay()) == [("replayed", "")] * 5

    told(story, confirm)
