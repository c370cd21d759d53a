"""`/v1/subscriptions` on port 3600 (INTERFACE part 5): GET of all; PUT, GET and DELETE of one by its name."""

import json
from collections.abc import Coroutine
from typing import Any
from urllib.parse import unquote

from meshq.core.answers import as_json, conflict, method_not_allowed, no_such_path
from meshq.core.errors import Code, Problem, Refused, refuse
from meshq.core.headers import Carried
from meshq.core.http import HttpResponse
from meshq.core.subscription_parsing import BadSubscription, check_name, parse
from meshq.core.subscriptions import Subscription
from meshq.ports import Exchange
from meshq.tasks import Tasks
from meshq_sidecar.subscriptions import MAX_SUBSCRIPTIONS, Away, Conflict, Denied, Shown, Subscriptions, TooMany

PATH = b"/v1/subscriptions"


class SubscriptionsApi:
    """Whoever hands a request over has checked that its sender may change this sidecar's state. `listens`: there is an app that takes requests; one may come."""

    def __init__(self, subscriptions: Subscriptions, *, listens: bool) -> None:
        self._subscriptions = subscriptions
        self.listens = listens
        self._tasks = Tasks()

    async def close(self) -> None:
        await self._tasks.close()

    def handle(self, exchange: Exchange, carried: Carried, target: bytes) -> None:
        """`target` is PATH or under it."""
        method = exchange.request.method
        name = unquote(target.partition(b"?")[0][len(PATH) + 1 :].decode("latin-1"))
        if method in (b"GET", b"HEAD"):
            exchange.respond(self._get(name) if name else self._list())
        elif not name:
            exchange.respond(method_not_allowed(b"GET, HEAD", "PUT and DELETE go to one of them, by its name"))
        elif method == b"PUT":
            self._answer(exchange, self._put(name, exchange.request.body), f"subscribe as {name[:63]}")
        elif method == b"DELETE":
            self._answer(exchange, self._delete(name), f"unsubscribe {name[:63]}")
        else:
            exchange.respond(
                method_not_allowed(b"GET, HEAD, PUT, DELETE", "PUT makes or changes it, DELETE removes it")
            )

    def _answer(self, exchange: Exchange, work: Coroutine[Any, Any, HttpResponse], what: str) -> None:
        async def answer() -> None:
            try:
                exchange.respond(await work)
            except Refused as refused:
                exchange.respond(refused.problem.as_response())

        self._tasks.start(answer(), what)

    def _list(self) -> HttpResponse:
        return as_json([_body(shown) for shown in self._subscriptions.all()])

    def _get(self, name: str) -> HttpResponse:
        shown = self._subscriptions.get(name)
        return _none(name) if shown is None else as_json(_body(shown))

    async def _put(self, name: str, body: bytes | None) -> HttpResponse:
        if not self.listens:
            raise refuse(
                Code.BAD_REQUEST,
                "there is no app here to which events could be given: set MESHQ_APP_PORT, or open a link that serves",
            )
        try:
            put = await self._subscriptions.put(_read(name, body))
        except Conflict as why:
            return conflict(str(why))
        except Denied as why:
            raise refuse(Code.DENIED, str(why)) from why
        except TooMany:
            raise refuse(Code.OVERLOADED, f"there are {MAX_SUBSCRIPTIONS} subscriptions already: delete some") from None
        status = 202 if put.shown.pending else 201 if put.created else 200
        answer = as_json(_body(put.shown))._replace(status=status)
        answer.headers.append((b"Location", PATH + b"/" + name.encode()))
        return answer

    async def _delete(self, name: str) -> HttpResponse:
        try:
            return HttpResponse(204, []) if await self._subscriptions.delete(name) else _none(name)
        except Away as away:
            raise Refused(Problem(Code.UNAVAILABLE, f"it cannot be taken off the broker now: {away}")) from away


def _read(name: str, body: bytes | None) -> Subscription:
    try:
        check_name(name)
    except ValueError as error:
        raise refuse(Code.BAD_REQUEST, str(error)) from error
    try:
        given = json.loads((body or b"").decode())
    except (ValueError, RecursionError) as error:
        raise refuse(Code.BAD_REQUEST, f"the body is not JSON: {error}") from error
    try:
        return parse(given, name)
    except BadSubscription as bad:
        raise refuse(Code.BAD_REQUEST, f"the subscription is malformed: {bad}") from bad


def _body(shown: Shown) -> dict[str, Any]:
    body = shown.subscription.as_json()
    body["state"] = "pending" if shown.pending else "active"
    if shown.pending:
        body["detail"] = shown.pending
    if shown.doing:
        body["replay"] = shown.doing
    return body


def _none(name: str) -> HttpResponse:
    return no_such_path(f"there is no subscription called {name[:80]!r}")
