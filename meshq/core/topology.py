"""What must exist on the broker, as values: exchanges, queues, bindings (DESIGN part 4). The one place that knows names
and arguments; broker-config/definitions.json is held equal to `shared()` by a test, and both adapters declare from here.

Arguments of a queue cannot be changed without deleting it, so they are explicit here even where they repeat a default of
one RabbitMQ version: the default of another may differ (the delivery limit is 20 from 4.0 on, unlimited before).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from zlib import crc32

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

PARTITIONS = 8
"""Queues of what is ordered by key: keys of one partition share a consumer, so this bounds how many instances work at once."""

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


def work_queue(topic: str) -> str:
    return f"meshq.{topic}.work"


def work_key(topic: str) -> str:
    return f"{topic}.work"


def key_queue(topic: str, partition: int) -> str:
    return f"meshq.{topic}.key.{partition}"


def key_key(topic: str, partition: int) -> str:
    return f"{topic}.key.{partition}"


def results_queue(service: str) -> str:
    return f"meshq.{service}.results"


def results_key(service: str) -> str:
    """The routing key on the replies exchange, and the `reply_to` of what is accepted durably."""
    return f"{service}.results"


def subscription_queue(topic: str, name: str) -> str:
    """`topic` is the subscribing service's."""
    return f"meshq.{topic}.on.{name}"


def partition_queue(topic: str, name: str, partition: int) -> str:
    """One of the queues of an `ordered` subscription."""
    return f"meshq.{topic}.on.{name}.k{partition}"


def broadcast_queue(topic: str, name: str, instance: str) -> str:
    return f"meshq.{topic}.on.{name}.{instance}"


def event_key(event_topic: str, partition: int = 0) -> str:
    """The routing key on the events exchange."""
    return f"{event_topic}.{partition}"


def log_queue(event_topic: str) -> str:
    return f"meshq.log.{event_topic}"


def partition_of(key: str) -> int:
    """The partition of an ordering key; 0 for none. The same in every process and version, or order would be lost."""
    return crc32(key.encode()) % PARTITIONS if key else 0


def delay_key(seconds: int, destination: str) -> str:
    """The routing key on the delay exchange that leads to `destination`, a queue name or `event.<event key>`, after `seconds`.
    Raises ValueError beyond MAX_DELAY_SECONDS."""
    if not 0 <= seconds <= MAX_DELAY_SECONDS:
        raise ValueError(f"a delay of {seconds} s is not between 0 and {MAX_DELAY_SECONDS} s")
    return f"{'.'.join(f'{seconds:0{DELAY_LEVELS}b}')}.{destination}"


def delayed_event(event_key: str) -> str:
    """What a delayed event has for its destination."""
    return f"event.{event_key}"


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


def dead(topic: str) -> Topology:
    """The dead letters of a topic: also of an app that only sends, for what the broker refuses for good."""
    queue = _quorum(dead_queue(topic), UNLIMITED_DELIVERIES)
    return Topology(queues=(queue,), bindings=(Binding(DEAD, queue.name, queue.name),))


def service(topic: str, ordered: bool = False) -> Topology:
    """What a service's sidecar declares to receive calls and durable messages, and for what it cannot read. `ordered`: also
    the queues for messages with a key."""
    call = _quorum(call_queue(topic), BACKSTOP_DELIVERIES)
    found = Topology(queues=(call,), bindings=(Binding(CALLS, call.name, call_key(topic)),)) + dead(topic)
    found += _worked(topic, work_queue(topic), [Binding(CALLS, work_queue(topic), work_key(topic))])
    for p in range(PARTITIONS if ordered else 0):
        name = key_queue(topic, p)
        found += _worked(topic, name, [Binding(CALLS, name, key_key(topic, p))], ONE_AT_A_TIME)
    return found


def results(service: str) -> Topology:
    """Where answers to this service's durable messages come in, whatever version sent them."""
    queue = _quorum(results_queue(service), UNLIMITED_DELIVERIES)
    binding = Binding(REPLIES, queue.name, results_key(service))
    return Topology(queues=(queue,), bindings=(binding, _way_back(queue.name, queue.name)))


