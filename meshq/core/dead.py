"""Dead letters: why a message is dead, and what lies in a queue of such messages, read.

Three things lie there: the record that a sidecar made (kind "x" of meshq.core.message), the message itself where the broker
gave up on it (more deliveries than its queue allows) or found no queue for it when it came out of the delay levels, and what
cannot be read at all. `read` makes a Letter of each.

The reasons are words that stay the same, for filters and alerts.
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any, NamedTuple

from meshq.core import topology
from meshq.core.message import CONTENT_TYPE, DeadLetter, DecodeError, Message, Request, decode, is_id
from meshq.core.queue_names import delay_destination, delayed_event_topic, destination, read_name

REJECTED = "rejected"
"""The app answered with a 4xx that says that the message is wrong."""
ATTEMPTS = "attempts"
"""Every attempt failed."""
DEADLINE = "deadline"
"""Its deadline passed before it was started."""
UNDECODABLE = "undecodable"
NO_SUCH_VERSION = "no-such-version"
"""No instance that satisfies its selector took it."""
KEY_REUSED = "key-reused"
"""Its idempotency key was used with another body."""
DENIED = "denied"
"""The route policy of its service does not allow its sender."""
UNSENDABLE = "unsendable"
"""The broker refused it for good: a message that came out of its sender's spool, or the result of one that was handled."""
DELIVERY_LIMIT = "delivery-limit"
"""The broker's own limit: sidecars were lost again and again while they had it."""
QUEUE_GONE = "queue-gone"
"""Its queue was deleted while it waited to be tried again, or nobody subscribes to the delayed event."""
LOOP = "loop"
"""It was brought back from the dead letters as often as that may be."""

MAX_REPLAYS = 10
"""How often a message may be brought back, unless somebody insists."""

LOST_TOPIC = "lost"
"""What stands for a topic where the dead letters are those that found no queue (topology.LOST)."""

UNKNOWN_ID = "unknown"
"""What a sidecar writes for the id of a message that it cannot read."""


class Letter(NamedTuple):
    """One dead letter."""

    id: str
    topic: str | None
    """The one whose dead letter it is; None for one in topology.LOST of which that is not known."""
    reason: str
    detail: str
    at_ms: int | None
    """When it died, Unix milliseconds; None: not known."""
    queue: str
    """Where it was or was on its way to: the name of a queue, or `event.<event key>`; "" where that is not known."""
    lies_in: str
    """The queue it lies in now."""
    body: bytes
    """Of the broker message that could not be handled."""
    records: tuple[Message, ...]
    """What is in that; () where it cannot be read."""
    status: int | None = None
    """Of the app's last answer, None where there was none."""
    excerpt: bytes = b""
    """How that answer began."""
    attempts: int | None = None
    """None: not known."""
    served_by: str = ""
    """<service>/<version>/<instance> that gave up on it."""
    sender: str = ""
    """Who sent the message, as far as that was proved."""
    reply_to: str = ""

    @property
    def request(self) -> Request | None:
        """None where it is not one request."""
        first = self.records[0] if len(self.records) == 1 else None
        return first if isinstance(first, Request) else None

    @property
    def instance(self) -> str | None:
        return self.served_by.rpartition("/")[2] or None


def read(
    body: bytes, lies_in: str, content_type: str, ident: str, user: str, reply_to: str, headers: Mapping[str, Any]
) -> Letter:
    """A message found in the queue `lies_in`, by its AMQP properties. Any bytes and headers give a Letter."""
    records, fault = _decoded(body, content_type)
    first = records[0] if len(records) == 1 else None
    if isinstance(first, DeadLetter):
        return _buried(first, lies_in, reply_to)
    letter = Letter(
        _id(ident, records, body), None, UNDECODABLE, fault, None, "", lies_in, body, records, None, b"", None, "",
        user, reply_to,
    )  # fmt: skip
    return _lost(letter, headers) if lies_in == topology.LOST else _given_up(letter, headers)


def _decoded(body: bytes, content_type: str) -> tuple[tuple[Message, ...], str]:
    """The records, or why there are none."""
    if content_type != CONTENT_TYPE:
        return (), f"it was not made by meshq: its content type is {content_type[:100] or 'not said'}"
    try:
        return tuple(decode(body)), ""
    except DecodeError as error:
        return (), str(error)


