"""The seams between the programs and the outside: each has an adapter that acts and a twin inside this process, and one
contract suite (tests/contract/) runs over both.

Two rules hold for every method here. What is called on the path of a message (`send`, `publish`, `request`, `ack`) returns
at once and reports through a callback, never through an awaitable: no task is made for a message. And no callback may
raise: an exception that escapes into a broker's or parser's callback can close a connection that others use.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from enum import Enum
from typing import Any, NamedTuple, Protocol

from meshq.core.http import Failed, HttpRequest, HttpResponse
from meshq.core.instances import Instance, Load, Renewal, Snapshot, State
from meshq.core.policy import Policy
from meshq.core.reports import Report, Reported
from meshq.core.topology import Topology

# --- the broker ----------------------------------------------------------------------------------------------------------


class Publication(NamedTuple):
    """One message to publish. `body` is an encoded meshq.core.message."""

    exchange: str
    key: str
    body: bytes
    message_id: str
    """Of a reply: the id of what it answers."""
    kind: str
    """`call`, `reply`, ...: the AMQP `type`, for whoever looks at the queue."""
    reply_to: str = ""
    expiration_ms: int | None = None
    """How long the message may wait in its queue. None: for ever."""
    priority: int | None = None


class Published(Enum):
    """What became of a confirmed publication."""

    CONFIRMED = "confirmed"
    UNROUTABLE = "unroutable"  # no queue took it
    REFUSED = "refused"  # the broker said no: a limit, a missing right
    UNKNOWN = "unknown"  # the connection went before the confirm came: it may or may not be there
    AWAY = "away"  # not sent: no connection, or the broker blocks publishers
    FULL = "full"  # not sent: the window of unconfirmed messages or bytes is full


class Delivery(Protocol):
    """One message from a queue. Settle it once, with `ack` or `requeue`; after its connection is gone both do nothing,
    because the broker has taken the message back."""

    @property
    def body(self) -> bytes: ...
    @property
    def message_id(self) -> str: ...
    @property
    def content_type(self) -> str: ...
    @property
    def reply_to(self) -> str: ...
    @property
    def user_id(self) -> str:
        """The broker's own word for who published it, "" where it gives none."""

    @property
    def redelivered(self) -> bool:
        """It was handed to a consumer before; what became of that is unknown."""

    @property
    def deliveries(self) -> int | None:
        """How often it was delivered before, by the broker's count; None where it keeps none."""

    @property
    def queue(self) -> str: ...
    @property
    def live(self) -> bool:
        """Whether it can still be settled: its connection is the one it came over."""

    def properties(self) -> dict[str, Any]:
        """Every property and header, decoded; for messages that meshq did not make."""

    def ack(self) -> None: ...
    def requeue(self) -> None: ...


class Held:
    """Messages taken off the head of a queue to be looked at: `ack` those that are to go; `release` gives back the rest, each to
    its place."""

    def __init__(self, deliveries: Sequence[Delivery], behind: int, release: Callable[[], Awaitable[None]]) -> None:
        self.deliveries = deliveries
        self.behind = behind
        """Messages in the queue behind those."""
        self._release = release

    async def release(self) -> None:
        await self._release()


class Subscription(Protocol):
    def cancel(self) -> None:
        """Stop deliveries; what was delivered can still be settled. Some that are on their way may still come. Idempotent."""


class BrokerState(NamedTuple):
    publishing: bool
    """Messages can be published now."""
    consuming: bool
    fault: str
    """Why not, and what to do about it; "" when all is well."""


class QueueStats(NamedTuple):
    """Figures of one queue. None is "not known", which is never 0."""

    queue: str
    ready: int | None = None
    in_flight: int | None = None
    consumers: int | None = None
    oldest_age_seconds: float | None = None
    in_rate: float | None = None
    """Messages a second, as is `out_rate`."""
    out_rate: float | None = None
    done: float | None = None
    """Messages that left it for good since some start. A counter: it may begin anew. RabbitMQ counts only those that a consumer
    took, not what expired or was dead-lettered by the broker."""
    single: bool | None = None
    """Only one of its consumers gets messages at a time."""


