"""The running event loop's time, taken over: it stands still until somebody turns it.

Everything in the mesh waits by the loop (`call_later`, `asyncio.sleep`, `asyncio.timeout`) and reads a Clock, so one ManualClock that
is both makes all of it happen when the test says, and not before. What is taken over of the loop, until `give_back`:

- `time`, and the selector's `select`, which asyncio calls with a timeout when nothing is left to do: that is the moment at which the
  clock may move on. While it stands, `select` waits for as long as it takes, so threads and sockets of the test's own work.
- `run_in_executor`: while a thread works the clock does not move, because only in real time will it be done. The threads are ours, so
  that they end with this.
- `create_connection`, to the sidecars in here.
- `call_at`, to know which timers are the sidecars' own upkeep: a renewal every 5 s, a probe, a look at how much waits. They happen
  when something else does, once, however long that took. Else ten days would be half a million renewals.

This reads `_scheduled` and `_selector`, which asyncio's own loops have had in every version; another loop is refused.
"""

import asyncio
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar
from weakref import WeakSet

from meshq.adapters.clock import ManualClock, SystemClock

T = TypeVar("T")
Connect = Callable[[str, Any], Coroutine[Any, Any, Any]]
"""From a host and a protocol to the transport of a new connection. Raises OSError."""

UPKEEP = frozenset(
    {
        "keep the registration",
        "follow the registry",
        "look at what waits",
        "serve the app's links",
    }
)
"""Names of tasks of a sidecar without a port that go on for ever, by time alone; and those that begin with COPYING."""
COPYING = "copy the log for "
TICK = 0.002
"""Seconds to which time is kept: what is due so little later counts as due. The broker's own timers are rounded to 1 ms."""
SMALLEST = 1e-9
"""Seconds that are none: the loop itself calls a timer that is due in less."""
FLOWS_MOST = 600.0
"""Seconds of the clock in which opening and closing are done, or never."""


class StandsStill(Exception):
    """The test waits for something that no time it has let pass, and nothing that runs, will bring about."""


