"""The SDK and a sidecar that is not there: not yet, never, not any more. Whoever waits is told what became of it and what to do."""

import asyncio
import os
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from meshq import Context, Mesh, Problem, Service, SyncMesh
from tests.contract.sdk_rig import WAYS
from tests.e2e import pods
from tests.servers.processes import free_port

SECONDS = 30


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("PORT", str(free_port()))
    return str(request.param)


@pytest.fixture
def sidecar(way: str, tmp_path: Path) -> Iterator[Callable[[], pods.Sidecar]]:
    """Starts one, of `orders`, with a broker of its own."""
    with pods.mesh("embedded:", "embedded:", tmp_path) as mesh:
        more = {"app_port": os.environ["PORT"]} if way == "http" else {}
        yield lambda: mesh.sidecar("orders", **more)


def test_there_is_none(way: str) -> None:
    url = f"http://127.0.0.1:{free_port()}"

    async def scene() -> None:
        async with Mesh(url, link=way == "link", health_timeout=0.3) as mesh:
            begun = time.monotonic()
            # All at once, not one after the other.
            problems = await asyncio.gather(*(mesh.call("orders", "/") for _ in range(50)), return_exceptions=True)
            assert time.monotonic() - begun < 5
            for problem in problems:
                assert isinstance(problem, Problem)
                assert (problem.code, problem.status, problem.by_mesh, problem.retryable) == (
                    "unavailable",
                    503,
                    True,
                    True,
                )
                assert problem.detail.startswith(f"no sidecar answers at {url} after 0.3 s (")
                assert problem.detail.endswith("start it, or set MESHQ_URL to where it listens")
            with pytest.raises(Problem, match="no sidecar answers"):
                await mesh.ready()

    asyncio.run(scene())


def test_a_call_waits_no_longer_than_it_says(way: str) -> None:
    with SyncMesh(f"http://127.0.0.1:{free_port()}", link=way == "link") as mesh:  # 60 s
        begun = time.monotonic()
        with pytest.raises(Problem, match="no sidecar answers"):
            mesh.call("orders", "/", timeout=0.3)
        assert time.monotonic() - begun < 5


def test_how_long_it_waits_the_environment_says(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MESHQ_URL", f"http://127.0.0.1:{free_port()}")
    monkeypatch.setenv("MESHQ_HEALTH_TIMEOUT", "200ms")
    with SyncMesh(link=way == "link") as mesh, pytest.raises(Problem, match=r"after 0.2 s"):
        mesh.ready()


def test_closing_ends_the_waiting(way: str) -> None:
    async def scene() -> None:
        mesh = Mesh(f"http://127.0.0.1:{free_port()}", link=way == "link")
        waiting = asyncio.ensure_future(mesh.call("orders", "/"))
        await asyncio.sleep(0)
        await mesh.close()
        with pytest.raises(Problem, match="this Mesh was closed"):
            await waiting

    asyncio.run(scene())


def test_what_listens_there_is_something_else(way: str) -> None:
    async def scene() -> None:
        async def other(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read(1)
            writer.write(b"SSH-2.0-not-a-sidecar\r\n\r\n")
            writer.close()

        server = await asyncio.start_server(other, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        async with server, Mesh(f"http://127.0.0.1:{port}", link=way == "link", health_timeout=0.5) as mesh:
            with pytest.raises(Problem) as caught:
                await mesh.call("orders", "/", timeout=2)
        assert caught.value.code == ("unavailable" if way == "link" else "bad-gateway")

    asyncio.run(scene())


# --- one that comes, and goes -------------------------------------------------------------------------------------------------


class Holding:
    """The service `orders`, whose /held waits for `go`."""

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.go = threading.Event()


@asynccontextmanager
async def served(url: str, way: str, holding: Holding) -> AsyncIterator[None]:
    service = Service("orders", mesh=Mesh(url, link=way == "link"))

    @service.get("/quick")
    async def quick() -> str:
        return "quick"

    @service.post("/held")
    def held(ctx: Context) -> str:
        holding.begun.set()
        holding.go.wait(SECONDS)
        return f"attempt {ctx.attempt}"

    async with service.serving():
        yield


async def taken(mesh: Mesh) -> None:
    """Wait until somebody takes calls."""
    async with asyncio.timeout(SECONDS):
        async for view in mesh.watch("orders"):
            if view.ready:
                return


def test_a_sidecar_that_comes_later(way: str, sidecar: Callable[[], pods.Sidecar]) -> None:
    async def scene() -> None:
        later = sidecar()
        url = f"http://127.0.0.1:{later.port}"
        async with served(url, way, Holding()), Mesh(url, link=way == "link") as mesh:  # both before it listens
            await taken(mesh)
            assert await mesh.call("orders", "/quick") == "quick"

    asyncio.run(scene())


def test_a_sidecar_that_is_killed_in_the_middle_and_comes_back(way: str, sidecar: Callable[[], pods.Sidecar]) -> None:
    async def scene() -> None:
        found = await asyncio.to_thread(lambda: sidecar())
        url, holding = f"http://127.0.0.1:{found.port}", Holding()
        async with served(url, way, holding), Mesh(url, link=way == "link") as mesh:
            await taken(mesh)
            held = asyncio.ensure_future(mesh.call("orders", "POST /held", timeout=SECONDS))
            await asyncio.to_thread(holding.begun.wait, SECONDS)
            await asyncio.to_thread(found.kill)
            with pytest.raises(Problem) as caught:
                await held
            assert (caught.value.code, caught.value.status, caught.value.by_mesh) == ("bad-gateway", 502, True)
            assert "what became of it is not known" in caught.value.detail
            holding.go.set()

            next_one = asyncio.ensure_future(mesh.ready())  # while it is away
            await asyncio.to_thread(found.start)
            await next_one
            await taken(mesh)  # the service has found it again by itself
            assert await mesh.call("orders", "/quick", timeout=SECONDS) == "quick"

            await asyncio.to_thread(found.stop)  # between two calls
            await asyncio.to_thread(found.start)
            await taken(mesh)
            assert await mesh.call("orders", "/quick", timeout=SECONDS) == "quick"

    asyncio.run(scene())
