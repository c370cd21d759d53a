"""Durable messages beside plain pika on the same three-member quorum queues: accepting them, in ones and in batches, and draining
a queue of them into an app.

All cases use one virtual host, whose queues are purged after each, so floor and mesh write to and read from the very same
queues with the same arguments. What the floor publishes is BODY alone: the envelope is the mesh's own cost.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from subprocess import run
from sys import executable

import pika

from meshq.core import topology
from meshq.core.names import topic
from tests.bench import mesh, report
from tests.bench.measure import Host, Sample, client, measured, run_client, wait_until
from tests.bench.rounds import Bench, Case
from tests.servers.definitions import definitions
from tests.servers.processes import free_port
from tests.servers.rabbitmq import Cluster

EVENT = "bench.happened"
TOPIC = topic(mesh.SERVICE, 1)
WORK = topology.work_queue(TOPIC)
SUBSCRIBED = topology.subscription_queue(TOPIC, "bench")
RESULTS = topology.results_queue(mesh.CALLER)
QUEUES = (WORK, SUBSCRIBED, RESULTS)

CALL_PATH = f"/v1/call/{mesh.SERVICE}@1/work"
EVENT_PATH = f"/v1/publish/{EVENT}"
AT_ONCE = 32
BATCH = 100
POSTERS = (1, 4)
"""Who publish batches, each one at a time: it posts, or publishes on plain pika, the next when all of one is confirmed."""
ACK_EVERY = 50
SDK_CONCURRENCY = "400"
"""Handlers at once: what one event loop has room for, as its app would say."""
FEWER_ACKS = f"floor, {ACK_EVERY} to an ack"
FULL_WINDOW = "floor, its window kept full"
FLOOR = "tests.bench.floor_durable"


def declare(cluster: Cluster, vhost: str) -> None:
    """Every queue, with three members each."""
    declared = topology.shared() + topology.service(TOPIC) + topology.results(mesh.CALLER)
    declared += topology.subscription(TOPIC, "bench", topic(EVENT, 1))
    cluster.management.import_definitions(vhost, definitions(declared, vhost))
    wait_until(partial(_whole, cluster, vhost), "queues with all members, led by the first node")


def _whole(cluster: Cluster, vhost: str) -> bool:
    """RabbitMQ 3.10 can start a queue with a member short, which would then have less to do. Everybody connects to the first
    node, so that one is to lead them."""
    queues = {queue["name"]: queue for queue in cluster.management.queues(vhost)}
    found = [queues.get(name, {}) for name in QUEUES]
    online = all(len(queue.get("online", ())) == len(cluster.nodes) for queue in found)
    return online and all(queue["leader"] == cluster.nodes[0].name for queue in found)


# --- accepting --------------------------------------------------------------------------------------------------------------


def _durable_floor(bench: Bench) -> Iterator[Sample]:
    with _purged(bench):
        yield run_client("floor", [FLOOR, "publish", bench.url, WORK], AT_ONCE, bench.seconds, {}, "durable")


def _durable(bench: Bench) -> Iterator[Sample]:
    with _purged(bench), _sender(_settings(bench)) as sidecar:
        command = ["tests.bench.http_load", str(sidecar.port), CALL_PATH, "--durable"]
        yield run_client("mesh", command, AT_ONCE, bench.seconds, {"sidecar": sidecar.pid}, "durable")


def _batch_floor(bench: Bench) -> Iterator[Sample]:
    for posters in POSTERS:
        with _purged(bench):
            command = [FLOOR, "publish", bench.url, SUBSCRIBED, "--batch", str(BATCH)]
            sample = run_client("floor", command, posters, bench.seconds, {}, "batch")
            sample.concurrency = posters * BATCH
            yield sample


def _full_window(bench: Bench) -> Iterator[Sample]:
    """No goal of ours, but what pika can do: nobody waits for a whole batch."""
    for posters in POSTERS:
        with _purged(bench):
            command = [FLOOR, "publish", bench.url, SUBSCRIBED]
            yield run_client(FULL_WINDOW, command, posters * BATCH, bench.seconds, {}, "batch")


def _batches(bench: Bench) -> Iterator[Sample]:
    for posters in POSTERS:
        with _purged(bench), _sender(_settings(bench)) as sidecar:
            command = ["tests.bench.http_load", str(sidecar.port), EVENT_PATH, "--batch", str(BATCH)]
            sample = run_client("mesh", command, posters, bench.seconds, {"sidecar": sidecar.pid}, "batch")
            sample.concurrency = posters * BATCH
            yield sample


def _sdk_batches(bench: Bench) -> Iterator[Sample]:
    for posters in POSTERS:
        with _purged(bench), _sender(_settings(bench)) as sidecar:
            command = ["tests.bench.sdk", "publish", sidecar.url, "--batch", str(BATCH)]
            sample = run_client(report.SDK, command, posters, bench.seconds, {"sidecar": sidecar.pid}, "batch")
            sample.concurrency = posters * BATCH
            yield sample


def _settings(bench: Bench) -> dict[str, str]:
    """With an empty registry and store."""
    return mesh.mesh_settings(bench.url, bench.registry.new_database())


@contextmanager
def _sender(settings: Mapping[str, str]) -> Iterator[mesh.Sidecar]:
    """A ready sidecar of an app that only sends; nobody consumes what it sends."""
    with mesh.sidecar({**settings, "MESHQ_SERVICE": mesh.CALLER}) as sidecar:
        sidecar.wait_ready()
        yield sidecar


# --- draining ---------------------------------------------------------------------------------------------------------------


def _drain_floor(group: str, case: str, queue: str, more: Sequence[str], bench: Bench) -> Iterator[Sample]:
    with _purged(bench):
        count = ["--count", str(bench.count)]
        _finish([FLOOR, "fill", bench.url, queue, *count])
        with client(FLOOR, "drain", bench.url, queue, *count, *more) as process:
            sample = measured(process, case, 1, {}, group)
        _check_empty(bench, queue)
    yield sample


def _fill(common: Mapping[str, str], load: Sequence[str], bench: Bench) -> None:
    """Messages that a sidecar took from HTTP. It is gone then: results stay in its queue."""
    with _sender(common) as sender:
        _finish(["tests.bench.http_load", str(sender.port), *load, "--durable", "--count", str(bench.count)])


def _sdk_drain(bench: Bench) -> Iterator[Sample]:
    common = _settings(bench)
    with _purged(bench):
        _fill(common, (EVENT_PATH, "--batch", str(BATCH)), bench)
        receiver = {**common, "MESHQ_SERVICE": mesh.SERVICE, "MESHQ_APP_CONCURRENCY": SDK_CONCURRENCY}
        with mesh.sidecar(receiver) as sidecar:
            sidecar.wait_ready()
            count = str(bench.count)
            with Host.process("tests.bench.sdk", "serve", sidecar.url, "--count", count, says="ready") as app:
                sample = measured(app, report.SDK, 1, {"sidecar": sidecar.pid}, "drain", role="app")
                _check_empty(bench, SUBSCRIBED)
    yield sample


def _drain(group: str, queue: str, load: Sequence[str], bench: Bench) -> Iterator[Sample]:
    """Through another sidecar into the app."""
    common = _settings(bench)
    with _purged(bench):
        _fill(common, load, bench)
        port = free_port()
        receiver = {**common, **mesh.app_settings(port), "MESHQ_SUBSCRIBE": f"bench:{EVENT}@1=/on/event"}
        with (
            Host.process("tests.bench.sink", str(port), str(bench.count), says="ready") as app,
            mesh.sidecar(receiver) as sidecar,
        ):
            sample = measured(app, "mesh", 1, {"sidecar": sidecar.pid}, group, role="app")
        _check_empty(bench, queue)
    yield sample


def _finish(command: Sequence[str]) -> None:
    run([executable, "-m", *command], check=True, timeout=300)


# --- the queues -------------------------------------------------------------------------------------------------------------


@contextmanager
def _purged(bench: Bench) -> Iterator[None]:
    """Empty afterwards."""
    try:
        yield
    finally:
        with _channel(bench) as channel:
            for queue in QUEUES:
                channel.queue_purge(queue)


def _check_empty(bench: Bench, queue: str) -> None:
    """All was acknowledged: what a consumer that is gone had not settled would be waiting again."""
    with _channel(bench) as channel:
        wait_until(
            lambda: channel.queue_declare(queue, passive=True).method.message_count == 0,
            f"{queue} empty after the drain",
        )


@contextmanager
def _channel(bench: Bench) -> Iterator["pika.adapters.blocking_connection.BlockingChannel"]:
    connection = pika.BlockingConnection(pika.URLParameters(bench.url))
    try:
        yield connection.channel()
    finally:
        connection.close()


CASES = (
    Case("durable", "floor", _durable_floor),
    Case("durable", "mesh", _durable),
    Case("batch", "floor", _batch_floor),
    Case("batch", FULL_WINDOW, _full_window),
    Case("batch", "mesh", _batches),
    Case("drain", "floor", partial(_drain_floor, "drain", "floor", SUBSCRIBED, ())),
    Case("drain", FEWER_ACKS, partial(_drain_floor, "drain", FEWER_ACKS, SUBSCRIBED, ("--ack-every", str(ACK_EVERY)))),
    Case("batch", report.SDK, _sdk_batches),
    Case("drain", report.SDK, _sdk_drain),
    Case("drain", "mesh", partial(_drain, "drain", SUBSCRIBED, (EVENT_PATH, "--batch", str(BATCH)))),
    Case("results", "floor", partial(_drain_floor, "results", "floor", WORK, ("--results", RESULTS))),
    Case("results", "mesh", partial(_drain, "results", WORK, (CALL_PATH, "--concurrency", str(AT_ONCE)))),
)
