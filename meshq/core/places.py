"""Where on the broker a message for a service goes: exchange, routing key, and the queue that it comes to with that."""

from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

from meshq.core import topology
from meshq.core.errors import Problem

Backlog = Callable[[str, str], Problem | None]
"""Service and queue -> what to refuse a message with because more than enough wait there."""


class Place(NamedTuple):
    exchange: str
    key: str
    queue: str


def call_place(topic: str, ordering_key: str) -> Place:
    """Of a waited call."""
    return _keyed(topic, ordering_key) if ordering_key else _call(topic)


def work_place(topic: str, ordering_key: str, delay: int = 0) -> Place:
    """Of a durable call, after `delay` seconds."""
    place = _keyed(topic, ordering_key) if ordering_key else _work(topic)
    if delay:
        return Place(topology.DELAY, topology.delay_key(delay, place.queue), place.queue)
    return place


@lru_cache(maxsize=1024)  # an app sends to the same few again and again
def _call(topic: str) -> Place:
    return Place(topology.CALLS, topology.call_key(topic), topology.call_queue(topic))


@lru_cache(maxsize=1024)
def _work(topic: str) -> Place:
    return Place(topology.CALLS, topology.work_key(topic), topology.work_queue(topic))


def _keyed(topic: str, ordering_key: str) -> Place:
    partition = topology.partition_of(ordering_key)
    return Place(topology.CALLS, topology.key_key(topic, partition), topology.key_queue(topic, partition))
