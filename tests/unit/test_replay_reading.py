"""Reading a log: what goes on to the queue, how much at once, and what becomes of it when the broker does not take it."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from meshq.adapters.clock import SystemClock
from meshq.core.message import CONTENT_TYPE, Request, decode, encode_request
from meshq.core.subscription_parsing import parse
from meshq.core.topology import DELAY, delay_key
from meshq.ports import BrokerState, Delivery, Published
from meshq_sidecar import replay_reading
from meshq_sidecar.replay_reading import WINDOW, Reading, replay_of
from tests.doubles import settle, until
from tests.told_broker import ToldBroker

REPLAY = replay_of(parse({"event": "a.b", "path": "/x", "mode": "replay"}, "again"), "shop.v1")


class Logged:
    """`ports.Delivery`: one message of the log."""

    content_type = CONTENT_TYPE
    user_id = "payments"
    live = True

    def __init__(self, offset: int, body: bytes | None = None) -> None:
        self.message_id = f"m{offset}"
        request = Request(self.message_id, "POST", b"/", [], None, "payments", accepted_ms=1, event="a.b.v1")
        self.body = encode_request(request) if body is None else body
        self.offset = offset
        self.acknowledged = False

    def properties(self) -> dict[str, Any]:
        return {"headers": {"x-stream-offset": self.offset}, "priority": 8}

    def ack(self) -> None:
        self.acknowledged = True


class LogBroker(ToldBroker):
    """One that also reads out a log."""

    def subscribe(self, queue: str, prefetch: int, on_delivery: Callable[[Delivery], None], *, offset: Any) -> Any:
        assert (queue, prefetch, offset) == ("meshq.log.a.b.v1", WINDOW, "first")
        self.deliver: Callable[[Any], None] = on_delivery
        self.cancelled = 0
        return self

    def cancel(self) -> None:
        self.cancelled += 1


def reading(broker: LogBroker) -> Reading:
    return Reading(broker, SystemClock(), REPLAY, "first", asyncio.Event())  # type: ignore[arg-type]


def run(story: Callable[[LogBroker], Any]) -> None:
    asyncio.run(story(LogBroker()))


def test_what_is_published_says_who_sent_it() -> None:
    async def story(broker: LogBroker) -> None:
        reading(broker)
        broker.deliver(Logged(7))
        ((publication, _),) = broker.asked
        key = delay_key(0, "meshq.shop.v1.on.again")
        assert publication._replace(body=b"") == (DELAY, key, b"", "m7", "event", "", None, 8)
        (request,) = decode(publication.body)
        assert isinstance(request, Request)
        assert (request.proved_caller, request.event, request.accepted_ms) == ("payments", "a.b.v1", 1)

    run(story)


def test_what_cannot_be_read_goes_on_as_it_is() -> None:
    async def story(broker: LogBroker) -> None:
        reading(broker)
        broker.deliver(Logged(0, b"rubbish"))
        assert broker.asked[0][0].body == b"rubbish"

    run(story)


def test_only_what_is_confirmed_from_the_front_can_be_acknowledged() -> None:
    async def story(broker: LogBroker) -> None:
        here = reading(broker)
        logged = [Logged(n) for n in range(3)]
        for each in logged:
            broker.deliver(each)
        broker.asked.pop(1)[1](Published.CONFIRMED)
        assert here.confirmed is None
        broker.say(Published.CONFIRMED)
        assert here.confirmed == 1
        here.acknowledge(1)
        assert [each.acknowledged for each in logged] == [True, True, False]
        assert here.confirmed is None

    run(story)


def test_a_broker_that_confirms_at_once_is_given_all_of_it() -> None:
    async def story(broker: LogBroker) -> None:
        here = reading(broker)
        broker.at_once = Published.CONFIRMED
        for n in range(5000):
            broker.deliver(Logged(n))
        assert here.confirmed == 4999

    run(story)


def test_a_broker_that_is_slow_gets_less_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replay_reading, "AGAIN", 0.0)

    async def story(broker: LogBroker) -> None:
        here = reading(broker)
        for n in range(WINDOW):
            broker.deliver(Logged(n))
        assert len(broker.asked) == WINDOW
        for _ in range(WINDOW):
            broker.say(Published.UNKNOWN)
        assert broker.asked == [], "it is left alone for a moment"
        await until(lambda: broker.asked)
        assert len(broker.asked) == 1
        seen = set()
        most = 0
        while broker.asked:
            most = max(most, len(broker.asked))
            seen.add(broker.asked[0][0].message_id)
            broker.say(Published.CONFIRMED)
        assert seen == {f"m{n}" for n in range(WINDOW)}, "none is left out"
        assert 50 < most < WINDOW
        assert here.confirmed == WINDOW - 1

    run(story)


def test_after_its_end_nothing_is_published(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replay_reading, "AGAIN", 0.0)

    async def story(broker: LogBroker) -> None:
        here = reading(broker)
        broker.deliver(Logged(0))
        broker.say(Published.AWAY)
        here.end()
        here.end()
        await settle()
        assert (broker.asked, broker.cancelled) == ([], 1)
        broker.state = BrokerState(True, True, "")
        broker.deliver(Logged(1))
        assert broker.asked == []

    run(story)
