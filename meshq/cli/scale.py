"""`meshq scale`: how many replicas each version of each service should have, why, and what makes them so."""

from typing import Annotated, Any

import typer

from meshq.cli import reach, scale_manifest, scale_record, scale_tables, simulate
from meshq.cli.asking import ask, request, segment
from meshq.cli.scale_reach import SECONDS, SignalsUrl, signals_reached
from meshq.cli.show import AsFormat, ControlUrl, Format, Watch, show

EVERY_SECONDS = 2.0

app = typer.Typer(no_args_is_help=True, add_completion=False)

app.command("manifest")(scale_manifest.manifest)
app.command("record")(scale_record.record)
app.command("simulate")(simulate.simulate)


@app.command()
def status(
    output: AsFormat = Format.TABLE, watch: Watch = False, signals: SignalsUrl = None, control: ControlUrl = None
) -> None:
    """Show how many replicas every version should have, and why."""
    with signals_reached(signals, control) as way:
        show(
            lambda: ask(way, request("GET", "/v1/scale"), SECONDS),
            scale_tables.status,
            output,
            watch,
            lambda: way.wait(EVERY_SECONDS),
        )


@app.command()
def explain(
    service: Annotated[str, typer.Argument(metavar="SERVICE[@MAJOR]", help="orders, orders@2")],
    output: AsFormat = Format.TABLE,
    watch: Watch = False,
    signals: SignalsUrl = None,
    control: ControlUrl = None,
) -> None:
    """Show the terms that the number comes from, and the guard that held it back."""
    name, _, major = service.partition("@")

    def fetch() -> Any:
        found = ask(way, request("GET", f"/v1/scale/{segment(name)}"), SECONDS)
        picked = [row for row in found if not major or row["topic"].rpartition(".v")[2] == major]
        if not picked:
            raise reach.Failed(
                f"{name} has no major {major[:40]!r}: it has {', '.join(row['topic'] for row in found)}", 404, {}
            )
        return picked

    with signals_reached(signals, control) as way:
        show(fetch, scale_tables.explain, output, watch, lambda: way.wait(EVERY_SECONDS))
