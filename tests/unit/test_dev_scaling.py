"""Replicas that come and go in `meshq dev`: real apps and sidecars over the embedded broker, at signals that the test gives; and what
is made for an app before its first replica."""

import asyncio
import io
import json
import os
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, closing
from pathlib import Path
from socket import create_server
from typing import Any

from meshq.adapters import choose
from meshq.adapters.clock import SystemClock
from meshq.adapters.embedded_broker import EmbeddedHub
from meshq.adapters.embedded_registry import EmbeddedRegistryHub
from meshq.adapters.tls import SYSTEM
from meshq.core.http import HttpRequest
from meshq.core.names import parse_version
from meshq.core.selectors import parse_address
from meshq.dev import checks, meshfile, servers
from meshq.dev.asleep import Asleep
from meshq.dev.output import Output
from meshq.dev.plan import Plan, Unit, make_plan
from meshq.dev.process import Command, Guard, Kept
from meshq.dev.replica import Replica, Replicas
from meshq.dev.scaling import Scaler, victims
from meshq.settings import Settings, load
from tests.e2e.dev_mesh import free_ports, wait_gone
from tests.told_signals import ToldSignals, signal

SECONDS = 30

APP = """
import http.server, os, pathlib, time
class Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        if self.path == "/held":
            print("begins", flush=True)
            while not pathlib.Path("go").exists():
                time.sleep(0.02)
            print("finished", flush=True)
        self.send_response(200)
        self.end_headers()
    def log_message(self, *args): pass
http.server.ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), Handler).serve_forever()
"""
"""Held at its work by the test. SIGTERM ends it wherever it is."""


class Rig:
    """A scaled app `worker` with three places, none taken yet, and who calls it."""

    def __init__(self, folder: Path, plan: Plan, there: servers.Servers, guard: Guard, clock: SystemClock) -> None:
        self.there = there
        self.signals = ToldSignals()
        self._said = io.StringIO()
        self._output = Output(self._said, ["worker/1"], False, lambda: None)
        self._guard = guard
        self._clock = clock
        self.hopeless: list[str] = []
        self.replicas = Replicas(self._make)
        self.scaler = Scaler(plan.scaled, self.replicas, self.signals, self._output)
        self._folder = folder

    def want(self, replicas: int | None) -> None:
        self.signals.tell(signal("worker", 1, replicas))

    @property
    def text(self) -> str:
        return self._said.getvalue()

    @property
    def pids(self) -> list[int]:
        return [replica.app.pid for replica in self.replicas.all if replica.app.pid is not None]

    @property
    def ready(self) -> list[str]:
        return [replica.label for replica in self.replicas.all if replica.ready]

    async def until(self, holds: Callable[[], object]) -> None:
        try:
            async with asyncio.timeout(SECONDS):
                while not holds():  # noqa: ASYNC110 - processes and a thread change it
                    await asyncio.sleep(0.02)
        except TimeoutError:
            raise AssertionError(self.text) from None

    async def call(self, path: str) -> int:
        request = HttpRequest(b"POST", path.encode(), [], b"")
        answer = await self.there.mesh.call(request, parse_address("worker@1"), path.encode())
        return answer.status

    def let_go(self) -> None:
        (self._folder / "go").touch()

    async def close(self) -> None:
        for replica in self.replicas.all:
            await replica.kill()
        await self.replicas.close()
        self._output.close()

    def _make(self, unit: Unit) -> Replica:
        command = Command([checks.SHELL, "-c", f"exec {unit.app.command}"], unit.directory, unit.environment)
        output, label = self._output, unit.label
        app = Kept(
            command,
            lambda line: output.app(label, line),
            lambda text, wrong: output.said(label, text, wrong),
            self._guard,
            self._clock,
        )
        return Replica(
            unit,
            self.there.make_sidecar(unit),
            app,
            output,
            self._clock,
            SECONDS,
            lambda: None,
            lambda replica: self.hopeless.append(replica.label),
        )


