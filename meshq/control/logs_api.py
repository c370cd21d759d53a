"""Logs of events in the control API (INTERFACE part 5).

PUT /v1/logs/<event>[@<major>]   every such event is kept from now on, so that subscriptions can replay them; 201, or 200 where it
                                 was kept already. Who may: control/access.py.

Which logs there are `/v1/queues` shows (kind `log`). One ends when its queue is deleted on the broker.
"""

from urllib.parse import unquote

from meshq.control.mesh import Mesh
from meshq.core.answers import as_json, conflict, method_not_allowed
from meshq.core.errors import Code, refuse
from meshq.core.events import parse_event
from meshq.core.http import HttpRequest, HttpResponse
from meshq.core.names import BadName

PREFIX = "/v1/logs/"


async def answer(mesh: Mesh, request: HttpRequest) -> HttpResponse:
    """To a request whose path begins with PREFIX. Raises Refused, Unreachable."""
    path = request.target.decode("latin-1").partition("?")[0]
    if request.method != b"PUT":
        return method_not_allowed(b"PUT", "PUT an event, and it is logged from then on")
    try:
        event = parse_event(unquote(path.removeprefix(PREFIX)))
    except BadName as error:
        raise refuse(Code.BAD_ADDRESS, str(error)) from error
    logged = await mesh.log(event)
    if logged.fault:
        return conflict(logged.fault)
    body = {"event": str(event), "topic": event.topic, "queue": logged.queue}
    return as_json(body)._replace(status=201 if logged.created else 200)
