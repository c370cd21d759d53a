"""`meshq dead`: dead letters listed, shown, brought back, dropped."""

import json
import sys
from collections.abc import Callable
from typing import Annotated, Any
from urllib.parse import quote, urlencode

import typer

from meshq.cli import asking, dead_tables
from meshq.cli.exits import FAILED, leave
from meshq.cli.show import AsFormat, ControlUrl, Format
from meshq.core.dead import LOST_TOPIC
from meshq.core.dead_views import parse_since
from meshq.core.http import HttpRequest, header
from meshq.core.names import BadName, parse_topic
from meshq.core.selectors import parse_address

LOOK_SECONDS, CHANGE_SECONDS = 45.0, 180.0
"""The control API gives up before."""

app = typer.Typer(
    help="Dead letters: messages that could not be handled, with the reason.",
    no_args_is_help=True,
    add_completion=False,
)


def _topic(text: str) -> str:
    try:
        if text != LOST_TOPIC:
            parse_topic(text)
    except BadName as error:
        raise typer.BadParameter(f"{error}; `{LOST_TOPIC}` stands for what found no queue") from error
    return text


def _topic_or_none(text: str | None) -> str | None:
    return None if text is None else _topic(text)


def _since(text: str | None) -> str | None:
    try:
        if text is not None:
            parse_since(text, 0)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    return text


def _address(text: str | None) -> str | None:
    try:
        if text is not None:
            parse_address(text)
    except BadName as error:
        raise typer.BadParameter(str(error)) from error
    return text


Topic = Annotated[
    str,
    typer.Argument(
        metavar="TOPIC",
        help=f"orders.v2; `{LOST_TOPIC}` for what found no queue when its delay was over.",
        callback=_topic,
    ),
]
Ids = Annotated[
    list[str] | None, typer.Argument(metavar="ID", help="As `list` shows them; all that the options leave, else.")
]
Reason = Annotated[str | None, typer.Option(metavar="R", help="Only those that are dead for this reason.")]
Since = Annotated[
    str | None,
    typer.Option(metavar="T", help="Only those that died since: 30m, 2h (ago), 2026-11-01T10:00:00Z.", callback=_since),
]
Limit = Annotated[int | None, typer.Option(metavar="N", min=1, help="At most so many, the oldest first.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only say what would be done.")]
All = Annotated[bool, typer.Option("--all", help="All of the topic's, without asking on a terminal.")]


@app.command("list")
def list_letters(
    topic: Annotated[
        str | None, typer.Argument(metavar="TOPIC", help="Else those of all.", callback=_topic_or_none)
    ] = None,
    reason: Reason = None,
    since: Since = None,
    limit: Limit = 100,
    output: AsFormat = Format.TABLE,
    control: ControlUrl = None,
) -> None:
    """List dead letters, the oldest first.

    Reasons: rejected, attempts, deadline, no-such-version, key-reused, denied, unsendable, undecodable, delivery-limit, queue-gone.
    """
    rows, more = _look(control, topic, None, reason, since, limit, {})
    _show(rows, dead_tables.letters, output)
    _say_more(more)


@app.command()
def show(
    topic: Topic,
    ids: Ids = None,
    reason: Reason = None,
    since: Since = None,
    limit: Limit = 10,
    everything: Annotated[bool, typer.Option("--all", help="The whole body, however long it is.")] = False,
    output: AsFormat = Format.TABLE,
    control: ControlUrl = None,
) -> None:
    """Show all that is known of dead letters: headers, the app's answer, the body.

    With one ID the JSON is one object, else a list.
    """
    query = {"full": "true", **({"all": "true"} if everything else {})}
    rows, more = _look(control, topic, ids, reason, since, limit, query)
    if ids and not rows:
        leave(FAILED, f"{topic} has no dead letter {' or '.join(ids)}{_not_seen(more)}")
    if output is Format.TABLE:
        for number, letter in enumerate(rows):
            typer.echo("\n" * bool(number) + dead_tables.letter(letter))
    else:
        _show(rows[0] if ids and len(ids) == 1 and len(rows) == 1 else rows, dead_tables.letters, output)
    if not ids:
        _say_more(more)


@app.command()
def replay(
    topic: Topic,
    ids: Ids = None,
    reason: Reason = None,
    since: Since = None,
    limit: Limit = None,
    to: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS",
            help="Not where they came from, but here: orders@3. An event is then a POST to /.",
            callback=_address,
        ),
    ] = None,
    dry_run: DryRun = False,
    force: Annotated[
        bool, typer.Option("--force", help="Also what was replayed 10 times, and what names another topic's queue.")
    ] = False,
    everything: All = False,
    output: AsFormat = Format.TABLE,
    control: ControlUrl = None,
) -> None:
    """Bring dead letters back: each is published again, and taken out once the broker has confirmed that.

    They keep their ids and begin again with attempt 1; a deadline that is over is taken off. Exits with 1 if one was kept.
    """
    said = {"to": to, "force": force or None}
    _change("replay", topic, ids, reason, since, limit, said, dry_run, everything, output, control)


