"""`/v1/services`: at once, or as soon as the picture is another one."""

import json
from collections.abc import Awaitable, Callable

import pytest

from meshq.adapters.clock import ManualClock
from meshq.core.errors import Refused
from meshq.core.instances import Service, Snapshot
from meshq_sidecar import services_api
from meshq_sidecar.services_api import LONGEST_WAIT, USUAL_WAIT, ServicesApi
from tests.one_exchange import OneExchange, field
from tests.virtual_time import pass_time, run


def picture(revision: int, *names: str, stale: bool = False) -> Snapshot:
    return Snapshot(revision, {name: Service(name, {}) for name in names}, stale=stale)


class World:
    def __init__(self, clock: ManualClock) -> None:
        self.clock = clock
        self.api = ServicesApi()
        self.api.see(picture(7, "orders"))

    def ask(self, target: str) -> OneExchange:
        exchange = OneExchange("GET", target)
        self.api.handle(exchange, exchange.carried, target.encode())
        return exchange


def story(test: Callable[[World], Awaitable[None]]) -> None:
    clock = ManualClock()

    async def inside() -> None:
        await test(World(clock))

    run(clock, inside())


def index(exchange: OneExchange) -> str | None:
    (answer,) = exchange.responses
    return field(answer, "meshq-index")


def test_before_the_first_picture_nobody_is_known() -> None:
    async def test(world: World) -> None:
        world.api = ServicesApi()
        for path in ("", "/orders", "?index=0&wait=9s", "?index=7&wait=9s"):
            (answer,) = world.ask(f"/v1/services{path}").responses
            assert (answer.status, field(answer, "meshq-error")) == (503, "unavailable")

    story(test)


def test_a_read_says_which_picture_it_is_of_and_whether_it_is_old() -> None:
    async def test(world: World) -> None:
        (answer,) = world.ask("/v1/services").responses
        assert json.loads(answer.body) == [{"name": "orders", "versions": []}]
        assert (field(answer, "meshq-index"), field(answer, "meshq-stale")) == ("7", "false")
        world.api.see(picture(7, "orders", stale=True))
        (answer,) = world.ask("/v1/services/orders").responses
        assert json.loads(answer.body) == {"name": "orders", "versions": [], "instances": []}
        assert field(answer, "meshq-stale") == "true"
        (answer,) = world.ask("/v1/services/nobody").responses
        assert (answer.status, field(answer, "meshq-index")) == (404, "7")

    story(test)


@pytest.mark.parametrize(
    "query", ["", "?wait=30s", "?index=0&wait=30s", "?index=6&wait=30s", "?index=8&wait=30s", "?index=7&wait=0s"]
)
def test_what_is_another_picture_already_is_answered_at_once(query: str) -> None:
    async def test(world: World) -> None:
        assert index(world.ask("/v1/services" + query)) == "7"
        assert world.api.waiting == 0

    story(test)


def test_a_read_waits_until_something_changed() -> None:
    async def test(world: World) -> None:
        reads = [world.ask(f"/v1/services{path}?index=7&wait=30s") for path in ("", "/orders", "/new")]
        await pass_time(10)
        world.api.see(picture(7, "orders", stale=True))
        assert [read.responses for read in reads] == [[], [], []]
        world.api.see(picture(9, "orders", "new"))
        assert [index(read) for read in reads] == ["9", "9", "9"]
        assert [read.responses[0].status for read in reads] == [200, 200, 200]
        assert world.api.waiting == 0
        await pass_time(60)
        assert [len(read.responses) for read in reads] == [1, 1, 1]

    story(test)


@pytest.mark.parametrize(("query", "seconds"), [("&wait=30s", 30), ("", USUAL_WAIT), ("&wait=2h", LONGEST_WAIT)])
def test_a_read_waits_no_longer_than_it_says(query: str, seconds: float) -> None:
    async def test(world: World) -> None:
        read = world.ask(f"/v1/services?index=7{query}")
        await pass_time(seconds - 1)
        assert (read.responses, world.api.waiting) == ([], 1)
        await pass_time(2)
        assert (index(read), world.api.waiting) == ("7", 0)

    story(test)


def test_one_that_hangs_up_is_forgotten() -> None:
    async def test(world: World) -> None:
        read = world.ask("/v1/services?index=7&wait=30s")
        read.hang_up()
        assert world.api.waiting == 0
        world.api.see(picture(8))
        await pass_time(60)
        assert read.responses == []

    story(test)


def test_only_so_many_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(services_api, "MOST_WAITING", 2)

    async def test(world: World) -> None:
        first, _ = (world.ask("/v1/services?index=7&wait=30s") for _ in range(2))
        with pytest.raises(Refused) as refused:
            world.ask("/v1/services?index=7&wait=30s")
        assert refused.value.problem.code.value == "overloaded"
        assert world.ask("/v1/services").responses, "who does not wait is answered"
        first.hang_up()
        assert world.ask("/v1/services?index=7&wait=30s").responses == []

    story(test)


def test_nobody_waits_for_a_sidecar_that_stops() -> None:
    async def test(world: World) -> None:
        read = world.ask("/v1/services?index=7&wait=30s")
        world.api.close()
        assert index(read) == "7"
        assert index(world.ask("/v1/services?index=7&wait=30s")) == "7"

    story(test)


@pytest.mark.parametrize("query", ["index=a", "index=-1", "index=" + "9" * 20, "index=1&wait=soon", "wait=5"])
def test_what_makes_no_sense_is_refused(query: str) -> None:
    async def test(world: World) -> None:
        with pytest.raises(Refused) as refused:
            world.ask(f"/v1/services?{query}")
        assert refused.value.problem.code.value == "bad-request"

    story(test)
