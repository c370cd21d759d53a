"""One message of the embedded broker: as it lies in a queue, as a consumer has it."""

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from meshq.adapters.embedded_dead import Deaths
from meshq.core.message import CONTENT_TYPE
from meshq.ports import Delivery, Publication

if TYPE_CHECKING:
    from meshq.adapters.embedded_offset import Offset
    from meshq.adapters.embedded_place import Place

log = logging.getLogger(__name__)

OVERHEAD = 512
"""Bytes that a message without a body takes, about."""


class DiskBody:
    """A body in the store, once for all the messages that have it."""

    __slots__ = ("kept", "number", "references", "size")

    def __init__(self, number: int, size: int, kept: bool) -> None:
        """`kept`: it is in memory too, in the publications of those messages. Where it is not, theirs is empty."""
        self.number = number
        self.size = size
        self.kept = kept
        self.references = 0
        """How many messages have it."""


class Entry:
    """One message in one queue, from when it was taken in until it is acknowledged, moved or dropped. Or one record of a
    log: on its way in, or handed to one reader."""

    __slots__ = (
        "arrived",
        "deaths",
        "deliveries",
        "expires",
        "on_disk",
        "place",
        "publication",
        "seq",
        "size",
        "user",
    )

    def __init__(
        self,
        seq: int,
        place: "Place",
        publication: Publication,
        user: str,
        arrived: float,
        on_disk: DiskBody | None = None,
        deaths: Deaths = (),
    ) -> None:
        """`arrived` is by the monotonic clock. `seq` grows in the order of arrival; in a log it is the record's number."""
        self.seq = seq
        self.place = place
        self.publication = publication
        self.user = user
        self.arrived = arrived
        wait_ms, ttl_ms = publication.expiration_ms, place.ttl_ms
        if ttl_ms is not None and (wait_ms is None or ttl_ms < wait_ms):
            wait_ms = ttl_ms
        self.expires = None if wait_ms is None else arrived + wait_ms / 1000
        self.deliveries = 0
        """How often it was delivered and came back."""
        self.deaths = deaths
        self.on_disk = on_disk
        """None: it need not outlive the process."""
        self.size = OVERHEAD + (len(publication.body) if on_disk is None else on_disk.size)


class EmbeddedDelivery:
    """`ports.Delivery`. It belongs to its holder until it is settled or the holder loses it."""

    __slots__ = ("body", "deliveries", "entry", "holder")

    def __init__(self, entry: Entry, holder: "Holder", body: bytes) -> None:
        self.entry = entry
        self.body = body
        self.deliveries = entry.deliveries
        self.holder: Holder | None = holder

    @property
    def message_id(self) -> str:
        return self.entry.publication.message_id

    @property
    def content_type(self) -> str:
        return CONTENT_TYPE

    @property
    def reply_to(self) -> str:
        return self.entry.publication.reply_to

    @property
    def user_id(self) -> str:
        return self.entry.user

    @property
    def redelivered(self) -> bool:
        return self.deliveries > 0

    @property
    def queue(self) -> str:
        return self.entry.place.spec.name

    @property
    def live(self) -> bool:
        return self.holder is not None

    def properties(self) -> dict[str, Any]:
        publication = self.entry.publication
        found = {
            "message_id": publication.message_id,
            "type": publication.kind,
            "content_type": CONTENT_TYPE,
            "reply_to": publication.reply_to,
            "user_id": self.entry.user,
            "expiration": None if publication.expiration_ms is None else str(publication.expiration_ms),
            "priority": publication.priority,
            "headers": self.entry.place.headers(self) or None,
        }
        return {name: value for name, value in found.items() if value is not None and value != ""}

    def ack(self) -> None:
        holder, self.holder = self.holder, None
        if holder is not None:
            holder.settle(self, requeue=False)

    def requeue(self) -> None:
        holder, self.holder = self.holder, None
        if holder is not None:
            holder.settle(self, requeue=True)


class Holder:
    """A consumer: what it was given and has not settled, at most `prefetch` at once."""

    __slots__ = ("_on_delivery", "_prefetch", "_returned", "leaving", "offset", "place", "unsettled")

    def __init__(self, prefetch: int, on_delivery: Callable[[Delivery], None], offset: "Offset" = "next") -> None:
        self._prefetch = prefetch
        self._on_delivery = on_delivery
        self.offset = offset
        """Where it begins to read, if it is a log that it consumes."""
        self.place: Place | None = None
        """Where it consumes; None before the queue is there, and after the consumer is gone."""
        self.leaving: Place | None = None
        """It is no consumer any more but for the place's sake: nobody else gets messages there before it has none left."""
        self.unsettled: dict[int, EmbeddedDelivery] = {}
        self._returned: list[Entry] = []
        """Requeued since it is leaving. They go back all at once, so that none comes to stand behind another."""

    @property
    def room(self) -> int:
        """How many more it may be given."""
        return self._prefetch - len(self.unsettled) if self.leaving is None else 0

    def take(self, entry: Entry, body: bytes) -> None:
        delivery = EmbeddedDelivery(entry, self, body)
        self.unsettled[entry.seq] = delivery
        try:
            self._on_delivery(delivery)
        except Exception:
            # A broken consumer must not keep others from their messages. What it did with this one is unknown.
            log.exception("a consumer of %s raised; the message stays unsettled", entry.place.spec.name)

    def settle(self, delivery: EmbeddedDelivery, *, requeue: bool) -> None:
        entry = delivery.entry
        del self.unsettled[entry.seq]
        if not requeue:
            entry.place.done(entry)
        elif self.leaving is None:
            entry.place.put_back(entry)
        else:
            self._returned.append(entry)
        if not self.unsettled:
            self._leave()

    def lose(self) -> None:
        """Everything unsettled goes back; what still holds a delivery can no longer settle it."""
        lost, self.unsettled = self.unsettled, {}
        for delivery in lost.values():
            delivery.holder = None
            delivery.entry.place.put_back(delivery.entry)
        self._leave()

    def _leave(self) -> None:
        if self.leaving is not None:
            place, self.leaving = self.leaving, None
            for entry in self._returned:
                place.put_back(entry)
            place.left(self)
