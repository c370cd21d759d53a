"""Publishing on one connection: waited calls and replies without confirms on one channel, durable messages with them on
another, both mandatory where somebody wants to know.

A channel of RabbitMQ before 4.2 can go dumb for one queue: if what it sends first there meets an election, the message is lost
between channel and queue, and all that follow wait for it there for ever, while everything else looks well (rabbitmq-server
pull request 14589). And a queue without a leader refuses a channel's first message, of which only a confirmed channel hears.
Elections come with the loss of a node, and so do our reconnections. So on a new connection calls take the confirmed channel
for a while; those that are refused are sent again, and a channel whose confirms do not come is given up for a new one.
"""

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from functools import lru_cache, partial
from typing import NamedTuple

from meshq.adapters import amqp_frames as frames
from meshq.adapters.amqp_channel import Channel, ChannelLost
from meshq.adapters.amqp_connection import FastConnection
from meshq.adapters.amqp_patience import Patience
from meshq.core.message import CONTENT_TYPE
from meshq.ports import Clock, Publication, Published

logger = logging.getLogger(__name__)

WINDOW_MESSAGES = 1000
WINDOW_BYTES = 64 * 2**20
"""Unconfirmed durable messages at once; a window of 1,000 doubles what 32 reach, more gained nothing (measured)."""

_CONTENT_TYPE = frames.short(CONTENT_TYPE)
_PERSISTENT, _TRANSIENT = b"\x02", b"\x01"
_ALWAYS = (
    frames.FLAG_CONTENT_TYPE
    | frames.FLAG_DELIVERY_MODE
    | frames.FLAG_MESSAGE_ID
    | frames.FLAG_TIMESTAMP
    | frames.FLAG_TYPE
    | frames.FLAG_USER_ID
    | frames.FLAG_APP_ID
)


class _Shape(NamedTuple):
    """What repeats from message to message of one kind to one place."""

    method: bytes
    flags: int
    before: bytes
    """The properties before the correlation id."""
    reply_to: bytes
    after: bytes
    """Those after the timestamp."""


@lru_cache(maxsize=4096)
def _shape(
    channel: int,
    exchange: str,
    key: str,
    kind: str,
    reply_to: str,
    priority: int | None,
    mandatory: bool,
    user: str,
    app: str,
) -> _Shape:
    reply = kind == "reply"
    flags = _ALWAYS | (frames.FLAG_CORRELATION_ID if reply else 0) | (frames.FLAG_REPLY_TO if reply_to else 0)
    before = _CONTENT_TYPE + (_TRANSIENT if reply else _PERSISTENT)
    if priority is not None:
        flags |= frames.FLAG_PRIORITY
        before += bytes((priority,))
    return _Shape(
        frames.publish_method(channel, exchange, key, mandatory),
        flags,
        before,
        frames.short(reply_to) if reply_to else b"",
        frames.short(kind) + frames.short(user) + frames.short(app),
    )


def encode(
    publication: Publication, channel: int, mandatory: bool, user: str, app: str, seconds: int, frame_max: int
) -> bytes:
    """All frames of one message. A reply carries the id of its request as correlation id. Raises ValueError for a property
    longer than AMQP allows."""
    exchange, key, body, message_id, kind, reply_to, expiration_ms, priority = publication
    method, flags, before, reply, after = _shape(channel, exchange, key, kind, reply_to, priority, mandatory, user, app)
    ident = frames.short(message_id)
    expiration = b""
    if expiration_ms is not None:
        flags |= frames.FLAG_EXPIRATION
        expiration = frames.short(str(expiration_ms))
    correlation = ident if kind == "reply" else b""
    properties = b"%b%b%b%b%b%b%b" % (before, correlation, reply, expiration, ident, seconds.to_bytes(8, "big"), after)
    return method + frames.content(channel, flags, properties, body, frame_max)


SETTLING = 10.0
"""Seconds on a new connection in which calls are confirmed: longer than an election takes."""
LOOK_EVERY = 1.0
SEND_AGAIN_AFTER = 0.1
"""Seconds before a call that the broker refused is sent again: the queue may have a leader then."""
UNCONFIRMED = 1
"""The code of a ChannelLost that is ours: of AMQP's own, none is below 200."""


class _Unconfirmed(NamedTuple):
    ident: str
    size: int
    done: Callable[[Published], None]
    since: float


