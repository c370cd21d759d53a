"""Serving a sidecar: over its link, or where it has none over HTTP at $PORT; subscriptions; and an end that loses nothing.

The end: goodbye is said, so that the sidecar gives nothing more (what it gave in that moment is given back, burning no attempt); the
handlers that run finish, and may still call others; then the connection closes. A handler whose link broke is cancelled, because its
message is given to somebody else.
"""

import asyncio
import logging
import os
import signal
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager, nullcontext
from contextvars import copy_context
from functools import partial
from typing import TYPE_CHECKING, Any

from meshq.core.http import Failed, Failure
from meshq.linking import LinkExchange
from meshq.sdk.bodies import MAX_BODY
from meshq.sdk.problem import Problem

if TYPE_CHECKING:
    from meshq.sdk.service import Service

logger = logging.getLogger(__name__)

THREADS = 256
"""Most handlers that run in threads at once; how many really do MESHQ_APP_CONCURRENCY says. asyncio's own number, a few more than there
are CPUs, would make messages wait here that another instance could handle."""
_SIGNALS = (signal.SIGTERM, signal.SIGINT)
DRAIN = 25.0
"""Seconds for the handlers that run when it ends: MESHQ_DRAIN_TIMEOUT's default, below a pod's grace period."""


class Serving:
    """One service, from its first message to its last."""

    def __init__(self, service: "Service") -> None:
        self._service = service
        self._running: set[asyncio.Task[None]] = set()
        self._lost = asyncio.Event()
        self._ready = asyncio.Event()
        self._server: Any = None
        self._context = copy_context()

    async def run(self) -> None:
        """Until cancelled; then, after what `Service.serve` says, returns. Raises Problem."""
        service = self._service
        async with AsyncExitStack() as stack:
            stack.push_async_callback(service.mesh.close)  # last: the lifespan may still call, to the very end
            await stack.enter_async_context(service.lifespan() if service.lifespan is not None else nullcontext())
            service.mesh.serve(self._take, self._lost.set)
            await service.mesh.close()  # what is open already was opened by one who serves nothing
            try:
                await self._keep()
            except asyncio.CancelledError:
                await asyncio.shield(self._finish())
            finally:
                service.mesh.serve(None)

    async def ready(self) -> None:
        """Wait until the sidecar gives messages and the subscriptions are made."""
        await self._ready.wait()

    async def _keep(self) -> None:
        mesh = self._service.mesh
        known = False
        while True:
            self._lost.clear()
            try:
                await mesh.transport.open()
                await self._service.subscribe()
            except Problem as problem:
                if not known or not problem.retryable:
                    raise
                logger.warning("the sidecar is away: %s", problem.detail)
                continue
            if not known:
                logger.info("%s %s is served by %s", self._service.name, self._service.version, mesh.url)
            known = True
            if not self._links:
                await self._listen()
            self._ready.set()
            await self._lost.wait()
            logger.info("the link to the sidecar is gone: it is opened again")

    @property
    def _links(self) -> bool:
        from meshq.sdk.link_transport import LinkWay

        return isinstance(self._service.mesh.transport.way, LinkWay)

    async def _listen(self) -> None:
        if self._server is not None:
            return
        from meshq.sdk.http_serving import HttpServing

        port = os.environ.get("PORT") or os.environ.get("MESHQ_APP_PORT") or ""
        if not port.isdigit():
            raise Problem(
                "unavailable",
                "the sidecar offers no link, and neither PORT nor MESHQ_APP_PORT says where to listen for it",
                retryable=False,
                by_mesh=True,
            )
        self._server = HttpServing(self._service.respond)
        await self._server.listen("127.0.0.1", int(port))

    # --- over the link --------------------------------------------------------------------------------------------------------

    def _take(self, exchange: LinkExchange) -> None:
        # Not in the context of whoever happened to open the link: that may have been a handler.
        task = asyncio.get_running_loop().create_task(self._handle(exchange), context=self._context.copy())
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        exchange.on_hangup(partial(_cancel, task))

    async def _handle(self, exchange: LinkExchange) -> None:
        try:
            response = await self._service.respond(exchange.request)
        except BaseException:
            exchange.fail(Failed(Failure.BROKEN, "the handler was cancelled"))
            raise
        if len(response.body) > MAX_BODY:
            exchange.fail(Failed(Failure.TOO_LARGE, f"the answer is over {MAX_BODY} bytes", response.status))
        else:
            exchange.respond(response)

    # --- the end --------------------------------------------------------------------------------------------------------------

    async def _finish(self) -> None:
        way = self._service.mesh.transport.way
        self._service.mesh.serve(None)
        leave = getattr(way, "leave", None)
        if leave is not None:
            leave()
        if self._server is not None:
            await self._server.close(DRAIN)
        if self._running:
            logger.info("%d handlers finish", len(self._running))
            await asyncio.wait(self._running, timeout=DRAIN)
        for task in list(self._running):
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)


def _cancel(task: "asyncio.Task[None]") -> None:
    task.cancel()


@asynccontextmanager
async def serving(service: "Service") -> AsyncIterator[None]:
    """See Service.serving."""
    served = Serving(service)
    task = asyncio.get_running_loop().create_task(served.run(), name=f"serve {service.name}")
    task.add_done_callback(partial(_say_failure, service.name))
    ready = asyncio.get_running_loop().create_task(served.ready())
    try:
        await asyncio.wait((task, ready), return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            await task
        yield
    finally:
        ready.cancel()
        task.cancel()
        await asyncio.gather(task, ready, return_exceptions=True)
    if not task.cancelled():
        task.result()  # it failed meanwhile


def _say_failure(name: str, task: "asyncio.Task[None]") -> None:
    """At once: the body may go on for long."""
    if not task.cancelled() and (error := task.exception()) is not None:
        logger.error("%s is not served any more: %s", name, error)


def run(service: "Service") -> None:
    """See Service.run."""
    logging.basicConfig(format="%(levelname)s %(name)s: %(message)s", level=logging.INFO)
    with asyncio.Runner(loop_factory=_new_loop) as runner:
        runner.run(_until_told(service))


async def _until_told(service: "Service") -> None:
    loop = asyncio.get_running_loop()
    task = loop.create_task(service.serve(), name=f"serve {service.name}")

    def stop() -> None:
        task.cancel()
        for number in _SIGNALS:  # a second one ends the process at once
            loop.remove_signal_handler(number)
            signal.signal(number, signal.SIG_DFL)

    for number in _SIGNALS:
        loop.add_signal_handler(number, stop)
    await asyncio.wait((task,))
    if not task.cancelled():
        task.result()


def _new_loop() -> asyncio.AbstractEventLoop:
    """uvloop's where that is installed (`pip install uvloop`), else asyncio's own; with room for handlers that are not async."""
    try:
        import uvloop
    except ImportError:
        loop = asyncio.new_event_loop()
    else:
        loop = uvloop.new_event_loop()
    loop.set_default_executor(ThreadPoolExecutor(THREADS, "meshq-handler"))
    return loop


__all__ = ["Serving", "run", "serving"]
