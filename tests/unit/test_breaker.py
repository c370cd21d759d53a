"""The circuit breaker: INTERFACE part 4 and item 7 of what makes nothing lost."""

import pytest

from meshq.core.breaker import FIRST_SECONDS, MOST_SECONDS, THRESHOLD, Breaker, Circuit, unwell
from meshq.core.http import Failed, Failure, HttpResponse


def opened() -> Breaker:
    breaker = Breaker()
    for _ in range(THRESHOLD):
        breaker.failed()
    assert breaker.circuit is Circuit.OPEN
    return breaker


@pytest.mark.parametrize("status", [429, 502, 503, 504])
def test_an_app_that_says_that_it_cannot_work_now_is_unwell(status: int) -> None:
    assert unwell(HttpResponse(status, []))


@pytest.mark.parametrize("status", [200, 302, 400, 404, 408, 422, 425, 500, 501, 505, 507])
def test_an_answer_about_the_message_is_no_sign_of_illness(status: int) -> None:
    assert not unwell(HttpResponse(status, []))


@pytest.mark.parametrize("failure", [Failure.REFUSED, Failure.BROKEN, Failure.TIMEOUT])
def test_an_app_that_does_not_answer_is_unwell(failure: Failure) -> None:
    assert unwell(Failed(failure, "why"))


@pytest.mark.parametrize("failure", [Failure.TOO_LARGE, Failure.CANCELLED])
def test_what_is_not_the_apps_doing_is_not_held_against_it(failure: Failure) -> None:
    assert not unwell(Failed(failure, "why"))


def test_ten_failures_in_a_row_open_it() -> None:
    breaker = Breaker()
    assert [breaker.failed() for _ in range(9)] == [None] * 9
    assert not breaker.succeeded(), "it was closed"
    assert [breaker.failed() for _ in range(9)] == [None] * 9
    assert breaker.circuit is Circuit.CLOSED
    assert breaker.failed() == FIRST_SECONDS
    assert breaker.circuit is Circuit.OPEN


def test_those_that_were_under_way_when_it_opened_open_it_no_more() -> None:
    breaker = opened()
    assert [breaker.failed() for _ in range(20)] == [None] * 20


def test_one_failure_opens_it_again_for_twice_as_long_up_to_a_bound() -> None:
    breaker = opened()
    seconds = []
    for _ in range(7):
        breaker.try_one()
        assert breaker.circuit is Circuit.HALF_OPEN
        seconds.append(breaker.failed())
        assert breaker.circuit is Circuit.OPEN
    assert seconds == [2, 4, 8, 16, 30, 30, 30]
    assert seconds[-1] == MOST_SECONDS


def test_one_success_closes_it() -> None:
    breaker = opened()
    breaker.try_one()
    assert breaker.succeeded()
    assert breaker.circuit is Circuit.CLOSED
    assert [breaker.failed() for _ in range(10)] == [None] * 9 + [FIRST_SECONDS], "and all is forgotten"


def test_a_success_that_was_under_way_closes_it_and_it_stays_closed_when_the_time_is_over() -> None:
    breaker = opened()
    assert breaker.succeeded()
    breaker.try_one()
    assert breaker.circuit is Circuit.CLOSED
    assert breaker.failed() is None
