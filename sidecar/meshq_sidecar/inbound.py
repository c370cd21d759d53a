"""Calls of others in: steps 7 to 10 of DESIGN part 3. A delivery becomes a request to the local app, its answer a reply.

What came but cannot start yet waits in `_waiting`, at most the prefetch; what is at the app is in `_running`, at most the
concurrency. A delivery is acknowledged after its reply was handed to the broker, never before (core/delivery.py says why
and what that means for one that comes twice).

When the connection is lost the broker takes back what was not acknowledged and delivers it again, to us or to another. So a
delivery that is not `live` is let go of unless it runs already; and one that comes again while it runs here, or after it ran
here, is recognised by its id.
"""

import logging
from collections import OrderedDict, deque
from collections.abc import Callable
from functools import partial

from meshq.core import dead, topology
from meshq.core.delivery import (
    Bury,
    Drop,
    GiveBack,
    Reason,
    Refuse,
    Reply,
    Start,
    before_call,
    settle_call,
    time_left_ms,
)
from meshq.core.errors import TABLE, Code, Problem
from meshq.core.headers import carry_response
from meshq.core.http import Failed, HttpResponse, header
from meshq.core.message import DecodeError, Fault, Request, Response, encode_fault, encode_response
from meshq.core.selectors import Selector
from meshq.ports import Broker, BrokerState, Clock, Delivery, Metrics, Subscription
from meshq_sidecar.giving_back import give_back
from meshq_sidecar.identity import Identity, Sender, sender_of
from meshq_sidecar.local_app import LocalApp
from meshq_sidecar.once import Answer, Away, Handle, NotKept, OncePerKey, Reused, Token, Verdict
from meshq_sidecar.reading import asked, read
from meshq_sidecar.replies import Replies
from meshq_sidecar.settling import Settler
from meshq_sidecar.shared_delivery import shared

logger = logging.getLogger(__name__)

REMEMBERED = 10_000
"""Ids of deliveries that ended here or were let go of unstarted: more than can be redelivered after one loss (the prefetch
of every queue), with room."""


class _Job:
    """One request from the queue, until it is settled."""

    __slots__ = ("delivery", "ended", "received", "request", "selector", "token", "topic")

    def __init__(
        self,
        topic: str,
        delivery: Delivery,
        request: Request,
        selector: Selector | None,
        received: float,
        ended: Callable[[], None] | None,
    ) -> None:
        self.topic = topic
        self.delivery = delivery
        self.request = request
        self.selector = selector
        self.received = received
        self.ended = ended
        self.token: Token | None = None
        """Its claim on its idempotency key."""


