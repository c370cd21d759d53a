"""Service.serving: what fails after its start is not kept to itself."""

import asyncio
import logging

import pytest

from meshq import Mesh, Problem, Service
from meshq.sdk.serving import Serving
from tests.doubles import until


def test_what_fails_after_the_start_is_said_at_once_and_raised_at_the_end(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    refused = Problem("denied", "no more subscriptions", by_mesh=True)
    fail = asyncio.Event()

    async def kept(serving: Serving) -> None:
        serving._ready.set()
        await fail.wait()
        raise refused

    monkeypatch.setattr(Serving, "_keep", kept)

    async def scene() -> None:
        async with Service("orders", mesh=Mesh("http://127.0.0.1:1")).serving():
            fail.set()
            await until(lambda: caplog.messages)

    with caplog.at_level(logging.ERROR), pytest.raises(Problem) as raised:
        asyncio.run(scene())
    assert raised.value is refused
    assert caplog.messages == ["orders is not served any more: denied (403): no more subscriptions"]


def test_what_the_body_raises_goes_before(monkeypatch: pytest.MonkeyPatch) -> None:
    async def kept(serving: Serving) -> None:
        serving._ready.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(Serving, "_keep", kept)

    async def scene() -> None:
        async with Service("orders", mesh=Mesh("http://127.0.0.1:1")).serving():
            raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"):
        asyncio.run(scene())
