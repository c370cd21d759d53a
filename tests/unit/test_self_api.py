"""`/v1/self`: what the app may ask of its sidecar about itself."""

import json
from collections.abc import Mapping
from typing import Any

import pytest

from meshq.adapters.clock import ManualClock
from meshq.core.errors import Refused
from meshq.core.http import HttpResponse
from meshq.core.instances import Pause
from meshq.core.self_requests import MAX_METADATA, MAX_PAIRS, parse_patch, parse_pause, patched
from meshq_sidecar.pausing import Held, Pauses
from meshq_sidecar.self_api import SelfApi
from tests.one_exchange import OneExchange
from tests.virtual_time import run


class World:
    def __init__(self) -> None:
        self.clock = ManualClock()
        self.pauses = Pauses(self.clock, lambda: None)
        self.metadata: Mapping[str, str] = {"zone": "a"}
        self.capacity: int | None = None
        self.api = SelfApi(
            lambda: {"metadata": dict(self.metadata)},
            self.pauses,
            lambda: self.metadata,
            self._describe,
            self._limit,
            "shop-1",
        )

    def _describe(self, metadata: Mapping[str, str]) -> None:
        self.metadata = metadata

    def _limit(self, capacity: int | None) -> None:
        if capacity == 99:
            raise ValueError("capacity: too many")
        self.capacity = capacity

    def ask(self, method: str, what: str, body: Any = None) -> HttpResponse:
        exchange = OneExchange(method, "/v1/self", [], None if body is None else json.dumps(body).encode())
        handle = getattr(self.api, f"handle_{what}" if what else "handle")

        async def inside() -> HttpResponse:
            handle(exchange, exchange.carried, b"/v1/self")
            (answer,) = exchange.responses
            return answer

        return run(self.clock, inside())

    def refused(self, method: str, what: str, body: Any = None) -> tuple[str, str]:
        with pytest.raises(Refused) as refused:
            self.ask(method, what, body)
        return refused.value.problem.code.value, refused.value.problem.detail


def test_pausing_and_resuming() -> None:
    world = World()
    assert world.ask("POST", "pause", {"reason": "lunch", "for": "5m"}).status == 200
    assert world.pauses.own == Held("lunch", world.clock.monotonic() + 300)
    assert world.ask("POST", "pause").status == 200
    assert world.pauses.own == Held("", None)
    assert world.ask("POST", "resume").status == 200
    assert world.pauses.own is None
    assert world.ask("POST", "resume").status == 200


@pytest.mark.parametrize(
    ("until_ms", "said"),
    [(None, "until an operator resumes it"), (1_700_000_060_000, "until 2023-11-14T22:14:20.000Z")],
)
def test_an_operators_pause_is_not_lifted_by_the_app(until_ms: int | None, said: str) -> None:
    world = World()

    async def order() -> None:
        world.pauses.obey(Pause("incident", until_ms))

    run(world.clock, order())
    world.ask("POST", "pause")
    code, detail = world.refused("POST", "resume")
    assert code == "denied"
    for part in ("operator", "incident", said, "meshq resume shop-1"):
        assert part in detail
    assert (world.pauses.own, world.pauses.ordered is None) == (None, False)


def test_describing_itself() -> None:
    world = World()
    answer = world.ask("PATCH", "", {"metadata": {"zone": "b", "build": "7"}, "capacity": 8})
    assert json.loads(answer.body) == {"metadata": {"zone": "b", "build": "7"}}
    assert world.capacity == 8
    world.ask("PATCH", "", {"metadata": {"build": None, "never": None}})
    assert (world.metadata, world.capacity) == ({"zone": "b"}, 8)
    world.ask("PATCH", "", {"capacity": None})
    assert world.capacity is None
    assert world.ask("PATCH", "", {}).status == 200


def test_a_patch_is_all_or_nothing() -> None:
    world = World()
    assert world.refused("PATCH", "", {"metadata": {"x": "y"}, "capacity": 99}) == (
        "bad-request",
        "capacity: too many",
    )
    assert world.refused("PATCH", "", {"metadata": {"x": "y" * MAX_METADATA}, "capacity": 3})[0] == "bad-request"
    assert (world.metadata, world.capacity) == ({"zone": "a"}, None)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"{", "not JSON"),
        (b"\xff", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"[]", "not an object"),
        (b'{"for": "soon"}', "for: 'soon'"),
        (b'{"for": "0s"}', "above 0"),
        (b'{"for": 5}', "not a duration"),
        (b'{"reason": 5}', "reason"),
        (b'{"reason": "a\\nb"}', "reason"),
        (b'{"reason": "' + b"x" * 201 + b'"}', "reason"),
        (b'{"until": "5m"}', "unknown: until"),
    ],
)
def test_a_malformed_pause(body: bytes, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        parse_pause(body)


def test_every_fault_of_a_pause_is_named() -> None:
    with pytest.raises(ValueError, match=r"reason: .*; for: "):
        parse_pause(b'{"reason": 1, "for": "x"}')


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b'{"metadata": []}', "metadata"),
        (b'{"metadata": {"a": 1}}', "every value"),
        (b'{"metadata": {"a": "\\ud800"}}', "every value"),
        (b'{"metadata": {"": "a"}}', "every name"),
        (b'{"metadata": {"a\\u0000": "a"}}', "every name"),
        (b'{"capacity": -1}', "capacity"),
        (b'{"capacity": true}', "capacity"),
        (b'{"capacity": 10001}', "capacity"),
        (b'{"capacity": "8"}', "capacity"),
        (b'{"state": "ready"}', "unknown: state"),
    ],
)
def test_a_malformed_patch(body: bytes, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        parse_patch(body)


def test_metadata_is_bounded() -> None:
    most = {f"k{n}": "v" for n in range(MAX_PAIRS)}
    assert patched({}, most) == most
    with pytest.raises(ValueError, match=f"at most {MAX_PAIRS} names"):
        patched(most, {"one": "more"})
    assert patched(most, {"k0": None, "one": "more"})["one"] == "more"
    with pytest.raises(ValueError, match="bytes"):
        patched({}, {"k": "é" * (MAX_METADATA // 2)})
