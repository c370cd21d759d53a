"""The table of errors is INTERFACE part 3's, and an error is answered as RFC 9457 has it."""

import json

import pytest

from meshq.core.errors import RETRY_AFTER, TABLE, Code, Problem, refuse

INTERFACE = {
    "bad-address": 400,
    "bad-header": 400,
    "bad-request": 400,
    "denied": 403,
    "unknown-service": 404,
    "no-such-version": 404,
    "answer-not-kept": 409,
    "key-reused": 422,
    "too-large": 413,
    "misdirected": 421,
    "overloaded": 429,
    "bad-gateway": 502,
    "no-instance": 503,
    "unavailable": 503,
    "deadline": 504,
    "disk-full": 507,
}
WITH_RETRY_AFTER = {"overloaded", "no-instance", "unavailable"}


def test_the_table_is_the_contract() -> None:
    assert {code.value: info.status for code, info in TABLE.items()} == INTERFACE
    assert set(TABLE) == set(Code)
    assert {code.value for code in RETRY_AFTER} == WITH_RETRY_AFTER


@pytest.mark.parametrize("code", Code)
def test_an_error_is_a_problem_document(code: Code) -> None:
    response = Problem(code, "because – of „this“").as_response()
    assert response.status == INTERFACE[code.value]
    headers = {name.decode(): value.decode() for name, value in response.headers}
    assert headers.pop("Content-Type") == "application/problem+json"
    assert headers.pop("Meshq-Error") == code.value
    assert headers == ({"Retry-After": "1"} if code.value in WITH_RETRY_AFTER else {})
    body = json.loads(response.body)
    assert set(body) == {"type", "title", "status", "detail", "code", "retryable"}
    assert body["type"].endswith("/" + code.value)
    assert (body["status"], body["code"], body["detail"]) == (response.status, code.value, "because – of „this“")
    assert body["retryable"] is TABLE[code].retryable
    assert body["title"]


def test_what_is_said_of_one_request_counts_before_the_table() -> None:
    problem = Problem(Code.DEADLINE, "late", retryable=True)
    assert json.loads(problem.as_response().body)["retryable"] is True
    assert (b"Retry-After", b"7") in Problem(Code.OVERLOADED, "", retry_after=7).as_response().headers


def test_a_refusal_carries_its_problem() -> None:
    refused = refuse(Code.DENIED, "not you")
    assert refused.problem == Problem(Code.DENIED, "not you")
    assert str(refused) == "not you"
