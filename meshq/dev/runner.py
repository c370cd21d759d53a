"""`meshq dev`: the composition of one run. `run` reads in order: put together, start, wait, end what callers first, tidy up."""

import asyncio
import logging
import os
import signal
import sys
from collections.abc import Iterable
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from meshq.adapters import choose
from meshq.adapters.clock import SystemClock
from meshq.adapters.embedded_broker import EmbeddedHub
from meshq.adapters.embedded_registry import EmbeddedRegistryHub
from meshq.adapters.embedded_store import EmbeddedStoreHub
from meshq.adapters.http_probe import probe
from meshq.adapters.metrics import PrometheusMetrics
from meshq.adapters.store import StoreUnusable
from meshq.control import DOMAIN, SERVICE
from meshq.control.app import Control, mesh_at
from meshq.control.mesh import Mesh
from meshq.control.tokens import Tokens, parse_secrets
from meshq.dev import banner, checks
from meshq.dev.output import RUNNER, Output, ToOutput
from meshq.dev.plan import Plan, Unit
from meshq.dev.process import ENDED_BY_US, Command, Guard, Kept
from meshq.dev.sidecars import Apart, Inside, UnitSidecar
from meshq.dev.state import AlreadyRunning, Folder, Running
from meshq.ports import QueueStats
from meshq.settings import BadSettings
from meshq.tasks import Tasks
from meshq_sidecar.listening import PortTaken

logger = logging.getLogger(__name__)

DRAIN_SECONDS = 25.0
PROBE_SECONDS = 2.0
WATCH_EVERY = 0.1
"""Seconds between looks at a unit that is not ready yet."""
SETTLED_SECONDS = 1.0
"""An app without a port is ready when it has lived this long."""
MOST_STARTS = 5
"""An app that exits this often without having been ready is given up."""
QUIET_SECONDS = 5.0
"""The longest that the end waits for requests between apps to finish before anything is drained."""
FREED_SECONDS = 3.0
"""How long ports are waited for that apps of a killed run may still hold (guard.py ends them)."""


@dataclass(frozen=True, slots=True)
class Options:
    file: Path
    seconds: float | None
    """Ends by itself after this long; None: not."""
    ready_within: float


class CannotStart(Exception):
    """Nothing was started; one sentence each."""

    def __init__(self, faults: list[str]) -> None:
        super().__init__("; ".join(faults))
        self.faults = faults


@dataclass(slots=True)
class _Slot:
    """One unit while it runs."""

    unit: Unit
    sidecar: UnitSidecar
    app: Kept
    ready: bool = False
    why_not: str = "it was not started"

    @property
    def label(self) -> str:
        return self.unit.label


