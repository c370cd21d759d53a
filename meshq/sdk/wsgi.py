"""The handlers of a service as a WSGI application (PEP 3333): to mount in Flask or Django, or for a WSGI server.

All handlers of a process run on one event loop in a thread of its own; the server's threads wait there. A process that the server
forks (gunicorn's workers) has a loop, connections and a lifespan of its own. That is why the lifespan waits for the first request:
what a process that only forks others had opened, all of them would hold.
"""

import asyncio
import atexit
import logging
from asyncio import AbstractEventLoop
from collections.abc import Callable, Coroutine, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypeVar

from meshq.core.http import HttpRequest, HttpResponse
from meshq.sdk.loop_thread import LoopThread
from meshq.sdk.mounting import fields, living
from meshq.sdk.problem import Problem
from meshq.sdk.serving import THREADS
from meshq.sdk.wsgi_environ import Environ, request_of, root_of, status_line

if TYPE_CHECKING:
    from meshq.sdk.service import Service

logger = logging.getLogger(__name__)

LAST = 10.0
"""Seconds that the service's lifespan has for its end, when the process ends."""

T = TypeVar("T")
StartResponse = Callable[[str, list[tuple[str, str]]], object]


class Wsgi:
    """Made by `Service.wsgi`. The service's lifespan begins with a process's first request, and ends with the process, or `close`.

    Example:
        app.wsgi_app = DispatcherMiddleware(app.wsgi_app, {"/mesh": orders.wsgi()})
    """

    def __init__(self, service: "Service") -> None:
        self._service = service
        self._thread = LoopThread()
        self._subscribed = False
        """By `start`; forked processes need not do it again."""
        # Of the thread's loop; nothing else touches it.
        self._life: _Life | None = None

    def __repr__(self) -> str:
        return f"<Wsgi {self._service.name}>"

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        """Raises what the service's lifespan raises when it begins."""
        try:
            request, root = request_of(environ), root_of(environ)
            response = self._run(lambda: self._respond(request, root))
        except Problem as problem:
            response = problem.as_response()
        head = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in fields(response)]
        start_response(status_line(response.status), head)
        return [response.body]

    def start(self, prefix: str = "") -> None:
        """Make the subscriptions now; else they are made when the first request comes, behind its back. `prefix` is where this is
        mounted. Waits for a sidecar that is not there yet, at most MESHQ_HEALTH_TIMEOUT. Once does for all processes that are forked
        from here.

        Raises:
            Problem: there is no sidecar; a subscription is refused.
        """
        self._run(lambda: self._service.subscribe(prefix))
        self._subscribed = True

    def close(self) -> None:
        """End the service's lifespan, close the mesh, end the thread. A later request begins anew."""
        atexit.unregister(self.close)
        if self._thread.running:
            self._thread.run(self._end)
            self._thread.stop()

    def _run(self, make: Callable[[], Coroutine[Any, Any, T]]) -> T:
        if not self._thread.running:
            atexit.register(self.close)
        return self._thread.run(make)

    # --- on the loop ----------------------------------------------------------------------------------------------------------

    async def _respond(self, request: HttpRequest, root: str) -> HttpResponse:
        life = await self._begun()
        if not self._subscribed:
            life.subscribe(root)
        return await self._service.respond(request)

    async def _begun(self) -> "_Life":
        loop = asyncio.get_running_loop()
        if self._life is None or self._life.loop is not loop:  # the other one is a parent process's
            loop.set_default_executor(ThreadPoolExecutor(THREADS, "meshq-handler"))
            self._life = _Life(self._service, loop)
        life = self._life
        try:
            await asyncio.shield(life.begun)
        except Exception:
            if self._life is life:  # the next request tries again
                self._life = None
            raise
        return life

    async def _end(self) -> None:
        life, self._life = self._life, None
        if life is not None:
            await life.end()
        await self._service.mesh.close()


class _Life:
    """Of a service on one loop: its lifespan, which one task enters and leaves, and its subscriptions."""

    def __init__(self, service: "Service", loop: AbstractEventLoop) -> None:
        self.loop = loop
        self.begun: asyncio.Future[None] = loop.create_future()
        self._service = service
        self._ending = asyncio.Event()
        self._subscribing: asyncio.Task[None] | None = None
        self._living = loop.create_task(self._live())

    async def _live(self) -> None:
        try:
            async with living(self._service):
                self.begun.set_result(None)
                await self._ending.wait()
        except Exception as error:
            if self.begun.done():
                logger.exception("the end of %s failed", self._service.name)
            else:
                self.begun.set_exception(error)

    def subscribe(self, prefix: str) -> None:
        """Once, in the background. The log says why there are none."""
        if self._subscribing is None:
            self._subscribing = self.loop.create_task(self._service.subscribe(prefix))
            self._subscribing.add_done_callback(self._subscribed)

    def _subscribed(self, task: "asyncio.Task[None]") -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("%s is given no events: %s", self._service.name, error)
            if isinstance(error, Problem) and error.retryable:
                self._subscribing = None  # the next request tries again

    async def end(self) -> None:
        if self._subscribing is not None:
            self._subscribing.cancel()
        self._ending.set()
        _, late = await asyncio.wait((self._living,), timeout=LAST)
        if late:
            logger.error("the lifespan of %s did not end within %g s", self._service.name, LAST)
            self._living.cancel()
            await asyncio.wait((self._living,), timeout=1.0)
