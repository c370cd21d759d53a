"""Processes, their CPU time and memory, and one client's run over them."""

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

from tests.servers.processes import wait_for

BODY = json.dumps({"id": 12345, "kind": "order.created", "amount": 129.95, "note": "x" * 189}).encode()
"""256 bytes of JSON."""
WARM_UP = 1.0
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass
class Sample:
    """One case at one concurrency in one round."""

    case: str
    concurrency: int
    rate: float
    """Calls a second."""
    p50_ms: float
    p99_ms: float
    cpu_ms: dict[str, float]
    """CPU milliseconds a call, by process."""
    rss_mb: dict[str, float]
    steal_percent: float
    """Of the machine's time taken by others on its host: distrust a round with much of it."""
    round: int = 0
    extra: dict[str, Any] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    def __str__(self) -> str:
        cpu = " ".join(f"{name} {ms:.3f}" for name, ms in self.cpu_ms.items())
        return f"{self.case} at {self.concurrency}: {self.rate:.0f}/s p50 {self.p50_ms:.1f} p99 {self.p99_ms:.1f} ms, cpu ms {cpu}"


class Host:
    """What /proc says."""

    @staticmethod
    @contextmanager
    def process(
        *module: str, says: str = "", env: Mapping[str, str] | None = None
    ) -> Iterator["subprocess.Popen[str]"]:
        """`python -m <module>`, once it has printed `says`."""
        process = subprocess.Popen(
            [sys.executable, "-m", *module], stdout=subprocess.PIPE, text=True, env={**os.environ, **(env or {})}
        )
        try:
            if says:
                assert process.stdout is not None
                line = process.stdout.readline().strip()
                if line != says:
                    raise RuntimeError(f"{' '.join(module)} said {line!r}, not {says!r}")
            yield process
        finally:
            process.terminate()
            process.wait(10)
            if process.stdout is not None:
                process.stdout.close()

    @staticmethod
    def cpu_seconds(pid: int) -> float:
        with open(f"/proc/{pid}/stat") as stat:
            fields = stat.read().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS

    @staticmethod
    def rss_mb(pid: int) -> float:
        with open(f"/proc/{pid}/status") as status:
            line = next(line for line in status if line.startswith("VmRSS"))
        return int(line.split()[1]) / 1024

    @staticmethod
    def times() -> tuple[int, int]:
        """(all, stolen) in ticks."""
        with open("/proc/stat") as stat:
            fields = [int(x) for x in stat.readline().split()[1:9]]
        return sum(fields), fields[7]

    @staticmethod
    def beams() -> list[int]:
        """The broker's processes: those of Erlang that this process started."""
        found = []
        for entry in os.listdir("/proc"):
            try:
                if entry.isdigit() and "beam.smp" in os.readlink(f"/proc/{entry}/exe") and Host._is_ours(int(entry)):
                    found.append(int(entry))
            except OSError:
                continue
        return found

    @staticmethod
    def _is_ours(pid: int) -> bool:
        while pid > 1:
            if pid == os.getpid():
                return True
            with open(f"/proc/{pid}/stat") as stat:
                pid = int(stat.read().rsplit(")", 1)[1].split()[1])
        return False


def run_client(case: str, command: Sequence[str], concurrency: int, seconds: float, pids: Mapping[str, int]) -> Sample:
    """Run a closed-loop client process; CPU of `pids` and of the broker over its measured time."""
    process = subprocess.Popen(
        [sys.executable, "-m", *command, "--concurrency", str(concurrency), "--seconds", str(seconds)],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    try:
        _expect(process, "measuring")
        before = {name: Host.cpu_seconds(pid) for name, pid in pids.items()}
        broker_before = {pid: Host.cpu_seconds(pid) for pid in Host.beams()}
        host_before = Host.times()
        result = json.loads(process.stdout.readline())
        after = {name: Host.cpu_seconds(pid) for name, pid in pids.items()}
        # A node starts short-lived helpers of its own; one that ended meanwhile used nothing worth counting.
        broker_used = sum(Host.cpu_seconds(pid) - broker_before[pid] for pid in Host.beams() if pid in broker_before)
        total, stolen = (b - a for a, b in zip(host_before, Host.times(), strict=True))
    finally:
        process.wait(30)
        process.stdout.close()
    calls = result["calls"]
    cpu = {name: (after[name] - before[name]) * 1000 / calls for name in pids}
    cpu |= {"client": result["cpu"] * 1000 / calls, "broker": broker_used * 1000 / calls}
    return Sample(
        case,
        concurrency,
        calls / result["seconds"],
        result["p50_ms"],
        result["p99_ms"],
        {name: round(ms, 4) for name, ms in cpu.items()},
        {name: round(Host.rss_mb(pid), 1) for name, pid in pids.items()},
        round(100 * stolen / (total or 1), 1),
    )


def _expect(process: "subprocess.Popen[str]", word: str) -> None:
    assert process.stdout is not None
    line = process.stdout.readline().strip()
    if line != word:
        raise RuntimeError(f"the client said {line!r}, not {word!r}")


async def closed_loop(call: Callable[[], Awaitable[None]], concurrency: int, seconds: float) -> None:
    """`concurrency` callers, each with one call at a time; prints `measuring` after warming up, then the figures."""
    clock = time.perf_counter

    async def caller(end: float, took: list[float]) -> None:
        while (begun := clock()) < end:
            await call()
            took.append(clock() - begun)

    async def all_until(end: float) -> list[float]:
        took: list[float] = []
        await asyncio.gather(*(caller(end, took) for _ in range(concurrency)))
        return took

    await all_until(clock() + WARM_UP)
    print("measuring", flush=True)
    cpu, begun = time.process_time(), clock()
    took = sorted(await all_until(begun + seconds))
    figures = {
        "calls": len(took),
        "seconds": clock() - begun,
        "cpu": time.process_time() - cpu,
        "p50_ms": took[len(took) // 2] * 1000,
        "p99_ms": took[int(len(took) * 0.99)] * 1000,
    }
    print(json.dumps(figures), flush=True)


def wait_until(predicate: Callable[[], bool], what: str) -> float:
    """Seconds until it held."""
    begun = time.perf_counter()
    wait_for(predicate, 30, what, poll=0.01)
    return time.perf_counter() - begun
