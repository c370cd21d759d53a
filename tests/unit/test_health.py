"""When an app counts as well: thresholds, hurry, and an app that refuses a connection."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from meshq_sidecar import health
from meshq_sidecar.health import FAILURES, Health, Probed
from tests.doubles import SECONDS, until


class App:
    """An app whose answers the test gives, one probe at a time."""

    def __init__(self) -> None:
        self.health = Health(self.probe, lambda well, reason: self.changes.append((well, reason)), self.ease)
        self.eased: list[bool] = []
        self.gives_less = False
        self.changes: list[tuple[bool, str]] = []
        self._answers: asyncio.Queue[str] = asyncio.Queue()
        self._asked: asyncio.Queue[None] = asyncio.Queue()

    async def probe(self) -> Probed:
        self._asked.put_nowait(None)
        answer = await self._answers.get()
        return Probed(wants_less=True) if answer == "429" else Probed(answer)

    def ease(self, less: bool) -> bool:
        self.eased.append(less)
        return self.gives_less

    async def answer(self, *reasons: str) -> None:
        """Answer that many probes, and wait for the one after them to begin."""
        for reason in reasons:
            self._answers.put_nowait(reason)
            async with asyncio.timeout(SECONDS):
                await self._asked.get()


def run(test: Callable[[App], Awaitable[None]], monkeypatch: pytest.MonkeyPatch, wait: float = 0.001) -> None:
    monkeypatch.setattr(health, "FAST", wait)
    monkeypatch.setattr(health, "SLOW", wait)

    async def inside() -> None:
        probed = App()
        async with asyncio.TaskGroup() as group:
            running = group.create_task(probed.health.run())
            await probed._asked.get()
            await test(probed)
            running.cancel()

    asyncio.run(inside())


def test_an_app_is_well_after_its_first_good_probe(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(app: App) -> None:
        assert (app.health.well, app.health.ever_well, app.health.reason) == (
            False,
            False,
            "the app was not probed yet",
        )
        await app.answer(*["not up"] * (FAILURES + 2))
        assert (app.health.well, app.health.reason, app.changes) == (False, "not up", [])
        await app.answer("")
        assert (app.health.well, app.health.ever_well, app.health.reason) == (True, True, "")
        await app.answer("", "")
        assert app.changes == [(True, "")]

    run(test, monkeypatch)


def test_a_well_app_may_fail_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(app: App) -> None:
        await app.answer("", "slow", "slow", "", "slow", "slow")
        assert app.changes == [(True, "")]
        await app.answer("slower")
        assert app.changes == [(True, ""), (False, "slower")]
        assert (app.health.well, app.health.ever_well) == (False, True)
        await app.answer("")
        assert app.changes[-1] == (True, "")
        assert FAILURES == 3

    run(test, monkeypatch)


def test_an_app_that_refuses_is_not_asked_three_times(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(app: App) -> None:
        await app.answer("")
        app.health.refused()
        app.health.refused()
        assert app.changes == [(True, ""), (False, "the app refuses connections")]
        await app.answer("still not")
        assert app.health.reason == "still not"
        await app.answer("")
        assert app.changes[-1] == (True, "")

    run(test, monkeypatch)


def test_a_refusal_is_looked_into_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(app: App) -> None:
        app._answers.put_nowait("")
        await until(lambda: app.health.well)
        app.health.refused()
        async with asyncio.timeout(SECONDS):
            await app._asked.get()  # it does not wait for the hour to pass
        app._answers.put_nowait("")
        await until(lambda: app.health.well)
        assert app.changes[-1] == (True, "")

    run(test, monkeypatch, wait=3600)


def test_an_app_that_asks_for_less_is_well_and_given_less(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(app: App) -> None:
        await app.answer("429", "429", "", "slow", "429", "slow")
        assert app.changes == [(True, "")]
        assert app.eased == [True, True, False, True], "no word of it while it is not well"

    run(test, monkeypatch)


def test_an_app_that_is_given_less_is_asked_more_often(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(app: App) -> None:
        app.gives_less = True
        await app.answer("429", "", "")  # it does not wait for the hour to pass
        assert app.eased == [True, False, False]

    monkeypatch.setattr(health, "EASED", 0.001)
    run(test, monkeypatch, wait=3600)
