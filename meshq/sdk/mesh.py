"""Calling, sending, publishing, watching: the mesh from an app's side, on asyncio."""

import asyncio
import os
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping
from functools import partial
from typing import Any, Self, TypeVar, overload
from weakref import WeakKeyDictionary

from meshq.core.http import Headers, HttpRequest, HttpResponse, header
from meshq.core.message import MAX_KEY
from meshq.sdk import reach as reaching
from meshq.sdk.bodies import Encoded, Invalid, decode, encode
from meshq.sdk.context import current
from meshq.sdk.events import Published, as_batch, fates
from meshq.sdk.inherited import forget
from meshq.sdk.operation import REPEATABLE, Operation, parse
from meshq.sdk.problem import Problem, of_response
from meshq.sdk.retrying import Retry, retrying
from meshq.sdk.ticket import Ticket
from meshq.sdk.transport import Handle, Transport
from meshq.sdk.views import ServiceView, view_of

T = TypeVar("T")

BAD_ANSWER = 502
GRACE = 5.0
"""Seconds that the sidecar has, beyond a call's own timeout, to say that it ran out."""
LONGEST = 900.0
"""Seconds after which even a call without a timeout of its own is given up: a route policy's timeout may be long."""
OWN = 15.0
"""Seconds for what the sidecar answers by itself."""
WATCH = 30.0
"""Seconds that one look of `watch` waits for a change."""
AGAIN = 0.5
BATCH = 500
"""Events of one request of `publish_many`."""


