"""What may be asked of a mesh from outside: the control API and the command line answer from the same code.

Nothing is kept between two questions but the last picture, which serves, marked stale, when the registry is away.
"""

import asyncio
import logging
import secrets
import socket
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

from meshq.calling import Caller
from meshq.control import queues
from meshq.control.dead import DeadLetters
from meshq.control.orders import Orders
from meshq.control.pictures import Pictures
from meshq.control.registration import Registration
from meshq.control.retiring import Retiring
from meshq.control.routes import Routes
from meshq.control.scale_api import Scale
from meshq.control.unreachable import Unreachable
from meshq.core import names, topology
from meshq.core.callreq import read_call
from meshq.core.events import EventAddress
from meshq.core.headers import carry
from meshq.core.http import HttpRequest, HttpResponse, header
from meshq.core.instances import Snapshot
from meshq.core.selectors import Address
from meshq.ports import Broker, Clock, Metrics, QueueStats, Registry
from meshq.sending import Sender
from meshq.sending_events import Publishing
from meshq.tasks import Tasks
from meshq.waking import Waking

logger = logging.getLogger(__name__)

NO_BROKER = "the broker is not known: set MESHQ_BROKER_URL"

ListQueues = Callable[[], Awaitable[list[QueueStats]]]
"""Every queue of the broker with its figures. Raises OSError when nobody answers."""


class Logged(NamedTuple):
    """The log of an event."""

    queue: str
    created: bool
    fault: str
    """Why it could not be made; "" when it is there."""


class Mesh:
    """`broker` and `registry` are opened and closed here; without one of them, what needs it raises Unreachable. `scale` tells how
    many replicas there should be, None where nobody can know."""

    def __init__(
        self,
        service: str,
        domain: str,
        broker: Broker | None,
        registry: Registry | None,
        clock: Clock,
        metrics: Metrics,
        list_queues: ListQueues | None,
        scale: Scale | None = None,
    ) -> None:
        self.scale = scale
        self._domain = domain
        self._broker = broker
        self._list_queues = list_queues
        self.pictures = Pictures(registry)
        self.routes = Routes(self.pictures, clock)
        self.orders = Orders(self.pictures)
        self.registration = Registration(self.pictures)
        self.retiring = Retiring(self.pictures, self._open_broker, self._listed_if_told, clock)
        self._listing_fault = ""
        self._tasks = Tasks()
        self._caller: Caller | None = None
        self._sender: Sender | None = None
        self._publishing: Publishing | None = None
        self._shared_declared = False
        self._dead: DeadLetters | None = None
        if broker is not None:
            instance = names.instance_id(socket.gethostname(), secrets.token_hex(3))
            wake = (lambda topic: None) if registry is None else Waking(registry, clock, self._tasks).wake
            self._caller = Caller(broker, clock, metrics, lambda: self.pictures.last, service, instance, wake=wake)
            self._sender = Sender(
                broker,
                clock,
                metrics,
                lambda: self.pictures.last,
                service,
                self._caller,
                self._tasks,
                _nobody_asks_for_results,
                has_app=False,
                wake=wake,
            )
            self._publishing = Publishing(self._sender.publish, clock, metrics, service)
            self._dead = DeadLetters(broker, clock, self._sender.publish, self.picture, self._listed)

    async def open(self) -> None:
        await self.pictures.open()
        if self._broker is not None:
            await self._broker.open()

    async def close(self) -> None:
        await self._tasks.close()
        if self.scale is not None:
            await self.scale.close()
        if self._broker is not None:
            await self._broker.close()
        await self.pictures.close()

    async def picture(self) -> Snapshot:
        """Who is there now, or, marked stale, when the registry was last asked. Raises Unreachable."""
        return await self.pictures.now()

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

    @property
    def dead(self) -> DeadLetters:
        """Raises Unreachable."""
        if self._dead is None:
            raise Unreachable(NO_BROKER)
        return self._dead

    async def call(self, request: HttpRequest, address: Address, target: bytes) -> HttpResponse:
        """One call, as through a sidecar; of one that is accepted durably (`Prefer: respond-async`) the answer is not kept here.
        Raises meshq.core.errors.Refused, Unreachable."""
        await self.picture()
        broker = self._open_broker()
        assert self._caller is not None
        assert self._sender is not None
        call = read_call(request, address, target, f"{address.service}.{self._domain}".encode())
        if call.durable is not None and call.durable.delay:
            await self._declare_shared(broker)
        answer: asyncio.Future[HttpResponse] = asyncio.get_running_loop().create_future()

        def done(response: HttpResponse) -> None:
            if not answer.done():
                answer.set_result(response)

        give_up = self._caller.call(call, done) if call.durable is None else self._sender.send(call, done)
        try:
            return _without_location(await answer) if call.durable is not None else await answer
        except asyncio.CancelledError:
            give_up()
            raise

    async def publish(self, request: HttpRequest) -> HttpResponse:
        """One event or a batch, as through a sidecar; `request.target` is /v1/publish/<event>. Raises Unreachable."""
        await self._declare_shared(self._open_broker())
        assert self._publishing is not None
        answer: asyncio.Future[HttpResponse] = asyncio.get_running_loop().create_future()

        def done(response: HttpResponse) -> None:
            if not answer.done():
                answer.set_result(response)

        self._publishing.publish(request, carry(request.headers), request.target, done)
        return await answer

    async def log(self, event: EventAddress) -> Logged:
        """Keep every such event from now on. Raises Unreachable."""
        broker = self._open_broker()
        await self._declare_shared(broker)
        queue = topology.log_queue(event.topic)
        there = await broker.stats([queue])
        await broker.declare(topology.log(event.topic))
        fault = broker.state.fault
        return Logged(queue, not there, fault if queue in fault else "")

    async def _declare_shared(self, broker: Broker) -> None:
        """The first sidecar makes what is missing of it; but none may ever have been."""
        if not self._shared_declared:
            await broker.declare(topology.shared())
            self._shared_declared = True

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
                "services": len(self.pictures.last.services),
                "instances": self.pictures.last.instance_count,
                "stale": self.pictures.last.stale,
            },
            "queueFigures": self._listing_fault or "ok",
        }

    def _open_broker(self) -> Broker:
        if self._broker is None:
            raise Unreachable(NO_BROKER)
        state = self._broker.state
        if not state.publishing:
            raise Unreachable(state.fault or "the broker is being connected to: try again in a moment")
        return self._broker

    async def _listed(self) -> list[QueueStats]:
        """Every queue, where the broker tells; else none."""
        return await self._listed_if_told() or []

    async def _listed_if_told(self) -> list[QueueStats] | None:
        """Every queue; None where the broker does not tell, and the reason is said once."""
        if self._list_queues is None:
            return None
        try:
            found = await self._list_queues()
        except OSError as error:
            fault = str(error)
            if fault != self._listing_fault:
                logger.warning("%s; only what the broker itself says is shown", fault)
            self._listing_fault = fault
            return None
        self._listing_fault = ""
        return found


def _nobody_asks_for_results(ident: str, service: str) -> None:
    """There is no store behind the control API: who sends through it sees what was accepted, not the answer."""


def _without_location(response: HttpResponse) -> HttpResponse:
    """There is nothing here under which the answer could be asked for."""
    if response.status != 202 or header(response.headers, b"meshq-served-by") is not None:
        return response
    return response._replace(headers=[field for field in response.headers if field[0] != b"Location"])
