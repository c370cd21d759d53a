"""What every test may ask for. Servers start when the first test asks, once a session, and are gone with it; see
tests/servers/ for where they come from."""

import os
import signal
from collections.abc import Iterator

import pytest
from hypothesis import settings

from tests.servers import find, redis_sets
from tests.servers.docker import docker_available, rabbitmq_container, redis_container
from tests.servers.processes import NoServer
from tests.servers.processes import free_port as find_free_port
from tests.servers.rabbitmq import Cluster
from tests.servers.redis import RedisDatabases, RedisServer

# Fast is the same examples every time, so that a failure in CI is the change's own; deep looks for new ones.
settings.register_profile("fast", max_examples=50, deadline=None, database=None, derandomize=True)
settings.register_profile("deep", max_examples=10_000, deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "fast"))

NO_DOCKER = "no Docker engine answers"


def _without_docker() -> bool:
    """Whether tests in containers are left out: never in CI, where they fail instead."""
    return not os.environ.get("CI") and not docker_available()


def pytest_configure() -> None:
    # A CI that cancels a run sends SIGTERM: end as with Ctrl-C, so that the servers and their data go.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    # A shell's background jobs ignore SIGINT, and so would every program that the tests start and end with it.
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_report_header() -> list[str]:
    return [f"containers: {NO_DOCKER}, so the tests marked `docker` are left out"] if _without_docker() else []


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    long = [item for item in items if item.get_closest_marker("long")]
    if long and not os.environ.get("MESHQ_TEST_LONG"):
        config.hook.pytest_deselected(items=long)
        items[:] = [item for item in items if item not in set(long)]
    docker = [item for item in items if item.get_closest_marker("docker")]
    if docker and _without_docker():
        config.hook.pytest_deselected(items=docker)
        items[:] = [item for item in items if item not in set(docker)]


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("docker") and not docker_available():
        raise NoServer(f"{NO_DOCKER}: start one, so that the tests marked `docker` can run")


# --- the servers ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def rabbitmq() -> Iterator[Cluster]:
    """The RabbitMQ cluster. Tests that break nodes take `fault_cluster`."""
    with find.any_rabbitmq() as cluster:
        yield cluster


@pytest.fixture
def fault_cluster(rabbitmq: Cluster) -> Iterator[Cluster]:
    """Three nodes that the test may kill, stop and pause; healthy again before the next test."""
    if not rabbitmq.nodes:
        raise NoServer(f"tests that break nodes need nodes of their own: run them without {find.RABBITMQ_URL}")
    yield rabbitmq
    rabbitmq.restore()


@pytest.fixture
def vhost(rabbitmq: Cluster) -> Iterator[str]:
    """The name of a new, empty virtual host of this test alone."""
    name = rabbitmq.new_vhost()
    yield name
    rabbitmq.delete_vhost(name)


@pytest.fixture
def broker_url(rabbitmq: Cluster, vhost: str) -> str:
    """All nodes, in a virtual host of this test alone."""
    return rabbitmq.url(vhost)


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisDatabases]:
    """The Redis of this session. Tests that break it take `fault_redis`."""
    with find.any_redis() as server:
        yield server


@pytest.fixture
def redis_url(redis_server: RedisDatabases) -> Iterator[str]:
    """An empty Redis database of this test alone."""
    url = redis_server.new_database()
    yield url
    redis_server.empty(url)


@pytest.fixture
def fault_redis() -> Iterator[RedisServer]:
    """A Redis of this test alone, to kill, stop and start."""
    with find.own_redis() as server:
        yield server


@pytest.fixture(scope="session")
def redis_cluster() -> Iterator[redis_sets.RedisCluster]:
    """A Redis Cluster of three masters."""
    with redis_sets.redis_cluster() as cluster:
        yield cluster


@pytest.fixture(scope="session")
def redis_sentinel() -> Iterator[redis_sets.Sentinel]:
    """A Redis master, a replica and three Sentinels. Tests that break them take `fault_sentinel`."""
    with redis_sets.redis_sentinel() as sentinel:
        yield sentinel


@pytest.fixture
def fault_sentinel() -> Iterator[redis_sets.Sentinel]:
    """The same, of this test alone."""
    with redis_sets.redis_sentinel() as sentinel:
        yield sentinel


@pytest.fixture
def free_port() -> int:
    """A port on the loopback address that nothing listens on."""
    return find_free_port()


# --- other versions of them, in containers -----------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def rabbitmq4() -> Iterator[Cluster]:
    """RabbitMQ 4, one node in a container; for tests marked `docker`."""
    with rabbitmq_container("rabbitmq:4-management") as cluster:
        yield cluster


@pytest.fixture(scope="session")
def rabbitmq3() -> Iterator[Cluster]:
    """RabbitMQ 3, one node in a container; for tests marked `docker`."""
    with rabbitmq_container("rabbitmq:3-management") as cluster:
        yield cluster


@pytest.fixture(scope="session")
def redis8() -> Iterator[RedisDatabases]:
    """Redis 8 in a container; for tests marked `docker`."""
    with redis_container("redis:8") as server:
        yield server
