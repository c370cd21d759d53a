"""`meshq retire`: a major version taken out of the mesh, or why it cannot be."""

from typing import Annotated, Any

import typer

from meshq.cli import reach, tables
from meshq.cli.asking import ask, reached, request, segment
from meshq.cli.exits import FAILED, leave
from meshq.cli.show import ControlUrl, Format
from meshq.core.durations import parse_duration_ms
from meshq.core.names import BadName
from meshq.core.selectors import parse_address

RETIRE_SECONDS = 60.0
"""A queue is watched for a few seconds before it is deleted."""


def _address(text: str) -> str:
    try:
        address = parse_address(text)
    except BadName as error:
        raise typer.BadParameter(str(error)) from error
    if address.selector is None or address.selector.major is None:
        raise typer.BadParameter(f"a major version is retired as a whole: {address.service}@1")
    return text


def _duration(text: str) -> str:
    try:
        parse_duration_ms(text)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    return text


def retire(
    address: Annotated[
        str, typer.Argument(metavar="ADDRESS", help="A service and a major: orders@1", callback=_address)
    ],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say whether it could be, and why not.")] = False,
    force: Annotated[
        bool,
        typer.Option(
            "--force",
            help="Although callers were seen, the route policy names it, or subscriptions of it are left that are empty and "
            "unused. Never while there are instances, messages or dead letters.",
        ),
    ] = False,
    quiet_for: Annotated[
        str,
        typer.Option(
            "--quiet-for", metavar="D", help="Nobody may have called it for this long, at most 1d.", callback=_duration
        ),
    ] = "1h",
    output: Annotated[Format, typer.Option("-o", "--output", help="How to show what uses it.")] = Format.TABLE,
    control: ControlUrl = None,
) -> None:
    """Take a version out: its empty queues, and the registry's memory of it.

    Exits with 1, and changes nothing, while instances, callers, messages, dead letters, subscriptions or the route policy use
    it, and names each of them.
    """
    path = f"/v1/retire/{segment(address)}"
    with reached(control) as way:
        if dry_run:
            found = ask(way, request("GET", path, quietFor=quiet_for))
        else:
            try:
                found = ask(way, request("POST", path, {"quietFor": quiet_for, "force": force}), RETIRE_SECONDS)
            except reach.Failed as failed:
                if not isinstance(failed.body, dict) or "reasons" not in failed.body:
                    raise
                found = {name: value for name, value in failed.body.items() if name not in _OF_A_PROBLEM}
    _tell(found, output)
    stands = [reason for reason in found["reasons"] if not (dry_run and force and reason["forcible"])]
    if stands and not found["retired"]:
        leave(
            FAILED, f"{found['topic']} {'would not be' if dry_run else 'is not'} retired: {_count(stands)} in the way"
        )


_OF_A_PROBLEM = ("type", "title", "status", "detail")


def _tell(found: dict[str, Any], output: Format) -> None:
    from meshq.cli import writing

    if output is not Format.TABLE:
        writing.show(found, tables.reasons, output.value)
    else:
        if found["reasons"]:
            writing.show(found, tables.reasons, output.value)
        if found["retired"]:
            typer.echo(f"{found['topic']} is retired; {_deleted(found['queues'])}")
        elif not found["reasons"]:
            typer.echo(f"{found['topic']} can be retired; {_deleted(found['queues'])}")
    if found["warning"]:
        typer.echo(f"meshq: {found['warning']}", err=True)


def _deleted(queues: list[str]) -> str:
    return f"its queues: {', '.join(queues)}" if queues else "it has no queues"


def _count(reasons: list[dict[str, Any]]) -> str:
    return "one thing is" if len(reasons) == 1 else f"{len(reasons)} things are"
