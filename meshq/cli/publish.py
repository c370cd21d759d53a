"""`meshq publish`: one event, or a batch of them, as an app would publish it at its sidecar."""

import json
import sys
from typing import Annotated, Any

import typer

from meshq.cli import reach
from meshq.cli.exits import FAILED, UNREACHABLE, leave
from meshq.cli.given import body_of, detail_of, headers_of, with_content_type
from meshq.cli.show import ControlUrl, Format
from meshq.core.events import EventAddress, parse_event
from meshq.core.http import HttpRequest, HttpResponse, header
from meshq.core.names import BadName


def publish(
    event: Annotated[str, typer.Argument(metavar="EVENT", help="payments.settled, payments.settled@2")],
    data: Annotated[
        str | None,
        typer.Option(
            "-d",
            "--data",
            metavar="DATA",
            help="The body: text, @FILE, or @- for standard input. Content-Type is application/json if it is JSON, else "
            "text/plain, unless -H says otherwise.",
        ),
    ] = None,
    headers: Annotated[
        list[str] | None,
        typer.Option(
            "-H", "--header", metavar="HEADER", help="'Name: value', such as 'Meshq-Key: order-17'; may be repeated."
        ),
    ] = None,
    output: Annotated[
        Format | None, typer.Option("-o", "--output", help="How to show the answer; else the JSON as it came.")
    ] = None,
    control: ControlUrl = None,
) -> None:
    """Publish an event and print its id and topic.

    Exits with 0 once it will not be lost, whether or not somebody subscribes to it. Of a batch (-H 'Content-Type:
    application/cloudevents-batch+json') the fate of each event is printed, and 1 says that some were refused.
    """
    address = _event(event)
    body = None if data is None else body_of(data)
    fields = with_content_type(headers_of(headers or []), body, b"text/plain")
    try:
        way = reach.choose(control)
        try:
            response = way.publish(HttpRequest(b"POST", b"", fields, body), address)
        finally:
            way.close()
    except reach.Away as away:
        leave(UNREACHABLE, str(away))
    _show(response, output)


def _event(text: str) -> EventAddress:
    try:
        return parse_event(text)
    except BadName as error:
        raise typer.BadParameter(str(error), param_hint="EVENT") from error


def _show(response: HttpResponse, output: Format | None) -> None:
    body = _json(response)
    if not isinstance(body, dict) or (response.status >= 400 and "events" not in body):
        code = header(response.headers, b"meshq-error")
        leave(FAILED, f"{detail_of(response)} ({code.decode('latin-1') if code else response.status})")
    fates = body.get("events")
    if output is None:
        sys.stdout.buffer.write(response.body)
        sys.stdout.flush()
    else:
        from meshq.cli import tables, writing

        event_topic = body.get("topic")
        shown = body if fates is None else [{"topic": event_topic, **fate} for fate in fates]
        writing.show(shown, tables.published, output.value)
    refused = sum(fate["status"] == "refused" for fate in fates or ())
    if refused:
        leave(FAILED, f"{refused} of {len(fates or ())} events were refused")
    if header(response.headers, b"meshq-subscribers") == b"0":
        typer.echo("meshq: nobody subscribes to it", err=True)


def _json(response: HttpResponse) -> Any:
    try:
        return json.loads(response.body)
    except ValueError:
        return None
