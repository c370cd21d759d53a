"""What becomes of a waited call: INTERFACE part 4, the column "waited call", row by row."""

import pytest

from meshq.core.delivery import (
    SAFE_METHODS,
    Drop,
    GiveBack,
    Reason,
    Refuse,
    Reply,
    Start,
    before_call,
    expired,
    safe_to_repeat,
    settle_call,
    time_left_ms,
)
from meshq.core.errors import Code
from meshq.core.http import Failed, Failure, HttpResponse
from meshq.core.message import Request
from meshq.core.names import parse_version
from meshq.core.routing import MAX_MISSES
from meshq.core.selectors import parse_selector

GET = Request("m1", "GET", b"/", [], None, "checkout")
POST = GET._replace(method="POST", body=b"x")
KEYED = POST._replace(headers=[(b"idempotency-KEY", b"k")])
HERE = parse_version("2.1.0")


def test_what_is_safe_to_repeat() -> None:
    assert {"GET", "HEAD", "PUT", "DELETE", "OPTIONS"} == SAFE_METHODS
    assert all(safe_to_repeat(GET._replace(method=method)) for method in SAFE_METHODS)
    assert not any(safe_to_repeat(GET._replace(method=method)) for method in ("POST", "PATCH", "get", "TRACE"))
    assert safe_to_repeat(KEYED)


@pytest.mark.parametrize("status", [200, 204, 302, 304, 400, 404, 408, 409, 425, 429, 500, 503])
@pytest.mark.parametrize("request_", [GET, POST])
def test_whatever_the_app_answers_is_passed_to_the_caller(status: int, request_: Request) -> None:
    response = HttpResponse(status, [(b"A", b"b")], b"body")
    assert settle_call(request_, response, 5) == Reply(response)


@pytest.mark.parametrize("request_", [GET, POST, KEYED, GET._replace(attempt=5)])
def test_an_app_that_refuses_burns_no_attempt(request_: Request) -> None:
    assert settle_call(request_, Failed(Failure.REFUSED, "no"), 5) == GiveBack(request_, Reason.NOT_READY)


@pytest.mark.parametrize("failure", [Failure.BROKEN, Failure.TIMEOUT, Failure.CANCELLED])
@pytest.mark.parametrize("request_", [GET, KEYED])
def test_an_unknown_outcome_is_tried_again_where_that_is_safe(failure: Failure, request_: Request) -> None:
    again = settle_call(request_._replace(attempt=4), Failed(failure, "why"), 5)
    assert again == GiveBack(request_._replace(attempt=5), Reason.REPEAT)


@pytest.mark.parametrize(
    ("failure", "code"),
    [(Failure.BROKEN, Code.BAD_GATEWAY), (Failure.TIMEOUT, Code.DEADLINE), (Failure.CANCELLED, Code.BAD_GATEWAY)],
)
@pytest.mark.parametrize(
    ("request_", "retryable"), [(POST, False), (GET._replace(attempt=5), True), (KEYED._replace(attempt=5), True)]
)
def test_an_unknown_outcome_that_is_not_tried_again(
    failure: Failure, code: Code, request_: Request, retryable: bool
) -> None:
    refused = settle_call(request_, Failed(failure, "why"), 5)
    assert isinstance(refused, Refuse)
    assert (refused.problem.code, refused.problem.detail, refused.problem.retryable) == (code, "why", retryable)


@pytest.mark.parametrize("request_", [GET, POST])
def test_an_answer_that_is_too_large_is_not_asked_for_again(request_: Request) -> None:
    refused = settle_call(request_, Failed(Failure.TOO_LARGE, "4 MiB"), 5)
    assert isinstance(refused, Refuse)
    assert (refused.problem.code, refused.problem.retryable) == (Code.BAD_GATEWAY, False)


# --- before it starts --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("left", "over"), [(None, False), (1, False), (0, True), (-5, True)])
def test_after_its_deadline_it_is_not_started(left: int | None, over: bool) -> None:
    assert expired(GET, left) is over
    for request in (GET, POST):
        assert before_call(request, over, False, None, HERE, left) == (Drop() if over else Start())


@pytest.mark.parametrize(
    ("request_", "redelivered", "known", "starts"),
    [
        (POST, False, False, True),
        (POST, True, True, True),
        (POST, True, False, False),
        (GET, True, False, True),
        (KEYED, True, False, True),
    ],
)
def test_what_was_handed_out_before(request_: Request, redelivered: bool, known: bool, starts: bool) -> None:
    decision = before_call(request_, redelivered, known, None, HERE, 1000)
    if starts:
        assert decision == Start()
    else:
        assert isinstance(decision, Refuse)
        assert (decision.problem.code, decision.problem.retryable) == (Code.BAD_GATEWAY, False)


def test_outside_the_selector_it_goes_back_three_times() -> None:
    selector = parse_selector("^2.2")
    request = POST
    for misses in range(1, MAX_MISSES + 1):
        decision = before_call(request, False, False, selector, HERE, 1000)
        assert decision == GiveBack(request._replace(misses=misses), Reason.SELECTOR)
        request = decision.request
    refused = before_call(request, False, False, selector, HERE, 1000)
    assert isinstance(refused, Refuse)
    assert refused.problem.code is Code.NO_SUCH_VERSION
    assert MAX_MISSES == 3


def test_inside_the_selector_it_starts() -> None:
    assert before_call(POST._replace(misses=3), False, False, parse_selector("^2.1"), HERE, 1000) == Start()


# --- how long it has -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("deadline", "left", "synchronised", "expected"),
    [
        (None, None, True, None),
        (None, 5000, True, 4000),
        (102_000, None, False, 2000),
        (102_000, 5000, True, 2000),
        (109_000, 5000, True, 4000),
        (102_000, 5000, False, 4000),
        (99_000, 5000, True, -1000),
    ],
)
def test_what_is_left(deadline: int | None, left: int | None, synchronised: bool, expected: int | None) -> None:
    """At mesh time 100,000, one second after it came; clocks that are not both the mesh's are not compared."""
    request = GET._replace(deadline_ms=deadline, left_ms=left)
    assert time_left_ms(request, 100_000, synchronised, 1000) == expected
