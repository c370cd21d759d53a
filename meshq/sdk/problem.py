"""The one exception of the SDK: something was refused, failed, or came too late. By whom, and whether to try again, it says."""

import json
from collections.abc import Mapping
from math import ceil
from typing import Any

from meshq.core.errors import PROBLEM_TYPE, TABLE, Code
from meshq.core.http import HttpResponse, header

APP_ERROR = "app-error"
"""The code of an app's own error that names none."""
INVALID = "invalid"
"""The code of a body or parameter that is not what the handler takes."""
REJECTED = "rejected"
"""The code of `Context.reject`."""
HANDLER_FAILED = "handler-failed"
"""The code of a handler that raised something else than a Problem."""

_BY_TABLE = {code.value: info for code, info in TABLE.items()}
_RETRYABLE_STATUS = frozenset({408, 425, 429, 500, 502, 503, 504, 507})
_PROBLEM_JSON = (b"Content-Type", b"application/problem+json")


class Problem(Exception):
    """An error of the mesh, of the called app, or (raised in a handler) of this one: then it is the answer.

    Args:
        code: for machines. One of the mesh's own (`deadline`, `overloaded`, ...: the README has the table), or the app's.
        detail: a sentence for people.
        status: the HTTP status. Of a code of the mesh it is known; otherwise 500 unless it is said.
        retryable: whether the same again may succeed. None: as the code or the status says.
        retry_after: seconds to wait before that, where somebody said so.
        fields: further members, for machines; JSON.
        by_mesh: the mesh says so, not an app.

    Raises:
        ValueError: the status is below 400, or `retry_after` is not a number of seconds.

    Raised in a handler of a durable message, the status decides what becomes of that: 408, 425, 429 and from 500 on it is tried again,
    otherwise it is a dead letter at once.

    Example:
        >>> problem = Problem("sold-out", "no tea is left", status=409)
        >>> problem.status, problem.retryable
        (409, False)
        >>> str(Problem("deadline", "no answer within 2 s"))
        'deadline (504): no answer within 2 s'
        >>> Problem("overloaded").retryable
        True
    """

    def __init__(
        self,
        code: str,
        detail: str = "",
        *,
        status: int | None = None,
        retryable: bool | None = None,
        retry_after: float | None = None,
        fields: Mapping[str, Any] | None = None,
        by_mesh: bool = False,
    ) -> None:
        known = _BY_TABLE.get(code)
        self.code = code
        self.detail = detail
        self.status = status if status is not None else known.status if known else 500
        if retryable is None:
            retryable = known.retryable if known else self.status in _RETRYABLE_STATUS
        self.retryable = retryable
        if not 400 <= self.status <= 999:
            raise ValueError(f"{self.status} is not the status of a problem: that is 400 or more")
        if retry_after is not None and not 0 <= retry_after < 10**9:
            raise ValueError(f"{retry_after} is not a number of seconds")
        self.retry_after = retry_after
        self.fields = dict(fields or {})
        self.by_mesh = by_mesh
        super().__init__(f"{code} ({self.status}): {detail}" if detail else f"{code} ({self.status})")

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuilt, (
            self.code,
            self.detail,
            self.status,
            self.retryable,
            self.retry_after,
            self.fields,
            self.by_mesh,
        )

    def as_response(self) -> HttpResponse:
        """The `application/problem+json` answer (RFC 9457) of an app that says so; `Meshq-Error` is for the mesh alone."""
        title = _BY_TABLE[self.code].title if self.code in _BY_TABLE else self.code.replace("-", " ").capitalize()
        body = {
            **self.fields,
            "type": f"{PROBLEM_TYPE}{self.code}",
            "title": title,
            "status": self.status,
            "detail": self.detail,
            "code": self.code,
            "retryable": self.retryable,
        }
        headers = [_PROBLEM_JSON]
        if self.retry_after is not None:
            headers.append((b"Retry-After", b"%d" % ceil(self.retry_after)))
        return HttpResponse(self.status, headers, json.dumps(body, default=str, skipkeys=True).encode())


_MEMBERS = frozenset({"type", "title", "status", "detail", "code", "retryable", "instance"})


def of_response(response: HttpResponse) -> Problem | None:
    """What a response of 400 or more says; None for another one."""
    if response.status < 400:
        return None
    by_mesh = header(response.headers, b"meshq-error")
    said = _members(response)
    code = by_mesh.decode("latin-1") if by_mesh is not None else str(said.get("code") or APP_ERROR)
    retryable = said.get("retryable")
    return Problem(
        code,
        str(said.get("detail") or _excerpt(response)),
        status=response.status,
        retryable=retryable if isinstance(retryable, bool) else None,
        retry_after=_seconds(header(response.headers, b"retry-after")),
        fields={name: value for name, value in said.items() if name not in _MEMBERS},
        by_mesh=by_mesh is not None,
    )


def no_sidecar(url: str, waited: float, why: object) -> Problem:
    """Nothing answers where the sidecar should be."""
    detail = f"no sidecar answers at {url} after {waited:g} s ({why}): start it, or set MESHQ_URL to where it listens"
    return Problem(Code.UNAVAILABLE.value, detail, by_mesh=True)


def closed() -> Problem:
    """Whoever waits for something of a Mesh that is closed meanwhile."""
    return Problem(Code.UNAVAILABLE.value, "this Mesh was closed meanwhile", retryable=False, by_mesh=True)


def _rebuilt(code: str, detail: str, *more: Any) -> Problem:
    status, retryable, retry_after, fields, by_mesh = more
    return Problem(
        code, detail, status=status, retryable=retryable, retry_after=retry_after, fields=fields, by_mesh=by_mesh
    )


def _members(response: HttpResponse) -> dict[str, Any]:
    if b"json" not in (header(response.headers, b"content-type") or b""):
        return {}
    try:
        found = json.loads(response.body)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _excerpt(response: HttpResponse) -> str:
    return response.body[:200].decode("utf-8", "replace").strip()


def _seconds(value: bytes | None) -> float | None:
    """Of Retry-After; a date in it, which nobody here sends, is passed over."""
    return float(value) if value is not None and value.isdigit() and len(value) < 10 else None
