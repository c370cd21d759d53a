"""Servers in containers, through testcontainers; every published port is on the loopback address only."""

import functools
import gc
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import docker
from docker.errors import DockerException
from testcontainers.core.container import DockerContainer

from tests.servers.management import Management
from tests.servers.processes import LOOPBACK, free_port, wait_for
from tests.servers.rabbitmq import START_TIMEOUT, Cluster
from tests.servers.redis import RedisServer


@functools.cache
def docker_available() -> bool:
    """Whether a Docker engine answers."""
    with warnings.catch_warnings():
        # Where none does, the client drops its sockets without closing them; they go in the collection below.
        warnings.simplefilter("ignore", ResourceWarning)
        found = _answers()
        gc.collect()
    return found


def _answers() -> bool:
    try:
        client = docker.from_env(timeout=5)
    except DockerException:
        return False
    try:
        return bool(client.ping())
    except DockerException:
        return False
    finally:
        client.close()


def container(image: str, ports: Mapping[int, int] | None = None) -> DockerContainer:
    """A container of `image`, not yet started. `ports` are those in the container and what leads to them on this machine's
    loopback address."""
    made = DockerContainer(image)
    # Not `with_bind_ports`, which takes every address.
    published: dict[str, Any] = {f"{inside}/tcp": (LOOPBACK, outside) for inside, outside in (ports or {}).items()}
    made.ports = published
    return made


@contextmanager
def rabbitmq_container(image: str) -> Iterator[Cluster]:
    """One RabbitMQ from `image`, taking connections when the body runs."""
    amqp, http = free_port(), free_port()
    with container(image, {5672: amqp, 15672: http}):
        management = Management([(LOOPBACK, http)])
        wait_for(lambda: management.answers("health/checks/port-listener/5672"), START_TIMEOUT, f"{image} ready")
        yield Cluster((), [(LOOPBACK, amqp)], management)


class ContainerProcess:
    """A container on fixed ports, driven as a process is."""

    def __init__(self, made: DockerContainer) -> None:
        self.container = made
        self._created = False

    def start(self) -> None:
        if self._created:
            self.container.get_wrapped_container().start()
        else:
            self.container.start()
            self._created = True

    def kill(self) -> None:
        running = self.container.get_wrapped_container()
        running.kill()
        running.wait()

    def stop(self) -> None:
        self.container.get_wrapped_container().stop(timeout=30)

    def pause(self) -> None:
        self.container.get_wrapped_container().pause()

    def resume(self) -> None:
        self.container.get_wrapped_container().unpause()

    def tail(self) -> str:
        return "".join(text.decode(errors="replace") for text in self.container.get_logs())[-2000:]


@contextmanager
def redis_container(image: str) -> Iterator[RedisServer]:
    """A Redis from `image`, without persistence, answering when the body runs."""
    port = free_port()
    process = ContainerProcess(
        container(image, {6379: port}).with_command("redis-server --protected-mode no --save ''")
    )
    server = RedisServer(port, process)
    try:
        server.start()
        yield server
    finally:
        process.container.stop()
