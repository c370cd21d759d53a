"""What the app asks, as requests to its sidecar. What cannot be sent is found here, before it is: one malformed frame would end a link,
and with it everything that others have open on it.
"""

import re
from collections.abc import Mapping
from urllib.parse import quote

from meshq.core.errors import Code
from meshq.core.http import Headers, HttpRequest
from meshq.core.message import MAX_FIELDS, MAX_KEY
from meshq.sdk.bodies import MAX_BODY, Encoded
from meshq.sdk.problem import Problem

MAX_FIELDS_BYTES = 64 * 1024
"""As much as a sidecar takes over HTTP."""

_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,256}", re.ASCII)
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")


def field(name: str, value: str) -> tuple[bytes, bytes]:
    """One header field, in UTF-8. Raises ValueError for what is none.

    >>> field("X-User", "Zoë")
    (b'X-User', b'Zo\\xc3\\xab')
    """
    if _NAME.fullmatch(name) is None:
        raise ValueError(f"{name!r} cannot be the name of a header field")
    if _CONTROL.search(value) is not None:
        raise ValueError(f"{name}: {value!r} has a line break or another control character in it")
    return name.encode(), value.strip(" \t").encode()


def fields(
    encoded: Encoded,
    headers: Mapping[str, str] | None,
    key: str | None,
    priority: str | None,
    deadline: float | None,
    delay: float | None = None,
) -> Headers:
    """What calls and events have in common. `deadline` is Unix seconds, `delay` seconds. Raises ValueError."""
    found: Headers = [field(name, value) for name, value in headers.items()] if headers else []
    if encoded.content_type:
        found.append(field("Content-Type", encoded.content_type))
    if key is not None:
        if not 0 < len(key) <= MAX_KEY:
            raise ValueError(f"an ordering key has 1 to {MAX_KEY} characters")
        found.append(field("Meshq-Key", key))
    if priority is not None:
        found.append(field("Meshq-Priority", priority))
    if deadline is not None:
        found.append((b"Meshq-Deadline", b"%d" % (deadline * 1000)))
    if delay is not None:
        found.append((b"Meshq-Delay", duration(delay)))
    return found


def duration(seconds: float) -> bytes:
    """As fields have it. Raises ValueError.

    >>> duration(2.5)
    b'2500ms'
    """
    if not 0 <= seconds < 10**9:
        raise ValueError(f"{seconds} is not a number of seconds")
    return b"%dms" % round(seconds * 1000)


def segment(text: str) -> bytes:
    """One segment of a path: `orders@>=2.1,<3`. Whether it is an address the sidecar says."""
    return quote(text, safe="@^~,=.-").encode()


def checked(request: HttpRequest) -> HttpRequest:
    """The same. Raises Problem `too-large` for a body that no sidecar takes, ValueError for more fields than that."""
    if request.body is not None and len(request.body) > MAX_BODY:
        detail = f"the body is over {MAX_BODY} bytes, more than any sidecar takes"
        raise Problem(Code.TOO_LARGE.value, detail, by_mesh=True)
    size = sum(len(name) + len(value) for name, value in request.headers)
    if size > MAX_FIELDS_BYTES or len(request.headers) > MAX_FIELDS:
        raise ValueError(f"more than {MAX_FIELDS} header fields, or {MAX_FIELDS_BYTES} bytes of them")
    return request
