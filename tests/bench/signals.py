"""`make bench-signals`: what one look of `meshq signals` takes at a mesh of 1,000 topics, and where the time goes.

The real sampler, adapter of the management API and registry; a small HTTP server answers like the management API, 3,000 queues; Redis
has 1,000 services of three instances each, which report anew before each look. Every topic has a quarter of an hour behind it, as all
have in a mesh that runs: decisions remember that much.

--profile prints the functions that one look spends most in.
"""

import argparse
import asyncio
import cProfile
import json
import pstats
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from statistics import median
from typing import Any, NamedTuple

import uvloop

from meshq.adapters.clock import SystemClock
from meshq.adapters.rabbit_stats import RabbitStats
from meshq.adapters.redis import RedisRegistry
from meshq.core import scaling
from meshq.core.instances import Instance, Load, State
from meshq.core.names import parse_version
from meshq.core.reports import Report, Work
from meshq.core.scaling_memory import REMEMBERED, START, Memory
from meshq.core.scaling_values import EVERY, Sample, ScalingPolicy
from meshq.signals.sampler import Sampler
from tests.servers.find import own_redis
from tests.servers.processes import LOOPBACK
from tests.told_http import Told, telling

GOAL = 1.0
"""Seconds."""
INSTANCES = 3
QUEUES = ("call", "work", "dead")
RATE = 40.0
"""Messages a second of each topic."""
SERVICE_SECONDS = 0.05
AT_ONCE = 100
"""Renewals under way."""


class JumpingClock(SystemClock):
    """Real time, of which a part may be skipped."""

    def __init__(self) -> None:
        super().__init__()
        self._skipped = 0.0

    def skip(self, seconds: float) -> None:
        self._skipped += seconds

    def monotonic(self) -> float:
        return super().monotonic() + self._skipped


@dataclass
class Mesh:
    registry: RedisRegistry
    generations: dict[tuple[str, str], int]

    async def renew(self, done: float) -> None:
        """Everybody reports that all of them have handled so many messages of each topic."""
        each = round(done / INSTANCES)
        work = Work(each * SERVICE_SECONDS, each * SERVICE_SECONDS**2, each, 0)
        free = asyncio.Semaphore(AT_ONCE)

        async def one(service: str, ident: str, generation: int) -> None:
            async with free:
                await self.registry.renew(
                    service, ident, generation, Load(1, 16), Report({f"{service}.v1": work}, slots=16)
                )

        async with asyncio.TaskGroup() as group:
            for (service, ident), generation in self.generations.items():
                group.create_task(one(service, ident, generation))


async def registered(registry: RedisRegistry, services: Iterable[str]) -> Mesh:
    version = parse_version("1.2.3")
    found = {
        (service, ident): await registry.register(
            Instance(service, ident, version, (1,), State.READY, f"10.0.0.1:{number}", ttl_ms=600_000)
        )
        for service in services
        for number in range(INSTANCES)
        for ident in [f"{service}-7d9f-{number:06}"]
    }
    return Mesh(registry, found)


def listed(services: Iterable[str], done: float) -> bytes:
    """As the management API lists the queues."""
    rate = {"rate": RATE}
    stats = {"publish": done, "ack": done, "publish_details": rate, "deliver_get_details": rate}
    return json.dumps(
        [
            {
                "name": f"meshq.{service}.v1.{kind}", "state": "running", "leader": "rabbit@a",
                "arguments": {"x-single-active-consumer": False}, "messages_ready": 3, "messages_unacknowledged": 2,
                "consumers": INSTANCES, "message_stats": stats,
            }
            for service in services
            for kind in QUEUES
        ]
    ).encode()  # fmt: skip


def a_quarter_of_an_hour(until: float) -> tuple[Memory, float]:
    """Of one topic, and what was done in it."""
    memory, done = START, 0.0
    for number in range(round(REMEMBERED / EVERY), 0, -1):
        done += RATE * EVERY * (1.2 if number % 7 == 0 else 1.0)
        at = until - number * EVERY
        busy = done * SERVICE_SECONDS
        sample = Sample(
            at, at, 6, 4, 2 * done, at, INSTANCES, INSTANCES, 16.0, busy, busy * SERVICE_SECONDS, round(done)
        )
        memory, _ = scaling.advance(memory, sample, ScalingPolicy())
    return memory, done


def remember(sampler: Sampler, memory: Memory) -> None:
    for row in sampler._table._rows.values():
        for followed in row.followed.values():
            followed.memory = replace(memory)


class TimedSampler(Sampler):
    deciding = 0.0
    """Seconds of the last look, which nothing else of this process runs in."""

    def _decide(self, *seen: Any) -> None:
        begun = time.perf_counter()
        super()._decide(*seen)
        self.deciding = time.perf_counter() - begun


class Look(NamedTuple):
    seconds: float
    deciding: float
    """Of them."""


@contextmanager
def profiled(really: bool) -> Iterator[None]:
    if not really:
        yield
        return
    with cProfile.Profile() as profile:
        yield
    pstats.Stats(profile).sort_stats("cumulative").print_stats(40)


async def measured(url: str, topics: int, looks: int, profile: bool) -> list[Look]:
    services = [f"service-{number}" for number in range(topics)]
    clock, told = JumpingClock(), [b"[]"]
    registry = RedisRegistry(url, "bench")
    try:
        mesh = await registered(registry, services)
        with telling(lambda _: Told(told[0])) as (port, _):
            stats = RabbitStats("amqp://guest:guest@localhost/", f"http://{LOOPBACK}:{port}", clock)
            sampler = TimedSampler(stats.queues, registry, clock)
            memory, done = a_quarter_of_an_hour(clock.monotonic())
            took = []
            for look in range(1 + looks):
                done += RATE * EVERY
                told[0] = listed(services, done)
                await mesh.renew(done)
                clock.skip(EVERY)
                with profiled(profile and look == looks):
                    await sampler.look()
                assert len(sampler.all()) == topics
                assert not sampler.fault, sampler.fault
                assert sampler.pass_seconds is not None
                if look == 0:
                    remember(sampler, memory)
                else:
                    took.append(Look(sampler.pass_seconds, sampler.deciding))
            assert all(signal.decision.desired for signal in sampler.all())
            return took
    finally:
        await registry.close()


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--topics", type=int, default=1000)
    parser.add_argument("--looks", type=int, default=9)
    parser.add_argument("--profile", action="store_true")
    given = parser.parse_args(arguments)
    with own_redis() as redis:
        took = uvloop.run(measured(redis.new_database(), given.topics, given.looks, given.profile))
    seconds = [look.seconds for look in took]
    print(
        f"{given.topics} topics: {median(seconds):.2f} s a look (median of {len(took)}; {min(seconds):.2f} to {max(seconds):.2f}), "
        f"{median(look.deciding for look in took):.2f} s of it deciding; to reach: {GOAL:g} s"
    )
    return 0 if median(seconds) < GOAL else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
