"""`meshq call`: one waited call, as curl would make it to a sidecar."""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from meshq.cli import reach
from meshq.cli.exits import FAILED, UNREACHABLE, leave
from meshq.cli.show import ControlUrl
from meshq.core.durations import parse_duration_ms
from meshq.core.http import HttpRequest, HttpResponse, header
from meshq.core.names import BadName
from meshq.core.selectors import parse_address

DEFAULT_SECONDS = 30.0


def call(
    address: Annotated[str, typer.Argument(metavar="ADDRESS", help="orders, orders@2, orders@^2.1, orders@latest")],
    path: Annotated[str, typer.Argument(metavar="PATH", help="The path at the app, with its query.")],
    method: Annotated[
        str | None, typer.Option("-X", "--request", metavar="METHOD", help="Else GET, or POST with -d.")
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            "-d",
            "--data",
            metavar="DATA",
            help="The body: text, @FILE, or @- for standard input. Content-Type is application/json if it is JSON, else "
            "application/x-www-form-urlencoded, unless -H says otherwise.",
        ),
    ] = None,
    headers: Annotated[
        list[str] | None, typer.Option("-H", "--header", metavar="HEADER", help="'Name: value'; may be repeated.")
    ] = None,
    timeout: Annotated[
        str | None, typer.Option(metavar="DURATION", help="How long to wait for the answer: 500ms, 2s, 1m. Else 30s.")
    ] = None,
    include: Annotated[
        bool, typer.Option("-i", "-v", "--include", help="Status and headers too, on standard error.")
    ] = False,
    control: ControlUrl = None,
) -> None:
    """Call a service and print its answer.

    Exits with 0 for a status below 400, else with 1.
    """
    request = _request(address, path, method, data, headers or [])
    seconds = DEFAULT_SECONDS
    if timeout is not None:
        seconds = _seconds(timeout)
        request.headers.append((b"Meshq-Timeout", timeout.strip().encode()))
    try:
        way = reach.choose(control)
        try:
            response = way.call(request, address, seconds)
        finally:
            way.close()
    except reach.Away as away:
        leave(UNREACHABLE, str(away))
    _show(response, include)


def _request(address: str, path: str, method: str | None, data: str | None, given: list[str]) -> HttpRequest:
    try:
        parse_address(address)
    except BadName as error:
        raise typer.BadParameter(str(error), param_hint="ADDRESS") from error
    target = path if path.startswith("/") else f"/{path}"
    if not target.isascii() or any(character <= " " for character in target):
        raise typer.BadParameter(f"{path!r} has characters that must be percent-encoded", param_hint="PATH")
    verb = (method or ("GET" if data is None else "POST")).encode("ascii", "replace")
    if not verb.isalnum():
        raise typer.BadParameter(f"{method!r} is not a method", param_hint="-X")
    headers = [_header(text) for text in given]
    body = None if data is None else _body(data)
    if body is not None and header(headers, b"content-type") is None:
        headers.append(
            (b"Content-Type", b"application/json" if _is_json(body) else b"application/x-www-form-urlencoded")
        )
    return HttpRequest(verb, target.encode(), headers, body)


def _header(text: str) -> tuple[bytes, bytes]:
    name, colon, value = text.partition(":")
    if not colon or not name.strip() or any(character in text for character in "\r\n\0"):
        raise typer.BadParameter(f"{text!r} is not a header such as 'Accept: text/plain'", param_hint="-H")
    return name.strip().encode(), value.strip().encode()


def _body(data: str) -> bytes:
    if not data.startswith("@"):
        return data.encode()
    if data == "@-":
        return sys.stdin.buffer.read()
    try:
        return Path(data[1:]).read_bytes()
    except OSError as error:
        raise typer.BadParameter(f"{data[1:]} cannot be read: {error.strerror}", param_hint="-d") from error


def _is_json(body: bytes) -> bool:
    try:
        json.loads(body)
    except ValueError:
        return False
    return True


def _seconds(text: str) -> float:
    try:
        return parse_duration_ms(text) / 1000
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--timeout") from error


def _show(response: HttpResponse, include: bool) -> None:
    if include:
        typer.echo(f"HTTP {response.status}", err=True)
        for name, value in response.headers:
            typer.echo(f"{name.decode('latin-1')}: {value.decode('latin-1')}", err=True)
        typer.echo(err=True)
    code = header(response.headers, b"meshq-error")
    if code is not None:
        leave(FAILED, f"{_detail(response)} ({code.decode('latin-1')})")
    sys.stdout.buffer.write(response.body)
    if sys.stdout.isatty() and response.body and not response.body.endswith(b"\n"):
        sys.stdout.write("\n")
    sys.stdout.flush()
    if response.status >= 400:
        leave(FAILED, f"the app answered {response.status}")


def _detail(response: HttpResponse) -> str:
    try:
        return str(json.loads(response.body)["detail"])
    except (ValueError, KeyError, TypeError):
        return f"the mesh answered {response.status}"
