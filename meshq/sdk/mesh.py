"""Calling, sending, publishing, watching: the mesh from an app's side, on asyncio."""

import asyncio
import os
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, Self, TypeVar, overload

from meshq.core.cloudevents import percent_encoded
from meshq.core.errors import Code
from meshq.core.http import Headers, HttpRequest, HttpResponse, header
from meshq.core.names import check_service
from meshq.sdk import reach as reaching
from meshq.sdk.bodies import Encoded, decode, encode
from meshq.sdk.context import current
from meshq.sdk.events import Published, batches, fates
from meshq.sdk.inherited import forget
from meshq.sdk.operation import REPEATABLE, parse
from meshq.sdk.outgoing import checked, duration, field, fields, segment
from meshq.sdk.problem import Problem, of_response
from meshq.sdk.reply import as_answer
from meshq.sdk.retrying import Retry, retrying
from meshq.sdk.ticket import Ticket
from meshq.sdk.transport import Handle, Transport
from meshq.sdk.views import ServiceView, view_of

T = TypeVar("T")

GRACE = 5.0
"""Seconds that the sidecar has, beyond a call's own timeout, to say that it ran out."""
LONGEST = 900.0
"""Seconds after which even a call without a timeout of its own is given up: a route policy's timeout may be long."""
OWN = 15.0
"""Seconds for what the sidecar answers by itself."""
WATCH = 30.0
"""Seconds that one look of `watch` waits for a change."""
AGAIN = 0.5
"""Seconds until a look of `watch` that failed is taken again."""


