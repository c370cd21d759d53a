"""The health probe says whether the app is well, and if not, why."""

from collections.abc import Callable
from typing import Any

import pytest

from meshq.adapters.http_probe import ProbeResult, probe
from meshq.adapters.http_server import Limits
from meshq.core.http import HttpResponse
from meshq.ports import Exchange
from tests.http_tools import LOOPS, Handler, serving, within


@pytest.fixture(params=LOOPS.values(), ids=LOOPS.keys())
def run(request: pytest.FixtureRequest) -> Callable[..., Any]:
    return request.param  # type: ignore[no-any-return]


def answering(exchange: Exchange) -> None:
    exchange.respond(HttpResponse(int(exchange.request.target[1:]), [], b"x"))


@pytest.mark.parametrize(
    ("status", "healthy"), [(200, True), (204, True), (302, True), (404, False), (429, False), (503, False)]
)
def test_asks_the_path(run, status: int, healthy: bool) -> None:
    async def scene() -> ProbeResult:
        async with serving(answering) as (_, port):
            return await within(probe("127.0.0.1", port, f"/{status}", 5.0))

    detail = "" if healthy else f"GET /{status} answered {status}"
    assert run(scene()) == ProbeResult(healthy, status, detail)


def test_without_a_path_a_connection_is_enough(run) -> None:
    handler = Handler()

    async def scene() -> ProbeResult:
        async with serving(handler) as (_, port):
            return await within(probe("127.0.0.1", port, "", 5.0))

    assert run(scene()) == ProbeResult(True, None, "")
    assert handler.exchanges == []


@pytest.mark.parametrize("path", ["", "/healthz"])
def test_nobody_listens(run, path: str, free_port: int) -> None:
    result = run(probe("127.0.0.1", free_port, path, 5.0))
    assert (result.healthy, result.status) == (False, None)
    assert str(free_port) in result.detail


def test_no_answer_in_time(run) -> None:
    async def scene() -> ProbeResult:
        async with serving(Handler(), Limits()) as (_, port):
            return await within(probe("127.0.0.1", port, "/healthz", 0.05))

    assert run(scene()) == ProbeResult(False, None, "GET /healthz: the app did not answer in time")
