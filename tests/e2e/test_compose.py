"""broker-config/compose.yaml brings up what a mesh needs."""

import pytest
import redis

from meshq.core.topology import shared
from tests.servers.compose import VHOST, compose_cluster, compose_redis, load

pytestmark = [pytest.mark.docker, pytest.mark.timeout(300)]


def test_three_nodes_hold_three_replicas_of_every_shared_queue() -> None:
    with compose_cluster() as cluster:
        nodes = {node["name"] for node in cluster.management.request("GET", "nodes")}
        assert nodes == {node.name for node in cluster.nodes}
        assert len(nodes) == 3
        queues = {queue["name"]: set(queue["members"]) for queue in cluster.management.queues(VHOST)}
        assert queues == {queue.name: nodes for queue in shared().queues}


def test_redis_answers_with_the_password_and_forgets_nothing() -> None:
    with compose_redis() as server, redis.Redis.from_url(server.url) as client:
        assert client.ping()
        kept = client.config_get("maxmemory-policy", "appendonly")
        assert kept == {"maxmemory-policy": "noeviction", "appendonly": "yes"}


def test_everything_listens_on_loopback_only() -> None:
    ports = [port for service in load()["services"].values() for port in service["ports"]]
    assert ports
    assert [port for port in ports if not port.startswith("127.0.0.1:")] == []
