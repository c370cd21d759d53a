"""Calls of others in: steps 7 to 10 of DESIGN part 3. A delivery becomes a request to the local app, its answer a reply.

What came but cannot start yet waits in `_waiting`, at most the prefetch; what is at the app is in `_running`, at most the
concurrency. A delivery is acknowledged after its reply was handed to the broker, never before (core/delivery.py says why
and what that means for one that comes twice).

When the connection is lost the broker takes back what was not acknowledged and delivers it again, to us or to another. So a
delivery that is not `live` is let go of unless it runs already; and one that comes again while it runs here, or after it ran
here, is recognised by its id.
"""

import asyncio
import logging
from collections import OrderedDict, deque
from collections.abc import Callable
from functools import partial
from typing import NamedTuple, cast

from meshq.core import topology
from meshq.core.delivery import Drop, GiveBack, Reason, Refuse, Reply, Start, before_call, settle_call, time_left_ms
from meshq.core.errors import TABLE, Problem
from meshq.core.headers import carry, carry_response
from meshq.core.http import Failed, Headers, HttpRequest, HttpResponse
from meshq.core.message import (
    CONTENT_TYPE,
    DeadLetter,
    DecodeError,
    Fault,
    Request,
    Response,
    decode,
    encode_dead_letter,
    encode_fault,
    encode_request,
    encode_response,
    is_id,
)
from meshq.core.names import BadName, Version
from meshq.core.selectors import Selector, parse_selector
from meshq.ports import Broker, BrokerState, Clock, Delivery, HttpClient, Metrics, Publication, Published, Subscription
from meshq_sidecar.foreign import as_request
from meshq_sidecar.replies import Replies

logger = logging.getLogger(__name__)

REMEMBERED = 10_000
"""Ids of deliveries that ended here or were let go of unstarted: more than can be redelivered after one loss (the prefetch
of every queue), with room."""
DEAD_RETRY_SECONDS = 5.0


class Identity(NamedTuple):
    """Who we are, as others see it."""

    service: str
    version: Version
    instance: str

    def __str__(self) -> str:
        return f"{self.service}/{self.version}/{self.instance}"


class Limits(NamedTuple):
    concurrency: int
    app_timeout: float
    """Seconds."""
    attempts: int
    """How often in all a call that is safe to repeat is tried."""

    @property
    def prefetch(self) -> int:
        """Messages fetched at once: what is at the app, and what it takes up while more is on its way."""
        return min(500, 4 * self.concurrency)


class _Job:
    """One request from the queue, until it is settled."""

    __slots__ = ("cancel", "delivery", "received", "request", "selector", "started", "topic")

    def __init__(
        self, topic: str, delivery: Delivery, request: Request, selector: Selector | None, received: float
    ) -> None:
        self.topic = topic
        self.delivery = delivery
        self.request = request
        self.selector = selector
        self.received = received
        self.started = 0.0


