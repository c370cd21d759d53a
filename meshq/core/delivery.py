"""What to do with a delivery once the app answered, or did not: step 9 of a call's path (the table of INTERFACE part 4).

`before_call` and `settle_call` are for waited calls, `before_work` and `settle_work` for durable messages. The receiver carries out what they return in an order that loses
nothing: the reply or the copy is published before the original is acknowledged.

A waited call is never repeated after its outcome became unknown unless that is safe (promise 3). The broker's `redelivered`
flag is the one trace that a consumer which died leaves, so a call that must not be repeated is refused when it bears it.
That is also why such a call is given back as a fresh copy and never by a requeue: a requeue sets the flag.
"""

from datetime import UTC, datetime
from enum import Enum
from typing import NamedTuple

from meshq.core import dead
from meshq.core.errors import Code, Problem
from meshq.core.http import Failed, Failure, HttpResponse, header
from meshq.core.message import MAX_EXCERPT, Request
from meshq.core.names import Version
from meshq.core.policy import Retry
from meshq.core.routing import MAX_MISSES
from meshq.core.selectors import Selector
from meshq.core.topology import MAX_DELAY_SECONDS

SAFE_METHODS = frozenset({"GET", "HEAD", "PUT", "DELETE", "OPTIONS"})
"""Idempotent by definition (RFC 9110 section 9.2.2): asking twice does no more than asking once."""


class Reply(NamedTuple):
    response: HttpResponse


class Refuse(NamedTuple):
    problem: Problem


class Reason(Enum):
    NOT_READY = "not-ready"  # the app did not take it: it burns no attempt
    SELECTOR = "selector"  # this instance is outside the selector
    REPEAT = "repeat"  # the outcome is unknown and repeating is safe: another attempt


class GiveBack(NamedTuple):
    """To another instance, or to this one later. `request` is as it should go on (attempt and misses counted)."""

    request: Request
    reason: Reason


class Drop(NamedTuple):
    """Nobody waits for it any more."""


class Start(NamedTuple):
    """Hand it to the app."""


class Done(NamedTuple):
    """Handled: its sender may have the answer."""

    answer: HttpResponse | Problem


class Again(NamedTuple):
    """Back to its queue after `delay` whole seconds, waited for in the broker. `request` is as it should come again."""

    request: Request
    delay: int


class PutBack(NamedTuple):
    """The app did not take it, or was not let finish: it stays in its queue and burns no attempt."""


class Bury(NamedTuple):
    """To the dead letters. `reason` is one of meshq.core.dead; `answer` is what the app said last, if anything."""

    reason: str
    detail: str
    answer: HttpResponse | None = None

    @property
    def excerpt(self) -> bytes:
        return b"" if self.answer is None else self.answer.body[:MAX_EXCERPT]


def safe_to_repeat(request: Request) -> bool:
    """Of a mirrored copy nobody waits for the answer: it is not worth a second time."""
    if request.mirrored:
        return False
    return request.method in SAFE_METHODS or header(request.headers, b"idempotency-key") is not None


def expired(request: Request, left_ms: int | None) -> bool:
    """After its deadline a message is not started (promise 4). `left_ms` as `time_left` has it."""
    return left_ms is not None and left_ms <= 0


def time_left_ms(request: Request, mesh_ms: int, synchronised: bool, waited_ms: int) -> int | None:
    """What is left of the deadline: by mesh time where both ends keep it, else by what was left when it was sent less what
    it waited here (the time in the queue is then held by the broker's own `expiration`). None: no deadline."""
    lefts = []
    if request.left_ms is not None:
        lefts.append(request.left_ms - waited_ms)
    if request.deadline_ms is not None and (synchronised or request.left_ms is None):
        lefts.append(request.deadline_ms - mesh_ms)
    return min(lefts, default=None)


def before_call(
    request: Request,
    redelivered: bool,
    known_unstarted: bool,
    selector: Selector | None,
    version: Version,
    left_ms: int | None,
) -> Start | Drop | GiveBack | Refuse:
    """Whether a waited call that came from the queue may start. `known_unstarted`: this process had it before and did not
    start it, so the flag says nothing."""
    if expired(request, left_ms):
        return Drop()
    if redelivered and not known_unstarted and not safe_to_repeat(request):
        return Refuse(
            Problem(
                Code.BAD_GATEWAY,
                f"the instance that took this {request.method} was lost before it answered, so whether it was done is not known; "
                "it is not repeated because that may do it twice (an Idempotency-Key would make it safe)",
                retryable=False,
            )
        )
    if selector is not None and not selector.admits(version):
        if request.misses >= MAX_MISSES:
            return Refuse(Problem(Code.NO_SUCH_VERSION, f"no instance that satisfies {selector.text!r} took the call"))
        return GiveBack(request._replace(misses=request.misses + 1), Reason.SELECTOR)
    return Start()