@asynccontextmanager
async def rigged(folder: Path, **more: Any) -> AsyncIterator[Rig]:
    (folder / "app.py").write_text(APP)
    worker = {
        "service": "worker",
        "version": "1.0.0",
        "command": f"{sys.executable} app.py",
        "sidecarPort": free_ports(),
        "scale": {"min": 0, "max": 3},
    }
    mesh = meshfile.parse(json.dumps({"apps": [{**worker, **more}]}))
    plan = make_plan(mesh, folder, dict(os.environ), 0, checks.free_port)
    clock, guard = SystemClock(), Guard()
    async with AsyncExitStack() as stack:
        await guard.start()
        stack.push_async_callback(guard.close)
        there = servers.embedded(plan, folder, clock, stack)
        await there.mesh.open()
        stack.push_async_callback(there.mesh.close)
        rig = Rig(folder, plan, there, guard, clock)
        stack.push_async_callback(rig.close)
        rig.scaler.start()
        stack.push_async_callback(rig.scaler.close)
        yield rig


def test_replicas_come_and_go_as_the_signal_says(tmp_path: Path) -> None:
    async def story() -> list[int]:
        async with rigged(tmp_path) as rig:
            rig.want(None)
            assert rig.replicas.all == [], "nothing is known, and so nothing changes"
            rig.want(2)
            await rig.until(lambda: rig.ready == ["worker/1", "worker/2"])
            await rig.until(lambda: "worker: 0 -> 2 replicas: 12.5 messages a second come" in rig.text)
            (about,) = rig.scaler.about()
            assert (about["replicas"], about["leaving"], about["desired"]) == (2, 0, 2)
            assert [each["name"] for each in map(Replica.about, rig.replicas.all)] == ["worker/1", "worker/2"]
            pids = rig.pids
            rig.want(9)
            await rig.until(lambda: len(rig.ready) == 3)
            await rig.until(lambda: "worker: 2 -> 3 replicas" in rig.text)
            rig.want(0)
            assert rig.scaler.about()[0]["leaving"] == 3
            await rig.until(lambda: not rig.replicas.all and "worker: 3 -> 0 replicas" in rig.text)
            known = (await rig.there.mesh.picture()).services["worker"]
            assert known.instances == ()
            return pids

    wait_gone(asyncio.run(story()))


def test_no_message_at_an_app_is_killed_and_its_place_is_not_free_before(tmp_path: Path) -> None:
    async def story() -> None:
        async with rigged(tmp_path) as rig, asyncio.TaskGroup() as tasks:
            rig.want(1)
            await rig.until(lambda: rig.ready)
            held = tasks.create_task(rig.call("/held"))
            await rig.until(lambda: "begins" in rig.text)
            (at_work,) = rig.replicas.all
            rig.want(0)
            assert at_work.leaving
            rig.want(3)
            await rig.until(lambda: len(rig.ready) == 3)
            assert rig.scaler.about()[0]["replicas"] == 2, "the third place is not free yet"
            assert at_work.app.pid is not None
            rig.let_go()
            assert await held == 200
            assert rig.text.count("finished") == 1
            await rig.until(lambda: at_work not in rig.replicas.all and len(rig.ready) == 3)

    asyncio.run(story())


def test_the_one_with_nothing_to_do_goes(tmp_path: Path) -> None:
    async def story() -> None:
        async with rigged(tmp_path) as rig, asyncio.TaskGroup() as tasks:
            rig.want(2)
            await rig.until(lambda: len(rig.ready) == 2)
            held = tasks.create_task(rig.call("/held"))
            await rig.until(lambda: "begins" in rig.text)
            (busy,) = [replica for replica in rig.replicas.all if replica.sidecar.at_work]
            rig.want(1)
            await rig.until(lambda: rig.replicas.all == [busy])
            rig.let_go()
            assert await held == 200

    asyncio.run(story())


def test_a_place_whose_port_was_taken_is_said_once_and_used_later(tmp_path: Path) -> None:
    async def story() -> None:
        first = free_ports()
        async with rigged(tmp_path, sidecarPort=first) as rig:
            with closing(create_server(("127.0.0.1", first))):
                rig.want(1)
                rig.want(1)
                await rig.until(
                    lambda: f"cannot be started: port {first} (the sidecar of worker/1) is taken" in rig.text
                )
                assert rig.replicas.all == []
            rig.want(1)
            await rig.until(lambda: rig.ready == ["worker/1"] and "0 -> 1 replicas" in rig.text)
            assert rig.text.count("cannot be started") == rig.text.count("->") == 1

    asyncio.run(story())


