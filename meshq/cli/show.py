"""`meshq services`, `meshq instances`, `meshq queues`: who is there, and how much waits."""

from collections.abc import Callable
from enum import StrEnum
from typing import Annotated, Any

import typer

from meshq.cli import reach, tables
from meshq.cli.asking import json_of, reached, request
from meshq.core.http import header

EVERY_SECONDS = 1.0
"""Between two looks at figures."""
AGAIN_AFTER = 2.0
"""Seconds after which a picture that has not changed is shown again: load and times of it have."""
LEAST_SECONDS = 0.1
"""Between two looks at a picture, however fast it changes."""


class Format(StrEnum):
    TABLE = "table"
    JSON = "json"
    YAML = "yaml"


AsFormat = Annotated[Format, typer.Option("-o", "--output", help="How to show it.")]
Watch = Annotated[
    bool, typer.Option("--watch", "-w", help="Show it again when it changes, and every few seconds, until Ctrl-C.")
]
ControlUrl = Annotated[
    str | None,
    typer.Option(
        metavar="URL", help="Of the control API, or a folder with a running dev mesh; else MESHQ_CONTROL_URL."
    ),
]


def services(output: AsFormat = Format.TABLE, watch: Watch = False, control: ControlUrl = None) -> None:
    """Show which services and versions are there."""
    show_picture(control, "/v1/services", {}, tables.services, output, watch)


def instances(
    service: Annotated[str | None, typer.Argument(metavar="SERVICE", help="Only this one's.")] = None,
    output: AsFormat = Format.TABLE,
    watch: Watch = False,
    control: ControlUrl = None,
) -> None:
    """Show every instance and its state."""
    show_picture(control, "/v1/instances", {"service": service}, tables.instances, output, watch)


def queues(
    everything: Annotated[bool, typer.Option("--all", help="Delay and reply queues too.")] = False,
    output: AsFormat = Format.TABLE,
    watch: Watch = False,
    control: ControlUrl = None,
) -> None:
    """Show what waits, per topic and queue."""
    query = {"all": "true"} if everything else {}
    with reached(control) as way:
        show(lambda: way.get("/v1/queues", query), tables.queues, output, watch, lambda: way.wait(EVERY_SECONDS))


def show_picture(
    control: str | None,
    path: str,
    query: dict[str, str | None],
    as_table: Callable[[Any], tables.Table],
    output: Format,
    watch: bool,
    pick: Callable[[Any], Any] = lambda body: body,
) -> None:
    """`pick`: what of the body is shown."""
    with reached(control) as way:
        following = _Following(way, path, query)
        show(lambda: pick(following.next()), as_table, output, watch, lambda: way.wait(LEAST_SECONDS))


def show(
    fetch: Callable[[], Any],
    as_table: Callable[[Any], tables.Table],
    output: Format,
    watch: bool,
    wait: Callable[[], None],
) -> None:
    from meshq.cli import writing

    if watch:
        writing.watch(fetch, as_table, output.value, wait)
    else:
        writing.show(fetch(), as_table, output.value)


class _Following:
    """A view of the registry's picture: the first at once, each next when it changed or after AGAIN_AFTER."""

    def __init__(self, way: reach.Reach, path: str, query: dict[str, str | None]) -> None:
        self._way = way
        self._path = path
        self._query = query
        self._known: dict[str, str] = {}

    def next(self) -> Any:
        response = self._way.ask(request("GET", self._path, **self._query, **self._known), reach.SECONDS)
        index = header(response.headers, b"meshq-index")
        if index is not None:
            self._known = {"index": index.decode(), "wait": f"{AGAIN_AFTER:g}s"}
        return json_of(response)
