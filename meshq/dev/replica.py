"""One replica of an app while it runs: its sidecar, its app, and the watch over whether it is ready."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from meshq.adapters.http_probe import probe
from meshq.dev.output import Output
from meshq.dev.plan import Unit
from meshq.dev.process import Kept
from meshq.dev.sidecars import UnitSidecar
from meshq.ports import Clock
from meshq.tasks import Tasks

PROBE_SECONDS = 2.0
WATCH_EVERY = 0.1
"""Seconds between looks at a replica that is not ready yet."""
SETTLED_SECONDS = 1.0
"""An app without a port is ready when it has lived this long."""
MOST_STARTS = 5
"""An app that exits this often without having been ready is given up."""


class Replica:
    """Use: `start_sidecar`, `start_app`; to end it `drain`, `terminate` or `kill`, and in any case `close`. `on_ready` is called when
    it is ready for the first time, `on_hopeless` when it is not `ready_within` seconds after the start."""

    def __init__(
        self,
        unit: Unit,
        sidecar: UnitSidecar,
        app: Kept,
        output: Output,
        clock: Clock,
        ready_within: float,
        on_ready: Callable[[], None],
        on_hopeless: "Callable[[Replica], None]",
    ) -> None:
        self.unit = unit
        self.sidecar = sidecar
        self.app = app
        self.ready = False
        self.why_not = "it was not started"
        """Why it is not ready."""
        self.hopeless = False
        """It was not ready in time."""
        self.leaving = False
        """It is not needed any more, and ends when nothing is at its app."""
        self._output = output
        self._clock = clock
        self._ready_within = ready_within
        self._on_ready = on_ready
        self._on_hopeless = on_hopeless
        self._tasks = Tasks()
        self._step = asyncio.Lock()
        """Held by what starts, drains and closes the sidecar: one at a time, in the order asked."""
        self._takes = False
        """Its sidecar is there, and not drained."""
        self._closed = False

    @property
    def label(self) -> str:
        return self.unit.label

    async def start_sidecar(self) -> None:
        """Raises meshq_sidecar.listening.PortTaken, OSError."""
        async with self._step:
            # A context of its own, so that what a sidecar sets there stays with it.
            await asyncio.gather(self.sidecar.start())
            self._takes = True

    def start_app(self) -> None:
        self.app.start()
        self._tasks.start(self._watch(), f"watch {self.label}")

    async def drain(self) -> None:
        """Until nothing is at the app, and nothing new comes. Idempotent."""
        async with self._step:
            if self._takes:
                await self.sidecar.drain()
            self._takes = False

    async def terminate(self) -> None:
        """End the app by its own means, which is for the caller to limit."""
        await self.app.terminate()

    async def kill(self) -> None:
        await self.app.kill()

    async def close(self) -> None:
        """Whatever is left of it. Idempotent."""
        async with self._step:
            if self._closed:
                return
            await self._tasks.close()
            await self.app.close()
            await self.sidecar.stop()
            self._closed = True

    def about(self) -> dict[str, Any]:
        """What the control API's /v1/status tells of it."""
        return {
            "name": self.label,
            "service": self.unit.app.service,
            "version": str(self.unit.app.version),
            "pid": self.app.pid,
            "ready": self.ready,
            "leaving": self.leaving,
            "restarts": max(0, self.app.starts - 1),
            "port": self.unit.port,
            "sidecarPort": self.unit.sidecar_port,
        }

    # --- the watch ----------------------------------------------------------------------------------------------------------

    async def _watch(self) -> None:
        await self._become_ready()
        port, health = self.unit.port, self.unit.app.health
        while port is not None:
            self.app.started.clear()
            await self.app.started.wait()
            begun = self._clock.monotonic()
            await self._until_answers(port, health)
            self._output.said(self.label, f"ready again after {self._clock.monotonic() - begun:.1f} s")

    async def _become_ready(self) -> None:
        begun = self._clock.monotonic()
        while True:
            self.why_not = await self._why_not_ready()
            took = self._clock.monotonic() - begun
            if not self.why_not:
                break
            given_up = self.app.starts >= MOST_STARTS and self.app.pid is None
            if not self.hopeless and (given_up or took >= self._ready_within):
                self.hopeless = True
                self._on_hopeless(self)
            await asyncio.sleep(WATCH_EVERY)
        self.ready = True
        self._output.said(self.label, f"ready after {took:.1f} s")
        self._on_ready()

    async def _why_not_ready(self) -> str:
        if self.unit.port is None:
            if self.app.exit_code == 0:
                return ""  # a job that was done at once
            if self.app.uptime < SETTLED_SECONDS:
                return _exits(self.app) or "it was only just started"
            return await self.sidecar.fault()
        return _exits(self.app) or await self.sidecar.fault()

    async def _until_answers(self, port: int, health: str) -> None:
        """At its port; or, if it never listens there, over a link, which its sidecar sees go and come."""
        was_away = False
        while not (await probe("127.0.0.1", port, health, PROBE_SECONDS)).healthy:
            is_away = bool(await self.sidecar.fault())
            if was_away and not is_away:
                return
            was_away = was_away or is_away
            await asyncio.sleep(WATCH_EVERY)


def _exits(app: Kept) -> str:
    if app.pid is not None or app.exit_code is None:
        return ""
    return f"it exits with code {app.exit_code} (started {app.starts} times)"


class Replicas:
    """All that run, in the order in which they were started. `make` raises meshq.settings.BadSettings, ValueError, OSError."""

    def __init__(self, make: Callable[[Unit], Replica]) -> None:
        self._make = make
        self.all: list[Replica] = []

    def add(self, unit: Unit) -> Replica:
        """One that is still to be started. Raises what `make` raises."""
        replica = self._make(unit)
        self.all.append(replica)
        return replica

    def of(self, index: int) -> list[Replica]:
        """Those of the app with this index in the file."""
        return [replica for replica in self.all if replica.unit.index == index]

    async def remove(self, replica: Replica) -> None:
        """Its place is free when this returns. Idempotent."""
        await replica.close()
        with suppress(ValueError):
            self.all.remove(replica)

    async def close(self) -> None:
        for replica in reversed(self.all):
            await replica.close()