class Inbound:
    """`app_refused` is called when the app did not take a connection: it should be probed, and until it is well again
    `pause` keeps messages in the queue."""

    def __init__(
        self,
        broker: Broker,
        client: HttpClient,
        clock: Clock,
        metrics: Metrics,
        identity: Identity,
        topics: tuple[str, ...],
        limits: Limits,
        token: str,
        app_refused: Callable[[], None],
    ) -> None:
        self._broker = broker
        self._client = client
        self._clock = clock
        self._metrics = metrics
        self._identity = identity
        self._served_by = str(identity)
        self._topics = topics
        self._limits = limits
        self._token = token.encode()
        self._app_refused = app_refused
        self._proves = broker.user == identity.service
        self._subscriptions: list[Subscription] = []
        self._waiting: deque[_Job] = deque()
        self._running: set[_Job] = set()
        self._answered = _Recent()
        self._let_go = _Recent()
        """Deliveries of lost connections that had not started, with the broker's count of deliveries then."""
        self._replies = Replies(broker, clock, metrics, self._check_idle)
        self._idle: Callable[[], None] | None = None
        broker.on_state(self._on_broker_state)

    @property
    def in_flight(self) -> int:
        return len(self._running)

    @property
    def consuming(self) -> bool:
        return bool(self._subscriptions)

    # --- when to take messages --------------------------------------------------------------------------------------------

    def resume(self) -> None:
        """The app is ready: consume. Idempotent."""
        if not self._subscriptions:
            self._subscriptions = [
                self._broker.subscribe(
                    topology.call_queue(topic), self._limits.prefetch, partial(self._on_delivery, topic)
                )
                for topic in self._topics
            ]

    def pause(self) -> None:
        """Take nothing more and give back what has not started; what runs goes on. Idempotent."""
        subscriptions, self._subscriptions = self._subscriptions, []
        for subscription in subscriptions:
            subscription.cancel()
        waiting, self._waiting = self._waiting, deque()
        for job in waiting:
            self._give_back(job, GiveBack(job.request, Reason.NOT_READY))

    def when_idle(self, callback: Callable[[], None]) -> None:
        """Call back once nothing runs and every reply is sent; at once if so already."""
        self._idle = callback
        self._check_idle()

    # --- a delivery -------------------------------------------------------------------------------------------------------

    def _on_delivery(self, topic: str, delivery: Delivery) -> None:
        try:
            requests = self._read(delivery)
        except DecodeError as error:
            self._dead(topic, delivery, "undecodable", str(error))
            return
        settled = delivery if len(requests) == 1 else cast(Delivery, _Shared(delivery, len(requests)))
        for request, selector in requests:
            self._take(_Job(topic, settled, request, selector, self._clock.monotonic()))

    def _read(self, delivery: Delivery) -> list[tuple[Request, Selector | None]]:
        if delivery.content_type != CONTENT_TYPE:
            return [(as_request(delivery), None)]
        requests = []
        for message in decode(delivery.body):
            if not isinstance(message, Request):
                raise DecodeError(f"a {type(message).__name__} lies in a queue for requests")
            try:
                requests.append((message, parse_selector(message.selector) if message.selector else None))
            except BadName as error:
                raise DecodeError(f"field s: {error}") from error
        return requests

    def _take(self, job: _Job) -> None:
        if job.delivery.redelivered:
            self._metrics.count("redelivered")
            if self._came_before(job):
                return
        if len(self._running) < self._limits.concurrency and not self._waiting:
            self._begin(job)
        else:
            self._waiting.append(job)

    def _came_before(self, job: _Job) -> bool:
        """Whether this is a message that runs here or was answered here, delivered again after a lost connection."""
        for running in self._running:
            if running.request.id == job.request.id and running.request.attempt == job.request.attempt:
                running.delivery = job.delivery
                return True
        if self._answered.get(job.request.id) is not None:
            job.delivery.ack()
            return True
        return False

    def _begin(self, job: _Job) -> None:
        request = job.request
        waited_ms = int((self._clock.monotonic() - job.received) * 1000)
        left_ms = time_left_ms(request, self._clock.mesh_ms(), self._clock.synchronised, waited_ms)
        known_unstarted = job.delivery.redelivered and self._was_let_go(job)
        decision = before_call(
            request, job.delivery.redelivered, known_unstarted, job.selector, self._identity.version, left_ms
        )
        match decision:
            case Start():
                self._start(job)
            case Drop():
                self._metrics.count("expired")
                self._finish(job)
            case Refuse(problem):
                self._reply_fault(job, problem)
            case GiveBack():
                self._give_back(job, decision)

    def _start(self, job: _Job) -> None:
        request = job.request
        self._running.add(job)
        job.started = self._clock.monotonic()
        outgoing = HttpRequest(request.method.encode(), request.target, self._app_headers(job), request.body)
        self._client.request(outgoing, self._limits.app_timeout, lambda outcome: self._on_outcome(job, outcome))

    def _app_headers(self, job: _Job) -> Headers:
        request = job.request
        added = [
            (b"Meshq-Message-Id", request.id.encode()),
            (b"Meshq-Attempt", b"%d" % request.attempt),
            (b"Meshq-Topic", job.topic.encode()),
        ]
        caller, proved = self._caller(job)
        if caller:
            added.append((b"Meshq-Caller" if proved else b"Meshq-Caller-Claimed", caller.encode()))
        if request.deadline_ms is not None:
            added.append((b"Meshq-Deadline", b"%d" % request.deadline_ms))
        # The caller's sidecar has done this; but here stands what anyone wrote who may publish to us.
        carried = carry(request.headers)
        if b"idempotency-key" not in carried.noted:
            added.append((b"Idempotency-Key", request.id.encode()))
        if self._token:
            added.append((b"Meshq-Token", self._token))
        return carried.headers + added

    def _caller(self, job: _Job) -> tuple[str, bool]:
        """(who calls, whether that is proved): by the broker's word for who published it, or, in a message that our own
        service gave back, by what it had found."""
        request, user = job.request, job.delivery.user_id
        if user and user == request.caller:
            return user, True
        if request.proved_caller and self._proves and user == self._identity.service:
            return request.proved_caller, True
        return request.caller, False

    # --- what the app made of it ------------------------------------------------------------------------------------------

    def _on_outcome(self, job: _Job, outcome: HttpResponse | Failed) -> None:
        self._running.discard(job)
        code = str(outcome.status) if isinstance(outcome, HttpResponse) else outcome.failure.value
        self._metrics.handled(job.topic, code, self._clock.monotonic() - job.started)
        decision = settle_call(job.request, outcome, self._limits.attempts)
        match decision:
            case Reply(response):
                self._reply(job, response)
            case Refuse(problem):
                self._reply_fault(job, problem)
            case GiveBack():
                self._give_back(job, decision)
                if decision.reason is Reason.NOT_READY:
                    self._app_refused()
        self._next()

    def _next(self) -> None:
        while self._waiting and len(self._running) < self._limits.concurrency:
            job = self._waiting.popleft()
            if job.delivery.live:
                self._begin(job)
            else:
                self._let_it_go(job)
        self._check_idle()

    def _reply(self, job: _Job, response: HttpResponse) -> None:
        request = job.request
        keep_length = request.method == "HEAD" or response.status == 304
        headers = carry_response(response.headers, keep_length)
        message = Response(request.id, response.status, headers, response.body, self._served_by, request.attempt)
        self._send_reply(job, encode_response(message))

    def _reply_fault(self, job: _Job, problem: Problem) -> None:
        if not job.delivery.reply_to:  # nobody to tell: it must not vanish
            self._dead(job.topic, job.delivery, problem.code.value, problem.detail)
            return
        retryable = TABLE[problem.code].retryable if problem.retryable is None else problem.retryable
        message = Fault(job.request.id, problem.code, problem.detail, retryable, self._served_by)
        self._send_reply(job, encode_fault(message))

    def _send_reply(self, job: _Job, body: bytes) -> None:
        if not job.delivery.reply_to:  # a foreign publisher that wants none
            self._finish(job)
            return
        self._answered.put(job.request.id, 1)
        self._replies.put(job.request.id, body, job.delivery)

    def _on_broker_state(self, state: BrokerState) -> None:
        self._replies.on_state(state)

    # --- settling without an answer ---------------------------------------------------------------------------------------

    def _give_back(self, job: _Job, back: GiveBack) -> None:
        """To the queue again: as a copy, because the flag that a requeue sets would forbid a call that must not be repeated
        (and a copy can carry the counts). Without a connection to publish on, a requeue is what is left."""
        request = back.request
        waited_ms = int((self._clock.monotonic() - job.received) * 1000)
        left_ms = time_left_ms(request, self._clock.mesh_ms(), self._clock.synchronised, waited_ms)
        self._metrics.count(f"given_back:{back.reason.value}")
        if not job.delivery.live:
            self._let_it_go(job)
            return
        if left_ms is not None and left_ms <= 0:
            self._finish(job)
            return
        caller, proved = self._caller(job)
        copy = request._replace(left_ms=left_ms, proved_caller=caller if proved else "")
        publication = Publication(
            topology.CALLS,
            topology.call_key(job.topic),
            encode_request(copy),
            request.id,
            "call",
            job.delivery.reply_to,
            left_ms,
        )
        if self._broker.send(publication):
            job.delivery.ack()
        else:
            job.delivery.requeue()

    def _dead(self, topic: str, delivery: Delivery, reason: str, detail: str) -> None:
        """Publish it with the reason to the dead letters, then acknowledge it; if that fails, later again."""
        logger.error("a message in %s is dead: %s", delivery.queue, detail)
        self._metrics.count(f"dead_lettered:{reason}")
        queue = topology.dead_queue(topic)
        ident = delivery.message_id if is_id(delivery.message_id) else "unknown"
        letter = DeadLetter(
            ident, reason, detail, delivery.queue, self._clock.mesh_ms(), self._served_by, delivery.body
        )
        publication = Publication(topology.DEAD, queue, encode_dead_letter(letter), ident, "dead")

        def publish() -> None:
            if delivery.live:
                self._broker.publish(publication, done)

        def done(fate: Published) -> None:
            if fate is Published.CONFIRMED:
                delivery.ack()
                return
            logger.error("the dead message of %s could not be moved to %s: %s", delivery.queue, queue, fate.value)
            # Kept unacknowledged meanwhile: given back, it would come again at once.
            asyncio.get_running_loop().call_later(DEAD_RETRY_SECONDS, publish)

        publish()

    def _finish(self, job: _Job) -> None:
        self._answered.put(job.request.id, 1)
        job.delivery.ack()

    def _was_let_go(self, job: _Job) -> bool:
        """Delivered once more than when it was let go of here: nobody else had it in between."""
        count, before = job.delivery.deliveries, self._let_go.get(job.request.id)
        return count is not None and before is not None and count == before + 1

    def _let_it_go(self, job: _Job) -> None:
        """It had not started, its connection is lost: it is the broker's again, and may come back to us."""
        count = job.delivery.deliveries
        if count is not None:
            self._let_go.put(job.request.id, count)

    def _check_idle(self) -> None:
        if self._idle is None or self._running or self._waiting or not self._replies.idle:
            return
        callback, self._idle = self._idle, None
        callback()


class _Recent:
    """The last REMEMBERED of something, by message id."""

    def __init__(self) -> None:
        self._numbers: OrderedDict[str, int] = OrderedDict()
        self.get = self._numbers.get

    def put(self, ident: str, number: int) -> None:
        self._numbers[ident] = number
        if len(self._numbers) > REMEMBERED:
            self._numbers.popitem(last=False)


class _Shared:
    """The delivery of a pack: acknowledged once each of its messages is, put back if one is."""

    def __init__(self, delivery: Delivery, messages: int) -> None:
        self._delivery = delivery
        self._left = messages
        self._requeue = False

    def __getattr__(self, name: str) -> object:
        return getattr(self._delivery, name)

    def ack(self) -> None:
        self._settle(requeue=False)

    def requeue(self) -> None:
        self._settle(requeue=True)

    def _settle(self, requeue: bool) -> None:
        self._left -= 1
        self._requeue |= requeue
        if self._left == 0:
            if self._requeue:
                self._delivery.requeue()
            else:
                self._delivery.ack()
