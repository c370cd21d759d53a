"""One client's connection to the embedded broker: what it wants, kept as desired state, and what there is of it now."""

import asyncio
import logging
import secrets
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

from meshq.adapters.embedded_delivery import Holder
from meshq.adapters.embedded_offset import read_offset
from meshq.core.desired import Desired
from meshq.core.topology import Topology, replies, reply_key
from meshq.ports import (
    BrokerAway,
    BrokerState,
    Delivery,
    Held,
    Priorities,
    Publication,
    Published,
    QueueStats,
    ReplyHandler,
)

if TYPE_CHECKING:
    from meshq.adapters.embedded_broker import EmbeddedHub

log = logging.getLogger(__name__)

NO_LIMIT = 2**31
"""Replies are settled as they are handed out, so they need no prefetch."""


class EmbeddedBroker:
    """`ports.Broker`: one client of a hub."""

    def __init__(self, hub: "EmbeddedHub", user: str) -> None:
        self.user = user
        # Process: what is wanted, on every connection.
        self._hub = hub
        self._desired = Desired(Topology())
        self._subscriptions: list[EmbeddedSubscription] = []
        self._replies: tuple[str, str, ReplyHandler] | None = None
        self._callbacks: list[Callable[[BrokerState], None]] = []
        self._opened = False
        # Connection:
        self._connected = False
        self._reason = "not opened yet"
        self._faults: dict[str, str] = {}
        self._reply_to = ""
        self._reply_holder: Holder | None = None
        self._held: set[Holder] = set()
        self._said = self.state

    # --- the connection ---------------------------------------------------------------------------------------------------

    async def open(self) -> None:
        """Connect; also again, after `drop` and `close`."""
        if self._connected:
            return
        self._hub.attach(self)
        self._connected, self._opened, self._reason = True, True, ""
        self._faults = self._hub.declare(self._desired.all, self)
        for subscription in self._subscriptions:
            self._hub.consume(subscription.queue, subscription.holder, self)
        self._consume_replies()
        self.state_changed()

    async def close(self) -> None:
        if self._connected:
            await self._hub.flush()
        self.drop("closed")

    def drop(self, reason: str) -> None:
        """Break the connection, as a network would; `open` makes the next one. For tests and drills."""
        if not self._connected:
            return
        self._connected, self._reason = False, reason
        self._faults = {}
        for subscription in list(self._subscriptions):
            self._hub.stop_consuming(subscription.holder)
            subscription.holder.lose()
            if subscription.cancelled:
                self._subscriptions.remove(subscription)
        held, self._held = self._held, set()
        for holder in held:
            holder.lose()
        replies_lost = self._reply_holder is not None
        if self._reply_holder is not None:
            self._hub.stop_consuming(self._reply_holder)
        self._reply_to, self._reply_holder = "", None
        self._hub.detach(self)
        if self._replies is not None:
            handler = self._replies[2]
            _guarded(handler.on_sends_lost)
            if replies_lost:
                _guarded(handler.on_replies_lost)
        self.state_changed()

    @property
    def state(self) -> BrokerState:
        fault = "; ".join(filter(None, [self._reason, self._hub.fault, *self._faults.values()]))
        return BrokerState(self._connected, self._connected, fault)

    def on_state(self, callback: Callable[[BrokerState], None]) -> None:
        self._callbacks.append(callback)

    def state_changed(self) -> None:
        """Tell, if it is another one than was told last."""
        state = self.state
        if state != self._said:
            self._said = state
            for callback in self._callbacks:
                _guarded(callback, state)

    # --- topology ---------------------------------------------------------------------------------------------------------

    async def declare(self, topology: Topology) -> None:
        self._desired.add(topology)
        if self._connected:
            self._assert()

    async def withdraw(self, unwanted: Topology) -> None:
        """A thing that another declaration wants too stays."""
        gone = self._desired.remove(unwanted)
        if self._connected:
            self._hub.withdraw(gone, self)
            self._assert()

    def _assert(self) -> None:
        self._faults = self._hub.declare(self._desired.all, self)
        self.state_changed()

    async def stats(self, queues: Sequence[str]) -> list[QueueStats]:
        return self._hub.stats(queues) if self._connected else []

    # --- messages ---------------------------------------------------------------------------------------------------------

    def send(self, publication: Publication) -> bool:
        if not self._connected:
            return False
        sent = self._hub.send(publication, self.user)
        if sent is None:  # no queue takes it
            if self._replies is not None and publication.kind != "reply":  # nobody waits for what becomes of a reply
                # Not from in here: the caller has not noted yet that it waits for this one.
                handler = self._replies[2]
                asyncio.get_running_loop().call_soon(_guarded, handler.on_unroutable, publication.message_id)
            return True
        return sent

    def publish(self, publication: Publication, done: Callable[[Published], None]) -> None:
        if self._connected:
            self._hub.publish(publication, self.user, partial(_guarded, done))
        else:
            _guarded(done, Published.AWAY)

    def subscribe(
        self, queue: str, prefetch: int, on_delivery: Callable[[Delivery], None], *, offset: int | str | None = None
    ) -> "EmbeddedSubscription":
        if prefetch < 1:
            raise ValueError(f"prefetch {prefetch}: a consumer that may hold nothing gets nothing")
        subscription = EmbeddedSubscription(self, queue, Holder(prefetch, on_delivery, read_offset(offset)))
        self._subscriptions = [s for s in self._subscriptions if not s.over]
        self._subscriptions.append(subscription)
        if self._connected:
            self._hub.consume(queue, subscription.holder, self)
        return subscription

    def cancel(self, subscription: "EmbeddedSubscription") -> None:
        if self._connected:
            self._hub.stop_consuming(subscription.holder)
        elif subscription in self._subscriptions:
            self._subscriptions.remove(subscription)

    async def hold(self, queue: str, most: int) -> Held:
        if not self._connected:
            raise BrokerAway(f"messages of {queue!r} cannot be looked at: {self._reason}")
        deliveries: list[Delivery] = []
        holder = Holder(most, deliveries.append)
        behind = self._hub.hold(queue, holder, most, self)
        self._held.add(holder)

        async def release() -> None:
            self._held.discard(holder)
            holder.lose()

        return Held(deliveries, behind, release)

    @property
    def priorities(self) -> Priorities | None:
        return Priorities.STRICT if self._opened else None

    # --- replies ----------------------------------------------------------------------------------------------------------

    def open_replies(self, service: str, instance: str, handler: ReplyHandler) -> None:
        self._replies = (service, instance, handler)
        if self._connected:
            self._consume_replies()

    @property
    def reply_to(self) -> str:
        return self._reply_to

    def _consume_replies(self) -> None:
        if self._replies is None:
            return
        service, instance, handler = self._replies
        epoch = secrets.token_hex(4)
        wanted = replies(service, instance, epoch)
        self._hub.declare(wanted, self)
        self._reply_holder = Holder(NO_LIMIT, partial(_reply, handler))
        self._hub.consume(wanted.queues[0].name, self._reply_holder, self)
        self._reply_to = reply_key(service, instance, epoch)


class EmbeddedSubscription:
    """`ports.Subscription`."""

    def __init__(self, client: EmbeddedBroker, queue: str, holder: Holder) -> None:
        self.queue = queue
        self.holder = holder
        self.cancelled = False
        self._client = client

    def cancel(self) -> None:
        if not self.cancelled:
            self.cancelled = True
            self._client.cancel(self)

    @property
    def over(self) -> bool:
        """Cancelled, and nothing of it is left to settle."""
        return self.cancelled and not self.holder.unsettled


def _reply(handler: ReplyHandler, delivery: Delivery) -> None:
    delivery.ack()
    handler.on_reply(delivery.message_id, delivery)


def _guarded(function: Callable[..., None], *args: object) -> None:
    try:
        function(*args)
    except Exception:
        log.exception("a callback of the embedded broker raised")
