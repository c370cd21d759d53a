"""The sidecar's own image beside an app, as in a pod: one network namespace for the two, servers reached by name."""

import http.client
import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest
from testcontainers.core.container import DockerContainer
from testcontainers.core.image import DockerImage
from testcontainers.core.network import Network

from tests.servers.docker import container
from tests.servers.management import Management
from tests.servers.processes import LOOPBACK, free_port, wait_for

pytestmark = [pytest.mark.docker, pytest.mark.timeout(300)]

ROOT = Path(__file__).parents[2]
APP_PORT, ADMIN_PORT = 8000, 3601
READY_WITHIN = 60


class Pair(NamedTuple):
    sidecar: DockerContainer
    ports: dict[int, int]
    """Those of the app's container, and what leads to them on this machine."""

    def get(self, port: int, path: str) -> tuple[int, http.client.HTTPMessage, bytes]:
        connection = http.client.HTTPConnection(LOOPBACK, self.ports[port], timeout=35)
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            return response.status, response.headers, response.read()
        finally:
            connection.close()

    def ready(self) -> bool:
        try:
            return self.get(ADMIN_PORT, "/readyz")[0] == 200
        except (OSError, http.client.HTTPException):
            return False


class Pairs(NamedTuple):
    orders: Pair
    billing: Pair


@pytest.fixture(scope="module")
def sidecar_image() -> Iterator[str]:
    # The host's network, because a machine's package index may be on it. The cache stays, so a second build is quick.
    build = DockerImage(
        ROOT, tag="meshq-sidecar:test", dockerfile_path="sidecar/Dockerfile", network_mode="host", rm=True
    )
    with build as image:
        yield str(image)


@pytest.fixture(scope="module")
def pairs(sidecar_image: str) -> Iterator[Pairs]:
    """Two apps with a sidecar each, both ready, on a network with RabbitMQ and Redis."""
    with ExitStack() as stack:
        network = stack.enter_context(Network())
        management_port = free_port()
        broker = container("rabbitmq:4-management", {15672: management_port})
        stack.enter_context(broker.with_network(network).with_network_aliases("rabbitmq"))
        stack.enter_context(container("redis:8").with_network(network).with_network_aliases("redis"))
        management = Management([(LOOPBACK, management_port)])
        wait_for(lambda: management.answers("health/checks/port-listener/5672"), READY_WITHIN, "RabbitMQ")
        pairs = Pairs(*(stack.enter_context(_pair(name, sidecar_image, network)) for name in Pairs._fields))
        for pair in pairs:
            _wait_ready(pair)
        yield pairs


@contextmanager
def _pair(service: str, image: str, network: Network) -> Iterator[Pair]:
    ports = {APP_PORT: free_port(), ADMIN_PORT: free_port()}
    app = container("python:3.13-slim", ports).with_network(network).with_env("SERVICE", service)
    app.with_volume_mapping(Path(__file__).with_name("container_app.py"), "/app.py").with_command("python3 -u /app.py")
    with app:
        sidecar = DockerContainer(image).with_envs(
            MESHQ_SERVICE=service,
            MESHQ_SERVICE_VERSION="1.2.3",
            MESHQ_APP_PORT=str(APP_PORT),
            MESHQ_BROKER_URL="amqp://guest:guest@rabbitmq:5672/%2F",
            MESHQ_REGISTRY_URL="redis://redis:6379",
        )
        # As examples/kubernetes/pod.yaml has it.
        sidecar.with_kwargs(
            network_mode=f"container:{app.get_container_id()}",
            read_only=True,
            cap_drop=["ALL"],
            security_opt=["no-new-privileges"],
        )
        with sidecar:
            yield Pair(sidecar, ports)


def _wait_ready(pair: Pair) -> None:
    try:
        wait_for(pair.ready, READY_WITHIN, "the sidecar is ready")
    except TimeoutError as error:
        raise TimeoutError(f"{error}; it says:\n{_logs(pair.sidecar)}") from None


def _logs(running: DockerContainer) -> str:
    out, err = running.get_logs()
    return (out + err).decode(errors="replace")[-2000:]


@pytest.mark.parametrize(("caller", "called"), [("orders", "billing"), ("billing", "orders")])
def test_an_app_calls_the_other_through_its_sidecar(pairs: Pairs, caller: str, called: str) -> None:
    from_pair: Pair = getattr(pairs, caller)
    status, headers, body = from_pair.get(APP_PORT, f"/relay/{called}@1/hello?name=Ann")
    assert status == 200, (body, _logs(from_pair.sidecar))
    answer = json.loads(body)
    assert answer["service"] == called
    assert answer["path"] == "/hello?name=Ann"
    assert headers["Meshq-Served-By"].startswith(f"{called}/1.2.3/")


def test_a_service_that_nobody_knows_is_unknown(pairs: Pairs) -> None:
    status, headers, _ = pairs.orders.get(APP_PORT, "/relay/nobody/hello")
    assert (status, headers["Meshq-Error"]) == (404, "unknown-service")


def test_the_sidecars_image_is_locked_down(pairs: Pairs) -> None:
    sidecar = pairs.orders.sidecar
    assert sidecar.exec(["id", "-u"]).output.strip() == b"65532"
    assert sidecar.exec(["python", "-m", "pip", "--version"]).exit_code == 1


def test_the_image_knows_that_the_sidecar_is_healthy(pairs: Pairs) -> None:
    check = pairs.orders.sidecar.get_wrapped_container().attrs["Config"]["Healthcheck"]["Test"]
    assert pairs.orders.sidecar.exec(check[1:]).exit_code == 0


def test_a_stopped_sidecar_ends_by_itself_with_success(pairs: Pairs) -> None:
    sidecar = pairs.billing.sidecar.get_wrapped_container()
    sidecar.stop(timeout=30)
    try:
        assert sidecar.wait()["StatusCode"] == 0, _logs(pairs.billing.sidecar)
    finally:
        sidecar.start()
        _wait_ready(pairs.billing)
