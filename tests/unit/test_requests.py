"""What became of a durable call: asked for, cancelled, and known here before the store knows."""

import asyncio
import json
from collections.abc import Awaitable, Callable

import pytest

from meshq.adapters.clock import ManualClock
from meshq.adapters.embedded_store import EmbeddedStoreHub
from meshq.core.errors import Code
from meshq.core.http import HttpResponse
from meshq.core.keeping import Keeping
from meshq.core.message import Fault, Response, encode
from meshq_sidecar import requests
from meshq_sidecar.requests import Requests
from tests.away_store import AwayStore
from tests.doubles import until
from tests.one_exchange import OneExchange, field

ID = "0123456789abcdef0123456789abcdef"
OK = Response(ID, 201, [(b"A", b"b"), (b"Meshq-Error", b"forged")], b"made", "orders/1.0.0/i", 2)


class World:
    def __init__(self) -> None:
        self.clock = ManualClock()
        self.hub = EmbeddedStoreHub(self.clock)
        self.store = AwayStore(self.hub.connect())
        self.requests = Requests(self.store, "checkout")

    async def ask(self, ident: str = ID, method: str = "GET", by: Requests | None = None) -> HttpResponse:
        exchange = OneExchange(method, f"/v1/requests/{ident}")
        (by or self.requests).handle(exchange, exchange.carried, exchange.request.target)
        return await exchange.answer()

    async def mark(self) -> None:
        await self.store.accepted("checkout", "orders", [ID], 60)

    async def complete(self, result: Response | Fault = OK, status: int = 201) -> None:
        await self.store.completed("checkout", ID, "orders", encode(result), status)

    async def known(self, ident: str = ID) -> bool:
        return await self.hub.connect().request("checkout", ident) is not None


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requests, "MARK_EVERY", 0.001)
    monkeypatch.setattr(requests, "LOOK_AGAIN", 0.001)
    monkeypatch.setattr(requests, "MARK_AGAIN", 0.001)


def run(test: Callable[[World], Awaitable[None]]) -> None:
    async def inside() -> None:
        world = World()
        await test(world)
        await world.requests.close()

    asyncio.run(inside())


def test_pending_then_done() -> None:
    async def test(world: World) -> None:
        await world.mark()
        pending = await world.ask()
        assert (pending.status, field(pending, "retry-after"), field(pending, "meshq-request-status")) == (
            202,
            "1",
            "pending",
        )
        assert json.loads(pending.body) == {"id": ID, "status": "pending"}
        await world.complete()
        done = await world.ask()
        assert (done.status, done.body) == (201, b"made")
        assert done.headers == [
            (b"A", b"b"),
            (b"Meshq-Attempt", b"2"),
            (b"Meshq-Served-By", b"orders/1.0.0/i"),
            (b"Meshq-Request-Status", b"done"),
            (b"Meshq-Message-Id", ID.encode()),
        ]
        assert (await world.ask(method="HEAD")).status == 201

    run(test)


def test_a_failed_one_has_the_apps_last_answer() -> None:
    async def test(world: World) -> None:
        await world.complete(OK._replace(status=503, failed="attempts"), 503)
        failed = await world.ask()
        assert (failed.status, failed.body, field(failed, "meshq-error")) == (503, b"made", None)
        assert field(failed, "meshq-request-status") == "failed"
        assert field(failed, "meshq-request-reason") == "attempts"

    run(test)


def test_or_the_problem_where_there_was_none() -> None:
    async def test(world: World) -> None:
        await world.complete(Fault(ID, Code.DEADLINE, "too late", False, "orders/1.0.0/i", "deadline"), 504)
        failed = await world.ask()
        assert (failed.status, field(failed, "content-type")) == (504, "application/problem+json")
        assert json.loads(failed.body)["detail"] == "too late"
        assert (field(failed, "meshq-request-status"), field(failed, "meshq-request-reason")) == ("failed", "deadline")

    run(test)


def test_its_time_is_over() -> None:
    async def test(world: World) -> None:
        await world.complete()
        world.clock.advance(Keeping().result)
        gone = await world.ask()
        assert (gone.status, field(gone, "content-type")) == (410, "application/problem+json")
        assert json.loads(gone.body)["status"] == 410

    run(test)


@pytest.mark.parametrize(("status", "shown"), [(201, "done"), (500, "failed")])
def test_an_answer_that_was_not_kept(status: int, shown: str) -> None:
    async def test(world: World) -> None:
        await world.store.completed("checkout", ID, "orders", b"x" * 5 * 2**20, status)
        answer = await world.ask()
        assert (answer.status, field(answer, "meshq-error")) == (409, "answer-not-kept")
        assert (field(answer, "meshq-request-status"), field(answer, "meshq-request-code")) == (shown, str(status))

    run(test)


