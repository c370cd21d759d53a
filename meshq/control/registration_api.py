"""Registration of containers without a sidecar in the control API.

PUT    /v1/services/<service>/instances/<id>   {"version", "endpoints", "ttl", "metadata", "capacity", "inFlight", "state"}
DELETE /v1/services/<service>/instances/<id>   it is gone
GET    /v1/services/<service>/instances[/<id>] who is there; needs no token

The first two need the service's token (`meshq control token SERVICE`) in `Meshq-Token`, or in `Authorization: Bearer`. PUT both
registers and renews: 201 where it was not there, else 200. It answers

    {"id", "service", "version", "state", "ttl", "renewWithin", "orders": {"pause": {"reason", "until"}, "drain": false}}

with times in seconds: the next PUT is due within `renewWithin`, and after `ttl` without one it is `suspect`. `orders` is what
operators want of it; what it does about them it says in `state`.
"""

import re
from typing import Any, NamedTuple
from urllib.parse import unquote

from meshq.control import bodies, registration_fields
from meshq.control.registration import Registered, Registration
from meshq.control.routes import checked
from meshq.control.tokens import Tokens
from meshq.core.answers import as_json, method_not_allowed
from meshq.core.errors import Code, refuse
from meshq.core.http import HttpRequest, HttpResponse, header
from meshq.core.views import timestamp

RENEWALS_A_TTL = 3
"""So that one may be lost."""

_PATH = re.compile(r"/v1/services/([^/]+)/instances/([^/]+)")


class Named(NamedTuple):
    service: str
    id: str


def named(path: str) -> Named | None:
    """The instance that a path is about; None for another path."""
    match = _PATH.fullmatch(path)
    return None if match is None else Named(unquote(match[1]), unquote(match[2]))


def is_registration(path: str) -> bool:
    return named(path) is not None


async def answer(registration: Registration, tokens: Tokens, request: HttpRequest, which: Named) -> HttpResponse:
    """To what is no GET. Raises InTheWay, NotThere, Refused, Unreachable."""
    if request.method not in (b"PUT", b"DELETE"):
        return method_not_allowed(b"GET, HEAD, PUT, DELETE", "an instance is looked up, PUT or DELETEd")
    _check_token(tokens, checked(which.service), request)
    if request.method == b"DELETE":
        await registration.remove(which.service, which.id)
        return HttpResponse(204, [], b"")
    said = bodies.read_map(request, registration_fields.KEYS)
    wanted = registration_fields.read(which.service, which.id, said)
    registered = await registration.put(wanted)
    return as_json(_body(registered, wanted.ttl_ms))._replace(status=201 if registered.created else 200)


def _check_token(tokens: Tokens, service: str, request: HttpRequest) -> None:
    if not tokens.configured:
        raise refuse(
            Code.DENIED,
            "this control API takes no registrations: it has no MESHQ_CONTROL_SECRET, of which tokens are made",
        )
    given = header(request.headers, b"meshq-token")
    if given is None:
        scheme, _, rest = (header(request.headers, b"authorization") or b"").partition(b" ")
        given = rest.strip() if scheme.lower() == b"bearer" else b""
    if not tokens.is_good(service, given):
        raise refuse(
            Code.DENIED,
            f"registering an instance of {service} needs its token in Meshq-Token or Authorization: Bearer; "
            f"`meshq control token {service}` makes it",
        )


def _body(registered: Registered, ttl_ms: int) -> dict[str, Any]:
    instance = registered.instance
    pause = instance.orders.pause
    holds = pause is not None and pause.holds(registered.now_ms)
    return {
        "id": instance.id,
        "service": instance.service,
        "version": str(instance.version),
        "state": instance.state.value,
        "ttl": _seconds(ttl_ms),
        "renewWithin": _seconds(ttl_ms / RENEWALS_A_TTL),
        "orders": {
            "pause": {"reason": pause.reason, "until": timestamp(pause.until_ms or 0)} if pause and holds else None,
            "drain": instance.orders.drain,
        },
    }


def _seconds(milliseconds: float) -> float:
    seconds = round(milliseconds / 1000, 3)
    return int(seconds) if seconds == int(seconds) else seconds
