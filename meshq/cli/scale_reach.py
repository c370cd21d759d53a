"""How `meshq scale` reaches what decides: `meshq signals`, or else the mesh as every command does."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated
from urllib.parse import urlsplit

import typer

from meshq.cli import reach
from meshq.cli.asking import reached
from meshq.cli.exits import BAD_SETTINGS, leave

SECONDS = 20.0
"""Of a question. The first makes a control API count twice, five seconds apart."""

SignalsUrl = Annotated[
    str | None,
    typer.Option(
        "--signals", metavar="URL", help="Of `meshq signals`, to see what it decides; else MESHQ_SIGNALS_URL."
    ),
]


@contextmanager
def signals_reached(signals: str | None, control: str | None) -> Iterator[reach.Reach]:
    url = signals or (None if control else os.environ.get("MESHQ_SIGNALS_URL"))
    with reached(url, _server) if url else reached(control) as way:
        yield way


def _server(url: str | None) -> reach.Reach:
    """Of `meshq signals`; exits with 64 for what is no URL."""
    if url is None or urlsplit(url).scheme not in ("http", "https"):
        leave(BAD_SETTINGS, "--signals or MESHQ_SIGNALS_URL: give a URL such as http://localhost:3592")
    return reach.ControlApi(url, f"meshq signals at {url}")
