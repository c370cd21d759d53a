"""The clock of a `TestMesh`: everybody's on its event loop, its user's to turn, and given back; and that nothing else is left."""

import asyncio
import gc
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from meshq import Service
from meshq.testing import StandsStill, TestMesh, run
from meshq.testing.loop_time import UPKEEP
from meshq.testing.mesh import SERVES


def waiting_service() -> Service:
    orders = Service("orders")

    @orders.post("/wait")
    async def wait(seconds: float) -> str:
        await asyncio.sleep(seconds)
        return "done"

    @orders.post("/in-a-thread")
    def in_a_thread(body: Any) -> Any:
        return body

    return orders


@run
async def test_the_tests_own_timers_are_of_this_clock() -> None:
    rung: list[str] = []
    async with TestMesh() as mesh:
        loop = asyncio.get_running_loop()
        loop.call_later(5, rung.append, "five")
        loop.call_later(3, rung.append, "three")
        loop.call_later(3, lambda: loop.call_later(1, rung.append, "four"))
        await mesh.settle()
        assert rung == []
        await mesh.advance(4.5)
        assert rung == ["three", "four"]
        await mesh.advance(0.5)
        assert rung == ["three", "four", "five"]


@run
async def test_nothing_is_due_too_soon_by_many_small_steps() -> None:
    async with TestMesh() as mesh:
        rung = asyncio.create_task(asyncio.sleep(1))
        for _ in range(99):
            await mesh.advance(0.01)
        assert not rung.done()
        await mesh.advance(0.01)
        assert rung.done()


@run
async def test_two_may_turn_the_clock_one_after_the_other() -> None:
    async with TestMesh() as mesh:
        began = mesh.now
        await asyncio.gather(mesh.advance(10), mesh.advance(20), mesh.settle())
        assert mesh.now - began == pytest.approx(30, abs=0.02)


@run
async def test_a_turn_that_is_cancelled_is_none() -> None:
    async with TestMesh() as mesh:
        began = mesh.now
        turned = asyncio.create_task(mesh.advance(3600))
        asyncio.get_running_loop().call_later(60, turned.cancel)
        with pytest.raises(asyncio.CancelledError):
            await turned
        await mesh.settle()
        assert mesh.now - began == pytest.approx(60, abs=0.01)
        await mesh.advance(1)
        assert mesh.now - began == pytest.approx(61, abs=0.01)


@run
async def test_real_time_is_waited_for_while_a_thread_works() -> None:
    go = threading.Event()
    async with TestMesh() as mesh:
        working = asyncio.get_running_loop().run_in_executor(None, go.wait, 60)
        turned = asyncio.create_task(mesh.advance(3600))
        opener = threading.Timer(0.05, go.set)
        opener.start()
        await turned
        assert working.done()
        assert working.result() is True
        opener.join()


@run
async def test_a_test_that_waits_for_time_is_told_so() -> None:
    async def body() -> None:
        async with TestMesh(patience=0.05) as mesh:
            await mesh.serve(waiting_service())
            await mesh.client("web").call("orders", "POST /wait?seconds=9")

    with pytest.raises(StandsStill, match=r"stands at \+\d+\.\d+ s, and the next is due in \d+\.\d+ s"):
        await body()
    await asyncio.wait_for(asyncio.sleep(0), 1)  # the task of the test is not cancelled any more


@run
async def test_a_test_that_waits_for_nothing_is_told_so() -> None:
    with pytest.raises(StandsStill, match="nothing is due later"):
        async with TestMesh(patience=0.05):
            await asyncio.Event().wait()


@run
async def test_an_error_of_the_body_is_not_hidden() -> None:
    async def body() -> None:
        async with TestMesh(patience=0.05) as mesh:
            await mesh.serve(waiting_service())
            raise KeyError("the body raises")

    with pytest.raises(KeyError):
        await body()


def test_another_event_loop_is_refused() -> None:
    import uvloop

    async def test() -> None:
        with pytest.raises(RuntimeError, match="asyncio's own event loop, which <uvloop"):
            async with TestMesh():
                pass

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(test())


def test_upkeep_is_what_sidecars_call_it() -> None:
    """Otherwise ten days of a test are half a million renewals."""
    found: set[str] = set()

    @run
    async def test() -> None:
        async with TestMesh() as mesh:
            await mesh.serve(waiting_service())
            found.update(task.get_name() for task in asyncio.all_tasks())

    test()
    assert found >= UPKEEP
    assert SERVES.format("orders") in found


# --- what is left -------------------------------------------------------------------------------------------------------------


def _nothing() -> None:
    """The body goes well."""


def _raise() -> None:
    raise KeyError("the body raises")


@pytest.mark.parametrize("ending", [_nothing, _raise])
def test_nothing_is_left(ending: Callable[[], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    threads = threading.active_count()
    orders = waiting_service()
    own = orders.mesh.url

    async def body() -> None:
        async with TestMesh() as mesh:
            await mesh.serve(orders)
            web = mesh.client("web")
            assert await web.call("orders", "POST /in-a-thread", "x") == "x"
            calls = [asyncio.create_task(web.call("orders", f"POST /wait?seconds={n}")) for n in (1, 600)]
            await web.send("orders", "POST /wait?seconds=1", delay=3600)
            mesh.fail("orders")
            await mesh.advance(2)
            assert [each.done() for each in calls] == [True, False]
            for each in calls:
                each.cancel()
            await asyncio.gather(*calls, return_exceptions=True)
            ending()

    async def test() -> None:
        loop: Any = asyncio.get_running_loop()
        before = time.monotonic()
        try:
            await body()
        except KeyError:
            assert ending is _raise
        assert asyncio.all_tasks() == {asyncio.current_task()}
        assert [each for each in loop._scheduled if not each.cancelled()] == []
        assert {"time", "call_at", "run_in_executor", "create_connection"}.isdisjoint(vars(loop))
        assert before <= loop.time() <= time.monotonic()
        assert len(loop._selector.get_map()) == 1, "only the loop's own pipe"
        assert threading.active_count() == threads

    run(test)()
    assert list(tmp_path.iterdir()) == []
    gc.collect()
    assert orders.mesh.url == own
    assert "respond" not in vars(orders)


def test_it_opens_no_port() -> None:
    """Beside a process that has a sidecar's ports, and many at once."""
    script = (
        "import socket\n"
        "from meshq.testing import SyncTestMesh\n"
        "real = socket.socket.listen\n"
        "def listen(*_): raise SystemExit('a port was opened')\n"
        "socket.socket.listen = listen\n"
        "with SyncTestMesh() as mesh:\n"
        "    assert mesh.client('web').services() is not None\n"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", script], check=True, timeout=60)


def test_without_the_extra_it_says_what_to_install() -> None:
    script = (
        "import sys\n"
        "sys.modules['prometheus_client'] = None\n"
        "import meshq.testing\n"
        "try:\n"
        "    from meshq.testing import TestMesh\n"
        "except ImportError as error:\n"
        "    assert \"pip install 'meshq[testing]'\" in str(error), error\n"
        "    assert 'prometheus_client' in str(error), error\n"
        "else:\n"
        "    raise SystemExit('it was imported')\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)
