"""What became of a call, as the answer that its caller gets."""

from meshq.core.headers import carry_response
from meshq.core.http import HttpResponse
from meshq.core.message import Fault, Request, Response

CANCELLED = "cancelled"
"""Why a durable call failed that was cancelled before it started; besides the reasons of meshq.core.dead."""

_OF_THE_BODY = (b"content-type", b"content-encoding")


def as_response(message: Response | Fault, method: str) -> HttpResponse:
    """`method` is that of the request which the response answers on the wire."""
    if isinstance(message, Fault):
        response = message.as_problem().as_response()
    else:
        # The other sidecar has done this; but whoever answers must not speak as the mesh, nor frame our response.
        headers = carry_response(message.headers, keep_length=method == "HEAD" or message.status == 304)
        response = HttpResponse(message.status, headers, message.body)
        response.headers.append((b"Meshq-Attempt", b"%d" % message.attempt))
    if message.served_by:
        response.headers.append((b"Meshq-Served-By", message.served_by.encode()))
    return response


def as_result(message: Response | Fault, method: str) -> HttpResponse:
    """The same of a durable call: it says whether it is done, and if not why."""
    response = as_response(message, method)
    response.headers.append((b"Meshq-Request-Status", b"failed" if message.failed else b"done"))
    if message.failed:
        response.headers.append((b"Meshq-Request-Reason", message.failed.encode()))
    return response


def as_callback(message: Response | Fault, host: bytes, called: str, accepted_ms: int) -> Request:
    """The result on its way to the app that made the call: posted to its callback, with the answer's body. `called` is the
    service that the result is from."""
    answer = as_result(message, "POST")
    headers = [(b"Host", host)]
    headers += [field for field in answer.headers if field[0].lower() in _OF_THE_BODY]
    headers += [field for field in answer.headers if field[0].lower().startswith(b"meshq-request-")]
    headers += [(b"Meshq-Request-Id", message.id.encode()), (b"Meshq-Request-Code", b"%d" % answer.status)]
    # The same id whenever it is delivered, so that the app can tell the second from the first.
    ident = f"{message.id[:55]}-callback"
    return Request(ident, "POST", message.callback, headers, answer.body, called, accepted_ms=accepted_ms)


def service_of(message: Response | Fault) -> str:
    """The service that says it has served this, "" where nobody says so."""
    return message.served_by.partition("/")[0]
