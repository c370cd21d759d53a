"""One question to a mesh, from a command: reached, asked, let go; what goes wrong ends the command with its exit code."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import quote, urlencode

from meshq.cli import reach
from meshq.cli.exits import FAILED, UNREACHABLE, leave
from meshq.core.http import HttpRequest, HttpResponse


@contextmanager
def reached(control: str | None, choose: Callable[[str | None], reach.Reach] = reach.choose) -> Iterator[reach.Reach]:
    try:
        way = choose(control)
        try:
            yield way
        finally:
            way.close()
    except reach.Away as away:
        leave(UNREACHABLE, str(away))
    except reach.Failed as failed:
        leave(FAILED, str(failed))


def request(method: str, path: str, body: Any = None, **query: str | None) -> HttpRequest:
    """`body` is sent as JSON; a None of `query` is left out."""
    given = {name: value for name, value in query.items() if value is not None}
    target = f"{path}?{urlencode(given)}" if given else path
    if body is None:
        return HttpRequest(method.encode(), target.encode(), [], None)
    return HttpRequest(
        method.encode(), target.encode(), [(b"Content-Type", b"application/json")], json.dumps(body).encode()
    )


def ask(way: reach.Reach, asked: HttpRequest, seconds: float = reach.SECONDS) -> Any:
    """The JSON of the answer; None for an empty one. Raises Away, Failed."""
    return json_of(way.ask(asked, seconds))


def json_of(response: HttpResponse) -> Any:
    return json.loads(response.body) if response.body else None


def segment(text: str) -> str:
    """As a segment of a path."""
    return quote(text, safe="@^~")
