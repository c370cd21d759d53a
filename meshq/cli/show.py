"""`meshq services`, `meshq instances`, `meshq queues`: who is there, and how much waits."""

from collections.abc import Callable
from enum import StrEnum
from typing import Annotated, Any

import typer

from meshq.cli import reach, tables
from meshq.cli.exits import FAILED, UNREACHABLE, leave

EVERY_SECONDS = 1.0


class Format(StrEnum):
    TABLE = "table"
    JSON = "json"
    YAML = "yaml"


AsFormat = Annotated[Format, typer.Option("-o", "--output", help="How to show it.")]
Watch = Annotated[bool, typer.Option("--watch", "-w", help="Show it again every second, until Ctrl-C.")]
ControlUrl = Annotated[
    str | None,
    typer.Option(
        metavar="URL", help="Of the control API, or a folder with a running dev mesh; else MESHQ_CONTROL_URL."
    ),
]


def services(output: AsFormat = Format.TABLE, watch: Watch = False, control: ControlUrl = None) -> None:
    """Show which services and versions are there."""
    _show(control, "/v1/services", {}, tables.services, output, watch)


def instances(
    service: Annotated[str | None, typer.Argument(metavar="SERVICE", help="Only this one's.")] = None,
    output: AsFormat = Format.TABLE,
    watch: Watch = False,
    control: ControlUrl = None,
) -> None:
    """Show every instance and its state."""
    query = {} if service is None else {"service": service}
    _show(control, "/v1/instances", query, tables.instances, output, watch)


def queues(
    everything: Annotated[bool, typer.Option("--all", help="Delay and reply queues too.")] = False,
    output: AsFormat = Format.TABLE,
    watch: Watch = False,
    control: ControlUrl = None,
) -> None:
    """Show what waits, per topic and queue."""
    _show(control, "/v1/queues", {"all": "true"} if everything else {}, tables.queues, output, watch)


def _show(
    control: str | None,
    path: str,
    query: dict[str, str],
    as_table: Callable[[Any], tables.Table],
    output: Format,
    watch: bool,
) -> None:
    from meshq.cli import writing

    try:
        way = reach.choose(control)
        try:
            if watch:
                writing.watch(lambda: way.get(path, query), as_table, output.value, lambda: way.wait(EVERY_SECONDS))
            else:
                writing.show(way.get(path, query), as_table, output.value)
        finally:
            way.close()
    except reach.Away as away:
        leave(UNREACHABLE, str(away))
    except reach.Failed as failed:
        leave(FAILED, str(failed))
