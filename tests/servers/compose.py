"""broker-config/compose.yaml without `docker compose`, which not every machine with Docker has: its services started one by
one, each of its keys that matters done by hand. Ports are free ones instead of the file's."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Self

from ruamel.yaml import YAML
from testcontainers.core.network import Network

from tests.servers.docker import ContainerProcess, container
from tests.servers.management import Management
from tests.servers.processes import LOOPBACK, free_port, listening, wait_for
from tests.servers.rabbitmq import BROKER_CONFIG, START_TIMEOUT, Cluster
from tests.servers.redis import RedisDatabases

FILE = BROKER_CONFIG / "compose.yaml"
USER = PASSWORD = "meshq"
"""As the file's own comment says."""
VHOST = "default"


def load() -> dict[str, Any]:
    found: dict[str, Any] = YAML(typ="safe").load(FILE)
    return found


class Service:
    """A service of the file in a container."""

    def __init__(self, name: str, file: dict[str, Any], network: Network, folder: Path) -> None:
        self.name = name
        self._network = network
        self.spec = file["services"][name]
        self.ports = {int(port.rpartition(":")[2]): free_port() for port in self.spec["ports"]}
        self._container = container(self.spec["image"], self.ports).with_network(network).with_network_aliases(name)
        self._container.with_envs(**self.spec.get("environment", {}))
        self._container.with_kwargs(hostname=self.spec.get("hostname", name))
        if "command" in self.spec:
            self._container.with_command(self.spec["command"])
        self.process = ContainerProcess(self._container)
        for config in self.spec["configs"]:
            source = _written(file["configs"][config["source"]], folder / config["source"])
            self._container.with_volume_mapping(source, config["target"])
        self._volumes: list[str] = []
        for volume in self.spec["volumes"]:
            source, target = volume.split(":")
            self._volumes.append(f"{network.name}-{source}")  # a volume of this run
            self._container.with_volume_mapping(self._volumes[-1], target, "rw")

    def __enter__(self) -> Self:
        self.process.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._container.stop()
        for volume in self._volumes:
            self._container.get_docker_client().client.volumes.get(volume).remove()

    @property
    def network(self) -> Any:
        """The Docker client's own object."""
        return self._container.get_docker_client().client.networks.get(self._network.name)

    @property
    def handle(self) -> Any:
        """The Docker client's own object."""
        return self._container.get_wrapped_container()

    def healthy(self) -> bool:
        """What the file's health check says."""
        return self._container.exec(["sh", "-c", self.spec["healthcheck"]["test"]]).exit_code == 0


def _written(config: dict[str, str], file: Path) -> Path:
    """The file to mount for a `configs` entry."""
    if "file" in config:
        return (FILE.parent / config["file"]).resolve()
    file.write_text(config["content"])
    file.chmod(0o644)
    return file


class ComposeNode:
    """One RabbitMQ of the file."""

    def __init__(self, service: Service) -> None:
        self.name = f"rabbit@{service.spec['hostname']}"
        self.service = service
        self.amqp_port = service.ports[5672]
        self.management_port = service.ports[15672]
        self.prometheus_port = service.ports[15692]
        self._cut = False

    def kill(self) -> None:
        self.service.process.kill()

    def stop(self) -> None:
        self.service.process.stop()

    def start(self) -> None:
        self.service.process.start()

    def pause(self) -> None:
        self.service.handle.pause()

    def resume(self) -> None:
        self.service.handle.reload()
        if self.service.handle.status == "paused":
            self.service.handle.unpause()

    def cut(self) -> None:
        self.service.network.disconnect(self.service.handle)
        self._cut = True

    def mend(self) -> None:
        if self._cut:
            self.service.network.connect(self.service.handle, aliases=[self.service.name])
            self._cut = False

    def ctl(self, *arguments: str) -> str:
        code, output = self.service.handle.exec_run(["rabbitmqctl", *arguments])
        said: str = output.decode(errors="replace")
        if code:
            raise RuntimeError(f"rabbitmqctl {' '.join(arguments)}: {said}")
        return said

    def wait_ready(self, timeout: float = START_TIMEOUT) -> None:
        wait_for(lambda: listening(self.amqp_port) and self.service.healthy(), timeout, f"{self.name} ready", poll=0.5)


@contextmanager
def compose_cluster() -> Iterator[Cluster]:
    """The file's three RabbitMQ nodes, healthy when the body runs."""
    with _network() as (network, folder), ExitStack() as stack:
        file = load()
        for name, service in file["services"].items():
            if name.startswith(
                "rabbitmq-"
            ):  # only the first one's management and metrics ports are published by the file
                ports = {*service["ports"], "15672:15672", "15692:15692"}
                service["ports"] = sorted(ports, key=lambda port: port.count(":"))
        names = [name for name in file["services"] if name.startswith("rabbitmq-")]
        nodes = [ComposeNode(stack.enter_context(Service(name, file, network, folder))) for name in names]
        addresses = [(LOOPBACK, node.amqp_port) for node in nodes]
        management = Management([(LOOPBACK, node.management_port) for node in nodes], USER, PASSWORD)
        cluster = Cluster(nodes, addresses, management, USER, PASSWORD)
        cluster.wait_healthy()
        yield cluster


@contextmanager
def compose_redis() -> Iterator[RedisDatabases]:
    """The file's Redis, healthy when the body runs."""
    with _network() as (network, folder), Service("redis", load(), network, folder) as service:
        wait_for(service.healthy, START_TIMEOUT, "Redis healthy")
        yield RedisDatabases(f"redis://:{PASSWORD}@{LOOPBACK}:{service.ports[6379]}")


@contextmanager
def _network() -> Iterator[tuple[Network, Path]]:
    folder = Path(tempfile.mkdtemp(prefix="meshq-compose-", dir=os.environ.get("TMPDIR", "/tmp")))
    try:
        with Network() as network:
            yield network, folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
