"""Every case of httpbin_cases sent straight to httpbin and through the mesh, in each of the four ways, on either broker: the
same status, the same end-to-end headers, the same bytes."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.e2e.differential import BadResponse, Case, Way, app_host, compare, exchange
from tests.e2e.httpbin_cases import CASES
from tests.e2e.pods import PATIENCE, Sidecar, environment, mesh
from tests.servers.processes import LOOPBACK, ServerProcess, free_port, listening, wait_for
from tests.servers.rabbitmq import Cluster
from tests.servers.redis import RedisDatabases

VERSION = "0.10.4"
WAYS = [Way.PATH, Way.HOST, Way.PROXY, Way.PORT]


class Mesh(NamedTuple):
    httpbin: int
    port: int
    """Of the calling side's sidecar."""
    intercepted: int
    """The port there that is httpbin's."""


@pytest.fixture(scope="module")
def httpbin(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """The port of a real httpbin, whose generator of random bytes is one for all of its threads."""
    folder = tmp_path_factory.mktemp("httpbin")
    port = free_port()
    options = ["--bind", f"{LOOPBACK}:{port}", "--threads", "8", "--no-control-socket", "--chdir", str(folder)]
    server = ServerProcess(
        [sys.executable, "-m", "gunicorn", *options, "httpbin:app"], folder / "gunicorn.log", environment({})
    )
    server.start()
    try:
        wait_for(lambda: listening(port), PATIENCE, "httpbin")
        yield port
    finally:
        server.stop()


@contextmanager
def on_rabbitmq(httpbin: int, request: pytest.FixtureRequest, folder: Path) -> Iterator[Mesh]:
    cluster: Cluster = request.getfixturevalue("rabbitmq")
    databases: RedisDatabases = request.getfixturevalue("redis_server")
    vhost, intercepted = cluster.new_vhost(), free_port()
    with mesh(cluster.url(vhost), databases.new_database(), folder) as found:
        called = found.sidecar("httpbin", service_version=VERSION, app_port=str(httpbin))
        caller = found.sidecar("caller", intercept=f"{intercepted}=httpbin@0")
        _wait_for_both(caller, called)
        yield Mesh(httpbin, caller.port, intercepted)
    cluster.delete_vhost(vhost)


@contextmanager
def on_embedded(httpbin: int, request: pytest.FixtureRequest, folder: Path) -> Iterator[Mesh]:
    ports = [free_port() for _ in range(7)]
    both = {"MESHQ_BROKER_URL": "embedded:", "MESHQ_REGISTRY_URL": "embedded:"}
    caller = {
        "MESHQ_SERVICE": "caller",
        "MESHQ_SERVICE_VERSION": "1.0.0",
        "MESHQ_PORT": str(ports[0]),
        "MESHQ_ADMIN_PORT": str(ports[1]),
        "MESHQ_DNS_PORT": str(ports[5]),
        "MESHQ_INTERCEPT": f"{ports[2]}=httpbin@0",
    }
    called = {
        "MESHQ_SERVICE": "httpbin",
        "MESHQ_SERVICE_VERSION": VERSION,
        "MESHQ_PORT": str(ports[3]),
        "MESHQ_ADMIN_PORT": str(ports[4]),
        "MESHQ_DNS_PORT": str(ports[6]),
        "MESHQ_APP_PORT": str(httpbin),
    }
    named = {f"CALLED_{name}": value for name, value in (both | called).items()}
    command = [sys.executable, "-m", "tests.e2e.embedded_pair"]
    process = ServerProcess(command, folder / "pair.log", environment(both | caller | named))
    process.start()
    try:
        wait_for(lambda: _calls_pass(ports[0]), PATIENCE, f"a call through {process.log}", poll=0.05)
        yield Mesh(httpbin, ports[0], ports[2])
    finally:
        process.stop()


def _wait_for_both(caller: Sidecar, called: Sidecar) -> None:
    caller.wait_ready()
    called.wait_ready()
    caller.wait(lambda: _calls_pass(caller.port), "httpbin in the caller's picture")


def _calls_pass(port: int) -> bool:
    try:
        host = app_host(Way.HOST, port)
        return exchange(Case("ready", "GET", "/status/200"), Way.HOST, port, host).status == 200
    except (OSError, BadResponse):
        return False


@pytest.fixture(
    scope="module", params=[pytest.param(on_rabbitmq, marks=[pytest.mark.rabbitmq, pytest.mark.redis]), on_embedded]
)
def through(request: pytest.FixtureRequest, httpbin: int, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    with request.param(httpbin, request, tmp_path_factory.mktemp("mesh")) as found:
        yield found


def differences(case: Case, way: Way, through: Mesh) -> list[str]:
    port = through.intercepted if way is Way.PORT else through.port
    host = app_host(way, port)
    try:
        direct = exchange(case, Way.DIRECT, through.httpbin, host)
        meshed = exchange(case, way, port, host)
    except (OSError, BadResponse) as error:
        return [f"{case.name}: {error!r}"]
    return [f"{case.name}: {difference}" for difference in compare(direct, meshed, way)]


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.value)
def test_an_app_and_its_caller_see_no_difference(through: Mesh, way: Way) -> None:
    """One after the other: some cases seed httpbin's generator."""
    assert len(CASES) >= 80
    found = [difference for case in CASES for difference in differences(case, way, through)]
    assert found == [], f"{len(found)} differences:\n" + "\n".join(found)