class ReplyHandler(Protocol):
    """Whoever waits for replies."""

    def on_reply(self, correlation_id: str, delivery: Delivery) -> None: ...
    def on_unroutable(self, message_id: str) -> None:
        """A message given to `send` found no queue."""

    def on_replies_lost(self) -> None:
        """The reply queue is gone with its connection: no reply to what was sent before this can arrive."""

    def on_refused(self, exchange: str, key: str, reason: str) -> None:
        """The broker refuses what is published to this exchange with this routing key, or with any where it is "", because a
        right is missing; `reason` is a sentence. Followed by `on_sends_lost`."""

    def on_sends_lost(self) -> None:
        """The connection that sends went: what was given to `send` last may not have reached the broker."""


class BrokerAway(Exception):
    """The broker cannot be asked now; the message says why and what to do."""


class Priorities(Enum):
    """What the broker makes of a message's priority."""

    STRICT = "strict"
    TWO_LEVELS = "two levels"  # high ones are preferred two to one
    IGNORED = "ignored"


class Broker(Protocol):
    """A connection to the message broker that is kept alive for ever: topology and subscriptions are desired state,
    asserted again on every new connection."""

    user: str
    """Who the broker knows us as: what `Delivery.user_id` is of the messages published here."""

    async def open(self) -> None:
        """Start connecting, in the background and for ever; returns once the first attempt succeeded or failed. A failure
        is in `state.fault`, never raised."""

    async def close(self) -> None:
        """Flush what is written, then disconnect."""

    @property
    def state(self) -> BrokerState: ...
    def on_state(self, callback: Callable[[BrokerState], None]) -> None:
        """Call back on every change of `state`."""

    async def declare(self, topology: Topology) -> None:
        """Add to the desired topology and assert it now if connected. A fault (other arguments, a missing right) shows in
        `state.fault` and is tried again on the next connection."""

    def send(self, publication: Publication) -> bool:
        """Publish without a confirm: for waited calls, where the reply confirms. False when it was not sent (no
        connection, blocked, the write window full); unroutable ones come back through the reply handler."""

    def publish(self, publication: Publication, done: Callable[[Published], None]) -> None:
        """Publish durably; `done` is called exactly once, possibly before this returns."""

    async def withdraw(self, unwanted: Topology) -> None:
        """Take out of the desired topology, and now off the broker: bindings are removed, and a queue is deleted if nothing is in
        it and nobody consumes it. What cannot be done now is left."""

    def subscribe(
        self, queue: str, prefetch: int, on_delivery: Callable[[Delivery], None], *, offset: int | str | None = None
    ) -> Subscription:
        """Consume `queue`, at most `prefetch` messages unsettled at once. `offset` is for a log only: where to begin on every
        new connection, the number of a message, "first", "next" or a time such as 2026-11-01T00:00:00Z; a delivery's own
        number is `properties()["headers"]["x-stream-offset"]`."""

    async def hold(self, queue: str, most: int) -> Held:
        """Take at most `most` messages of `queue`, in order. Nothing is held of a queue that is not there. Raises BrokerAway."""

    def open_replies(self, service: str, instance: str, handler: ReplyHandler) -> None:
        """Ask for a reply queue of our own, new with each connection; its address is `reply_to`."""

    @property
    def reply_to(self) -> str:
        """Where replies to us go now; "" while there is no such queue."""

    @property
    def priorities(self) -> Priorities | None:
        """None before the first connection."""

    async def stats(self, queues: Sequence[str]) -> list[QueueStats]:
        """What the broker itself says of these queues, in their order; those that do not exist are left out."""


# --- the spool ------------------------------------------------------------------------------------------------------------


class Spooled(Enum):
    """What became of a publication given to the spool."""

    WRITTEN = "written"  # and synced: it survives the process and the machine's power
    FULL = "full"  # MESHQ_SPOOL_LIMIT is reached
    FAILED = "failed"  # the disk cannot be written


