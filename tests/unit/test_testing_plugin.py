"""The pytest plugin as a user's project has it: pytest in a process of its own, with that plugin alone."""

import subprocess
import sys
import tomllib
from importlib import import_module
from pathlib import Path

import pytest

pytest_plugins = ["pytester"]

PLUGIN = "meshq.testing.pytest_plugin"
SHOP = """
import pytest
from meshq import Service
from meshq.testing import TestMesh

def orders():
    made = Service("orders")
    @made.post("/create")
    async def create(body: dict) -> dict:
        return body
    return made
"""


@pytest.fixture
def project(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    return pytester


def outcomes(project: pytest.Pytester, test: str, *arguments: str, **expected: int) -> pytest.RunResult:
    project.makepyfile(SHOP + test)
    result = project.runpytest_subprocess("-p", PLUGIN, "-W", "error", *arguments, timeout=60)
    result.assert_outcomes(**expected)
    return result


def test_pytest_finds_it_by_its_entry_point() -> None:
    text = (Path(__file__).parents[2] / "pyproject.toml").read_text()
    assert tomllib.loads(text)["project"]["entry-points"]["pytest11"] == {"meshq": PLUGIN}
    assert import_module(PLUGIN).pytest_runtest_call is not None


def test_an_async_test_needs_no_other_plugin(project: pytest.Pytester) -> None:
    test = """
@pytest.mark.parametrize("delay", [1, 3600])
async def test_create(mesh, delay, tmp_path):
    await mesh.serve(orders())
    ticket = await mesh.client("web").send("orders", "POST /create", {"item": "tea"}, delay=delay)
    await mesh.advance(delay)
    assert await ticket.result() == {"item": "tea"}

class TestOrders:
    async def test_create(self, mesh):
        await mesh.serve(orders())
        assert await mesh.client("web").call("orders", "POST /create", {"item": "tea"}) == {"item": "tea"}
"""
    outcomes(project, test, passed=3)


def test_a_failed_test_fails_with_its_own_words(project: pytest.Pytester) -> None:
    test = """
async def test_create(mesh):
    await mesh.serve(orders())
    mesh.assert_sent("orders", "POST /create")
"""
    outcomes(project, test, failed=1).stdout.fnmatch_lines(["*at least one expected, 0 found: POST /create to orders*"])


def test_a_test_that_is_not_async_takes_the_other(project: pytest.Pytester) -> None:
    test = """
def test_create(sync_mesh):
    sync_mesh.serve(orders())
    assert sync_mesh.client("web").call("orders", "POST /create", {"item": "tea"}) == {"item": "tea"}

def test_wrong(mesh):
    pass
"""
    outcomes(project, test, passed=1, errors=1).stdout.fnmatch_lines(
        ["*test_wrong is not async: it takes `sync_mesh`*"]
    )


def test_a_project_has_its_own_fixture_of_that_name(project: pytest.Pytester) -> None:
    test = """
@pytest.fixture
def mesh():
    return "of the project"

def test_own(mesh):
    assert mesh == "of the project"
"""
    outcomes(project, test, passed=1)


def test_anyio_runs_it_where_the_project_has_that(project: pytest.Pytester) -> None:
    test = """
@pytest.fixture
def anyio_backend():
    return "asyncio"

@pytest.mark.anyio
async def test_create(mesh):
    await mesh.serve(orders())
    assert await mesh.client("web").call("orders", "POST /create", {"item": "tea"}) == {"item": "tea"}

@pytest.fixture
async def shop(anyio_backend):
    async with TestMesh() as mesh:
        await mesh.serve(orders())
        yield mesh

@pytest.mark.anyio
async def test_of_a_fixture_of_its_own(shop):
    assert await shop.client("web").call("orders", "POST /create", {"item": "tea"}) == {"item": "tea"}
    await shop.client("web").send("orders", "POST /create", {"item": "tea"}, delay=60)
    await shop.advance(60)
    shop.assert_sent("orders", times=2)

@pytest.fixture
async def not_open(anyio_backend, mesh):
    await mesh.serve(orders())

@pytest.mark.anyio
async def test_of_a_mesh_that_is_not_open(not_open):
    pass
"""
    result = outcomes(project, test, "-p", "anyio.pytest_plugin", passed=2, errors=1)
    result.stdout.fnmatch_lines(["*RuntimeError: this TestMesh is not open*"])


def test_a_class_named_test_mesh_is_no_test(project: pytest.Pytester) -> None:
    outcomes(project, "\nfrom meshq.testing import SyncTestMesh\n\ndef test_one(): pass\n", passed=1)


def test_it_imports_nothing_of_the_mesh_before_a_test_wants_it() -> None:
    script = (
        f"import sys, {PLUGIN}\n"
        "heavy = [m for m in sys.modules if m.startswith(('meshq_sidecar', 'meshq.sdk', 'meshq.adapters', 'pydantic'))]\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)
