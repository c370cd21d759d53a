"""`meshq contracts`: what a service's handlers promise, and whether a new version breaks callers of the old one."""

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from meshq.cli.exits import FAILED, leave
from meshq.cli.show import AsFormat, Format
from meshq.cli.tables import Cell, Table, clean

if TYPE_CHECKING:
    from meshq.core.compatibility import Finding

app = typer.Typer(
    help="What the SDK's handlers promise: as documents, and one version beside the next.",
    no_args_is_help=True,
    add_completion=False,
)


class Kind(StrEnum):
    OPENAPI = "openapi"
    ASYNCAPI = "asyncapi"


@app.command()
def show(
    service: Annotated[str, typer.Argument(metavar="MODULE:SERVICE", help="shop.orders:orders, a meshq.Service.")],
    kind: Annotated[Kind, typer.Option(help="Of the routes, or of queues and events.")] = Kind.OPENAPI,
    output: AsFormat = Format.JSON,
) -> None:
    """Print the document of a service; as a table only what there is."""
    from meshq.cli import contracts_given, writing

    found = contracts_given.of_service(service, (kind.value,))
    writing.show(found[kind.value], _outline, output.value)


@app.command()
def check(
    old: Annotated[
        str, typer.Argument(metavar="OLD", help="A document in JSON or YAML, MODULE:SERVICE, or - to read it.")
    ],
    new: Annotated[str, typer.Argument(metavar="NEW", help="The same.")],
    kind: Annotated[
        Kind | None, typer.Option(help="Compare only these; else both where both sides are services.")
    ] = None,
    output: AsFormat = Format.TABLE,
) -> None:
    """Say whether NEW breaks callers of OLD.

    Exits with 0 if it does not, or if NEW is a new major version; with 1 if it does.
    """
    from meshq.cli import contracts_given, writing
    from meshq.core.compatibility import BadDocument, compare, is_new_major, version_of

    kinds = tuple(Kind) if kind is None else (kind,)
    before, after = contracts_given.pair(old, new, tuple(each.value for each in kinds))
    findings: list[Finding] = []
    try:
        for each in before:
            findings += compare(before[each], after[each])
    except BadDocument as error:
        raise typer.BadParameter(str(error), param_hint="OLD NEW") from error
    was, now = (version_of(next(iter(side.values()))) for side in (before, after))
    may_break = is_new_major(was, now)
    body = _body(list(dict.fromkeys(findings)), was, now, may_break)
    writing.show(body, _table, output.value)
    _conclude(body, may_break)


def _body(findings: "list[Finding]", was: str, now: str, may_break: bool) -> dict[str, Any]:
    return {
        "old": was,
        "new": now,
        "newMajor": may_break,
        "breaking": sum(each.breaking for each in findings),
        "findings": [{"place": each.place, "sentence": each.sentence, "breaking": each.breaking} for each in findings],
    }


def _table(body: dict[str, Any]) -> Table:
    rows = [
        (
            Cell("breaks", "red") if each["breaking"] else Cell("fits"),
            Cell(clean(each["place"])),
            Cell(clean(each["sentence"])),
        )
        for each in body["findings"]
    ]
    return Table(("", "WHERE", "WHAT"), rows, "nothing changed")


def _outline(document: dict[str, Any]) -> Table:
    """The operations of a document of either kind."""
    if "paths" in document:
        found = [
            (f"{method.upper()} {path}", operation)
            for path, item in document["paths"].items()
            for method, operation in item.items()
        ]
    else:
        found = [(name, operation) for name, operation in document["operations"].items()]
    rows = [(Cell(name), Cell(clean(operation.get("summary", "")))) for name, operation in found]
    return Table(("OPERATION", "SUMMARY"), rows, "no handlers")


def _conclude(body: dict[str, Any], may_break: bool) -> None:
    """To standard error, so that a pipe gets the findings alone."""
    count, old, new = body["breaking"], body["old"] or "the old version", body["new"] or "the new one"
    if not count:
        return
    changes = "1 change breaks" if count == 1 else f"{count} changes break"
    if may_break:
        typer.echo(f"meshq: {changes} callers of {old}; {new} is a new major version, so it may", err=True)
        return
    leave(FAILED, f"{changes} callers of {old}: that wants a new major version, which {new} is not")
