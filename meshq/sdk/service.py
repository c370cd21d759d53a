"""Being called: handlers of requests and events, and how they are served."""

import asyncio
import inspect
import logging
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from meshq.core.events import EventAddress, parse_event
from meshq.core.http import HttpRequest, HttpResponse
from meshq.core.names import BadName, parse_version
from meshq.core.names import check_service as check_name
from meshq.core.subscriptions import Mode
from meshq.sdk.dispatch import Dispatcher, Route
from meshq.sdk.handlers import Function, Handler, read
from meshq.sdk.mesh import Mesh
from meshq.sdk.operation import Template
from meshq.sdk.problem import Problem
from meshq.sdk.upgrades import Upgrade, chain

if TYPE_CHECKING:
    from meshq.sdk.asgi import Asgi
    from meshq.sdk.wsgi import Wsgi

logger = logging.getLogger(__name__)

F = TypeVar("F", bound=Function)
Lifespan = Callable[[], AbstractAsyncContextManager[object]]

EVENTS_PATH = "/.meshq/on/"
"""Under which the sidecar hands events over; the rest of the path is the subscription's name."""
AGAIN = 0.5
"""Seconds until a subscription that could not be made now is tried again."""


class On(NamedTuple):
    """One event that is handled."""

    event: str
    """Name or pattern."""
    major: int
    mode: Mode
    name: str
    """Of the subscription; that of an older major ends with its number."""
    filter: Mapping[str, str]
    start: str | int | None
    """Where a replay begins."""
    handler: Handler

    @property
    def wild(self) -> bool:
        return "*" in self.event or "#" in self.event


