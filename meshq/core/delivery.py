"""What to do with a delivery once the app answered, or did not: step 9 of a call's path (the table of INTERFACE part 4).

`before_call` and `settle_call` are for waited calls. The receiver carries out what they return in an order that loses
nothing: the reply or the copy is published before the original is acknowledged.

A waited call is never repeated after its outcome became unknown unless that is safe (promise 3). The broker's `redelivered`
flag is the one trace that a consumer which died leaves, so a call that must not be repeated is refused when it bears it.
That is also why such a call is given back as a fresh copy and never by a requeue: a requeue sets the flag.
"""

from enum import Enum
from typing import NamedTuple

from meshq.core.errors import Code, Problem
from meshq.core.http import Failed, Failure, HttpResponse, header
from meshq.core.message import Request
from meshq.core.names import Version
from meshq.core.routing import MAX_MISSES
from meshq.core.selectors import Selector

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


def safe_to_repeat(request: Request) -> bool:
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
    failure, detail = outcome
    if failure is Failure.REFUSED:
        return GiveBack(request, Reason.NOT_READY)
    if failure is Failure.TOO_LARGE:
        return Refuse(Problem(Code.BAD_GATEWAY, detail, retryable=False))
    safe = safe_to_repeat(request)
    if safe and request.attempt < attempts:
        return GiveBack(request._replace(attempt=request.attempt + 1), Reason.REPEAT)
    code = Code.DEADLINE if failure is Failure.TIMEOUT else Code.BAD_GATEWAY
    return Refuse(Problem(code, detail, retryable=safe))
