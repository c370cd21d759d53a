"""`make bench-registry`: a mesh of simulated sidecars on one Redis of its own, by the commands of the registry's own adapter.

In three phases all of them renew every 5 s (+-10 %) with their load: alone; with all of them watching too, while nothing changes;
and while somebody's state changes every few seconds. What is measured: CPU of Redis, how long a renewal takes, how long after a
change each watcher has the new picture, memory of Redis.

The sidecars are simulated in a few processes beside Redis, on the same cores, and what they measure contains what they cost: a
reply waits until its process comes to it. How late they are themselves is therefore measured too, and said beside. To keep that
down, those of one process have a decoder in common, and connections that cost less than the library's (registry_light.py; --library
goes without): every command is sent, and every reply read.

Redis runs on broker-config/redis.conf, with its log of writes on, and with room for all the connections.
"""

import argparse
import asyncio
import contextlib
import json
import resource
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from typing import Any

import redis
import uvloop

from meshq.adapters.redis import RedisRegistry
from meshq.core.instances import Load, State
from meshq.ports import RegistryAway
from tests.bench import registry_report
from tests.bench.measure import Host
from tests.bench.registry_load import MESH, described
from tests.bench.registry_report import Change, Phase, Result, percentile
from tests.servers import redis as servers
from tests.servers.processes import NoServer

RESULTS = Path(__file__).parent / "results"
CONNECTIONS = 2
"""Of one sidecar: one for calls, one that waits for a change."""
SPARE = 500
SETTLE = 6.0
"""Seconds before a phase is measured: longer than between two renewals."""


