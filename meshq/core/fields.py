"""The `Meshq-*` fields of a request, read: what a caller says to its own sidecar (INTERFACE part 3).

Each takes the `control` of meshq.core.headers.Carried and raises Refused with `bad-header`, which names the field.
"""

import re

from meshq.core.durations import parse_duration_ms
from meshq.core.errors import Code, refuse
from meshq.core.message import MAX_KEY
from meshq.core.names import BadName
from meshq.core.selectors import Selector, parse_selector

DEFAULT_TIMEOUT_MS = 30_000
"""Where neither the caller nor the route policy says one."""
MAX_TIMEOUT_MS = 24 * 3_600_000
MAX_CALLBACK = 2000
MAX_DELAY = 12 * 86_400
"""Seconds."""
PRIORITIES = {b"low": 1, b"normal": 4, b"high": 8}
"""RabbitMQ's quorum queues take what has none for a 4. From 4.3 on they go strictly by number; before, 5 and more is preferred
two to one."""

_CALLBACK = re.compile(rb"/[\x21-\x7e]*")

Control = dict[bytes, bytes]


def read_selector(control: Control) -> Selector | None:
    value = control.get(b"meshq-version")
    if value is None:
        return None
    try:
        return parse_selector(_text(value))
    except BadName as error:
        raise refuse(Code.BAD_HEADER, f"Meshq-Version: {error}") from error


def read_timeout(control: Control) -> int | None:
    """Milliseconds that the caller waits, None where it does not say."""
    value = control.get(b"meshq-timeout")
    if value is None:
        return None
    timeout_ms = _duration_ms("Meshq-Timeout", value)
    if not 0 < timeout_ms <= MAX_TIMEOUT_MS:
        raise refuse(Code.BAD_HEADER, f"Meshq-Timeout: {_text(value)} is not between 1ms and 24h")
    return timeout_ms


def read_deadline(control: Control) -> int | None:
    """Mesh time, Unix milliseconds."""
    value = control.get(b"meshq-deadline")
    if value is None:
        return None
    if not value.isdigit() or len(value) > 15:
        raise refuse(Code.BAD_HEADER, f"Meshq-Deadline: {_text(value)!r} is not a time in Unix milliseconds")
    return int(value)


def read_key(control: Control) -> str:
    """The ordering key, "" where there is none."""
    value = control.get(b"meshq-key")
    if value is None:
        return ""
    try:
        key = value.decode()
    except UnicodeDecodeError:
        key = ""
    if not 0 < len(key) <= MAX_KEY or not key.isprintable():
        raise refuse(Code.BAD_HEADER, f"Meshq-Key: an ordering key is 1 to {MAX_KEY} printable characters (UTF-8)")
    return key


def read_delay(control: Control) -> int:
    """Whole seconds, rounded up; 0 where there is none."""
    value = control.get(b"meshq-delay")
    if value is None:
        return 0
    delay_ms = _duration_ms("Meshq-Delay", value)
    if delay_ms > MAX_DELAY * 1000:
        raise refuse(Code.BAD_HEADER, f"Meshq-Delay: {_text(value)} is longer than 12 days")
    return -(-delay_ms // 1000)


def read_priority(control: Control) -> int | None:
    """As AMQP has it; None where none is given."""
    value = control.get(b"meshq-priority")
    if value is None:
        return None
    if value not in PRIORITIES:
        raise refuse(Code.BAD_HEADER, f"Meshq-Priority: {_text(value)!r} is not low, normal or high")
    return PRIORITIES[value]


def read_callback(control: Control) -> bytes:
    """A path of the caller's app, b"" where there is none."""
    path = control.get(b"meshq-callback")
    if path is None:
        return b""
    if _CALLBACK.fullmatch(path) is None or len(path) > MAX_CALLBACK:
        raise refuse(
            Code.BAD_HEADER,
            f"Meshq-Callback: {_text(path)!r} is not a path of this app: it begins with / and is at most {MAX_CALLBACK} "
            "visible ASCII characters",
        )
    return path


def _duration_ms(name: str, value: bytes) -> int:
    try:
        return parse_duration_ms(_text(value))
    except ValueError as error:
        raise refuse(Code.BAD_HEADER, f"{name}: {error}") from error


def _text(value: bytes) -> str:
    return value[:100].decode("ascii", "replace")
