"""What becomes of one durable message: its turn comes, there is room, the app is asked, and by what it makes of it the message goes
one of the ways out. Steps 8 and 9 of DESIGN part 3 for what nobody waits for.

What has not started can be given back at any time; nothing of it is lost, nor an attempt burnt.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from functools import partial

from meshq.core import dead
from meshq.core.delivery import Again, Bury, Done, PutBack, Start, before_work, settle_work, time_left_ms
from meshq.core.errors import Code, Problem
from meshq.core.http import Failed, HttpResponse, header
from meshq.core.message import Request
from meshq.core.ordering import Lanes
from meshq.core.selectors import Selector
from meshq.ports import Broker, Clock, Delivery, Metrics, Store, StoreAway
from meshq.tasks import Tasks
from meshq_sidecar.consuming import Consuming
from meshq_sidecar.identity import Identity
from meshq_sidecar.job import Job
from meshq_sidecar.local_app import LocalApp
from meshq_sidecar.once import Answer, Away, Handle, NotKept, OncePerKey, Reused, Verdict
from meshq_sidecar.own_policy import OwnPolicy
from meshq_sidecar.settling import Settler
from meshq_sidecar.ways_out import WaysOut

TakeWaited = Callable[[str, Delivery, Request, Selector | None, Callable[[], None]], None]
"""Handles a waited call that came with a key: topic, delivery, request, selector, what to call when it is settled."""


class Handling:
    """`idle` is called whenever nothing waits for room. `random` gives numbers from 0 to 1."""

    def __init__(
        self,
        broker: Broker,
        app: LocalApp,
        clock: Clock,
        metrics: Metrics,
        identity: Identity,
        policy: OwnPolicy,
        settler: Settler,
        once: OncePerKey,
        store: Store,
        consuming: Consuming,
        take_waited: TakeWaited,
        idle: Callable[[], None],
        random: Callable[[], float],
    ) -> None:
        self._app = app
        self._clock = clock
        self._metrics = metrics
        self._identity = identity
        self._policy = policy
        self._once = once
        self._store = store
        self._consuming = consuming
        self._take_waited = take_waited
        self._idle = idle
        self._random = random
        self._ways_out = WaysOut(
            broker, clock, metrics, str(identity), settler, once, self._over, consuming.still, self._wait_for_room
        )
        self._waiting: deque[Job] = deque()
        """Whose turn it is, as soon as there is room at the app."""
        self._unasked: list[Job] = []
        """Durable calls of this turn of the loop that may have been cancelled."""
        self.running: set[Job] = set()
        """At the app."""
        self._tasks = Tasks()
        app.gate.pull(self._pull)

    async def close(self) -> None:
        self._ways_out.close()
        await self._tasks.close()

    # --- its turn -----------------------------------------------------------------------------------------------------------

    def take(self, job: Job) -> None:
        """It came."""
        job.consumer.unstarted[job] = None
        if job.lanes is None or job.lanes.arrive(job.request.key, job):
            self._turn(job)

    def take_callback(self, job: Job) -> None:
        """It was made of a result, which comes in also while the app takes nothing."""
        if job.consumer.subscription is None:
            self._ways_out.not_now(job)
        else:
            job.consumer.unstarted[job] = None
            self._wait_for_room(job)

    def put_back(self, job: Job) -> None:
        """It has not started."""
        self._ways_out.put_back(job)

    def _turn(self, job: Job) -> None:
        """Nothing of its key is before it."""
        if job.dropped or job.consumer.stopping:  # in the latter case it is put back soon
            return
        request, source = job.request, job.consumer.source
        if not request.durable:
            job.leave()
            job.begin()
            self._take_waited(source.topic, job.delivery, request, job.selector, partial(self._over, job))
            return
        refusal = self._policy.refusal(job.sender) if source.calls else None
        if refusal is not None:
            job.leave()
            self._ways_out.bury(job, Bury(dead.DENIED, refusal.detail))
        elif request.event or request.attempt > 1 or request.mirrored or not job.delivery.reply_to:
            self._wait_for_room(job)
        else:
            if not self._unasked:
                asyncio.get_running_loop().call_soon(self._ask_whether_cancelled)
            self._unasked.append(job)

    def _ask_whether_cancelled(self) -> None:
        jobs, self._unasked = self._unasked, []
        self._tasks.start(self._start_those_not_cancelled(jobs), "ask which durable calls were cancelled")

    async def _start_those_not_cancelled(self, jobs: list[Job]) -> None:
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
                job.leave()
                self._ways_out.end(job)

    def _over(self, job: Job) -> None:
        """It is settled, or the broker's again."""
        job.end()
        self._ways_out.release(job)
        if job.lanes is not None:
            self._next_of_key(job, job.lanes)

    def _next_of_key(self, job: Job, lanes: Lanes[Job]) -> None:
        consumer = job.consumer
        following = lanes.leave(job.request.key)
        if consumer.lanes is not lanes:  # given up meanwhile
            return
        if consumer.stopping:
            self._consuming.still(consumer)
        elif following is not None:
            # Not from in here: a key may have hundreds that end as soon as they begin.
            asyncio.get_running_loop().call_soon(self._turn, following)

    # --- room -----------------------------------------------------------------------------------------------------------------

    def _wait_for_room(self, job: Job) -> None:
        room = self._app.gate.free and not self._waiting and self._consuming.lets_begin
        if room or not self._consuming.app_takes:  # in the latter case it goes elsewhere
            self._begin(job)
        else:
            self._waiting.append(job)

    def _pull(self) -> bool:
        while self._waiting and self._consuming.lets_begin:
            job = self._waiting.popleft()
            if not job.dropped:
                self._begin(job)
                return True
        self._idle()
        return False

    # --- at the app -----------------------------------------------------------------------------------------------------------

    def _begin(self, job: Job) -> None:
        if job.consumer.stopping:
            return
        if not job.delivery.live:  # the broker has it again
            job.leave()
            self._over(job)
            return
        if not self._consuming.app_takes:  # a callback
            job.leave()
            self._ways_out.not_now(job)
            return
        request = job.request
        waited_ms = int((self._clock.monotonic() - job.received) * 1000)
        left_ms = time_left_ms(request, self._clock.mesh_ms(), self._clock.synchronised, waited_ms)
        decision = before_work(request, job.selector, self._identity.version, left_ms)
        match decision:
            case Start():
                self._start(job)
            case Again():
                job.leave()
                self._ways_out.again(job, decision)
            case Bury():
                job.leave()
                self._ways_out.bury(job, decision)

    def _start(self, job: Job) -> None:
        request, source = job.request, job.consumer.source
        if job.token is None and header(request.headers, b"idempotency-key") is not None:
            verdict = partial(self._on_verdict, job)
            self._once.begin(request, source.topic, job.sender.scope, verdict, source.path)
            return
        job.leave()
        job.begin()
        self.running.add(job)
        self._consuming.begins()
        target = request.target if source.path is None else source.path
        done = partial(self._on_outcome, job)
        self._app.ask(request, source.topic, job.sender, target, done, event=request.event, result=source.results)

    def _on_verdict(self, job: Job, verdict: Verdict) -> None:
        if job.dropped:
            if isinstance(verdict, Handle):
                self._once.release(verdict.token)
            return
        if isinstance(verdict, Handle):
            job.token = verdict.token
            self._wait_for_room(job)
            return
        job.leave()
        match verdict:
            case Answer(response, served_by):
                self._ways_out.done(job, Done(response), served_by)
            case NotKept():
                self._ways_out.done(job, Done(Problem(Code.ANSWER_NOT_KEPT, verdict.detail)))
            case Reused():
                why = Bury(dead.KEY_REUSED, "its Idempotency-Key was used before with another body")
                self._ways_out.bury(job, why)
            case Away():
                self._ways_out.not_now(job)

    # --- what the app made of it ----------------------------------------------------------------------------------------------

    def _on_outcome(self, job: Job, outcome: HttpResponse | Failed) -> None:
        decision = settle_work(job.request, outcome, self._policy.retry, self._random(), self._clock.mesh_ms())
        token, job.token = job.token, None
        if token is not None and isinstance(decision, Done):
            self._once.finish(token, outcome, partial(self._on_kept, job, decision))
            self._consuming.ended(outcome)
            return
        if token is not None:
            self._once.release(token)
        self.running.discard(job)
        match decision:
            case Done():
                self._ways_out.done(job, decision)
            case Again():
                self._app.counts.failed(job.consumer.source.topic)
                self._ways_out.again(job, decision)
            case Bury():
                self._app.counts.failed(job.consumer.source.topic)
                self._ways_out.bury(job, decision)
            case PutBack() if job.lanes is not None:  # it keeps its place until the app is found not ready
                self._ways_out.again_here(job, Again(job.request, 1))
            case PutBack():
                self._ways_out.put_back(job)
        self._consuming.ended(outcome)

    def _on_kept(self, job: Job, decision: Done) -> None:
        self.running.discard(job)
        self._ways_out.done(job, decision)
        self._idle()