def settle_call(request: Request, outcome: HttpResponse | Failed, attempts: int) -> Reply | Refuse | GiveBack:
    """What becomes of a waited call. `attempts`: how many times in all a safe one is tried."""
    if isinstance(outcome, HttpResponse):
        return Reply(outcome)
    failure, detail, _ = outcome
    if failure is Failure.REFUSED:
        return GiveBack(request, Reason.NOT_READY)
    if failure is Failure.TOO_LARGE:
        return Refuse(Problem(Code.BAD_GATEWAY, detail, retryable=False))
    safe = safe_to_repeat(request)
    if safe and request.attempt < attempts:
        return GiveBack(request._replace(attempt=request.attempt + 1), Reason.REPEAT)
    code = Code.DEADLINE if failure is Failure.TIMEOUT else Code.BAD_GATEWAY
    return Refuse(Problem(code, detail, retryable=safe))


def before_work(
    request: Request, selector: Selector | None, version: Version, left_ms: int | None
) -> Start | Again | Bury:
    """Whether a durable message that came from the queue may start."""
    if expired(request, left_ms):
        return Bury(dead.DEADLINE, f"its deadline passed {-(left_ms or 0) / 1000:g} s before it could be started")
    if selector is not None and not selector.admits(version):
        if request.misses >= MAX_MISSES:
            return Bury(dead.NO_SUCH_VERSION, f"no instance that satisfies {selector.text!r} took it")
        return Again(request._replace(misses=request.misses + 1), 0)
    return Start()


def settle_work(
    request: Request, outcome: HttpResponse | Failed, retry: Retry, jitter: float, now_ms: int
) -> Done | Again | PutBack | Bury:
    """What becomes of a durable message. `jitter` is random, from 0 to 1; `now_ms` is for a Retry-After that names a time. A
    mirrored copy is not worth a second attempt."""
    if request.mirrored:
        retry = retry._replace(attempts=1)
    if isinstance(outcome, HttpResponse):
        return _settle_answered(request, outcome, retry, jitter, now_ms)
    if outcome.failure in (Failure.REFUSED, Failure.CANCELLED):  # the latter: this sidecar stops
        return PutBack()
    if outcome.status is not None:  # all of it cannot travel, but what it says is known
        decision = _settle_answered(request, HttpResponse(outcome.status, []), retry, jitter, now_ms)
        lost = Problem(Code.BAD_GATEWAY, outcome.detail, retryable=False)
        return Done(lost) if isinstance(decision, Done) else decision
    if request.attempt >= retry.attempts:
        return Bury(dead.ATTEMPTS, f"{outcome.detail} (the last of {request.attempt} attempts)")
    return _again(request, retry, jitter, None)


def _settle_answered(
    request: Request, answer: HttpResponse, retry: Retry, jitter: float, now_ms: int
) -> Done | Again | Bury:
    if answer.status < 400:
        return Done(answer)
    if not _worth_another(answer.status):
        return Bury(dead.REJECTED, f"the app answered {answer.status}: the message is wrong", answer)
    if request.attempt >= retry.attempts:
        detail = f"the app answered {answer.status} to the last of {request.attempt} attempts"
        return Bury(dead.ATTEMPTS, detail, answer)
    asked = header(answer.headers, b"retry-after")
    wait = None if asked is None else _retry_after(asked.decode("latin-1"), now_ms)
    return _again(request, retry, jitter, wait)


MAX_RETRY_AFTER = 24 * 3600
"""Seconds; an app that asks for more gets this."""


def _worth_another(status: int) -> bool:
    return status >= 500 or status in (408, 425, 429)


def _again(request: Request, retry: Retry, jitter: float, wait: float | None) -> Again:
    delay = retry.delays[min(request.attempt, len(retry.delays)) - 1] if retry.delays else 0.0
    # Up to a fifth more, so that what failed together does not come again together.
    seconds = delay * (1 + jitter / 5) if wait is None else wait
    return Again(request._replace(attempt=request.attempt + 1), min(int(seconds + 0.5), MAX_DELAY_SECONDS))


def _retry_after(text: str, now_ms: int) -> float | None:
    """Seconds (RFC 9110 section 10.2.3: a number of them, or a date); None where it is neither."""
    if text.isascii() and text.isdigit():
        return float(min(int(text[:9]), MAX_RETRY_AFTER))
    from email.utils import parsedate_to_datetime  # a megabyte that most never need

    try:
        when = parsedate_to_datetime(text)
    except (ValueError, OverflowError):  # the latter of a year that no calendar has
        return None
    if when.tzinfo is None:
        when = when.replace(tzinfo=UTC)
    left = (when - datetime.fromtimestamp(now_ms / 1000, UTC)).total_seconds()
    return min(max(left, 0.0), MAX_RETRY_AFTER)
