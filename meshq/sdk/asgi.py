"""The handlers of a service as an ASGI 3 application: to mount in FastAPI, Starlette or Django, or for an ASGI server."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, MutableMapping
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from meshq.core.http import HttpRequest, HttpResponse, header
from meshq.sdk.bodies import MAX_BODY
from meshq.sdk.mounting import PATH_SAFE, below, fields, living, too_large
from meshq.sdk.problem import Problem

if TYPE_CHECKING:
    from meshq.sdk.service import Service

logger = logging.getLogger(__name__)

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


class Gone(Exception):
    """Whoever asked hung up."""


class Asgi:
    """Made by `Service.asgi`. As the server's own application its lifespan is the service's; mounted in another one, that calls
    `Service.subscribe(prefix)` in its own, and the service's `lifespan` is for it to enter."""

    def __init__(self, service: "Service") -> None:
        self._service = service

    def __repr__(self) -> str:
        return f"<Asgi {self._service.name}>"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Raises ValueError for a connection that is neither `http` nor `lifespan`, as ASGI wants it."""
        if scope["type"] == "http":
            await self._answer(scope, receive, send)
        elif scope["type"] == "lifespan":
            await self._live(receive, send)
        else:
            raise ValueError(f"{self._service.name} takes requests over HTTP here, and no {scope['type']}")

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            response = await self._unless_gone(await _read(scope, receive), receive)
        except Problem as problem:
            response = problem.as_response()
        except Gone:
            return
        head = [(name.lower(), value) for name, value in fields(response)]
        await send({"type": "http.response.start", "status": response.status, "headers": head})
        await send({"type": "http.response.body", "body": response.body})

    async def _unless_gone(self, request: HttpRequest, receive: Receive) -> HttpResponse:
        """The handler's answer. Nobody waits for that of one whose caller hung up: it is cancelled. Raises Gone."""
        loop = asyncio.get_running_loop()
        handling = loop.create_task(self._service.respond(request))
        leaving = loop.create_task(_disconnected(receive))
        try:
            await asyncio.wait((handling, leaving), return_when=asyncio.FIRST_COMPLETED)
            if not handling.done():
                raise Gone
            return handling.result()
        finally:
            handling.cancel()
            leaving.cancel()
            await asyncio.gather(handling, leaving, return_exceptions=True)

    async def _live(self, receive: Receive, send: Send) -> None:
        await receive()
        phase = "startup"
        try:
            async with living(self._service):
                await self._service.subscribe()
                await send({"type": "lifespan.startup.complete"})
                phase = "shutdown"
                await receive()
        except Exception as error:
            logger.exception("the %s of %s failed", phase, self._service.name)
            await send({"type": f"lifespan.{phase}.failed", "message": str(error)})
        else:
            await send({"type": "lifespan.shutdown.complete"})


async def _read(scope: Scope, receive: Receive) -> HttpRequest:
    """Raises Problem, Gone."""
    body = bytearray()
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Gone
        body += message.get("body", b"")
        if len(body) > MAX_BODY:
            raise too_large()
        more = message.get("more_body", False)
    headers = [(bytes(name), bytes(value)) for name, value in scope["headers"]]
    framed = any(header(headers, name) is not None for name in (b"content-length", b"transfer-encoding"))
    return HttpRequest(scope["method"].encode(), _target(scope), headers, bytes(body) if framed or body else None)


def _target(scope: Scope) -> bytes:
    path: str = scope["path"]
    raw: bytes = scope.get("raw_path") or quote(path, PATH_SAFE).encode()
    root = scope.get("root_path", "").rstrip("/")
    if root and (path == root or path.startswith(root + "/")):  # servers before ASGI said so leave it out of the path
        raw = below(raw, root)
    query: bytes = scope.get("query_string", b"")
    return raw + b"?" + query if query else raw


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
