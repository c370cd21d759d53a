"""`meshq route`: the route policy of a service shown, set, cleared (INTERFACE part 6)."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from meshq.cli import reach, tables
from meshq.cli.asking import ask, json_of, reached, request, segment
from meshq.cli.exits import FAILED, leave
from meshq.cli.given import map_of
from meshq.cli.route_options import merged
from meshq.cli.show import ControlUrl, Format, Watch, show_picture
from meshq.core.http import header
from meshq.core.names import BadName, check_service
from meshq.core.policy import WhenAbsent
from meshq.core.policy_parsing import KEYS

app = typer.Typer(
    help="Route policies: which version gets the calls that name none, who may call, and what happens when nobody is ready.",
    no_args_is_help=True,
    add_completion=False,
)


def _service(text: str | None) -> str | None:
    try:
        return text if text is None else check_service(text)
    except BadName as error:
        raise typer.BadParameter(str(error)) from error


Service = Annotated[str, typer.Argument(metavar="SERVICE", help="orders", callback=_service)]


@app.command()
def show(
    service: Annotated[
        str | None, typer.Argument(metavar="SERVICE", help="Else all of them.", callback=_service)
    ] = None,
    output: Annotated[
        Format | None, typer.Option("-o", "--output", help="How to show it; else one as YAML, all as a table.")
    ] = None,
    watch: Watch = False,
    control: ControlUrl = None,
) -> None:
    """Show a policy, as YAML that `set --file` takes.

    Exits with 1 where the service has none; with --watch that is shown as an empty one.
    """
    from meshq.cli import writing

    if watch:
        _watch(service, output, control)
        return
    with reached(control) as way:
        if service is None:
            writing.show(way.get("/v1/routes", {}), tables.policies, (output or Format.TABLE).value)
        else:
            found = ask(way, request("GET", f"/v1/routes/{segment(service)}"))
            writing.show(found, lambda body: tables.policies([body]), (output or Format.YAML).value)


def _watch(service: str | None, output: Format | None, control: str | None) -> None:
    def one(policies: list[dict[str, Any]]) -> dict[str, Any]:
        return next((policy for policy in policies if policy["service"] == service), {"service": service})

    if service is None:
        show_picture(control, "/v1/routes", {}, tables.policies, output or Format.TABLE, True)
    else:
        show_picture(control, "/v1/routes", {}, lambda body: tables.policies([body]), output or Format.YAML, True, one)


@app.command("set")
def set_policy(
    service: Service,
    weight: Annotated[
        list[str] | None,
        typer.Option(
            metavar="V=N", help="Share of a version: 1=90. May be repeated; versions that are not named get nothing."
        ),
    ] = None,
    file: Annotated[
        Path | None,
        typer.Option(metavar="F", help="A whole policy in YAML or JSON, instead of the present one; - reads it."),
    ] = None,
    sticky: Annotated[
        str | None, typer.Option(metavar="HEADER", help="header:X-User: the same value goes to the same version.")
    ] = None,
    mirror: Annotated[
        str | None, typer.Option(metavar="V=P", help="3=5: copies of 5 % of the calls to 3, answers dropped.")
    ] = None,
    fallback: Annotated[
        list[str] | None, typer.Option(metavar="V", help="Where calls go when their version has nobody ready.")
    ] = None,
    when_absent: Annotated[
        WhenAbsent | None, typer.Option(help="What becomes of a call when its version has nobody ready.")
    ] = None,
    deprecate: Annotated[
        list[str] | None,
        typer.Option(metavar="V[=DATE]", help="Tell callers of a version, and when it ends: 1=2027-01-31."),
    ] = None,
    timeout: Annotated[str | None, typer.Option(metavar="D", help="For callers that name none: 10s.")] = None,
    retry: Annotated[str | None, typer.Option(metavar="N:D,D", help="Attempts and delays: 5:1s,5s,30s,2m.")] = None,
    backlog_limit: Annotated[
        int | None, typer.Option(metavar="N", min=0, help="With so many waiting, further calls are `overloaded`.")
    ] = None,
    allow: Annotated[list[str] | None, typer.Option(metavar="SERVICE", help="Who may call it; else everybody.")] = None,
    unset: Annotated[
        list[str] | None, typer.Option(metavar="KEY", help=f"Take out a part: {', '.join(KEYS[1:])}.")
    ] = None,
    output: Annotated[
        Format | None, typer.Option("-o", "--output", help="How to show the policy then; else what changed.")
    ] = None,
    control: ControlUrl = None,
) -> None:
    """Change a policy; every sidecar applies it within 2 s.

    What is given here takes the place of that part of the policy, and the rest of it stays. With --file nothing of the present
    one stays.
    """
    given = {
        "weights": weight, "sticky": sticky, "mirror": mirror, "fallback": fallback,
        "whenAbsent": None if when_absent is None else when_absent.value, "deprecated": deprecate, "timeout": timeout,
        "retry": retry, "backlogLimit": backlog_limit, "allow": allow,
    }  # fmt: skip
    if file is None and not unset and all(value is None for value in given.values()):
        raise typer.BadParameter("say what to set: --weight 1=90 --weight 2=10, another option, or --file")
    whole = None if file is None else map_of(str(file), "--file", "weights: {1: 90, 2: 10}")
    path = f"/v1/routes/{segment(service)}"
    with reached(control) as way:
        before = _present(way, path, service)
        wanted = merged(before if whole is None else whole, given, unset or [])
        response = way.ask(request("PUT", path, wanted), reach.SECONDS)
    after = json_of(response)
    if output is not None:
        from meshq.cli import writing

        writing.show(after, lambda body: tables.policies([body]), output.value)
    else:
        for line in changes(before, after) or [f"{service}: nothing changed"]:
            typer.echo(line)
    doubts = header(response.headers, b"meshq-doubts")
    if doubts:
        for doubt in doubts.decode("latin-1").split("; "):
            typer.echo(f"meshq: {doubt}", err=True)


@app.command()
def clear(service: Service, control: ControlUrl = None) -> None:
    """Take a policy out: calls that name no version go to the latest, and everybody may call."""
    path = f"/v1/routes/{segment(service)}"
    with reached(control) as way:
        try:
            ask(way, request("DELETE", path))
        except reach.Failed as failed:
            if failed.status != 404:
                raise
            leave(FAILED, str(failed))
    typer.echo(f"{service} has no route policy any more")


def changes(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """A line for each key that is not as it was."""
    return [
        f"{key}: {_shown(before.get(key))} -> {_shown(after.get(key))}"
        for key in KEYS
        if before.get(key) != after.get(key)
    ]


def _shown(value: Any) -> str:
    if value is None:
        return "not set"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False).replace('"', "")


def _present(way: reach.Reach, path: str, service: str) -> dict[str, Any]:
    try:
        found: dict[str, Any] = ask(way, request("GET", path))
    except reach.Failed as failed:
        if failed.status != 404:
            raise
        return {"service": service}
    return found
