"""So many simulated sidecars in one process, for tests/bench/registry.py: each registers, renews and follows the picture by an adapter
of its own, over connections of its own (see registry_light.py), as often as meshq_sidecar.membership and .pictures do.

Takes its orders from standard input, a line each, and answers each with a line: `register` and `watch` with their own word when
that is done, `figures` with what happened since they were asked for last, as JSON; `stop` ends it.
"""

import argparse
import asyncio
import gc
import json
import os
import random
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from functools import partial
from typing import Any, TypeVar

import uvloop

from meshq.core.buckets import Bucket
from meshq.core.instances import RENEW_EVERY, Instance, Load, State
from meshq.core.names import Version
from meshq.core.reports import Calls, Report, Work
from meshq.ports import RegistryAway
from meshq_sidecar.pictures import (
    AWAY_FIRST,
    AWAY_MOST,
    SNAPSHOT_EVERY,
    SNAPSHOTS_A_SECOND,
    SNAPSHOTS_AT_ONCE,
    WAIT_FOR_CHANGE,
)
from tests.bench.measure import Host
from tests.bench.registry_light import Sharing

T = TypeVar("T")

MESH = "bench"
REGISTERING = 50
"""Registrations of this process under way at once."""
LOOK_EVERY = 0.05
"""Seconds between two looks at how late this process itself is."""


def _report(service: str) -> Report:
    """As of an app that is called and calls two others."""
    handled = random.randrange(1_000_000)
    calls = {f"other-{n}.v1": Calls(handled, handled - 3, 1, 2, 0.04) for n in range(2)}
    return Report({f"{service}.v1": Work(handled * 0.013, handled * 0.0004, handled, 7)}, calls, {}, 16)


class Figures:
    """Since they were asked for last."""

    def __init__(self) -> None:
        self._begin()

    def _begin(self) -> None:
        self.renew_ms: list[float] = []
        self.late_ms: list[float] = []
        """How late this process was with something that was due: all that it measures is too long by as much."""
        self.seen: list[tuple[int, float]] = []
        """Each time that a watcher had a new picture: its revision, and when, on the clock that all processes share."""
        self.away: Counter[str] = Counter()
        self.snapshots = 0
        self._cpu = time.process_time()

    async def patiently(self, call: Callable[[], Awaitable[T]]) -> T:
        """Again, until it is answered."""
        while True:
            try:
                return await call()
            except RegistryAway as fault:
                self.away[str(fault)] += 1
                await asyncio.sleep(AWAY_FIRST * random.uniform(0.5, 1.5))

    def take(self) -> dict[str, Any]:
        taken = {
            "renewMs": [round(ms, 3) for ms in self.renew_ms],
            "lateMs": [round(ms, 3) for ms in self.late_ms],
            "seen": self.seen,
            "away": self.away,
            "snapshots": self.snapshots,
            "cpu": time.process_time() - self._cpu,
            "rssMb": Host.rss_mb(os.getpid()),
        }
        self._begin()
        return taken


