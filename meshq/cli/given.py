"""What -H and -d give a request, and what an error's body says."""

import json
import sys
from pathlib import Path

import typer

from meshq.core.http import Headers, HttpResponse, header


def headers_of(texts: list[str]) -> Headers:
    """Of `Name: value` each."""
    return [_header(text) for text in texts]


def _header(text: str) -> tuple[bytes, bytes]:
    name, colon, value = text.partition(":")
    if not colon or not name.strip() or any(character in text for character in "\r\n\0"):
        raise typer.BadParameter(f"{text!r} is not a header such as 'Accept: text/plain'", param_hint="-H")
    return name.strip().encode(), value.strip().encode()


def body_of(data: str) -> bytes:
    """Text, @FILE, or @- for standard input."""
    if not data.startswith("@"):
        return data.encode()
    if data == "@-":
        return sys.stdin.buffer.read()
    try:
        return Path(data[1:]).read_bytes()
    except OSError as error:
        raise typer.BadParameter(f"{data[1:]} cannot be read: {error.strerror}", param_hint="-d") from error


def with_content_type(headers: Headers, body: bytes | None, otherwise: bytes) -> Headers:
    """JSON where the body is that, else `otherwise`; unless a header says what it is."""
    if body is None or header(headers, b"content-type") is not None:
        return headers
    return [*headers, (b"Content-Type", b"application/json" if _is_json(body) else otherwise)]


def _is_json(body: bytes) -> bool:
    try:
        json.loads(body)
    except ValueError:
        return False
    return True


def detail_of(response: HttpResponse) -> str:
    """Of an error by meshq."""
    try:
        return str(json.loads(response.body)["detail"])
    except (ValueError, KeyError, TypeError):
        return f"the mesh answered {response.status}"