class Inbound:
    """`prefetch` is the most messages fetched at once from each queue; `attempts` how often in all a call that is safe to repeat is
    tried. `settler` buries what cannot be read; `once` sees to idempotency keys."""

    def __init__(
        self,
        broker: Broker,
        app: LocalApp,
        clock: Clock,
        metrics: Metrics,
        identity: Identity,
        topics: tuple[str, ...],
        prefetch: int,
        attempts: int,
        settler: Settler,
        once: OncePerKey,
    ) -> None:
        self._broker = broker
        self._app = app
        self._clock = clock
        self._metrics = metrics
        self._identity = identity
        self._served_by = str(identity)
        self._topics = topics
        self._prefetch = prefetch
        self._attempts = attempts
        self._settler = settler
        self._once = once
        self._proves = broker.user == identity.service
        self._subscriptions: list[Subscription] = []
        self._waiting: deque[_Job] = deque()
        self._asking: set[_Job] = set()
        """Their idempotency key is being asked about, or is another's at the moment."""
        self._running: set[_Job] = set()
        self._answered = _Recent()
        self._let_go = _Recent()
        """Deliveries of lost connections that had not started, with the broker's count of deliveries then."""
        self._replies = Replies(broker, clock, metrics, self._check_idle)
        self._idle: Callable[[], None] | None = None
        app.gate.pull(self._pull)
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
                self._broker.subscribe(topology.call_queue(topic), self._prefetch, partial(self._on_delivery, topic))
                for topic in self._topics
            ]

    def pause(self) -> None:
        """Take nothing more and give back what has not started; what runs goes on. Idempotent."""
        subscriptions, self._subscriptions = self._subscriptions, []
        for subscription in subscriptions:
            subscription.cancel()
        waiting, self._waiting = self._waiting, deque()
        for job in waiting:
            self._return(job)
        asking, self._asking = self._asking, set()
        for job in asking:
            self._give_back(job, GiveBack(job.request, Reason.NOT_READY))

    def when_idle(self, callback: Callable[[], None]) -> None:
        """Call back once nothing runs and every reply is sent; at once if so already."""
        self._idle = callback
        self._check_idle()

    # --- a delivery -------------------------------------------------------------------------------------------------------

    def _on_delivery(self, topic: str, delivery: Delivery) -> None:
        try:
            requests = [asked(message) for message in read(delivery)]
        except DecodeError as error:
            self._settler.bury_unread(delivery, topic, Bury(dead.UNDECODABLE, str(error)))
            return
        settled = shared(delivery, len(requests))
        for request, selector in requests:
            if self._subscriptions:
                self.take(topic, settled, request, selector, None)
            else:  # it was on its way when we stopped taking any
                self._come_late(_Job(topic, settled, request, selector, self._clock.monotonic(), None))

    def take(
        self,
        topic: str,
        delivery: Delivery,
        request: Request,
        selector: Selector | None,
        ended: Callable[[], None] | None,
    ) -> None:
        """A waited call came. `ended` is called when it is settled."""
        job = _Job(topic, delivery, request, selector, self._clock.monotonic(), ended)
        if not delivery.live:
            self._let_it_go(job)
            return
        if delivery.redelivered:
            self._metrics.count("redelivered")
            if self._came_before(job):
                return
        if self._app.gate.free and not self._waiting:
            self._begin(job)
        else:
            self._waiting.append(job)

    def _pull(self) -> bool:
        if not self._waiting:
            self._check_idle()
            return False
        job = self._waiting.popleft()
        if job.delivery.live:
            self._begin(job)
        else:
            self._let_it_go(job)
        return True

    def _came_before(self, job: _Job) -> bool:
        """Whether this is a message that runs here or was answered here, delivered again after a lost connection."""
        for running in self._running:
            if running.request.id == job.request.id and running.request.attempt == job.request.attempt:
                if running.delivery.live:  # the sender's repetition of it, which gets the same answer
                    job.delivery.ack()
                else:
                    running.delivery = job.delivery
                self._end(job)
                return True
        if self._answered.get(job.request.id) is not None:
            job.delivery.ack()
            self._end(job)
            return True
        return False

    def _come_late(self, job: _Job) -> None:
        if not (job.delivery.redelivered and self._came_before(job)):
            self._return(job)

    def _begin(self, job: _Job) -> None:
        match self._decision(job, job.selector):
            case Start():
                self._start(job)
            case Drop():
                self._metrics.count("expired")
                self._finish(job)
            case Refuse(problem):
                self._reply_fault(job, problem)
            case GiveBack() as back:
                self._give_back(job, back)

    def _return(self, job: _Job) -> None:
        """Give it back unstarted; but not one that whoever had it before may have started, because a copy would hide that."""
        decision = self._decision(job, None)
        if isinstance(decision, Refuse) and job.delivery.live:
            self._reply_fault(job, decision.problem)
        else:
            self._give_back(job, GiveBack(job.request, Reason.NOT_READY))

    def _decision(self, job: _Job, selector: Selector | None) -> Start | Drop | Refuse | GiveBack:
        request, delivery = job.request, job.delivery
        waited_ms = int((self._clock.monotonic() - job.received) * 1000)
        left_ms = time_left_ms(request, self._clock.mesh_ms(), self._clock.synchronised, waited_ms)
        known_unstarted = delivery.redelivered and self._was_let_go(job)
        return before_call(request, delivery.redelivered, known_unstarted, selector, self._identity.version, left_ms)

    def _start(self, job: _Job) -> None:
        request = job.request
        if job.token is None and header(request.headers, b"idempotency-key") is not None:
            self._asking.add(job)
            self._once.begin(request, job.topic, self._sender(job).scope, partial(self._on_verdict, job))
            return
        self._running.add(job)
        self._app.ask(request, job.topic, self._sender(job), request.target, partial(self._on_outcome, job))

    def _sender(self, job: _Job) -> Sender:
        return sender_of(job.request, job.delivery.user_id, self._identity.service, self._proves)

    def _on_verdict(self, job: _Job, verdict: Verdict) -> None:
        if job not in self._asking:  # given back meanwhile
            if isinstance(verdict, Handle):
                self._once.release(verdict.token)
            return
        self._asking.discard(job)
        match verdict:
            case Handle(token):
                job.token = token
                self._waiting.append(job)
                self._app.gate.fill()
            case Answer(response, served_by):
                self._reply(job, response, served_by)
            case NotKept(status):
                detail = f"this key was handled and answered {status}; the answer was too large to be kept"
                self._reply_fault(job, Problem(Code.ANSWER_NOT_KEPT, detail))
            case Reused():
                detail = "this Idempotency-Key was used before with another body"
                self._reply_fault(job, Problem(Code.KEY_REUSED, detail))
            case Away():
                detail = (
                    "the registry's server, which knows of idempotency keys, is away; without a key it would be handled"
                )
                self._reply_fault(job, Problem(Code.UNAVAILABLE, detail))

    # --- what the app made of it ------------------------------------------------------------------------------------------

    def _on_outcome(self, job: _Job, outcome: HttpResponse | Failed) -> None:
        decision = settle_call(job.request, outcome, self._attempts)
        if job.token is not None and isinstance(decision, Reply):
            # The answer is kept before it is given: a repeat that comes after it finds it.
            token, job.token = job.token, None
            self._once.finish(token, decision.response, partial(self._on_kept, job, decision.response))
            return
        self._running.discard(job)
        match decision:
            case Reply(response):
                self._reply(job, response)
            case Refuse(problem):
                self._reply_fault(job, problem)
            case GiveBack():
                self._give_back(job, decision)

    def _on_kept(self, job: _Job, response: HttpResponse) -> None:
        self._running.discard(job)
        self._reply(job, response)
        self._check_idle()

    def _reply(self, job: _Job, response: HttpResponse, served_by: str = "") -> None:
        """`served_by`: who handled the first message with this key."""
        request = job.request
        keep_length = request.method == "HEAD" or response.status == 304
        headers = carry_response(response.headers, keep_length)
        message = Response(
            request.id, response.status, headers, response.body, served_by or self._served_by, request.attempt
        )
        self._send_reply(job, encode_response(message))

    def _reply_fault(self, job: _Job, problem: Problem) -> None:
        if not job.delivery.reply_to:  # nobody to tell: it must not vanish
            self._settler.bury_unread(job.delivery, job.topic, Bury(problem.code.value, problem.detail))
            self._end(job)
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
        self._end(job)

    def _on_broker_state(self, state: BrokerState) -> None:
        self._replies.on_state(state)

    # --- settling without an answer ---------------------------------------------------------------------------------------

    def _give_back(self, job: _Job, back: GiveBack) -> None:
        """To its queue again."""
        request = back.request
        waited_ms = int((self._clock.monotonic() - job.received) * 1000)
        left_ms = time_left_ms(request, self._clock.mesh_ms(), self._clock.synchronised, waited_ms)
        self._metrics.count(f"given_back:{back.reason.value}")
        if not job.delivery.live:
            self._let_it_go(job)
            return
        sender = self._sender(job)
        copy = request._replace(left_ms=left_ms, proved_caller=sender.name if sender.proved else "")
        give_back(self._broker, job.topic, job.delivery, copy)
        self._end(job)

    def _finish(self, job: _Job) -> None:
        self._answered.put(job.request.id, 1)
        job.delivery.ack()
        self._end(job)

    def _end(self, job: _Job) -> None:
        if job.token is not None:
            self._once.release(job.token)
            job.token = None
        ended, job.ended = job.ended, None
        if ended is not None:
            ended()

    def _was_let_go(self, job: _Job) -> bool:
        """Delivered once more than when it was let go of here: nobody else had it in between."""
        count, before = job.delivery.deliveries, self._let_go.get(job.request.id)
        return count is not None and before is not None and count == before + 1

    def _let_it_go(self, job: _Job) -> None:
        """It had not started, its connection is lost: it is the broker's again, and may come back to us."""
        count = job.delivery.deliveries
        if count is not None:
            self._let_go.put(job.request.id, count)
        self._end(job)

    def _check_idle(self) -> None:
        if self._idle is None or self._running or self._waiting or self._asking or not self._replies.idle:
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
