"""What was sent and what died, as a test wants to see it: decoded, by service or event."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from meshq.core.dead import Letter
from meshq.core.http import Headers, header
from meshq.core.message import Request
from meshq.sdk.bodies import Invalid, decode


@dataclass(frozen=True, slots=True)
class Message:
    """One call or event that the broker accepted.

    Compare parts of it: `[each.body for each in mesh.sent("orders")] == [{"item": "tea"}]`.
    """

    id: str
    caller: str
    """The service that sent it."""
    to: str
    """The called service; of an event its name."""
    major: int
    """Of the called version or the event."""
    operation: str
    """`POST /create`; "" of an event."""
    body: Any
    """Decoded by its content type: JSON and msgpack as values, text as str, else bytes; None without one."""
    key: str
    """The ordering key, "" without one."""
    idempotency_key: str
    """The sender's, "" where it gave none."""
    durable: bool
    """Nobody waits for its answer: `send` or `publish`."""
    attempts: int
    """How often a handler got it. Of an event: the one of its subscribers that got it most often."""
    at: float
    """Seconds of the mesh's clock since the mesh was opened."""
    headers: Mapping[str, str] = field(repr=False)
    """As the sender gave them, names in lower case."""
    content: bytes = field(repr=False)
    """The body as it was sent."""

    def as_(self, wanted: Any) -> Any:
        """The body as a model, a dataclass, `list[Order]`. Raises Problem `invalid`."""
        try:
            return decode(self.content, self.headers.get("content-type", ""), wanted)
        except Invalid as invalid:
            raise invalid.problem from None

    def __str__(self) -> str:
        what = f"{self.caller} -> {self.to}@{self.major} {self.operation}".rstrip()
        key = f", key {self.key!r}" if self.key else ""
        return f"+{self.at:.3f} s  {what}  {self.body!r}{key}, attempts: {self.attempts}"


@dataclass(frozen=True, slots=True)
class Dead:
    """One dead letter."""

    id: str
    reason: str
    """`attempts`, `rejected`, `deadline`, ...: as `meshq dead list` shows it."""
    detail: str
    status: int | None
    """Of the handler's last answer."""
    attempts: int | None
    operation: str
    """"" of an event."""
    body: Any
    """As of Message."""
    event: str
    """Its topic, `payments.settled.v1`; "" of a call."""

    def __str__(self) -> str:
        what = self.event or self.operation
        return (
            f"{what}  {self.body!r}  {self.reason} after {self.attempts} attempts, status {self.status}: {self.detail}"
        )


def message(request: Request, to: str, major: int, at: float, attempts: int) -> Message:
    return Message(
        id=request.id,
        caller=request.caller,
        to=to,
        major=major,
        operation="" if request.event else _operation(request),
        body=_body(request),
        key=request.key,
        idempotency_key=(header(request.headers, b"idempotency-key") or b"").decode("latin-1"),
        durable=request.durable,
        attempts=attempts,
        at=at,
        headers=_by_name(request.headers),
        content=request.body or b"",
    )


def dead(letter: Letter) -> Dead:
    request = letter.request
    return Dead(
        id=letter.id,
        reason=letter.reason,
        detail=letter.detail,
        status=letter.status,
        attempts=letter.attempts,
        operation="" if request is None or request.event else _operation(request),
        body=letter.body if request is None else _body(request),
        event="" if request is None else request.event,
    )


def _operation(request: Request) -> str:
    return f"{request.method} {request.target.decode('latin-1')}"


def _body(request: Request) -> Any:
    content_type = (header(request.headers, b"content-type") or b"").decode("latin-1")
    try:
        return decode(request.body, content_type, Any)
    except Invalid:
        return request.body


def _by_name(headers: Headers) -> dict[str, str]:
    return {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in headers}
