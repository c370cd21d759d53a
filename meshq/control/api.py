"""The control API (INTERFACE part 10): views of the mesh, what changes it, and calls into it.

GET  /v1/services  /v1/services/<name>  /v1/instances[?service=]  /v1/routes  /v1/queues[?all=true]  /v1/status
any  /v1/call/<address>/<path>
POST /v1/publish/<event>
PUT  /v1/logs/<event>
     /v1/services/<name>/instances...  as meshq.control.registration_api says
     /v1/instances/<id>...             as meshq.control.orders_api says
     /v1/routes/<service>              as meshq.control.routes_api says
     /v1/scale...                      as meshq.control.scale_api says
     /v1/retire/<address>              as meshq.control.retire_api says
     /v1/dead...                       as meshq.control.dead_api says

Services, instances and routes have `Meshq-Index`, and `Meshq-Stale` while the registry is away. With `?index=` of an earlier answer
the next comes when something has changed, or after `wait` (`?wait=30s`). Who may ask what is in meshq.control.access.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import parse_qs, unquote

from meshq.control import dead_api, logs_api, orders_api, registration_api, retire_api, routes_api, scale_api
from meshq.control.access import READS, Access
from meshq.control.mesh import Mesh
from meshq.control.refusals import InTheWay, NotThere
from meshq.control.tokens import Tokens
from meshq.control.unreachable import Unreachable
from meshq.core import views
from meshq.core.answers import as_json, conflict, method_not_allowed, no_such_path, problem
from meshq.core.callreq import PATH_PREFIX, split_path
from meshq.core.durations import parse_duration_ms
from meshq.core.errors import Code, Problem, Refused, refuse
from meshq.core.http import HttpRequest, HttpResponse
from meshq.core.instances import Snapshot
from meshq.core.policy_parsing import policy_as_json
from meshq.ports import Exchange
from meshq.sending_events import PATH_PREFIX as PUBLISH_PREFIX
from meshq.tasks import Tasks

logger = logging.getLogger(__name__)

Query = dict[str, str]

USUAL_WAIT_MS = 30_000
LONGEST_WAIT_MS = 600_000
PATHS = (
    "here are /v1/services, /v1/instances, /v1/routes, /v1/queues, /v1/scale, /v1/dead, /v1/status, /v1/retire/<address>, "
    "/v1/logs/<event>, /v1/publish/<event> and /v1/call/<address>/<path>"
)


class Api:
    """`about` adds to what `/v1/status` tells. `tokens` None: nobody registers here."""

    def __init__(
        self, mesh: Mesh, access: Access, tokens: Tokens | None = None, about: Callable[[], dict[str, Any]] = dict
    ) -> None:
        self._mesh = mesh
        self._access = access
        self._tokens = tokens or Tokens("", ())
        self._about = about
        self._tasks = Tasks()
        self._views: dict[str, Callable[[Query], Awaitable[HttpResponse]]] = {
            "/v1/services": self._services,
            "/v1/instances": self._instances,
            "/v1/routes": self._routes,
            "/v1/queues": self._queues,
            "/v1/status": self._status,
        }

    def handle(self, exchange: Exchange) -> None:
        self._tasks.start(self._respond(exchange), "answer the control API")

    async def close(self) -> None:
        await self._tasks.close()

    async def _respond(self, exchange: Exchange) -> None:
        task = asyncio.current_task()
        if b"index=" in exchange.request.target and task is not None:
            exchange.on_hangup(lambda: _end(task))  # nobody waits for the next picture any more
        try:
            self._access.check(exchange.request)
            response = await self.answer(exchange.request)
        except Refused as refused:
            response = refused.problem.as_response()
        except Exception:
            logger.exception("%s %s failed", exchange.request.method, exchange.request.target)
            response = problem(
                500, "Internal error", "this is a fault of meshq itself; the log of the control API has more"
            )
        exchange.respond(response)

    async def answer(self, request: HttpRequest) -> HttpResponse:
        """To whoever may ask."""
        try:
            return await self._answer(request)
        except Refused as refused:
            return refused.problem.as_response()
        except Unreachable as fault:
            return Problem(Code.UNAVAILABLE, str(fault)).as_response()
        except NotThere as missing:
            return problem(404, "Not found", str(missing))
        except InTheWay as reason:
            return conflict(str(reason))

    async def _answer(self, request: HttpRequest) -> HttpResponse:
        target = request.target
        if target.startswith(PATH_PREFIX):
            return await self._mesh.call(request, *split_path(target))
        if target.startswith(PUBLISH_PREFIX):
            return await self._mesh.publish(request)
        path, _, text = target.decode("latin-1").partition("?")
        query = {name: values[-1] for name, values in parse_qs(text, keep_blank_values=True).items()}
        if dead_api.is_about_dead(path):
            return await dead_api.answer(self._mesh.dead, request)
        if path.startswith(logs_api.PREFIX):
            return await logs_api.answer(self._mesh, request)
        if path.startswith(routes_api.PREFIX):
            return await routes_api.answer(self._mesh.routes, request, path)
        if path.startswith(orders_api.PREFIX):
            return await orders_api.answer(self._mesh.orders, request, path, query.get("service"))
        if scale_api.is_about_scale(path):
            return await scale_api.answer(self._mesh.scale, request, path)
        if path.startswith(retire_api.PREFIX):
            return await retire_api.answer(self._mesh.retiring, request, path, query.get("quietFor"))
        named = registration_api.named(path)
        if named is not None and request.method not in READS:
            return await registration_api.answer(self._mesh.registration, self._tokens, request, named)
        return await self._view(request, path, query, named)

    # --- views ------------------------------------------------------------------------------------------------------------

    async def _view(
        self, request: HttpRequest, path: str, query: Query, named: registration_api.Named | None
    ) -> HttpResponse:
        view = self._views.get(path)
        if view is None and not path.startswith("/v1/services/"):
            return no_such_path(PATHS)
        if request.method not in READS:
            return method_not_allowed(b"GET, HEAD", "read-only")
        if view is not None:
            return await view(query)
        if named is not None:
            return as_json(views.instance(await self._mesh.orders.find(named.id, named.service)))
        name = unquote(path.removeprefix("/v1/services/"))
        return await self._service(name.removesuffix("/instances"), query, only_instances=name.endswith("/instances"))

    async def _services(self, query: Query) -> HttpResponse:
        return await self._pictured(query, views.services)

    async def _service(self, name: str, query: Query, *, only_instances: bool) -> HttpResponse:
        def shown(picture: Snapshot) -> object:
            found = picture.services.get(name)
            if found is None:
                raise refuse(Code.UNKNOWN_SERVICE, f"{name[:60]!r} was never registered")
            members = [views.instance(instance) for instance in found.instances]
            return members if only_instances else {**views.service(found), "instances": members}

        return await self._pictured(query, shown)

    async def _instances(self, query: Query) -> HttpResponse:
        return await self._pictured(query, lambda picture: views.instances(picture, query.get("service")))

    async def _routes(self, query: Query) -> HttpResponse:
        return await self._pictured(
            query, lambda picture: [policy_as_json(policy) for _, policy in sorted(picture.policies.items())]
        )

    async def _queues(self, query: Query) -> HttpResponse:
        return as_json(await self._mesh.queues(query.get("all") == "true"))

    async def _status(self, _: Query) -> HttpResponse:
        return as_json({**self._about(), **self._mesh.status()})

    async def _pictured(self, query: Query, view: Callable[[Snapshot], object]) -> HttpResponse:
        """A view of the picture: now, or once it is another than `index` says."""
        waiting = _waiting(query)
        picture = await (self._mesh.picture() if waiting is None else self._mesh.pictures.after(*waiting))
        response = as_json(view(picture))
        response.headers.append((b"Meshq-Index", b"%d" % picture.revision))
        response.headers.append((b"Meshq-Stale", b"true" if picture.stale else b"false"))
        return response


def _end(task: "asyncio.Task[Any]") -> None:
    task.cancel()


def _waiting(query: Query) -> tuple[int, float] | None:
    """The index that is known, and the seconds to wait for another; None where nobody waits. Raises Refused."""
    index = query.get("index")
    if index is None:
        return None
    if not index.removeprefix("-").isdecimal() or len(index) > 18:
        raise refuse(Code.BAD_REQUEST, f"index: {index[:40]!r} is not a number; give that of Meshq-Index")
    try:
        wait_ms = parse_duration_ms(query["wait"]) if "wait" in query else USUAL_WAIT_MS
    except ValueError as error:
        raise refuse(Code.BAD_REQUEST, f"wait: {error}") from error
    return int(index), min(wait_ms, LONGEST_WAIT_MS) / 1000
