"""The sidecar's own API on port 3600, besides calls: who is there, and who this is (INTERFACE part 6)."""

from collections.abc import Callable
from typing import Any

from meshq.core import views
from meshq.core.answers import as_json, no_such_path
from meshq.core.errors import Code, Problem
from meshq.core.http import HttpResponse
from meshq.core.instances import Snapshot
from meshq.ports import Exchange

SERVICES = b"/v1/services"


class Api:
    """`about_self` gives the body of `/v1/self`."""

    def __init__(self, picture: Callable[[], Snapshot], about_self: Callable[[], dict[str, Any]]) -> None:
        self._picture = picture
        self._about_self = about_self

    def handle(self, exchange: Exchange, target: bytes) -> None:
        path = target.partition(b"?")[0]
        if path != b"/v1/self" and path != SERVICES and not path.startswith(SERVICES + b"/"):
            exchange.respond(no_such_path("the API is under /v1/; calls go to /v1/call/<service>[@<selector>]/<path>"))
        elif exchange.request.method not in (b"GET", b"HEAD"):
            exchange.respond(
                HttpResponse(405, [(b"Allow", b"GET, HEAD"), (b"Content-Type", b"text/plain")], b"read-only\n")
            )
        elif path == b"/v1/self":
            exchange.respond(as_json(self._about_self()))
        else:
            exchange.respond(self._services(path[len(SERVICES) + 1 :].decode("latin-1")))

    def _services(self, name: str) -> HttpResponse:
        picture = self._picture()
        if not name:
            response = as_json(views.services(picture))
        elif name in picture.services:
            found = picture.services[name]
            members = [views.instance(member) for member in found.instances]
            response = as_json({**views.service(found), "instances": members})
        else:
            return Problem(Code.UNKNOWN_SERVICE, f"{name[:60]!r} was never registered").as_response()
        response.headers.append((b"Meshq-Index", b"%d" % picture.revision))
        response.headers.append((b"Meshq-Stale", b"true" if picture.stale else b"false"))
        return response