class Simulation:
    """One process of simulated sidecars."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process

    def order(self, what: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(what + "\n")
        self._process.stdin.flush()

    def answer(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline().strip()
        if not line:
            raise RuntimeError("a simulating process ended before it was told to")
        return line


def order_all(simulations: Sequence[Simulation], what: str) -> list[str]:
    """Returns when all of them answered."""
    for simulation in simulations:
        simulation.order(what)
    return [simulation.answer() for simulation in simulations]


@contextmanager
def simulating(url: str, first: int, count: int, services: int, library: bool) -> Iterator[Simulation]:
    words = ["--first", str(first), "--count", str(count), "--services", str(services), *["--library"] * library]
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.bench.registry_load", url, *words],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    simulation = Simulation(process)
    try:
        if simulation.answer() != "ready":
            raise RuntimeError("a simulating process did not start")
        yield simulation
        simulation.order("stop")
        process.wait(60)
    finally:
        process.kill()
        process.communicate()


# --- measuring --------------------------------------------------------------------------------------------------------------


def measure(arguments: argparse.Namespace) -> Result:
    program = servers.installed()
    if program is None:
        raise NoServer("the benchmark needs an installed Redis, to start one of its own: `make test` installs it")
    with ExitStack() as stack:
        server = stack.enter_context(servers.local_redis(program))
        client = stack.enter_context(redis.Redis.from_url(server.url, socket_timeout=60))
        _prepare(client, arguments.instances)
        empty = client.info("memory")
        shares = [range(arguments.instances)[n :: arguments.processes] for n in range(arguments.processes)]
        firsts = [sum(len(share) for share in shares[:n]) for n in range(len(shares))]
        simulations = [
            stack.enter_context(simulating(server.url, first, len(share), arguments.services, arguments.library))
            for first, share in zip(firsts, shares, strict=True)
        ]
        began = time.monotonic()
        order_all(simulations, "register")
        registered = time.monotonic() - began
        say(f"{arguments.instances} instances registered in {registered:.1f} s")

        def phase(name: str, during: Callable[[], list[Change]] = list) -> Phase:
            found = _phase(name, client, simulations, arguments.seconds, during)
            say(str(found))
            return found

        phases = [phase("renewing")]
        kept = client.info("memory")
        order_all(simulations, "watch")
        phases.append(phase("watching"))
        phases.append(
            phase(
                "changes",
                lambda: uvloop.run(_changes(server.url, arguments.services, arguments.changes, arguments.every)),
            )
        )
        full = client.info("memory")
        return Result(
            arguments.instances,
            arguments.services,
            arguments.processes,
            registered,
            (kept["used_memory_dataset"] - empty["used_memory_dataset"]) / arguments.instances,
            full["used_memory"] / 2**20,
            full["used_memory_rss"] / 2**20,
            full["mem_clients_normal"] / 2**20,
            client.info("clients")["connected_clients"],
            phases,
        )


def _prepare(client: "redis.Redis[bytes]", instances: int) -> None:
    client.config_set("appendonly", "yes")
    limit = max(10_000, CONNECTIONS * instances + SPARE)
    client.config_set("maxclients", limit)


def _phase(
    name: str,
    client: "redis.Redis[bytes]",
    simulations: Sequence[Simulation],
    seconds: float,
    during: Callable[[], list[Change]],
) -> Phase:
    time.sleep(SETTLE)
    order_all(simulations, "figures")
    before, host_before, began = client.info(), Host.times(), time.monotonic()
    changes = during()
    time.sleep(max(0.0, seconds - (time.monotonic() - began)))
    took, after, host_after = time.monotonic() - began, client.info(), Host.times()
    figures: list[dict[str, Any]] = [json.loads(line) for line in order_all(simulations, "figures")]
    total, stolen = (b - a for a, b in zip(host_before, host_after, strict=True))
    renewals = sorted(ms for each in figures for ms in each["renewMs"])
    late = sorted(ms for each in figures for ms in each["lateMs"])
    seen = [(revision, at) for each in figures for revision, at in each["seen"]]
    return Phase(
        name,
        took,
        sum(after[key] - before[key] for key in ("used_cpu_user", "used_cpu_sys")) / took,
        sum(each["cpu"] for each in figures) / took,
        (after["total_commands_processed"] - before["total_commands_processed"]) / took,
        (after["total_net_output_bytes"] - before["total_net_output_bytes"]) / took / 1e6,
        len(renewals) / took,
        percentile(renewals, 50),
        percentile(renewals, 99),
        percentile(late, 50),
        percentile(late, 99),
        sum(each["snapshots"] for each in figures) / took,
        dict(sum((Counter(each["away"]) for each in figures), Counter[str]())),
        100 * stolen / (total or 1),
        [_propagation(change, following, seen) for change, following in pairwise([*changes, None]) if change],
    )


def _propagation(change: Change, following: Change | None, seen: Sequence[tuple[int, float]]) -> list[float]:
    """Milliseconds until each watcher had a picture with this change, sorted; of those that had one before the next change."""
    return sorted(
        (at - change.began) * 1000
        for revision, at in seen
        if revision >= change.revision and (following is None or revision < following.revision)
    )


async def _changes(url: str, services: int, count: int, every: float) -> list[Change]:
    """The state of one more instance changes. One that Redis does not answer in time is left out, and tried again as the next."""
    registry = RedisRegistry(url, MESH)
    one = described(1000 * services, services)
    changes: list[Change] = []
    try:
        generation: int | None = None
        for number in range(count):
            await asyncio.sleep(every)
            with contextlib.suppress(RegistryAway):
                if generation is None or await registry.renew(one.service, one.id, generation, Load()) is None:
                    generation = await registry.register(one)
                    await asyncio.sleep(every)
                before = await registry.changed(-1, 0)
                began = time.monotonic()
                await registry.set_state(one.service, one.id, generation, (State.UNHEALTHY, State.READY)[number % 2])
                revision = await registry.changed(before, 0)
                if revision != before:
                    changes.append(Change(began, revision))
        await asyncio.sleep(every)
        return changes
    finally:
        await registry.close()


# --- the command ------------------------------------------------------------------------------------------------------------


def main() -> None:
    arguments = _arguments()
    _allow_connections(arguments.instances)
    result = measure(arguments)
    RESULTS.mkdir(exist_ok=True)
    file = RESULTS / f"registry-{time.strftime('%Y%m%d-%H%M%S')}.json"
    file.write_text(json.dumps(asdict(result), indent=1))
    print(registry_report.table(result))
    print(f"\nwritten to {file.relative_to(Path.cwd()) if file.is_relative_to(Path.cwd()) else file}")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench.registry", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--instances", type=int, default=5000)
    parser.add_argument("--services", type=int, default=100)
    parser.add_argument("--processes", type=int, default=2, help="that simulate them")
    parser.add_argument("--library", action="store_true", help="simulate over connections of the Redis library")
    parser.add_argument("--seconds", type=float, default=30.0, help="of each phase, at the least")
    parser.add_argument("--changes", type=int, default=8)
    parser.add_argument("--every", type=float, default=8.0, help="seconds between two changes")
    arguments = parser.parse_args()
    if not 1 <= arguments.processes <= arguments.instances:
        parser.error("--processes: each is to simulate one instance at the least")
    return arguments


def _allow_connections(instances: int) -> None:
    """For Redis, which this process starts."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = CONNECTIONS * instances + 2 * SPARE
    if soft < needed:
        if hard not in (resource.RLIM_INFINITY,) and hard < needed:
            raise SystemExit(f"{needed} open files are needed and {hard} are allowed: raise the limit (ulimit -n)")
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))


def say(what: str) -> None:
    print(what, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
