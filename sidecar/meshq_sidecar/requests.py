"""`/v1/requests/<id>`: what became of a durable call of this service, and its cancellation (INTERFACE part 3).

What this sidecar accepted it knows by itself; the store, which all instances of the service share, is told a moment later, many
at a time. So nothing that is sent waits for the store, and while it is away a call that was accepted here is at least known.
"""

import asyncio
import logging
from collections import OrderedDict, defaultdict
from collections.abc import Awaitable
from itertools import islice

from meshq.core.answers import conflict, method_not_allowed, problem
from meshq.core.errors import Code, Problem
from meshq.core.headers import Carried
from meshq.core.http import HttpResponse
from meshq.core.message import Fault, Response, decode, encode_fault, is_id
from meshq.core.outcomes import CANCELLED, as_result
from meshq.ports import Exchange, RequestRecord, Store, StoreAway
from meshq.tasks import Tasks

logger = logging.getLogger(__name__)

PATH = b"/v1/requests/"
MAX_KNOWN = 100_000
"""Calls accepted here that are known without the store; beyond, the oldest are forgotten."""
KEPT = 14 * 24 * 3600.0
"""Seconds in which the store knows of a call without a result: longer than the longest delay, with its retries."""
MARK_EVERY = 0.05
MARK_AGAIN = 1.0
"""Seconds between two times that the store is told of accepted calls, and until it is told again if it was away."""
LOOK_AGAIN = 0.1
"""Seconds after which the store is asked again for what it does not know: another instance may just have accepted it."""
MARKED_AT_ONCE = 1000

_GONE = "Gone"


class Requests:
    """Of the service `service`. Whoever hands over a DELETE has checked that it may change something here."""

    def __init__(self, store: Store, service: str) -> None:
        self._store = store
        self._service = service
        self._known: OrderedDict[str, str] = OrderedDict()
        """id -> the service it went to"""
        self._unmarked: OrderedDict[str, str] = OrderedDict()
        """Of these, what the store has not been told."""
        self._marking = False
        self._tasks = Tasks()

    async def close(self) -> None:
        """Tell the store what it has not been told yet, if it is there."""
        self._marking = True  # here, and nowhere else any more
        await self._tasks.close()
        while self._unmarked and await self._mark_some():
            pass

    def accepted(self, ident: str, called: str) -> None:
        """A durable call is on its way to the service `called`."""
        for known in (self._known, self._unmarked):
            known[ident] = called
            if len(known) > MAX_KNOWN:
                known.popitem(last=False)
        if not self._marking:
            self._marking = True
            self._tasks.start(self._mark(), "mark accepted requests")

    def called(self, ident: str) -> str:
        """The service that a call went to, "" for one that was not accepted here."""
        return self._known.get(ident, "")

    def handle(self, exchange: Exchange, carried: Carried, target: bytes) -> None:
        """`target` is under PATH."""
        method = exchange.request.method
        ident = target.partition(b"?")[0][len(PATH) :].decode("latin-1")
        if method not in (b"GET", b"HEAD", b"DELETE"):
            exchange.respond(method_not_allowed(b"GET, HEAD, DELETE", "a request is asked for or cancelled"))
        elif not is_id(ident):
            exchange.respond(_unknown(ident))
        else:
            answer = self._cancel(ident) if method == b"DELETE" else self._get(ident)
            self._tasks.start(self._respond(exchange, ident, answer), "answer about a request")

    # --- answers ------------------------------------------------------------------------------------------------------------

    async def _respond(self, exchange: Exchange, ident: str, answer: Awaitable[HttpResponse]) -> None:
        try:
            response = await answer
        except StoreAway as away:
            detail = f"what became of requests is kept in the registry's server, which does not answer: {away}"
            response = Problem(Code.UNAVAILABLE, detail).as_response()
        response.headers.append((b"Meshq-Message-Id", ident.encode()))
        exchange.respond(response)

    async def _look(self, ident: str) -> RequestRecord | None:
        """Raises StoreAway."""
        record = await self._store.request(self._service, ident)
        if record is None and ident not in self._known:
            await asyncio.sleep(LOOK_AGAIN)
            record = await self._store.request(self._service, ident)
        return record

    async def _get(self, ident: str) -> HttpResponse:
        try:
            record = await self._look(ident)
        except StoreAway:
            if ident in self._known:
                return _pending(ident)
            raise
        if record is None:
            return _pending(ident) if ident in self._known else _unknown(ident)
        if _over(record):
            self._known.pop(ident, None)
        if record.expired:
            return problem(410, _GONE, "its result was kept for an hour after it came, and that is over")
        if record.status is not None:
            return _not_kept(record.status)
        if record.result is None:
            return _pending(ident)
        return _answer(record.result)

    async def _cancel(self, ident: str) -> HttpResponse:
        record = await self._look(ident)
        called = self.called(ident) if record is None else record.called
        if not called:
            return _unknown(ident)
        if record is not None and _over(record):
            if _was_cancelled(record):
                return HttpResponse(204, [])
            return conflict("it is done: there is nothing left to cancel")
        if not await self._store.cancel(called, ident):
            return conflict(f"{called} has started it")
        # That it is over is a result like any other, so that whoever asks learns it.
        fault = Fault(ident, Code.UNAVAILABLE, "it was cancelled before it started", False, failed=CANCELLED)
        await self._store.completed(self._service, ident, called, encode_fault(fault), 410)
        return HttpResponse(204, [])

    # --- telling the store ----------------------------------------------------------------------------------------------------

    async def _mark(self) -> None:
        try:
            while self._unmarked:
                told = await self._mark_some()
                await asyncio.sleep(MARK_EVERY if told else MARK_AGAIN)
        finally:
            self._marking = False

    async def _mark_some(self) -> bool:
        """False: the store is away."""
        some = dict(islice(self._unmarked.items(), MARKED_AT_ONCE))
        by_service: defaultdict[str, list[str]] = defaultdict(list)
        for ident, called in some.items():
            by_service[called].append(ident)
        try:
            for called, idents in by_service.items():
                await self._store.accepted(self._service, called, idents, KEPT)
        except StoreAway as away:
            logger.debug("the store was not told of accepted requests: %s", away)
            return False
        for ident in some:
            self._unmarked.pop(ident, None)
        return True


