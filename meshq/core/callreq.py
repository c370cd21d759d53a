"""A request on its way out, read: which service, what of it crosses, and what the caller said about waiting (INTERFACE
part 3). The ways in differ only in where the address and the target come from; what follows is the same for all."""

from functools import lru_cache
from typing import NamedTuple
from urllib.parse import unquote_to_bytes

from meshq.core.durations import parse_duration_ms
from meshq.core.errors import Code, refuse
from meshq.core.headers import Carried, carry, valid_traceparent
from meshq.core.http import Headers, HttpRequest
from meshq.core.names import BadName
from meshq.core.selectors import Address, parse_address, parse_selector

DEFAULT_TIMEOUT_MS = 30_000
MAX_TIMEOUT_MS = 24 * 3_600_000
MAX_METHOD = 32
PATH_PREFIX = b"/v1/call/"


class Call(NamedTuple):
    """One waited call, ready to be sent."""

    address: Address
    method: str
    target: bytes
    headers: Headers
    """End-to-end fields, with a `traceparent` unless `needs_trace`."""
    body: bytes | None
    timeout_ms: int
    deadline_ms: int | None
    """The caller's own absolute deadline, mesh time."""
    needs_trace: bool
    route: str = ""
    """By which way it came in: a label of metrics, never the path itself."""


class PathAddress(NamedTuple):
    address: Address
    target: bytes


def split_path(target: bytes) -> PathAddress:
    """`/v1/call/<address>/<path>?<query>` -> the address and the path as the app is to see it, not a byte of it changed.
    Raises Refused."""
    rest = target[len(PATH_PREFIX) :]
    end = _segment_end(rest)
    path = rest[end:]
    return PathAddress(_address_in(rest[:end]), path if path.startswith(b"/") else b"/" + path)


def _segment_end(rest: bytes) -> int:
    slash, query = rest.find(b"/"), rest.find(b"?")
    if slash < 0 or 0 <= query < slash:
        slash = query
    return slash if slash >= 0 else len(rest)


@lru_cache(maxsize=4096)  # an app calls the same few again and again
def _address_in(segment: bytes) -> Address:
    try:
        text = unquote_to_bytes(segment).decode("ascii")
    except UnicodeDecodeError:
        raise refuse(
            Code.BAD_ADDRESS, "the address in the path is not ASCII; it is <service> or <service>@<selector>"
        ) from None
    return address_of(text)


def address_of(text: str) -> Address:
    """Raises Refused with `bad-address`."""
    try:
        return parse_address(text)
    except BadName as error:
        raise refuse(Code.BAD_ADDRESS, str(error)) from error


def read_call(
    request: HttpRequest,
    address: Address,
    target: bytes,
    host: bytes | None,
    carried: Carried | None = None,
    route: str = "",
) -> Call:
    """`carried` is what `carry` made of the request's fields, where that was done before. `host` replaces the caller's Host field (the path way); None leaves it. Raises Refused with `bad-header`."""
    if len(request.method) > MAX_METHOD:
        raise refuse(Code.BAD_REQUEST, f"the method is longer than {MAX_METHOD} characters")
    headers, control, noted = carried or carry(request.headers)
    if host is not None:
        headers = [field for field in headers if field[0].lower() != b"host"]
        headers.insert(0, (b"Host", host))
    timeout_ms, deadline_ms = DEFAULT_TIMEOUT_MS, None
    if control:
        address, timeout_ms, deadline_ms = _controlled(control, address)
    trace = noted.get(b"traceparent")
    needs_trace = not valid_traceparent(trace)
    if needs_trace and trace is not None:
        headers = [field for field in headers if field[0].lower() not in (b"traceparent", b"tracestate")]
    return Call(
        address,
        request.method.decode("ascii"),
        target,
        headers,
        request.body,
        timeout_ms,
        deadline_ms,
        needs_trace,
        route,
    )


def _controlled(control: dict[bytes, bytes], address: Address) -> tuple[Address, int, int | None]:
    timeout_ms, deadline_ms = DEFAULT_TIMEOUT_MS, None
    if (value := control.get(b"meshq-version")) is not None:
        try:
            address = Address(address.service, parse_selector(_text(value)))
        except BadName as error:
            raise refuse(Code.BAD_HEADER, f"Meshq-Version: {error}") from error
    if (value := control.get(b"meshq-timeout")) is not None:
        timeout_ms = _timeout(value)
    if (value := control.get(b"meshq-deadline")) is not None:
        if not value.isdigit() or len(value) > 15:
            raise refuse(Code.BAD_HEADER, f"Meshq-Deadline: {_text(value)!r} is not a time in Unix milliseconds")
        deadline_ms = int(value)
    if b"meshq-key" in control:
        raise refuse(
            Code.BAD_HEADER, f"Meshq-Key: {address.service} takes no calls with an ordering key (MESHQ_ORDERED)"
        )
    for name in (b"meshq-delay", b"meshq-callback"):
        if name in control:
            shown = name.decode().title()
            raise refuse(
                Code.BAD_HEADER, f"{shown} goes only with Prefer: respond-async; a waited call has an answer instead"
            )
    return address, timeout_ms, deadline_ms


def _timeout(value: bytes) -> int:
    try:
        timeout_ms = parse_duration_ms(_text(value))
    except ValueError as error:
        raise refuse(Code.BAD_HEADER, f"Meshq-Timeout: {error}") from error
    if not 0 < timeout_ms <= MAX_TIMEOUT_MS:
        raise refuse(Code.BAD_HEADER, f"Meshq-Timeout: {_text(value)} is not between 1ms and 24h")
    return timeout_ms


def _text(value: bytes) -> str:
    return value.decode("ascii", "replace")
