"""`make bench`: the mesh beside plain pika (the floor) in one run and, with --peers, beside the other frameworks by their own
harness. On a three-node RabbitMQ cluster and Redis of its own.

Groups of cases: `calls` (waited calls through two sidecars, HTTP on both ends), `durable` (accepting durable calls), `batch`
(accepting events in batches), `drain` (a backlog of events into an app), `results` (a backlog of durable calls, each with a
result), `spool` (beside raw files). `--only durable,drain/mesh` chooses by parts of `group/case`; floors come with their groups.

Rates mean something only beside the floor of their own round: rounds are shuffled, medians are of ratios. Prints tables and
writes JSON to tests/bench/results/.
"""

import argparse
import json
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from urllib.parse import quote

from meshq.core import topology
from tests.bench import durable, mesh, peers, report, spool
from tests.bench.measure import Host, Sample, run_client
from tests.bench.rounds import Bench, Case, chosen, play
from tests.servers import rabbitmq, redis
from tests.servers.definitions import definitions
from tests.servers.processes import NoServer
from tests.servers.rabbitmq import Cluster

RESULTS = Path(__file__).parent / "results"
CONCURRENCIES = (1, 32)
SPOOL = "spool"


def main() -> int:
    arguments = _arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what it started is ended, and its folders removed
    spooled = _spool(arguments)
    samples = _measure(arguments)
    if not samples and not spooled:
        print(f"no case has {arguments.only!r} in its name", file=sys.stderr)
        return 2
    RESULTS.mkdir(exist_ok=True)
    file = RESULTS / f"bench-{time.strftime('%Y%m%d-%H%M%S')}.json"
    rows = [sample.as_json() for sample in samples] + [{"group": SPOOL, **asdict(sample)} for sample in spooled]
    file.write_text(json.dumps(rows, indent=1))
    print(report.tables(samples))
    if spooled:
        print(
            f"\n### The spool beside raw append and fsync (goal {report.SPOOL_GOAL} of raw)\n\n{spool.table(spooled)}"
        )
    print(f"\nwritten to {file.relative_to(Path.cwd()) if file.is_relative_to(Path.cwd()) else file}")
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=5.0, help="measured, after one second of warming up")
    parser.add_argument("--count", type=int, default=20_000, help="messages of a drain, a multiple of 100")
    parser.add_argument("--peers", type=Path, help="the folder of the peers' harness")
    parser.add_argument("--no-peers", action="store_true", help="without them all the same")
    parser.add_argument("--only", default="", help="parts of `group/case`, with commas; floors come with their groups")
    parser.add_argument("--spool-folder", type=Path, help="on the disk to spool to; default: where temporary files go")
    parser.add_argument("--seed", type=int, default=7)
    arguments = parser.parse_args()
    if arguments.count < 1 or arguments.count % durable.BATCH:
        parser.error(f"--count {arguments.count} is not a multiple of {durable.BATCH}")
    return arguments


def _spool(arguments: argparse.Namespace) -> list[spool.Sample]:
    """Before there are servers that write to the same disk."""
    if not chosen([Case(SPOOL, report.OURS, lambda bench: iter(()))], arguments.only):
        return []
    return spool.rounds(arguments.rounds, min(arguments.seconds, 1.0), arguments.spool_folder, arguments.seed)


def _measure(arguments: argparse.Namespace) -> list[Sample]:
    beside = [] if arguments.no_peers or arguments.peers is None else _peers()
    cases = chosen([*CALLS, *durable.CASES, *beside], arguments.only)
    if not cases:
        return []
    with _bench(arguments, cases) as bench:
        return play(cases, bench, arguments.rounds, arguments.seed)


