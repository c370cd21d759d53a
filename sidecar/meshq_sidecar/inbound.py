"""Calls of others in: steps 7 to 10 of DESIGN part 3. A delivery becomes a request to the local app, its answer a reply.

What came but cannot start yet waits in `_waiting`, at most the prefetch; what is at the app is in `_running`, at most the
concurrency. A delivery is acknowledged after its reply was handed to the broker, never before (core/delivery.py says why
and what that means for one that comes twice).

When the connection is lost the broker takes back what was not acknowledged and delivers it again, to us or to another. So a
delivery that is not `live` is let go of unless it runs already; and one that comes again while it runs here, or after it ran
here, is recognised by its id.
"""

from collections import deque
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
from meshq.core.errors import Code, Problem
from meshq.core.http import Failed, HttpResponse, header
from meshq.core.message import DecodeError, Request
from meshq.core.selectors import Selector
from meshq.ports import Broker, BrokerState, Clock, Delivery, Metrics, Subscription
from meshq_sidecar.answering import Answering, WaitedCall
from meshq_sidecar.identity import Identity, sender_of
from meshq_sidecar.local_app import LocalApp
from meshq_sidecar.once import Answer, Away, Handle, NotKept, OncePerKey, Reused, Verdict
from meshq_sidecar.own_policy import OwnPolicy
from meshq_sidecar.reading import asked, read
from meshq_sidecar.replies import Replies
from meshq_sidecar.settling import Settler
from meshq_sidecar.shared_delivery import shared


