"""One request to the handler that takes it, and what that makes of it to a response."""

import asyncio
import logging
from collections import defaultdict
from collections.abc import Iterable
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import parse_qsl, unquote

from meshq.core.http import HttpRequest, HttpResponse, header
from meshq.sdk.bodies import Invalid, decode
from meshq.sdk.context import Context, within
from meshq.sdk.handlers import Handler
from meshq.sdk.operation import Template
from meshq.sdk.problem import HANDLER_FAILED, Problem
from meshq.sdk.reply import as_response
from meshq.sdk.upgrades import Upgrade

if TYPE_CHECKING:
    from meshq.sdk.mesh import Mesh

logger = logging.getLogger(__name__)


class Route(NamedTuple):
    """One that a decorator added."""

    method: str
    path: Template
    handler: Handler


class _Event(NamedTuple):
    handler: Handler
    steps: tuple[Upgrade, ...]


class Dispatcher:
    def __init__(self, mesh: "Mesh | None") -> None:
        self._mesh = mesh
        self._exact: dict[str, dict[str, Handler]] = defaultdict(dict)
        """Path -> method -> handler, of paths without places."""
        self._templates: list[Route] = []
        self._last: tuple[Route, ...] = ()
        self._events: dict[str, _Event] = {}

    def add(self, route: Route) -> None:
        if route.path.plain:
            self._exact[route.path.text][route.method] = route.handler
        else:
            self._templates.append(route)

    def answer_last(self, routes: Iterable[Route]) -> None:
        """What answers where no route that was added does."""
        self._last = tuple(routes)

    def add_event(self, path: str, handler: Handler, steps: tuple[Upgrade, ...]) -> None:
        self._events[path] = _Event(handler, steps)

    async def respond(self, request: HttpRequest) -> HttpResponse:
        """Never raises but when it is cancelled."""
        context = Context(request, self._mesh)
        try:
            with within(context):
                return await self._handled(request, context)
        except Problem as problem:
            return problem.as_response()
        except Invalid as invalid:
            return invalid.problem.as_response()
        except Exception:
            logger.exception("the handler of %s %s failed", _text(request.method), _text(request.target))
            return Problem(HANDLER_FAILED, "the handler failed; its log says why").as_response()

    async def _handled(self, request: HttpRequest, context: Context) -> HttpResponse:
        target = request.target.decode("latin-1")
        path, _, query = target.partition("?")
        event = self._events.get(path)
        if event is not None:
            await _run(event.handler, self._of_event(event, request, context))
            return HttpResponse(204, [])
        handler, places = self._find(request.method.decode("latin-1"), path)
        given = dict(parse_qsl(query, keep_blank_values=True)) if query else {}
        result = await _run(handler, handler.arguments(request, context, places, given))
        return as_response(result, header(request.headers, b"accept") or b"", request.method == b"HEAD")

    def _of_event(self, event: _Event, request: HttpRequest, context: Context) -> dict[str, Any]:
        if not event.steps:
            return event.handler.arguments(request, context, {}, {})
        content_type = (header(request.headers, b"content-type") or b"").decode("latin-1")
        value = decode(request.body, content_type, event.steps[0].handler.body)
        for step in event.steps:
            given = {step.handler.body_name: value} if step.handler.body_name else {}
            if step.handler.context_name:
                given[step.handler.context_name] = context
            value = step.handler.function(**given)
        found: dict[str, Any] = {event.handler.body_name: value} if event.handler.body_name else {}
        if event.handler.context_name:
            found[event.handler.context_name] = context
        return found

    def _find(self, method: str, path: str) -> tuple[Handler, dict[str, str]]:
        """Raises Problem: 404, or 405."""
        wanted = ("GET", "HEAD") if method == "HEAD" else (method,)
        methods = self._exact.get(path) or self._exact.get(unquote(path), {})
        for each in wanted[::-1]:
            if each in methods:
                return methods[each], {}
        allowed = set(methods)
        for route in (*self._templates, *self._last):
            places = route.path.match(path)
            if places is not None:
                if route.method in wanted:
                    return route.handler, {name: unquote(value) for name, value in places.items()}
                allowed.add(route.method)
        if allowed:
            detail = f"{path} takes {', '.join(sorted(allowed))}, not {method}"
            raise Problem("method-not-allowed", detail, status=405, retryable=False)
        raise Problem("not-found", f"nothing handles {path}", status=404, retryable=False)


async def _run(handler: Handler, arguments: dict[str, Any]) -> Any:
    if handler.is_async:
        return await handler.function(**arguments)
    return await asyncio.to_thread(partial(handler.function, **arguments))


def _text(part: bytes) -> str:
    return part.decode("latin-1")
