"""Ports of a process that dies in the middle: whatever it does or is told crosses a `Fuse`, and once that has burnt nothing does
any more. What the dead one's code still does reaches nobody."""

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any

from meshq.core.http import Failed, HttpRequest, HttpResponse
from meshq.ports import BrokerState, Delivery, Publication, Published, ReplyHandler, Spooled, SpoolRecord


class Fuse:
    """Lets `crossings - 1` things cross; the next one, and everything after it, does not. None: everything crosses."""

    def __init__(self, crossings: int | None, died: Callable[[], None]) -> None:
        self._left = crossings
        self._died = died
        self.crossed: list[str] = []
        self.alive = True

    def cross(self, what: str) -> bool:
        if not self.alive:
            return False
        self.crossed.append(what)
        if self._left is not None and len(self.crossed) >= self._left:
            self.burn()
        return self.alive

    def disarm(self) -> None:
        """It will not burn any more."""
        self._left = None

    def burn(self) -> None:
        if self.alive:
            self.alive = False
            self._died()


class MortalBroker:
    """`ports.Broker`, in front of an embedded one."""

    def __init__(self, client: Any, fuse: Fuse) -> None:
        self.user = client.user
        self._client = client
        self._fuse = fuse

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    @property
    def state(self) -> BrokerState:
        return self._client.state if self._fuse.alive else BrokerState(False, False, "dead")

    def on_state(self, callback: Callable[[BrokerState], None]) -> None:
        self._client.on_state(lambda state: callback(state) if self._fuse.alive else None)

    def send(self, publication: Publication) -> bool:
        return self._fuse.cross(f"send {publication.kind}") and self._client.send(publication)

    def publish(self, publication: Publication, done: Callable[[Published], None]) -> None:
        if self._fuse.cross(f"publish {publication.kind}"):
            self._client.publish(publication, partial(self._on_fate, publication.kind, done))

    def _on_fate(self, kind: str, done: Callable[[Published], None], fate: Published) -> None:
        if self._fuse.cross(f"told of {kind}: {fate.value}"):
            done(fate)

    def subscribe(self, queue: str, prefetch: int, on_delivery: Callable[[Delivery], None], **options: Any) -> Any:
        def take(delivery: Delivery) -> None:
            if self._fuse.cross(f"delivery of {queue}"):
                on_delivery(MortalDelivery(delivery, self._fuse))

        return self._client.subscribe(queue, prefetch, take, **options)

    def open_replies(self, service: str, instance: str, handler: ReplyHandler) -> None:
        self._client.open_replies(service, instance, MortalHandler(handler, self._fuse))


class MortalHandler:
    def __init__(self, handler: ReplyHandler, fuse: Fuse) -> None:
        self._handler = handler
        self._fuse = fuse

    def __getattr__(self, name: str) -> Any:
        told = getattr(self._handler, name)
        return lambda *args: told(*args) if self._fuse.cross(name) else None


class MortalDelivery:
    def __init__(self, delivery: Delivery, fuse: Fuse) -> None:
        self._delivery = delivery
        self._fuse = fuse

    def __getattr__(self, name: str) -> Any:
        return getattr(self._delivery, name)

    def ack(self) -> None:
        if self._fuse.cross("ack"):
            self._delivery.ack()

    def requeue(self) -> None:
        if self._fuse.cross("requeue"):
            self._delivery.requeue()


class MortalStore:
    """`ports.Store`. The dead wait for ever."""

    def __init__(self, store: Any, fuse: Fuse) -> None:
        self._store = store
        self._fuse = fuse

    def __getattr__(self, name: str) -> Any:
        return partial(self._ask, name)

    async def _ask(self, name: str, *args: Any) -> Any:
        if not self._fuse.cross(f"store {name}"):
            await asyncio.Event().wait()
        answer = await getattr(self._store, name)(*args)
        if not self._fuse.cross(f"store did {name}"):
            await asyncio.Event().wait()
        return answer


class MortalClient:
    """`ports.HttpClient`. `app` is what is behind it, and it lives on: it gets a request and a way to answer."""

    def __init__(self, app: Callable[[HttpRequest, Callable[[HttpResponse | Failed], None]], None], fuse: Fuse) -> None:
        self._app = app
        self._fuse = fuse

    def request(
        self, request: HttpRequest, timeout: float, done: Callable[[HttpResponse | Failed], None]
    ) -> Callable[[], None]:
        if self._fuse.cross("ask the app"):
            self._app(request, lambda outcome: done(outcome) if self._fuse.cross("the app's answer") else None)
        return lambda: None

    async def close(self) -> None: ...


class MortalSpool:
    """`ports.Spool`."""

    def __init__(self, spool: Any, fuse: Fuse) -> None:
        self._spool = spool
        self._fuse = fuse

    def __getattr__(self, name: str) -> Any:
        return getattr(self._spool, name)

    def append(self, publication: Publication, done: Callable[[Spooled], None]) -> None:
        if self._fuse.cross("append"):
            self._spool.append(publication, lambda fate: done(fate) if self._fuse.cross("told of append") else None)

    def take(self) -> SpoolRecord | None:
        return self._spool.take() if self._fuse.alive else None

    def remove(self, record: SpoolRecord) -> None:
        if self._fuse.cross("remove"):
            self._spool.remove(record)
