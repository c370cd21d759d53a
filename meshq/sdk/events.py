"""Events on their way out: a batch as CloudEvents have it, and what became of each."""

import base64
import json
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from meshq.core.http import HttpResponse, header
from meshq.sdk.bodies import encode
from meshq.sdk.problem import Problem

_JSON = "application/json"


class Published(NamedTuple):
    """What became of one event."""

    id: str
    """Of its message."""
    subscribers: bool | None
    """False: nobody subscribes to it; None: somebody does, or it is not known yet."""
    problem: Problem | None = None
    """Why it was refused; None: it is durable."""

    @classmethod
    def of(cls, response: HttpResponse) -> "Published":
        ident = header(response.headers, b"meshq-message-id") or b""
        return cls(ident.decode(), False if header(response.headers, b"meshq-subscribers") == b"0" else None)


def as_batch(items: Iterable[Any], key: Callable[[Any], str] | None, id: Callable[[Any], str] | None) -> bytes:
    """`application/cloudevents-batch+json`: the attributes that are not given the sidecar fills in. Raises TypeError, as
    bodies.encode."""
    return b"[%b]" % b",".join([_member(item, key, id) for item in items])


def _member(item: Any, key: Callable[[Any], str] | None, id: Callable[[Any], str] | None) -> bytes:
    body, content_type = encode(item)
    given: dict[str, str] = {"specversion": "1.0"}
    if id is not None:
        given["id"] = id(item)
    if key is not None:
        given["partitionkey"] = key(item)
    if content_type and content_type != _JSON:
        given["datacontenttype"] = content_type
    head = json.dumps(given, ensure_ascii=False).encode()
    if body is None:
        return head
    if content_type == _JSON:
        return b'%b,"data":%b}' % (head[:-1], body)
    return b'%b,"data_base64":"%b"}' % (head[:-1], base64.b64encode(body))


def fates(response: HttpResponse) -> list[Published] | None:
    """Of each event of a batch; None where the answer does not tell of each."""
    try:
        said = json.loads(response.body)
        events = said["events"]
        return [_fate(each) for each in events]
    except (ValueError, KeyError, TypeError):
        return None


def _fate(said: dict[str, Any]) -> Published:
    ident = str(said["id"])
    if said["status"] == "accepted":
        return Published(ident, False if said.get("subscribers") == 0 else None)
    return Published(ident, None, Problem(str(said["code"]), str(said.get("detail", "")), by_mesh=True))
