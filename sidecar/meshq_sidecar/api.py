"""The sidecar's own API on port 3600, besides calls (INTERFACE parts 3, 5 and 6): which path goes to whom, and who may change
something.
"""

from collections.abc import Callable
from typing import NamedTuple

from meshq.core.answers import method_not_allowed, no_such_path
from meshq.core.errors import Code, Problem, Refused
from meshq.core.headers import Carried
from meshq.core.link import PATH as LINK
from meshq.ports import Exchange

SERVICES = b"/v1/services"
REQUESTS = b"/v1/requests/"
PUBLISH = b"/v1/publish/"
SUBSCRIPTIONS = b"/v1/subscriptions"
SELF = b"/v1/self"

Handler = Callable[[Exchange, Carried, bytes], None]
"""Answers a request: what `carry` made of its fields, and its target with the query."""

_READS = (b"GET", b"HEAD")
_OWN_STATE = (SELF, SUBSCRIPTIONS, REQUESTS)
"""What of the sidecar itself can be changed. Calls and events are not of it: those are free."""


class Handlers(NamedTuple):
    """Who answers what. Whether the sidecar may be changed, and by which methods `/v1/self` and what is under it, has been checked
    before."""

    requests: Handler
    publish: Handler
    subscriptions: Handler
    services: Handler
    self_: Handler
    pause: Handler
    resume: Handler
    drain: Handler
    drain_wait: Handler
    link: Handler


class Api:
    """`has_token`: MESHQ_API_TOKEN is set, and whoever comes here has shown it."""

    def __init__(self, handlers: Handlers, *, has_token: bool) -> None:
        self._handlers = handlers
        self._exact = {
            SELF: ((*_READS, b"PATCH"), handlers.self_),
            SELF + b"/pause": ((b"POST",), handlers.pause),
            SELF + b"/resume": ((b"POST",), handlers.resume),
            SELF + b"/drain": ((b"POST",), handlers.drain),
            SELF + b"/drain/wait": (_READS, handlers.drain_wait),
            LINK: ((b"GET",), handlers.link),
        }
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
        elif path == SERVICES or path.startswith(SERVICES + b"/"):
            _if_method(_READS, exchange, handlers.services, carried, target)
        elif path in self._exact:
            methods, handler = self._exact[path]
            _if_method(methods, exchange, handler, carried, target)
        else:
            exchange.respond(
                no_such_path(
                    "the API is under /v1/: services, self, link, publish/<event>, subscriptions, requests/<id>; "
                    "calls go to /v1/call/<service>[@<selector>]/<path>"
                )
            )


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