class Runner:
    """One run of a plan. `run` returns the exit code. Raises CannotStart."""

    def __init__(self, plan: Plan, options: Options, output: Output) -> None:
        self._plan = plan
        self._options = options
        self._output = output
        self._clock = SystemClock()
        self._guard = Guard()
        self._slots: list[_Slot] = []
        self._failures: list[str] = []
        self._over = asyncio.Event()
        self._signals = 0
        self._patience: asyncio.Timeout | None = None
        self._tasks = Tasks()

    async def run(self) -> int:
        async with AsyncExitStack() as stack:
            await self._start(stack)
            await self._until_over()
            await self._end()
        self._tell_the_end()
        return 1 if self._failures else 0

    def stop(self) -> None:
        """End the run: what Ctrl-C does. The second time, at once."""
        self._signals += 1
        self._over.set()
        if self._signals > 1 and self._patience is not None:
            self._patience.reschedule(asyncio.get_running_loop().time())

    # --- start ------------------------------------------------------------------------------------------------------------

    async def _start(self, stack: AsyncExitStack) -> None:
        """What the stack holds is let go in the reverse order."""
        loop = asyncio.get_running_loop()
        ends = [signal.SIGINT, signal.SIGTERM]
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # as nohup has it
            ends.append(signal.SIGHUP)
        for number in ends:
            loop.add_signal_handler(number, self.stop)
            stack.callback(loop.remove_signal_handler, number)
        try:
            folder = Folder(self._options.file.parent)
        except AlreadyRunning as running:
            raise CannotStart([str(running)]) from running
        except OSError as error:
            raise CannotStart([f"{error.filename}: {error.strerror}"]) from error
        stack.callback(folder.release)
        await self._check_ports(folder.left_behind)
        await self._guard.start()
        stack.push_async_callback(self._guard.close)
        mesh = await self._make_slots(stack, folder)
        control = Control(mesh, self._about, tokens=self._tokens(folder))
        stack.push_async_callback(control.close)
        try:
            port = await control.start(self._plan.control_port)
            for slot in self._slots:
                stack.push_async_callback(slot.sidecar.stop)
                # A context of its own, so that what a sidecar sets there stays with it.
                await asyncio.gather(slot.sidecar.start())
        except PortTaken as taken:
            raise CannotStart([str(taken)]) from taken
        except OSError as error:
            raise CannotStart([f"port {self._plan.control_port}, the control API's: {error.strerror}"]) from error
        url = f"http://127.0.0.1:{port}"
        folder.announce(Running(url, os.getpid(), str(self._options.file), self._plan.mesh))
        for line in banner.lines(self._plan, self._options.file, url, self._output.bold):
            self._output.plain(line)
        for warning in self._plan.warnings:
            self._output.said(RUNNER, f"warning: {warning}", wrong=True)
        stack.push_async_callback(self._tasks.close)
        for slot in self._slots:
            stack.push_async_callback(slot.app.close)
            slot.app.start()
            self._tasks.start(self._watch(slot), f"watch {slot.label}")

    def _tokens(self, folder: Folder) -> Tokens:
        """The environment's secrets, and the folder's own, with which `meshq control token` makes tokens here."""
        try:
            given = parse_secrets(os.environ.get("MESHQ_CONTROL_SECRET", ""))
            return Tokens(self._plan.mesh, (*given, folder.secret()))
        except ValueError as error:
            raise CannotStart([f"MESHQ_CONTROL_SECRET: {error}"]) from error
        except OSError as error:
            raise CannotStart([f"{error.filename}: {error.strerror}"]) from error

    async def _check_ports(self, left_behind: bool) -> None:
        until = self._clock.monotonic() + (FREED_SECONDS if left_behind else 0)
        while taken := checks.taken_ports(self._plan):
            if self._clock.monotonic() >= until:
                raise CannotStart(taken)
            await asyncio.sleep(WATCH_EVERY)

    async def _make_slots(self, stack: AsyncExitStack, folder: Folder) -> Mesh:
        """The units with their sidecars, and the mesh as the control API sees it."""
        plan, clock = self._plan, self._clock
        try:
            if not plan.embedded:
                plain = {name: value for name, value in os.environ.items() if not name.startswith("MESHQ_")}
                here = self._options.file.parent
                self._slots = [
                    self._slot(unit, Apart(unit, here, plain, self._output, self._guard, clock)) for unit in plan.units
                ]
                return mesh_at(plan.broker, plan.registry, plan.mesh, os.environ, clock)
            hub = EmbeddedHub(folder.path / "broker.db", clock)
            stack.push_async_callback(hub.close)
            known = EmbeddedRegistryHub(clock, folder.path / "registry.json") if plan.registry == "embedded:" else None
            store = None
            if known is not None:
                store = EmbeddedStoreHub(clock, folder.path / "store.db")
                stack.push_async_callback(store.close)
            self._slots = [self._slot(unit, Inside(unit, hub, known, store, clock)) for unit in plan.units]
            registry = known.connect() if known else choose.registry(plan.registry, plan.mesh, clock)
        except StoreUnusable as error:
            raise CannotStart([str(error)]) from error
        except BadSettings as bad:
            raise CannotStart([str(fault) for fault in bad.faults]) from bad
        except (ValueError, OSError) as error:
            raise CannotStart([str(error)]) from error

        async def list_queues() -> list[QueueStats]:
            return hub.stats(hub.queue_names)

        return Mesh(SERVICE, DOMAIN, hub.connect(SERVICE), registry, clock, PrometheusMetrics(), list_queues)

    def _slot(self, unit: Unit, sidecar: UnitSidecar) -> _Slot:
        command = Command([checks.SHELL, "-c", checks.command_line(unit.app.command)], unit.directory, unit.environment)
        output, label = self._output, unit.label
        app = Kept(
            command,
            lambda line: output.app(label, line),
            lambda text, wrong: output.said(label, text, wrong),
            self._guard,
            self._clock,
        )
        return _Slot(unit, sidecar, app)

    # --- while it runs ----------------------------------------------------------------------------------------------------

    async def _watch(self, slot: _Slot) -> None:
        await self._become_ready(slot)
        port, health = slot.unit.port, slot.unit.app.health
        while slot.ready and port is not None:
            slot.app.started.clear()
            await slot.app.started.wait()
            begun = self._clock.monotonic()
            await self._until_answers(slot, port, health)
            self._output.said(slot.label, f"ready again after {self._clock.monotonic() - begun:.1f} s")

    async def _until_answers(self, slot: _Slot, port: int, health: str) -> None:
        """At its port; or, if it never listens there, over a link, which its sidecar sees go and come."""
        was_away = False
        while not (await probe("127.0.0.1", port, health, PROBE_SECONDS)).healthy:
            is_away = bool(await slot.sidecar.fault())
            if was_away and not is_away:
                return
            was_away = was_away or is_away
            await asyncio.sleep(WATCH_EVERY)

    async def _become_ready(self, slot: _Slot) -> None:
        begun = self._clock.monotonic()
        while True:
            slot.why_not = await self._why_not_ready(slot)
            took = self._clock.monotonic() - begun
            if not slot.why_not:
                self._note_ready(slot, took)
                return
            given_up = slot.app.starts >= MOST_STARTS and slot.app.pid is None
            if given_up or took >= self._options.ready_within:
                self._over.set()
                return
            await asyncio.sleep(WATCH_EVERY)

    async def _why_not_ready(self, slot: _Slot) -> str:
        if slot.unit.port is None:
            if slot.app.exit_code == 0:
                return ""  # a job that was done at once
            if slot.app.uptime < SETTLED_SECONDS:
                return _exits(slot.app) or "it was only just started"
            return await slot.sidecar.fault()
        return _exits(slot.app) or await slot.sidecar.fault()

    def _note_ready(self, slot: _Slot, took: float) -> None:
        slot.ready = True
        self._output.said(slot.label, f"ready after {took:.1f} s")
        if all(slot.ready for slot in self._slots):
            count = len(self._slots)
            self._output.said(RUNNER, "the app is ready" if count == 1 else f"all {count} apps are ready")

    async def _until_over(self) -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(self._over.wait(), self._options.seconds)

    def _about(self) -> dict[str, Any]:
        """What the control API's /v1/status tells of this run."""
        return {
            "mesh": self._plan.mesh,
            "file": str(self._options.file),
            "apps": [
                {
                    "name": slot.label,
                    "service": slot.unit.app.service,
                    "version": str(slot.unit.app.version),
                    "pid": slot.app.pid,
                    "ready": slot.ready,
                    "restarts": max(0, slot.app.starts - 1),
                    "port": slot.unit.port,
                    "sidecarPort": slot.unit.sidecar_port,
                }
                for slot in self._slots
            ],
        }

    # --- the end ----------------------------------------------------------------------------------------------------------

    async def _end(self) -> None:
        self._find_failures()
        self._output.said(RUNNER, "stopping: callers first; Ctrl-C again ends all at once")
        try:
            async with asyncio.timeout(DRAIN_SECONDS if self._signals < 2 else 0) as self._patience:
                await self._gently()
        except TimeoutError:
            if self._signals < 2:
                running = [slot.label for slot in self._slots if slot.app.pid is not None]
                self._output.said(RUNNER, f"still running after {DRAIN_SECONDS:g} s: {', '.join(running)}", wrong=True)
        await asyncio.gather(*(slot.app.kill() for slot in self._slots))
        self._find_bad_ends()

    async def _gently(self) -> None:
        callers = [slot for slot in self._slots if slot.unit.port is None]
        serving = [slot for slot in self._slots if slot.unit.port is not None]
        await asyncio.gather(*(slot.app.terminate() for slot in callers))
        await self._quiet(serving)
        await asyncio.gather(*(slot.sidecar.drain() for slot in serving))
        await asyncio.gather(*(slot.app.terminate() for slot in serving))

    async def _quiet(self, serving: Iterable[_Slot]) -> None:
        """Until apps no longer work for each other: one that is drained takes no calls, which others may wait for."""
        until = self._clock.monotonic() + QUIET_SECONDS
        looks = 0
        while looks < 2 and self._clock.monotonic() < until:
            looks = 0 if any(slot.sidecar.at_work for slot in serving) else looks + 1
            await asyncio.sleep(WATCH_EVERY / 2)

    def _find_failures(self) -> None:
        """Of apps as they are before they are told to end."""
        for slot in self._slots:
            if not slot.ready:
                self._failures.append(f"{slot.label} never became ready: {slot.why_not}")
                self._failures += [f"  {slot.label} said: {line}" for line in self._output.tail(slot.label)]
            elif self._options.seconds is not None and slot.app.pid is None and slot.app.exit_code:
                self._failures.append(f"{slot.label} does not run: it exited with code {slot.app.exit_code}")

    def _find_bad_ends(self) -> None:
        """The exit code of an app that only calls out is its word on how its calls went."""
        if self._options.seconds is None:
            return
        for slot in self._slots:
            if slot.unit.port is None and slot.ready and slot.app.exit_code not in ENDED_BY_US:
                self._failures.append(f"{slot.label} ended with exit code {slot.app.exit_code}")

    def _tell_the_end(self) -> None:
        for failure in self._failures:
            self._output.said(RUNNER, failure, wrong=True)
        if not self._failures:
            self._output.said(RUNNER, "ended: all is well")


def _exits(app: Kept) -> str:
    if app.pid is not None or app.exit_code is None:
        return ""
    return f"it exits with code {app.exit_code} (started {app.starts} times)"


# --- from arguments to a run ------------------------------------------------------------------------------------------------


async def run(plan: Plan, options: Options) -> int:
    """Returns the exit code. Raises CannotStart."""
    loop = asyncio.get_running_loop()
    runner: Runner | None = None

    def closed() -> None:
        if runner is not None:
            loop.call_soon_threadsafe(runner.stop)

    output = Output(sys.stdout, [unit.label for unit in plan.units], _wants_colour(), closed)
    root = logging.getLogger()
    handler = ToOutput(output)
    before = root.handlers[:], root.level
    root.handlers = [handler]
    root.setLevel(os.environ.get("MESHQ_LOG_LEVEL", "warning").upper())
    logging.getLogger("pika").setLevel(logging.CRITICAL)
    logging.getLogger("asyncio").setLevel(logging.WARNING)
    try:
        runner = Runner(plan, options, output)
        return await runner.run()
    finally:
        root.handlers, root.level = before
        await asyncio.to_thread(output.close)


def _wants_colour() -> bool:
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