class LoopTime:
    """Of the running loop. `patience`: real seconds without anything happening after which a test that waits is told so."""

    def __init__(self, patience: float, domain: str, connect: Connect) -> None:
        """Connections to hosts whose names end with `domain` are made by `connect`. Raises RuntimeError."""
        loop: Any = asyncio.get_running_loop()
        if not _is_asyncios_own(loop):
            raise RuntimeError(f"TestMesh turns the clock of asyncio's own event loop, which {loop!r} is not")
        if "time" in vars(loop):
            raise RuntimeError("there is a TestMesh on this event loop already; one mesh can have many services")
        self.clock = ManualClock(loop.time(), SystemClock().mesh_ms())
        self.fault: StandsStill | None = None
        """Why the test was cancelled."""
        self._loop = loop
        self._patience = patience
        self._opener = asyncio.current_task()
        self._began = self.clock.monotonic()
        self._select = loop._selector.select
        self._call_at = loop.call_at
        self.upkeep = set(UPKEEP)
        """Names of tasks whose timers are upkeep."""
        self._upkeep_timers: WeakSet[asyncio.TimerHandle] = WeakSet()
        self._ours: WeakSet[asyncio.TimerHandle] = WeakSet()
        """Timers of the mesh, not of the test."""
        self._threads = ThreadPoolExecutor(thread_name_prefix="TestMesh")
        self._in_threads = 0
        self._idle: list[asyncio.Future[None]] = []
        """Told when nothing is left to do now."""
        self._turn: tuple[float, asyncio.Future[None]] | None = None
        """Where the clock goes then, and who is told when nothing is left to do there."""
        self._flows_until: list[float] = []
        self._turning = asyncio.Lock()
        self._domain = domain
        self._connect = connect
        self._create_connection = loop.create_connection
        loop.create_connection = self._connection
        loop.time = self.clock.monotonic
        loop.call_at = self._called_at
        loop.run_in_executor = self._run_in_thread
        loop._selector.select = self._selected

    def give_back(self) -> None:
        """The loop has its own time again. A sidecar that stops lets the last deadline ring in its empty table: not here. Idempotent."""
        for timer in self._ours:
            timer.cancel()
        for name in ("time", "call_at", "run_in_executor", "create_connection"):
            vars(self._loop).pop(name, None)
        vars(self._loop._selector).pop("select", None)
        self._threads.shutdown()

    def leave(self, kind: type[BaseException] | None) -> bool:
        """Whether the fault is to be raised: the cancellation that told of it came through, or was swallowed on its way."""
        if self._opener is not None and self._opener is asyncio.current_task():
            self._opener.uncancel()
        return kind is None or issubclass(kind, asyncio.CancelledError)

    async def watch(self, work: Coroutine[Any, Any, T]) -> T:
        """What it returns or raises. Raises StandsStill in its place: for who opened the mesh in a task that is no more."""
        self._opener = asyncio.current_task()
        try:
            return await work
        except asyncio.CancelledError as cancelled:
            fault, self.fault = self.fault, None
            if fault is not None and self.leave(type(cancelled)):
                raise fault from None
            raise
        finally:
            self._opener = None

    @property
    def passed(self) -> float:
        """Seconds that this clock has gone."""
        return self.clock.monotonic() - self._began

    # --- turning it -----------------------------------------------------------------------------------------------------------

    async def settle(self) -> None:
        """Return when nothing is left to do now."""
        idle = self._loop.create_future()
        self._idle.append(idle)
        await idle

    async def advance(self, seconds: float) -> None:
        """Let `seconds` pass; everything happens when it is due. Raises ValueError for a negative number."""
        if seconds < 0:
            raise ValueError(f"time does not go back {-seconds} s")
        async with self._turning:
            until = self.clock.monotonic() + seconds
            await self.settle()
            while (due := self._next()) is not None and due <= until + TICK:
                await self._turned_to(due)
            await self._turned_to(until)

    async def flow(self, work: Coroutine[Any, Any, T]) -> T:
        """What it returns or raises. Whenever nothing is left to do the clock goes on to what is due next."""
        until = self.clock.monotonic() + FLOWS_MOST
        self._flows_until.append(until)
        try:
            return await work
        finally:
            self._flows_until.remove(until)

    async def _turned_to(self, when: float) -> None:
        """Not from in here: asyncio's debug mode would say how long this callback took."""
        there = self._loop.create_future()
        self._turn = turn = when, there
        try:
            await there
        finally:
            if self._turn is turn:  # cancelled before it came to that
                self._turn = None

    def _next(self) -> float | None:
        """When something is due that is not upkeep."""
        timers = (each for each in self._loop._scheduled if not each.cancelled() and each not in self._upkeep_timers)
        return min((each.when() for each in timers), default=None)

    # --- what the loop calls --------------------------------------------------------------------------------------------------

    def _selected(self, timeout: float | None = None) -> list[Any]:
        if timeout is not None and timeout <= SMALLEST:
            return self._events(0)
        if (events := self._events(0)) or self._in_threads:
            return events or self._events(self._patience)
        if self._idle or self._turn is not None or self._flows_until:
            self._go_on(timeout)
            return []
        events = self._events(self._patience)
        if not events:
            self._give_up(
                f"the test waits, and nothing has happened for {self._patience:g} s. Time passes only in "
                "`await mesh.advance(seconds)`: what is to happen meanwhile goes into a task"
            )
        return events

    def _events(self, timeout: float) -> list[Any]:
        return list(self._select(timeout))

    def _go_on(self, timeout: float | None) -> None:
        """Nothing is left to do now."""
        if self._idle:
            idle, self._idle = self._idle, []
            for each in idle:
                if not each.done():
                    each.set_result(None)
        elif self._turn is not None:
            (when, there), self._turn = self._turn, None
            self.clock.advance(max(0.0, when - self.clock.monotonic()))
            self._idle.append(there)
        else:
            self._flow(timeout)

    def _flow(self, timeout: float | None) -> None:
        now = self.clock.monotonic()
        if timeout is None or now + timeout > max(self._flows_until):
            self._give_up(f"a change of the mesh was not done in {FLOWS_MOST:g} s of its clock")
        else:
            self.clock.advance(timeout)

    def _give_up(self, why: str) -> None:
        """Whoever opened the mesh is cancelled, and told when it leaves. Raises StandsStill where that task is no more (a fixture of
        some plugins), or does not end."""
        due = self._next()
        ahead = "nothing is due later" if due is None else f"the next is due in {due - self.clock.monotonic():.3f} s"
        fault = StandsStill(f"{why}. The clock stands at +{self.passed:.3f} s, and {ahead}")
        if self._opener is None or self._opener.done() or self.fault is not None:
            raise fault
        self.fault = fault
        self._opener.cancel()

    def _called_at(self, when: float, callback: Callable[..., object], *args: Any, **more: Any) -> asyncio.TimerHandle:
        timer: asyncio.TimerHandle = self._call_at(when, callback, *args, **more)
        module = getattr(callback, "__module__", None) or ""
        if module.partition(".")[0] in ("meshq", "meshq_sidecar"):
            self._ours.add(timer)
        # Of asyncio's own, `sleep`, `timeout` and `wait_for`, it wakes the task that set it, and does nothing for anybody else.
        if module.startswith("asyncio.") and self._is_upkeep(asyncio.current_task()):
            self._upkeep_timers.add(timer)
        return timer

    def _is_upkeep(self, task: "asyncio.Task[Any] | None") -> bool:
        name = "" if task is None else task.get_name()
        return name in self.upkeep or name.startswith(COPYING)

    async def _connection(self, factory: Callable[[], Any], host: Any = None, *args: Any, **more: Any) -> Any:
        if not str(host).endswith(self._domain):
            return await self._create_connection(factory, host, *args, **more)
        protocol = factory()
        return await self._connect(host, protocol), protocol

    def _run_in_thread(self, executor: Any, function: Callable[..., T], *args: Any) -> "asyncio.Future[T]":
        run = asyncio.SelectorEventLoop.run_in_executor
        self._in_threads += 1
        future: asyncio.Future[T] = run(self._loop, executor or self._threads, function, *args)
        future.add_done_callback(self._thread_is_done)
        return future

    def _thread_is_done(self, _: object) -> None:
        self._in_threads -= 1


def _is_asyncios_own(loop: asyncio.AbstractEventLoop) -> bool:
    return isinstance(loop, asyncio.SelectorEventLoop)
