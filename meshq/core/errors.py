"""The errors that meshq itself answers with: one table, from which responses, retries and documentation are made.

A code is for machines and never changes its meaning; the detail is for people and says what to do. An app's own error
is not one of these: it passes through the mesh untouched.
"""

import json
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

from meshq.core.http import HttpResponse

PROBLEM_TYPE = "https://meshq.io/problems/"  # an identifier (RFC 9457 3.1.1), not necessarily a page


class CodeInfo(NamedTuple):
    status: int
    title: str
    retryable: bool
    """Whether repeating the same request unchanged may succeed. `deadline` and `bad-gateway` depend on the request."""


class Code(Enum):
    BAD_ADDRESS = "bad-address"
    BAD_HEADER = "bad-header"
    BAD_REQUEST = "bad-request"
    DENIED = "denied"
    UNKNOWN_SERVICE = "unknown-service"
    NO_SUCH_VERSION = "no-such-version"
    ANSWER_NOT_KEPT = "answer-not-kept"
    KEY_REUSED = "key-reused"
    TOO_LARGE = "too-large"
    MISDIRECTED = "misdirected"
    OVERLOADED = "overloaded"
    BAD_GATEWAY = "bad-gateway"
    NO_INSTANCE = "no-instance"
    UNAVAILABLE = "unavailable"
    DEADLINE = "deadline"
    DISK_FULL = "disk-full"


TABLE: dict[Code, CodeInfo] = {
    Code.BAD_ADDRESS: CodeInfo(400, "The address is malformed", False),
    Code.BAD_HEADER: CodeInfo(400, "A header is malformed", False),
    Code.BAD_REQUEST: CodeInfo(400, "The request is malformed", False),
    Code.DENIED: CodeInfo(403, "Policy forbids this caller", False),
    Code.UNKNOWN_SERVICE: CodeInfo(404, "No such service", False),
    Code.NO_SUCH_VERSION: CodeInfo(404, "No version satisfies the selector", False),
    Code.ANSWER_NOT_KEPT: CodeInfo(409, "The answer was not kept", False),
    Code.KEY_REUSED: CodeInfo(422, "The idempotency key was used with another body", False),
    Code.TOO_LARGE: CodeInfo(413, "The body is too large", False),
    Code.MISDIRECTED: CodeInfo(421, "The host is outside the mesh", False),
    Code.OVERLOADED: CodeInfo(429, "Too much is pending", True),
    Code.BAD_GATEWAY: CodeInfo(502, "The other app gave no usable answer", False),
    Code.NO_INSTANCE: CodeInfo(503, "No instance is ready", True),
    Code.UNAVAILABLE: CodeInfo(503, "The mesh cannot take this now", True),
    Code.DEADLINE: CodeInfo(504, "No answer in time", False),
    Code.DISK_FULL: CodeInfo(507, "The spool cannot write", True),
}

RETRY_AFTER = frozenset({Code.OVERLOADED, Code.NO_INSTANCE, Code.UNAVAILABLE})


@dataclass(frozen=True, slots=True)
class Problem:
    """One refusal or failure, ready to be answered with."""

    code: Code
    detail: str
    retryable: bool | None = None
    """None means what the table says."""
    retry_after: int = 1
    """Seconds; sent only with the codes in RETRY_AFTER."""

    @property
    def status(self) -> int:
        return TABLE[self.code].status

    def as_response(self) -> HttpResponse:
        """The `application/problem+json` answer (RFC 9457) with `Meshq-Error`, and `Retry-After` where the code has one."""
        info = TABLE[self.code]
        body = {
            "type": PROBLEM_TYPE + self.code.value,
            "title": info.title,
            "status": info.status,
            "detail": self.detail,
            "code": self.code.value,
            "retryable": info.retryable if self.retryable is None else self.retryable,
        }
        headers = [(b"Content-Type", b"application/problem+json"), (b"Meshq-Error", self.code.value.encode())]
        if self.code in RETRY_AFTER:
            headers.append((b"Retry-After", b"%d" % self.retry_after))
        return HttpResponse(info.status, headers, json.dumps(body, ensure_ascii=False).encode())


class Refused(Exception):
    """Raised where a request cannot go on; whoever holds the caller answers with `problem`."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.detail)
        self.problem = problem


def refuse(code: Code, detail: str) -> Refused:
    return Refused(Problem(code, detail))