class Service:
    """The handlers of one service.

    Args:
        name: as MESHQ_SERVICE of the sidecar.
        version: SemVer; the sidecar's MESHQ_SERVICE_VERSION. Shown in contracts.
        mesh: for calls from the handlers, and what serves them; default: a new Mesh.
        lifespan: an async context manager that is entered before the first message and left after the last.

    Raises:
        ValueError: the name or version is malformed.

    Example:
        >>> orders = Service("orders", version="2.3.0")
        >>> @orders.get("/orders/{id}")
        ... async def find(id: int) -> dict:
        ...     return {"id": id}
        >>> request = HttpRequest(b"GET", b"/orders/7", [], None)
        >>> asyncio.run(orders.respond(request)).body
        b'{"id":7}'
    """

    def __init__(
        self, name: str, *, version: str = "1.0.0", mesh: Mesh | None = None, lifespan: Lifespan | None = None
    ) -> None:
        try:
            self.name = check_name(name)
            self.version = str(parse_version(version))
        except BadName as error:
            raise ValueError(str(error)) from error
        self.mesh = mesh if mesh is not None else Mesh()
        self.lifespan = lifespan
        self._routes: list[Route] = []
        self._ons: list[On] = []
        self._upgrades: list[Upgrade] = []
        self._dispatcher = Dispatcher(self.mesh)
        self._prepared = False
        """The dispatcher knows of the events and the documents; not before everything is there."""

    def __repr__(self) -> str:
        return f"<Service {self.name} {self.version}, {len(self._routes)} routes, {len(self._ons)} events>"

    # --- requests -------------------------------------------------------------------------------------------------------------

    def get(self, path: str) -> Callable[[F], F]:
        """As `route`."""
        return self.route("GET", path)

    def post(self, path: str) -> Callable[[F], F]:
        """As `route`."""
        return self.route("POST", path)

    def put(self, path: str) -> Callable[[F], F]:
        """As `route`."""
        return self.route("PUT", path)

    def patch(self, path: str) -> Callable[[F], F]:
        """As `route`."""
        return self.route("PATCH", path)

    def delete(self, path: str) -> Callable[[F], F]:
        """As `route`."""
        return self.route("DELETE", path)

    def route(self, method: str, path: str) -> Callable[[F], F]:
        """Handle requests of this method and path, `/orders/{id}`. The function may be async; one that is not runs in a thread.

        It may return a model, a dataclass, whatever JSON has, bytes, str, None (204), or a `Reply`; what it raises besides `Problem`
        is a 500 and in the log.

        Raises:
            TypeError, ValueError: a parameter has no place in the request; the path is malformed, or handled already.
        """
        template, method = Template(path), method.upper()

        def add(function: F) -> F:
            if any(each.method == method and each.path.text == path for each in self._routes):
                raise ValueError(f"{method} {path} is handled already")
            route = Route(method, template, read(function, template))
            self._routes.append(route)
            self._dispatcher.add(route)
            self._prepared = False
            return function

        return add

    # --- events ---------------------------------------------------------------------------------------------------------------

    def on(
        self,
        event: str,
        *,
        mode: str = "shared",
        name: str | None = None,
        filter: Mapping[str, str] | None = None,
        start: str | int | None = None,
    ) -> Callable[[F], F]:
        """Handle events: `payments.settled@1`, or with a pattern `payments.*`.

        Args:
            event: name or pattern, and major version (1 where none is named).
            mode: `shared`, `broadcast`, `ordered`, `exclusive`, `replay`.
            name: of the subscription, which the service's instances share; default: the function's name.
            filter: attributes and fields an event must have.
            start: of a replay: `first`, `next`, the number of a message, or a time.

        Raises:
            TypeError, ValueError: as `route`.
        """
        pattern, major = _pattern(event)
        wanted = Mode(mode)

        def add(function: F) -> F:
            handler = read(function, None)
            called = name or handler.name.replace("_", "-").lower().strip("-")
            if any(each.name == called for each in self._ons):
                raise ValueError(f"there is a subscription {called!r} already: give this one a name")
            self._ons.append(On(pattern, major, wanted, called, dict(filter or {}), start, handler))
            self._prepared = False
            return function

        return add

    def upgrade(self, event: str, old: int, new: int) -> Callable[[F], F]:
        """Make of an event of major `old` one of major `new`, so that old ones reach the handler of the new. Several make a chain. One that
        raises fails the event, as its handler would.

        Raises:
            ValueError: the event is none, or `new` is not above `old`.
            TypeError: the function is async, or takes more than the event and its Context.

        Example::

            @orders.upgrade("payments.settled", 1, 2)
            def _(old: SettledV1) -> SettledV2: ...
        """
        name = _event(f"{event}@{old}").name
        if new <= old:
            raise ValueError(f"{event}: an upgrade goes from a lower major to a higher one, not from {old} to {new}")

        def add(function: F) -> F:
            if inspect.iscoroutinefunction(function):
                raise TypeError(f"{function.__qualname__}: an upgrade only makes one value of another: no async")
            self._upgrades.append(Upgrade(name, old, new, read(function, None)))
            self._prepared = False
            return function

        return add

    # --- what there is --------------------------------------------------------------------------------------------------------

    @property
    def routes(self) -> tuple[Route, ...]:
        """Of the requests, in the order of their decorators."""
        return tuple(self._routes)

    @property
    def ons(self) -> tuple[On, ...]:
        """The events, in the order of their decorators."""
        return tuple(self._ons)

    @property
    def upgrades(self) -> tuple[Upgrade, ...]:
        """Steps from one major version of an event to a higher one."""
        return tuple(self._upgrades)

    def subscriptions(self, prefix: str = "") -> dict[str, dict[str, Any]]:
        """Name -> what `PUT /v1/subscriptions/<name>` takes; an older major of an event that is upgraded has one of its own.
        `prefix` is where the handlers are mounted."""
        found: dict[str, dict[str, Any]] = {}
        for on in self._ons:
            for name, major in self.names(on):
                said: dict[str, Any] = {
                    "events" if on.wild else "event": f"{on.event}@{major}",
                    "path": prefix + EVENTS_PATH + name,
                    "mode": on.mode.value,
                }
                if on.filter:
                    said["filter"] = dict(on.filter)
                if on.start is not None:
                    said["from"] = on.start
                found[name] = said
        return found

    def names(self, on: On) -> list[tuple[str, int]]:
        """Of the subscriptions that it takes, and their majors: one for each major, its own first."""
        return [(on.name, on.major), *((f"{on.name}-v{major}", major) for major in self._older(on))]

    def _older(self, on: On) -> list[int]:
        """Majors that upgrades lead from to this one."""
        olds = {each.old for each in self._upgrades if each.event == on.event}
        return sorted(old for old in olds if chain(self._upgrades, on.event, old, on.major))

    # --- being served ---------------------------------------------------------------------------------------------------------

    async def respond(self, request: HttpRequest) -> HttpResponse:
        """One request, handled. Never raises but when it is cancelled."""
        if not self._prepared:
            self._prepare()
        return await self._dispatcher.respond(request)

    def _prepare(self) -> None:
        for on in self._ons:
            for name, major in self.names(on):
                steps = chain(self._upgrades, on.event, major, on.major)
                self._dispatcher.add_event(EVENTS_PATH + name, on.handler, steps)
        self._dispatcher.answer_last(
            Route("GET", Template(path), read(cache(document), None))
            for path, document in (("/openapi.json", self.openapi), ("/asyncapi.json", self.asyncapi))
        )
        self._prepared = True

    async def serve(self) -> None:
        """Serve the sidecar until cancelled: over its link, or where it has none at $PORT over HTTP. When it is cancelled it takes
        nothing more, finishes what it has, at most 25 s, and returns.

        Raises:
            Problem: there is no sidecar within MESHQ_HEALTH_TIMEOUT; a subscription is refused.
        """
        from meshq.sdk.serving import Serving

        await Serving(self).run()

    def serving(self) -> AbstractAsyncContextManager[None]:
        """Serve while the body runs, on the same event loop: in the lifespan of a FastAPI or Starlette app.

        Example::

            @asynccontextmanager
            async def lifespan(app: FastAPI):
                async with orders.serving():
                    yield

        Raises:
            Problem: as `serve`.
        """
        from meshq.sdk.serving import serving

        return serving(self)

    async def subscribe(self, prefix: str = "") -> None:
        """Make the subscriptions of the event handlers, for an app that is asked at its port: `prefix` is where `asgi()` or `wsgi()` is
        mounted. `serve` and `serving` do this by themselves. Where the mesh cannot take one now, it is tried again.

        Raises:
            Problem: there is no sidecar within MESHQ_HEALTH_TIMEOUT; one is refused.
        """
        for name, said in self.subscriptions(prefix).items():
            await self._subscribe(name, said)

    async def _subscribe(self, name: str, said: dict[str, Any]) -> None:
        while True:
            await self.mesh.ready()
            try:
                await self.mesh.ask("PUT", f"/v1/subscriptions/{name}", said)
                return
            except Problem as problem:
                if not (problem.retryable and problem.by_mesh):
                    raise
                logger.warning("no subscription %s yet: %s", name, problem.detail)
            await asyncio.sleep(AGAIN)

    def run(self) -> None:
        """`serve` until SIGTERM or SIGINT, on an event loop of its own: what a program's main module calls."""
        from meshq.sdk.serving import run

        run(self)

    def asgi(self) -> "Asgi":
        """An ASGI application of these handlers: for an ASGI server, where its lifespan makes the subscriptions, or to mount in FastAPI
        or Starlette, whose lifespan calls `subscribe(prefix)`.

        Example:
            >>> Service("orders").asgi()
            <Asgi orders>
        """
        from meshq.sdk.asgi import Asgi

        return Asgi(self)

    def wsgi(self) -> "Wsgi":
        """A WSGI application of these handlers, to mount in Flask or Django. Subscriptions are made when the first request comes, or by
        its `start(prefix)`.

        Example:
            >>> Service("orders").wsgi()
            <Wsgi orders>
        """
        from meshq.sdk.wsgi import Wsgi

        return Wsgi(self)

    def openapi(self) -> dict[str, Any]:
        """OpenAPI 3.1 of the routes; the service answers `GET /openapi.json` with it, unless a route takes that.

        Raises:
            TypeError: a type of a handler has no schema.

        Example:
            >>> Service("orders", version="2.3.0").openapi()["info"]
            {'title': 'orders', 'version': '2.3.0'}
        """
        from meshq.sdk.contracts import openapi

        return openapi(self)

    def asyncapi(self) -> dict[str, Any]:
        """AsyncAPI 3.0 of the routes as queues, and of the events; the service answers `GET /asyncapi.json` with it, unless a route takes
        that.

        Raises:
            TypeError: a type of a handler has no schema.
        """
        from meshq.sdk.contracts import asyncapi

        return asyncapi(self)


def _event(text: str) -> EventAddress:
    try:
        return parse_event(text)
    except BadName as error:
        raise ValueError(str(error)) from error


def _pattern(text: str) -> tuple[str, int]:
    name, _, major = text.partition("@")
    if "*" in name or "#" in name:
        if major and not major.isdigit():
            raise ValueError(f"{text!r}: a pattern has a major version behind the @, or none")
        return name, int(major or 1)
    found = _event(text)
    return found.name, found.major