@app.command()
def drop(
    topic: Topic,
    ids: Ids = None,
    reason: Reason = None,
    since: Since = None,
    limit: Limit = None,
    dry_run: DryRun = False,
    everything: All = False,
    output: AsFormat = Format.TABLE,
    control: ControlUrl = None,
) -> None:
    """Take dead letters out, for good."""
    _change("drop", topic, ids, reason, since, limit, {}, dry_run, everything, output, control)


# --- looking ----------------------------------------------------------------------------------------------------------------


def _look(
    control: str | None,
    topic: str | None,
    ids: list[str] | None,
    reason: str | None,
    since: str | None,
    limit: int | None,
    more: dict[str, str],
) -> tuple[list[dict[str, Any]], int]:
    said = {"topic": topic, "reason": reason, "since": since, "limit": None if limit is None else str(limit), **more}
    query = [(name, value) for name, value in said.items() if value is not None]
    query += [("id", ident) for ident in ids or []]
    body, others = _ask(control, HttpRequest(b"GET", f"/v1/dead?{urlencode(query)}".encode(), [], None), LOOK_SECONDS)
    return body, others


def _ask(control: str | None, request: HttpRequest, seconds: float) -> tuple[Any, int]:
    """The JSON, and how many more there are."""
    with asking.reached(control) as way:
        response = way.ask(request, seconds)
    return json.loads(response.body), int(header(response.headers, b"meshq-more") or 0)


def _show(body: Any, as_table: Callable[[Any], Any], output: Format) -> None:
    from meshq.cli import writing

    writing.show(body, as_table, output.value)


def _say_more(more: int) -> None:
    if more:
        typer.echo(f"and {more:,} more: --limit shows more of them, --reason and --since narrow down", err=True)


def _not_seen(more: int) -> str:
    return f"; {more:,} were not looked at, because at most 10,000 are at once" if more else ""


# --- changing ---------------------------------------------------------------------------------------------------------------


def _change(
    what: str,
    topic: str,
    ids: list[str] | None,
    reason: str | None,
    since: str | None,
    limit: int | None,
    more: dict[str, Any],
    dry_run: bool,
    everything: bool,
    output: Format,
    control: str | None,
) -> None:
    narrowed = bool(ids or reason or since)
    if not (narrowed or everything or dry_run) and sys.stdin.isatty():
        which = f"the {limit} oldest" if limit else "all"
        typer.confirm(f"{what} {which} dead letters of {topic}?", abort=True, err=True)
    said = {
        "ids": ids or None,
        "reason": reason,
        "since": since,
        "limit": limit,
        "all": not narrowed,
        "dryRun": dry_run,
        **more,
    }
    body = json.dumps({name: value for name, value in said.items() if value is not None}).encode()
    target = f"/v1/dead/{quote(topic, safe='')}/{what}".encode()
    request = HttpRequest(b"POST", target, [(b"Content-Type", b"application/json")], body)
    changed, _ = _ask(control, request, CHANGE_SECONDS)
    if output is Format.TABLE:
        _tell(changed, what)
    else:
        _show(changed, dead_tables.letters, output)
    if wrong := _what_went_wrong(changed, topic):
        leave(FAILED, *wrong)


def _tell(changed: dict[str, Any], what: str) -> None:
    """Every letter of a dry run, else those that were kept; then the sum."""
    letters = [each for each in changed["letters"] if changed["dryRun"] or each["outcome"] == "kept" or each["detail"]]
    if letters:
        _show(letters, dead_tables.outcomes, Format.TABLE)
    done = "dropped" if what == "drop" else "replayed"
    more = f", {changed['more']:,} more left" if changed["more"] else ""
    kept = f", {changed['kept']:,} kept" if changed["kept"] else ""
    would = "would be " if changed["dryRun"] else ""
    typer.echo(f"{changed['done']:,} {would}{done}{kept}{more}")


def _what_went_wrong(changed: dict[str, Any], topic: str) -> list[str]:
    sentences = []
    if changed["missing"]:
        sentences.append(f"{topic} has no dead letter {' or '.join(changed['missing'])}{_not_seen(changed['more'])}")
    if changed["kept"] and not changed["dryRun"]:
        sentences.append(f"{changed['kept']:,} kept: `detail` says why")
    if changed["fault"]:
        sentences.append(f"not all were looked at: {changed['fault']}")
    return sentences
