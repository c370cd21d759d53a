"""The other frameworks, by their own harness: a folder with `run_peers.py`, which is copied to a scratch place and run there
against our cluster, one round at a time between ours."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.bench.measure import Sample
from tests.servers.rabbitmq import Cluster

PEERS = ("aiopika_plain", "nameko_rpc", "faststream_rabbit", "moleculer")
QUEUES = "quorum"


class Harness:
    def __init__(self, folder: Path, python: Path, cluster: Cluster) -> None:
        self._folder = folder
        self._env = {
            **os.environ,
            "BENCH_PY": str(python),
            "BENCH_AMQP_PORT": str(cluster.nodes[0].amqp_port),
        }
        self._rounds = 0

    def cases(self, seconds: float) -> dict[str, Callable[[], Iterator[Sample]]]:
        return {peer: lambda peer=peer: self._run(peer, seconds) for peer in PEERS}  # type: ignore[misc]

    def _run(self, peer: str, seconds: float) -> Iterator[Sample]:
        self._rounds += 1
        out = f"{peer}-{self._rounds}"
        command = [self._env["BENCH_PY"], "run_peers.py", "w1", "--rounds", "1", "--only", f"{peer}:{QUEUES}"]
        command += ["--secs", str(seconds), "--out", out]
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
                peer, row["conc"], row["rate"], row["p50_ms"], row["p99_ms"], cpu, row["rss_mb"], row["host_steal_pct"]
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
