"""`GET /v1/services[/<service>]` on port 3600: the picture of the mesh, at once or as soon as it is another one.

`?index=<n>&wait=<duration>` makes a read wait until the picture's revision is not `n` any more, as Consul's blocking queries do.
Whoever waits costs a timer and no task.
"""

import asyncio
from urllib.parse import parse_qs

from meshq.core import views
from meshq.core.answers import as_json
from meshq.core.durations import parse_duration_ms
from meshq.core.errors import Code, Problem, refuse
from meshq.core.headers import Carried
from meshq.core.http import HttpResponse
from meshq.core.instances import EMPTY, Snapshot
from meshq.ports import Exchange

PATH = b"/v1/services"
USUAL_WAIT, LONGEST_WAIT = 300.0, 600.0
"""Seconds, as Consul's."""
MOST_WAITING = 200
"""Each holds a connection, of which the app needs others."""
OK = 200


class ServicesApi:
    """`see` is to be called with every new picture."""

    def __init__(self) -> None:
        self._picture = EMPTY
        self._shown: dict[str, HttpResponse] = {}
        """Answers about the present picture, by service: many may wait for the same."""
        self._waiting: dict[Exchange, tuple[str, asyncio.TimerHandle]] = {}
        """Who waits for a revision other than the picture's: the service asked for, and until when."""
        self._closed = False

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    def see(self, picture: Snapshot) -> None:
        changed = picture.revision != self._picture.revision
        self._picture = picture
        self._shown = {}
        if changed:
            self._answer_all()

    def close(self) -> None:
        """Nobody waits from now on."""
        self._closed = True
        self._answer_all()

    def handle(self, exchange: Exchange, carried: Carried, target: bytes) -> None:
        """`target` is PATH or under it. Raises Refused."""
        path, _, query = target.partition(b"?")
        name = path[len(PATH) + 1 :].decode("latin-1")
        seconds = self._wait(query.decode("latin-1"))
        if seconds <= 0 or self._closed:
            exchange.respond(self._read(name))
        elif len(self._waiting) >= MOST_WAITING:
            raise refuse(Code.OVERLOADED, f"{MOST_WAITING} reads wait for a change already; read without ?wait")
        else:
            timer = asyncio.get_running_loop().call_later(seconds, self._answer, exchange)
            self._waiting[exchange] = name, timer
            exchange.on_hangup(lambda: self._hung_up(exchange))

    def _wait(self, query: str) -> float:
        """The seconds that a read may wait; 0.0 where the picture is another than the reader's already. One that is ahead of ours
        (another registry's, or of before a loss) is another too. Raises Refused."""
        given = parse_qs(query)
        index, wait = (given.get(name, [""])[-1] for name in ("index", "wait"))
        if index and not (index.isascii() and index.isdecimal() and len(index) < 20):
            raise refuse(Code.BAD_REQUEST, f"index: {index[:40]!r} is not a number as in Meshq-Index")
        try:
            seconds = parse_duration_ms(wait) / 1000 if wait else USUAL_WAIT
        except ValueError as error:
            raise refuse(Code.BAD_REQUEST, f"wait: {error}") from error
        same = int(index or 0) == max(self._picture.revision, 0) > 0
        return min(seconds, LONGEST_WAIT) if same else 0.0

    def _answer_all(self) -> None:
        for exchange in list(self._waiting):
            self._answer(exchange)

    def _answer(self, exchange: Exchange) -> None:
        name = self._forget(exchange)
        if name is not None:
            exchange.respond(self._read(name))

    def _hung_up(self, exchange: Exchange) -> None:
        self._forget(exchange)

    def _forget(self, exchange: Exchange) -> str | None:
        """What it asked for; None where it was answered or went already."""
        found = self._waiting.pop(exchange, None)
        if found is None:
            return None
        name, timer = found
        timer.cancel()
        return name

    def _read(self, name: str) -> HttpResponse:
        picture = self._picture
        if picture is EMPTY:
            return Problem(Code.UNAVAILABLE, "the registry has not answered yet, so nobody is known").as_response()
        shown = self._shown.get(name)
        if shown is None:
            shown = _response(picture, name)
            if shown.status == OK:  # names that nobody has would be without number
                self._shown[name] = shown
        return shown._replace(headers=list(shown.headers))


def _response(picture: Snapshot, name: str) -> HttpResponse:
    if not name:
        response = as_json(views.services(picture))
    elif name in picture.services:
        found = picture.services[name]
        members = [views.instance(member) for member in found.instances]
        response = as_json({**views.service(found), "instances": members})
    else:
        response = Problem(Code.UNKNOWN_SERVICE, f"{name[:60]!r} was never registered").as_response()
    response.headers.append((b"Meshq-Index", b"%d" % picture.revision))
    response.headers.append((b"Meshq-Stale", b"true" if picture.stale else b"false"))
    return response