ONE_AT_A_TIME = ("x-single-active-consumer", True)


def _worked(topic: str, name: str, bindings: Sequence[Binding], *more: tuple[str, str | int]) -> Topology:
    """A queue whose messages are handled at least once: what fails comes back to it through the delay levels, and what
    the broker itself gives up on becomes a dead letter of `topic`. One at a time has no such limit: to keep their order all that
    a consumer holds goes back each time it stops, which counts, and nothing may be buried for that."""
    dead_letters = _lossless_dead_letters(DEAD)
    limit = UNLIMITED_DELIVERIES if ONE_AT_A_TIME in more else BACKSTOP_DELIVERIES
    queue = _quorum(name, limit, *dead_letters, ("x-dead-letter-routing-key", dead_queue(topic)), *more)
    return Topology(queues=(queue,), bindings=(*bindings, _way_back(name, name)))


def _way_back(queue: str, destination: str) -> Binding:
    """Out of the delay levels: each bit of the key is a word, and every one of them is counted, so that no other destination
    that ends like this one comes here."""
    return Binding(RETURN, queue, f"{'*.' * DELAY_LEVELS}{destination}")


def subscription(topic: str, name: str, pattern: str, *, exclusive: bool = False) -> Topology:
    """The queue of a `shared` or `exclusive` subscription of the service behind `topic`. `pattern` is of event topics, as a
    topic exchange takes it: `payments.settled.v1`, `payments.*.v1`, `payments.#.v1`."""
    queue = subscription_queue(topic, name)
    more = (ONE_AT_A_TIME,) if exclusive else ()
    return _worked(topic, queue, _event_bindings(queue, pattern, "*"), *more) + dead(topic)


def ordered_subscription(topic: str, name: str, pattern: str) -> Topology:
    found = dead(topic)
    for p in range(PARTITIONS):
        queue = partition_queue(topic, name, p)
        found += _worked(topic, queue, _event_bindings(queue, pattern, str(p)), ONE_AT_A_TIME)
    return found


def broadcast_subscription(topic: str, name: str, pattern: str, instance: str) -> Topology:
    """Gone with its connection. Its retries come back to it; what is on its way to it when it goes ends in LOST."""
    queue = Queue(broadcast_queue(topic, name, instance), (), durable=False, exclusive=True)
    bindings = [*_event_bindings(queue.name, pattern, "*"), _way_back(queue.name, queue.name)]
    return Topology(queues=(queue,), bindings=tuple(bindings)) + dead(topic)


def replay_subscription(topic: str, name: str) -> Topology:
    """A `replay` subscription is filled by one of its instances, from the log."""
    queue = subscription_queue(topic, name)
    return _worked(topic, queue, ()) + dead(topic)


def _event_bindings(queue: str, pattern: str, partition: str) -> list[Binding]:
    key = f"{pattern}.{partition}"
    return [Binding(EVENTS, queue, key), _way_back(queue, delayed_event(key))]


LOG_AGE = "7D"
LOG_BYTES = 2**30


def log(event_topic: str) -> Topology:
    """The log of an event, kept for replays: a stream, bounded by age and size."""
    arguments = (("x-queue-type", "stream"), ("x-max-age", LOG_AGE), ("x-max-length-bytes", LOG_BYTES))
    queue = Queue(log_queue(event_topic), arguments)
    return Topology(queues=(queue,), bindings=tuple(_event_bindings(queue.name, event_topic, "*")))


def replies(service: str, instance: str, epoch: str) -> Topology:
    """The queue for replies: classic and exclusive, gone with its connection."""
    queue = Queue(reply_queue(service, instance, epoch), (), durable=False, exclusive=True)
    return Topology(queues=(queue,), bindings=(Binding(REPLIES, queue.name, reply_key(service, instance, epoch)),))