class Inbound:
    """`prefetch` is the most messages fetched at once from each queue; `policy` says who may call, and how often in all a call that is
    safe to repeat is tried. `settler` buries what cannot be read; `once` sees to idempotency keys."""

    def __init__(
        self,
        broker: Broker,
        app: LocalApp,
        clock: Clock,
        metrics: Metrics,
        identity: Identity,
        topics: tuple[str, ...],
        prefetch: int,
        policy: OwnPolicy,
        settler: Settler,
        once: OncePerKey,
    ) -> None:
        self._broker = broker
        self._app = app
        self._clock = clock
        self._metrics = metrics
        self._identity = identity
        self._topics = topics
        self._prefetch = prefetch
        self._policy = policy
        self._settler = settler
        self._once = once
        self._proves = broker.user == identity.service
        self._ready = False
        self._subscriptions: list[Subscription] = []
        self._waiting: deque[WaitedCall] = deque()
        self._asking: set[WaitedCall] = set()
        """Their idempotency key is being asked about, or is another's at the moment."""
        self._running: set[WaitedCall] = set()
        self._replies = Replies(broker, clock, metrics, self._check_idle)
        self._answering = Answering(broker, clock, metrics, str(identity), settler, once, self._replies)
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
        self._ready = True
        self._consume()

    def pause(self) -> None:
        """Take nothing more and give back what has not started; what runs goes on. Idempotent."""
        self._ready = False
        self._stop()

    def set_prefetch(self, prefetch: int) -> None:
        """The most that is fetched at once from each queue from now on; 0: nothing. What came already stays, as far as the new one
        has room for it."""
        self._prefetch = prefetch
        if not prefetch:
            self._stop()
        elif self._subscriptions:
            self._cancel()
            self._give_back_beyond(prefetch * len(self._topics))
        self._consume()

    def _consume(self) -> None:
        if self._ready and self._prefetch and not self._subscriptions:
            self._subscriptions = [
                self._broker.subscribe(topology.call_queue(topic), self._prefetch, partial(self._on_delivery, topic))
                for topic in self._topics
            ]

    def _cancel(self) -> None:
        subscriptions, self._subscriptions = self._subscriptions, []
        for subscription in subscriptions:
            subscription.cancel()

    def _stop(self) -> None:
        self._cancel()
        waiting, self._waiting = self._waiting, deque()
        for job in waiting:
            self._return(job)
        asking, self._asking = self._asking, set()
        for job in asking:
            self._answering.give_back(job, GiveBack(job.request, Reason.NOT_READY))

    def _give_back_beyond(self, most: int) -> None:
        """What came last, but for what was taken for another (`ended`), whose queue has a prefetch of its own."""
        room = most - len(self._running) - len(self._asking)
        waiting, self._waiting = self._waiting, deque()
        for job in waiting:
            if job.ended is not None or room > 0:
                room -= job.ended is None
                self._waiting.append(job)
            else:
                self._return(job)

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
                self._come_late(self._job(topic, settled, request, selector, None))

    def take(
        self,
        topic: str,
        delivery: Delivery,
        request: Request,
        selector: Selector | None,
        ended: Callable[[], None] | None,
    ) -> None:
        """A waited call came. `ended` is called when it is settled."""
        job = self._job(topic, delivery, request, selector, ended)
        if not delivery.live:
            self._answering.let_go(job)
            return
        if delivery.redelivered:
            self._metrics.count("redelivered")
            if self._came_before(job):
                return
        refusal = self._policy.refusal(job.sender)
        if refusal is not None:
            self._turn_away(job, refusal)
        elif self._app.gate.free and not self._waiting:
            self._begin(job)
        else:
            self._waiting.append(job)

    def _job(
        self,
        topic: str,
        delivery: Delivery,
        request: Request,
        selector: Selector | None,
        ended: Callable[[], None] | None,
    ) -> WaitedCall:
        sender = sender_of(request, delivery.user_id, self._identity.service, self._proves)
        return WaitedCall(topic, delivery, request, selector, sender, self._clock.monotonic(), ended)

    def _turn_away(self, job: WaitedCall, refusal: Problem) -> None:
        """Its caller may not call. But of one that may have been started while it might, that is what is said."""
        decision = self._decision(job, None)
        self._answering.fail(job, decision.problem if isinstance(decision, Refuse) else refusal)

    def _pull(self) -> bool:
        if not self._waiting:
            self._check_idle()
            return False
        job = self._waiting.popleft()
        if job.delivery.live:
            self._begin(job)
        else:
            self._answering.let_go(job)
        return True

    def _came_before(self, job: WaitedCall) -> bool:
        """Whether this is a message that runs here or was answered here, delivered again after a lost connection."""
        for running in self._running:
            if running.request.id == job.request.id and running.request.attempt == job.request.attempt:
                if running.delivery.live:  # the sender's repetition of it, which gets the same answer
                    job.delivery.ack()
                else:
                    running.delivery = job.delivery
                self._answering.end(job)
                return True
        if self._answering.was_answered(job):
            job.delivery.ack()
            self._answering.end(job)
            return True
        return False

    def _come_late(self, job: WaitedCall) -> None:
        if not (job.delivery.redelivered and self._came_before(job)):
            self._return(job)

    def _begin(self, job: WaitedCall) -> None:
        match self._decision(job, job.selector):
            case Start():
                self._start(job)
            case Drop():
                self._metrics.count("expired")
                self._answering.finish(job)
            case Refuse(problem):
                self._answering.fail(job, problem)
            case GiveBack() as back:
                self._answering.give_back(job, back)

    def _return(self, job: WaitedCall) -> None:
        """Give it back unstarted; but not one that whoever had it before may have started, because a copy would hide that."""
        decision = self._decision(job, None)
        if isinstance(decision, Refuse) and job.delivery.live:
            self._answering.fail(job, decision.problem)
        else:
            self._answering.give_back(job, GiveBack(job.request, Reason.NOT_READY))

    def _decision(self, job: WaitedCall, selector: Selector | None) -> Start | Drop | Refuse | GiveBack:
        request, delivery = job.request, job.delivery
        waited_ms = job.waited_ms(self._clock.monotonic())
        left_ms = time_left_ms(request, self._clock.mesh_ms(), self._clock.synchronised, waited_ms)
        known_unstarted = delivery.redelivered and self._answering.was_let_go(job)
        return before_call(request, delivery.redelivered, known_unstarted, selector, self._identity.version, left_ms)

    def _start(self, job: WaitedCall) -> None:
        request = job.request
        if job.token is None and header(request.headers, b"idempotency-key") is not None:
            self._asking.add(job)
            self._once.begin(request, job.topic, job.sender.scope, partial(self._on_verdict, job))
            return
        self._running.add(job)
        self._app.ask(request, job.topic, job.sender, request.target, partial(self._on_outcome, job))

    def _on_verdict(self, job: WaitedCall, verdict: Verdict) -> None:
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
                self._answering.reply(job, response, served_by)
            case NotKept():
                self._answering.fail(job, Problem(Code.ANSWER_NOT_KEPT, verdict.detail))
            case Reused():
                detail = "this Idempotency-Key was used before with another body"
                self._answering.fail(job, Problem(Code.KEY_REUSED, detail))
            case Away():
                detail = (
                    "the registry's server, which knows of idempotency keys, is away; without a key it would be handled"
                )
                self._answering.fail(job, Problem(Code.UNAVAILABLE, detail))

    # --- what the app made of it ------------------------------------------------------------------------------------------

    def _on_outcome(self, job: WaitedCall, outcome: HttpResponse | Failed) -> None:
        decision = settle_call(job.request, outcome, self._policy.retry.attempts)
        if isinstance(decision, Refuse) or (isinstance(decision, GiveBack) and decision.reason is Reason.REPEAT):
            self._app.counts.failed(job.topic)
        if job.token is not None and outcome.status is not None:
            # The answer is kept before it is given: a repeat that comes after it finds it.
            token, job.token = job.token, None
            self._once.finish(token, outcome, partial(self._on_kept, job, decision))
            return
        self._running.discard(job)
        self._settle(job, decision)

    def _on_kept(self, job: WaitedCall, decision: Reply | Refuse | GiveBack) -> None:
        self._running.discard(job)
        self._settle(job, decision)
        self._check_idle()

    def _settle(self, job: WaitedCall, decision: Reply | Refuse | GiveBack) -> None:
        match decision:
            case Reply(response):
                self._answering.reply(job, response)
            case Refuse(problem):
                self._answering.fail(job, problem)
            case GiveBack():
                self._answering.give_back(job, decision)

    def _on_broker_state(self, state: BrokerState) -> None:
        self._replies.on_state(state)

    def _check_idle(self) -> None:
        if self._idle is None or self._running or self._waiting or self._asking or not self._replies.idle:
            return
        callback, self._idle = self._idle, None
        callback()