def _over(record: RequestRecord) -> bool:
    return record.expired or record.result is not None or record.status is not None


def _stored(result: bytes) -> Response | Fault:
    (message,) = decode(result)
    assert isinstance(message, Response | Fault)
    return message


def _was_cancelled(record: RequestRecord) -> bool:
    return record.result is not None and _stored(record.result).failed == CANCELLED


def _answer(result: bytes) -> HttpResponse:
    message = _stored(result)
    if message.failed == CANCELLED:
        response = problem(410, _GONE, "it was cancelled before it started")
        response.headers.append((b"Meshq-Request-Status", b"failed"))
        response.headers.append((b"Meshq-Request-Reason", CANCELLED.encode()))
        return response
    return as_result(message, "GET")


def _not_kept(status: int) -> HttpResponse:
    detail = f"it was answered with {status}, but the answer was too large to be kept, or there was no room for it"
    response = Problem(Code.ANSWER_NOT_KEPT, detail).as_response()
    # An app's answer from 400 on is that of a message which is dead.
    response.headers.append((b"Meshq-Request-Status", b"failed" if status >= 400 else b"done"))
    response.headers.append((b"Meshq-Request-Code", b"%d" % status))
    return response


def _pending(ident: str) -> HttpResponse:
    headers = [
        (b"Content-Type", b"application/json"),
        (b"Retry-After", b"1"),
        (b"Meshq-Request-Status", b"pending"),
    ]
    return HttpResponse(202, headers, b'{"id": "%b", "status": "pending"}\n' % ident.encode())


def _unknown(ident: str) -> HttpResponse:
    return problem(
        404, "No such request", f"this service has sent no durable request {ident[:64]!r} that is still known"
    )
