"""Results: the record of what became of a durable call, for the service that made it."""

from meshq.core import dead
from meshq.core.delivery import Bury
from meshq.core.errors import TABLE, Code, Problem
from meshq.core.headers import carry_response
from meshq.core.http import HttpResponse
from meshq.core.message import Fault, Request, Response, encode_fault, encode_response

_CODES = {
    dead.DEADLINE: Code.DEADLINE,
    dead.NO_SUCH_VERSION: Code.NO_SUCH_VERSION,
    dead.KEY_REUSED: Code.KEY_REUSED,
    dead.DENIED: Code.DENIED,
}
"""What a dead message is called by whose sender no app has an answer; all else is `bad-gateway`."""


def done(request: Request, answer: HttpResponse | Problem, served_by: str) -> bytes:
    """It was handled."""
    return _record(request, answer, served_by, "")


def failed(request: Request, why: Bury, served_by: str) -> bytes:
    """It is dead: with the app's last answer, if there was one."""
    problem = Problem(_CODES.get(why.reason, Code.BAD_GATEWAY), why.detail, retryable=False)
    return _record(request, why.answer or problem, served_by, why.reason)


def _record(request: Request, answer: HttpResponse | Problem, served_by: str, reason: str) -> bytes:
    if isinstance(answer, Problem):
        retryable = TABLE[answer.code].retryable if answer.retryable is None else answer.retryable
        fault = Fault(request.id, answer.code, answer.detail, retryable, served_by, reason, request.callback)
        return encode_fault(fault)
    headers = carry_response(answer.headers, request.method == "HEAD" or answer.status == 304)
    response = Response(
        request.id, answer.status, headers, answer.body, served_by, request.attempt, reason, request.callback
    )
    return encode_response(response)
