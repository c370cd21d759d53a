"""A durable message on the receiving side, and the queue that it came from, as they are now."""

from collections.abc import Callable
from typing import NamedTuple

from meshq.core.message import Request
from meshq.core.ordering import Lanes
from meshq.core.selectors import Selector
from meshq.ports import Delivery, Subscription
from meshq_sidecar.identity import Sender
from meshq_sidecar.once import Token


class Source(NamedTuple):
    """One queue of durable messages."""

    queue: str
    topic: str
    """The service's: where dead letters go."""
    path: bytes | None = None
    """Where at the app; None: each message says it."""
    accepts: Callable[[Request], bool] | None = None
    """A subscription's filter; what it does not take is acknowledged."""
    ordered: bool = False
    """In order per key."""
    name: str = ""
    """The subscription's."""
    results: bool = False
    """Results of this service's own requests: taken also while the app is not ready."""

    @property
    def calls(self) -> bool:
        """What lies there is asked of this service by others, so that its policy says who may."""
        return self.path is None and not self.results


class Consumer:
    """What there is of a source now."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.subscription: Subscription | None = None
        self.lanes: Lanes[Job] | None = Lanes() if source.ordered else None
        self.unstarted: dict[Job, None] = {}
        """In the order in which they came."""
        self.begun = 0
        """Jobs at the app or on their way out of the queue."""
        self.stopping = False
        """Ordered, and to be given up as soon as nothing of it has begun: until then nobody else may go on with its keys, and
        nothing more begins here."""


class Job:
    """One message from its delivery until something is decided for it: `unstarted` until it goes to the app, then the Settler's."""

    __slots__ = (
        "attempt",
        "begun",
        "consumer",
        "delivery",
        "dropped",
        "lanes",
        "received",
        "request",
        "selector",
        "sender",
        "token",
    )

    def __init__(
        self,
        consumer: Consumer,
        delivery: Delivery,
        request: Request,
        selector: Selector | None,
        sender: Sender,
        received: float,
    ) -> None:
        self.consumer = consumer
        self.lanes = consumer.lanes
        self.delivery = delivery
        self.request = request
        self.attempt = request.attempt
        """As the message in the queue says: an ordered one that is tried again here is beyond it."""
        self.selector = selector
        self.sender = sender
        self.received = received
        self.token: Token | None = None
        """Its claim on its idempotency key."""
        self.begun = False
        """It is at the app or on its way out of its queue."""
        self.dropped = False
        """Given back, or the broker's again."""

    def leave(self) -> None:
        """It is no longer among what can be given back."""
        self.consumer.unstarted.pop(self, None)

    def begin(self) -> None:
        if not self.begun:
            self.begun = True
            self.consumer.begun += 1

    def end(self) -> None:
        """It is not begun, or not any more."""
        if self.begun:
            self.begun = False
            self.consumer.begun -= 1

    def came_as(self, delivery: Delivery, request: Request) -> bool:
        """Whether this is the message that now was delivered again, because the connection that it came over was lost."""
        return (
            self.request.id == request.id
            and self.attempt == request.attempt
            and self.delivery.queue == delivery.queue
            and not self.delivery.live
        )
