"""A request on its way out, read: which service, what of it crosses, and what the caller said about waiting (INTERFACE
part 3). The ways in differ only in where the address and the target come from; what follows is the same for all."""

from functools import lru_cache
from typing import NamedTuple
from urllib.parse import unquote_to_bytes

from meshq.core.errors import Code, refuse
from meshq.core.fields import (
    read_callback,
    read_deadline,
    read_delay,
    read_key,
    read_priority,
    read_selector,
    read_timeout,
)
from meshq.core.headers import Carried, carry, root_traceparent, valid_traceparent
from meshq.core.http import Headers, HttpRequest
from meshq.core.names import BadName
from meshq.core.prefer import parse_prefer
from meshq.core.selectors import Address, Selector, parse_address

MAX_METHOD = 32
PATH_PREFIX = b"/v1/call/"


class Durable(NamedTuple):
    """What is asked for a call that nobody has to wait for."""

    delay: int = 0
    """Seconds in which it is not delivered."""
    callback: bytes = b""
    """A path of the caller's app to which the result goes."""
    wait: int = 0
    """Seconds in which the caller would still take the answer itself."""


class Call(NamedTuple):
    """One call, ready to be sent."""

    address: Address
    method: str
    target: bytes
    headers: Headers
    """End-to-end fields, with a `traceparent` unless `needs_trace`."""
    body: bytes | None
    timeout_ms: int | None
    """None: the caller names none."""
    deadline_ms: int | None
    """The caller's own absolute deadline, mesh time."""
    needs_trace: bool
    route: str = ""
    """By which way it came in: a label of metrics, never the path itself."""
    key: str = ""
    """Ordering key."""
    priority: int | None = None
    """As AMQP has it; None: the broker's default, which is that of `normal`."""
    durable: Durable | None = None
    """None: the caller waits for the answer."""


def traced(call: Call, random: bytes) -> Headers:
    """The fields to send, with a root made of 24 random bytes."""
    return [*call.headers, (b"traceparent", root_traceparent(random))]


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
    said = _controlled(control) if control else _NOTHING
    trace = noted.get(b"traceparent")
    needs_trace = not valid_traceparent(trace)
    if needs_trace and trace is not None:
        headers = [field for field in headers if field[0].lower() not in (b"traceparent", b"tracestate")]
    return Call(
        address if said.selector is None else Address(address.service, said.selector),
        request.method.decode("ascii"),
        target,
        headers,
        request.body,
        said.timeout_ms,
        said.deadline_ms,
        needs_trace,
        route,
        said.key,
        said.priority,
        _durable(headers, control) if control or b"prefer" in noted else None,
    )


class _Said(NamedTuple):
    """What the fields for the mesh say of any call."""

    selector: Selector | None = None
    timeout_ms: int | None = None
    deadline_ms: int | None = None
    key: str = ""
    priority: int | None = None


_NOTHING = _Said()


def _controlled(control: dict[bytes, bytes]) -> _Said:
    return _Said(
        read_selector(control),
        read_timeout(control),
        read_deadline(control),
        read_key(control),
        read_priority(control),
    )


def _durable(headers: Headers, control: dict[bytes, bytes]) -> Durable | None:
    prefer = parse_prefer(b",".join([value for name, value in headers if name.lower() == b"prefer"]))
    if prefer.respond_async:
        return Durable(read_delay(control), read_callback(control), prefer.wait or 0)
    for name in (b"meshq-delay", b"meshq-callback"):
        if name in control:
            shown = name.decode().title()
            raise refuse(
                Code.BAD_HEADER, f"{shown} goes only with Prefer: respond-async; a waited call has an answer instead"
            )
    return None
