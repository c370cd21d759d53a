"""`meshq signals` on a real mesh: a service at zero is woken, worked off and put to sleep; what people and clusters see meanwhile; how
it ends, and what keeps it from starting.

One mesh serves the tests that look. Three replicas of the server look at it: one in this process, which scales a Deployment of
tests/kube_api.py and serves over TLS, and two processes, of which one asks RabbitMQ's management API and one the Prometheus endpoints.
"""

import http.client
import json
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path
from typing import NamedTuple

import pytest
import trustme

from tests.e2e.desk import Desk
from tests.e2e.pods import PATIENCE, Mesh, Sidecar, environment, mesh
from tests.e2e.signals_process import EXTERNAL, Keda, Served, Signals, Stubs, in_a_thread, signals, stubs
from tests.kube_api import KubeApi, serving
from tests.servers.processes import LOOPBACK, ServerProcess, free_port, listening, wait_for
from tests.servers.rabbitmq import Cluster
from tests.servers.redis import RedisDatabases

pytestmark = [pytest.mark.rabbitmq, pytest.mark.redis]

STATUS = [
    "service", "version", "topic", "replicas", "desired", "reason", "ready", "inFlight", "arrivalRate", "serviceSeconds",
    "oldestAgeSeconds", "stale",
]  # fmt: skip
PARKED = 7
"""Messages for a service that nobody starts."""
SCALE = {"min": 0, "max": 5, "wait": "1s", "lead": "1s", "idle": "2s", "stabilization": "2s"}
ASYNC = {"Prefer": "respond-async"}


# --- the scene ----------------------------------------------------------------------------------------------------------------


class Scene(NamedTuple):
    mesh: Mesh
    caller: Sidecar
    desk: Desk
    """That reaches the mesh directly."""
    settings: dict[str, str]
    """Of a server of this mesh, without MESHQ_."""
    cluster: KubeApi
    acts: Served
    https_port: int
    """Of the one that acts, and who vouches for it."""
    trusts: ssl.SSLContext
    asks: Signals
    scrapes: Signals


@pytest.fixture(scope="module")
def stub(tmp_path_factory: pytest.TempPathFactory) -> Stubs:
    return stubs(tmp_path_factory.mktemp("stubs"))


