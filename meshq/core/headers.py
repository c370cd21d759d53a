"""Which header fields cross the mesh, and what the mesh reads of them and adds.

End-to-end fields pass unchanged, in order, repeated ones repeated. Hop-by-hop fields (RFC 9110 section 7.6.1), those that
`Connection` names, and everything called `Meshq-*` stay behind: what an app sends under that name is an instruction to its
own sidecar, never something another app should believe.
"""

import re
from functools import lru_cache
from typing import NamedTuple

from meshq.core.http import Headers

HOP_BY_HOP = frozenset(
    {
        b"connection",
        b"keep-alive",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
        b"proxy-authorization",
    }
)
_NOT_CARRIED = HOP_BY_HOP | {b"content-length", b"expect"}
_NOT_NAMED_AWAY = frozenset({b"host", b"authorization", b"content-type", b"content-encoding", b"cookie"})
"""Fields that `Connection` may not remove: a caller must not be able to strip what identifies it or frames its body."""

_TRACE_FIELDS = rb"-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}"
# Version 00 ends there; later ones may go on after a hyphen; ff is none.
_TRACEPARENT = re.compile(rb"00" + _TRACE_FIELDS + rb"|(?!00|ff)[0-9a-f]{2}" + _TRACE_FIELDS + rb"(-.*)?")


_KEPT, _LOOKED_AT, _LEFT, _CONNECTION, _CONTROL = range(5)

_NOTED = frozenset({b"host", b"origin", b"traceparent", b"idempotency-key", b"prefer"})
"""Fields that the mesh itself looks at; `Connection` may not remove these either, so what was noted also crosses."""


@lru_cache(maxsize=4096)
def _kind(name: bytes) -> tuple[int, bytes]:
    """(what to do with a field of this name, the name in lower case). The same names come with every message."""
    lowered = name.lower()
    if lowered == b"connection":
        return _CONNECTION, lowered
    if lowered in _NOT_CARRIED:
        return _LEFT, lowered
    if lowered.startswith(b"meshq-"):
        return _CONTROL, lowered
    return (_LOOKED_AT if lowered in _NOTED else _KEPT), lowered


class Carried(NamedTuple):
    """A message's fields after the split."""

    headers: Headers
    """End-to-end fields."""
    control: dict[bytes, bytes]
    """Lower-cased `meshq-*` fields, the last of each."""
    noted: dict[bytes, bytes]
    """Of the end-to-end fields those that the mesh itself looks at (host, origin, traceparent, idempotency-key, prefer),
    lower-cased, the first of each."""


def carry(headers: Headers) -> Carried:
    """Split a request's or response's fields into what crosses the mesh and what was meant for it."""
    kept: Headers = []
    control: dict[bytes, bytes] = {}
    noted: dict[bytes, bytes] = {}
    named: list[bytes] | None = None
    for field in headers:
        kind, name = _kind(field[0])
        if kind <= _LOOKED_AT:
            kept.append(field)
            if kind:
                noted.setdefault(name, field[1])
        elif kind == _CONTROL:
            control[name] = field[1]
        elif kind == _CONNECTION:
            named = (named or []) + field[1].lower().split(b",")
    if named is not None:
        kept = _without(kept, named)
    return Carried(kept, control, noted)


def carry_response(headers: Headers, keep_length: bool) -> Headers:
    """A response's end-to-end fields. `keep_length` for answers to HEAD and 304, whose Content-Length describes a body
    that is not there."""
    kept = carry(headers).headers
    if keep_length:
        kept += [field for field in headers if field[0].lower() == b"content-length"]
    return kept


def _without(headers: Headers, named: list[bytes]) -> Headers:
    away = {name.strip() for name in named} - _NOT_NAMED_AWAY - _NOTED
    return [field for field in headers if field[0].lower() not in away] if away - {b"close", b"keep-alive"} else headers


def valid_traceparent(value: bytes | None) -> bool:
    """W3C Trace Context level 1, section 3.2: an invalid one is treated as absent."""
    return value is not None and len(value) <= 200 and _TRACEPARENT.fullmatch(value) is not None


def root_traceparent(random: bytes) -> bytes:
    """A new root of 24 random bytes, sampled."""
    trace, span = random[:16].hex(), random[16:24].hex()
    return b"00-%b-%b-01" % (trace.encode(), span.encode())
