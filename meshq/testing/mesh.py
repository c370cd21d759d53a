"""`TestMesh`: a whole mesh in memory inside one test. What is put together is what runs in production: the sidecar, the broker, the
registry and the store of `meshq dev`, the SDK over its link. Only sockets are left out, and time is the test's."""

import asyncio
import types
from collections.abc import Coroutine, Mapping
from contextlib import AsyncExitStack
from typing import Any, Self, TypeVar

from meshq.adapters.embedded_delivery import Holder
from meshq.core.dead import Letter, read
from meshq.core.names import BadName, check_service, topic
from meshq.core.topology import dead_queue
from meshq.ports import Delivery
from meshq.sdk import context as sdk_context
from meshq.sdk.mesh import Mesh
from meshq.sdk.problem import Problem
from meshq.sdk.service import Service
from meshq.testing.assertions import Assertions
from meshq.testing.faults import Fault, Faults
from meshq.testing.loop_time import LoopTime
from meshq.testing.messages import Dead, Message, dead
from meshq.testing.unit import DOMAIN, Parts, Unit

T = TypeVar("T")

LOOK_AGAIN = 0.01
"""Seconds of the mesh's clock between two looks whether a change is known everywhere."""
SERVES = "serve {}"
"""Name of the task in which the SDK serves a service; while the sidecar is away it tries again every now and then."""
NOT_OPEN = (
    "this TestMesh is not open: use it inside `async with TestMesh() as mesh:`. The fixture `mesh` is opened around the test itself; "
    "a fixture that serves something opens one of its own"
)
MOST_DEAD = 10_000


