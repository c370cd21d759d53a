"""Route policies in the control API.

GET    /v1/routes                      every policy there is
GET    /v1/routes/<service>            one; 404 where the service has none
PUT    /v1/routes/<service>            JSON, or YAML with such a content type; answers what is stored. `Meshq-Doubts`: what it names
                                       that was never there. All that is wrong with it is told at once (`bad-request`)
DELETE /v1/routes/<service>            204; 404 where there was none
"""

from urllib.parse import unquote

from meshq.control import bodies
from meshq.control.refusals import NotThere
from meshq.control.routes import Routes
from meshq.core.answers import as_json, method_not_allowed
from meshq.core.http import HttpRequest, HttpResponse
from meshq.core.policy_parsing import policy_as_json

PREFIX = "/v1/routes/"
DOUBTS = b"Meshq-Doubts"


async def answer(routes: Routes, request: HttpRequest, path: str) -> HttpResponse:
    """To a request whose path begins with PREFIX. Raises Refused, NotThere, Unreachable."""
    service = unquote(path.removeprefix(PREFIX))
    if request.method in (b"GET", b"HEAD"):
        policy = await routes.of(service)
        if policy is None:
            raise _none_of(service)
        return as_json(policy_as_json(policy))
    if request.method == b"PUT":
        stored = await routes.put(service, bodies.read(request))
        response = as_json(policy_as_json(stored.policy))
        if stored.doubts:
            response.headers.append((DOUBTS, "; ".join(stored.doubts).encode("ascii", "replace")))
        return response
    if request.method == b"DELETE":
        if not await routes.clear(service):
            raise _none_of(service)
        return HttpResponse(204, [], b"")
    return method_not_allowed(b"GET, HEAD, PUT, DELETE", "a route policy is read, PUT or DELETEd")


def _none_of(service: str) -> NotThere:
    return NotThere(f"{service} has no route policy: calls that name no version go to its latest")
