"""Answers, both ways: what a handler returned as a response, and a response as what the caller wants of it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from meshq.core.http import HttpResponse, header
from meshq.sdk.bodies import MSGPACK, Invalid, decode, encode, is_msgpack
from meshq.sdk.outgoing import field as as_field
from meshq.sdk.problem import Problem

BAD_ANSWER = 502
_WITHOUT_BODY = (204, 304)


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer that is more than its body: what a handler returns to choose the status or add fields (a plain value is a 200 with that
    body, None a 204), and what `returns=Reply` gives to a caller.

    Example:
        >>> Reply({"id": 7}, status=201, headers={"Location": "/orders/7"}).status
        201

    Raises:
        ValueError: the status is no answer's.
    """

    body: Any = None
    """As of `Mesh.call`; to a caller, what its content type says."""
    status: int = 200
    """200 to 999."""
    headers: Mapping[str, str] = field(default_factory=dict)
    """To a caller, by their names in lower case."""
    content_type: str | None = None
    """None: by the body."""

    def __post_init__(self) -> None:
        if not 200 <= self.status <= 999:
            raise ValueError(f"{self.status} is not the status of an answer")


def as_response(result: Any, accept: bytes, is_head: bool = False) -> HttpResponse:
    """What a handler returned as a response. Raises TypeError, ValueError for what has no form."""
    reply = result if isinstance(result, Reply) else Reply(result)
    content_type = reply.content_type
    if content_type is None and _wants_msgpack(accept) and not isinstance(reply.body, bytes | str | None):
        content_type = MSGPACK
    encoded = encode(reply.body, content_type)
    status = 204 if reply.status == 200 and encoded.body is None else reply.status
    headers = [as_field("Content-Type", encoded.content_type)] if encoded.content_type else []
    headers += [as_field(name, value) for name, value in reply.headers.items()]
    has_body = not is_head and status not in _WITHOUT_BODY
    if is_head and encoded.body is not None:
        headers.append((b"Content-Length", b"%d" % len(encoded.body)))
    return HttpResponse(status, headers, encoded.body or b"" if has_body else b"")


def as_answer(response: HttpResponse, returns: Any, what: str = "the answer", is_head: bool = False) -> Any:
    """A response as `returns`; that to a HEAD tells of a body but has none. Raises Problem `invalid`, with status 502."""
    content_type = (header(response.headers, b"content-type") or b"").decode("latin-1")
    body = None if is_head or not (response.body or content_type) else response.body
    try:
        if returns is Reply:
            return Reply(
                decode(body, content_type, Any), response.status, by_name(response.headers), content_type or None
            )
        return decode(body, content_type, returns)
    except Invalid as invalid:
        why = invalid.problem
        raise Problem(
            why.code, f"{what}: {why.detail}", status=BAD_ANSWER, retryable=False, fields=why.fields
        ) from None


def by_name(headers: list[tuple[bytes, bytes]]) -> dict[str, str]:
    """By name in lower case; of a repeated field the last. Values are UTF-8, or else what HTTP once had: Latin-1."""
    return {name.decode("latin-1").lower(): _text(value) for name, value in headers}


def _text(value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value.decode("latin-1")


def _wants_msgpack(accept: bytes) -> bool:
    """Its first choice."""
    return bool(accept) and is_msgpack(accept.partition(b",")[0].decode("latin-1"))
