"""A service that is told to stop in the middle of 200 handlers: those finish, everything else goes back as it was, nothing is lost."""

import asyncio
import signal
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from meshq import Mesh
from tests.contract.sdk_rig import WAYS
from tests.e2e import pods
from tests.fault.checker import check
from tests.servers.processes import ServerProcess, free_port, wait_for

AT_ONCE, ALL = 200, 500
SECONDS = 60

pytestmark = pytest.mark.timeout(180)


class Line(NamedTuple):
    what: str
    name: str
    attempt: int


class App:
    """The service's process (sdk_held_app.py), again and again; what it did is in its journal."""

    def __init__(self, sidecar: pods.Sidecar, way: str, port: int, folder: Path) -> None:
        self._folder = folder
        self._journal = folder / "journal"
        self._command = [sys.executable, "-W", "error", "-m", "tests.fault.sdk_held_app", str(self._journal)]
        self._env = pods.environment({"MESHQ_URL": f"http://127.0.0.1:{sidecar.port}", "WAY": way, "PORT": str(port)})
        self.process = self._new("1")

    def _new(self, hold: str) -> ServerProcess:
        return ServerProcess(self._command, self._folder / "app.log", {**self._env, "HOLD": hold})

    def start_again(self) -> None:
        """One that holds nothing."""
        self.process = self._new("0")
        self.process.start()

    def wait_exit(self) -> int | None:
        wait_for(lambda: not self.process.running, SECONDS, "the end of the app", poll=0.01)
        return self.process.exit_code

    @property
    def output(self) -> str:
        return self.process.log.read_text()

    def lines(self, what: str) -> list[Line]:
        if not self._journal.exists():
            return []
        whole, _, _ = self._journal.read_text().rpartition("\n")
        found = (line.split() for line in whole.splitlines())
        return [Line(kind, name, int(attempt)) for kind, name, attempt in found if kind == what]

    def wait_lines(self, what: str, number: int) -> None:
        wait_for(lambda: len(self.lines(what)) >= number, SECONDS, f"{number} times {what}", poll=0.01)


class Scene(NamedTuple):
    app: App
    sidecar: pods.Sidecar


EMBEDDED = [(way, "embedded") for way in WAYS]
REAL = [pytest.param(("link", "rabbitmq"), marks=[pytest.mark.rabbitmq, pytest.mark.redis])]


@pytest.fixture(params=EMBEDDED + REAL)
def scene(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Scene]:
    way, broker = request.param
    urls = ("embedded:", "embedded:")
    if broker == "rabbitmq":
        urls = (request.getfixturevalue("broker_url"), request.getfixturevalue("redis_url"))
    port = free_port()
    settings = {"app_concurrency": str(AT_ONCE), "retry": "9:1s", **({"app_port": str(port)} if way == "http" else {})}
    with pods.mesh(*urls, tmp_path) as found:
        sidecar = found.sidecar("orders", **settings)
        app = App(sidecar, way, port, tmp_path)
        app.process.start()
        try:
            sidecar.wait_ready()
            yield Scene(app, sidecar)
        finally:
            app.process.kill()


async def sent(sidecar: pods.Sidecar) -> dict[str, str]:
    """Name -> id of its message; once this service, which sends them to itself, is known."""
    async with Mesh(f"http://127.0.0.1:{sidecar.port}", link=True) as mesh:
        async for view in mesh.watch("orders"):
            if view.ready:
                break

        async def send(name: str) -> str:
            headers = {"X-Asks": "1"} if name.endswith("0") else None
            return (await mesh.send("orders", f"POST /work/{name}", headers=headers)).id

        names = [f"n{number}" for number in range(ALL)]
        return dict(zip(names, await asyncio.gather(*map(send, names)), strict=True))


async def results(sidecar: pods.Sidecar, idents: dict[str, str]) -> list[str]:
    async with Mesh(f"http://127.0.0.1:{sidecar.port}") as mesh:
        return list(await asyncio.gather(*(mesh.ticket(ident).result(timeout=SECONDS) for ident in idents.values())))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_what_runs_finishes_and_the_rest_goes_back(scene: Scene, number: signal.Signals) -> None:
    app, sidecar = scene
    idents = asyncio.run(sent(sidecar))
    app.wait_lines("begin", AT_ONCE)

    app.process.send(number)
    wait_for(lambda: "handlers finish" in app.output or "requests finish" in app.output, SECONDS, "the stop", poll=0.01)
    app.process.send(signal.SIGUSR1)
    assert app.wait_exit() == 0, app.output
    assert "Traceback" not in app.output
    begun, ended = app.lines("begin"), app.lines("end")
    assert Counter(line.name for line in begun) == Counter(line.name for line in ended)
    assert len(ended) == AT_ONCE
    assert len(app.lines("over")) == 1  # the lifespan ended, after the last of them

    app.start_again()
    app.wait_lines("end", ALL)
    assert asyncio.run(results(sidecar, idents)) == list(idents)
    report = check(idents, idents, [line.name for line in app.lines("end")])
    assert report.valid, report
    assert report.duplicated == {}, report
    assert {line.attempt for line in app.lines("begin")} == {1}  # going back burnt none
    assert sidecar.metric("dead_lettered_total") == 0


@pytest.mark.parametrize("scene", EMBEDDED, indirect=True)
def test_a_second_signal_ends_it_at_once_and_still_nothing_is_lost(scene: Scene) -> None:
    app, sidecar = scene
    idents = asyncio.run(sent(sidecar))
    app.wait_lines("begin", AT_ONCE)
    app.process.send(signal.SIGTERM)
    wait_for(lambda: "handlers finish" in app.output or "requests finish" in app.output, SECONDS, "the stop", poll=0.01)
    app.process.send(signal.SIGTERM)
    assert app.wait_exit() == -signal.SIGTERM
    assert app.lines("end") == []

    app.start_again()
    app.wait_lines("end", ALL)
    assert asyncio.run(results(sidecar, idents)) == list(idents)
    report = check(idents, idents, [line.name for line in app.lines("end")])
    assert report.valid, report
    assert report.duplicated == {}, report  # none had ended before
    assert sidecar.metric("dead_lettered_total") == 0
