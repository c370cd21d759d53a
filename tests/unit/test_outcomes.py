"""From what became of a durable call to its record, and from the record to what its caller sees."""

import json

import pytest

from meshq.core import dead, outcomes, results
from meshq.core.delivery import Bury
from meshq.core.errors import Code, Problem
from meshq.core.http import HttpResponse, header
from meshq.core.message import Fault, Request, Response, decode, encode

REQUEST = Request("id-1", "POST", b"/", [], b"x", "checkout", attempt=3, accepted_ms=1, callback=b"/done")
WHO = "orders/1.0.0/i"


def read(record: bytes) -> Response | Fault:
    (message,) = decode(record)
    assert isinstance(message, Response | Fault)
    return message


def test_what_is_done() -> None:
    answer = HttpResponse(201, [(b"A", b"b"), (b"Connection", b"close"), (b"Meshq-Error", b"mine")], b"made")
    assert read(results.done(REQUEST, answer, WHO)) == Response(
        "id-1", 201, [(b"A", b"b")], b"made", WHO, 3, callback=b"/done"
    )


def test_what_is_done_but_whose_answer_cannot_travel() -> None:
    record = results.done(REQUEST, Problem(Code.BAD_GATEWAY, "too large", retryable=False), WHO)
    assert read(record) == Fault("id-1", Code.BAD_GATEWAY, "too large", False, WHO, callback=b"/done")


def test_what_is_dead_has_the_apps_last_answer() -> None:
    why = Bury(dead.ATTEMPTS, "the app answered 500", HttpResponse(500, [(b"A", b"b")], b"no"))
    assert read(results.failed(REQUEST, why, WHO)) == Response(
        "id-1", 500, [(b"A", b"b")], b"no", WHO, 3, "attempts", b"/done"
    )


@pytest.mark.parametrize(
    ("reason", "code"),
    [
        (dead.DEADLINE, Code.DEADLINE),
        (dead.NO_SUCH_VERSION, Code.NO_SUCH_VERSION),
        (dead.KEY_REUSED, Code.KEY_REUSED),
        (dead.ATTEMPTS, Code.BAD_GATEWAY),
    ],
)
def test_or_a_fault_where_there_was_none(reason: str, code: Code) -> None:
    assert read(results.failed(REQUEST, Bury(reason, "why"), WHO)) == Fault(
        "id-1", code, "why", False, WHO, reason, b"/done"
    )


def test_the_length_of_a_body_that_is_not_there_goes_with_an_answer_to_head() -> None:
    answer = HttpResponse(200, [(b"Content-Length", b"99")])
    head = read(results.done(REQUEST._replace(method="HEAD"), answer, WHO))
    assert isinstance(head, Response)
    assert header(outcomes.as_response(head, "HEAD").headers, b"content-length") == b"99"
    assert header(outcomes.as_response(head, "GET").headers, b"content-length") is None


def test_a_fault_is_shown_as_a_problem() -> None:
    shown = outcomes.as_result(Fault("id-1", Code.DEADLINE, "too late", False, WHO, dead.DEADLINE), "GET")
    assert (shown.status, json.loads(shown.body)["detail"]) == (504, "too late")
    assert header(shown.headers, b"meshq-request-status") == b"failed"
    assert header(shown.headers, b"meshq-request-reason") == b"deadline"


@pytest.mark.parametrize("ident", ["id-1", "x" * 64])
def test_a_callback_can_be_sent_and_read_again(ident: str) -> None:
    message = Response(ident, 200, [(b"Content-Encoding", b"gzip"), (b"Cookie", b"c")], b"\x1f", WHO, callback=b"/done")
    callback = outcomes.as_callback(message, b"checkout.mesh", "orders", 17)
    assert decode(encode(callback)) == [callback]
    assert (callback.target, callback.body, callback.caller, callback.accepted_ms) == (b"/done", b"\x1f", "orders", 17)
    assert header(callback.headers, b"content-encoding") == b"gzip"
    assert header(callback.headers, b"cookie") is None
    assert header(callback.headers, b"meshq-request-id") == ident.encode()


@pytest.mark.parametrize(("served_by", "service"), [(WHO, "orders"), ("", "")])
def test_who_says_that_it_served(served_by: str, service: str) -> None:
    assert outcomes.service_of(Response("id-1", 200, [], b"", served_by)) == service
