"""What a handler knows of the message it handles, and what calls made from inside it inherit of that.

The context is the running task's: a task that a handler starts has it too, a thread that `asyncio.to_thread` starts as well.
"""

import hashlib
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple, NoReturn
from urllib.parse import unquote

from meshq.core.http import Headers, HttpRequest
from meshq.sdk.problem import REJECTED, Problem
from meshq.sdk.reply import by_name

if TYPE_CHECKING:
    from meshq.sdk.mesh import Mesh

_PASSED_ON = ("tracestate", "baggage")
UNPROCESSABLE, AGAIN = 422, 503


class Event(NamedTuple):
    """The CloudEvents attributes of an event."""

    type: str
    id: str
    source: str
    time: str
    subject: str


class Context:
    """One message, as its handler sees it. A parameter annotated `Context` gets it.

    Args:
        request: what the sidecar gave.
        mesh: for calls from inside the handler; `ctx.mesh`.

    Example:
        >>> from meshq.core.http import HttpRequest
        >>> ctx = Context(HttpRequest(b"POST", b"/pay", [(b"Meshq-Message-Id", b"7f"), (b"Meshq-Attempt", b"2")], b""), None)
        >>> ctx.message_id, ctx.attempt, ctx.caller
        ('7f', 2, '')
    """

    def __init__(self, request: HttpRequest, mesh: "Mesh | None") -> None:
        self.request = request
        self._mesh = mesh
        self._nested: dict[str, int] = {}

    @cached_property
    def _fields(self) -> dict[str, str]:
        return by_name(self.request.headers)  # most handlers ask for none of it

    def __repr__(self) -> str:
        return f"<Context {self.message_id} attempt {self.attempt} of {self.caller or 'somebody'}>"

    # --- the message ----------------------------------------------------------------------------------------------------------

    @property
    def mesh(self) -> "Mesh":
        """For calls, sends and publishes from here. Raises RuntimeError where the service runs without one."""
        if self._mesh is None:
            raise RuntimeError("this handler runs outside a mesh: give the Service one with Service(..., mesh=Mesh())")
        return self._mesh

    @property
    def headers(self) -> Mapping[str, str]:
        """By name in lower case; of a repeated field the last."""
        return self._fields

    @property
    def message_id(self) -> str:
        """32 hexadecimal digits, the same at every attempt; "" of a request that did not come through a mesh."""
        return self._fields.get("meshq-message-id", "")

    @property
    def attempt(self) -> int:
        """From 1."""
        said = self._fields.get("meshq-attempt", "")
        return int(said) if said.isdigit() else 1

    @property
    def caller(self) -> str:
        """The service that called, as the broker proved it; "" where nothing is proved."""
        return self._fields.get("meshq-caller", "")

    @property
    def caller_claimed(self) -> str:
        """The service that called: proved, or only as it says."""
        return self.caller or self._fields.get("meshq-caller-claimed", "")

    @property
    def topic(self) -> str:
        """`orders.v2`; of an event `payments.settled.v1`."""
        return self._fields.get("meshq-topic", "")

    @property
    def key(self) -> str:
        """The ordering key, "" without one."""
        return self._fields.get("meshq-key", "")

    @property
    def idempotency_key(self) -> str:
        """The caller's, or the message's id where it gave none."""
        return self._fields.get("idempotency-key", "")

    @property
    def deadline(self) -> float | None:
        """Unix seconds after which nobody waits for the answer; None: there is no such time."""
        said = self._fields.get("meshq-deadline", "")
        return int(said) / 1000 if said.isdigit() else None

    @property
    def time_left(self) -> float | None:
        """Seconds until the deadline, not below 0; None: there is none."""
        deadline = self.deadline
        return None if deadline is None else max(0.0, deadline - time.time())  # noqa: TID251 - an app's own clock

    @property
    def event(self) -> Event | None:
        """The attributes of an event; None for a call."""
        if "ce-type" not in self._fields:
            return None
        return Event(*(unquote(self._fields.get(f"ce-{name}", "")) for name in Event._fields))

    # --- how it ends ----------------------------------------------------------------------------------------------------------

    def retry(self, after: float | None = None, reason: str = "") -> NoReturn:
        """Not now: a durable message comes again after `after` seconds (None: the usual delay), as long as its attempts last; the
        caller of a waited one is told so. Raises Problem, always."""
        detail = reason or "the handler asked for another attempt"
        raise Problem("retry", detail, status=AGAIN, retryable=True, retry_after=after)

    def reject(self, reason: str) -> NoReturn:
        """The message is wrong: a durable one is dead at once, with this reason; the caller of a waited one gets it. Raises
        Problem, always."""
        raise Problem(REJECTED, reason, status=UNPROCESSABLE, retryable=False)

    # --- what nested calls inherit ----------------------------------------------------------------------------------------------

    @property
    def repeated(self) -> bool:
        """Whether this message may be handled more than once: it is durable, or its caller gave a key. Never of a request that did
        not come through a mesh and has no key: nothing says then which two are the same."""
        if not self.idempotency_key:
            return False
        return self.deadline is None or self.idempotency_key != self.message_id

    def inherited(self, *, waited: bool) -> Headers:
        """Fields of a call from here: the trace, and of a waited one the deadline."""
        fields: Headers = []
        trace = self._fields.get("traceparent")
        if trace is not None:
            fields.append((b"traceparent", trace.encode()))
            fields += [(name.encode(), self._fields[name].encode()) for name in _PASSED_ON if name in self._fields]
        if waited and "meshq-deadline" in self._fields:
            fields.append((b"Meshq-Deadline", self._fields["meshq-deadline"].encode()))
        return fields

    def nested_key(self, what: str, body: bytes | None) -> str:
        """The idempotency key of a call from here: the same when this message is handled again and asks the same again, so that it
        is done once. What counts: which handler asks (one event may reach two of this service), what is asked (another body is another
        call), and the how-manieth of its kind it is."""
        digest = hashlib.blake2s(digest_size=16)
        for part in (self.idempotency_key.encode(), self.request.target, what.encode(), body or b""):
            digest.update(len(part).to_bytes(8, "big") + part)
        root = digest.hexdigest()
        self._nested[root] = self._nested.get(root, 0) + 1
        return f"{root}-{self._nested[root]}"


_current: ContextVar[Context | None] = ContextVar("meshq_context", default=None)


def current() -> Context | None:
    """The context of the handler that runs here; None outside one."""
    return _current.get()


@contextmanager
def within(context: Context) -> Iterator[None]:
    token = _current.set(context)
    try:
        yield
    finally:
        _current.reset(token)
