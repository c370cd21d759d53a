"""Durable messages in: calls that were accepted, events, results. Steps 7 to 9 of DESIGN part 3 for what nobody waits for.

A job is one message from its delivery until something is decided for it: `unstarted` until it goes to the app, `running` while
it is there, then the Settler's. What has not started can be given back at any time; nothing of it is lost, nor an attempt burnt.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from meshq.core import dead, results, topology
from meshq.core.breaker import Breaker, Circuit, unwell
from meshq.core.delivery import (
    Again,
    Bury,
    Done,
    PutBack,
    Retry,
    Start,
    before_work,
    safe_to_repeat,
    settle_work,
    time_left_ms,
)
from meshq.core.errors import Code, Problem
from meshq.core.http import Failed, HttpResponse, header
from meshq.core.message import DecodeError, Fault, Message, Request, Response
from meshq.core.ordering import Lanes
from meshq.core.selectors import Selector
from meshq.ports import Broker, Clock, Delivery, Metrics, Publication, Store, StoreAway, Subscription
from meshq.tasks import Tasks
from meshq_sidecar.giving_back import give_back
from meshq_sidecar.identity import Identity, Sender, sender_of
from meshq_sidecar.local_app import LocalApp
from meshq_sidecar.once import Answer, Away, Handle, NotKept, OncePerKey, Reused, Token, Verdict
from meshq_sidecar.reading import Asked, asked, read
from meshq_sidecar.settling import Move, Settler
from meshq_sidecar.shared_delivery import alone, shared

logger = logging.getLogger(__name__)

NOT_NOW_SECONDS = 5
"""How long a message waits in the broker that could not be handled now through no fault of its own: the store that knows its
idempotency key is away, or the app that its result is for is not ready."""
OFTEN = topology.BACKSTOP_DELIVERIES // 2
"""Deliveries after which a message is put back as a copy: a requeue counts toward the broker's limit before RabbitMQ 4.3."""

TakeWaited = Callable[[str, Delivery, Request, Selector | None, Callable[[], None]], None]
"""Handles a waited call that came with a key: topic, delivery, request, selector, what to call when it is settled."""
TakeResult = Callable[[Response | Fault, str, Callable[[Request | None], None]], None]
"""Handles a result: it, the broker's word for who sent it, and what to call when it is stored: with the callback to make, if there
is one."""


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


class _Job:
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
        "token",
    )

    def __init__(
        self, consumer: "_Consumer", delivery: Delivery, request: Request, selector: Selector | None, received: float
    ) -> None:
        self.consumer = consumer
        self.lanes = consumer.lanes
        self.delivery = delivery
        self.request = request
        self.attempt = request.attempt
        """As the message in the queue says: an ordered one that is tried again here is beyond it."""
        self.selector = selector
        self.received = received
        self.token: Token | None = None
        """Its claim on its idempotency key."""
        self.begun = False
        """It is at the app or on its way out of its queue."""
        self.dropped = False
        """Given back, or the broker's again."""

    def came_as(self, delivery: Delivery, request: Request) -> bool:
        """Whether this is the message that now was delivered again, because the connection that it came over was lost."""
        return (
            self.request.id == request.id
            and self.attempt == request.attempt
            and self.delivery.queue == delivery.queue
            and not self.delivery.live
        )


