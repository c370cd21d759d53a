"""What the sender of a durable call gets to know."""

import pytest

from meshq.core import dead, results
from meshq.core.delivery import Bury
from meshq.core.errors import Code, Problem
from meshq.core.http import HttpResponse
from meshq.core.message import Fault, Request, Response, decode

ASKED = Request(
    "m1", "POST", b"/a", [], b"x", "checkout", attempt=3, accepted_ms=1, callback=b"/done", answer_to="checkout.i-1.0a"
)
WHO = "orders/2.1.0/i-1"


def test_an_answer_is_the_result_with_its_end_to_end_fields() -> None:
    answer = HttpResponse(
        201, [(b"A", b"b"), (b"Connection", b"close, A2"), (b"A2", b"x"), (b"Meshq-Error", b"y")], b"made"
    )
    (result,) = decode(results.done(ASKED, answer, WHO))
    assert result == Response("m1", 201, [(b"A", b"b")], b"made", WHO, 3, "", b"/done")


@pytest.mark.parametrize(
    ("method", "status", "kept"), [("HEAD", 200, True), ("GET", 304, True), ("GET", 200, False), ("POST", 201, False)]
)
def test_a_length_without_a_body_is_kept(method: str, status: int, kept: bool) -> None:
    answer = HttpResponse(status, [(b"Content-Length", b"99")])
    (result,) = decode(results.done(ASKED._replace(method=method), answer, WHO))
    assert isinstance(result, Response)
    assert result.headers == ([(b"Content-Length", b"99")] if kept else [])


@pytest.mark.parametrize(("said", "retryable"), [(None, False), (True, True), (False, False)])
def test_an_error_of_the_mesh_is_the_result(said: bool | None, retryable: bool) -> None:
    problem = Problem(Code.BAD_GATEWAY, "over the limit", said)
    (result,) = decode(results.done(ASKED, problem, WHO))
    assert result == Fault("m1", Code.BAD_GATEWAY, "over the limit", retryable, WHO, "", b"/done")


def test_a_dead_request_has_the_apps_last_answer_and_why() -> None:
    why = Bury(dead.REJECTED, "the app answered 422: the message is wrong", HttpResponse(422, [(b"A", b"b")], b"no"))
    (result,) = decode(results.failed(ASKED, why, WHO))
    assert result == Response("m1", 422, [(b"A", b"b")], b"no", WHO, 3, "rejected", b"/done")


@pytest.mark.parametrize(
    ("reason", "code"),
    [
        (dead.DEADLINE, Code.DEADLINE),
        (dead.KEY_REUSED, Code.KEY_REUSED),
        (dead.NO_SUCH_VERSION, Code.NO_SUCH_VERSION),
        (dead.ATTEMPTS, Code.BAD_GATEWAY),
        (dead.UNDECODABLE, Code.BAD_GATEWAY),
    ],
)
def test_a_dead_request_that_the_app_did_not_answer_has_an_error(reason: str, code: Code) -> None:
    (result,) = decode(results.failed(ASKED, Bury(reason, "why"), WHO))
    assert result == Fault("m1", code, "why", False, WHO, reason, b"/done")
