"""The mesh without asyncio: the same calls, which block. Behind it runs one event loop in a thread of its own."""

from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping
from typing import Any, Self, TypeVar, overload

from meshq.sdk.events import Published
from meshq.sdk.loop_thread import LoopThread
from meshq.sdk.mesh import Mesh
from meshq.sdk.retrying import Retry
from meshq.sdk.ticket import Ticket
from meshq.sdk.views import ServiceView

T = TypeVar("T")


class SyncMesh:
    """`Mesh` for code that blocks: Flask, Django, Celery, scripts. Safe to share between threads; after a fork it begins anew.

    Arguments and methods are those of `Mesh`.

    Example::

        with SyncMesh() as mesh:
            receipt = mesh.call("orders", "POST /create", order, returns=Receipt, timeout=2)
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        token: str | None = None,
        link: bool | None = None,
        health_timeout: float | None = None,
    ) -> None:
        self.mesh = Mesh(url, token=token, link=link, health_timeout=health_timeout)
        self._loop = LoopThread()

    @property
    def url(self) -> str:
        """Of the sidecar."""
        return self.mesh.url

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def ready(self) -> None:
        """As Mesh.ready."""
        self._run(self.mesh.ready)

    def close(self) -> None:
        """Close the connections and end the thread. A later call begins anew."""
        if self._loop.running:
            self._run(self.mesh.close)
            self._loop.stop()

    @overload
    def call(
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
    def call(
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

    def call(self, address: str, operation: str, body: Any = None, **more: Any) -> Any:
        """As Mesh.call."""
        return self._run(lambda: self.mesh.call(address, operation, body, **more))

    def send(
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
    ) -> "SyncTicket":
        """As Mesh.send."""
        ticket = self._run(
            lambda: self.mesh.send(
                address,
                operation,
                body,
                returns=returns,
                key=key,
                idempotency_key=idempotency_key,
                delay=delay,
                deadline=deadline,
                priority=priority,
                callback=callback,
                headers=headers,
                content_type=content_type,
            )
        )
        return SyncTicket(ticket, self._run)

    def ticket(self, ident: str, returns: Any = Any) -> "SyncTicket":
        """As Mesh.ticket."""
        return SyncTicket(self.mesh.ticket(ident, returns), self._run)

    def publish(
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
        """As Mesh.publish."""
        return self._run(
            lambda: self.mesh.publish(
                event,
                data,
                key=key,
                id=id,
                type=type,
                source=source,
                subject=subject,
                idempotency_key=idempotency_key,
                delay=delay,
                deadline=deadline,
                priority=priority,
                headers=headers,
                content_type=content_type,
            )
        )

    def publish_many(
        self,
        event: str,
        events: Iterable[Any],
        *,
        key: Callable[[Any], str] | None = None,
        id: Callable[[Any], str] | None = None,
        partial: bool = False,
    ) -> list[Published]:
        """As Mesh.publish_many."""
        return self._run(lambda: self.mesh.publish_many(event, events, key=key, id=id, partial=partial))

    def services(self) -> list[ServiceView]:
        """As Mesh.services."""
        return self._run(self.mesh.services)

    def service(self, name: str) -> ServiceView:
        """As Mesh.service."""
        return self._run(lambda: self.mesh.service(name))

    def watch(self, service: str) -> Iterator[ServiceView]:
        """As Mesh.watch; each step blocks until there is something new."""
        changes = self.mesh.watch(service)

        async def following() -> ServiceView:
            return await anext(changes)

        try:
            while True:
                yield self._run(following)
        finally:
            self._run(changes.aclose)

    def self(self) -> dict[str, Any]:
        """As Mesh.self."""
        return self._run(self.mesh.self)

    def describe(self, *, metadata: Mapping[str, str] | None = None, capacity: int | None = None) -> None:
        """As Mesh.describe."""
        self._run(lambda: self.mesh.describe(metadata=metadata, capacity=capacity))

    def pause(self, reason: str = "", *, seconds: float | None = None) -> None:
        """As Mesh.pause."""
        self._run(lambda: self.mesh.pause(reason, seconds=seconds))

    def resume(self) -> None:
        """As Mesh.resume."""
        self._run(self.mesh.resume)

    def drain(self) -> None:
        """As Mesh.drain."""
        self._run(self.mesh.drain)

    def _run(self, make: Callable[[], Coroutine[Any, Any, T]]) -> T:
        return self._loop.run(make)


class SyncTicket:
    """`Ticket` for code that blocks."""

    def __init__(self, ticket: Ticket, run: Callable[[Callable[[], Coroutine[Any, Any, Any]]], Any]) -> None:
        self.id = ticket.id
        self._ticket = ticket
        self._run = run

    def __repr__(self) -> str:
        return repr(self._ticket)

    def done(self) -> bool:
        """As Ticket.done."""
        return bool(self._run(self._ticket.done))

    def result(self, timeout: float | None = None, returns: Any = None) -> Any:
        """As Ticket.result."""
        return self._run(lambda: self._ticket.result(timeout, returns))

    def cancel(self) -> bool:
        """As Ticket.cancel."""
        return bool(self._run(self._ticket.cancel))
