"""The contract suites: every behaviour that meshq.ports promises, over each adapter that promises it.

A test here is a coroutine function. It gets a rig, which makes clients of one broker or registry and can do to them what
only the outside can; whatever the rig made is closed when the test ends, in the loop of the test.
"""

import asyncio
import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import uvloop

from tests.contract.broker_rigs import BrokerRig, EmbeddedRig, RabbitRig
from tests.contract.registry_rigs import EmbeddedRegistryRig, RedisRig, RegistryRig

TEST_SECONDS = 60


@pytest.fixture(params=["embedded", "embedded on disk", pytest.param("rabbitmq", marks=pytest.mark.rabbitmq)])
def rig(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[BrokerRig]:
    if request.param == "rabbitmq":
        yield RabbitRig(request.getfixturevalue("broker_url"))
    else:
        yield EmbeddedRig(tmp_path / "broker.db" if request.param == "embedded on disk" else None)


@pytest.fixture(params=["embedded", pytest.param("redis", marks=pytest.mark.redis)])
def registries(request: pytest.FixtureRequest) -> RegistryRig:
    if request.param == "redis":
        return RedisRig(request.getfixturevalue("redis_url"))
    return EmbeddedRegistryRig()


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Run a coroutine function in a loop of its own, and close its rigs in there."""
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    names = inspect.signature(pyfuncitem.obj).parameters
    arguments = {name: pyfuncitem.funcargs[name] for name in names}
    uvloop.run(_run(pyfuncitem.obj, arguments))
    return True


async def _run(test: Any, arguments: dict[str, Any]) -> None:
    try:
        async with asyncio.timeout(TEST_SECONDS):
            await test(**arguments)
    finally:
        for value in arguments.values():
            if isinstance(value, BrokerRig | RegistryRig):
                await value.close()
