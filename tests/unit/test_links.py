"""The links that an app opened at its sidecar: which is asked, and when there is none."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from meshq.adapters.clock import ManualClock
from meshq.core import link
from meshq.core.errors import Refused
from meshq.core.http import Failed, Failure, Headers, HttpRequest, HttpResponse, header
from meshq.core.link import Hello, Pong
from meshq.linking import Link
from meshq.ports import Successor
from meshq_sidecar.health import Probed
from meshq_sidecar.links import Links
from tests.doubles import App
from tests.link_rig import GET, Joined, Outcomes, Raw, Served, ok
from tests.one_exchange import OneExchange
from tests.virtual_time import run

UPGRADE = [(b"Connection", b"keep-alive, Upgrade"), (b"Upgrade", b"Meshq-Link/1")]


class Opening(OneExchange):
    """`GET /v1/link` by an app whose end is `other`."""

    def __init__(self, other: asyncio.Protocol | None, headers: Headers) -> None:
        super().__init__("GET", "/v1/link", headers)
        self.joined: Joined | None = None
        self._other = other

    def upgrade(self, protocol: str, successor: Successor) -> bool:
        assert protocol == "meshq-link/1"
        if self._other is None:
            return False
        self.joined = Joined(successor, self._other)
        return True


class World:
    """A sidecar's links, and apps that open them."""

    def __init__(self, *, port: bool) -> None:
        self.app = App() if port else None
        self.asked = Served()
        self.serving: list[bool] = []
        self.links = Links(self.app, 1000, self.serving.append)
        self._joined: list[Joined] = []

    async def opened(self, other: asyncio.Protocol) -> asyncio.Protocol:
        opening = Opening(other, UPGRADE)
        self.links.accept(opening, opening.carried, b"/v1/link")
        assert opening.joined is not None
        self._joined.append(opening.joined)
        await self.settle()
        return other

    async def settle(self) -> None:
        for joined in self._joined:
            await joined.settle()

    def ask(self, times: int = 1) -> Outcomes:
        outcomes = Outcomes()
        for _ in range(times):
            self.links.request(GET, 5, outcomes.done())
        return outcomes

    async def probed(self) -> Probed:
        probing = asyncio.ensure_future(self.links.probe(2))
        await asyncio.sleep(0)
        await self.settle()
        return await probing


def scene(story: Callable[[World], Coroutine[Any, Any, None]], *, port: bool = False) -> None:
    async def told() -> None:
        world = World(port=port)
        world.links.open(world.asked)
        await story(world)

    run(ManualClock(), told())


# --- opening ------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [(b"Upgrade", b"meshq-link/1")],
        [(b"Connection", b"Upgrade"), (b"Upgrade", b"websocket")],
        [(b"Connection", b"Upgrade"), (b"Upgrade", b"meshq-link/2")],
        [(b"Connection", b"keep-alive"), (b"Upgrade", b"meshq-link/1")],
    ],
)
def test_whoever_does_not_ask_for_a_link_is_told_how(headers: Headers) -> None:
    async def story(world: World) -> None:
        opening = Opening(None, headers)
        world.links.accept(opening, opening.carried, b"/v1/link")
        (answer,) = opening.responses
        assert answer.status == 426
        assert header(answer.headers, b"upgrade") == b"meshq-link/1"

    scene(story)


def test_a_connection_that_cannot_become_one() -> None:
    async def story(world: World) -> None:
        opening = Opening(None, UPGRADE)
        with pytest.raises(Refused) as refused:
            world.links.accept(opening, opening.carried, b"/v1/link")
        assert refused.value.problem.status == 503  # elsewhere, or in a moment, it is opened
        assert len(world.links) == 0

    scene(story)


def test_what_apps_ask_over_them_is_handled() -> None:
    async def story(world: World) -> None:
        app, outcomes = Link(Served()), Outcomes()
        await world.opened(app)
        app.request(HttpRequest(b"GET", b"/v1/self", [], bytes(1000)), 5, outcomes.done())
        app.request(HttpRequest(b"GET", b"/v1/self", [], bytes(1001)), 5, outcomes.done())
        await world.settle()
        world.asked.asked[0].respond(ok())
        await world.settle()
        assert [outcome.status for outcome in outcomes] == [413, 200]

    scene(story)


