"""Dead letters in the control API.

GET  /v1/dead[?topic=&id=&reason=&since=&limit=&full=true&all=true]   a list; `Meshq-More`: how many more there are, or may be
GET  /v1/dead/<topic>                                                 the same of that topic
GET  /v1/dead/<topic>/<id>[?all=true]                                 one, with all that is known of it
POST /v1/dead/<topic>/replay   {"ids", "reason", "since", "limit", "all", "to", "force", "dryRun"}
POST /v1/dead/<topic>/drop     the same without "to" and "force"

`full=true` shows all that is known of each, `all=true` also the whole body. `topic` is `lost` for what found no queue. What is
posted says which letters are meant: by ids, reason or since, or all of them by "all". Who may: control/access.py.
"""

import json
from typing import Any
from urllib.parse import parse_qs, unquote

from meshq.control.dead import Changed, DeadLetters
from meshq.core.answers import as_json, method_not_allowed, no_such_path, problem
from meshq.core.callreq import address_of
from meshq.core.dead_views import Wanted, parse_since
from meshq.core.errors import Code, refuse
from meshq.core.http import HttpRequest, HttpResponse

PREFIX = "/v1/dead"
PATHS = "here are /v1/dead, /v1/dead/<topic>, /v1/dead/<topic>/<id>, /v1/dead/<topic>/replay and /v1/dead/<topic>/drop"
USUAL_LIMIT = 100
MOST_IDS = 1000
MORE = b"Meshq-More"

_OF_DROP = {"ids": list, "reason": str, "since": str, "limit": int, "all": bool, "dryRun": bool}
_OF_REPLAY = {**_OF_DROP, "to": str, "force": bool}


def is_about_dead(path: str) -> bool:
    return path == PREFIX or path.startswith(PREFIX + "/")


async def answer(dead: DeadLetters, request: HttpRequest) -> HttpResponse:
    """To a request whose path `is_about_dead`. Raises Refused, and Unreachable as DeadLetters does."""
    now_ms = dead.now_ms
    path, _, query_text = request.target.decode("latin-1").partition("?")
    query = parse_qs(query_text, keep_blank_values=True)
    parts = [unquote(part) for part in path.removeprefix(PREFIX).split("/")[1:]]
    if not parts:
        return _unless_reading(request) or await _list(dead, query, now_ms)
    if not all(parts) or len(parts) > 2:
        return no_such_path(PATHS)
    if len(parts) == 1:
        return _unless_reading(request) or await _list(dead, {**query, "topic": parts}, now_ms)
    topic, what = parts
    if request.method == b"POST" and what in ("replay", "drop"):
        return await (_replay if what == "replay" else _drop)(dead, topic, request.body or b"", now_ms)
    return _unless_reading(request) or await _show(dead, topic, what, query)


def _unless_reading(request: HttpRequest) -> HttpResponse | None:
    if request.method in (b"GET", b"HEAD"):
        return None
    return method_not_allowed(b"GET, HEAD", "to change something, POST to .../replay or .../drop")


# --- looking ----------------------------------------------------------------------------------------------------------------


async def _list(dead: DeadLetters, query: dict[str, list[str]], now_ms: int) -> HttpResponse:
    known = {"topic", "id", "reason", "since", "limit", "full", "all"}
    if unknown := sorted(query.keys() - known):
        raise refuse(Code.BAD_REQUEST, f"{unknown[0][:40]!r} is not one of {', '.join(sorted(known))}")
    last = {name: values[-1] for name, values in query.items()}
    wanted = Wanted(
        frozenset(query.get("id", [])),
        last.get("reason", ""),
        _since(last.get("since"), now_ms),
        _limit(last.get("limit", str(USUAL_LIMIT))),
    )
    topic = last.get("topic") or None
    if last.get("full") == "true":
        found = await dead.show(topic, wanted, last.get("all") == "true")
    else:
        found = await dead.rows(topic, wanted)
    response = as_json(found.rows)
    response.headers.append((MORE, b"%d" % found.more))
    return response


async def _show(dead: DeadLetters, topic: str, ident: str, query: dict[str, list[str]]) -> HttpResponse:
    found = await dead.show(topic, Wanted(frozenset([ident])), query.get("all") == ["true"])
    if not found.rows:
        more = f"; {found.more} more were not looked at" if found.more else ""
        return problem(404, "No such dead letter", f"{topic} has no dead letter {ident[:80]!r}{more}")
    first, *others = found.rows
    return as_json({**first, "copies": 1 + len(others)})


# --- changing ---------------------------------------------------------------------------------------------------------------


async def _replay(dead: DeadLetters, topic: str, body: bytes, now_ms: int) -> HttpResponse:
    said = _read(body, _OF_REPLAY)
    to = address_of(said["to"]) if said.get("to") else None
    dry_run, force = said.get("dryRun", False), said.get("force", False)
    return _as_changed(await dead.replay(topic, _wanted(said, now_ms), to, dry_run=dry_run, force=force), dry_run)


async def _drop(dead: DeadLetters, topic: str, body: bytes, now_ms: int) -> HttpResponse:
    said = _read(body, _OF_DROP)
    dry_run = said.get("dryRun", False)
    return _as_changed(await dead.drop(topic, _wanted(said, now_ms), dry_run=dry_run), dry_run)


def _as_changed(changed: Changed, dry_run: bool) -> HttpResponse:
    kept = sum(letter["outcome"] == "kept" for letter in changed.letters)
    return as_json(
        {
            "dryRun": dry_run,
            "done": len(changed.letters) - kept,
            "kept": kept,
            "more": changed.more,
            "missing": changed.missing,
            "fault": changed.fault or None,
            "letters": changed.letters,
        }
    )


def _read(body: bytes, keys: dict[str, type]) -> dict[str, Any]:
    try:
        said = json.loads(body or b"{}")
    except (ValueError, RecursionError) as error:
        raise refuse(Code.BAD_REQUEST, f"the body is not JSON: {error}") from error
    if not isinstance(said, dict):
        raise refuse(Code.BAD_REQUEST, "the body is not a JSON object")
    said = {name: value for name, value in said.items() if value is not None}
    for name, value in said.items():
        if name not in keys:
            raise refuse(Code.BAD_REQUEST, f"{name[:40]!r} is not one of {', '.join(keys)}")
        if type(value) is not keys[name]:
            raise refuse(Code.BAD_REQUEST, f"{name} is not a {_SHOWN[keys[name]]}")
    return said


_SHOWN = {str: "text", int: "number", bool: "true or false", list: "list"}


def _wanted(said: dict[str, Any], now_ms: int) -> Wanted:
    ids = said.get("ids", [])
    if len(ids) > MOST_IDS or not all(isinstance(ident, str) for ident in ids):
        raise refuse(Code.BAD_REQUEST, f"ids is a list of at most {MOST_IDS} texts")
    limit = None if said.get("limit") is None else _limit(str(said["limit"]))
    wanted = Wanted(frozenset(ids), said.get("reason", ""), _since(said.get("since"), now_ms), limit)
    if wanted.everything and not said.get("all"):
        raise refuse(
            Code.BAD_REQUEST, 'say which are meant: by "ids", "reason" or "since", or all of them by "all": true'
        )
    return wanted


def _since(text: str | None, now_ms: int) -> int | None:
    try:
        return None if text is None else parse_since(text, now_ms)
    except ValueError as error:
        raise refuse(Code.BAD_REQUEST, f"since: {error}") from error


def _limit(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 0 < int(text[:9]) < 10**8:
        raise refuse(Code.BAD_REQUEST, f"limit: {text[:20]!r} is not a number above 0")
    return int(text[:9])
