"""`"POST /create"`: a method and a path, as calls and handlers name them."""

import re
from functools import lru_cache
from typing import NamedTuple
from urllib.parse import quote

_OPERATION = re.compile(r"(?:([A-Za-z]{1,32}) +)?(/[!-~]*)", re.ASCII)
_PLACE = re.compile(r"\{([a-z_][a-z0-9_]*)(:path)?\}", re.IGNORECASE)
SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
REPEATABLE = SAFE | {"PUT", "DELETE"}
"""RFC 9110 section 9.2.2: repeating such a request changes nothing more."""


class Operation(NamedTuple):
    method: str
    path: str
    """With its query."""


@lru_cache(maxsize=1024)
def parse(text: str) -> Operation:
    """`"POST /create"`; without a method it is GET. Raises ValueError.

    >>> parse("POST /orders?dry=1")
    Operation(method='POST', path='/orders?dry=1')
    >>> parse("/orders")
    Operation(method='GET', path='/orders')
    """
    found = _OPERATION.fullmatch(text)
    if found is None or "#" in text:
        raise ValueError(f"{text!r} is not a method and a path, such as 'POST /create'")
    return Operation((found[1] or "GET").upper(), found[2])


class Template:
    """A path with places: `/orders/{id}`, `/files/{name:path}`."""

    def __init__(self, text: str) -> None:
        """Raises ValueError."""
        if not text.startswith("/"):
            raise ValueError(f"the path {text!r} does not begin with /")
        self.text = text
        self.names = tuple(found[1] for found in _PLACE.finditer(text))
        if len(set(self.names)) < len(self.names):
            raise ValueError(f"the path {text!r} has a place twice")
        rest = _PLACE.sub("", text)
        if "{" in rest or "}" in rest:
            raise ValueError(f"the path {text!r} has a place that is none: write {{name}} or {{name:path}}")
        pattern, at = "", 0
        for found in _PLACE.finditer(text):
            pattern += re.escape(quote(text[at : found.start()], safe="/%!$&'()*+,;=:@~"))
            pattern += f"(?P<{found[1]}>{'.+' if found[2] else '[^/]+'})"
            at = found.end()
        pattern += re.escape(quote(text[at:], safe="/%!$&'()*+,;=:@~"))
        self._pattern = re.compile(pattern)

    @property
    def plain(self) -> bool:
        return not self.names

    def match(self, path: str) -> dict[str, str] | None:
        found = self._pattern.fullmatch(path)
        return None if found is None else found.groupdict()