@contextmanager
def _bench(arguments: argparse.Namespace, cases: Sequence[Case]) -> Iterator[Bench]:
    script, redis_program = rabbitmq.installed(), redis.installed()
    if script is None or redis_program is None:
        raise NoServer(
            "the benchmarks need an installed RabbitMQ and Redis, to start nodes of their own: `make test` installs them"
        )
    with ExitStack() as stack:
        cluster = stack.enter_context(rabbitmq.local_cluster(script))
        registry = stack.enter_context(redis.local_redis(redis_program))
        url, harness = "", None
        if any(case in durable.CASES for case in cases):
            vhost, url = stack.enter_context(_vhost(cluster))
            durable.declare(cluster, vhost)
        if any(case.name in peers.NAMES for case in cases):
            _lead_at_home(cluster, peers.VHOST)
            harness = stack.enter_context(peers.prepared(arguments.peers, cluster))
        yield Bench(cluster, registry, url, harness, arguments.seconds, arguments.count)


@contextmanager
def _vhost(cluster: Cluster) -> Iterator[tuple[str, str]]:
    """Its name, and its URL."""
    vhost = cluster.new_vhost()
    try:
        _lead_at_home(cluster, vhost)
        yield vhost, _first_node(cluster.url(vhost))
    finally:
        cluster.delete_vhost(vhost)


def _lead_at_home(cluster: Cluster, vhost: str) -> None:
    """Have queues led by the node that they are declared on, not spread over all as broker-config/ has it."""
    definition = {"pattern": "", "apply-to": "queues", "definition": {"queue-leader-locator": "client-local"}}
    cluster.management.request("PUT", f"policies/{quote(vhost, safe='')}/bench", definition)


def _first_node(url: str) -> str:
    """Everybody on the node that leads the queue, as plain pika has it that takes one host (and as the peers have it):
    otherwise the hops between nodes would be compared, which depend on where each happens to connect."""
    login, _, rest = url.partition("@")
    hosts, _, vhost = rest.partition("/")
    return f"{login}@{hosts.split(',')[0]}/{vhost}"


def _calls_floor(bench: Bench) -> Iterator[Sample]:
    with _vhost(bench.cluster) as (_, url), Host.process("tests.bench.floor", "serve", url, says="ready") as server:
        for concurrency in CONCURRENCIES:
            yield run_client(
                "floor", ["tests.bench.floor", "call", url], concurrency, bench.seconds, {"server": server.pid}
            )


def _calls(bench: Bench) -> Iterator[Sample]:
    with ExitStack() as stack:
        vhost, url = stack.enter_context(_vhost(bench.cluster))
        # As broker-config/ has it: the first sidecar of a mesh without it declares all the delay levels before it is ready.
        bench.cluster.management.import_definitions(vhost, definitions(topology.shared(), vhost))
        pair = stack.enter_context(mesh.pair(url, bench.registry.new_database()))
        for concurrency in CONCURRENCIES:
            command = ["tests.bench.http_load", str(pair.port), f"/v1/call/{mesh.SERVICE}@1/echo"]
            sample = run_client("mesh", command, concurrency, bench.seconds, pair.pids)
            sample.extra |= {"readyAfter": pair.ready_after}
            yield sample


def _sdk_calls(bench: Bench) -> Iterator[Sample]:
    with ExitStack() as stack:
        vhost, url = stack.enter_context(_vhost(bench.cluster))
        bench.cluster.management.import_definitions(vhost, definitions(topology.shared(), vhost))
        pair = stack.enter_context(mesh.sdk_pair(url, bench.registry.new_database()))
        for concurrency in CONCURRENCIES:
            command = ["tests.bench.sdk", "call", f"http://127.0.0.1:{pair.port}"]
            yield run_client(report.SDK, command, concurrency, bench.seconds, pair.pids)


CALLS = (
    Case("calls", "floor", _calls_floor),
    Case("calls", report.OURS, _calls),
    Case("calls", report.SDK, _sdk_calls),
)


def _peers() -> list[Case]:
    return [
        Case(group, peer, partial(_peer, group, peer))
        for group, workload in peers.WORKLOADS.items()
        for peer in workload.peers
    ]


def _peer(group: str, peer: str, bench: Bench) -> Iterator[Sample]:
    assert bench.harness is not None
    return bench.harness.run(group, peer, bench.seconds, bench.count)


if __name__ == "__main__":
    sys.exit(main())
