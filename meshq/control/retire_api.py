"""Retiring a version in the control API.

GET  /v1/retire/<address>[?quietFor=1h]   whether it could be: 200, with the reasons why not
POST /v1/retire/<address>                 {"quietFor", "force"}; 200, or 409 with the reasons

The address names a major: `orders@1`. Both answer {"service", "version", "topic", "retired", "retirable", "reasons": [{"kind",
"name", "detail", "forcible"}], "queues", "warning"}; a 409 is a problem (RFC 9457) with these beside.
"""

import json
from typing import Any
from urllib.parse import unquote

from meshq.control import bodies
from meshq.control.retiring import QUIET_MS, Outcome, Retiring, version_of
from meshq.core.answers import as_json, method_not_allowed
from meshq.core.callreq import address_of
from meshq.core.errors import Code, refuse
from meshq.core.http import HttpRequest, HttpResponse

PREFIX = "/v1/retire/"


async def answer(retiring: Retiring, request: HttpRequest, path: str, quiet_for: str | None) -> HttpResponse:
    """To a request whose path begins with PREFIX. Raises Refused, Unreachable."""
    version = version_of(address_of(unquote(path.removeprefix(PREFIX))))
    if request.method in (b"GET", b"HEAD"):
        return as_json(_body(await retiring.look(version, _quiet_ms(quiet_for))))
    if request.method != b"POST":
        return method_not_allowed(b"GET, HEAD, POST", "GET tells what would be, POST retires it")
    said = bodies.read_map(request, ("quietFor", "force"))
    force = said.get("force") or False
    if not isinstance(force, bool):
        raise refuse(Code.BAD_REQUEST, "force: give true or false")
    outcome = await retiring.retire(version, _quiet_ms(said.get("quietFor")), force=force)
    return as_json(_body(outcome)) if outcome.retired else _conflict(outcome)


def _quiet_ms(given: Any) -> int:
    if given is None:
        return QUIET_MS
    try:
        return bodies.read_duration_ms(given)
    except ValueError as error:
        raise refuse(Code.BAD_REQUEST, f"quietFor: {error}") from error


def _body(outcome: Outcome) -> dict[str, Any]:
    return {
        "service": outcome.version.service,
        "version": str(outcome.version.major),
        "topic": outcome.version.topic,
        "retired": outcome.retired,
        "retirable": outcome.retired or not outcome.reasons,
        "reasons": [reason._asdict() for reason in outcome.reasons],
        "queues": outcome.queues,
        "warning": outcome.warning,
    }


def _conflict(outcome: Outcome) -> HttpResponse:
    why = "; ".join(reason.detail for reason in outcome.reasons)
    problem = {
        "type": "about:blank",
        "title": "Still in use",
        "status": 409,
        "detail": f"{outcome.version.topic} is not retired: {why}",
        **_body(outcome),
    }
    return HttpResponse(409, [(b"Content-Type", b"application/problem+json")], json.dumps(problem).encode())
