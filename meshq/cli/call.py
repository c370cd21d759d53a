"""`meshq call`: one call, as curl would make it to a sidecar."""

import json
import sys
from typing import Annotated

import typer

from meshq.cli import reach
from meshq.cli.exits import FAILED, UNREACHABLE, leave
from meshq.cli.given import body_of, detail_of, headers_of, with_content_type
from meshq.cli.show import ControlUrl, Format
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
    durable: Annotated[
        bool,
        typer.Option(
            "--async", help="Do not wait for the answer: have it accepted durably, and print its id and topic."
        ),
    ] = False,
    output: Annotated[
        Format | None, typer.Option("-o", "--output", help="How to show what --async prints; else the JSON as it came.")
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
    if durable:
        request.headers.append((b"Prefer", b"respond-async"))
    elif output is not None:
        raise typer.BadParameter("goes with --async only; else the answer is printed as it is", param_hint="-o")
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
    _show(response, include, output)


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
    body = None if data is None else body_of(data)
    headers = with_content_type(headers_of(given), body, b"application/x-www-form-urlencoded")
    return HttpRequest(verb, target.encode(), headers, body)


def _seconds(text: str) -> float:
    try:
        return parse_duration_ms(text) / 1000
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--timeout") from error


def _show(response: HttpResponse, include: bool, output: Format | None) -> None:
    if include:
        typer.echo(f"HTTP {response.status}", err=True)
        for name, value in response.headers:
            typer.echo(f"{name.decode('latin-1')}: {value.decode('latin-1')}", err=True)
        typer.echo(err=True)
    code = header(response.headers, b"meshq-error")
    if code is not None:
        leave(FAILED, f"{detail_of(response)} ({code.decode('latin-1')})")
    if output is not None and response.status == 202:
        from meshq.cli import tables, writing

        writing.show(json.loads(response.body), tables.accepted, output.value)
        return
    sys.stdout.buffer.write(response.body)
    if sys.stdout.isatty() and response.body and not response.body.endswith(b"\n"):
        sys.stdout.write("\n")
    sys.stdout.flush()
    if response.status >= 400:
        leave(FAILED, f"the app answered {response.status}")