class Mesh:
    """The mesh, through the sidecar beside this app.

    It connects when it is first used, over the sidecar's link if it offers one and over HTTP otherwise, and waits for a sidecar that is
    not there yet. Safe to share between tasks; used from several event loops, or after a fork, each gets connections of its own. They
    are closed by `close`, or with the event loop.

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
        self._transports: dict[asyncio.AbstractEventLoop, Transport] = {}
        self._always: Headers = [field("Meshq-Token", self._reach.token)] if self._reach.token else []

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
            for ended in [each for each in self._transports if each.is_closed()]:
                del self._transports[ended]
            found = self._transports[loop] = Transport(self._reach, self._new_link, self._new_http, self._wants_link)
        return found

    @property
    def _own(self) -> dict[asyncio.AbstractEventLoop, Transport]:
        if self._pid != os.getpid():  # forked: those connections are the parent's
            forget(self._transports)
            self._transports, self._pid = {}, os.getpid()
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
            returns: what the answer is to be: a model, a dataclass, `list[Order]`, bytes, str, None, `Reply` for its status and fields as
                well; default: what its content type says (JSON and msgpack as values, text as str, else bytes).
            timeout: seconds to wait, for a sidecar that does not answer yet as well; default: the route policy's, else 30. In a handler
                also bounded by the deadline of what it handles.
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
            Problem: an answer of 400 or more, by the app or (`by_mesh`) by the mesh; an answer that is not `returns` (`invalid`);
                `bad-gateway` where the sidecar went away before it answered, so that nobody knows what became of it.
            TypeError, ValueError: an argument is malformed, or the body has no form in its content type.

        Example::

            receipt = await mesh.call("orders@^2", "POST /create", order, returns=Receipt, timeout=2)
        """
        encoded = encode(body, content_type)
        given = fields(encoded, headers, key, priority, deadline)
        request = self._to_service(address, operation, encoded, given, idempotency_key, waited=True)
        ask = partial(self._ask, request, _until(timeout))
        if retry is None:
            response = await ask()
        else:
            response = await retrying(ask, retry if retry.within is not None else replace(retry, within=timeout))
        return as_answer(response, returns, is_head=request.method == b"HEAD")

    async def _ask(self, request: HttpRequest, until: float | None) -> HttpResponse:
        """A waited call, once; `until` is of the event loop's clock."""
        if until is None:
            return await self._good_answer(request, LONGEST)
        now = asyncio.get_running_loop().time
        if self.transport.way is None:
            await self.transport.open(until - now())
        left = max(0.001, until - now())
        timed = request._replace(headers=[*request.headers, (b"Meshq-Timeout", duration(left))])
        return await self._good_answer(timed, left + GRACE)

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
            Problem: it was not accepted; `bad-gateway`: nobody knows whether it was.
            TypeError, ValueError: as `call`.

        Example::

            ticket = await mesh.send("orders", "POST /create", order, idempotency_key="o-1", returns=Receipt)
        """
        encoded = encode(body, content_type)
        given = [*fields(encoded, headers, key, priority, deadline, delay), (b"Prefer", b"respond-async")]
        if callback is not None:
            given.append(field("Meshq-Callback", callback))
        request = self._to_service(address, operation, encoded, given, idempotency_key, waited=False)
        response = await self._good_answer(request)
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
            idempotency_key: each subscriber handles events with the same key once. In a handler of a message that may be repeated it has
                one by itself.
            delay, deadline, priority, headers, content_type: as of `send`.

        Raises:
            Problem: it was not accepted; `bad-gateway`: nobody knows whether it was.
            TypeError, ValueError: as `call`.

        Example::

            await mesh.publish("payments.settled@1", settled, key=settled.customer)
        """
        encoded = encode(data, content_type)
        given = fields(encoded, headers, key, priority, deadline, delay)
        attributes = {"ce-id": id, "ce-type": type, "ce-source": source, "ce-subject": subject}
        given += [field(name, percent_encoded(value)) for name, value in attributes.items() if value is not None]
        return Published.of(await self._good_answer(self._event(event, given, encoded.body, idempotency_key)))

    async def publish_many(
        self,
        event: str,
        events: Iterable[Any],
        *,
        key: Callable[[Any], str] | None = None,
        id: Callable[[Any], str] | None = None,
        partial: bool = False,
    ) -> list[Published]:
        """Publish many events of one name, in their order, many at a time. In a handler of a message that may be repeated, each
        subscriber handles each of them once.

        Args:
            event: as of `publish`.
            events: the data of each.
            key, id: from an event to its ordering key, and its CloudEvents id.
            partial: return also when some were refused; the fate of each says which.

        Returns:
            The fate of each, in their order.

        Raises:
            Problem: of the first that was refused, unless `partial`; its `fields["published"]` has how many were accepted.
            TypeError: the data of one has no form in JSON; none was published.

        Example::

            await mesh.publish_many("payments.settled@1", events, key=lambda event: event.customer)
        """
        found: list[Published] = []
        away: Problem | None = None
        for batch in batches(events, key, id):
            if away is None:
                try:
                    found += await self._publish_batch(event, batch.body)
                    continue
                except Problem as problem:
                    away = problem  # what follows is not sent: it would overtake
            found += [Published("", None, away)] * batch.size
        refused = next((each.problem for each in found if each.problem is not None), None)
        if refused is not None and not partial:
            refused.fields["published"] = sum(each.problem is None for each in found)
            raise refused
        return found

    async def _publish_batch(self, event: str, body: bytes) -> list[Published]:
        """Raises Problem where none has a fate of its own."""
        given: Headers = [(b"Content-Type", b"application/cloudevents-batch+json")]
        response = await self.transport.ask(self._event(event, given, body, None), LONGEST)
        told = fates(response)
        if told is None:
            raise of_response(response) or _unexpected(response)
        return told

    # --- who is there ---------------------------------------------------------------------------------------------------------

    async def services(self) -> list[ServiceView]:
        """Every service of the mesh, as the sidecar last saw it. Raises Problem."""
        response = await self._good_answer(self._request(b"GET", b"/v1/services", [], None, waited=False))
        return [view_of(each, response) for each in decode(response.body, "application/json", list)]

    async def service(self, name: str) -> ServiceView:
        """One service, as the sidecar last saw it.

        Raises:
            Problem: `unknown-service`.
            ValueError: the name can be no service's.
        """
        return await self._look(check_service(name), b"")

    async def watch(self, service: str) -> AsyncGenerator[ServiceView, None]:
        """The service as it is now, and again whenever it is another; a service that is not known yet is waited for, and while the
        sidecar or the registry is away nothing comes. Ends with the loop over it.

        Raises:
            Problem: the sidecar answers what will not be otherwise.
            ValueError: the name can be no service's.

        Example::

            async for orders in mesh.watch("orders"):
                print(orders.ready)
        """
        check_service(service)
        last: ServiceView | None = None
        while True:
            query = b"" if last is None else b"?wait=%ds&index=%d" % (WATCH, last.index)
            try:
                found = await self._look(service, query)
            except Problem as problem:
                if problem.status < 500 and problem.code not in _NOT_YET:
                    raise
                await asyncio.sleep(problem.retry_after or AGAIN)
                continue
            if last is None or found.versions != last.versions:
                yield found
            last = found

    async def _look(self, name: str, query: bytes) -> ServiceView:
        request = self._request(b"GET", b"/v1/services/" + segment(name) + query, [], None, waited=False)
        response = await self._good_answer(request, WATCH + OWN)
        return view_of(decode(response.body, "application/json", dict), response)

    # --- this instance --------------------------------------------------------------------------------------------------------

    async def self(self) -> dict[str, Any]:
        """What `GET /v1/self` says of this instance: its state, capacity, checks. Raises Problem."""
        return await self._api("GET", "")

    async def describe(self, *, metadata: Mapping[str, str] | None = None, capacity: int | None = None) -> None:
        """Say more of this instance, or how much it is to be given at once (at most MESHQ_APP_CONCURRENCY; 0: nothing).
        Raises Problem."""
        said: dict[str, Any] = {} if metadata is None else {"metadata": dict(metadata)}
        await self._api("PATCH", "", said if capacity is None else {**said, "capacity": capacity})

    async def pause(self, reason: str = "", *, seconds: float | None = None) -> None:
        """Be given nothing, for so long or until `resume`; what is at the app goes on. Raises Problem."""
        said = {"reason": reason} if seconds is None else {"reason": reason, "for": duration(seconds).decode()}
        await self._api("POST", "/pause", said)

    async def resume(self) -> None:
        """Be given messages again. Raises Problem."""
        await self._api("POST", "/resume")

    async def drain(self) -> None:
        """Be given nothing any more, for the rest of the sidecar's process: before the pod stops. Raises Problem."""
        await self._api("POST", "/drain")

    async def _api(self, method: str, path: str, body: Any = None) -> dict[str, Any]:
        found = await self.ask(method, "/v1/self" + path, body)
        return found if isinstance(found, dict) else {}

    async def ask(self, method: str, path: str, body: Any = None) -> Any:
        """The sidecar's own API, `/v1/...`; what changes it is allowed. Returns the decoded answer. Raises Problem."""
        encoded = encode(body)
        given = [*fields(encoded, None, None, None, None), (b"Meshq-Api", b"1")]
        request = self._request(method.encode(), path.encode(), given, encoded.body, waited=False)
        return as_answer(await self._good_answer(request), Any)

    async def look(self, path: str) -> HttpResponse:
        """A GET of the sidecar's own API, whatever it answers. Raises Problem where nothing answers."""
        return await self.transport.ask(self._request(b"GET", path.encode(), [], None, waited=False), OWN)

    async def _good_answer(self, request: HttpRequest, timeout: float = OWN) -> HttpResponse:
        """Raises Problem for one of 400 or more."""
        response = await self.transport.ask(request, timeout)
        if (problem := of_response(response)) is not None:
            raise problem
        return response

    # --- requests -------------------------------------------------------------------------------------------------------------

    def _to_service(
        self,
        address: str,
        operation: str,
        encoded: Encoded,
        given: Headers,
        idempotency_key: str | None,
        *,
        waited: bool,
    ) -> HttpRequest:
        method, path = parse(operation)
        if idempotency_key is None and method not in REPEATABLE:
            idempotency_key = _nested_key(f"{address} {method} {path}", encoded.body)
        if idempotency_key is not None:
            given.append(field("Idempotency-Key", idempotency_key))
        target = b"/v1/call/" + segment(address) + path.encode()
        return self._request(method.encode(), target, given, encoded.body, waited=waited)

    def _event(self, event: str, given: Headers, body: bytes | None, idempotency_key: str | None) -> HttpRequest:
        if idempotency_key is None:
            idempotency_key = _nested_key(f"publish {event}", body)
        if idempotency_key is not None:
            given.append(field("Idempotency-Key", idempotency_key))
        return self._request(b"POST", b"/v1/publish/" + segment(event), given, body, waited=False)

    def _request(
        self, method: bytes, target: bytes, given: Headers, body: bytes | None, *, waited: bool
    ) -> HttpRequest:
        """Raises Problem `too-large`, ValueError."""
        context = current()
        if context is not None:
            names = {name.lower() for name, _ in given}
            given = given + [each for each in context.inherited(waited=waited) if each[0].lower() not in names]
        return checked(HttpRequest(method, target, self._always + given, body))


def _nested_key(what: str, body: bytes | None) -> str | None:
    """The idempotency key of what is asked in a handler of a message that may be repeated."""
    context = current()
    return context.nested_key(what, body) if context is not None and context.repeated else None


def _until(timeout: float | None) -> float | None:
    """Of the event loop's clock. Raises ValueError."""
    if timeout is None:
        return None
    if not timeout > 0:
        raise ValueError(f"a timeout of {timeout} s: nobody can answer in that")
    return asyncio.get_running_loop().time() + timeout


def _unexpected(response: HttpResponse) -> Problem:
    return Problem("bad-gateway", f"the sidecar answered {response.status} to a batch", by_mesh=True)


def _nothing() -> None:
    """Nobody serves."""


_NOT_YET = frozenset({Code.UNKNOWN_SERVICE.value, Code.OVERLOADED.value})
"""What becomes otherwise without anybody doing anything about it."""
