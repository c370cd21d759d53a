"""Processes, their CPU time and memory, and one client's run over them.

A client is a process that prints `measuring` when what counts begins, and then its figures as one line of JSON:
`{"calls","seconds","cpu","p50_ms","p99_ms"}`, calls being messages, cpu its own seconds; no percentiles where nothing waits.
"""

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
    """Messages under way at once."""
    rate: float
    """Messages a second."""
    p50_ms: float | None
    p99_ms: float | None
    """Of what the client waits for: one message, or one batch. None where nobody waits."""
    cpu_ms: dict[str, float]
    """CPU milliseconds a message, by process."""
    rss_mb: dict[str, float]
    steal_percent: float
    """Of the machine's time taken by others on its host: distrust a round with much of it."""
    group: str = "calls"
    """Which floor it is beside: the case `floor` of the same group, concurrency and round."""
    round: int = 0
    extra: dict[str, Any] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    def __str__(self) -> str:
        cpu = " ".join(f"{name} {ms:.3f}" for name, ms in self.cpu_ms.items())
        waited = (
            "" if self.p50_ms is None or self.p99_ms is None else f" p50 {self.p50_ms:.1f} p99 {self.p99_ms:.1f} ms"
        )
        return f"{self.group}/{self.case} at {self.concurrency}: {self.rate:.0f}/s{waited}, cpu ms {cpu}"


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


def run_client(
    case: str, command: Sequence[str], concurrency: int, seconds: float, pids: Mapping[str, int], group: str = "calls"
) -> Sample:
    """Run a closed-loop client process; CPU of `pids` and of the broker over its measured time."""
    with client(*command, "--concurrency", str(concurrency), "--seconds", str(seconds)) as process:
        return measured(process, case, concurrency, pids, group)


@contextmanager
def client(*module: str) -> Iterator["subprocess.Popen[str]"]:
    """`python -m <module>`, which ends by itself unless the body raises."""
    process = subprocess.Popen([sys.executable, "-m", *module], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        yield process
        process.wait(30)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait(10)
        process.stdout.close()


def measured(
    process: "subprocess.Popen[str]",
    case: str,
    concurrency: int,
    pids: Mapping[str, int],
    group: str,
    role: str = "client",
) -> Sample:
    """What a client process (`role` is its name among the CPU figures) says, and the CPU of `pids` and of the broker meanwhile."""
    assert process.stdout is not None
    expect(process, "measuring")
    before = {name: Host.cpu_seconds(pid) for name, pid in pids.items()}
    broker_before = {pid: Host.cpu_seconds(pid) for pid in Host.beams()}
    host_before = Host.times()
    line = process.stdout.readline()
    if not line:
        raise RuntimeError(f"{group}/{case}: the client ended without figures")
    result = json.loads(line)
    after = {name: Host.cpu_seconds(pid) for name, pid in pids.items()}
    # A node starts short-lived helpers of its own; one that ended meanwhile used nothing worth counting.
    broker_used = sum(Host.cpu_seconds(pid) - broker_before[pid] for pid in Host.beams() if pid in broker_before)
    total, stolen = (b - a for a, b in zip(host_before, Host.times(), strict=True))
    calls = result["calls"]
    cpu = {name: (after[name] - before[name]) * 1000 / calls for name in pids}
    cpu |= {role: result["cpu"] * 1000 / calls, "broker": broker_used * 1000 / calls}
    return Sample(
        case,
        concurrency,
        calls / result["seconds"],
        result["p50_ms"],
        result["p99_ms"],
        {name: round(ms, 4) for name, ms in cpu.items()},
        {name: round(Host.rss_mb(pid), 1) for name, pid in pids.items()},
        round(100 * stolen / (total or 1), 1),
        group,
    )


def expect(process: "subprocess.Popen[str]", word: str) -> None:
    """Raises RuntimeError when the next line it prints is another."""
    assert process.stdout is not None
    line = process.stdout.readline().strip()
    if line != word:
        raise RuntimeError(f"the client said {line!r}, not {word!r}")


class Tally:
    """The figures of a client that drains: from the first message to the `count`-th."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._seen = 0
        self.full = asyncio.Event()

    def add(self, messages: int = 1) -> None:
        if not self._seen:
            self._begun, self._cpu = time.perf_counter(), time.process_time()
            print("measuring", flush=True)
        self._seen += messages
        if self._seen >= self._count and not self.full.is_set():
            took, cpu = time.perf_counter() - self._begun, time.process_time() - self._cpu
            print(json.dumps(_figures(self._seen, took, cpu, None, None)), flush=True)
            self.full.set()


def _figures(calls: int, seconds: float, cpu: float, p50_ms: float | None, p99_ms: float | None) -> dict[str, Any]:
    return {"calls": calls, "seconds": seconds, "cpu": cpu, "p50_ms": p50_ms, "p99_ms": p99_ms}


async def closed_loop(call: Callable[[], Awaitable[None]], concurrency: int, seconds: float, messages: int = 1) -> None:
    """`concurrency` callers, each with one call at a time; prints `measuring` after warming up, then the figures. `messages` is
    how many there are in a call."""
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
    ended, used = clock() - begun, time.process_time() - cpu
    p50_ms, p99_ms = (took[int(len(took) * part)] * 1000 for part in (0.5, 0.99))
    print(json.dumps(_figures(len(took) * messages, ended, used, p50_ms, p99_ms)), flush=True)


def wait_until(predicate: Callable[[], bool], what: str) -> float:
    """Seconds until it held."""
    begun = time.perf_counter()
    wait_for(predicate, 30, what, poll=0.01)
    return time.perf_counter() - begun
