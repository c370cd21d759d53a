"""What may be asked of a mesh from outside: the control API and the command line answer from the same code.

Nothing is kept between two questions but the last picture, which serves, marked stale, when the registry is away.
"""

import asyncio
import logging
import secrets
import socket
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

from meshq.calling import Caller
from meshq.control import queues
from meshq.core import names
from meshq.core.callreq import read_call
from meshq.core.http import HttpRequest, HttpResponse
from meshq.core.instances import EMPTY, Snapshot
from meshq.core.selectors import Address
from meshq.ports import Broker, Clock, Metrics, QueueStats, Registry, RegistryAway

logger = logging.getLogger(__name__)

ListQueues = Callable[[], Awaitable[list[QueueStats]]]
"""Every queue of the broker with its figures. Raises OSError when nobody answers."""


class Unreachable(Exception):
    """A part of the mesh that the question needs does not answer; the message says which and what to do."""


class Mesh:
    """`broker` and `registry` are opened and closed here; without one of them, what needs it raises Unreachable."""

    def __init__(
        self,
        service: str,
        domain: str,
        broker: Broker | None,
        registry: Registry | None,
        clock: Clock,
        metrics: Metrics,
        list_queues: ListQueues | None,
    ) -> None:
        self._domain = domain
        self._broker = broker
        self._registry = registry
        self._list_queues = list_queues
        self._picture = EMPTY
        self._listing_fault = ""
        self._caller: Caller | None = None
        if broker is not None:
            instance = names.instance_id(socket.gethostname(), secrets.token_hex(3))
            self._caller = Caller(broker, clock, metrics, lambda: self._picture, service, instance)

    async def open(self) -> None:
        if self._registry is not None:
            await self._registry.open()
        if self._broker is not None:
            await self._broker.open()

    async def close(self) -> None:
        if self._broker is not None:
            await self._broker.close()
        if self._registry is not None:
            await self._registry.close()

    async def picture(self) -> Snapshot:
        """Who is there now, or, marked stale, when the registry was last asked. Raises Unreachable."""
        if self._registry is None:
            raise Unreachable("the registry is not known: set MESHQ_REGISTRY_URL")
        try:
            self._picture = await self._registry.snapshot()
        except RegistryAway as away:
            if self._picture is EMPTY:
                raise Unreachable(f"{away}; is it running, and is its URL right?") from away
            self._picture = replace(self._picture, stale=True)
        return self._picture

    async def queues(self, everything: bool) -> list[dict[str, Any]]:
        """Rows as meshq.control.queues.rows makes them. Raises Unreachable."""
        broker = self._open_broker()
        try:
            wanted = queues.expected(await self.picture())
        except Unreachable as fault:
            logger.warning("%s; only the queues that the broker lists are shown", fault)
            wanted = []
        listed = await self._listed()
        there = {figures.queue for figures in listed}
        asked = await broker.stats([queue for queue in wanted if queue not in there])
        return queues.rows(queues.merged(listed, asked), everything)

    async def call(self, request: HttpRequest, address: Address, target: bytes) -> HttpResponse:
        """One waited call, as through a sidecar. Raises meshq.core.errors.Refused, Unreachable."""
        await self.picture()
        self._open_broker()
        assert self._caller is not None
        call = read_call(request, address, target, f"{address.service}.{self._domain}".encode())
        answer: asyncio.Future[HttpResponse] = asyncio.get_running_loop().create_future()

        def done(response: HttpResponse) -> None:
            if not answer.done():
                answer.set_result(response)

        give_up = self._caller.call(call, done)
        try:
            return await answer
        except asyncio.CancelledError:
            give_up()
            raise

    def status(self) -> dict[str, Any]:
        """How the parts are, as of the last time they were asked."""
        state = None if self._broker is None else self._broker.state
        return {
            "broker": {
                "publishing": state is not None and state.publishing,
                "consuming": state is not None and state.consuming,
                "fault": "not known" if state is None else state.fault,
            },
            "registry": {
                "services": len(self._picture.services),
                "instances": self._picture.instance_count,
                "stale": self._picture.stale,
            },
            "queueFigures": self._listing_fault or "ok",
        }

    def _open_broker(self) -> Broker:
        if self._broker is None:
            raise Unreachable("the broker is not known: set MESHQ_BROKER_URL")
        state = self._broker.state
        if not state.publishing:
            raise Unreachable(state.fault or "the broker is being connected to: try again in a moment")
        return self._broker

    async def _listed(self) -> list[QueueStats]:
        """Every queue, where the broker tells; else none, and the reason is said once."""
        if self._list_queues is None:
            return []
        try:
            found = await self._list_queues()
        except OSError as error:
            fault = str(error)
            if fault != self._listing_fault:
                logger.warning("%s; only what the broker itself says is shown", fault)
            self._listing_fault = fault
            return []
        self._listing_fault = ""
        return found
