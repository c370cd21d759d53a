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
from tests.contract.redis_rigs import RegistryOn, StoreOn, redis_rig
from tests.contract.registry_rigs import EmbeddedRegistryRig, RegistryRig
from tests.contract.store_rigs import EmbeddedStoreRig, StoreRig
from tests.servers.rabbitmq import Cluster

TEST_SECONDS = 60


BROKERS = (
    "embedded",
    "embedded on disk",
    pytest.param("rabbitmq", marks=pytest.mark.rabbitmq),
)
CONTAINERS = ("rabbitmq4", "rabbitmq3")
EACH_TIME = {"test_broker": CONTAINERS, "test_work": ("rabbitmq4",)}
"""What the suite of the port itself, and that of what is promised on it, run over each time; all suites do in `make contract`."""
REDISES = (
    pytest.param("redis", marks=pytest.mark.redis),
    pytest.param("redis8", marks=pytest.mark.docker),
    # What differs there is run each time by test_redis_servers.py.
    pytest.param("redis cluster", marks=[pytest.mark.redis, pytest.mark.long]),
    pytest.param("redis sentinel", marks=[pytest.mark.redis, pytest.mark.long]),
)
REGISTRIES = ("embedded", *REDISES)
STORES = (
    "embedded",
    "embedded on disk",
    *REDISES,
)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "rig" in metafunc.fixturenames and "rig" not in metafunc.module.__dict__:
        each_time = EACH_TIME.get(metafunc.module.__name__.rpartition(".")[2], ())
        more = [pytest.param(name, marks=_marks(name in each_time)) for name in CONTAINERS]
        metafunc.parametrize("rig", (*BROKERS, *more), indirect=True)


def _marks(each_time: bool) -> list[pytest.MarkDecorator]:
    return [pytest.mark.docker] if each_time else [pytest.mark.docker, pytest.mark.long]


@pytest.fixture
def rig(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[BrokerRig]:
    if request.param.startswith("embedded"):
        yield EmbeddedRig(tmp_path / "broker.db" if request.param == "embedded on disk" else None)
        return
    cluster: Cluster = request.getfixturevalue(request.param)
    vhost = cluster.new_vhost()
    yield RabbitRig(cluster.url(vhost))
    cluster.delete_vhost(vhost)


@pytest.fixture(params=REGISTRIES)
def registries(request: pytest.FixtureRequest) -> Iterator[RegistryRig]:
    if request.param == "embedded":
        yield EmbeddedRegistryRig()
        return
    with redis_rig(request, request.param, RegistryOn) as rig:
        yield rig


@pytest.fixture(params=STORES)
def stores(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[StoreRig]:
    if request.param.startswith("embedded"):
        yield EmbeddedStoreRig(tmp_path / "store.db" if request.param == "embedded on disk" else None)
        return
    with redis_rig(request, request.param, StoreOn) as rig:
        yield rig


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
            if isinstance(value, BrokerRig | RegistryRig | StoreRig):
                await value.close()
