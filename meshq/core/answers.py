"""Answers of meshq's own JSON APIs."""

import json

from meshq.core.http import HttpResponse


def as_json(body: object) -> HttpResponse:
    data = json.dumps(body, ensure_ascii=False).encode() + b"\n"
    return HttpResponse(200, [(b"Content-Type", b"application/json")], data)


def no_such_path(detail: str) -> HttpResponse:
    """`detail` says which paths there are."""
    return problem(404, "No such path", detail)


def conflict(detail: str) -> HttpResponse:
    """What is there already forbids it; `detail` says what to do."""
    return problem(409, "Conflict", detail)


def method_not_allowed(allow: bytes, detail: str) -> HttpResponse:
    return HttpResponse(405, [(b"Allow", allow), (b"Content-Type", b"text/plain")], f"{detail}\n".encode())


def problem(status: int, title: str, detail: str) -> HttpResponse:
    """Not an error of the table (core/errors.py), which is about the mesh."""
    body = {"type": "about:blank", "title": title, "status": status, "detail": detail}
    return HttpResponse(status, [(b"Content-Type", b"application/problem+json")], json.dumps(body).encode())
