"""Results of this service's durable calls, as they come in: kept in the store, then posted to the app where it asked for that.

While the store is away a result stays unacknowledged in its queue and is tried again every second for as long as that takes:
giving it back would count toward the broker's limit of deliveries. How many are here at once is the consumer's prefetch.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

from meshq.core.message import Fault, Request, Response, encode
from meshq.core.outcomes import as_callback, as_result, service_of
from meshq.ports import Clock, Metrics, Store, StoreAway
from meshq.tasks import Tasks

logger = logging.getLogger(__name__)

WORKERS = 64
"""Results that are stored at once: what is asked of Redis in one moment goes together (adapters/redis_turns.py)."""
TRY_AGAIN = 1.0
"""Seconds."""

Stored = Callable[[Request | None], None]
"""Called once the result may be acknowledged; with the callback to make before, if there is one."""


class _Result(NamedTuple):
    message: Response | Fault
    user_id: str
    stored: Stored


class Results:
    """`called` gives the service that a request of ours went to, "" where this sidecar does not know. `proves`: every service has
    a broker user of its own name. `host` is what callbacks to the app bear as their Host."""

    def __init__(
        self,
        store: Store,
        clock: Clock,
        metrics: Metrics,
        service: str,
        host: str,
        called: Callable[[str], str],
        *,
        proves: bool,
    ) -> None:
        self._store = store
        self._clock = clock
        self._metrics = metrics
        self._service = service
        self._host = host.encode()
        self._called = called
        self._proves = proves
        self._waiting: deque[_Result] = deque()
        self._workers = 0
        self._away = False
        self._tasks = Tasks()

    async def close(self) -> None:
        """What is not stored yet stays in the queue."""
        await self._tasks.close()

    def take(self, message: Response | Fault, user_id: str, stored: Stored) -> None:
        """`user_id` is the broker's word for who sent it."""
        self._waiting.append(_Result(message, user_id, stored))
        if self._workers < WORKERS:
            self._workers += 1
            self._tasks.start(self._work(), "store results")

    async def _work(self) -> None:
        try:
            while self._waiting:
                result = self._waiting.popleft()
                callback = await self._keep(result)
                result.stored(callback)
        finally:
            self._workers -= 1

    async def _keep(self, result: _Result) -> Request | None:
        message, user_id, _ = result
        while True:
            try:
                called = await self._proved_service(message, user_id)
                if not called:
                    logger.warning("a result of %s came from the broker's user %r", message.id, user_id)
                    self._metrics.count("forged_reply")
                    return None
                status = as_result(message, "GET").status
                await self._store.completed(self._service, message.id, called, encode(message), status)
            except StoreAway as error:
                self._say(str(error))
                await asyncio.sleep(TRY_AGAIN)
            else:
                self._say("")
                break
        if not message.callback:
            return None
        return as_callback(message, self._host, called, self._clock.mesh_ms())

    async def _proved_service(self, message: Response | Fault, user_id: str) -> str:
        """The service that the request went to; "" when the result is not from there."""
        called = self._called(message.id)
        if not self._proves:
            return called or service_of(message) or "unknown"
        if not called:
            record = await self._store.request(self._service, message.id)
            # A request whose mark was lost with the store: whoever answers must at least be who he says he is.
            called = service_of(message) if record is None else record.called
        return called if called == user_id else ""

    def _say(self, fault: str) -> None:
        if fault and not self._away:
            logger.warning("results wait in their queue: %s", fault)
        self._away = bool(fault)