@pytest.mark.parametrize("ident", [ID, "a", "a/b", "", "%00", "é", "x" * 65])
@pytest.mark.parametrize("method", ["GET", "DELETE"])
def test_what_nobody_knows(ident: str, method: str) -> None:
    async def test(world: World) -> None:
        answer = await world.ask(ident, method)
        assert (answer.status, field(answer, "content-type")) == (404, "application/problem+json")
        assert json.loads(answer.body)["title"] == "No such request"

    run(test)


def test_another_services_request_is_not_known() -> None:
    async def test(world: World) -> None:
        await world.complete()
        assert (await world.ask(by=Requests(world.store, "mallory"))).status == 404

    run(test)


def test_other_methods() -> None:
    async def test(world: World) -> None:
        answer = await world.ask(method="POST")
        assert (answer.status, field(answer, "allow")) == (405, "GET, HEAD, DELETE")

    run(test)


# --- before the store knows ---------------------------------------------------------------------------------------------------------


def test_what_was_accepted_here_is_known_at_once() -> None:
    async def test(world: World) -> None:
        world.requests.accepted(ID, "orders")
        assert world.requests.called(ID) == "orders"
        assert (await world.ask()).status == 202
        await until(lambda: world.store.told)
        assert await world.known()
        world.clock.advance(60)
        other = Requests(world.store, "checkout")
        assert (await world.ask(by=other)).status == 202, "and by every instance a moment later"
        await world.complete()
        assert (await world.ask()).status == 201

    run(test)


def test_the_store_is_told_of_many_at_once() -> None:
    async def test(world: World) -> None:
        for number in range(2500):
            world.requests.accepted(f"id-{number}", f"service-{number % 2}")
        await until(lambda: len(world.store.told) == 6)
        assert [(called, len(idents)) for called, idents in world.store.told] == [
            ("service-0", 500), ("service-1", 500), ("service-0", 500), ("service-1", 500), ("service-0", 250),
            ("service-1", 250),
        ]  # fmt: skip

    run(test)


def test_while_the_store_is_away_what_was_accepted_here_is_known() -> None:
    async def test(world: World) -> None:
        world.store.away = True
        world.requests.accepted(ID, "orders")
        assert (await world.ask()).status == 202
        other = await world.ask("another")
        assert (other.status, field(other, "meshq-error"), field(other, "retry-after")) == (503, "unavailable", "1")
        assert (await world.ask(method="DELETE")).status == 503
        world.store.away = False
        await until(lambda: world.store.told)
        assert await world.known()

    run(test)


def test_what_is_known_here_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requests, "MAX_KNOWN", 2)

    async def test(world: World) -> None:
        world.store.away = True
        for ident in "abc":
            world.requests.accepted(ident, "orders")
        assert [world.requests.called(ident) for ident in "abc"] == ["", "orders", "orders"]
        world.store.away = False
        await until(lambda: world.store.told)
        assert world.store.told == [("orders", ["b", "c"])]

    run(test)


def test_the_last_are_told_when_the_sidecar_stops() -> None:
    async def test(world: World) -> None:
        world.requests.accepted(ID, "orders")
        await world.requests.close()
        assert await world.known()

    run(test)


def test_what_another_instance_is_just_accepting_is_looked_for_twice() -> None:
    async def test(world: World) -> None:
        asked = world.store.asked
        exchange = OneExchange("GET", f"/v1/requests/{ID}")
        world.requests.handle(exchange, exchange.carried, exchange.request.target)
        await until(lambda: world.store.asked > asked)
        await world.mark()
        assert (await exchange.answer()).status == 202

    run(test)


# --- cancelling -------------------------------------------------------------------------------------------------------------------------


def test_what_has_not_started_is_cancelled() -> None:
    async def test(world: World) -> None:
        await world.mark()
        assert (await world.ask(method="DELETE")).status == 204
        assert await world.store.start("orders", [ID]) == [False]
        gone = await world.ask()
        assert (gone.status, field(gone, "meshq-request-status"), field(gone, "meshq-request-reason")) == (
            410,
            "failed",
            "cancelled",
        )
        assert "cancelled" in json.loads(gone.body)["detail"]
        assert (await world.ask(method="DELETE")).status == 204, "twice is as good as once"

    run(test)


def test_also_before_the_store_was_told_of_it() -> None:
    async def test(world: World) -> None:
        world.requests.accepted(ID, "orders")
        assert (await world.ask(method="DELETE")).status == 204
        await world.requests.close()
        assert (await world.ask()).status == 410, "the mark that comes after it changes nothing"

    run(test)


def test_what_has_started_or_is_done_cannot_be_cancelled() -> None:
    async def test(world: World) -> None:
        await world.mark()
        assert await world.store.start("orders", [ID]) == [True]
        started = await world.ask(method="DELETE")
        assert (started.status, field(started, "content-type")) == (409, "application/problem+json")
        assert (await world.ask()).status == 202
        await world.complete()
        assert (await world.ask(method="DELETE")).status == 409
        world.clock.advance(Keeping().result)
        assert (await world.ask(method="DELETE")).status == 409

    run(test)
