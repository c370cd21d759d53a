"""What becomes of a message: the table of INTERFACE part 4, row by row; for waited calls and then for durable messages."""

from datetime import UTC, datetime
from email.utils import format_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshq.core import dead
from meshq.core.delivery import (
    MAX_RETRY_AFTER,
    SAFE_METHODS,
    Again,
    Bury,
    Done,
    Drop,
    GiveBack,
    PutBack,
    Reason,
    Refuse,
    Reply,
    Start,
    before_call,
    before_work,
    expired,
    safe_to_repeat,
    settle_call,
    settle_work,
    time_left_ms,
)
from meshq.core.errors import Code, Problem
from meshq.core.http import Failed, Failure, HttpResponse
from meshq.core.message import MAX_EXCERPT, Request
from meshq.core.names import parse_version
from meshq.core.policy import Retry
from meshq.core.routing import MAX_MISSES
from meshq.core.selectors import parse_selector
from meshq.core.topology import MAX_DELAY_SECONDS

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


# --- a durable message ---------------------------------------------------------------------------------------------------------

SENT = POST._replace(accepted_ms=1_700_000_000_000)
NOW_MS = 1_700_000_100_000
RETRY = Retry()


def settled(
    outcome: HttpResponse | Failed, attempt: int = 1, retry: Retry = RETRY, jitter: float = 0.0
) -> Done | Again | PutBack | Bury:
    return settle_work(SENT._replace(attempt=attempt), outcome, retry, jitter, NOW_MS)


@pytest.mark.parametrize("status", [200, 201, 204, 301, 302, 304, 399])
@pytest.mark.parametrize("attempt", [1, 5, 9])
def test_2xx_and_3xx_are_done(status: int, attempt: int) -> None:
    answer = HttpResponse(status, [(b"A", b"b")], b"body")
    assert settled(answer, attempt) == Done(answer)


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504, 507, 599])
def test_408_425_429_and_5xx_are_tried_again_then_dead(status: int) -> None:
    answer = HttpResponse(status, [], b"out of stock")
    for attempt, delay in [(1, 1), (2, 5), (3, 30), (4, 120)]:
        assert settled(answer, attempt) == Again(SENT._replace(attempt=attempt + 1), delay)
    detail = f"the app answered {status} to the last of 5 attempts"
    assert settled(answer, 5) == Bury(dead.ATTEMPTS, detail, answer)
    assert isinstance(settled(answer, 6), Bury), "a message may come with more than the setting allows now"


@pytest.mark.parametrize("status", [400, 401, 403, 404, 409, 410, 418, 422, 451, 499])
@pytest.mark.parametrize("attempt", [1, 4])
def test_other_4xx_are_dead_at_once(status: int, attempt: int) -> None:
    answer = HttpResponse(status, [], b"no such customer")
    buried = settled(answer, attempt)
    assert buried == Bury(dead.REJECTED, f"the app answered {status}: the message is wrong", answer)


@pytest.mark.parametrize("attempt", [1, 5, 50])
@pytest.mark.parametrize("failure", [Failure.REFUSED, Failure.CANCELLED])
def test_an_app_that_took_no_connection_or_was_not_let_finish_burns_no_attempt(failure: Failure, attempt: int) -> None:
    assert settled(Failed(failure, "no"), attempt) == PutBack()


@pytest.mark.parametrize("failure", [Failure.BROKEN, Failure.TIMEOUT])
def test_an_app_that_breaks_off_or_is_silent_is_tried_again_then_dead(failure: Failure) -> None:
    assert settled(Failed(failure, "why"), 4) == Again(SENT._replace(attempt=5), 120)
    assert settled(Failed(failure, "why"), 5) == Bury(dead.ATTEMPTS, "why (the last of 5 attempts)")


@pytest.mark.parametrize(
    ("status", "attempt", "expected"),
    [
        (200, 1, Done(Problem(Code.BAD_GATEWAY, "4 MiB", retryable=False))),
        (500, 1, Again(SENT._replace(attempt=2), 1)),
        (500, 5, Bury(dead.ATTEMPTS, "the app answered 500 to the last of 5 attempts", HttpResponse(500, []))),
        (422, 1, Bury(dead.REJECTED, "the app answered 422: the message is wrong", HttpResponse(422, []))),
    ],
)
def test_of_an_answer_that_is_too_large_the_status_decides(
    status: int, attempt: int, expected: Done | Again | Bury
) -> None:
    assert settled(Failed(Failure.TOO_LARGE, "4 MiB", status), attempt) == expected


def test_an_excerpt_of_the_answer_goes_with_the_dead_letter() -> None:
    assert Bury(dead.DEADLINE, "late").excerpt == b""
    answer = HttpResponse(422, [], b"x" * 5000)
    assert Bury(dead.REJECTED, "no", answer).excerpt == b"x" * MAX_EXCERPT


def test_one_attempt_is_one() -> None:
    assert isinstance(settled(HttpResponse(500, []), 1, Retry(1, ())), Bury)


@pytest.mark.parametrize(
    ("delays", "attempt", "expected"),
    [
        ((), 1, 0),
        ((3.0,), 1, 3),
        ((3.0,), 4, 3),
        ((1.0, 5.0), 2, 5),
        ((1.0, 5.0), 3, 5),
        ((0.0, 7.0), 1, 0),
        ((366 * 86_400.0,), 1, MAX_DELAY_SECONDS),
    ],
)
def test_the_last_delay_repeats(delays: tuple[float, ...], attempt: int, expected: int) -> None:
    again = settled(HttpResponse(500, []), attempt, Retry(99, delays))
    assert again == Again(SENT._replace(attempt=attempt + 1), expected)