class Spool(Protocol):
    """Publications kept on this pod's disk until the broker has them, in order."""

    def append(self, publication: Publication, done: Callable[[Spooled], None]) -> None:
        """`done` is called exactly once: with WRITTEN after the sync that made it durable, with FULL possibly before this
        returns. What is FAILED is not there, and nothing that comes later is harmed by it."""

    def take(self) -> "SpoolRecord | None":
        """The oldest that was not taken yet; None where there is none. What cannot be read any more is reported and left out."""

    def remove(self, record: "SpoolRecord") -> None:
        """It is the broker's now. Until this, it is taken again after a restart, and after `rewind`."""

    def rewind(self) -> None:
        """What was taken and not removed can be taken again, in its place."""

    @property
    def waiting(self) -> int:
        """Publications written and not removed."""

    @property
    def bytes(self) -> int:
        """What it takes of the disk."""

    @property
    def fault(self) -> str:
        """Why it cannot write, and what to do; "" when all is well. It goes on, and this goes, by itself."""

    async def close(self) -> None:
        """Sync what was appended; what is not removed stays for the next process."""


class SpoolRecord(NamedTuple):
    number: int
    """Grows in the order of `append`, through restarts."""
    publication: Publication


# --- the store ------------------------------------------------------------------------------------------------------------


class StoreAway(Exception):
    """The store did not answer in time."""


class OnceState(Enum):
    NEW = "new"  # ours to handle: `done` or `free` follows
    RUNNING = "running"  # another delivery with this key is being handled
    DONE = "done"
    NOT_KEPT = "not kept"  # done, but its answer was too large or there was no room
    REUSED = "reused"  # the key was used with another body


class Once(NamedTuple):
    """What is known of an idempotency key."""

    state: OnceState
    answer: bytes = b""
    """DONE: an encoded Response."""
    status: int = 0
    """NOT_KEPT: of that answer."""


class RequestRecord(NamedTuple):
    """What is known of a durable call."""

    result: bytes | None
    """An encoded Response or Fault; None: not there yet."""
    called: str
    """The service it was sent to."""
    expired: bool = False
    """There was a result, and its time is over."""
    status: int | None = None
    """Of a result that was not kept because it was too large or there was no room; `result` is None then."""


class Store(Protocol):
    """What instances of a service must know together, beyond messages: idempotency keys, results of durable calls, who copies a
    log. Every method but `open` and `close` may raise StoreAway."""

    async def open(self) -> None: ...
    async def close(self) -> None: ...

    async def once(self, service: str, scope: str, digest: str, owner: str, lease: float) -> Once:
        """Claim the key `scope` (of `service`, the called one) for `lease` seconds. `digest` is the body's. A claim whose lease
        ran out can be claimed again; one that `owner` holds is NEW to it again."""

    async def done(self, service: str, scope: str, owner: str, answer: bytes, status: int, window: float) -> None:
        """Keep the answer for `window` seconds, if it is not too large. Nothing happens if `owner` has lost its claim."""

    async def free(self, service: str, scope: str, owner: str) -> None:
        """It was not handled: the next may."""

    async def accepted(self, caller: str, called: str, ids: Sequence[str], keep: float) -> None:
        """These durable calls are on their way; known for `keep` seconds unless a result comes."""

    async def completed(self, caller: str, ident: str, called: str, result: bytes, status: int) -> None:
        """Keep a result for an hour, and that there was one for a day (core/keeping.py). The first result of a request stays."""

    async def request(self, caller: str, ident: str) -> RequestRecord | None:
        """None: nobody knows of it."""

    async def start(self, called: str, ids: Sequence[str]) -> list[bool]:
        """These durable calls are about to start; False for one that was cancelled."""

    async def cancel(self, called: str, ident: str) -> bool:
        """True: it had not started and never will. False: it had."""

    async def lead(self, name: str, owner: str, seconds: float) -> bool:
        """Be, or stay, the one who does `name` for so long. False: another is."""

    async def put_offset(self, name: str, offset: int) -> None: ...
    async def offset(self, name: str) -> int | None: ...


