"""Whether the broker's word for who published a message (`user_id`) also says that this user was allowed to send it here.

RabbitMQ holds a publication against the user's topic permissions at the one exchange it is published to. Whoever may declare
queues and exchanges of its own, as every service must, and may publish anything to a shared exchange, can bring it any message
past them: from a queue of its own that has the shared exchange for its dead letters, or from an exchange of its own that is
bound to it or has it for its alternate. The broker has no right that forbids this (tried on 3.10 and 4.0), but it shows: such a
message was published to a foreign exchange, or has lain in a foreign queue. What went the delay levels' way is no such message.

On RabbitMQ 3 the record of where a message has lain (`x-death`) is believed if a client makes it up, so there a service can hide
one of these ways: an exchange of its own that leads into the delay levels. RabbitMQ 4 believes no client.
"""

from pika.spec import BasicProperties

from meshq.adapters.amqp_frames import has_headers
from meshq.core.topology import DELAY, shared

_EXCHANGES = frozenset(["", *(exchange.name for exchange in shared().exchanges)])
_ENCODED = frozenset(name.encode() for name in _EXCHANGES)


def came_straight(queue: str, exchange: bytes, header: bytes) -> bool:
    """`exchange` is that of the delivery, `header` its content header frame's payload."""
    return exchange in _ENCODED and not (has_headers(header) and b"x-death" in header and _strayed(queue, header))


def _strayed(queue: str, header: bytes) -> bool:
    """Whether it has lain, or was published, where another service than the one of `queue` decides."""
    headers = BasicProperties().decode(header[12:]).headers or {}
    deaths = headers.get("x-death")
    own = ".".join(queue.split(".")[:2]) + "."
    return not isinstance(deaths, list) or not all(isinstance(death, dict) and _known(death, own) for death in deaths)


def _known(death: dict[str, object], own: str) -> bool:
    queue, exchange = death.get("queue"), death.get("exchange")
    return isinstance(queue, str) and queue.startswith((f"{DELAY}.", own)) and exchange in _EXCHANGES
