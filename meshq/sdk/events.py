"""Events on their way out: a batch as CloudEvents have it, and what became of each."""

import base64
import json
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from meshq.core.http import HttpResponse, header
from meshq.sdk.bodies import encode
from meshq.sdk.problem import Problem

BATCH = 500
"""Events of one request."""
MOST_BYTES = 2**20
"""Bytes of one request: well below what a sidecar takes (MESHQ_MAX_BODY, 4 MiB unless it is set)."""
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
        """What the sidecar answered to one event that it took."""
        ident = header(response.headers, b"meshq-message-id") or b""
        return cls(ident.decode(), False if header(response.headers, b"meshq-subscribers") == b"0" else None)


class Batch(NamedTuple):
    """Several events in one request."""

    size: int
    body: bytes
    """`application/cloudevents-batch+json`; attributes that are not given the sidecar fills in."""


def batches(
    items: Iterable[Any], key: Callable[[Any], str] | None, id: Callable[[Any], str] | None, most: int = MOST_BYTES
) -> list[Batch]:
    """In their order, each of at most BATCH events and, unless one alone is more, of `most` bytes. Raises TypeError, as bodies.encode.

    >>> [batch.body for batch in batches([{"n": 1}], lambda item: "k", None)]
    [b'[{"specversion": "1.0", "partitionkey": "k","data":{"n":1}}]']
    """
    found: list[Batch] = []
    members: list[bytes] = []
    size = 0
    for item in items:
        member = _member(item, key, id)
        if members and (len(members) == BATCH or size + len(member) > most):
            found.append(_batch(members))
            members, size = [], 0
        members.append(member)
        size += len(member)
    return [*found, _batch(members)] if members else found


def _batch(members: list[bytes]) -> Batch:
    return Batch(len(members), b"[%b]" % b",".join(members))


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
