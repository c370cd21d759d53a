"""What the handlers of a service need inside another server, be it ASGI or WSGI: where below its mount a request goes, what leaves as
the answer, and what lies around the first request and the last."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext
from typing import TYPE_CHECKING

from meshq.core.errors import Code
from meshq.core.http import Headers, HttpResponse, header
from meshq.sdk.bodies import MAX_BODY
from meshq.sdk.problem import Problem

if TYPE_CHECKING:
    from meshq.sdk.service import Service

PATH_SAFE = "/!$&'()*+,;=:@~"
"""What stands in a path as it is (RFC 3986 3.3)."""
BODYLESS = frozenset({204, 304})
_OF_THE_CONNECTION = frozenset({b"connection", b"transfer-encoding"})


def below(path: bytes, root: str) -> bytes:
    """`path`, percent-encoded, from where `root` ends, which it begins with. Segments are counted and not compared, because `root`
    is decoded.

    >>> below(b"/m%65sh/orders/a%2Fb", "/mesh")
    b'/orders/a%2Fb'
    >>> below(b"/mesh", "/mesh")
    b'/'
    >>> below(b"/orders", "")
    b'/orders'
    """
    return b"/" + b"/".join(path.split(b"/")[1 + root.count("/") :])


def fields(response: HttpResponse) -> Headers:
    """Of the answer, its length among them."""
    found = [field for field in response.headers if field[0].lower() not in _OF_THE_CONNECTION]
    if (
        response.status not in BODYLESS and header(found, b"content-length") is None
    ):  # of a HEAD the handler's length is there
        found.append((b"Content-Length", b"%d" % len(response.body)))
    return found


def too_large() -> Problem:
    return Problem(Code.TOO_LARGE.value, f"the body is over {MAX_BODY} bytes")


@asynccontextmanager
async def living(service: "Service") -> AsyncIterator[None]:
    """From before the first request until after the last: the service's own lifespan; behind it the mesh is closed."""
    try:
        async with service.lifespan() if service.lifespan is not None else nullcontext():
            yield
    finally:
        await service.mesh.close()
