"""`meshq control`: the control API as a server, and the tokens of those who register there."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from meshq.cli.exits import BAD_SETTINGS, UNREACHABLE, leave
from meshq.cli.listening import listen_address
from meshq.control import PORT
from meshq.core.names import BadName, bare_host, check_service

if TYPE_CHECKING:
    from meshq.control.tokens import Tokens

app = typer.Typer(invoke_without_command=True, add_completion=False)


def _hosts(names: list[str] | None) -> list[str]:
    for name in names or []:
        if not name or bare_host(name) != name.lower():
            raise typer.BadParameter(f"{name!r} is not a name such as control.shop.svc, without a port")
    return names or []


def _service(text: str) -> str:
    try:
        return check_service(text)
    except BadName as error:
        raise typer.BadParameter(str(error)) from error


@app.callback()
def control(
    context: typer.Context,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Where it listens; 0 for a free port.")] = PORT,
    listen: Annotated[
        str, typer.Option(metavar="ADDRESS", help="0.0.0.0 for containers elsewhere.", callback=listen_address)
    ] = "127.0.0.1",
    allow_host: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="A name that others call this machine by; may be repeated.", callback=_hosts),
    ] = None,
) -> None:
    """Run the control API: the mesh as JSON, for the command line, dashboards, and containers that register without a sidecar.

    MESHQ_BROKER_URL, MESHQ_REGISTRY_URL, MESHQ_MANAGEMENT_URL and MESHQ_MESH say which mesh. MESHQ_CONTROL_SECRET (several,
    separated by commas, while one takes the place of another) makes the tokens of containers that register. Beyond loopback,
    what calls or changes something needs MESHQ_API_TOKEN, sent in Meshq-Token; looking is free. SIGTERM ends it.
    """
    if context.invoked_subcommand is not None:
        return
    from meshq.control import program, settings
    from meshq.settings import BadSettings

    try:
        program.run(settings.read(os.environ), listen, port, allow_host or [])
    except BadSettings as bad:
        leave(BAD_SETTINGS, *map(str, bad.faults))


@app.command()
def token(
    service: Annotated[str, typer.Argument(metavar="SERVICE", help="orders", callback=_service)],
    folder: Annotated[
        Path | None, typer.Option("--control", metavar="FOLDER", help="Where a dev mesh runs; else this one, or above.")
    ] = None,
) -> None:
    """Print the token with which instances of SERVICE register at the control API.

    It is made of MESHQ_CONTROL_SECRET and MESHQ_MESH, or of the secret of the running dev mesh.
    """
    from meshq.control.tokens import Tokens, parse_secrets

    given = os.environ.get("MESHQ_CONTROL_SECRET")
    if given and folder is None:
        try:
            tokens = Tokens(os.environ.get("MESHQ_MESH") or "default", parse_secrets(given))
        except ValueError as error:
            leave(BAD_SETTINGS, f"MESHQ_CONTROL_SECRET: {error}")
    else:
        tokens = _of_dev_mesh(folder or Path.cwd())
    typer.echo(tokens.make(service))


def _of_dev_mesh(folder: Path) -> "Tokens":
    from meshq.control.tokens import Tokens
    from meshq.dev import state

    found = state.find(folder.resolve())
    if found.running is None or found.folder is None:
        leave(
            UNREACHABLE,
            f"no dev mesh runs in {folder} or above, and no MESHQ_CONTROL_SECRET is set: give the one that the control API has",
        )
    secret = state.read_secret(found.folder)
    if not secret:
        leave(UNREACHABLE, f"{found.folder / state.SECRET} cannot be read, where that dev mesh keeps its secret")
    return Tokens(found.running.mesh, [secret])
