"""The sidecar's own API on port 3600, besides calls (INTERFACE parts 3, 5 and 6): which path goes to whom, and who may change
something. Who is there, and who this is, is answered here."""

from collections.abc import Callable
from typing import Any, NamedTuple

from meshq.core import views
from meshq.core.answers import as_json, method_not_allowed, no_such_path
from meshq.core.errors import Code, Problem, Refused
from meshq.core.headers import Carried
from meshq.core.http import HttpResponse
from meshq.core.instances import Snapshot
from meshq.ports import Exchange

SERVICES = b"/v1/services"
REQUESTS = b"/v1/requests/"
PUBLISH = b"/v1/publish/"
SUBSCRIPTIONS = b"/v1/subscriptions"
SELF = b"/v1/self"
DRAIN = b"/v1/self/drain"
DRAIN_WAIT = b"/v1/self/drain/wait"

Handler = Callable[[Exchange, Carried, bytes], None]
"""Answers a request: what `carry` made of its fields, and its target with the query."""

_READS = (b"GET", b"HEAD")
_OWN_STATE = (SELF, SUBSCRIPTIONS, REQUESTS)
"""What of the sidecar itself can be changed. Calls and events are not of it: those are free."""


class Handlers(NamedTuple):
    """Who answers what. Whether the sidecar may be changed, and by which methods it is drained, has been checked before."""

    requests: Handler
    publish: Handler
    subscriptions: Handler
    drain: Handler
    drain_wait: Handler


class Api:
    """`about_self` gives the body of `/v1/self`. `has_token`: MESHQ_API_TOKEN is set, and whoever comes here has shown it."""

    def __init__(
        self,
        picture: Callable[[], Snapshot],
        about_self: Callable[[], dict[str, Any]],
        handlers: Handlers,
        *,
        has_token: bool,
    ) -> None:
        self._picture = picture
        self._about_self = about_self
        self._handlers = handlers
        self._has_token = has_token

    def handle(self, exchange: Exchange, carried: Carried, target: bytes) -> None:
        """Raises Refused."""
        path = target.partition(b"?")[0]
        handlers = self._handlers
        if exchange.request.method not in _READS and path.startswith(_OWN_STATE):
            check_may_change(carried, self._has_token)
        if path.startswith(PUBLISH):
            handlers.publish(exchange, carried, target)
        elif path.startswith(REQUESTS):
            handlers.requests(exchange, carried, target)
        elif path == SUBSCRIPTIONS or path.startswith(SUBSCRIPTIONS + b"/"):
            handlers.subscriptions(exchange, carried, target)
        elif path == DRAIN:
            _if_method((b"POST",), exchange, handlers.drain, carried, target)
        elif path == DRAIN_WAIT:
            _if_method(_READS, exchange, handlers.drain_wait, carried, target)
        elif path in (SELF, SERVICES) or path.startswith(SERVICES + b"/"):
            _if_method(_READS, exchange, self._read, carried, target)
        else:
            exchange.respond(
                no_such_path(
                    "the API is under /v1/: services, self, publish/<event>, subscriptions, requests/<id>; "
                    "calls go to /v1/call/<service>[@<selector>]/<path>"
                )
            )

    def _read(self, exchange: Exchange, carried: Carried, target: bytes) -> None:
        path = target.partition(b"?")[0]
        if path == SELF:
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


def check_may_change(carried: Carried, has_token: bool) -> None:
    """Whether this request may change the sidecar's own state: a web page or a fetched URL cannot send such a field. Raises
    Refused."""
    if not has_token and carried.control.get(b"meshq-api") != b"1":
        raise Refused(
            Problem(
                Code.DENIED,
                "this changes the sidecar itself: send the header Meshq-Api: 1, which no web page can send for somebody else",
            )
        )


def _if_method(
    methods: tuple[bytes, ...], exchange: Exchange, handler: Handler, carried: Carried, target: bytes
) -> None:
    if exchange.request.method in methods:
        handler(exchange, carried, target)
    else:
        allowed = b", ".join(methods)
        exchange.respond(method_not_allowed(allowed, f"only {allowed.decode()} here"))