class _Consumer:
    """What there is of a source now."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.subscription: Subscription | None = None
        self.lanes: Lanes[_Job] | None = Lanes() if source.ordered else None
        self.unstarted: dict[_Job, None] = {}
        """In the order in which they came."""
        self.begun = 0
        """Jobs at the app or on their way out of the queue."""
        self.stopping = False
        """Ordered, and to be given up as soon as nothing of it has begun: until then nobody else may go on with its keys, and
        nothing more begins here."""


class Work:
    """`take_result` and `take_waited` handle what is not a durable request. `owner` of idempotency claims is the identity."""

    def __init__(
        self,
        broker: Broker,
        app: LocalApp,
        clock: Clock,
        metrics: Metrics,
        identity: Identity,
        prefetch: int,
        retry: Retry,
        settler: Settler,
        once: OncePerKey,
        store: Store,
        take_result: TakeResult,
        take_waited: TakeWaited,
        random: Callable[[], float],
    ) -> None:
        self._broker = broker
        self._app = app
        self._clock = clock
        self._metrics = metrics
        self._identity = identity
        self._served_by = str(identity)
        self._prefetch = prefetch
        self._retry = retry
        self._settler = settler
        self._once = once
        self._store = store
        self._take_result = take_result
        self._take_waited = take_waited
        self._random = random
        self._proves = broker.user == identity.service
        self._consumers: dict[str, _Consumer] = {}
        self._ready = False
        self._breaker = Breaker()
        self._closing = False
        self._waiting: deque[_Job] = deque()
        """Whose turn it is, as soon as there is room at the app."""
        self._unasked: list[_Job] = []
        """Durable calls of this turn of the loop that may have been cancelled."""
        self._running: set[_Job] = set()
        self._storing = 0
        self._idle: Callable[[], None] | None = None
        self._tasks = Tasks()
        app.gate.pull(self._pull)

    # --- what to take -------------------------------------------------------------------------------------------------------

    def add(self, source: Source) -> None:
        """Consume it, whenever the app is ready. Replaces an earlier source of that queue."""
        self.remove(source.queue)
        self._consumers[source.queue] = _Consumer(source)
        self._consume()

    def remove(self, queue: str) -> None:
        consumer = self._consumers.pop(queue, None)
        if consumer is not None:
            self._stop(consumer)

    def resume(self) -> None:
        """The app is ready: consume. Idempotent."""
        self._ready = True
        self._consume()

    def pause(self) -> None:
        """Take nothing more but results, and give back what has not started; what runs goes on. Idempotent."""
        self._ready = False
        for consumer in self._consumers.values():
            if not consumer.source.results:
                self._stop(consumer)

    def stop(self) -> None:
        """Take nothing more at all."""
        self._closing = True
        self.pause()
        for consumer in self._consumers.values():
            self._stop(consumer)

    def when_idle(self, callback: Callable[[], None]) -> None:
        """Call back once nothing runs and everything is settled; at once if so already."""
        self._idle = callback
        self.check_idle()

    def check_idle(self) -> None:
        if self._idle is None or self._running or self._storing or not self._settler.idle:
            return
        callback, self._idle = self._idle, None
        callback()

    async def close(self) -> None:
        await self._tasks.close()

    @property
    def circuit(self) -> Circuit:
        return self._breaker.circuit

    @property
    def in_flight(self) -> int:
        return len(self._running)

    @property
    def consuming(self) -> int:
        """Queues consumed."""
        return sum(consumer.subscription is not None for consumer in self._consumers.values())

    @property
    def _app_takes(self) -> bool:
        return self._ready and self._breaker.circuit is not Circuit.OPEN

    def _consume(self) -> None:
        for consumer in self._consumers.values():
            takes = consumer.source.results or self._app_takes
            if takes and not self._closing and consumer.subscription is None and not consumer.stopping:
                half_open = self._breaker.circuit is Circuit.HALF_OPEN and not consumer.source.results
                consumer.subscription = self._broker.subscribe(
                    consumer.source.queue, 1 if half_open else self._prefetch, partial(self._on_delivery, consumer)
                )

    def _stop(self, consumer: _Consumer) -> None:
        if consumer.subscription is None:
            return
        if consumer.lanes is not None and consumer.begun:
            consumer.stopping = True
            return
        consumer.stopping = False
        subscription, consumer.subscription = consumer.subscription, None
        subscription.cancel()
        for job in list(consumer.unstarted):
            self._put_back(job)
        if consumer.lanes is not None:
            consumer.lanes = Lanes()

    # --- a delivery ---------------------------------------------------------------------------------------------------------

    def _on_delivery(self, consumer: _Consumer, delivery: Delivery) -> None:
        source = consumer.source
        if consumer.subscription is None:  # it was on its way when we stopped taking any
            delivery.requeue()
            return
        try:
            found = [
                self._result(message, delivery) if source.results else asked(message) for message in read(delivery)
            ]
        except DecodeError as error:
            self._settler.bury_unread(delivery, source.topic, Bury(dead.UNDECODABLE, str(error)))
            return
        settled = shared(delivery, len(found))
        for each in found:
            if isinstance(each, Asked):
                self._on_request(consumer, settled, each.request, each.selector)
            else:
                self._on_result(consumer, settled, each)

    def _result(self, message: Message, delivery: Delivery) -> Response | Fault | Asked:
        """What may lie among the results: those, and callbacks of ours that are tried again. Raises DecodeError."""
        if isinstance(message, Response | Fault):
            return message
        if self._proves and delivery.user_id != self._identity.service:
            raise DecodeError(f"a {type(message).__name__} of {delivery.user_id!r} lies in the queue for results")
        return asked(message)

    def _on_request(self, consumer: _Consumer, delivery: Delivery, request: Request, selector: Selector | None) -> None:
        source = consumer.source
        if source.accepts is not None and not source.accepts(request):
            self._metrics.count("event_filtered")
            delivery.ack()
            return
        if not request.durable and not request.key:  # of another publisher: it waits for no answer
            request = request._replace(accepted_ms=self._clock.mesh_ms())
        if delivery.redelivered:
            self._metrics.count("redelivered")
            if self._goes_on(consumer, delivery, request):
                return
        job = _Job(consumer, delivery, request, selector, self._clock.monotonic())
        consumer.unstarted[job] = None
        if consumer.lanes is None or consumer.lanes.arrive(request.key, job):
            self._turn(job)

    def _goes_on(self, consumer: _Consumer, delivery: Delivery, request: Request) -> bool:
        """Whether this message, delivered again after a lost connection, is here still: on its way out, at the app, or waiting
        for its turn, which it then keeps."""
        if self._settler.goes_on(request.id, request.attempt, delivery):
            return True
        if not request.durable:  # whether a waited call had begun, Inbound knows
            return False
        for job in (*self._running, *consumer.unstarted):
            if job.came_as(delivery, request):
                job.delivery = delivery
                return True
        return False

    def _turn(self, job: _Job) -> None:
        """Nothing of its key is before it."""
        if job.dropped or job.consumer.stopping:  # in the latter case it is put back soon
            return
        request = job.request
        if not request.durable:
            self._leave(job)
            self._has_begun(job)
            over = partial(self._over, job)
            self._take_waited(job.consumer.source.topic, job.delivery, request, job.selector, over)
        elif request.event or request.attempt > 1 or not job.delivery.reply_to:
            self._wait_for_room(job)
        else:
            if not self._unasked:
                asyncio.get_running_loop().call_soon(self._ask_whether_cancelled)
            self._unasked.append(job)

    def _ask_whether_cancelled(self) -> None:
        jobs, self._unasked = self._unasked, []
        self._tasks.start(self._start_those_not_cancelled(jobs), "ask which durable calls were cancelled")

    async def _start_those_not_cancelled(self, jobs: list[_Job]) -> None:
        try:
            go_on = await self._store.start(self._identity.service, [job.request.id for job in jobs])
        except StoreAway:  # no message waits for the store
            go_on = [True] * len(jobs)
        for job, go in zip(jobs, go_on, strict=True):
            if job.dropped:
                continue
            if go:
                self._wait_for_room(job)
            else:
                self._metrics.count("cancelled")
                self._leave(job)
                self._settler.end(self._move(job))

    def _wait_for_room(self, job: _Job) -> None:
        if self._app.gate.free and not self._waiting:
            self._begin(job)
        else:
            self._waiting.append(job)

    def _pull(self) -> bool:
        while self._waiting:
            job = self._waiting.popleft()
            if not job.dropped:
                self._begin(job)
                return True
        self.check_idle()
        return False

    # --- at the app -----------------------------------------------------------------------------------------------------------

    def _begin(self, job: _Job) -> None:
        if job.consumer.stopping:
            return
        if not job.delivery.live:  # the broker has it again
            self._leave(job)
            self._over(job)
            return
        if not self._app_takes:  # a callback: results come in all the same
            self._leave(job)
            self._again(job, Again(job.request, NOT_NOW_SECONDS))
            return
        request = job.request
        waited_ms = int((self._clock.monotonic() - job.received) * 1000)
        left_ms = time_left_ms(request, self._clock.mesh_ms(), self._clock.synchronised, waited_ms)
        decision = before_work(request, job.selector, self._identity.version, left_ms)
        match decision:
            case Start():
                self._start(job)
            case Again():
                self._leave(job)
                self._again(job, decision)
            case Bury():
                self._leave(job)
                self._bury(job, decision)

    def _start(self, job: _Job) -> None:
        request, source = job.request, job.consumer.source
        if job.token is None and header(request.headers, b"idempotency-key") is not None:
            caller, verdict = self._sender(job).scope, partial(self._on_verdict, job)
            self._once.begin(request, source.topic, caller, verdict, source.path)
            return
        self._leave(job)
        self._has_begun(job)
        self._running.add(job)
        target = request.target if source.path is None else source.path
        topic, done = request.event or source.topic, partial(self._on_outcome, job)
        self._app.ask(request, topic, self._sender(job), target, done, result=source.results)

    def _sender(self, job: _Job) -> Sender:
        return sender_of(job.request, job.delivery.user_id, self._identity.service, self._proves)

    def _on_verdict(self, job: _Job, verdict: Verdict) -> None:
        if job.dropped:
            if isinstance(verdict, Handle):
                self._once.release(verdict.token)
            return
        match verdict:
            case Handle(token):
                job.token = token
                self._wait_for_room(job)
                return
            case Answer(response, served_by):
                self._leave(job)
                self._done(job, Done(response), served_by)
            case NotKept(status):
                detail = f"this key was handled and answered {status}; the answer was too large to be kept"
                self._leave(job)
                self._done(job, Done(Problem(Code.ANSWER_NOT_KEPT, detail)))
            case Reused():
                self._leave(job)
                self._bury(job, Bury(dead.KEY_REUSED, "its Idempotency-Key was used before with another body"))
            case Away():
                self._leave(job)
                self._again(job, Again(job.request, NOT_NOW_SECONDS))

    def _on_outcome(self, job: _Job, outcome: HttpResponse | Failed) -> None:
        request = job.request
        decision = settle_work(request, outcome, self._retry, self._random(), self._clock.mesh_ms())
        token, job.token = job.token, None
        if token is not None:
            if isinstance(decision, Done) and isinstance(decision.answer, HttpResponse):
                self._once.finish(token, decision.answer, partial(self._on_kept, job, decision))
                self._count_for_circuit(outcome)
                return
            self._once.release(token)
        self._running.discard(job)
        match decision:
            case Done():
                self._done(job, decision)
            case Again():
                self._again(job, decision)
            case Bury():
                self._bury(job, decision)
            case PutBack() if job.lanes is not None:  # it keeps its place until the app is found not ready
                self._again_here(job, Again(request, 1))
            case PutBack():
                self._put_back(job)
        self._count_for_circuit(outcome)

    def _on_kept(self, job: _Job, decision: Done) -> None:
        self._running.discard(job)
        self._done(job, decision)
        self.check_idle()

    def _count_for_circuit(self, outcome: HttpResponse | Failed) -> None:
        if not unwell(outcome):
            if self._breaker.succeeded():
                logger.info("the app works again: all messages are taken")
                self._restart()
            return
        seconds = self._breaker.failed()
        if seconds is not None:
            logger.warning("the app failed again and again: no durable messages are taken for %g s", seconds)
            self._metrics.count("circuit_opened")
            for consumer in self._consumers.values():
                if not consumer.source.results:
                    self._stop(consumer)
            asyncio.get_running_loop().call_later(seconds, self._try_one)

    def _try_one(self) -> None:
        self._breaker.try_one()
        self._consume()

    def _restart(self) -> None:
        """With the whole prefetch again."""
        for consumer in self._consumers.values():
            if consumer.subscription is not None and not consumer.source.results:
                self._stop(consumer)
        self._consume()

    # --- settling -----------------------------------------------------------------------------------------------------------

    def _leave(self, job: _Job) -> None:
        """It is no longer among what can be given back."""
        job.consumer.unstarted.pop(job, None)

    def _has_begun(self, job: _Job) -> None:
        if not job.begun:
            job.begun = True
            job.consumer.begun += 1

    def _move(self, job: _Job) -> Move:
        self._has_begun(job)
        return Move(job.request.id, job.attempt, job.delivery, partial(self._over, job))

    def _over(self, job: _Job) -> None:
        """It is settled, or the broker's again."""
        if job.begun:
            job.begun = False
            job.consumer.begun -= 1
        if job.token is not None:
            self._once.release(job.token)
            job.token = None
        if job.lanes is not None:
            self._next_of_key(job, job.lanes)

    def _next_of_key(self, job: _Job, lanes: Lanes[_Job]) -> None:
        consumer = job.consumer
        following = lanes.leave(job.request.key)
        if consumer.lanes is not lanes:  # given up meanwhile
            return
        if consumer.stopping:
            self._stop_if_still(consumer)
        elif following is not None:
            # Not from in here: a key may have hundreds that end as soon as they begin.
            asyncio.get_running_loop().call_soon(self._turn, following)

    def _stop_if_still(self, consumer: _Consumer) -> None:
        if not consumer.begun:
            self._stop(consumer)
            self._consume()

    def _done(self, job: _Job, decision: Done, served_by: str = "") -> None:
        """`served_by`: who handled the first message with this key."""
        reply_to = job.delivery.reply_to
        if job.request.event or not reply_to:
            self._settler.end(self._move(job))
            return
        record = results.done(job.request, decision.answer, served_by or self._served_by)
        self._settler.finish(self._move(job), reply_to, record)
        self._answer_at_once(job, record)

    def _again(self, job: _Job, decision: Again) -> None:
        self._metrics.count("retried")
        if job.lanes is None:
            self._copy(job, decision.request, decision.delay)
        else:
            self._again_here(job, decision)

    def _copy(self, job: _Job, request: Request, delay: int) -> None:
        """To its queue again, `delay` seconds from now."""
        sender, delivery = self._sender(job), job.delivery
        request = request._replace(proved_caller=sender.name if sender.proved else "")
        self._settler.again(self._move(job), request, delay, delivery.reply_to, delivery.properties().get("priority"))

    def _again_here(self, job: _Job, decision: Again) -> None:
        """An ordered message keeps its place: it waits here, and those of its key behind it."""
        job.request = decision.request
        job.received = self._clock.monotonic()
        if job.begun:
            job.begun = False
            job.consumer.begun -= 1
        job.consumer.unstarted = {job: None, **job.consumer.unstarted}
        if job.consumer.stopping:
            self._stop_if_still(job.consumer)
        else:
            asyncio.get_running_loop().call_later(decision.delay, self._try_again_here, job)

    def _try_again_here(self, job: _Job) -> None:
        if not job.dropped:
            self._wait_for_room(job)

    def _bury(self, job: _Job, why: Bury) -> None:
        request, delivery = job.request, job.delivery
        result = None
        if delivery.reply_to and not request.event:
            record = results.failed(request, why, self._served_by)
            result = Publication(topology.REPLIES, delivery.reply_to, record, request.id, "result")
            self._answer_at_once(job, record)
        attempts = request.attempt if why.reason in (dead.REJECTED, dead.ATTEMPTS) else request.attempt - 1
        self._settler.bury(self._move(job), job.consumer.source.topic, why, attempts, self._sender(job), result)

    def _put_back(self, job: _Job) -> None:
        """It stays in its queue. Not started, so it may come to anybody."""
        self._leave(job)
        job.dropped = True
        self._metrics.count("given_back:not-ready")
        delivery = job.delivery
        if job.token is not None:
            self._once.release(job.token)
            job.token = None
        if not delivery.live:
            return
        if not job.request.durable:
            self._put_back_waited(job)
        elif job.lanes is None and (
            not alone(delivery) or (delivery.redelivered and (delivery.deliveries or 0) >= OFTEN)
        ):
            self._copy(job, job.request, 0)
        else:
            delivery.requeue()

    def _put_back_waited(self, job: _Job) -> None:
        """As a copy behind all others: the flag that a requeue sets would forbid a call that must not be repeated. Whoever waits
        for its answer has sent nothing after it that could rely on the order. One that has the flag already keeps it."""
        if job.delivery.redelivered and not safe_to_repeat(job.request):
            job.delivery.requeue()
            return
        waited_ms = int((self._clock.monotonic() - job.received) * 1000)
        left_ms = time_left_ms(job.request, self._clock.mesh_ms(), self._clock.synchronised, waited_ms)
        sender = self._sender(job)
        copy = job.request._replace(left_ms=left_ms, proved_caller=sender.name if sender.proved else "")
        give_back(self._broker, job.consumer.source.topic, job.delivery, copy)

    def _answer_at_once(self, job: _Job, record: bytes) -> None:
        """A copy for a caller who waits a while."""
        if job.request.answer_to:
            publication = Publication(topology.REPLIES, job.request.answer_to, record, job.request.id, "reply")
            self._broker.send(publication)

    # --- results --------------------------------------------------------------------------------------------------------------

    def _on_result(self, consumer: _Consumer, delivery: Delivery, message: Response | Fault) -> None:
        if delivery.redelivered and self._settler.goes_on(message.id, 0, delivery):
            return
        self._storing += 1
        self._take_result(message, delivery.user_id, partial(self._on_stored, consumer, delivery, message))

    def _on_stored(
        self, consumer: _Consumer, delivery: Delivery, message: Response | Fault, callback: Request | None
    ) -> None:
        self._storing -= 1
        if callback is None:
            self._settler.end(Move(message.id, 0, delivery))
        elif delivery.live and not (delivery.redelivered and self._goes_on(consumer, delivery, callback)):
            self._call_back(_Job(consumer, delivery, callback, None, self._clock.monotonic()))
        self.check_idle()

    def _call_back(self, job: _Job) -> None:
        if job.consumer.subscription is None:
            self._again(job, Again(job.request, NOT_NOW_SECONDS))
        else:
            job.consumer.unstarted[job] = None
            self._wait_for_room(job)
