"""Which RabbitMQ and which Redis the tests use, in this order: the ones that the environment names, installed ones, ones
in containers. Installing packages is left to `python -m tests.servers`, which `make test` runs first."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

from tests.servers import rabbitmq, redis
from tests.servers.compose import FILE, compose_cluster
from tests.servers.docker import docker_available, redis_container
from tests.servers.processes import NoServer

RABBITMQ_URL = "MESHQ_TEST_RABBITMQ_URL"
MANAGEMENT_URL = "MESHQ_TEST_MANAGEMENT_URL"
REDIS_URL = "MESHQ_TEST_REDIS_URL"

REDIS_IMAGE = "redis:8"


def _nowhere(server: str, variable: str) -> NoServer:
    return NoServer(
        f"the tests need {server}: install it, start Docker, or point {variable} to one (`make test` can help)"
    )


def rabbitmq_source() -> str | None:
    """Where RabbitMQ would come from, in words; None when there is none."""
    if os.environ.get(RABBITMQ_URL):
        return f"the one that {RABBITMQ_URL} names"
    if script := rabbitmq.installed():
        return f"three nodes from {script}"
    return f"three containers, as {FILE.parent.name}/{FILE.name} has them" if docker_available() else None


def redis_source() -> str | None:
    """Where Redis would come from, in words; None when there is none."""
    if os.environ.get(REDIS_URL):
        return f"the one that {REDIS_URL} names"
    if program := redis.installed():
        return program
    return f"a container of {REDIS_IMAGE}" if docker_available() else None


@contextmanager
def any_rabbitmq() -> Iterator[rabbitmq.Cluster]:
    """The cluster for the tests, healthy. Raises NoServer."""
    if url := os.environ.get(RABBITMQ_URL):
        cluster = rabbitmq.external(url, os.environ.get(MANAGEMENT_URL, ""))
        cluster.wait_healthy()
        yield cluster
    elif script := rabbitmq.installed():
        with rabbitmq.local_cluster(script) as cluster:
            yield cluster
    elif docker_available():
        with compose_cluster() as cluster:
            yield cluster
    else:
        raise _nowhere("RabbitMQ", RABBITMQ_URL)


@contextmanager
def any_redis() -> Iterator[redis.RedisDatabases]:
    """The Redis for the tests, answering. Raises NoServer."""
    if url := os.environ.get(REDIS_URL):
        yield redis.RedisDatabases(url)
    else:
        with own_redis() as server:
            yield server


@contextmanager
def own_redis() -> Iterator[redis.RedisServer]:
    """A Redis that is nobody else's, answering. Raises NoServer."""
    if program := redis.installed():
        with redis.local_redis(program) as server:
            yield server
    elif docker_available():
        with redis_container(REDIS_IMAGE) as server:
            yield server
    else:
        raise _nowhere("Redis", REDIS_URL)