# --- the registry ---------------------------------------------------------------------------------------------------------


class RegistryAway(Exception):
    """The registry did not answer; the last picture serves."""


class Fenced(Exception):
    """Another process registered under our id after us: this one must stop using it."""


class Registry(Protocol):
    """Who is there, and what is wanted of them. Every method but `open` and `close` may raise RegistryAway, and no message waits
    for any of them."""

    async def open(self) -> None: ...
    async def close(self) -> None: ...

    # An instance about itself: `generation` is what `register` returned. Each raises Fenced, and does nothing for an unknown one.

    async def register(self, instance: Instance) -> int:
        """Put `instance` in, replacing an earlier one of its id, its own pause and the order to drain too. Returns the generation,
        the fencing token of what follows. While the registry knows the id, its operator's pause stays, or that it has none; of an
        id that it does not know (it may have lost its data), the pause is taken from `instance.orders`."""

    async def renew(
        self, service: str, instance: str, generation: int, load: Load, report: Report | None = None
    ) -> Renewal | None:
        """Prolong the lease, of one that was given up too. None when the registry does not know the instance (register again).
        `report` takes the place of the instance's earlier one, if it is given; it is in no picture."""

    async def set_state(self, service: str, instance: str, generation: int, state: State) -> None: ...

    async def describe(self, service: str, instance: str, generation: int, metadata: Mapping[str, str]) -> None:
        """Replace its metadata. A visible change, if they are others, as all that follows is."""

    async def deregister(self, service: str, instance: str, generation: int) -> None:
        """Take it out at once. The operator's pause of its id, if there is one, is kept for FORGET_AFTER_MS longer, for who
        registers next under it."""

    # By the instance itself, which gives its generation (as above), or by an operator, who gives None: each has a pause of his
    # own. False when there is no such instance.

    async def pause(self, service: str, instance: str, reason: str, for_ms: int | None, generation: int | None) -> bool:
        """From now on, in place of his earlier one. None: until it is lifted. When its time is over it is in the picture no more;
        that is a visible change, which wakes `changed`."""

    async def resume(self, service: str, instance: str, generation: int | None) -> bool:
        """End his pause. Nobody else's."""

    async def order_drain(self, service: str, instance: str) -> bool:
        """An operator's. For the process that is registered now."""

    # The picture.

    async def snapshot(self) -> Snapshot:
        """The whole picture, as of now. A service is in it that has a major or an instance."""

    async def changed(self, revision: int, timeout: float) -> int:
        """Wait until the picture's revision is not `revision`, at most `timeout` seconds. Returns the revision now. One that
        went backwards means that the registry lost data; a snapshot is due then as after any other change."""

    # Versions.

    async def put_policy(self, service: str, policy: Policy | None) -> None:
        """The route policy of a service from now on; None: none. A visible change, if it is another. It may be one that nobody
        registered yet, which is not known by that alone."""

    async def called(self, caller: str, topics: Sequence[str]) -> None:
        """`caller` sends to these topics of services, known or not. No visible change."""

    async def callers(self, service: str) -> Mapping[tuple[int, str], int]:
        """Major and caller -> when that was last said of them, Unix milliseconds of the registry's clock; kept for a day."""

    async def retire(self, service: str, major: int) -> bool:
        """Forget the major, and with its last one the service, if all its instances are down: those register again should they
        come back. True also for one that is not known. False, and nothing happens, while an instance that is not down serves it."""

    # For scaling. Nothing of it is a visible change.

    async def reports(self) -> Sequence[Reported]:
        """The last report of each instance that made one since it registered and is not down."""

    async def wake(self, topics: Sequence[str]) -> None:
        """Something is sent to these topics of services, known or not, and nobody is there to take it."""

    async def woken(self, after: str, timeout: float) -> tuple[str, Sequence[str]]:
        """Wait until `wake` was called after `after`, at most `timeout` seconds. Returns where to go on, and the topics, each once.
        `after` is what the last call returned, "" for now. Of more than a thousand calls the latest are told."""


