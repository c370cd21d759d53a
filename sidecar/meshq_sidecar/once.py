"""Messages with an Idempotency-Key: each key is handled once in its window, by whichever instance, and everybody who used it
gets that one answer (promise 2 of DESIGN part 5). What a key covers and which answers end it is in core/once.py.

Whoever comes first claims the key in the store and handles the message; the claim is renewed until `finish` or `release`, and
ends by itself one lease after its owner was lost. Whoever comes meanwhile asks again and again, until there is an answer, or
the key is free and theirs.

With the store away nobody can tell what was handled, so no message with a key begins then. One that had begun goes on; its
answer is stored as soon as the store is back, if that is within the lease. If it is not, a later repeat is handled again.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from itertools import count
from typing import NamedTuple
from uuid import uuid4

from meshq.core.http import Failed, HttpResponse, header
from meshq.core.message import DecodeError, Request
from meshq.core.names import parse_topic
from meshq.core.once import WINDOW, decode_answer, digest, encode_answer, final, scope
from meshq.ports import Clock, Metrics, Once, OnceState, Store, StoreAway
from meshq.tasks import Tasks

logger = logging.getLogger(__name__)

LEASE_MARGIN = 30.0
"""Seconds that a lease should be longer than the app may take: what comes before and after it, and a store away for a moment."""
FIRST_PAUSE, LAST_PAUSE = 0.05, 1.0
"""Seconds between two questions, doubled from the one to the other."""
MAX_DOUBTFUL = 1000
"""Claims that may stand although nobody knows; what is beyond stands until its lease ends."""
CLOSE_SECONDS = 1.0
"""For what is still to be stored when the sidecar stops."""


class Token(NamedTuple):
    """A claim on a key."""

    service: str
    scope: str
    digest: str
    owner: str
    ident: str
    """Of the message that is handled."""
    attempt: int


class Handle(NamedTuple):
    """It is ours: handle it, then `finish` or `release`."""

    token: Token


class Answer(NamedTuple):
    """It was handled, and this was the answer."""

    response: HttpResponse
    served_by: str = ""
    """<service>/<version>/<instance> that handled it."""
    ident: str = ""
    """Of the message that was handled."""


class NotKept(NamedTuple):
    """It was handled; its answer was too large to be kept, or there was no room for it."""

    status: int
    """0: what was kept cannot be read."""

    @property
    def detail(self) -> str:
        return f"this key was handled and answered {self.status}; the answer was too large to be kept"


class Reused(NamedTuple):
    """The key was used with another body or query."""


class Away(NamedTuple):
    """Whether it was handled cannot be known now; `detail` is a sentence without its full stop."""

    detail: str = ""


Verdict = Handle | Answer | NotKept | Reused | Away


class OncePerKey:
    """`owner` is this instance, <service>/<version>/<instance>. `lease` is in seconds: the app's timeout and LEASE_MARGIN."""

    def __init__(
        self, store: Store, clock: Clock, metrics: Metrics, owner: str, lease: float, window: float = WINDOW
    ) -> None:
        self._store = store
        self._clock = clock
        self._metrics = metrics
        self._owner = owner
        self._lease = lease
        self._window = window
        # Each message claims under a name of its own: two with one key in this process are two as well.
        self._claims = (f"{owner}/{uuid4().hex[:8]}-{n}" for n in count(1))
        self._held: set[Token] = set()
        self._renewing = False
        self._doubtful: dict[Token, float] = {}
        """What was asked of a store that went away: it may be claimed. When that has ended in any case."""
        self._unsettled = 0
        self._settled = asyncio.Event()
        self._tasks = Tasks()

    async def close(self) -> None:
        """Wait a moment for what is still to be stored. No verdict comes after this."""
        with suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_SECONDS):
                while self._unsettled:
                    self._settled.clear()
                    await self._settled.wait()
        await self._tasks.close()

    def begin(
        self,
        request: Request,
        topic: str,
        caller: str,
        verdict: Callable[[Verdict], None],
        target: bytes | None = None,
    ) -> Callable[[], None]:
        """Ask whether `request`, which has an Idempotency-Key, is to be handled. `topic` is the one of the service that
        handles it, also of an event; `target` is where it goes at the app, if not where the request says.

        `verdict` is called exactly once, later, at most one lease and the store's own time from now. The function that this
        returns gives up: `verdict` is not called after it, and nothing stays claimed."""
        given_up = asyncio.Event()
        token = self._token(request, topic, caller, request.target if target is None else target)
        self._tasks.start(self._ask(token, verdict, given_up), f"ask about the key of {request.id}")
        return given_up.set

    def finish(self, token: Token, outcome: HttpResponse | Failed, then: Callable[[], None] = lambda: None) -> None:
        """It was handled. An answer that ends the key is stored, of one that came too large its status; after another one the key
        is free. `then` is called once, later: when that is done, or when the store turned out to be away (it goes on trying then)."""
        status = outcome.status
        if status is None or not final(status):
            self.release(token, then)
            return
        answer = b""
        if isinstance(outcome, HttpResponse):
            answer = encode_answer(token.ident, outcome, self._owner, token.attempt)
        done = partial(self._store.done, token.service, token.scope, token.owner, answer, status, self._window)
        self._settle(token, done, then)

    def release(self, token: Token, then: Callable[[], None] = lambda: None) -> None:
        """It was not handled, or nobody knows: the next message with the key is. `then` as in `finish`."""
        self._settle(token, partial(self._store.free, token.service, token.scope, token.owner), then)

    # --- asking -------------------------------------------------------------------------------------------------------------

    def _token(self, request: Request, topic: str, caller: str, target: bytes) -> Token:
        service, major = parse_topic(topic)
        path, _, query = target.partition(b"?")
        key = header(request.headers, b"idempotency-key") or b""
        covers = scope(caller, service, major, request.event or request.method, path, key)
        return Token(service, covers, digest(request.body, query), next(self._claims), request.id, request.attempt)

    async def _ask(self, token: Token, verdict: Callable[[Verdict], None], given_up: asyncio.Event) -> None:
        try:
            known = await self._until_free(token, given_up)
        except StoreAway as away:
            self._metrics.count("store_away")
            self._doubt(token)
            said: Verdict = Away(str(away))
        except Exception:  # whatever it is, the message must not wait for ever
            logger.exception("the key of message %s could not be asked about", token.ident)
            said = Away("asking about its key failed, and the log says how")
        else:
            if known.state is OnceState.NEW and given_up.is_set():
                self.release(token)
            elif known.state is OnceState.NEW:
                self._hold(token)
            said = self._verdict(known, token)
        if not given_up.is_set():
            _call(verdict, said)

    async def _until_free(self, token: Token, given_up: asyncio.Event) -> Once:
        """What is known once nobody else handles it; RUNNING when that took a lease, or was given up."""
        until = self._clock.monotonic() + self._lease
        pause = FIRST_PAUSE
        while True:
            known = await self._claim(token)
            if known.state is not OnceState.RUNNING or given_up.is_set() or self._clock.monotonic() >= until:
                return known
            with suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await given_up.wait()
            pause = min(2 * pause, LAST_PAUSE)

    def _claim(self, token: Token) -> Awaitable[Once]:
        return self._store.once(token.service, token.scope, token.digest, token.owner, self._lease)

    def _verdict(self, known: Once, token: Token) -> Verdict:
        match known.state:
            case OnceState.NEW:
                return Handle(token)
            case OnceState.REUSED:
                return Reused()
            case OnceState.RUNNING:
                return Away(f"another message with this key has been handled for more than {self._lease:g} s")
        self._metrics.count("key_repeated")
        if known.state is OnceState.NOT_KEPT:
            return NotKept(known.status)
        try:
            first = decode_answer(known.answer)
        except DecodeError as error:
            logger.warning("the answer that is stored for the key of message %s is not used: %s", token.ident, error)
            return NotKept(0)
        return Answer(HttpResponse(first.status, first.headers, first.body), first.served_by, first.id)

    # --- holding ------------------------------------------------------------------------------------------------------------

    def _hold(self, token: Token) -> None:
        self._held.add(token)
        if not self._renewing:
            self._renewing = True
            self._tasks.start(self._renew(), "renew the claims on keys")

    async def _renew(self) -> None:
        try:
            while self._held:
                await asyncio.sleep(self._lease / 3)
                with suppress(StoreAway):
                    for token in list(self._held):
                        # One that was settled meanwhile must not be claimed again.
                        if token in self._held and (await self._claim(token)).state is not OnceState.NEW:
                            self._held.discard(token)
        finally:
            self._renewing = False

    def _doubt(self, token: Token) -> None:
        if not self._doubtful:
            self._tasks.start(self._free_doubtful(), "free what may be claimed")
        elif len(self._doubtful) >= MAX_DOUBTFUL:
            return
        self._doubtful[token] = self._clock.monotonic() + self._lease

    async def _free_doubtful(self) -> None:
        while self._doubtful:
            token, until = next(iter(self._doubtful.items()))
            free = partial(self._store.free, token.service, token.scope, token.owner)
            if self._clock.monotonic() >= until or await self._told(free):
                del self._doubtful[token]
            else:
                await asyncio.sleep(LAST_PAUSE / 2)

    # --- settling -----------------------------------------------------------------------------------------------------------

    def _settle(self, token: Token, tell: Callable[[], Awaitable[None]], then: Callable[[], None]) -> None:
        self._held.discard(token)
        self._unsettled += 1
        self._tasks.start(self._until_told(tell, then), f"store what became of {token.ident}")

    async def _until_told(self, tell: Callable[[], Awaitable[None]], then: Callable[[], None]) -> None:
        until = self._clock.monotonic() + self._lease
        try:
            told = await self._told(tell)
            if not told:
                self._metrics.count("store_away")
            _call(then)
            pause = FIRST_PAUSE
            while not told and self._clock.monotonic() < until:
                await asyncio.sleep(pause)
                told = await self._told(tell)
                pause = min(2 * pause, LAST_PAUSE)
        finally:
            self._unsettled -= 1
            self._settled.set()
        if not told:
            logger.error("what became of a message with a key was not stored in time: a repeat of it is handled again")

    async def _told(self, tell: Callable[[], Awaitable[None]]) -> bool:
        try:
            await tell()
        except StoreAway:
            return False
        except Exception:  # again would be no better
            logger.exception("what became of a message with a key could not be stored")
        return True


def _call(callback: Callable[..., None], *args: object) -> None:
    try:
        callback(*args)
    except Exception:
        logger.exception("a callback for a message with a key failed")