@given(st.floats(0, 1), st.integers(1, 98), st.lists(st.floats(0, 86_400), max_size=6))
def test_jitter_adds_a_fifth_at_most_and_takes_nothing(jitter: float, attempt: int, delays: list[float]) -> None:
    again = settled(HttpResponse(500, []), attempt, Retry(99, tuple(delays)), jitter)
    assert isinstance(again, Again)
    delay = delays[min(attempt, len(delays)) - 1] if delays else 0.0
    assert int(delay + 0.5) <= again.delay <= int(delay * 1.2 + 0.5)


def date(seconds: int) -> str:
    """As HTTP writes a time, so many seconds from now."""
    return format_datetime(datetime.fromtimestamp(NOW_MS // 1000 + seconds, UTC), usegmt=True)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("0", 0),
        ("7", 7),
        ("00120", 120),
        ("86400", MAX_RETRY_AFTER),
        ("99999999999999999999", MAX_RETRY_AFTER),
        (date(90), 90),
        (date(0), 0),
        (date(-500), 0),
        (date(40 * 86_400), MAX_RETRY_AFTER),
        (format_datetime(datetime.fromtimestamp(NOW_MS // 1000 + 60, UTC).replace(tzinfo=None)), 60),
        ("Sunday, 06-Nov-94 08:49:37 GMT", 0),
    ],
)
@pytest.mark.parametrize("status", [429, 503])
def test_retry_after_is_honoured(value: str, expected: int, status: int) -> None:
    again = settled(HttpResponse(status, [(b"RETRY-after", value.encode())]), 2, jitter=1.0)
    assert again == Again(SENT._replace(attempt=3), expected)


@pytest.mark.parametrize(
    "value",
    ["", "soon", "-1", "1.5", "5s", " 5", "\u0665", "0 JAN 3000000000 0:0", "0 JAN 3000000000 0:0 0", "\xb2", "1 2"],
)
def test_a_retry_after_that_says_nothing_is_passed_over(value: str) -> None:
    again = settled(HttpResponse(503, [(b"Retry-After", value.encode("utf-8"))]), 2)
    assert again == Again(SENT._replace(attempt=3), 5)


DATES = st.from_regex(
    r"(Mon|Sun)?,? ?[0-9]{0,6} (Jan|Feb|Dec) [0-9]{1,12} [0-9]{1,4}:[0-9]{1,9}(:[0-9]{1,6})? ([+-][0-9]{1,25}|GMT|EST|-0000)",
    fullmatch=True,
)


@given(st.text(max_size=60) | DATES)
def test_no_retry_after_can_do_harm(value: str) -> None:
    again = settled(HttpResponse(503, [(b"Retry-After", value.encode("utf-8", "replace"))]))
    assert isinstance(again, Again)
    assert 0 <= again.delay <= MAX_RETRY_AFTER


@given(
    st.one_of(
        st.builds(HttpResponse, st.integers(200, 999), st.just([])),
        st.builds(Failed, st.sampled_from(Failure), st.text(max_size=9), st.none() | st.integers(200, 599)),
    ),
    st.integers(1, 200),
    st.builds(Retry, st.integers(1, 99), st.lists(st.floats(0, 1e7), max_size=5).map(tuple)),
    st.floats(0, 1),
)
def test_every_outcome_is_decided(outcome: HttpResponse | Failed, attempt: int, retry: Retry, jitter: float) -> None:
    decision = settled(outcome, attempt, retry, jitter)
    if isinstance(decision, Again):
        assert attempt < retry.attempts
        assert decision.request == SENT._replace(attempt=attempt + 1)
        assert 0 <= decision.delay <= MAX_DELAY_SECONDS
    if isinstance(decision, Bury):
        assert decision.reason in (dead.REJECTED, dead.ATTEMPTS)
        assert decision.reason == dead.REJECTED or attempt >= retry.attempts


@pytest.mark.parametrize("left", [None, 1, 10_000])
def test_a_durable_message_without_more_to_it_starts(left: int | None) -> None:
    assert before_work(SENT, None, HERE, left) == Start()


@pytest.mark.parametrize(("left", "ago"), [(0, "0"), (-1500, "1.5"), (-3_600_000, "3600")])
def test_a_durable_message_is_dead_when_its_deadline_passed(left: int, ago: str) -> None:
    expected = Bury(dead.DEADLINE, f"its deadline passed {ago} s before it could be started")
    assert before_work(SENT, None, HERE, left) == expected
    assert before_work(SENT, parse_selector("^9"), HERE, left) == expected


def test_a_durable_message_outside_the_selector_goes_back_three_times() -> None:
    selector, request = parse_selector("^2.2"), SENT
    for misses in range(1, MAX_MISSES + 1):
        decision = before_work(request, selector, HERE, None)
        assert decision == Again(request._replace(misses=misses), 0), "at once, and no attempt burnt"
        request = decision.request
    buried = before_work(request, selector, HERE, None)
    assert buried == Bury(dead.NO_SUCH_VERSION, "no instance that satisfies '^2.2' took it")
    assert before_work(request, parse_selector("^2.1"), HERE, None) == Start()