class Sidecar:
    def __init__(self, number: int, services: int, figures: Figures, sharing: Sharing) -> None:
        self._figures = figures
        self._sharing = sharing
        self._instance = described(number, services)
        self._registry = sharing.registry()
        self._generation = 0

    async def register(self) -> None:
        self._generation = await self._figures.patiently(lambda: self._registry.register(self._instance))

    async def keep(self) -> None:
        service, ident = self._instance.service, self._instance.id
        away = AWAY_FIRST
        await asyncio.sleep(random.uniform(0, RENEW_EVERY))
        while True:
            began = time.perf_counter()
            try:
                load = Load(random.randrange(16), 16)
                await self._registry.renew(service, ident, self._generation, load, _report(service))
            except RegistryAway as fault:
                self._figures.away[str(fault)] += 1
                await asyncio.sleep(away * random.uniform(0.5, 1.5))
                away = min(2 * away, AWAY_MOST)
            else:
                self._figures.renew_ms.append((time.perf_counter() - began) * 1000)
                away = AWAY_FIRST
                await asyncio.sleep(RENEW_EVERY * random.uniform(0.9, 1.1))

    async def follow(self) -> None:
        bucket = Bucket(SNAPSHOTS_A_SECOND, SNAPSHOTS_AT_ONCE)
        away = AWAY_FIRST
        await asyncio.sleep(random.uniform(0, RENEW_EVERY))
        revision = self._sharing.give_picture(self._registry)
        every = random.uniform(0, SNAPSHOT_EVERY)  # the first one is not the first of its life
        while True:
            try:
                await self._change(revision, every)
                await asyncio.sleep(bucket.take(time.monotonic()))
                before, revision = revision, (await self._registry.snapshot()).revision
                self._figures.snapshots += 1
                away = AWAY_FIRST
                if revision != before:
                    self._figures.seen.append((revision, time.monotonic()))
            except RegistryAway as fault:
                self._figures.away[str(fault)] += 1
                await asyncio.sleep(away * random.uniform(0.5, 1.5))
                away = min(2 * away, AWAY_MOST)
            every = SNAPSHOT_EVERY * random.uniform(0.8, 1.2)

    async def _change(self, revision: int, seconds: float) -> None:
        """Until there is one, or it is time for a picture anyway."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            if await self._registry.changed(revision, min(WAIT_FOR_CHANGE, left)) != revision:
                return

    async def close(self) -> None:
        await self._registry.close()


def described(number: int, services: int) -> Instance:
    """As a sidecar in a pod describes itself."""
    version = Version(2, number % 3, 0)
    service = f"service-{number % services}"
    return Instance(
        service,
        f"{service}-6d4cf56db6-{number:05d}",
        version,
        (version.major,),
        State.READY,
        f"10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}",
        {"zone": f"zone-{number % 3}", "node": f"node-{number % 200}", "commit": f"{number:040x}"},
        Load(0, 16),
        endpoints={"http": f"10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}:8080"},
    )


class Simulation:
    def __init__(self, url: str, numbers: Iterable[int], services: int, light: bool) -> None:
        self.figures = Figures()
        self._sharing = Sharing(url, MESH, light)
        self._sidecars = [Sidecar(number, services, self.figures, self._sharing) for number in numbers]
        self._tasks: set[asyncio.Task[None]] = set()

    async def register(self) -> None:
        waiting = list(self._sidecars)

        async def some() -> None:
            while waiting:
                sidecar = waiting.pop()
                await sidecar.register()
                self._start(sidecar.keep())

        await asyncio.gather(*(some() for _ in range(REGISTERING)))
        self._start(self._look())

    async def watch(self) -> None:
        await self.figures.patiently(self._sharing.take_picture)
        for sidecar in self._sidecars:
            self._start(sidecar.follow())
        # Half a million objects that stay: looking through them for garbage stops this process for a good part of a second.
        gc.collect()
        gc.freeze()

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._sharing.close()
        for sidecar in self._sidecars:
            await sidecar.close()

    async def _look(self) -> None:
        clock = asyncio.get_running_loop().time
        while True:
            due = clock() + LOOK_EVERY
            await asyncio.sleep(LOOK_EVERY)
            late = clock() - due
            while late > 0:  # whoever is late misses looks that would have been late too
                self.figures.late_ms.append(late * 1000)
                late -= LOOK_EVERY

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: "asyncio.Task[None]") -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            asyncio.get_running_loop().call_exception_handler({"message": "ended", "exception": task.exception()})
            os._exit(1)


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url")
    parser.add_argument("--first", type=int, required=True)
    parser.add_argument("--count", type=int, required=True)
    parser.add_argument("--services", type=int, required=True)
    parser.add_argument("--library", action="store_true", help="over connections of the Redis library")
    arguments = parser.parse_args()
    numbers = range(arguments.first, arguments.first + arguments.count)
    simulation = Simulation(arguments.url, numbers, arguments.services, not arguments.library)
    orders = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(partial(asyncio.StreamReaderProtocol, orders), sys.stdin)
    print("ready", flush=True)
    while order := (await orders.readline()).decode().strip():
        if order == "register":
            await simulation.register()
        elif order == "watch":
            await simulation.watch()
        elif order == "stop":
            break
        print(json.dumps(simulation.figures.take()) if order == "figures" else order, flush=True)
    await simulation.stop()


if __name__ == "__main__":
    uvloop.run(main())
