"""`meshq pause`, `meshq resume`, `meshq drain`: what an operator wants of an instance."""

from collections.abc import Callable
from typing import Annotated, Any

import typer

from meshq.adapters.clock import SystemClock
from meshq.cli import reach, tables
from meshq.cli.asking import ask, reached, request, segment
from meshq.cli.exits import FAILED, leave
from meshq.cli.show import AGAIN_AFTER, ControlUrl, Format
from meshq.core.durations import parse_duration_ms
from meshq.ports import Clock

LEAST_ASKING = 1.0
"""Seconds that the last question of --wait has, however little is left: without an answer nobody knows how it is."""


def _duration(text: str | None) -> str | None:
    try:
        if text is not None and not parse_duration_ms(text):
            raise ValueError("0 is no time")
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    return text


def _instance(text: str) -> str:
    if not text or not text.isprintable():
        raise typer.BadParameter("give the id of an instance, as `meshq instances` shows it")
    return text


InstanceId = Annotated[
    str, typer.Argument(metavar="INSTANCE", help="Its id, as `meshq instances` shows it.", callback=_instance)
]
OfService = Annotated[
    str | None, typer.Option(metavar="SERVICE", help="Whose it is, where several services have that id.")
]
AsFormat = Annotated[Format, typer.Option("-o", "--output", help="How to show the instance then.")]


def pause(
    instance: InstanceId,
    duration: Annotated[
        str | None, typer.Option("--for", metavar="D", help="5m, 1h; else until `meshq resume`.", callback=_duration)
    ] = None,
    reason: Annotated[str | None, typer.Option(metavar="R", help="For others to see.")] = None,
    service: OfService = None,
    output: AsFormat = Format.TABLE,
    control: ControlUrl = None,
) -> None:
    """Give an instance nothing for a while.

    It stays registered and finishes what it has. It cannot lift this itself; it ends with --for or `meshq resume`.
    """
    said = {name: value for name, value in (("reason", reason), ("for", duration)) if value is not None}
    _order(control, instance, "pause", service, said, output, _paused)


def resume(
    instance: InstanceId, service: OfService = None, output: AsFormat = Format.TABLE, control: ControlUrl = None
) -> None:
    """End an operator's pause; one of the instance's own stays."""
    _order(control, instance, "resume", service, {}, output, _resumed)


def drain(
    instance: InstanceId,
    service: OfService = None,
    wait: Annotated[
        bool,
        typer.Option(
            "--wait", help="Until it has nothing in flight or is gone; exits with 1 if --timeout is over first."
        ),
    ] = False,
    timeout: Annotated[str, typer.Option(metavar="D", help="How long --wait waits.", callback=_duration)] = "60s",
    output: AsFormat = Format.TABLE,
    control: ControlUrl = None,
) -> None:
    """Let an instance take nothing more and finish what it has.

    It stays so until its process ends.
    """
    with reached(control) as way:
        found = ask(way, request("POST", f"/v1/instances/{segment(instance)}/drain", {}, service=service))
        if wait:
            _wait(way, found, parse_duration_ms(timeout) / 1000, SystemClock())
        elif output is Format.TABLE:
            typer.echo(f"{_name(found)} is told to drain")
        if output is not Format.TABLE:
            _show(found, output)
        elif wait:
            typer.echo(f"{_name(found)} is drained")


def _order(
    control: str | None,
    instance: str,
    what: str,
    service: str | None,
    said: dict[str, str],
    output: Format,
    sentence: Callable[[dict[str, Any]], str],
) -> None:
    with reached(control) as way:
        found = ask(way, request("POST", f"/v1/instances/{segment(instance)}/{what}", said, service=service))
    if output is Format.TABLE:
        typer.echo(sentence(found))
    else:
        _show(found, output)


def _show(found: dict[str, Any], output: Format) -> None:
    from meshq.cli import writing

    writing.show(found, lambda body: tables.instances([body]), output.value)


def _name(found: dict[str, Any]) -> str:
    return f"{found['service']}/{found['id']}"


def _paused(found: dict[str, Any]) -> str:
    held = found.get("pause")
    if held is None:
        return f"{_name(found)} is {found['state']}: it is told to pause all the same"
    return f"{_name(found)} is paused {tables.paused_for(held)}"


def _resumed(found: dict[str, Any]) -> str:
    held = found.get("pause")
    if held is None:
        return f"{_name(found)} is not paused by an operator any more, and is {found['state']}"
    return f"{_name(found)} still pauses by itself, {tables.paused_for(held)}"


def _wait(way: reach.Reach, ordered: dict[str, Any], seconds: float, clock: Clock) -> None:
    """Until a renewal says that it drains and has nothing in flight. Exits with 1 when that takes too long."""
    end = clock.monotonic() + seconds
    left = seconds
    path = f"/v1/instances/{segment(ordered['id'])}"
    while left > 0:
        try:
            now = ask(
                way, request("GET", path, service=ordered["service"]), max(LEAST_ASKING, min(left, reach.SECONDS))
            )
        except reach.Failed as failed:
            if failed.status == 404:
                return
            raise
        renewed = now["lastSeen"] != ordered["lastSeen"]
        if now["state"] == "down" or (renewed and now["state"] == "draining" and not now["inFlight"]):
            return
        way.wait(max(0.0, min(AGAIN_AFTER / 4, end - clock.monotonic())))
        left = end - clock.monotonic()
    leave(FAILED, f"{_name(ordered)} is not drained after {seconds:g} s: {now['state']}, {now['inFlight']} in flight")
