"""No more is put on top of too much, as far as is known."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence

import pytest

from meshq.core.errors import Code
from meshq.ports import BrokerAway, QueueStats
from meshq_sidecar import backlog
from meshq_sidecar.backlog import Backlog
from tests.doubles import until


class Figures:
    """A broker that has figures."""

    def __init__(self) -> None:
        self.ready: dict[str, int | None] = {}
        self.away = False
        self.asked: list[list[str]] = []

    async def stats(self, queues: Sequence[str]) -> list[QueueStats]:
        self.asked.append(list(queues))
        if self.away:
            raise BrokerAway("away, says the test")
        return [QueueStats(queue, ready=self.ready[queue]) for queue in queues if queue in self.ready]


def run(test: Callable[[Backlog, Figures], Awaitable[None]], limits: dict[str, int] | None = None) -> None:
    figures = Figures()
    asyncio.run(test(Backlog(figures, (limits or {}).get), figures))  # type: ignore[arg-type,func-returns-value]


def test_at_its_limit_a_queue_takes_no_more() -> None:
    async def test(full: Backlog, figures: Figures) -> None:
        figures.ready = {"a": 99_999, "b": 100_000}
        assert (full("orders", "a"), full("orders", "b")) == (None, None), "not known yet"
        await full.look()
        assert full("orders", "a") is None
        problem = full("orders", "b")
        assert problem is not None
        assert (problem.code, "100000" in problem.detail) == (Code.OVERLOADED, True)
        figures.ready["b"] = 3
        await full.look()
        assert full("orders", "b") is None

    run(test)


def test_a_service_has_a_limit_of_its_own() -> None:
    async def test(full: Backlog, figures: Figures) -> None:
        figures.ready = {"a": 0, "b": 10}
        for _ in range(2):
            found = [full("frozen", "a"), full("small", "b"), full("orders", "b")]
            await full.look()
        assert [problem is not None for problem in found] == [True, True, False]

    run(test, {"small": 10, "frozen": 0})


@pytest.mark.parametrize("gone", ["figure", "queue", "broker"])
def test_what_is_not_known_refuses_nobody(gone: str) -> None:
    async def test(full: Backlog, figures: Figures) -> None:
        figures.ready = {"a": 200_000}
        full("orders", "a")
        await full.look()
        assert full("orders", "a") is not None
        if gone == "broker":
            figures.away = True
        else:
            figures.ready = {"a": None} if gone == "figure" else {}
        await full.look()
        assert full("orders", "a") is None

    run(test)


def test_what_is_not_used_is_not_asked_about() -> None:
    async def test(full: Backlog, figures: Figures) -> None:
        full("orders", "a")
        full("orders", "b")
        for _ in range(6):
            await full.look()
            full("orders", "b")
        await full.look()
        assert figures.asked[0] == ["a", "b"]
        assert figures.asked[-1] == ["b"]

    run(test)


def test_queues_asked_about_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backlog, "MAX_QUEUES", 2)

    async def test(full: Backlog, figures: Figures) -> None:
        for queue in "abc":
            full("orders", queue)
        await full.look()
        assert figures.asked == [["a", "b"]]

    run(test)


def test_it_looks_by_itself_when_something_was_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backlog, "LOOK_EVERY", 0.001)

    async def test(full: Backlog, figures: Figures) -> None:
        figures.ready = {"a": 100_000}
        async with asyncio.TaskGroup() as group:
            watching = group.create_task(full.watch())
            await until(lambda: full("orders", "a"))
            watching.cancel()

    run(test)