# --- HTTP -----------------------------------------------------------------------------------------------------------------


class Exchange(Protocol):
    """One request that waits for its answer."""

    @property
    def request(self) -> HttpRequest: ...
    @property
    def local_port(self) -> int:
        """The port it came in on."""

    def respond(self, response: HttpResponse) -> None:
        """Answer, once. After the client hung up this does nothing."""

    def on_hangup(self, callback: Callable[[], None]) -> None:
        """Call back if the client goes before it was answered (one callback, the last one set)."""

    def upgrade(self, protocol: str, successor: "Successor") -> bool:
        """Answer 101 and let `successor` have the connection. False, and nothing happened, where that cannot be: something else was
        asked on it besides, or it is no connection of its own."""


class Successor(Protocol):
    """What goes on with an HTTP server's connection in another protocol: an asyncio.Protocol, which gets `connection_made` and, with
    what was read behind the request, `data_received`. To the server's limits and its end it stays one of its connections."""

    def connection_made(self, transport: Any) -> None: ...
    def data_received(self, data: bytes) -> None: ...
    def pause_writing(self) -> None: ...
    def ended(self, callback: "Callable[[Successor], None]") -> None:
        """Call back once when the connection is lost."""

    def drain(self) -> None:
        """Take nothing more, finish, close."""

    def abort(self) -> None: ...
    def sweep(self, now: float) -> None:
        """Look at the time limits; `now` is the loop's time."""


HttpHandler = Callable[[Exchange], None]


class HttpServer(Protocol):
    async def listen(self, host: str, port: int, handler: HttpHandler) -> int:
        """Serve on one more address; port 0 takes a free one. Returns the port. Raises OSError when it is taken."""

    async def close(self, timeout: float) -> None:
        """Accept no more, answer what was asked within `timeout` seconds, close idle connections at once."""


class HttpClient(Protocol):
    """Requests to one app on loopback, over connections that are kept alive."""

    def request(
        self, request: HttpRequest, timeout: float, done: Callable[[HttpResponse | Failed], None]
    ) -> Callable[[], None]:
        """Send; `done` is called exactly once. `request.target` is the origin-form; `request.headers` are sent as they are,
        with the framing added. Returns a function that cancels (`done` then gets CANCELLED)."""

    async def close(self) -> None: ...


# --- names ------------------------------------------------------------------------------------------------------------------


class NameServer(Protocol):
    """Mesh DNS."""

    async def listen(self, host: str, port: int) -> int:
        """Serve over UDP and TCP on one more address; port 0 takes a free one. Returns the port. Raises OSError when it is taken."""

    async def close(self) -> None: ...


# --- time and figures -------------------------------------------------------------------------------------------------------


class Clock(Protocol):
    """Time is taken from here only, so that tests can turn it."""

    def monotonic(self) -> float:
        """Seconds since some point, never backwards."""

    def mesh_ms(self) -> int:
        """Mesh time, Unix milliseconds: the monotonic clock plus an offset, so a step of the wall clock changes nothing."""

    def learn(self, mesh_ms: int) -> None:
        """Mesh time is this now, says the registry."""

    @property
    def synchronised(self) -> bool:
        """Whether `learn` was ever called: two such clocks may be compared."""


class Metrics(Protocol):
    """Figures of one sidecar. Names are of meshq.adapters.metrics; a label never holds what a caller made up."""

    def count(self, event: str) -> None:
        """One more of something that should be rare; the names are those of meshq.adapters.metrics.EVENTS, a reason may follow
        a colon: `late_reply`, `given_back:selector`."""

    def call_answered(self, service: str, route: str, code: str, seconds: float) -> None:
        """A waited call of this app had its answer; `route` is by which way it came in, `code` is a status, an error code of the mesh, or `hung-up`."""

    def handled(self, topic: str, code: str, seconds: float) -> None:
        """This app handled a message; `code` is its status or a Failure's name, `seconds` the app's own time."""
