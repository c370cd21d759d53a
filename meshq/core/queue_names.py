"""Names of queues, read: what a queue is by its name (DESIGN part 4). They are made in meshq.core.topology."""

import re
from typing import NamedTuple

from meshq.core import topology

PREFIX = "meshq."

_BY_TOPIC = re.compile(r"meshq\.(?P<topic>.+?\.v[0-9]+)\.(?P<rest>call|work|dead|key\.[0-9]+|on\..+)", re.ASCII)
_DELAY_KEY = re.compile(rf"(?:[01]\.){{{topology.DELAY_LEVELS}}}(?P<destination>.+)", re.ASCII)
_PARTITION = re.compile(r"k[0-9]", re.ASCII)
_EVENT_KEY = re.compile(r".+\.v[0-9]+\.[0-9]+", re.ASCII)


class QueueName(NamedTuple):
    topic: str | None
    kind: str
    """call work key event results delay dead lost log reply"""


def read_name(queue: str) -> QueueName | None:
    """`meshq.orders.v2.call` -> (`orders.v2`, `call`); None for a queue that is not meshq's."""
    if queue == topology.LOST:
        return QueueName(None, "lost")
    if not queue.startswith(PREFIX):
        return None
    if queue.startswith(f"{topology.DELAY}."):
        return QueueName(None, "delay")
    if queue.startswith("meshq.log."):
        return QueueName(queue.removeprefix("meshq.log."), "log")
    match = _BY_TOPIC.fullmatch(queue)
    if match is not None:
        kind = match["rest"].partition(".")[0]
        return QueueName(match["topic"], "event" if kind == "on" else kind)
    _, _, rest = queue.removeprefix(PREFIX).partition(".")
    if rest == "results":
        return QueueName(None, "results")
    return QueueName(None, "reply") if rest.startswith("reply.") else None


def results_service(queue: str) -> str | None:
    """`meshq.orders.results` -> `orders`; None for another kind of queue."""
    name = read_name(queue)
    if name is None or name.kind != "results":
        return None
    return queue.removeprefix(PREFIX).removesuffix(".results")


def partition(queue: str) -> int | None:
    """`meshq.orders.v2.key.5` -> 5; None for another kind of queue."""
    name = read_name(queue)
    return int(queue.rpartition(".")[2]) if name is not None and name.kind == "key" else None


def is_broadcast(queue: str) -> bool:
    """Whether it is one instance's own queue of a `broadcast` subscription: `meshq.orders.v2.on.audit.orders-7d9f-k3m2qa`."""
    name = read_name(queue)
    if name is None or name.topic is None or name.kind != "event":
        return False
    _, _, part = queue.removeprefix(f"{PREFIX}{name.topic}.on.").partition(".")
    return bool(part) and _PARTITION.fullmatch(part) is None


def delay_destination(key: str) -> str | None:
    """Where a routing key of the delay exchange leads (topology.delay_key): a queue's name or `event.<event key>`; None for a
    key of another exchange."""
    match = _DELAY_KEY.fullmatch(key)
    return None if match is None else match["destination"]


def destination(key: str) -> str:
    """Where a message with this routing key was to go: the name of a queue, or `event.<event key>`."""
    if found := delay_destination(key):
        return found
    return topology.delayed_event(key) if _EVENT_KEY.fullmatch(key) else f"{PREFIX}{key}"


def delayed_event_topic(destination: str) -> str | None:
    """`event.payments.settled.v1.0` -> `payments.settled.v1`: of a delay destination that is an event; None for a queue."""
    if not destination.startswith("event."):
        return None
    return destination.removeprefix("event.").rpartition(".")[0] or None
