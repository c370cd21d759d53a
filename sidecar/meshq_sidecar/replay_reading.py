"""One reading of an event's log, from one start on and over one connection: what comes is published to the subscription's queue, and
what is confirmed there can be acknowledged, which lets the log send more."""

import asyncio
from collections import deque
from functools import partial
from typing import NamedTuple

from meshq.core import topology
from meshq.core.message import CONTENT_TYPE, DecodeError, Request, decode, encode_request, is_id
from meshq.core.subscriptions import Start, Subscription
from meshq.ports import Broker, Clock, Delivery, Publication, Published
from meshq_sidecar.foreign import as_request

WINDOW = 200
"""Messages read from the log and not confirmed in the queue yet."""
AGAIN, FULL_AGAIN = 1.0, 0.05
"""Seconds without publishing after a message that the broker did not take; the second where only the window of unconfirmed
messages was full."""


class Replay(NamedTuple):
    """What is copied where."""

    log: str
    queue: str
    event_topic: str
    start: Start

    @property
    def name(self) -> str:
        """Of its lease and its offset: a subscription that is changed to another event or start begins there."""
        return f"replay:{self.queue}:{self.event_topic}:{self.start}"


def replay_of(subscription: Subscription, topic: str) -> Replay:
    """`topic` is the subscribing service's."""
    event_topic = subscription.events.event.topic
    queue = topology.subscription_queue(topic, subscription.name)
    return Replay(topology.log_queue(event_topic), queue, event_topic, subscription.start)


class _Copied:
    """One message of the log on its way into the queue."""

    __slots__ = ("confirmed", "delivery", "offset", "publication")

    def __init__(self, delivery: Delivery, offset: int, publication: Publication) -> None:
        self.delivery = delivery
        self.offset = offset
        self.publication = publication
        self.confirmed = False


class Reading:
    """The log from one start on, over one connection. `changed` is set when there is something new to see."""

    def __init__(self, broker: Broker, clock: Clock, replay: Replay, start: Start, changed: asyncio.Event) -> None:
        self._broker = broker
        self._clock = clock
        self._replay = replay
        self._changed = changed
        self._key = topology.delay_key(0, replay.queue)
        self._open: deque[_Copied] = deque()
        """In the order of the log."""
        self._unsent: deque[_Copied] = deque()
        self._under_way = 0
        self._room = WINDOW
        """How many may be under way. A broker that is slow to confirm would get all of them again, and be slower still: so fewer
        after each that failed, one more after each that did not."""
        self._pauses = False
        self._sending = False
        self.ended = False
        self._subscription = broker.subscribe(replay.log, WINDOW, self._on_delivery, offset=start)

    @property
    def confirmed(self) -> int | None:
        """The number of the last message up to which all are in the queue; None where the first is not."""
        last = None
        for copied in self._open:
            if not copied.confirmed:
                break
            last = copied.offset
        return last

    def acknowledge(self, last: int) -> None:
        """Up to and with this one: the log sends as many more."""
        while self._open and self._open[0].offset <= last:
            self._open.popleft().delivery.ack()

    def end(self) -> None:
        if not self.ended:
            self.ended = True
            self._subscription.cancel()
            self._changed.set()

    def _on_delivery(self, delivery: Delivery) -> None:
        properties = delivery.properties()
        offset = int(properties["headers"]["x-stream-offset"])
        ident = delivery.message_id if is_id(delivery.message_id) else f"log-{offset}"
        body = _own(delivery, ident, self._replay.event_topic, self._clock.mesh_ms())
        priority = properties.get("priority")
        copied = _Copied(
            delivery, offset, Publication(topology.DELAY, self._key, body, ident, "event", priority=priority)
        )
        self._open.append(copied)
        self._unsent.append(copied)
        self._send()

    def _send(self) -> None:
        """What there is room for. A fate may come before `publish` returns, so this does not nest."""
        if self._sending:
            return
        self._sending = True
        try:
            while self._unsent and self._under_way < self._room and not (self._pauses or self.ended):
                copied = self._unsent.popleft()
                self._under_way += 1
                self._broker.publish(copied.publication, partial(self._on_fate, copied))
        finally:
            self._sending = False

    def _on_fate(self, copied: _Copied, fate: Published) -> None:
        self._under_way -= 1
        if fate is Published.CONFIRMED:
            copied.confirmed = True
            self._room = min(WINDOW, self._room + 1)
            if copied is self._open[0]:
                self._changed.set()
            self._send()
            return
        self._unsent.append(copied)
        self._room = max(1, self._room // 2)
        if not self._pauses:
            self._pauses = True
            asyncio.get_running_loop().call_later(FULL_AGAIN if fate is Published.FULL else AGAIN, self._go_on)

    def _go_on(self) -> None:
        self._pauses = False
        self._send()


def _own(delivery: Delivery, ident: str, event_topic: str, now_ms: int) -> bytes:
    """What is published for it: the same, with what the broker proved of who sent it, because that is us from now on. What cannot
    be read goes on as it is and is found out by whoever takes it from the queue."""
    if delivery.content_type != CONTENT_TYPE:
        request = as_request(delivery)._replace(id=ident, accepted_ms=now_ms, event=event_topic)
        return encode_request(request)
    try:
        messages = decode(delivery.body)
    except DecodeError:
        return delivery.body
    if len(messages) != 1 or not isinstance(messages[0], Request):
        return delivery.body
    request = messages[0]
    proved = delivery.user_id if delivery.user_id == request.caller else ""
    return encode_request(request._replace(proved_caller=proved))
