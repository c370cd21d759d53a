"""A WSGI environment as a request, and the status line of its answer (PEP 3333)."""

from http import HTTPStatus
from typing import Any
from urllib.parse import quote, unquote_to_bytes

from meshq.core.errors import Code
from meshq.core.http import Headers, HttpRequest
from meshq.sdk.bodies import MAX_BODY
from meshq.sdk.mounting import PATH_SAFE, below, too_large
from meshq.sdk.problem import Problem

CHUNK = 64 * 1024

Environ = dict[str, Any]


def root_of(environ: Environ) -> str:
    """Where the application is mounted: `/mesh`, or ""."""
    return str(environ.get("SCRIPT_NAME", "")).rstrip("/")


def request_of(environ: Environ) -> HttpRequest:
    """Raises Problem for one that is not whole, or too large."""
    body = _body(environ)
    return HttpRequest(environ["REQUEST_METHOD"].encode("latin-1"), _target(environ), _headers(environ), body)


def status_line(status: int) -> str:
    """
    >>> status_line(404), status_line(299)
    ('404 Not Found', '299 Status')
    """
    try:
        return f"{status} {HTTPStatus(status).phrase}"
    except ValueError:
        return f"{status} Status"


def _body(environ: Environ) -> bytes | None:
    said = environ.get("CONTENT_LENGTH") or ""
    if said:
        if not said.isdecimal():
            raise Problem(Code.BAD_REQUEST.value, f"{said[:40]!r} is no Content-Length")
        length = int(said)
        if length > MAX_BODY:
            raise too_large()
        body = _read(environ["wsgi.input"], length)
        if len(body) < length:
            raise Problem(Code.BAD_REQUEST.value, f"the body ends after {len(body)} of {length} bytes")
        return body
    if "HTTP_TRANSFER_ENCODING" in environ and environ.get("wsgi.input_terminated"):
        body = _read(environ["wsgi.input"], MAX_BODY + 1)
        if len(body) > MAX_BODY:
            raise too_large()
        return body
    return None


def _read(stream: Any, most: int) -> bytes:
    """`most` bytes, or fewer where it ends before."""
    body = bytearray()
    while len(body) < most and (chunk := stream.read(min(CHUNK, most - len(body)))):
        body += chunk
    return bytes(body)


def _target(environ: Environ) -> bytes:
    """WSGI decodes the path, so that `%2F` is a `/` there; many servers tell besides how it was."""
    root: str = environ.get("SCRIPT_NAME", "").rstrip("/")
    path: bytes = environ.get("PATH_INFO", "").encode("latin-1")
    said = environ.get("RAW_URI") or environ.get("REQUEST_URI") or ""
    raw = said.partition("?")[0].encode("latin-1", "replace")
    if unquote_to_bytes(raw) == root.encode("latin-1") + path:
        target = below(raw, root)
    else:
        target = quote(path or b"/", PATH_SAFE).encode()
    query: bytes = environ.get("QUERY_STRING", "").encode("latin-1")
    return target + b"?" + query if query else target


def _headers(environ: Environ) -> Headers:
    named = {name[5:]: value for name, value in environ.items() if name.startswith("HTTP_")}
    named |= {name: environ[name] for name in ("CONTENT_TYPE", "CONTENT_LENGTH") if environ.get(name)}
    return [
        (name.replace("_", "-").lower().encode("latin-1"), value.encode("latin-1")) for name, value in named.items()
    ]