def test_it_may_end_while_replicas_start_and_leave(tmp_path: Path) -> None:
    async def story() -> list[int]:
        async with rigged(tmp_path) as rig, asyncio.TaskGroup() as tasks:
            rig.want(2)
            await rig.until(lambda: len(rig.ready) == 2)
            held = tasks.create_task(rig.call("/held"))
            await rig.until(lambda: "begins" in rig.text)
            rig.want(0)
            rig.want(2)
            await rig.scaler.close()
            rig.want(3)
            assert len(rig.replicas.all) <= 3, "nothing is started any more"
            pids = rig.pids
            rig.let_go()
            await asyncio.gather(*(replica.drain() for replica in rig.replicas.all))
            assert await held == 200
            return pids

    wait_gone(asyncio.run(story()))


def test_the_sidecar_that_listens_for_all_goes_last(tmp_path: Path) -> None:
    async def story() -> None:
        async with rigged(tmp_path, intercept={free_ports() + 99: "worker@1"}) as rig:
            rig.want(3)
            first, second, third = rig.replicas.all
            await rig.until(lambda: len(rig.ready) == 3)
            assert victims(rig.replicas.all, 2) == [third, second]
            assert victims(rig.replicas.all, 3) == [third, second, first]

    asyncio.run(story())


# --- before the first replica -------------------------------------------------------------------------------------------------

SETTINGS = {
    "MESHQ_SERVICE": "worker",
    "MESHQ_SERVICE_VERSION": "1.2.0",
    "MESHQ_APP_PORT": "8001",
    "MESHQ_BROKER_URL": "embedded:",
    "MESHQ_REGISTRY_URL": "embedded:",
    "MESHQ_SUBSCRIBE": "one:x.y@1=/x,all:x.z@1=/z:broadcast",
}


def settings(**more: str) -> Settings:
    return load({**SETTINGS, **more})


def test_what_waits_for_a_first_replica_has_where_to_wait() -> None:
    async def story() -> None:
        clock = SystemClock()
        hub, known = EmbeddedHub(None, clock), EmbeddedRegistryHub(clock)
        broker = hub.connect("meshq-control")
        await broker.open()
        for version in ("1.2.0", "1.3.0", "1.2.0"):
            asleep = Asleep("worker", settings(MESHQ_SERVICE_VERSION=version), broker, known.connect())
            assert not asleep.ready
            await asleep.run()
            assert (asleep.ready, asleep.why_not) == (True, "")
            service = known.snapshot().services["worker"]
            assert (dict(service.majors), service.instances) == ({1: parse_version(version)}, ())
        revision = known.snapshot().revision
        await Asleep("worker", settings(), broker, known.connect()).run()
        assert known.snapshot().revision == revision, "it is known already"
        own = {name for name in hub.queue_names if name.startswith("meshq.worker.")}
        assert own == {
            "meshq.worker.v1.call",
            "meshq.worker.v1.work",
            "meshq.worker.v1.dead",
            "meshq.worker.v1.on.one",
            "meshq.worker.results",
        }
        await hub.close()

    asyncio.run(story())


def test_a_broker_that_is_away_is_waited_for(free_port: int) -> None:
    async def story() -> None:
        clock = SystemClock()
        broker = choose.broker(f"amqp://127.0.0.1:{free_port}/", "test", "meshq-control", clock, SYSTEM)
        asleep = Asleep("worker", settings(), broker, EmbeddedRegistryHub(clock).connect())
        await broker.open()
        async with asyncio.timeout(SECONDS):
            waiting = asyncio.ensure_future(asleep.run())
            while str(free_port) not in asleep.why_not:  # noqa: ASYNC110 - another connection attempt changes it
                await asyncio.sleep(0.02)
        assert not asleep.ready
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        await broker.close()

    asyncio.run(story())
