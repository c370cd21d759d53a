"""The commands, gathered. Each imports what it needs when it runs, so that `meshq --help` is there at once."""

from typing import Annotated

import typer

from meshq import __version__
from meshq.cli import call, contracts, control, dead, dev, orders, publish, retire, route, scale, show, sidecar, signals

app = typer.Typer(
    help="A message-queue service mesh: see who is there, call them, run several apps on this machine.",
    epilog="Exit codes: 0 good, 1 failed, 2 wrong usage, 64 bad settings, 69 the mesh cannot be reached.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("dev")(dev.dev)
app.command("call")(call.call)
app.command("publish")(publish.publish)
app.command("services")(show.services)
app.command("instances")(show.instances)
app.command("queues")(show.queues)
app.add_typer(dead.app, name="dead")
app.add_typer(route.app, name="route")
app.add_typer(scale.app, name="scale")
app.command("retire")(retire.retire)
app.command("pause")(orders.pause)
app.command("resume")(orders.resume)
app.command("drain")(orders.drain)
app.add_typer(contracts.app, name="contracts")
app.add_typer(control.app, name="control")
app.command("signals")(signals.signals)
app.command("sidecar")(sidecar.sidecar)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"meshq {__version__}")
        raise typer.Exit


@app.callback()
def meshq(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show it and exit.")
    ] = False,
) -> None:
    """The options of `meshq` itself."""
