"""The control API (INTERFACE part 10): views of the mesh, dead letters, and calls into it.

GET  /v1/services  /v1/services/<name>  /v1/instances[?service=]  /v1/queues[?all=true]  /v1/status
any  /v1/call/<address>/<path>
POST /v1/publish/<event>
PUT  /v1/logs/<event>
     /v1/dead...  as meshq.control.dead_api says
"""

from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import parse_qs, unquote

from meshq.control import dead_api, logs_api
from meshq.control.mesh import Mesh
from meshq.control.unreachable import Unreachable
from meshq.core import views
from meshq.core.answers import as_json, no_such_path
from meshq.core.callreq import PATH_PREFIX, split_path
from meshq.core.errors import Code, Problem, Refused, refuse
from meshq.core.hosts import Whose, is_foreign, read_host
from meshq.core.http import HttpRequest, HttpResponse, header
from meshq.ports import Exchange
from meshq.sending_events import PATH_PREFIX as PUBLISH_PREFIX
from meshq.tasks import Tasks

Query = dict[str, str]

PATHS = (
    "here are /v1/services, /v1/instances, /v1/queues, /v1/dead, /v1/status, /v1/logs/<event>, /v1/publish/<event> and "
    "/v1/call/<address>/<path>"
)


class Api:
    """`about` adds to what `/v1/status` tells."""

    def __init__(self, mesh: Mesh, domain: str, about: Callable[[], dict[str, Any]]) -> None:
        self._mesh = mesh
        self._domain = domain
        self._about = about
        self._tasks = Tasks()
        self._views: dict[str, Callable[[Query], Awaitable[HttpResponse]]] = {
            "/v1/services": self._services,
            "/v1/instances": self._instances,
            "/v1/queues": self._queues,
            "/v1/status": self._status,
        }

    def handle(self, exchange: Exchange) -> None:
        self._tasks.start(self._respond(exchange), "answer the control API")

    async def close(self) -> None:
        await self._tasks.close()

    async def _respond(self, exchange: Exchange) -> None:
        try:
            self._check_caller(exchange.request)
            response = await self._answer(exchange.request)
        except Refused as refused:
            response = refused.problem.as_response()
        except Unreachable as fault:
            response = Problem(Code.UNAVAILABLE, str(fault)).as_response()
        exchange.respond(response)

    async def _answer(self, request: HttpRequest) -> HttpResponse:
        target = request.target
        if target.startswith(PATH_PREFIX):
            return await self._mesh.call(request, *split_path(target))
        if target.startswith(PUBLISH_PREFIX):
            return await self._mesh.publish(request)
        path, _, query = target.decode("latin-1").partition("?")
        if dead_api.is_about_dead(path):
            return await dead_api.answer(self._mesh.dead, request)
        if path.startswith(logs_api.PREFIX):
            return await logs_api.answer(self._mesh, request)
        view = self._views.get(path)
        if view is None and not path.startswith("/v1/services/"):
            return no_such_path(PATHS)
        if request.method not in (b"GET", b"HEAD"):
            return HttpResponse(405, [(b"Allow", b"GET, HEAD"), (b"Content-Type", b"text/plain")], b"read-only\n")
        if view is None:
            return await self._service(unquote(path.removeprefix("/v1/services/")))
        return await view({name: values[-1] for name, values in parse_qs(query, keep_blank_values=True).items()})

    def _check_caller(self, request: HttpRequest) -> None:
        """As on a sidecar's port: only who means this machine by its Host, and no web page from elsewhere."""
        host = (header(request.headers, b"host") or b"localhost").decode("latin-1")
        if not request.target.startswith(b"/") or read_host(host, self._domain) is not Whose.LOCAL:
            raise refuse(Code.MISDIRECTED, f"{host[:100]!r} is not here: the control API is asked as localhost")
        origin = header(request.headers, b"origin")
        if origin is not None and is_foreign(origin.decode("latin-1"), self._domain):
            raise refuse(Code.DENIED, f"a page of {origin[:100].decode('latin-1')!r} may not ask the control API")

    # --- views ------------------------------------------------------------------------------------------------------------

    async def _services(self, _: Query) -> HttpResponse:
        return as_json(views.services(await self._mesh.picture()))

    async def _service(self, name: str) -> HttpResponse:
        found = (await self._mesh.picture()).services.get(name)
        if found is None:
            raise refuse(Code.UNKNOWN_SERVICE, f"{name[:60]!r} was never registered")
        return as_json({**views.service(found), "instances": [views.instance(i) for i in found.instances]})

    async def _instances(self, query: Query) -> HttpResponse:
        return as_json(views.instances(await self._mesh.picture(), query.get("service")))

    async def _queues(self, query: Query) -> HttpResponse:
        return as_json(await self._mesh.queues(query.get("all") == "true"))

    async def _status(self, _: Query) -> HttpResponse:
        return as_json({**self._about(), **self._mesh.status()})
