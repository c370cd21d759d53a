"""broker-config/ says what the code expects, and real servers take it."""

import json
from collections.abc import Iterator
from contextlib import contextmanager

import pika
import pytest
from pika.adapters.blocking_connection import BlockingChannel

from meshq.core.topology import shared
from tests.servers import definitions
from tests.servers.rabbitmq import Cluster


def test_the_file_says_what_the_topology_says() -> None:
    assert definitions.FILE.read_text() == definitions.text(), (
        "it differs: run `make definitions` and look at the change"
    )


def test_the_file_names_every_exchange_queue_and_binding_of_the_topology() -> None:
    # A look at the file that does not go through the function which wrote it.
    found = json.loads(definitions.FILE.read_text())
    topology = shared()
    assert [(e["name"], e["type"], e["internal"]) for e in found["exchanges"]] == [
        (e.name, e.kind, e.internal) for e in topology.exchanges
    ]
    assert [(q["name"], tuple(q["arguments"].items())) for q in found["queues"]] == [
        (q.name, q.arguments) for q in topology.queues
    ]
    assert [(b["source"], b["destination"], b["routing_key"]) for b in found["bindings"]] == [
        (b.source, b.destination, b.key) for b in topology.bindings
    ]
    assert {thing["vhost"] for kind in ("exchanges", "queues", "bindings") for thing in found[kind]} == {"default"}


@pytest.mark.rabbitmq
def test_declaring_over_imported_definitions_is_no_conflict(rabbitmq: Cluster, vhost: str) -> None:
    rabbitmq.management.import_definitions(vhost, json.loads(definitions.FILE.read_text()))
    with _channel(rabbitmq, vhost) as channel:
        _declare_shared(channel)
    expected = definitions.definitions(shared(), vhost)
    kept = rabbitmq.management.definitions(vhost)
    assert _sorted(kept["exchanges"]) == _sorted(_without_vhost(expected["exchanges"]))
    assert _sorted(kept["bindings"]) == _sorted(_without_vhost(expected["bindings"]))
    assert {q["name"]: q["arguments"] for q in kept["queues"]} == {
        q["name"]: q["arguments"] for q in expected["queues"]
    }


@contextmanager
def _channel(cluster: Cluster, vhost: str) -> Iterator[BlockingChannel]:
    host, port = cluster.addresses[0]
    credentials = pika.PlainCredentials(cluster.user, cluster.password)
    connection = pika.BlockingConnection(pika.ConnectionParameters(host, port, vhost, credentials))
    try:
        yield connection.channel()
    finally:
        connection.close()


def _declare_shared(channel: BlockingChannel) -> None:
    """What a sidecar may declare; an argument that differs from what is there closes the channel."""
    topology = shared()
    for exchange in topology.exchanges:
        channel.exchange_declare(
            exchange.name, exchange.kind, durable=True, internal=exchange.internal, arguments=dict(exchange.arguments)
        )
    for queue in topology.queues:
        channel.queue_declare(queue.name, durable=queue.durable, arguments=dict(queue.arguments))
    for binding in topology.bindings:
        bind = channel.exchange_bind if binding.to_exchange else channel.queue_bind
        bind(binding.destination, binding.source, binding.key)


def _without_vhost(things: list[dict[str, object]]) -> list[dict[str, object]]:
    return [{name: value for name, value in thing.items() if name != "vhost"} for thing in things]


def _sorted(things: list[dict[str, object]]) -> list[str]:
    return sorted(json.dumps(thing, sort_keys=True) for thing in things)