class TestMesh(Assertions):
    """A mesh in memory, for the tests of its services.

    Time stands still but for `advance`: delays, retries, timeouts and deadlines, of the mesh and of everything else on this event loop
    (`asyncio.sleep` too), come when the clock is turned to them, in order, and not before. Opening, closing, `serve`, `away` and `back`
    let pass what they need, at most a few seconds. It takes over the clock of asyncio's own event loop while it is open; on another
    (uvloop) it does not work. Handlers that are not async run in threads; the clock waits for them.

    Args:
        patience: real seconds after which a test that waits, while nothing happens and the clock stands, fails with StandsStill.

    Example:
        async with TestMesh() as mesh:
            await mesh.serve(orders)
            shop = mesh.client("shop")
            await shop.send("orders", "POST /create", Order(item="tea"), delay=3600)
            await mesh.advance(3600)
            mesh.assert_sent("orders", "POST /create", Order(item="tea"), times=1)
    """

    __test__ = False
    """To pytest, which would take it for a class of tests by its name."""

    def __init__(self, *, patience: float = 10.0) -> None:
        self._patience = patience
        self._loop_time: LoopTime | None = None
        self._shared: Parts | None = None
        """None before it was opened, which happens once."""
        self._units: list[Unit] = []
        self._apps = AsyncExitStack()
        self._sidecars = AsyncExitStack()
        self._instances: dict[str, int] = {}

    def __repr__(self) -> str:
        there = ", ".join(each.instance for each in self._units)
        return f"<TestMesh +{self._time.passed:.3f} s: {there}>" if self._loop_time else "<TestMesh, not open>"

    # --- life -----------------------------------------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        """Raises RuntimeError: on an event loop that is not asyncio's own, or has a TestMesh; opened again."""
        if self._shared is not None:
            raise RuntimeError("a TestMesh is opened once; the next test has one of its own")
        self._loop_time = LoopTime(self._patience, DOMAIN, self._connect)
        try:
            await self._open(self._loop_time)
        except BaseException:
            self._loop_time.give_back()
            raise
        return self

    async def _open(self, time: LoopTime) -> None:
        self._shared = Parts(time.clock, lambda: time.passed)
        self._sidecars.push_async_callback(self._shared.close)
        self._turn_clock_of_handlers()
        self._operator = self._parts.hub.connect("operator")
        await self._operator.open()

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        """Handlers that run finish, as when a pod stops; then nothing is left of the mesh. Raises StandsStill."""
        time = self._time
        try:
            await time.flow(self._close())
        finally:
            time.give_back()
            self._loop_time = None
        if time.fault is not None and time.leave(kind):
            raise time.fault from None

    async def _close(self) -> None:
        async with self._sidecars, self._apps:
            """The apps go before the sidecars, the last first."""

    def _turn_clock_of_handlers(self) -> None:
        """`Context.time_left` reads the app's own clock."""
        own: Any = sdk_context
        self._sidecars.callback(setattr, own, "time", own.time)
        own.time = types.SimpleNamespace(time=lambda: self.now)

    async def watch(self, work: Coroutine[Any, Any, T]) -> T:
        """What it returns or raises. Raises StandsStill in this task, where another one opened this mesh."""
        return await self._time.watch(work)

    @property
    def _time(self) -> LoopTime:
        if self._loop_time is None:
            raise RuntimeError(NOT_OPEN)
        return self._loop_time

    @property
    def _parts(self) -> Parts:
        if self._loop_time is None or self._shared is None:
            raise RuntimeError(NOT_OPEN)
        return self._shared

    # --- who is there ---------------------------------------------------------------------------------------------------------

    async def serve(self, service: Service, *, settings: Mapping[str, str] | None = None) -> None:
        """Start a sidecar for the service and serve it, until this mesh is closed. Returns when everybody knows that it is ready.
        Another Service of the same name is one more instance.

        Args:
            settings: of its sidecar, `{"MESHQ_ORDERED": "1", "MESHQ_RETRY": "3:1s,5s"}`.

        Raises:
            BadSettings: a setting is malformed.
            Problem: a subscription is refused.
            ValueError: this very Service is served already.
        """
        if Unit.has(service):
            raise ValueError(f"{service!r} is served already: another instance is another Service of that name")
        unit = self._add(service.name, service.version, settings)
        await self._time.flow(self._serve(unit, service))

    async def _serve(self, unit: Unit, service: Service) -> None:
        await unit.start()
        self._time.upkeep.add(SERVES.format(service.name))
        self._apps.callback(unit.lead_here(service.mesh))
        self._apps.callback(unit.let_go, service)
        await self._apps.enter_async_context(unit.serving(service))
        unit.serves = True
        await self._known()

    def client(self, name: str, *, mesh: Mesh | None = None, settings: Mapping[str, str] | None = None) -> Mesh:
        """A Mesh that is the service `name`, for calls from the test; with handlers (`serve`) or without. Closed with this mesh.

        Args:
            mesh: one that the code under test has already; while this mesh is open, it is that service.
            settings: as of `serve`, where it has no sidecar yet.

        Raises:
            ValueError: the name is no service's.
            BadSettings: as `serve`.
        """
        try:
            check_service(name)
        except BadName as error:
            raise ValueError(str(error)) from error
        unit = next((each for each in self._units if each.name == name), None)
        unit = unit or self._add(name, "1.0.0", settings)
        client = mesh or Mesh(f"http://{unit.host}:80", token="", link=True)
        self._apps.callback(unit.lead_here(client))
        self._apps.push_async_callback(client.close)
        return client

    def _add(self, name: str, version: str, settings: Mapping[str, str] | None) -> Unit:
        number = self._instances[name] = self._instances.get(name, 0) + 1
        unit = Unit(self._parts, name, version, f"{name}-{number}", settings or {})
        self._units.append(unit)
        self._sidecars.push_async_callback(unit.stop)
        return unit

    async def _connect(self, host: str, protocol: Any) -> Any:
        """Raises ConnectionRefusedError."""
        for each in self._units:
            if each.host == host:
                return await each.connect(protocol)
        raise ConnectionRefusedError(f"there is no {host} in this mesh")

    async def _known(self) -> None:
        """Return when every sidecar knows what is."""
        while not all(each.up_to_date() for each in self._units):  # noqa: ASYNC110 - by a clock that goes on by itself meanwhile
            await asyncio.sleep(LOOK_AGAIN)

    def _of(self, service: str) -> list[Unit]:
        found = [each for each in self._units if each.name == service]
        if not found:
            there = ", ".join(sorted({each.name for each in self._units})) or "nobody"
            raise ValueError(f"there is no {service!r} in this mesh; there is {there}")
        return found

    # --- time -----------------------------------------------------------------------------------------------------------------

    @property
    def now(self) -> float:
        """Unix seconds by the mesh's clock, which began with the real time and has gone as far as it was turned."""
        return self._time.clock.mesh_ms() / 1000

    async def settle(self) -> None:
        """Return when nothing is in flight or due now: what was sent was handled, or waits for the clock, or for nobody who is there.
        Handlers that wait for sockets of their own are not waited for."""
        await self._time.settle()

    async def advance(self, seconds: float) -> None:
        """Let `seconds` pass: everything happens at its time, in its order. Raises ValueError for a negative number."""
        await self._time.advance(seconds)

    # --- what goes wrong ------------------------------------------------------------------------------------------------------

    def fail(
        self,
        service: str,
        operation: str | None = None,
        *,
        times: int | None = 1,
        status: int = 503,
        retry_after: float | None = None,
    ) -> None:
        """Its next answers are failures; its handlers do not run.

        Args:
            operation: only of `POST /create`, `GET /orders/{id}`, or the event `payments.settled`; None: of any.
            times: how many; None: until `heal`.
            status: 400 to 999.
            retry_after: seconds.

        Raises:
            ValueError: there is no such service in this mesh; the status or `retry_after` is none.
        """
        problem = Problem("test-fault", "the test wants this to fail", status=status, retry_after=retry_after)
        self._fault(service, Fault(operation, times, problem.as_response()))

    def break_off(self, service: str, operation: str | None = None, *, times: int | None = 1) -> None:
        """Its app breaks off before its next answers, as when its process was killed; it is there again at once. Args, Raises: as
        `fail`."""
        self._fault(service, Fault(operation, times, breaks=True))

    def slow(self, service: str, operation: str | None = None, *, seconds: float, times: int | None = 1) -> None:
        """Its next handlers begin so much later, by the mesh's clock. Args, Raises: as `fail`."""
        self._fault(service, Fault(operation, times, seconds=seconds))

    def heal(self, service: str) -> None:
        """No more of `fail`, `break_off` and `slow`."""
        self._faults(service).given.clear()

    def _fault(self, service: str, fault: Fault) -> None:
        self._faults(service).given.append(fault)

    def _faults(self, service: str) -> Faults:
        """Raises ValueError."""
        self._of(service)
        return self._parts.faults[service]

    async def away(self, service: str) -> None:
        """Its app is gone, all instances: what it handled breaks off, what is for it waits in its queues. Returns when everybody knows.
        Raises ValueError: as `fail`."""
        for each in self._of(service):
            each.here = False
            each.break_off()
        await self._time.flow(self._known())

    async def back(self, service: str) -> None:
        """It is there again after `away`. Returns when everybody knows. Raises ValueError: as `fail`."""
        for each in self._of(service):
            each.here = True
        await self._time.flow(self._known())

    async def broker_away(self) -> None:
        """No sidecar reaches the broker, until `broker_back`."""
        for each in self._units:
            each.broker.drop("the test has the broker away")
        await self.settle()

    async def broker_back(self) -> None:
        for each in self._units:
            await each.reconnect()
        await self.settle()

    # --- what there was -------------------------------------------------------------------------------------------------------

    def sent(self, service: str, operation: str | None = None) -> list[Message]:
        """Calls to the service that the broker accepted, waited and durable, in their order; one that was tried again is one.

        Args:
            operation: `POST /create`; `GET /orders/{id}` is that of any id; None: any.

        Raises:
            ValueError: the operation is malformed.
        """
        return self._parts.recorder.calls(service, operation)

    def published(self, event: str) -> list[Message]:
        """Events of this name, `payments.settled`, or also of this major, `payments.settled@2`, in their order."""
        return self._parts.recorder.events(event)

    def dead(self, service: str) -> list[Dead]:
        """The dead letters of the service, the oldest first. Raises ValueError: as `fail`."""
        majors = sorted({major for each in self._of(service) for major in each.majors})
        return [each for major in majors for each in self._dead(dead_queue(topic(service, major)))]

    def _dead(self, queue: str) -> list[Dead]:
        deliveries: list[Delivery] = []
        holder = Holder(MOST_DEAD, deliveries.append)
        self._parts.hub.hold(queue, holder, MOST_DEAD, self._operator)
        letters = [dead(_letter(each)) for each in deliveries]
        holder.lose()
        return letters


def _letter(found: Delivery) -> Letter:
    headers = found.properties().get("headers") or {}
    return read(found.body, found.queue, found.content_type, found.message_id, found.user_id, found.reply_to, headers)
