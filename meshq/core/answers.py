"""Answers of meshq's own JSON APIs."""

import json

from meshq.core.http import HttpResponse


def as_json(body: object) -> HttpResponse:
    data = json.dumps(body, ensure_ascii=False).encode() + b"\n"
    return HttpResponse(200, [(b"Content-Type", b"application/json")], data)


def no_such_path(detail: str) -> HttpResponse:
    """Not an error of the table (core/errors.py), which is about the mesh. `detail` says which paths there are."""
    body = {"type": "about:blank", "title": "No such path", "status": 404, "detail": detail}
    return HttpResponse(404, [(b"Content-Type", b"application/problem+json")], json.dumps(body).encode())
