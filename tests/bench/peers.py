"""The other frameworks, by their own harness: a folder with `run_peers.py`, which is copied to a scratch place and run there
against our cluster, one round at a time between ours."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from tests.bench.measure import Sample
from tests.servers.rabbitmq import Cluster

QUEUES = "quorum"
VHOST = "/"
"""The only one that the harness knows."""


class Workload(NamedTuple):
    """One of the harness's, and which of its cases stands beside a group of ours."""

    name: str
    peers: tuple[str, ...]
    case: str = ""
    concurrency: int | None = None
    """Messages under way at once; None: as its result says."""


# Moleculer neither publishes with confirms nor drains durably: the library under it stands in.
WORKLOADS = {
    "calls": Workload("w1", ("aiopika_plain", "nameko_rpc", "faststream_rabbit", "moleculer")),
    "durable": Workload("w2", ("aiopika_plain", "nameko_rpc", "faststream_rabbit", "amqplib"), "c32", 32),
    "batch": Workload("w2", ("aiopika_plain", "faststream_rabbit", "amqplib"), "bulk100", 100),
    "drain": Workload("w3", ("aiopika_plain", "nameko_rpc", "faststream_rabbit", "amqplib"), "drain", 1),
}
NAMES = frozenset(peer for workload in WORKLOADS.values() for peer in workload.peers)


class Harness:
    def __init__(self, folder: Path, python: Path, cluster: Cluster) -> None:
        self._folder = folder
        self._env = {
            **os.environ,
            "BENCH_PY": str(python),
            "BENCH_AMQP_PORT": str(cluster.nodes[0].amqp_port),
        }
        self._rounds = 0

    def run(self, group: str, peer: str, seconds: float, count: int) -> Iterator[Sample]:
        """`count` messages are drained, where that is what is done."""
        workload = WORKLOADS[group]
        self._rounds += 1
        out = f"{peer}-{self._rounds}"
        command = [self._env["BENCH_PY"], "run_peers.py", workload.name, "--rounds", "1", "--only", f"{peer}:{QUEUES}"]
        command += ["--secs", str(seconds), "--n", str(count), "--out", out]
        command += ["--cases", workload.case] if workload.case else []
        log = self._folder / "logs" / f"{out}.log"
        log.parent.mkdir(exist_ok=True)
        with log.open("w") as output:
            subprocess.run(command, cwd=self._folder, env=self._env, stdout=output, stderr=output, check=False)
        results = self._folder / "results" / f"{out}.jsonl"
        for line in results.read_text().splitlines() if results.exists() else ():
            row = json.loads(line)
            # It asks the management API at a port of its own choosing and notes "? ..." when nobody is there.
            short = [queue for queue in row.get("degraded", ()) if not queue.startswith("?")]
            if "rate" not in row or short:
                print(f"{peer}: no figure ({row.get('error') or f'members missing in {short}'})", file=sys.stderr)
                continue
            cpu = {**row["cpu_by_role"], "broker": row["broker_cpu_s_per_1k"]}
            yield Sample(
                peer,
                workload.concurrency or row["conc"],
                row["rate"],
                row.get("p50_ms"),
                row.get("p99_ms"),
                cpu,
                row["rss_mb"],
                row["host_steal_pct"],
                group,
            )


@contextmanager
def prepared(source: Path, cluster: Cluster) -> Iterator[Harness]:
    """A scratch copy of the harness with what it needs installed."""
    folder = Path(tempfile.mkdtemp(prefix="meshq-peers-"))
    try:
        shutil.copytree(source, folder, dirs_exist_ok=True, copy_function=shutil.copyfile)
        for each in (folder, *(p for p in folder.rglob("*") if p.is_dir())):
            each.chmod(0o755)
        print("installing the peers", file=sys.stderr)
        subprocess.run([sys.executable, "-m", "venv", folder / "venv"], check=True)
        python = folder / "venv" / "bin" / "python"
        requirements = folder / "requirements.txt"
        subprocess.run([python, "-m", "pip", "install", "--quiet", "-r", requirements], check=True)
        subprocess.run(["npm", "install", "--silent", "--no-audit", "--no-fund"], cwd=folder / "node", check=True)
        yield Harness(folder, python, cluster)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