class Mesh:
    """The mesh, through the sidecar beside this app.

    It connects when it is first used, over the sidecar's link if it offers one and over HTTP otherwise, and waits for a sidecar that is
    not there yet. Safe to share between tasks; used from several event loops, or after a fork, each gets connections of its own.

    Args:
        url: where the sidecar is; default: MESHQ_URL, else http://127.0.0.1:3600.
        token: what MESHQ_API_TOKEN is there; default: MESHQ_TOKEN.
        link: True: only over the link; False: only over HTTP; None: the link if it is offered.
        health_timeout: seconds to wait for a sidecar; default: MESHQ_HEALTH_TIMEOUT, else 60.

    Raises:
        ValueError: a setting is malformed.

    Example:
        >>> mesh = Mesh("http://127.0.0.1:3600")
        >>> mesh.url
        'http://127.0.0.1:3600'
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        token: str | None = None,
        link: bool | None = None,
        health_timeout: float | None = None,
    ) -> None:
        self._reach = reaching.read(os.environ, url, token, health_timeout)
        self._wants_link = link
        self._handle: Handle | None = None
        self._on_lost: Callable[[], None] = _nothing
        self._pid = os.getpid()
        self._transports: WeakKeyDictionary[asyncio.AbstractEventLoop, Transport] = WeakKeyDictionary()
        token_field = (b"Meshq-Token", self._reach.token.encode())
        self._always: Headers = [token_field] if self._reach.token else []

    @property
    def url(self) -> str:
        """Of the sidecar."""
        return self._reach.url

    # --- life -----------------------------------------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def ready(self) -> None:
        """Wait until the sidecar answers, at most MESHQ_HEALTH_TIMEOUT. Nothing needs this; it finds a wrong URL early.

        Raises:
            Problem: `unavailable`.
        """
        await self.transport.open()

    async def close(self) -> None:
        """Close the connections of this event loop; answers that are due come still, for a second. A later call opens others."""
        transport = self._own.pop(asyncio.get_running_loop(), None)
        if transport is not None:
            await transport.close()

    @property
    def transport(self) -> Transport:
        """Of the running event loop."""
        loop = asyncio.get_running_loop()
        found = self._own.get(loop)
        if found is None:
            found = self._transports[loop] = Transport(self._reach, self._new_link, self._new_http, self._wants_link)
        return found

    @property
    def _own(self) -> "WeakKeyDictionary[asyncio.AbstractEventLoop, Transport]":
        if self._pid != os.getpid():  # forked: those connections are the parent's
            forget(self._transports)
            self._transports, self._pid = WeakKeyDictionary(), os.getpid()
        return self._transports

    def _new_link(self) -> Any:
        from meshq.sdk.link_transport import LinkWay

        return LinkWay(self._reach, self._handle, lambda: self._on_lost())

    def _new_http(self) -> Any:
        from meshq.sdk.http_transport import HttpWay

        return HttpWay(self._reach)

    def serve(self, handle: Handle | None, on_lost: Callable[[], None] | None = None) -> None:
        """Connections that are opened from now on: `handle` gets what the sidecar asks over the link; `on_lost` is called when such a
        link is gone. For Service."""
        self._handle, self._on_lost = handle, on_lost or _nothing

    # --- waited calls ---------------------------------------------------------------------------------------------------------

    @overload
    async def call(
        self,
        address: str,
        operation: str,
        body: Any = None,
        *,
        returns: type[T],
        timeout: float | None = None,
        deadline: float | None = None,
        key: str | None = None,
        idempotency_key: str | None = None,
        priority: str | None = None,
        headers: Mapping[str, str] | None = None,
        content_type: str | None = None,
        retry: Retry | None = None,
    ) -> T: ...

    @overload
    async def call(
        self,
        address: str,
        operation: str,
        body: Any = None,
        *,
        returns: Any = Any,
        timeout: float | None = None,
        deadline: float | None = None,
        key: str | None = None,
        idempotency_key: str | None = None,
        priority: str | None = None,
        headers: Mapping[str, str] | None = None,
        content_type: str | None = None,
        retry: Retry | None = None,
    ) -> Any: ...

    async def call(
        self,
        address: str,
        operation: str,
        body: Any = None,
        *,
        returns: Any = Any,
        timeout: float | None = None,
        deadline: float | None = None,
        key: str | None = None,
        idempotency_key: str | None = None,
        priority: str | None = None,
        headers: Mapping[str, str] | None = None,
        content_type: str | None = None,
        retry: Retry | None = None,
    ) -> Any:
        """Call a service and wait for its answer.

        Args:
            address: `orders`, `orders@2`, `orders@^2.1`.
            operation: `POST /create`; without a method GET.
            body: a pydantic model, a dataclass, whatever JSON has, bytes or str.
            returns: what the answer is to be: a model, a dataclass, `list[Order]`, bytes, str, None; default: what its content type
                says (JSON and msgpack as values, text as str, else bytes).
            timeout: seconds to wait; default: the route policy's, else 30. In a handler also bounded by the deadline of what it handles.
            deadline: Unix seconds after which it must not start.
            key: ordering key; the service must be ordered.
            idempotency_key: the same key to the same operation is handled once, and answered with the first answer. In a handler of a
                message that may be repeated, calls that change something get one by themselves.
            priority: `low`, `normal`, `high`.
            headers: further fields for the called app.
            content_type: of the body; `application/msgpack` encodes it so.
            retry: try again, as `retryable` and `Retry-After` say, inside `timeout`.

        Returns:
            The answer's body, as `returns`.

        Raises:
            Problem: an answer of 400 or more, by the app or (`by_mesh`) by the mesh; an answer that is not `returns` (`invalid`).
            TypeError, ValueError: an argument is malformed, or the body has no form in its content type.
        """
        ask = partial(
            self._call,
            address,
            parse(operation),
            encode(body, content_type),
            timeout,
            deadline,
            key,
            idempotency_key,
            priority,
            headers,
        )
        if retry is not None:
            within = timeout if retry.within is None else retry.within
            response = await retrying(ask, Retry(retry.attempts, within, retry.first, retry.most))
        else:
            response = await ask()
        return _answer(response, returns)

    async def _call(
        self,
        address: str,
        operation: Operation,
        encoded: Encoded,
        timeout: float | None,
        deadline: float | None,
        key: str | None,
        idempotency_key: str | None,
        priority: str | None,
        headers: Mapping[str, str] | None,
    ) -> HttpResponse:
        fields = self._fields(encoded, headers, key, priority, deadline)
        if timeout is not None:
            fields.append((b"Meshq-Timeout", _duration(timeout)))
        request = self._to_service(address, operation, encoded, fields, idempotency_key, waited=True)
        response = await self.transport.ask(request, LONGEST if timeout is None else timeout + GRACE)
        if (problem := of_response(response)) is not None:
            raise problem
        return response

    # --- durable calls --------------------------------------------------------------------------------------------------------

    async def send(
        self,
        address: str,
        operation: str,
        body: Any = None,
        *,
        returns: Any = Any,
        key: str | None = None,
        idempotency_key: str | None = None,
        delay: float | None = None,
        deadline: float | None = None,
        priority: str | None = None,
        callback: str | None = None,
        headers: Mapping[str, str] | None = None,
        content_type: str | None = None,
    ) -> Ticket:
        """Call a service durably and go on: once this returns, the broker (or the sidecar's disk) has it, and it is retried until it
        succeeds or is a dead letter.

        Args: as of `call`, and
            delay: seconds before which it is not delivered, up to 12 days.
            callback: a path of this app, to which the result is posted, durably.
            returns: what `Ticket.result` gives.

        Raises:
            Problem: it was not accepted.
            TypeError, ValueError: as `call`.
        """
        encoded, parsed = encode(body, content_type), parse(operation)
        fields = [*self._fields(encoded, headers, key, priority, deadline), (b"Prefer", b"respond-async")]
        if delay is not None:
            fields.append((b"Meshq-Delay", _duration(delay)))
        if callback is not None:
            fields.append((b"Meshq-Callback", callback.encode()))
        request = self._to_service(address, parsed, encoded, fields, idempotency_key, waited=False)
        response = await self._own_answer(request)
        ident = header(response.headers, b"meshq-message-id") or b""
        return Ticket(ident.decode(), self, returns)

    def ticket(self, ident: str, returns: Any = Any) -> Ticket:
        """Of an earlier `send`, by its id: from anywhere in this service."""
        return Ticket(ident, self, returns)

    # --- events ---------------------------------------------------------------------------------------------------------------

    async def publish(
        self,
        event: str,
        data: Any = None,
        *,
        key: str | None = None,
        id: str | None = None,
        type: str | None = None,
        source: str | None = None,
        subject: str | None = None,
        idempotency_key: str | None = None,
        delay: float | None = None,
        deadline: float | None = None,
        priority: str | None = None,
        headers: Mapping[str, str] | None = None,
        content_type: str | None = None,
    ) -> Published:
        """Publish an event, durably.

        Args:
            event: `payments.settled`, `payments.settled@2`.
            data: as the body of `call`.
            key: ordering key, for subscribers in `ordered` mode.
            id, type, source, subject: CloudEvents attributes; what is not given the sidecar fills in.
            idempotency_key: each subscriber handles events with the same key once.
            delay, deadline, priority, headers, content_type: as of `send`.

        Raises:
            Problem: it was not accepted.
            TypeError, ValueError: as `call`.
        """
        encoded = encode(data, content_type)
        fields = self._fields(encoded, headers, key, priority, deadline)
        given = {b"ce-id": id, b"ce-type": type, b"ce-source": source, b"ce-subject": subject}
        fields += [(name, value.encode()) for name, value in given.items() if value is not None]
        if idempotency_key is not None:
            fields.append((b"Idempotency-Key", idempotency_key.encode()))
        if delay is not None:
            fields.append((b"Meshq-Delay", _duration(delay)))
        request = self._request(b"POST", b"/v1/publish/" + event.encode(), fields, encoded.body, waited=False)
        return Published.of(await self._own_answer(request))

    async def publish_many(
        self,
        event: str,
        events: Iterable[Any],
        *,
        key: Callable[[Any], str] | None = None,
        id: Callable[[Any], str] | None = None,
        partial: bool = False,
    ) -> list[Published]:
        """Publish many events of one name, in their order, many at a time.

        Args:
            event: as of `publish`.
            events: the data of each.
            key, id: from an event to its ordering key, and its CloudEvents id.
            partial: return also when some were refused; the fate of each says which.

        Returns:
            The fate of each, in their order.

        Raises:
            Problem: of the first that was refused, unless `partial`; its `fields["published"]` has how many were accepted.
        """
        found: list[Published] = []
        items = list(events)
        for at in range(0, len(items), BATCH):
            body = as_batch(items[at : at + BATCH], key, id)
            fields = [(b"Content-Type", b"application/cloudevents-batch+json")]
            request = self._request(b"POST", b"/v1/publish/" + event.encode(), fields, body, waited=False)
            response = await self.transport.ask(request, LONGEST)
            told = fates(response)
            if told is None:
                problem = of_response(response)
                raise problem if problem is not None else _unexpected(response)
            found += told
        refused = next((each.problem for each in found if each.problem is not None), None)
        if refused is not None and not partial:
            refused.fields["published"] = sum(each.problem is None for each in found)
            raise refused
        return found

    # --- who is there ---------------------------------------------------------------------------------------------------------

    async def services(self) -> list[ServiceView]:
        """Every service of the mesh, as the sidecar last saw it."""
        response = await self._own_answer(self._request(b"GET", b"/v1/services", [], None, waited=False))
        return [view_of(each, response) for each in decode(response.body, "application/json", list)]

    async def service(self, name: str) -> ServiceView:
        """Raises Problem `unknown-service`."""
        return await self._look(name, b"")

    async def watch(self, service: str) -> AsyncGenerator[ServiceView, None]:
        """The service as it is now, and again whenever it is another; a service that is not known yet is waited for, and while the
        sidecar or the registry is away nothing comes. Ends with the loop over it.

        Example:
            async for orders in mesh.watch("orders"):
                print(orders.ready)
        """
        last: ServiceView | None = None
        while True:
            query = b"" if last is None else b"?wait=%ds&index=%d" % (WATCH, last.index)
            try:
                found = await self._look(service, query)
            except Problem as problem:
                if not problem.by_mesh:
                    raise
                await asyncio.sleep(problem.retry_after or AGAIN)
                continue
            if last is None or found.versions != last.versions:
                yield found
            last = found

    async def _look(self, name: str, query: bytes) -> ServiceView:
        request = self._request(b"GET", b"/v1/services/" + name.encode() + query, [], None, waited=False)
        response = await self.transport.ask(request, WATCH + OWN)
        if (problem := of_response(response)) is not None:
            raise problem
        return view_of(decode(response.body, "application/json", dict), response)

    # --- this instance --------------------------------------------------------------------------------------------------------

    async def self(self) -> dict[str, Any]:
        """What `GET /v1/self` says of this instance: its state, capacity, checks."""
        return await self._api("GET", "")

    async def describe(self, *, metadata: Mapping[str, str] | None = None, capacity: int | None = None) -> None:
        """Say more of this instance, or how much it is to be given at once (at most MESHQ_APP_CONCURRENCY; 0: nothing)."""
        said: dict[str, Any] = {} if metadata is None else {"metadata": dict(metadata)}
        await self._api("PATCH", "", said if capacity is None else {**said, "capacity": capacity})

    async def pause(self, reason: str = "", *, seconds: float | None = None) -> None:
        """Be given nothing, for so long or until `resume`; what is at the app goes on."""
        said = {"reason": reason} if seconds is None else {"reason": reason, "for": _duration(seconds).decode()}
        await self._api("POST", "/pause", said)

    async def resume(self) -> None:
        await self._api("POST", "/resume")

    async def drain(self) -> None:
        """Be given nothing any more, for the rest of the sidecar's process: before the pod stops."""
        await self._api("POST", "/drain")

    async def _api(self, method: str, path: str, body: Any = None) -> dict[str, Any]:
        found = await self.ask(method, "/v1/self" + path, body)
        return found if isinstance(found, dict) else {}

    async def ask(self, method: str, path: str, body: Any = None) -> Any:
        """The sidecar's own API, `/v1/...`; what changes it is allowed. Returns the decoded answer. Raises Problem."""
        encoded = encode(body)
        fields = self._fields(encoded, None, None, None, None)
        fields.append((b"Meshq-Api", b"1"))
        response = await self._own_answer(
            self._request(method.encode(), path.encode(), fields, encoded.body, waited=False)
        )
        return _answer(response, Any)

    async def look(self, path: str) -> HttpResponse:
        """A GET of the sidecar's own API, whatever it answers. Raises Problem where nothing answers."""
        return await self.transport.ask(self._request(b"GET", path.encode(), [], None, waited=False), OWN)

    async def _own_answer(self, request: HttpRequest) -> HttpResponse:
        response = await self.transport.ask(request, OWN)
        if (problem := of_response(response)) is not None:
            raise problem
        return response

    # --- requests -------------------------------------------------------------------------------------------------------------

    def _fields(
        self,
        encoded: Encoded,
        headers: Mapping[str, str] | None,
        key: str | None,
        priority: str | None,
        deadline: float | None,
    ) -> Headers:
        fields: Headers = []
        if headers:
            fields += [(name.encode("ascii"), value.encode("latin-1")) for name, value in headers.items()]
        if encoded.content_type:
            fields.append((b"Content-Type", encoded.content_type.encode()))
        if key is not None:
            fields.append((b"Meshq-Key", _key(key)))
        if priority is not None:
            fields.append((b"Meshq-Priority", priority.encode()))
        if deadline is not None:
            fields.append((b"Meshq-Deadline", b"%d" % (deadline * 1000)))
        return fields

    def _to_service(
        self,
        address: str,
        operation: Operation,
        encoded: Encoded,
        fields: Headers,
        idempotency_key: str | None,
        *,
        waited: bool,
    ) -> HttpRequest:
        context = current()
        if idempotency_key is None and context is not None and context.repeated and operation.method not in REPEATABLE:
            idempotency_key = context.nested_key(f"{address} {operation.method} {operation.path}", encoded.body)
        if idempotency_key is not None:
            fields.append((b"Idempotency-Key", idempotency_key.encode()))
        target = b"/v1/call/" + _segment(address) + operation.path.encode()
        return self._request(operation.method.encode(), target, fields, encoded.body, waited=waited)

    def _request(
        self, method: bytes, target: bytes, fields: Headers, body: bytes | None, *, waited: bool
    ) -> HttpRequest:
        context = current()
        if context is not None:
            given = {name.lower() for name, _ in fields}
            fields = fields + [field for field in context.inherited(waited=waited) if field[0].lower() not in given]
        return HttpRequest(method, target, self._always + fields, body)


def _answer(response: HttpResponse, returns: Any) -> Any:
    content_type = (header(response.headers, b"content-type") or b"").decode("latin-1")
    body = response.body if response.body or content_type else None
    try:
        return decode(body, content_type, returns)
    except Invalid as invalid:
        why = invalid.problem
        raise Problem(
            why.code, f"the answer: {why.detail}", status=BAD_ANSWER, retryable=False, fields=why.fields
        ) from None


def _unexpected(response: HttpResponse) -> Problem:
    return Problem("bad-gateway", f"the sidecar answered {response.status} to a batch", by_mesh=True)


def _segment(address: str) -> bytes:
    """`orders@>=2.1,<3` as one segment of a path; whether it is an address the sidecar says."""
    from urllib.parse import quote

    return quote(address, safe="@^~,=.-").encode()


def _duration(seconds: float) -> bytes:
    if not 0 <= seconds < 10**9:
        raise ValueError(f"{seconds} is not a number of seconds")
    return b"%dms" % round(seconds * 1000)


def _key(key: str) -> bytes:
    if not key or len(key) > MAX_KEY:
        raise ValueError(f"an ordering key has 1 to {MAX_KEY} characters")
    return key.encode()


def _nothing() -> None:
    """Nobody serves."""
