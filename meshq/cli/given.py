"""What -H and -d give a request, what a file holds, and what an error's body says."""

import json
import sys
from datetime import date
from pathlib import Path
from typing import Any

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


def map_of(file: str, hint: str, such_as: str) -> dict[str, Any]:
    """What stands in a file in JSON or YAML, or in standard input for `-`, as JSON has it. `hint` names the option or argument."""
    from ruamel.yaml.error import YAMLError

    try:
        found = _parsed(sys.stdin.read() if file == "-" else Path(file).read_text("utf-8"))
    except OSError as error:
        raise typer.BadParameter(f"{file} cannot be read: {error.strerror}", param_hint=hint) from error
    except (YAMLError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark is not None else ""
        raise typer.BadParameter(
            f"{file}{where} is not YAML: {getattr(error, 'problem', None) or error}", param_hint=hint
        ) from error
    if not isinstance(found, dict):
        raise typer.BadParameter(f"{file} has no map at its top, such as {such_as}", param_hint=hint)
    plain: dict[str, Any] = json.loads(json.dumps(found, default=_date))
    return plain


def _parsed(text: str) -> Any:
    """JSON, which may be indented with tabs and is read faster so, or YAML."""
    from ruamel.yaml import YAML

    try:
        return json.loads(text)
    except ValueError:
        return YAML(typ="safe", pure=True).load(text)


def _date(value: Any) -> str:
    return value.isoformat() if isinstance(value, date) else str(value)


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
