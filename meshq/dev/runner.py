"""`meshq dev`: the composition of one run. `run` reads in order: put together, start, wait, end what callers first, tidy up."""

import asyncio
import logging
import os
import signal
import sys
from collections.abc import Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from meshq.adapters.clock import SystemClock
from meshq.adapters.store import StoreUnusable
from meshq.control.app import Control
from meshq.control.tokens import Tokens, parse_secrets
from meshq.dev import banner, checks, servers
from meshq.dev.asleep import Asleep
from meshq.dev.output import RUNNER, Output, ToOutput
from meshq.dev.plan import Plan, Unit
from meshq.dev.process import ENDED_BY_US, Command, Guard, Kept
from meshq.dev.replica import WATCH_EVERY, Replica, Replicas
from meshq.dev.scaling import Scaler
from meshq.dev.servers import Servers
from meshq.dev.sidecars import settings_of
from meshq.dev.state import AlreadyRunning, Folder, Running
from meshq.settings import BadSettings
from meshq.signals.on_demand import Following
from meshq.signals.sampler import Sampler
from meshq.tasks import Tasks
from meshq_sidecar.listening import PortTaken

logger = logging.getLogger(__name__)

DRAIN_SECONDS = 25.0
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


class Runner:
    """One run of a plan. `run` returns the exit code. Raises CannotStart."""

    def __init__(self, plan: Plan, options: Options, output: Output) -> None:
        self._plan = plan
        self._options = options
        self._output = output
        self._clock = SystemClock()
        self._guard = Guard()
        self._asleep: list[Asleep] = []
        self._scaler: Scaler | None = None
        self._all_ready = False
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
        there = self._servers(folder, stack)
        self._replicas = Replicas(lambda unit: self._replica(unit, there))
        first = self._first()
        control = Control(there.mesh, self._about, tokens=self._tokens(folder))
        stack.push_async_callback(control.close)
        try:
            port = await control.start(self._plan.control_port)
            stack.push_async_callback(self._replicas.close)
            for replica in first:
                await replica.start_sidecar()
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
        for replica in first:
            replica.start_app()
        if self._plan.scaled:
            await self._start_scaling(there, stack)

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

    def _servers(self, folder: Folder, stack: AsyncExitStack) -> Servers:
        plan = self._plan
        try:
            for unit in plan.units:
                settings_of(unit)
            if plan.embedded:
                return servers.embedded(plan, folder.path, self._clock, stack)
            return servers.apart(plan, self._options.file.parent, self._output, self._guard, self._clock)
        except BadSettings as bad:
            raise CannotStart([str(fault) for fault in bad.faults]) from bad
        except (StoreUnusable, ValueError, OSError) as error:
            raise CannotStart([str(error)]) from error

    def _first(self) -> list[Replica]:
        """Those that run from the start."""
        try:
            return [self._replicas.add(unit) for unit in self._plan.units if unit.at_start]
        except BadSettings as bad:
            raise CannotStart([str(fault) for fault in bad.faults]) from bad
        except (ValueError, OSError) as error:
            raise CannotStart([str(error)]) from error

    def _replica(self, unit: Unit, there: Servers) -> Replica:
        command = Command([checks.SHELL, "-c", checks.command_line(unit.app.command)], unit.directory, unit.environment)
        output, label = self._output, unit.label
        app = Kept(
            command,
            lambda line: output.app(label, line),
            lambda text, wrong: output.said(label, text, wrong),
            self._guard,
            self._clock,
        )
        within = self._options.ready_within
        sidecar = there.make_sidecar(unit)
        return Replica(unit, sidecar, app, output, self._clock, within, self._look_at_all, self._on_hopeless)

    async def _start_scaling(self, there: Servers, stack: AsyncExitStack) -> None:
        stack.push_async_callback(there.registry.close)
        await there.registry.open()
        stack.push_async_callback(there.broker.close)
        await there.broker.open()
        apps = {app.topic: app for app in self._plan.scaled}
        self._asleep = [
            Asleep(app.name, settings_of(app.units[0]), there.broker, there.registry)
            for app in apps.values()
            if not app.policy.min
        ]
        sampler = Sampler(
            there.list_queues,
            there.registry,
            self._clock,
            every=there.count_every,
            own_policy=lambda topic: apps[topic.name].policy if topic.name in apps else None,
        )
        there.mesh.scale = Following(sampler)
        self._scaler = Scaler(tuple(apps.values()), self._replicas, sampler, self._output)
        self._scaler.start()
        self._tasks.start(self._scale(sampler), "look how many replicas there should be")

    async def _scale(self, sampler: Sampler) -> None:
        """What is asleep is made known first, for the sampler wakes only what it saw."""
        try:
            async with asyncio.timeout(self._options.ready_within):
                await asyncio.gather(*(asleep.run() for asleep in self._asleep))
        except TimeoutError:
            self._over.set()
            return
        self._look_at_all()
        await sampler.run()

    # --- while it runs ----------------------------------------------------------------------------------------------------

    def _expected(self) -> list[Replica | Asleep]:
        """What has to be ready before all is."""
        return [*(replica for replica in self._replicas.all if replica.unit.at_start), *self._asleep]

    def _look_at_all(self) -> None:
        """Something became ready."""
        if self._all_ready or not all(each.ready for each in self._expected()):
            return
        self._all_ready = True
        count = sum(unit.at_start for unit in self._plan.units)
        match count:
            case 0:
                text = "ready: every app is at zero replicas, until there is a message for it"
            case 1:
                text = "the app is ready"
            case _:
                text = f"all {count} apps are ready"
        self._output.said(RUNNER, text)

    def _on_hopeless(self, replica: Replica) -> None:
        """It ends the run, unless another replica shows that its app can be ready."""
        others = (other.ready for other in self._replicas.of(replica.unit.index))
        if any(others):
            self._output.said(replica.label, f"is not ready: {replica.why_not}", wrong=True)
        else:
            self._over.set()

    async def _until_over(self) -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(self._over.wait(), self._options.seconds)

    def _about(self) -> dict[str, Any]:
        """What the control API's /v1/status tells of this run."""
        return {
            "mesh": self._plan.mesh,
            "file": str(self._options.file),
            "apps": [replica.about() for replica in self._replicas.all],
            "scaled": [] if self._scaler is None else self._scaler.about(),
        }

    # --- the end ----------------------------------------------------------------------------------------------------------

    async def _end(self) -> None:
        if self._scaler is not None:
            await self._scaler.close()
        self._find_failures()
        self._output.said(RUNNER, "stopping: callers first; Ctrl-C again ends all at once")
        try:
            async with asyncio.timeout(DRAIN_SECONDS if self._signals < 2 else 0) as self._patience:
                await self._gently()
        except TimeoutError:
            if self._signals < 2:
                running = [replica.label for replica in self._replicas.all if replica.app.pid is not None]
                self._output.said(RUNNER, f"still running after {DRAIN_SECONDS:g} s: {', '.join(running)}", wrong=True)
        await asyncio.gather(*(replica.kill() for replica in self._replicas.all))
        self._find_bad_ends()

    async def _gently(self) -> None:
        callers = [replica for replica in self._replicas.all if replica.unit.port is None]
        serving = [replica for replica in self._replicas.all if replica.unit.port is not None]
        await asyncio.gather(*(replica.terminate() for replica in callers))
        await self._quiet(serving)
        await asyncio.gather(*(replica.drain() for replica in serving))
        await asyncio.gather(*(replica.terminate() for replica in serving))

    async def _quiet(self, serving: Sequence[Replica]) -> None:
        """Until apps no longer work for each other: one that is drained takes no calls, which others may wait for."""
        until = self._clock.monotonic() + QUIET_SECONDS
        looks = 0
        while looks < 2 and self._clock.monotonic() < until:
            looks = 0 if any(replica.sidecar.at_work for replica in serving) else looks + 1
            await asyncio.sleep(WATCH_EVERY / 2)

    def _find_failures(self) -> None:
        """Of apps as they are before they are told to end."""
        for asleep in self._asleep:
            if not asleep.ready:
                self._failures.append(f"{asleep.label} could not be waited for by messages: {asleep.why_not}")
        for replica in self._replicas.all:
            if replica.leaving:
                continue
            if not replica.ready and (replica.hopeless or (replica.unit.at_start and not self._all_ready)):
                self._failures.append(f"{replica.label} never became ready: {replica.why_not}")
                self._failures += [f"  {replica.label} said: {line}" for line in self._output.tail(replica.label)]
            elif self._options.seconds is not None and replica.app.pid is None and replica.app.exit_code:
                self._failures.append(f"{replica.label} does not run: it exited with code {replica.app.exit_code}")

    def _find_bad_ends(self) -> None:
        """The exit code of an app that only calls out is its word on how its calls went."""
        if self._options.seconds is None:
            return
        for replica in self._replicas.all:
            if replica.unit.port is None and replica.ready and replica.app.exit_code not in ENDED_BY_US:
                self._failures.append(f"{replica.label} ended with exit code {replica.app.exit_code}")

    def _tell_the_end(self) -> None:
        for failure in self._failures:
            self._output.said(RUNNER, failure, wrong=True)
        if not self._failures:
            self._output.said(RUNNER, "ended: all is well")


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