class Publisher:
    """`session` gives it a connection; without one everything is refused at once."""

    def __init__(self, user: str, app: str, clock: Clock, on_unroutable: Callable[[str], None]) -> None:
        self._user = user
        self._app = app
        self._clock = clock
        self._on_unroutable = on_unroutable
        self._connection: FastConnection | None = None
        self._plain = 0
        self._confirmed = 0
        self._blocked = False
        self._let_go_at = 0.0
        """When the broker stopped blocking us: what it had not read before that, it could not confirm."""
        self._tag = 0
        self._low = 1
        self._window: dict[int, _Unconfirmed] = {}
        self._settled_at = 0.0
        self._window_bytes = 0
        self._patience = Patience()
        self._returned: set[str] = set()
        self._empty = asyncio.Event()
        """The window is empty."""
        self._empty.set()

    async def settled(self, timeout: float) -> None:
        """Wait until everything published is confirmed or refused, at most `timeout` seconds. A channel that closes may take
        with it what its queue had not accepted yet."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                await self._empty.wait()

    async def session(self, connection: FastConnection, ready: Callable[[], None]) -> None:
        """Open the channels, take over, and run until the connection or a channel ends. Raises ChannelLost."""
        plain, confirmed = await Channel.open(connection), await Channel.open(connection)
        await confirmed.call(confirmed.inner.confirm_delivery, ack_nack_callback=lambda _: None)
        connection.on_return[plain.number] = lambda _, header: self._on_unroutable(_message_id(header))
        connection.on_return[confirmed.number] = lambda _, header: self._returned.add(_message_id(header))
        connection.on_confirm[confirmed.number] = self._on_confirm
        self._plain, self._confirmed, self._tag, self._low = plain.number, confirmed.number, 0, 1
        self._connection = connection
        self._settled_at = self._clock.monotonic() + SETTLING
        try:
            ready()
            while not (plain.lost.done() or confirmed.lost.done()):
                self._check_confirms()
                await asyncio.wait(
                    (plain.lost, confirmed.lost), timeout=LOOK_EVERY, return_when=asyncio.FIRST_COMPLETED
                )
            raise (plain if plain.lost.done() else confirmed).lost.result()
        finally:
            self._detach()
            plain.close()
            confirmed.close()

    @property
    def blocked(self) -> bool:
        """The broker reads nothing from here: it is short of memory or disk."""
        return self._blocked

    @blocked.setter
    def blocked(self, blocked: bool) -> None:
        self._blocked = blocked
        self._let_go_at = self._clock.monotonic()

    @property
    def able(self) -> bool:
        connection = self._connection
        return connection is not None and not self._blocked and connection.is_open and connection.writable

    def send(self, publication: Publication) -> bool:
        if not self.able:
            return False
        reply = publication.kind == "reply"
        if reply or self._clock.monotonic() >= self._settled_at or self._full(publication):
            self._write(publication, self._plain, mandatory=not reply)
        else:
            self._write_confirmed(publication, partial(self._on_call, publication, self._clock.monotonic()))
        return True

    def publish(self, publication: Publication, done: Callable[[Published], None]) -> None:
        if not self.able:
            done(Published.AWAY)
            return
        if self._full(publication):
            done(Published.FULL)
            return
        self._write_confirmed(publication, done)

    def _full(self, publication: Publication) -> bool:
        return len(self._window) >= WINDOW_MESSAGES or self._window_bytes + len(publication.body) > WINDOW_BYTES

    def _write_confirmed(self, publication: Publication, done: Callable[[Published], None]) -> None:
        self._write(publication, self._confirmed, mandatory=True)
        self._tag += 1
        size = len(publication.body)
        self._window[self._tag] = _Unconfirmed(publication.message_id, size, done, self._clock.monotonic())
        self._window_bytes += size
        self._empty.clear()

    def _on_call(self, publication: Publication, sent: float, fate: Published) -> None:
        if fate is Published.UNROUTABLE:
            self._on_unroutable(publication.message_id)
        elif fate is Published.REFUSED:  # no queue has it, so that it is not done twice by this
            asyncio.get_running_loop().call_later(SEND_AGAIN_AFTER, self._send_again, publication, sent)

    def _send_again(self, publication: Publication, sent: float) -> None:
        if publication.expiration_ms is not None:
            left_ms = publication.expiration_ms - int((self._clock.monotonic() - sent) * 1000)
            if left_ms <= 0:
                return
            publication = publication._replace(expiration_ms=left_ms)
        self.send(publication)

    def _check_confirms(self) -> None:
        """Raises ChannelLost for a channel that has gone dumb."""
        self._patience.look()
        oldest = next(iter(self._window.values()), None)
        if oldest is None or self._blocked:
            return
        patience = self._patience.seconds
        if self._clock.monotonic() - max(oldest.since, self._let_go_at) > patience:
            self._patience.gave_up()
            raise ChannelLost(UNCONFIRMED, f"the broker did not confirm a message within {patience:.1f} s")

    def _write(self, publication: Publication, channel: int, mandatory: bool) -> None:
        connection = self._connection
        assert connection is not None
        seconds = self._clock.mesh_ms() // 1000
        frame_max = connection.params.frame_max
        connection.write(encode(publication, channel, mandatory, self._user, self._app, seconds, frame_max))

    def _on_confirm(self, tag: int, multiple: bool, positive: bool) -> None:
        longest = self._window.get(self._low if multiple else tag)
        if longest is not None:
            self._patience.confirmed(self._clock.monotonic() - max(longest.since, self._let_go_at))
        if not multiple:
            self._settle(tag, positive)
            return
        for each in range(self._low, tag + 1):
            self._settle(each, positive)
        self._low = tag + 1

    def _settle(self, tag: int, positive: bool) -> None:
        entry = self._window.pop(tag, None)
        if entry is None:
            return
        ident, size, done, _ = entry
        self._window_bytes -= size
        if not self._window:
            self._empty.set()
        # A message that no queue took comes back first and is then acknowledged like any other.
        returned = ident in self._returned
        self._returned.discard(ident)
        _tell(done, Published.REFUSED if not positive else Published.UNROUTABLE if returned else Published.CONFIRMED)

    def _detach(self) -> None:
        self._connection = None
        window, self._window, self._window_bytes = self._window, {}, 0
        self._empty.set()
        self._returned.clear()
        for entry in window.values():
            _tell(entry.done, Published.UNKNOWN)


def _tell(done: Callable[[Published], None], fate: Published) -> None:
    try:
        done(fate)
    except Exception:
        logger.exception("a confirm's callback failed")


def _message_id(header: bytes) -> str:
    _, properties = frames.read_header(header)
    return properties.message_id if properties is not None else ""