@pytest.fixture(scope="module")
def scene(rabbitmq: Cluster, redis_server: RedisDatabases, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    folder = tmp_path_factory.mktemp("signals")
    vhost, registry = rabbitmq.new_vhost(), redis_server.new_database()
    where = {"broker_url": rabbitmq.url(vhost), "registry_url": registry, "management_url": rabbitmq.management_url}
    api = KubeApi()
    api.add("sleeper", 0)
    with ExitStack() as stack:
        access = stack.enter_context(serving(api, folder))
        found = stack.enter_context(mesh(where["broker_url"], registry, folder / "mesh"))
        desk = Desk(folder, **variables(where))
        fall_asleep(found, desk, folder, "sleeper", "parked")
        caller = found.sidecar("caller").wait_ready()
        for number in range(PARKED):
            assert caller.call("parked", f"/{number}", "POST", ASYNC).status == 202
        trusts, files = certificate(folder)
        direct = {"MESHQ_SIGNALS_DIRECT": "shop/sleeper=sleeper.v1", **files}
        ports = stack.enter_context(in_a_thread(variables(where) | direct, access))
        acts = Served(ports.http)
        wait_for(lambda: acts.leads, PATIENCE, "a leader")
        asks = stack.enter_context(signals(folder / "asks.log", **where))
        urls = rabbitmq.prometheus_urls
        scrapes = stack.enter_context(signals(folder / "scrapes.log", **where, prometheus_urls=urls))
        for each in (asks, scrapes):
            each.wait_ready()
            each.wait(lambda each=each: _is_counted(each), "the counts")  # type: ignore[misc]
        yield Scene(found, caller, desk, where, api, acts, ports.https, trusts, asks, scrapes)
    redis_server.empty(registry)
    rabbitmq.delete_vhost(vhost)


def _is_counted(server: Served) -> bool:
    rows = server.scale()
    return rows["sleeper.v1"]["desired"] == 0 and rows["parked.v1"]["ready"] == PARKED


def variables(settings: dict[str, str]) -> dict[str, str]:
    return {f"MESHQ_{name.upper()}": value for name, value in settings.items()}


def fall_asleep(mesh: Mesh, desk: Desk, folder: Path, *services: str) -> None:
    """They ran once, may be without replicas, and are."""
    pods = [mesh.pod(service) for service in services]
    for pod, service in zip(pods, services, strict=True):
        pod.sidecar.wait_ready()
        file = folder / f"{service}.yaml"
        file.write_text(json.dumps({"service": service, "scale": SCALE}))
        desk.good("route", "set", service, "--file", str(file))
        pod.sidecar.stop()
        pod.app.kill()


def certificate(folder: Path) -> tuple[ssl.SSLContext, dict[str, str]]:
    """A client's trust, and the settings of a server that is worth it."""
    authority = trustme.CA()
    issued = authority.issue_cert("localhost")
    key, cert = folder / "signals.key", folder / "signals.crt"
    issued.private_key_pem.write_to_path(str(key))
    for pem in issued.cert_chain_pems:
        pem.write_to_path(str(cert), append=True)
    trusts = ssl.create_default_context()
    authority.configure_trust(trusts)
    return trusts, {"MESHQ_SIGNALS_CERT": str(cert), "MESHQ_SIGNALS_KEY": str(key)}


# --- what a cluster sees --------------------------------------------------------------------------------------------------------


def test_a_service_at_zero_is_woken_worked_off_and_put_to_sleep(scene: Scene, stub: Stubs) -> None:
    servers = scene.asks, scene.scrapes
    with ExitStack() as stack:
        kedas = [stack.enter_context(closing(Keda(each.grpc_port, stub))) for each in servers]
        streams = [stack.enter_context(keda.stream("sleeper")) for keda in kedas]
        for stream in streams:
            stream.first(False, 0.0)
        assert [keda.desired("sleeper") for keda in kedas] == [0, 0]

        sent_at = time.monotonic()
        assert scene.caller.call("sleeper", "/1", "POST", ASYNC).status == 202
        assert all(stream.first(True, sent_at) - sent_at < 1 for stream in streams)
        assert all(keda.desired("sleeper") >= 1 and keda.is_active("sleeper") for keda in kedas)
        wait_for(lambda: scene.cluster.deployments["sleeper"].replicas == 1, 1, "the Deployment at 1", poll=0.01)

        pod = scene.mesh.pod("sleeper")
        pod.app.wait_handled("/1")
        handled_at = time.monotonic()
        for stream, keda in zip(streams, kedas, strict=True):
            stream.first(False, handled_at)
            assert keda.desired("sleeper") == 0
            assert not keda.is_active("sleeper")
        wait_for(lambda: scene.cluster.deployments["sleeper"].replicas == 0, PATIENCE, "the Deployment at 0")
        pod.kill()


def test_one_of_three_leads_and_all_decide_the_same(scene: Scene) -> None:
    rows = [each.scale()["parked.v1"] for each in (scene.acts, scene.asks, scene.scrapes)]
    assert [each.leads for each in (scene.acts, scene.asks, scene.scrapes)] == [True, False, False]
    assert {(row["desired"], row["replicas"], row["ready"], row["inFlight"]) for row in rows} == {(1, 0, PARKED, 0)}


def test_external_metrics_over_tls(scene: Scene) -> None:
    connection = http.client.HTTPSConnection("localhost", scene.https_port, timeout=PATIENCE, context=scene.trusts)
    with closing(connection):
        connection.request("GET", f"{EXTERNAL}/meshq-waiting-messages?labelSelector=service%3Dparked,version%3D1")
        answer = connection.getresponse()
        (item,) = json.loads(answer.read())["items"]
    assert (answer.status, item["value"], item["metricLabels"]["topic"]) == (200, str(PARKED), "parked.v1")


# --- what people see ------------------------------------------------------------------------------------------------------------


def test_the_same_is_said_by_the_server_by_the_control_api_and_directly(scene: Scene, tmp_path: Path) -> None:
    port = free_port()
    command = [sys.executable, "-m", "meshq", "control", "--port", str(port)]
    control = ServerProcess(command, tmp_path / "control.log", environment(variables(scene.settings)))
    control.start()
    try:
        wait_for(lambda: listening(port), PATIENCE, "the control API")
        ways = [["--signals", scene.asks.url], ["--control", f"http://{LOOPBACK}:{port}"], []]
        with ThreadPoolExecutor() as pool:
            statuses = list(pool.map(lambda way: scene.desk.json("scale", "status", *way), ways))
            explained = list(pool.map(lambda way: scene.desk.json("scale", "explain", "parked@1", *way), ways[:2]))
    finally:
        control.stop()
    for rows in statuses:
        assert [list(row) for row in rows] == [STATUS] * len(rows)
        (parked,) = (row for row in rows if row["topic"] == "parked.v1")
        assert (parked["ready"], parked["replicas"], parked["desired"], parked["stale"]) == (PARKED, 0, 1, False)
    for (row,) in explained:
        assert list(row)[: len(STATUS)] == STATUS
        assert row["terms"]["waiting"] == PARKED
        assert row["policy"]["idle"] == "2s"


def test_what_cannot_be_told_is_said(scene: Scene) -> None:
    nowhere = f"http://{LOOPBACK}:{free_port()}"
    asked = [
        ("explain", "nobody", "--signals", scene.asks.url),
        ("explain", "parked@9", "--signals", scene.asks.url),
        ("status", "--signals", nowhere),
    ]
    with ThreadPoolExecutor() as pool:
        ran = list(pool.map(lambda arguments: scene.desk.run("scale", *arguments), asked))
    assert [done.stdout for done in ran] == [""] * 3
    unknown, other_major, away = ran
    assert (unknown.returncode, unknown.stderr.startswith("meshq: nobody: nothing is known of it")) == (1, True)
    assert (other_major.returncode, other_major.stderr) == (1, "meshq: parked has no major '9': it has parked.v1\n")
    assert (away.returncode, f"meshq signals at {nowhere} cannot be reached" in away.stderr) == (69, True)


# --- how it ends, and what keeps it from starting -------------------------------------------------------------------------------


def test_it_ends_at_once_whoever_is_still_connected(scene: Scene, stub: Stubs, tmp_path: Path) -> None:
    with ExitStack() as stack:
        server = stack.enter_context(signals(tmp_path / "signals.log", **scene.settings)).wait_ready()
        keda = stack.enter_context(closing(Keda(server.grpc_port, stub)))
        stream = stack.enter_context(keda.stream("parked"))
        stream.first(True, 0.0)
        idle = stack.enter_context(closing(http.client.HTTPConnection(LOOPBACK, server.port, timeout=PATIENCE)))
        idle.request("GET", "/metrics")
        idle.getresponse().read()
        half = stack.enter_context(socket.create_connection((LOOPBACK, server.port)))
        half.sendall(b"GET /metrics HTTP/1.1\r\nHost: signals\r\n")
        code, seconds = server.end()
        assert (code, seconds < 2) == (0, True), seconds
        stream.join()
        assert not stream.failed, "KEDA comes back sooner after an end without an error"


def test_a_port_that_is_taken_is_named(scene: Scene, tmp_path: Path) -> None:
    taken = {"--grpc-port": scene.asks.grpc_port, "--http-port": scene.asks.port}
    for option, port in taken.items():
        ports = {"--grpc-port": 0, "--http-port": 0} | {option: port}
        done = started(scene, tmp_path, *(f"{name}={number}" for name, number in ports.items()))
        assert done.returncode == 64
        assert done.stderr.splitlines()[-1].startswith(f"meshq: {option}: port {port}: ")


def test_what_is_not_installed_is_named(scene: Scene, tmp_path: Path) -> None:
    for missing, settings in (("grpc", {}), ("kubernetes", {"MESHQ_SIGNALS_DIRECT": "shop/sleeper=sleeper.v1"})):
        done = started(scene, tmp_path, "--grpc-port=0", "--http-port=0", first=without(missing), **settings)
        assert done.returncode == 64
        assert done.stderr.splitlines()[-1] == f"meshq: {missing} is not installed: pip install 'meshq[signals]'"


def test_a_server_that_cannot_look_any_more_does_not_go_on_serving(scene: Scene, tmp_path: Path) -> None:
    """What it decided last would look like news for ever."""
    done = started(scene, tmp_path, "--grpc-port=0", "--http-port=0", first=BROKEN)
    assert done.returncode == 1
    assert "RuntimeError: nobody expected this" in done.stderr
    assert done.stderr.splitlines()[-1].startswith("meshq: it could not look at the mesh any more")


BROKEN = """
from meshq.adapters.rabbit_stats import RabbitStats
async def queues(self):
    raise RuntimeError("nobody expected this")
RabbitStats.queues = queues
"""


def without(module: str) -> str:
    return f"import sys; sys.modules[{module!r}] = None"


def started(
    scene: Scene, folder: Path, *options: str, first: str = "", **settings: str
) -> "subprocess.CompletedProcess[str]":
    """`meshq signals` that ends by itself, in a process that runs `first` before."""
    words = ["signals", "--listen", LOOPBACK, *options]
    program = f"{first}\nimport sys; sys.argv[1:] = {words!r}\nfrom meshq.__main__ import main; main()"
    env = environment({"MESHQ_LOG_FORMAT": "text", **variables(scene.settings), **settings})
    return subprocess.run(
        [sys.executable, "-c", program],
        cwd=folder,
        env=env,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
