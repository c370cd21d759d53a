"""The SDK is light: an app that imports it loads none of what the mesh's own programs need, and nothing that it does not use yet."""

import json
import subprocess
import sys
from typing import Any

import pytest

HEAVY = (
    *("pika", "redis", "httptools", "uvloop", "prometheus_client", "ruamel", "dnslib", "sqlite3"),
    *("pydantic", "pydantic_core", "h11", "typer", "rich"),
    *("fastapi", "starlette", "flask", "django", "uvicorn", "aiohttp", "requests"),
    *("meshq.adapters", "meshq.settings", "meshq_sidecar", "meshq.cli", "meshq.testing"),
)
RATIO = 4.0
"""The SDK's import beside that of asyncio and json, which every app of it has: about twice as long when this was written."""
ROUNDS = 5

_MODULES = "import json, sys; from meshq import Mesh, Service; print(json.dumps(sorted(sys.modules)))"
_TIMES = """
import json, sys, time
a = time.perf_counter()
import asyncio, json
b = time.perf_counter()
from meshq import Mesh, Service, Context, Problem
c = time.perf_counter()
print(json.dumps([b - a, c - b]))
"""


def answer(program: str) -> Any:
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def modules() -> set[str]:
    return set(answer(_MODULES))


@pytest.mark.parametrize("name", HEAVY)
def test_it_does_not_load(name: str, modules: set[str]) -> None:
    assert not {each for each in modules if each == name or each.startswith(name + ".")}


def test_it_loads_about_as_fast_as_asyncio_does() -> None:
    """In the same process, and the best of some: a machine that is busy is so for both."""
    pairs = [answer(_TIMES) for _ in range(ROUNDS)]
    base, own = (min(each) for each in zip(*pairs, strict=True))
    assert own < RATIO * base, f"{own * 1000:.0f} ms beside {base * 1000:.0f} ms"


def test_the_mesh_itself_loads_nothing_of_the_sdk() -> None:
    found = answer("import json, sys, meshq, meshq_sidecar.app; print(json.dumps(sorted(sys.modules)))")
    assert not [name for name in found if name.startswith("meshq.sdk")]
