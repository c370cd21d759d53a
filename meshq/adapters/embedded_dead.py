"""Dead-lettering in the embedded broker, by the rules of RabbitMQ's quorum queues: where a message goes that its queue gives
up, and what it then says of its deaths. Cycles are not looked for: nothing that meshq declares makes one."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, NamedTuple

import msgpack

EXPIRED = "expired"
DELIVERY_LIMIT = "delivery_limit"


class DeadLetters(NamedTuple):
    """Where a queue sends what it gives up."""

    exchange: str
    key: str | None
    """None: each message keeps its own."""
    kept: bool
    """At-least-once: what no queue takes there waits until one does. Otherwise it is dropped."""


class Death(NamedTuple):
    """One queue gave a message up for one reason, `times` times."""

    queue: str
    reason: str
    exchange: str
    """Where it had been published to, as `key`."""
    key: str
    at_ms: int
    """The first time, in mesh time."""
    expiration_ms: int | None
    """Its own, which it has no more."""
    times: int = 1


Deaths = tuple[Death, ...]
"""Of one message, the latest first; each pair of queue and reason once."""


def dead_letters(arguments: Mapping[str, str | int]) -> DeadLetters | None:
    """None: what the queue gives up is gone."""
    if "x-dead-letter-exchange" not in arguments:
        return None
    key = arguments.get("x-dead-letter-routing-key")
    kept = arguments.get("x-dead-letter-strategy") == "at-least-once"
    return DeadLetters(str(arguments["x-dead-letter-exchange"]), None if key is None else str(key), kept)


def died(before: Deaths, death: Death) -> Deaths:
    for earlier in before:
        if (earlier.queue, earlier.reason) == (death.queue, death.reason):
            again = earlier._replace(times=earlier.times + 1)
            return (again, *(other for other in before if other is not earlier))
    return (death, *before)


def table(deaths: Deaths) -> list[dict[str, Any]]:
    """The header `x-death`."""
    return [_entry(death) for death in deaths]


def _entry(death: Death) -> dict[str, Any]:
    found = {
        "count": death.times,
        "reason": death.reason,
        "queue": death.queue,
        "time": datetime.fromtimestamp(death.at_ms // 1000, UTC),
        "exchange": death.exchange,
        "routing-keys": [death.key],
    }
    return found if death.expiration_ms is None else {**found, "original-expiration": str(death.expiration_ms)}


def pack(deaths: Deaths) -> bytes | None:
    return msgpack.packb(deaths) if deaths else None


def unpack(packed: bytes | None) -> Deaths:
    return tuple(Death(*fields) for fields in msgpack.unpackb(packed)) if packed else ()
