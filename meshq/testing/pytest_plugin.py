"""Fixtures for pytest: `mesh`, a TestMesh that is open around the body of an async test, and `sync_mesh`, an open SyncTestMesh.

An async test that takes `mesh` runs on whatever runs async tests (pytest-asyncio, anyio's plugin on asyncio), and where nothing does,
on an event loop of its own: no further plugin is needed. A project that has a fixture `mesh` of its own has its own.

pytest loads this in every project where meshq is installed, so nothing of the mesh is imported before a test takes a fixture.
"""

import inspect
from collections.abc import Callable, Iterator
from functools import wraps
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from meshq.testing import SyncTestMesh, TestMesh

_MESH: "pytest.StashKey[TestMesh]" = pytest.StashKey()
"""Of a test that took the fixture from here."""


@pytest.fixture
def mesh(request: pytest.FixtureRequest) -> "TestMesh":
    """A `meshq.testing.TestMesh`, open while the test runs; for async tests. In other fixtures it is not open yet: one that serves
    something opens a mesh of its own, `async with TestMesh() as mesh:`."""
    from meshq.testing import TestMesh

    if not inspect.iscoroutinefunction(getattr(request.node, "obj", None)):
        raise pytest.UsageError(
            f"{request.node.name} is not async: it takes `sync_mesh`, the fixture `mesh` is for async tests"
        )
    made = request.node.stash[_MESH] = TestMesh()
    return made


@pytest.fixture
def sync_mesh() -> "Iterator[SyncTestMesh]":
    """An open `meshq.testing.SyncTestMesh`, for tests that are not async."""
    from meshq.testing import SyncTestMesh

    with SyncTestMesh() as made:
        yield made


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_call(item: pytest.Item) -> None:
    """Open the mesh around the test, before whoever runs it looks at the function."""
    made = item.stash.get(_MESH, None)
    if made is not None and isinstance(item, pytest.Function):
        item.obj = _inside(made, item.obj)


def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> "bool | None":
    """Run an async test that nobody else has taken."""
    if _MESH not in pyfuncitem.stash or not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    from meshq.testing import run

    names = pyfuncitem._fixtureinfo.argnames
    run(pyfuncitem.obj)(**{name: pyfuncitem.funcargs[name] for name in names})
    return True


def _inside(made: "TestMesh", test: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(test)
    async def inside(*args: Any, **kwargs: Any) -> None:
        async with made:
            await test(*args, **kwargs)

    return inside