def _id(ident: str, records: Sequence[Message], body: bytes) -> str:
    """One by which each can be named, whatever it is."""
    if is_id(ident) and ident != UNKNOWN_ID:
        return ident
    return records[0].id if records else f"{UNKNOWN_ID}-{sha256(body).hexdigest()[:12]}"


def _topic_of(queue: str) -> str | None:
    name = read_name(queue)
    return None if name is None else name.topic


def _buried(record: DeadLetter, lies_in: str, reply_to: str) -> Letter:
    """What a sidecar made."""
    try:
        inside = decode(record.body)
    except DecodeError:
        inside = []
    # Of several that travelled together, the one that is dead.
    records = tuple([message for message in inside if message.id == record.id] or inside)
    return Letter(
        _id(record.id, records, record.body),
        _topic_of(lies_in) or _topic_of(record.queue),
        record.reason,
        record.detail,
        record.at_ms or None,
        # What never came to a queue says the routing key that it was sent with.
        destination(record.queue) if record.reason == UNSENDABLE else record.queue,
        lies_in,
        record.body,
        records,
        record.status,
        record.excerpt,
        record.attempts,
        record.instance,
        record.sender,
        reply_to,
    )


def _given_up(letter: Letter, headers: Mapping[str, Any]) -> Letter:
    """What the broker itself moved to the dead letters, says its x-death header."""
    letter = letter._replace(topic=_topic_of(letter.lies_in))
    deaths = _deaths(headers)
    if not deaths:
        return letter._replace(detail=letter.detail or "it lies among the dead letters, and nothing says why")
    last = deaths[0]
    queue, why = str(last.get("queue", "")), str(last.get("reason", ""))
    reason = why.replace("_", "-")
    if reason == DELIVERY_LIMIT:
        detail = "it was delivered as often as the broker allows, and each time the sidecar was lost that had it"
    else:
        detail = f"the broker gave it up: {why}"
    request = letter.request
    attempts = None if request is None else request.attempt
    return letter._replace(
        reason=reason, detail=detail, at_ms=_time(last), queue=queue, attempts=attempts, sender=_first_sender(letter)
    )


def _first_sender(letter: Letter) -> str:
    """A retry was published by the service itself, and says who sent its message."""
    request, service = letter.request, (letter.topic or "").rpartition(".v")[0]
    if request is None or not request.proved_caller or letter.sender != service:
        return letter.sender
    return request.proved_caller


def _lost(letter: Letter, headers: Mapping[str, Any]) -> Letter:
    """What found no queue when it came out of the delay levels; where it was to come out stands in their routing keys."""
    deaths = _deaths(headers)
    queue = _came_out_for(deaths)
    event = delayed_event_topic(queue)
    if event is not None:
        detail = f"nobody subscribed to {event} when the delay of this event was over"
    elif queue:
        detail = f"{queue} was gone when this was to be tried again"
    else:
        detail = "the queue that it was on its way to was gone"
    request = letter.request
    attempts = None if request is None else request.attempt - 1
    return letter._replace(
        topic=event or _topic_of(queue),
        reason=QUEUE_GONE,
        detail=detail,
        at_ms=_time(deaths[0]) if deaths else None,
        queue=queue,
        attempts=attempts,
    )


def _deaths(headers: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """RabbitMQ's x-death header: one entry for each queue and reason, the latest first."""
    deaths = headers.get("x-death")
    return [death for death in deaths if isinstance(death, Mapping)] if isinstance(deaths, list) else []


def _came_out_for(deaths: Sequence[Mapping[str, Any]]) -> str:
    for death in deaths:
        keys = death.get("routing-keys")
        for key in keys if isinstance(keys, list) else ():
            if queue := delay_destination(str(key)):
                return queue
    return ""


def _time(death: Mapping[str, Any]) -> int | None:
    time = death.get("time")
    if isinstance(time, datetime):
        time = time if time.tzinfo is not None else time.replace(tzinfo=UTC)
        return int(time.timestamp() * 1000)
    return time * 1000 if type(time) is int and 0 < time < 2**40 else None