def test_no_link_is_opened_over_a_link() -> None:
    def handle(exchange: Any) -> None:
        assert exchange.upgrade("meshq-link/1", Link(Served())) is False
        exchange.respond(ok())

    async def story(world: World) -> None:
        world.links.open(handle)
        app, outcomes = Link(Served()), Outcomes()
        await world.opened(app)
        app.request(HttpRequest(b"GET", link.PATH, UPGRADE, None), 5, outcomes.done())
        await world.settle()
        assert outcomes == [ok()]

    scene(story)


# --- who is asked -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("port", [False, True])
def test_the_port_has_what_no_link_takes(port: bool) -> None:
    async def story(world: World) -> None:
        async def expect(by_port: int, outcomes: Outcomes) -> None:
            await world.settle()
            if world.app is not None:
                assert len(world.app.asked) == by_port
                assert outcomes == []
            else:
                assert outcomes == [Failed(Failure.REFUSED, "the app has no link open, and no port")]

        await expect(1, world.ask())
        await world.opened(Link(Served()))  # it only calls out
        await expect(2, world.ask())
        served = Served()
        app = Link(served, serves=True)
        await world.opened(app)
        outcomes = world.ask()
        await world.settle()
        assert len(served.asked) == 1
        app.leave()
        await world.settle()
        await expect(3, world.ask())
        served.asked[0].respond(ok())  # what it had it answers still
        await world.settle()
        assert outcomes == [ok()]
        assert world.serving == [True, False]
        assert len(world.links) == 1

    scene(story, port=port)


def test_the_one_with_the_fewest_at_work_is_asked() -> None:
    async def story(world: World) -> None:
        workers = [Served() for _ in range(3)]
        for worker in workers:
            await world.opened(Link(worker, serves=True))
        outcomes = world.ask(6)
        await world.settle()
        assert [len(worker.asked) for worker in workers] == [2, 2, 2]
        for exchange in workers[1].asked:
            exchange.respond(ok())
        await world.settle()
        world.ask(2)
        await world.settle()
        assert [len(worker.asked) for worker in workers] == [2, 4, 2]
        assert outcomes == [ok(), ok()]
        assert world.serving == [True]

    scene(story)


def test_the_app_serves_until_its_last_link_is_gone() -> None:
    async def story(world: World) -> None:
        one, two = Link(Served(), serves=True), Link(Served(), serves=True)
        await world.opened(one)
        await world.opened(two)
        outcomes = world.ask(2)
        await world.settle()
        one.abort()
        await world.settle()
        assert [each.failure for each in outcomes if isinstance(each, Failed)] == [Failure.BROKEN]
        assert (world.serving, world.links.serves, len(world.links)) == ([True], True, 1)
        two.leave()
        await world.settle()
        assert (world.serving, world.links.serves) == ([True, False], False)
        await world.opened(Link(Served(), serves=True))
        assert world.serving == [True, False, True]
        await world.links.close()
        await world.settle()
        assert (world.serving, len(world.links)) == ([True, False, True, False], 0)

    scene(story)


# --- how it is ------------------------------------------------------------------------------------------------------------------------


def test_it_is_well_if_one_of_its_workers_is() -> None:
    async def story(world: World) -> None:
        assert (await world.probed()).fault == "the app has no link open"
        said = {"a": Pong(), "b": Pong()}
        for name in ("a", "b"):
            await world.opened(Link(Served(), serves=True, health=lambda name=name: said[name]))  # type: ignore[misc]
        assert await world.probed() == Probed()
        said["a"] = Pong("its database is away")
        assert await world.probed() == Probed()
        said["b"] = Pong("", True)
        assert await world.probed() == Probed("", True)
        said["b"] = Pong("also here")
        assert await world.probed() == Probed("its database is away")

    scene(story)


def test_a_worker_that_does_not_answer_is_asked_last() -> None:
    async def story(world: World) -> None:
        frozen = Raw(Hello(10, True))
        served = Served()
        await world.opened(frozen)
        assert (await world.probed()).fault == "the app did not answer over its link within 2 s"
        await world.opened(Link(served, serves=True))
        assert await world.probed() == Probed()
        world.ask(5)
        await world.settle()
        assert len(served.asked) == 5
        assert link.Kind.REQUEST not in frozen.kinds()

    scene(story)


def test_an_answer_over_the_limit() -> None:
    async def story(world: World) -> None:
        served = Served()
        await world.opened(Link(served, serves=True))
        outcomes = world.ask()
        await world.settle()
        served.asked[0].respond(HttpResponse(201, [], bytes(1001)))
        await world.settle()
        assert outcomes == [Failed(Failure.TOO_LARGE, "the response is over 1000 bytes", 201)]

    scene(story)
