"""The Prefer field (RFC 7240), as far as the mesh heeds it: `respond-async` and `wait`.

Preferences are wishes: one that is not known, or makes no sense, is passed over and never an error. Of one that comes twice
the first counts. The field itself is end-to-end and crosses the mesh as it came.
"""

import re
from functools import lru_cache
from typing import NamedTuple

MAX_WAIT = 24 * 3600
"""Seconds; who wishes for longer waits so long."""

_PREFERENCE = re.compile(rb'(?:[^",]|"(?:[^"\\]|\\.)*"?)+', re.DOTALL)
"""Up to a comma that stands outside quotes."""
_HEAD = re.compile(rb"""[ \t]*([!#$%&'*+.^_`|~0-9A-Za-z-]+)[ \t]*(?:=[ \t]*("?)([^";]*)\2)?[ \t]*(?:;|$)""")
"""Name and value; what follows a semicolon are parameters."""


class Prefer(NamedTuple):
    respond_async: bool = False
    wait: int | None = None
    """Seconds, at most MAX_WAIT."""


@lru_cache(maxsize=256)  # an app sends the same few
def parse_prefer(value: bytes) -> Prefer:
    """`respond-async, wait=10` -> Prefer(True, 10). Several fields are one, joined with commas."""
    said: dict[bytes, bytes] = {}
    for preference in _PREFERENCE.findall(value):
        if found := _HEAD.match(preference):
            said.setdefault(found[1].lower(), (found[3] or b"").strip())
    wait = said.get(b"wait", b"")
    return Prefer(b"respond-async" in said, min(int(wait[:9]), MAX_WAIT) if wait.isdigit() else None)
