"""Instances in the control API, and what operators want of them.

GET  /v1/instances/<id>            what is known of it
POST /v1/instances/<id>/pause      {"reason", "for"}: `for` is a duration (`5m`) or seconds; without it until it is resumed
POST /v1/instances/<id>/resume     ends an operator's pause, not the instance's own
POST /v1/instances/<id>/drain      it takes nothing more, finishes what it has, and stays so until its process ends

Each answers what is known of the instance then. `?service=` says which is meant where several services have that id.
"""

from urllib.parse import unquote

from meshq.control import bodies
from meshq.control.orders import Orders
from meshq.core import views
from meshq.core.answers import as_json, method_not_allowed, no_such_path
from meshq.core.errors import Code, refuse
from meshq.core.http import HttpRequest, HttpResponse
from meshq.core.instances import Instance

PREFIX = "/v1/instances/"
MAX_REASON = 200


async def answer(orders: Orders, request: HttpRequest, path: str, service: str | None) -> HttpResponse:
    """To a request whose path begins with PREFIX. Raises NotThere, Refused, Unreachable."""
    ident, slash, what = (unquote(part) for part in path.removeprefix(PREFIX).partition("/"))
    if not slash:
        if request.method not in (b"GET", b"HEAD"):
            return method_not_allowed(b"GET, HEAD", "to change something, POST to .../pause, .../resume or .../drain")
        return as_json(views.instance(await orders.find(ident, service)))
    if what not in ("pause", "resume", "drain"):
        return no_such_path("here are /v1/instances/<id>, and /pause, /resume and /drain below it")
    if request.method != b"POST":
        return method_not_allowed(b"POST", f"POST, and it is told to {what}")
    return as_json(views.instance(await _order(orders, request, ident, what, service)))


async def _order(orders: Orders, request: HttpRequest, ident: str, what: str, service: str | None) -> Instance:
    if what == "pause":
        return await orders.pause(ident, service, *_pause(request))
    return await (orders.resume if what == "resume" else orders.drain)(ident, service)


def _pause(request: HttpRequest) -> tuple[str, int | None]:
    """Why, and for how many milliseconds. Raises Refused."""
    said = bodies.read_map(request, ("reason", "for"))
    faults = []
    reason = said.get("reason") or ""
    if not isinstance(reason, str) or len(reason) > MAX_REASON or not reason.isprintable():
        faults.append(f"reason: give one line of at most {MAX_REASON} characters")
    for_ms = None
    if said.get("for") is not None:
        try:
            for_ms = bodies.read_duration_ms(said["for"])
            if not for_ms:
                faults.append("for: 0 is no time; leave it out to pause until resume")
        except ValueError as error:
            faults.append(f"for: {error}")
    if faults:
        raise refuse(Code.BAD_REQUEST, "; ".join(faults))
    return reason, for_ms
