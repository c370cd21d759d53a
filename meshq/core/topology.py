"""What must exist on the broker, as values: exchanges, queues, bindings (DESIGN part 4). The one place that knows names
and arguments; broker-config/definitions.json is held equal to `shared()` by a test, and both adapters declare from here.

Arguments of a queue cannot be changed without deleting it, so they are explicit here even where they repeat a default of
one RabbitMQ version: the default of another may differ (the delivery limit is 20 from 4.0 on, unlimited before).
"""

from collections.abc import Iterator
from dataclasses import dataclass

CALLS = "meshq.calls"
EVENTS = "meshq.events"
REPLIES = "meshq.replies"
DEAD = "meshq.dead"
DELAY = "meshq.delay"
RETURN = "meshq.return"
LOST = "meshq.lost"

DELAY_LEVELS = 20
"""Level i waits 2^i seconds, i = 19..0, so the longest delay is 2^20 - 1 s: 12 days and 3 hours."""
MAX_DELAY_SECONDS = 2**DELAY_LEVELS - 1

BACKSTOP_DELIVERIES = 50
"""The broker's own limit on work queues. Our count in the message ends retries long before; this one is for sidecars that
crash while they hold a message, which nobody counts."""
UNLIMITED_DELIVERIES = 1_000_000

Arguments = tuple[tuple[str, str | int], ...]
"""Argument names and values; a tuple, so that the values here are hashable."""


@dataclass(frozen=True, slots=True)
class ExchangeSpec:
    name: str
    kind: str = "topic"
    internal: bool = False
    arguments: Arguments = ()


@dataclass(frozen=True, slots=True)
class Queue:
    name: str
    arguments: Arguments
    durable: bool = True
    exclusive: bool = False


@dataclass(frozen=True, slots=True)
class Binding:
    source: str
    destination: str
    key: str
    to_exchange: bool = False


@dataclass(frozen=True, slots=True)
class Topology:
    exchanges: tuple[ExchangeSpec, ...] = ()
    queues: tuple[Queue, ...] = ()
    bindings: tuple[Binding, ...] = ()

    def __add__(self, other: "Topology") -> "Topology":
        return Topology(
            tuple(dict.fromkeys(self.exchanges + other.exchanges)),
            tuple(dict.fromkeys(self.queues + other.queues)),
            tuple(dict.fromkeys(self.bindings + other.bindings)),
        )


# --- names ----------------------------------------------------------------------------------------------------------------


def call_queue(topic: str) -> str:
    return f"meshq.{topic}.call"


def dead_queue(topic: str) -> str:
    return f"meshq.{topic}.dead"


def reply_queue(service: str, instance: str, epoch: str) -> str:
    return f"meshq.{service}.reply.{instance}.{epoch}"


def reply_key(service: str, instance: str, epoch: str) -> str:
    """The routing key on the replies exchange, and the `reply_to` of what is asked."""
    return f"{service}.{instance}.{epoch}"


def call_key(topic: str) -> str:
    return f"{topic}.call"


# --- kinds of queues --------------------------------------------------------------------------------------------------------


def _quorum(name: str, delivery_limit: int, *more: tuple[str, str | int]) -> Queue:
    return Queue(name, (("x-queue-type", "quorum"), ("x-delivery-limit", delivery_limit), *more))


def _lossless_dead_letters(exchange: str) -> tuple[tuple[str, str | int], ...]:
    # At-least-once dead-lettering silently falls back to at-most-once without reject-publish.
    return (
        ("x-dead-letter-exchange", exchange),
        ("x-dead-letter-strategy", "at-least-once"),
        ("x-overflow", "reject-publish"),
    )


def _delay_exchange(level: int) -> str:
    return DELAY if level == DELAY_LEVELS - 1 else f"{DELAY}.{level}"


def _below(level: int) -> str:
    return _delay_exchange(level - 1) if level else RETURN


# --- what exists ------------------------------------------------------------------------------------------------------------


def base() -> Topology:
    """The exchanges that calls, replies and dead letters need: what every client of the broker looks for first."""
    return Topology(tuple(ExchangeSpec(name) for name in (CALLS, REPLIES, DEAD)))


def shared() -> Topology:
    """The parts that belong to the mesh, not to a service: broker-config/definitions.json."""
    exchanges = [ExchangeSpec(name) for name in (CALLS, EVENTS, REPLIES, DEAD, DELAY)]
    exchanges += [ExchangeSpec(_delay_exchange(i), internal=True) for i in range(DELAY_LEVELS - 2, -1, -1)]
    exchanges.append(ExchangeSpec(RETURN, internal=True, arguments=(("alternate-exchange", LOST),)))
    exchanges.append(ExchangeSpec(LOST, kind="fanout", internal=True))
    queues = [_delay_queue(i) for i in range(DELAY_LEVELS - 1, -1, -1)]
    queues.append(_quorum(LOST, UNLIMITED_DELIVERIES))
    return Topology(tuple(exchanges), tuple(queues), (*_ladder(), Binding(LOST, LOST, "")))


def _delay_queue(level: int) -> Queue:
    ttl = ("x-message-ttl", 2**level * 1000)
    return _quorum(f"{DELAY}.{level}", UNLIMITED_DELIVERIES, ttl, *_lossless_dead_letters(_below(level)))


def _ladder() -> Iterator[Binding]:
    """A routing key into the ladder is 20 bits of seconds, most significant first, each followed by a dot, then the queue to
    come out at. Each level looks at its own bit: 1 waits here, 0 goes straight down."""
    for level in range(DELAY_LEVELS - 1, -1, -1):
        seen = "*." * (DELAY_LEVELS - 1 - level)
        yield Binding(_delay_exchange(level), f"{DELAY}.{level}", f"{seen}1.#")
        yield Binding(_delay_exchange(level), _below(level), f"{seen}0.#", to_exchange=True)


def calls(topic: str) -> Topology:
    """What a service's sidecar declares to receive waited calls, and for what it cannot read."""
    call = _quorum(call_queue(topic), BACKSTOP_DELIVERIES)
    dead = _quorum(dead_queue(topic), UNLIMITED_DELIVERIES)
    return Topology(
        queues=(call, dead),
        bindings=(Binding(CALLS, call.name, call_key(topic)), Binding(DEAD, dead.name, dead.name)),
    )


def replies(service: str, instance: str, epoch: str) -> Topology:
    """The queue for replies: classic and exclusive, gone with its connection."""
    queue = Queue(reply_queue(service, instance, epoch), (), durable=False, exclusive=True)
    return Topology(queues=(queue,), bindings=(Binding(REPLIES, queue.name, reply_key(service, instance, epoch)),))
