"""`meshq dev`."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from meshq.cli.exits import BAD_SETTINGS, leave
from meshq.control import PORT

if TYPE_CHECKING:
    from meshq.dev.plan import Plan


def dev(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="What runs.")] = Path("mesh.yaml"),
    check: Annotated[bool, typer.Option("--check", help="Only look whether all is well with the file.")] = False,
    seconds: Annotated[
        str | None, typer.Option("--for", metavar="DURATION", help="End by itself after this long, such as 20s.")
    ] = None,
    broker: Annotated[
        str | None,
        typer.Option(metavar="URL", help="Instead of the file's: embedded, or amqp://user:password@host/vhost."),
    ] = None,
    registry: Annotated[
        str | None, typer.Option(metavar="URL", help="Instead of the file's: embedded, or redis://host.")
    ] = None,
    control_port: Annotated[
        int, typer.Option(min=0, max=65535, help="Where the control API listens; 0 for a free port.")
    ] = PORT,
    ready_within: Annotated[
        str, typer.Option(metavar="DURATION", help="End, and fail, if an app is not ready after this long.")
    ] = "60s",
) -> None:
    """Run the apps of a mesh.yaml on this machine.

    Each gets a sidecar of its own; what they write comes in one terminal.

    Exits with 1 if an app never became ready; with --for also if an app that only calls out ended with a failure.
    """
    ends_after = None if seconds is None else _seconds("--for", seconds)
    patience = _seconds("--ready-within", ready_within)
    plan = _planned(file, broker, registry, control_port)
    if check:
        _show(plan, file)
        return
    import uvloop

    from meshq.dev.runner import CannotStart, Options, run

    try:
        code = uvloop.run(run(plan, Options(file.resolve(), ends_after, patience)))
    except CannotStart as cannot:
        leave(BAD_SETTINGS, *cannot.faults)
    raise typer.Exit(code)


def _planned(file: Path, broker: str | None, registry: str | None, control_port: int) -> "Plan":
    from meshq.dev import checks, meshfile
    from meshq.dev.plan import make_plan

    try:
        mesh = meshfile.read(file).with_servers(broker, registry)
        plan = make_plan(mesh, file.resolve().parent, os.environ, control_port, checks.free_port)
        missing = checks.missing(plan)
        if missing:
            raise meshfile.BadMeshFile(missing)
    except meshfile.BadMeshFile as bad:
        leave(BAD_SETTINGS, *(f"{file}: {fault}" for fault in bad.faults))
    return plan


def _show(plan: "Plan", file: Path) -> None:
    from meshq.dev import banner

    for line in banner.table(plan):
        typer.echo(line)
    for warning in plan.warnings:
        typer.echo(f"warning: {warning}", err=True)
    typer.echo(f"{file}: {banner.summary(plan)}, all is well")


def _seconds(option: str, text: str) -> float:
    from meshq.core.durations import parse_duration_ms

    try:
        return parse_duration_ms(text) / 1000
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint=option) from error
