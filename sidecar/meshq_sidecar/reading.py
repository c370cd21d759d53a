"""From a delivery to what is in it."""

from typing import NamedTuple

from meshq.core.message import CONTENT_TYPE, DecodeError, Message, Request, decode
from meshq.core.names import BadName
from meshq.core.selectors import Selector, parse_selector
from meshq.ports import Delivery
from meshq_sidecar.foreign import as_request


class Asked(NamedTuple):
    request: Request
    selector: Selector | None
    """What its receiver has to satisfy."""


def read(delivery: Delivery) -> list[Message]:
    """The records of a delivery; a message of another publisher is one request. Raises DecodeError."""
    return decode(delivery.body) if delivery.content_type == CONTENT_TYPE else [as_request(delivery)]


def asked(message: Message) -> Asked:
    """Raises DecodeError for what is no request, and for a selector that is none."""
    if not isinstance(message, Request):
        raise DecodeError(f"a {type(message).__name__} lies in a queue for requests")
    try:
        return Asked(message, parse_selector(message.selector) if message.selector else None)
    except BadName as error:
        raise DecodeError(f"field s: {error}") from error
