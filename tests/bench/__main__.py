"""`make bench`: waited calls side by side in one run: raw pika request-reply (the floor), the mesh through two sidecars with
HTTP on both ends and, with --peers, the other frameworks' harness. On a three-node RabbitMQ cluster and Redis of its own.

Rates mean something only beside the floor of their own round: rounds are shuffled, medians are of ratios. Prints a table
and writes JSON to tests/bench/results/.
"""

import argparse
import json
import random
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tests.bench import mesh, peers, report
from tests.bench.measure import Host, Sample, run_client
from tests.servers import rabbitmq, redis
from tests.servers.processes import NoServer
from tests.servers.rabbitmq import Cluster

RESULTS = Path(__file__).parent / "results"
CONCURRENCIES = (1, 32)


def main() -> int:
    arguments = _arguments()
    script, redis_program = rabbitmq.installed(), redis.installed()
    if script is None or redis_program is None:
        raise NoServer(
            "the benchmarks need an installed RabbitMQ and Redis, to start nodes of their own: `make test` installs them"
        )
    with rabbitmq.local_cluster(script) as cluster, redis.local_redis(redis_program) as registry:
        samples = _rounds(arguments, cluster, registry.url)
    RESULTS.mkdir(exist_ok=True)
    file = RESULTS / f"calls-{time.strftime('%Y%m%d-%H%M%S')}.json"
    file.write_text(json.dumps([sample.as_json() for sample in samples], indent=1))
    print(report.table(samples))
    print(f"\nwritten to {file.relative_to(Path.cwd()) if file.is_relative_to(Path.cwd()) else file}")
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=5.0, help="measured, after one second of warming up")
    parser.add_argument("--peers", type=Path, help="the folder of the peers' harness")
    parser.add_argument("--only", default="", help="cases whose name contains this, besides the floor")
    parser.add_argument("--seed", type=int, default=7)
    return parser.parse_args()


def _rounds(arguments: argparse.Namespace, cluster: Cluster, registry_url: str) -> list[Sample]:
    samples: list[Sample] = []
    with ExitStack() as stack:
        cases: dict[str, Callable[[], Iterator[Sample]]] = {"floor": lambda: _floor(arguments, cluster)}
        if arguments.only in "mesh":
            cases["mesh"] = lambda: _mesh(arguments, cluster, registry_url)
        if arguments.peers:
            harness = stack.enter_context(peers.prepared(arguments.peers, cluster))
            cases |= {name: run for name, run in harness.cases(arguments.seconds).items() if arguments.only in name}
        for number in range(arguments.rounds):
            order = list(cases)
            random.Random(arguments.seed + number).shuffle(order)
            for name in order:
                for sample in cases[name]():
                    sample.round = number
                    samples.append(sample)
                    print(f"round {number + 1}/{arguments.rounds}  {sample}", file=sys.stderr, flush=True)
    return samples


@contextmanager
def _vhost(cluster: Cluster) -> Iterator[str]:
    vhost = cluster.new_vhost()
    try:
        yield _first_node(cluster.url(vhost))
    finally:
        cluster.delete_vhost(vhost)


def _first_node(url: str) -> str:
    """Everybody on the node that leads the queue, as plain pika has it that takes one host (and as the peers have it):
    otherwise the hops between nodes would be compared, which depend on where each happens to connect."""
    login, _, rest = url.partition("@")
    hosts, _, vhost = rest.partition("/")
    return f"{login}@{hosts.split(',')[0]}/{vhost}"


def _floor(arguments: argparse.Namespace, cluster: Cluster) -> Iterator[Sample]:
    with _vhost(cluster) as url, Host.process("tests.bench.floor", "serve", url, says="ready") as server:
        for concurrency in CONCURRENCIES:
            yield run_client(
                "floor", ["tests.bench.floor", "call", url], concurrency, arguments.seconds, {"server": server.pid}
            )


def _mesh(arguments: argparse.Namespace, cluster: Cluster, registry_url: str) -> Iterator[Sample]:
    with _vhost(cluster) as url, mesh.pair(url, registry_url) as pair:
        for concurrency in CONCURRENCIES:
            command = ["tests.bench.http_load", str(pair.port), f"/v1/call/{mesh.SERVICE}@1/echo"]
            sample = run_client("mesh", command, concurrency, arguments.seconds, pair.pids)
            sample.extra |= {"readyAfter": pair.ready_after}
            yield sample


if __name__ == "__main__":
    sys.exit(main())
