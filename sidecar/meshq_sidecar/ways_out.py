"""How a durable message leaves its queue: done, tried again later, dead, or put back (DESIGN part 4, "Settling").

An ordered message that is tried again does not leave: it keeps its place here, and those of its key wait behind it.
"""

from collections.abc import Callable
from functools import partial

from meshq.core import dead, results, topology
from meshq.core.delivery import Again, Bury, Done, safe_to_repeat, time_left_ms
from meshq.core.message import Request
from meshq.ports import Broker, Clock, Metrics, Publication
from meshq_sidecar.giving_back import give_back
from meshq_sidecar.job import Consumer, Job
from meshq_sidecar.once import OncePerKey
from meshq_sidecar.settling import Move, Settler
from meshq_sidecar.shared_delivery import alone
from meshq_sidecar.timers import Timers

NOT_NOW_SECONDS = 5
"""How long a message waits in the broker that could not be handled now through no fault of its own: the store that knows its
idempotency key is away, or the app that its result is for is not ready."""
OFTEN = topology.BACKSTOP_DELIVERIES // 2
"""Deliveries after which a message is put back as a copy: a requeue counts toward the broker's limit before RabbitMQ 4.3."""


class WaysOut:
    """`served_by` is this instance, <service>/<version>/<instance>. `over` is called once a job is settled, or the broker's again,
    `still` when one that waits in its place has a consumer that is to be given up, `once_more` when its wait is over."""

    def __init__(
        self,
        broker: Broker,
        clock: Clock,
        metrics: Metrics,
        served_by: str,
        settler: Settler,
        once: OncePerKey,
        over: Callable[[Job], None],
        still: Callable[[Consumer], None],
        once_more: Callable[[Job], None],
    ) -> None:
        self._broker = broker
        self._clock = clock
        self._metrics = metrics
        self._served_by = served_by
        self._settler = settler
        self._once = once
        self._over = over
        self._still = still
        self._once_more = once_more
        self._timers = Timers()

    def close(self) -> None:
        self._timers.close()

    def end(self, job: Job) -> None:
        """Nothing follows from it."""
        self._settler.end(self._move(job))

    def done(self, job: Job, decision: Done, served_by: str = "") -> None:
        """`served_by`: who handled the first message with this key."""
        reply_to = job.delivery.reply_to
        if job.request.event or job.request.mirrored or not reply_to:
            self.end(job)
            return
        record = results.done(job.request, decision.answer, served_by or self._served_by)
        self._settler.finish(self._move(job), reply_to, record)
        self._answer_at_once(job, record)

    def again(self, job: Job, decision: Again) -> None:
        self._metrics.count("retried")
        if job.lanes is None:
            self._copy(job, decision.request, decision.delay)
        else:
            self.again_here(job, decision)

    def not_now(self, job: Job) -> None:
        """It could not be handled through no fault of its own."""
        self.again(job, Again(job.request, NOT_NOW_SECONDS))

    def again_here(self, job: Job, decision: Again) -> None:
        job.request = decision.request
        job.received = self._clock.monotonic()
        job.end()
        job.consumer.unstarted = {job: None, **job.consumer.unstarted}
        if job.consumer.stopping:
            self._still(job.consumer)
        else:
            self._timers.later(decision.delay, self._try_again_here, job)

    def bury(self, job: Job, why: Bury) -> None:
        request, delivery = job.request, job.delivery
        if request.mirrored:
            self._metrics.count(f"mirror_failed:{why.reason}")
            self.end(job)
            return
        result = None
        if delivery.reply_to and not request.event:
            record = results.failed(request, why, self._served_by)
            result = Publication(topology.REPLIES, delivery.reply_to, record, request.id, "result")
            self._answer_at_once(job, record)
        attempts = request.attempt if why.reason in (dead.REJECTED, dead.ATTEMPTS) else request.attempt - 1
        self._settler.bury(self._move(job), why, attempts, job.sender, result, request)

    def put_back(self, job: Job) -> None:
        """It stays in its queue. Not started, so it may come to anybody."""
        job.leave()
        job.dropped = True
        self._metrics.count("given_back:not-ready")
        delivery = job.delivery
        self.release(job)
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

    def release(self, job: Job) -> None:
        """Its idempotency key is free, if it has one."""
        if job.token is not None:
            self._once.release(job.token)
            job.token = None

    # --- inside -----------------------------------------------------------------------------------------------------------

    def _move(self, job: Job) -> Move:
        job.begin()
        topic = job.consumer.source.topic
        return Move(job.request.id, job.attempt, job.delivery, topic, partial(self._over, job))

    def _copy(self, job: Job, request: Request, delay: int) -> None:
        """To its queue again, `delay` seconds from now."""
        sender, delivery = job.sender, job.delivery
        request = request._replace(proved_caller=sender.name if sender.proved else "")
        self._settler.again(self._move(job), request, delay, delivery.reply_to, delivery.properties().get("priority"))

    def _try_again_here(self, job: Job) -> None:
        if not job.dropped:
            self._once_more(job)

    def _put_back_waited(self, job: Job) -> None:
        """As a copy behind all others: the flag that a requeue sets would forbid a call that must not be repeated. Whoever waits
        for its answer has sent nothing after it that could rely on the order. One that has the flag already keeps it."""
        if job.delivery.redelivered and not safe_to_repeat(job.request):
            job.delivery.requeue()
            return
        waited_ms = int((self._clock.monotonic() - job.received) * 1000)
        left_ms = time_left_ms(job.request, self._clock.mesh_ms(), self._clock.synchronised, waited_ms)
        sender = job.sender
        copy = job.request._replace(left_ms=left_ms, proved_caller=sender.name if sender.proved else "")
        give_back(self._broker, job.consumer.source.topic, job.delivery, copy)

    def _answer_at_once(self, job: Job, record: bytes) -> None:
        """A copy for a caller who waits a while."""
        if job.request.answer_to:
            publication = Publication(topology.REPLIES, job.request.answer_to, record, job.request.id, "reply")
            self._broker.send(publication)
