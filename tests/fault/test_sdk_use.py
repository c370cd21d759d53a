"""The SDK as it should not have to be used: from many threads, several event loops, forked workers, and by who gives up at any moment.
Nothing leaks, nothing hangs, and whoever calls next is served."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Coroutine, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from meshq import Mesh, Problem, SyncMesh
from meshq.sdk.http_transport import MOST
from tests.contract.sdk_rig import WAYS, World, embedded, world
from tests.e2e.pods import ask, environment
from tests.servers.processes import wait_for

ROOT = Path(__file__).parents[2]
SECONDS = 30


@pytest.fixture(scope="module", params=WAYS)
def over(request: pytest.FixtureRequest) -> Iterator[World]:
    with world(request.param, embedded) as found:
        yield found


def url_of(over: World) -> str:
    return over.urls["checkout"]


def links(over: World) -> int:
    """That are open at the sidecar of who calls."""
    said: dict[str, Any] = json.loads(ask(int(url_of(over).rpartition(":")[2]), "/v1/self").body)
    return int(said["links"])


def no_links(over: World) -> None:
    wait_for(lambda: links(over) == 0, SECONDS, "the end of all links", poll=0.01)


async def item(mesh: Mesh, number: int) -> None:
    assert (await mesh.call("orders", f"/items/{number}", timeout=SECONDS))["id"] == number


# --- threads and loops --------------------------------------------------------------------------------------------------------


def test_eight_threads_and_one_blocking_mesh(over: World) -> None:
    with SyncMesh(url_of(over), link=over.way == "link") as mesh:

        def calls(thread: int) -> list[int]:
            return [mesh.call("orders", f"/items/{thread * 1000 + at}")["id"] for at in range(50)]

        with ThreadPoolExecutor(8) as pool:
            found = list(pool.map(calls, range(8)))
        assert found == [[thread * 1000 + at for at in range(50)] for thread in range(8)]
        assert links(over) == (1 if over.way == "link" else 0)
    no_links(over)


def test_a_blocking_mesh_that_is_closed_lets_go_of_everybody(over: World) -> None:
    run = uuid4().hex
    mesh = SyncMesh(url_of(over), link=over.way == "link")
    with ThreadPoolExecutor(4) as pool:
        waiting = [pool.submit(mesh.call, "orders", f"POST /held/{run}") for _ in range(4)]
        asyncio.run(over.seen.count(run, 4))
        mesh.close()
        over.held.gate(run).set()
        for each in waiting:
            error = each.exception(SECONDS)
            assert isinstance(error, Problem)
            assert error.code in ("unavailable", "bad-gateway")
    assert mesh.call("orders", "/items/1")["id"] == 1  # it begins anew
    mesh.close()
    no_links(over)


def test_ctrl_c_in_a_blocking_call(over: World) -> None:
    run = uuid4().hex
    with SyncMesh(url_of(over), link=over.way == "link") as mesh:
        mesh.ready()

        def interrupt() -> None:
            asyncio.run(over.seen.count(run, 1))
            os.kill(os.getpid(), signal.SIGINT)

        thread = threading.Thread(target=interrupt)
        thread.start()
        with pytest.raises(KeyboardInterrupt):
            mesh.call("orders", f"POST /held/{run}")
        thread.join()
        over.held.gate(run).set()
        assert mesh.call("orders", "/items/1")["id"] == 1
        changes = mesh.watch("orders")
        assert next(changes).name == "orders"


def test_one_mesh_on_two_loops_at_once(over: World) -> None:
    mesh = Mesh(url_of(over), link=over.way == "link")
    both = threading.Barrier(2)

    async def use(first: int) -> None:
        await mesh.ready()
        await asyncio.to_thread(both.wait, SECONDS)
        await asyncio.gather(*(item(mesh, first + at) for at in range(50)))
        await asyncio.to_thread(both.wait, SECONDS)

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda first: asyncio.run(use(first)), (0, 1000)))
    no_links(over)


def test_one_mesh_in_one_asyncio_run_after_the_other(over: World) -> None:
    """Without close: what is open ends with the loop, so nothing warns (here warnings are errors) and no link stays."""
    mesh = Mesh(url_of(over), link=over.way == "link")
    for number in range(3):
        asyncio.run(item(mesh, number))
        assert len(mesh._transports) == 1  # not one for each loop that there ever was
    no_links(over)


# --- forked workers -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scene", ["blocking", "async", "held"])
def test_a_forked_worker_has_connections_of_its_own(over: World, scene: str, caplog: pytest.LogCaptureFixture) -> None:
    run = uuid4().hex
    command = [sys.executable, "-W", "error", "-m", "tests.fault.sdk_fork", scene, url_of(over), over.way, run]
    process = subprocess.Popen(
        command, cwd=ROOT, env=environment({}), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    if scene == "held":
        asyncio.run(over.seen.count(run, 2))  # the parent's, from before the fork, and the child's
        over.held.gate(run).set()
    said, _ = process.communicate(timeout=SECONDS)
    assert process.returncode == 0, said
    assert said.splitlines() == ["parent 1", "child 2", "child ended with 0", "parent 3"]
    assert "given up" not in caplog.text  # the sidecar saw no garbage
    no_links(over)


# --- giving up at any moment --------------------------------------------------------------------------------------------------


class CancelledAt:
    """`work`, whose task is cancelled at the `number`th await that suspends it."""

    def __init__(self, number: int, work: Coroutine[Any, Any, Any]) -> None:
        self.left = number
        self._work = work

    def __await__(self) -> Generator[Any, Any, Any]:
        resume: Callable[[], Any] = partial(self._work.send, None)
        while True:
            try:
                waits_for = resume()
            except StopIteration as ended:
                return ended.value
            self.left -= 1
            if self.left == 0:
                task = asyncio.current_task()
                assert task is not None
                task.cancel()
            try:
                yield waits_for
            except BaseException as error:  # noqa: BLE001 - thrown into the work as it was into this
                resume = partial(self._work.throw, error)
            else:
                resume = partial(self._work.send, None)


Work = Callable[[Mesh, str], Coroutine[Any, Any, None]]


async def _call(mesh: Mesh, run: str) -> None:
    await item(mesh, 1)


async def _result(mesh: Mesh, run: str) -> None:
    ticket = await mesh.send("orders", f"POST /count/{run}", {})
    await ticket.result(timeout=SECONDS)


async def _publish(mesh: Mesh, run: str) -> None:
    await mesh.publish("parcels.sent", {"run": run}, subject="express")
    await mesh.publish_many("nobody.listens", [1, 2])


async def _look(mesh: Mesh, run: str) -> None:
    changes = mesh.watch("orders")
    try:
        await anext(changes)
    finally:
        await changes.aclose()


async def _open_and_close(mesh: Mesh, run: str) -> None:
    await mesh.ready()
    await mesh.close()


@pytest.mark.parametrize("is_open", [False, True], ids=["from nothing", "when open"])
@pytest.mark.parametrize("work", [_call, _result, _publish, _look, _open_and_close])
def test_cancelled_at_every_await(over: World, work: Work, is_open: bool) -> None:
    async def scene() -> int:
        """How often it was cancelled."""
        times = 0
        while True:
            mesh = Mesh(url_of(over), link=over.way == "link")
            if is_open:
                await mesh.ready()
            cancelling = CancelledAt(times + 1, work(mesh, uuid4().hex))
            task = asyncio.get_running_loop().create_task(_awaited(cancelling))
            await asyncio.wait((task,))
            await item(mesh, 5)
            assert asyncio.all_tasks() == {asyncio.current_task()}
            assert busy(mesh) == 0
            await mesh.close()
            if cancelling.left > 0:
                assert task.exception() is None
                return times
            assert task.cancelled() or task.exception() is None  # what had its answer already may as well end well
            times += 1

    assert asyncio.run(scene()) >= (0 if work is _open_and_close else 1)  # over HTTP closing is waiting for nobody
    no_links(over)


async def _awaited(work: CancelledAt) -> None:
    await work


def busy(mesh: Mesh) -> int:
    """Requests without an answer, or connections that are in use."""
    way: Any = mesh.transport.way
    return int(way._link.busy) if hasattr(way, "_link") else MOST - int(way._room._value)
