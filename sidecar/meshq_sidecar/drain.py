"""Draining: take nothing more in, give back what has not started, finish what runs (INTERFACE part 6, research C.6).

It begins by the app's or an operator's word (a preStop hook) or with SIGTERM, and does not end but with the process. Calls out
still go: the app may need them to finish what it does.
"""

import asyncio
import logging
from collections.abc import Callable
from urllib.parse import parse_qs

from meshq.core.answers import as_json
from meshq.core.durations import parse_duration_ms
from meshq.core.errors import Code, Problem
from meshq.core.headers import Carried
from meshq.core.http import HttpResponse
from meshq.ports import Exchange
from meshq.tasks import Tasks
from meshq_sidecar.inbound import Inbound
from meshq_sidecar.work import Work

logger = logging.getLogger(__name__)

LONGEST_WAIT = 3600.0
USUAL_WAIT = 30.0


class Drain:
    """`began` is told when it begins: the mesh should know."""

    def __init__(self, inbound: Inbound, work: Work, began: Callable[[], None]) -> None:
        self._inbound = inbound
        self._work = work
        self._began = began
        self._idle = asyncio.Event()
        self._tasks = Tasks()
        self.begun = False

    @property
    def in_flight(self) -> int:
        return self._inbound.in_flight + self._work.in_flight

    def begin(self) -> None:
        """Idempotent."""
        if self.begun:
            return
        self.begun = True
        logger.info("draining: %d messages at the app, none is taken any more", self.in_flight)
        self._began()
        self._inbound.pause()
        self._work.stop()
        self._inbound.when_idle(lambda: self._work.when_idle(self._idle.set))

    async def wait(self, seconds: float) -> bool:
        """Whether all that ran is finished and settled, within so long."""
        try:
            async with asyncio.timeout(seconds):
                await self._idle.wait()
        except TimeoutError:
            return False
        return True

    async def close(self) -> None:
        await self._tasks.close()

    # --- the API ------------------------------------------------------------------------------------------------------------

    def handle(self, exchange: Exchange, carried: Carried, target: bytes) -> None:
        """`POST /v1/self/drain`"""
        self.begin()
        exchange.respond(_state(202, self.in_flight, drained=self._idle.is_set()))

    def handle_wait(self, exchange: Exchange, carried: Carried, target: bytes) -> None:
        """`GET /v1/self/drain/wait?timeout=30s`: 200 once nothing is in flight; 504 when that takes longer, or was not begun."""
        given = parse_qs(target.partition(b"?")[2].decode("latin-1")).get("timeout", [""])[-1]
        try:
            seconds = parse_duration_ms(given) / 1000 if given else USUAL_WAIT
        except ValueError as error:
            exchange.respond(Problem(Code.BAD_REQUEST, f"timeout: {error}").as_response())
            return
        self._tasks.start(self._respond(exchange, min(seconds, LONGEST_WAIT)), "wait until drained")

    async def _respond(self, exchange: Exchange, seconds: float) -> None:
        if await self.wait(seconds):
            exchange.respond(_state(200, 0, drained=True))
        else:
            why = "still at the app" if self.begun else "and draining was not begun (POST /v1/self/drain)"
            detail = f"{self.in_flight} messages {why} after {seconds:g} s"
            exchange.respond(Problem(Code.DEADLINE, detail, retryable=True).as_response())


def _state(status: int, in_flight: int, *, drained: bool) -> HttpResponse:
    return as_json({"state": "draining", "inFlight": in_flight, "drained": drained})._replace(status=status)
