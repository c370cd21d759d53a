"""Scaling in the control API.

GET /v1/scale              how many replicas every topic should have
GET /v1/scale/<service>    of one service, each version with what it was decided by; 404 where nothing is known of it
"""

from typing import Any, Protocol
from urllib.parse import unquote

from meshq.control.access import READS
from meshq.control.refusals import NotThere
from meshq.control.unreachable import Unreachable
from meshq.core.answers import as_json, method_not_allowed
from meshq.core.http import HttpRequest, HttpResponse

PATH = "/v1/scale"


class Scale(Protocol):
    async def rows(self, service: str | None) -> list[dict[str, Any]]:
        """Of every topic, or of one service with what it was decided by. Raises OSError where nothing is known."""

    async def close(self) -> None: ...


def is_about_scale(path: str) -> bool:
    return path == PATH or path.startswith(f"{PATH}/")


async def answer(scale: Scale | None, request: HttpRequest, path: str) -> HttpResponse:
    """To a request of which `is_about_scale` is true. Raises NotThere, Unreachable."""
    if request.method not in READS:
        return method_not_allowed(b"GET, HEAD", "read-only")
    if scale is None:
        raise Unreachable(
            "scaling needs the broker's figures and the registry: set MESHQ_BROKER_URL and MESHQ_REGISTRY_URL"
        )
    service = unquote(path.removeprefix(PATH).removeprefix("/")) or None
    try:
        rows = await scale.rows(service)
    except OSError as error:
        raise Unreachable(str(error)) from error
    if service is not None and not rows:
        raise NotThere(f"{service[:60]!r} was never registered")
    return as_json(rows)
