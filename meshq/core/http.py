"""An HTTP request and response as values: what crosses the mesh, with the framing taken off.

Everything is bytes as it came over the wire. Header names keep the case they were sent in; compare them lower-cased.
"""

from enum import Enum
from typing import NamedTuple

Headers = list[tuple[bytes, bytes]]


class HttpRequest(NamedTuple):
    """One request, whole. `target` is what stood on the request line (origin-form, absolute-form or `*`)."""

    method: bytes
    target: bytes
    headers: Headers
    """Every field as sent, in order, repeated ones repeated; framing fields included."""
    body: bytes | None
    """The body with the transfer coding removed; None when the request had no body framing at all, b"" when it
    declared an empty body. The receiving app sees the same difference."""


class HttpResponse(NamedTuple):
    """One response, whole. The server writes the framing; `headers` are the end-to-end ones."""

    status: int
    headers: Headers
    body: bytes = b""


def header(headers: Headers, name: bytes) -> bytes | None:
    """The value of the first field called `name` (given in lower case), or None."""
    for key, value in headers:
        if key.lower() == name:
            return value
    return None


class Failure(Enum):
    """Why a request to the app has no response."""

    REFUSED = "refused"  # it did not connect: the app never saw the request
    BROKEN = "broken"  # the connection broke, or what came is not HTTP: the outcome is unknown
    TIMEOUT = "timeout"  # no whole response in time: the outcome is unknown
    TOO_LARGE = "too-large"  # the response is over the limit, or has no end
    CANCELLED = "cancelled"  # we stopped waiting


class Failed(NamedTuple):
    failure: Failure
    detail: str
    status: int | None = None
    """Of the response that was TOO_LARGE."""
