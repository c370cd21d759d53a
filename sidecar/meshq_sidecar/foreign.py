"""A message that meshq did not make, from some other publisher on the same broker, as a request to the app: `POST /` with
the body as it is and the properties as headers."""

import re
from itertools import count
from secrets import token_hex

from meshq.core.http import Headers
from meshq.core.message import Request, is_id
from meshq.ports import Delivery

_TOKEN = re.compile(r"[A-Za-z0-9-]{1,100}", re.ASCII)
_UNCLEAN = re.compile(r"[^\x20-\x7e]")
MAX_HEADERS = 100

_count = count(1)
_run = token_hex(6)
"""Of this process: the app takes an id that it has seen for a repetition."""


def as_request(delivery: Delivery) -> Request:
    """Its id is the message's own where that can be one. Fields: `Content-Type` and `Content-Encoding`, `Amqp-<Property>` for
    the other properties, and the header table's entries under their own names where these are names of a header."""
    properties = delivery.properties()
    headers: Headers = []
    for name, value in properties.items():
        if name != "headers":
            shown = name if name.startswith("content_") else f"amqp_{name}"
            headers.append((shown.replace("_", "-").title().encode(), _value(value)))
    table = properties.get("headers")
    for name, value in table.items() if isinstance(table, dict) else ():
        lowered = str(name).lower()
        if _TOKEN.fullmatch(lowered) and not lowered.startswith("meshq-") and len(headers) < MAX_HEADERS:
            headers.append((str(name).encode(), _value(value)))
    ident = delivery.message_id if is_id(delivery.message_id) else f"foreign-{_run}-{next(_count)}"
    return Request(ident, "POST", b"/", [(b"Host", b"localhost"), *headers], delivery.body, "")


def _value(value: object) -> bytes:
    text = value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
    return _UNCLEAN.sub("?", text)[:8000].encode()
