"""A waited call on the receiving side, and how it ends there: answered, given back to its queue, or let go of.

Of a mirrored call nobody waits for the answer: whatever fails of it is counted and let go, and it is never tried a second time.
"""

from collections.abc import Callable

from meshq.core.delivery import Bury, GiveBack, time_left_ms
from meshq.core.errors import TABLE, Problem
from meshq.core.headers import carry_response
from meshq.core.http import HttpResponse
from meshq.core.message import Fault, Request, Response, encode_fault, encode_response
from meshq.core.selectors import Selector
from meshq.ports import Broker, Clock, Delivery, Metrics
from meshq_sidecar.giving_back import give_back
from meshq_sidecar.identity import Sender
from meshq_sidecar.once import OncePerKey, Token
from meshq_sidecar.recent import Recent
from meshq_sidecar.replies import Replies
from meshq_sidecar.settling import Move, Settler

REMEMBERED = 10_000
"""Ids of deliveries that ended here or were let go of unstarted: more than can be redelivered after one loss (the prefetch
of every queue), with room."""


class WaitedCall:
    """One request from the queue, until it is settled."""

    __slots__ = ("delivery", "ended", "received", "request", "selector", "sender", "token", "topic")

    def __init__(
        self,
        topic: str,
        delivery: Delivery,
        request: Request,
        selector: Selector | None,
        sender: Sender,
        received: float,
        ended: Callable[[], None] | None,
    ) -> None:
        self.topic = topic
        self.delivery = delivery
        self.request = request
        self.selector = selector
        self.sender = sender
        self.received = received
        self.ended = ended
        self.token: Token | None = None
        """Its claim on its idempotency key."""

    def waited_ms(self, now: float) -> int:
        return int((now - self.received) * 1000)


class Answering:
    """`served_by` is this instance, <service>/<version>/<instance>; `replies` takes answers, `settler` buries what nobody waits for."""

    def __init__(
        self,
        broker: Broker,
        clock: Clock,
        metrics: Metrics,
        served_by: str,
        settler: Settler,
        once: OncePerKey,
        replies: Replies,
    ) -> None:
        self._broker = broker
        self._clock = clock
        self._metrics = metrics
        self._served_by = served_by
        self._settler = settler
        self._once = once
        self._replies = replies
        self._answered = Recent(REMEMBERED)
        self._let_go = Recent(REMEMBERED)
        """Deliveries of lost connections that had not started, with the broker's count of deliveries then."""

    # --- an answer --------------------------------------------------------------------------------------------------------

    def reply(self, job: WaitedCall, response: HttpResponse, served_by: str = "") -> None:
        """`served_by`: who handled the first message with this key."""
        request = job.request
        keep_length = request.method == "HEAD" or response.status == 304
        headers = carry_response(response.headers, keep_length)
        message = Response(
            request.id, response.status, headers, response.body, served_by or self._served_by, request.attempt
        )
        self._send_reply(job, encode_response(message))

    def fail(self, job: WaitedCall, problem: Problem) -> None:
        """Its answer is an error of the mesh."""
        request = job.request
        if request.mirrored:
            self._metrics.count(f"mirror_failed:{problem.code.value}")
            self.finish(job)
            return
        if not job.delivery.reply_to:  # nobody to tell: it must not vanish
            move = Move(request.id, 0, job.delivery, job.topic)
            self._settler.bury(move, Bury(problem.code.value, problem.detail), 0, job.sender, None, request)
            self.end(job)
            return
        retryable = TABLE[problem.code].retryable if problem.retryable is None else problem.retryable
        fault = Fault(request.id, problem.code, problem.detail, retryable, self._served_by)
        self._send_reply(job, encode_fault(fault))

    def _send_reply(self, job: WaitedCall, body: bytes) -> None:
        if not job.delivery.reply_to or job.request.mirrored:  # nobody wants it
            self.finish(job)
            return
        self._answered.put(job.request.id, 1)
        self._replies.put(job.request.id, body, job.delivery)
        self.end(job)

    # --- settling without an answer ---------------------------------------------------------------------------------------

    def give_back(self, job: WaitedCall, back: GiveBack) -> None:
        """To its queue again."""
        request = back.request
        waited_ms = job.waited_ms(self._clock.monotonic())
        left_ms = time_left_ms(request, self._clock.mesh_ms(), self._clock.synchronised, waited_ms)
        self._metrics.count(f"given_back:{back.reason.value}")
        if not job.delivery.live:
            self.let_go(job)
            return
        sender = job.sender
        copy = request._replace(left_ms=left_ms, proved_caller=sender.name if sender.proved else "")
        give_back(self._broker, job.topic, job.delivery, copy)
        self.end(job)

    def finish(self, job: WaitedCall) -> None:
        """Nobody wants an answer."""
        self._answered.put(job.request.id, 1)
        job.delivery.ack()
        self.end(job)

    def end(self, job: WaitedCall) -> None:
        """Its delivery is settled, or another's."""
        if job.token is not None:
            self._once.release(job.token)
            job.token = None
        ended, job.ended = job.ended, None
        if ended is not None:
            ended()

    def was_let_go(self, job: WaitedCall) -> bool:
        """Delivered once more than when it was let go of here: nobody else had it in between."""
        count, before = job.delivery.deliveries, self._let_go.get(job.request.id)
        return count is not None and before is not None and count == before + 1

    def let_go(self, job: WaitedCall) -> None:
        """It had not started, its connection is lost: it is the broker's again, and may come back to us."""
        count = job.delivery.deliveries
        if count is not None:
            self._let_go.put(job.request.id, count)
        self.end(job)

    def was_answered(self, job: WaitedCall) -> bool:
        return self._answered.get(job.request.id) is not None
