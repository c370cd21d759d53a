"""Durable messages in: calls that were accepted, events, results. `consuming` says which are taken, `handling` what becomes of each;
here a delivery is read, and it is known when nothing is left to do.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from meshq.core import dead
from meshq.core.breaker import Circuit
from meshq.core.delivery import Bury
from meshq.core.message import DecodeError, Fault, Message, Request, Response
from meshq.core.selectors import Selector
from meshq.ports import Broker, Clock, Delivery, Metrics, Store
from meshq_sidecar.consuming import Consuming
from meshq_sidecar.handling import Handling, TakeWaited
from meshq_sidecar.identity import Identity, sender_of
from meshq_sidecar.job import Consumer, Job, Source
from meshq_sidecar.local_app import LocalApp
from meshq_sidecar.once import OncePerKey
from meshq_sidecar.own_policy import OwnPolicy
from meshq_sidecar.reading import Asked, asked, read
from meshq_sidecar.settling import Move, Settler
from meshq_sidecar.shared_delivery import shared
from meshq_sidecar.timers import Timers

LAST_RESULTS = 2.0
"""Seconds for storing what came before the stop; a result that the store does not take within them is given back."""

TakeResult = Callable[[Response | Fault, str, Callable[[Request | None], None]], None]
"""Handles a result: it, the broker's word for who sent it, and what to call when it is stored: with the callback to make, if there
is one."""


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
        policy: OwnPolicy,
        settler: Settler,
        once: OncePerKey,
        store: Store,
        take_result: TakeResult,
        take_waited: TakeWaited,
        random: Callable[[], float],
    ) -> None:
        self._clock = clock
        self._metrics = metrics
        self._service = identity.service
        self._settler = settler
        self._take_result = take_result
        self._proves = broker.user == identity.service
        self._consuming = Consuming(
            broker, metrics, prefetch, self._on_delivery, lambda job: self._handling.put_back(job)
        )
        self._handling = Handling(
            broker,
            app,
            clock,
            metrics,
            identity,
            policy,
            settler,
            once,
            store,
            self._consuming,
            take_waited,
            self.check_idle,
            random,
        )
        self._storing: set[_Result] = set()
        self._idle: Callable[[], None] | None = None
        self._timers = Timers()

    # --- what to take -------------------------------------------------------------------------------------------------------

    def add(self, source: Source) -> None:
        """Consume it, whenever the app takes messages. Replaces an earlier source of that queue."""
        self._consuming.add(source)

    def remove(self, queue: str) -> None:
        self._consuming.remove(queue)

    def resume(self) -> None:
        """The app is ready: consume. Idempotent."""
        self._consuming.resume()

    def pause(self) -> None:
        """Take nothing more but results, and give back what has not started; what runs goes on. Idempotent."""
        self._consuming.pause()

    def set_prefetch(self, prefetch: int) -> None:
        """The most that is fetched at once from each queue from now on; 0: nothing but results."""
        self._consuming.set_prefetch(prefetch)

    def stop(self) -> None:
        """Take nothing more at all."""
        self._consuming.stop()
        if self._storing:
            self._timers.later(LAST_RESULTS, self._give_back_results)

    def when_idle(self, callback: Callable[[], None]) -> None:
        """Call back once nothing runs and everything is settled; at once if so already."""
        self._idle = callback
        self.check_idle()

    def check_idle(self) -> None:
        if self._idle is None or self._handling.running or self._storing or not self._settler.idle:
            return
        callback, self._idle = self._idle, None
        callback()

    async def close(self) -> None:
        """What is not settled yet stays in its queue."""
        self._timers.close()
        self._consuming.close()
        self._settler.close()
        await self._handling.close()

    @property
    def circuit(self) -> Circuit:
        return self._consuming.breaker.circuit

    @property
    def in_flight(self) -> int:
        return len(self._handling.running)

    @property
    def consuming(self) -> int:
        """Queues consumed."""
        return self._consuming.count

    # --- a delivery ---------------------------------------------------------------------------------------------------------

    def _on_delivery(self, consumer: Consumer, delivery: Delivery) -> None:
        source = consumer.source
        if consumer.subscription is None:  # it was on its way when we stopped taking any
            delivery.requeue()
            return
        try:
            found = [self._read(message, delivery) if source.results else asked(message) for message in read(delivery)]
        except DecodeError as error:
            self._settler.bury_unread(delivery, source.topic, Bury(dead.UNDECODABLE, str(error)))
            return
        settled = shared(delivery, len(found))
        for each in found:
            if isinstance(each, Asked):
                self._on_request(consumer, settled, each.request, each.selector)
            else:
                self._on_result(consumer, settled, each)

    def _read(self, message: Message, delivery: Delivery) -> Response | Fault | Asked:
        """What may lie among the results: those, and callbacks of ours that are tried again. Raises DecodeError."""
        if isinstance(message, Response | Fault):
            return message
        if self._proves and delivery.user_id != self._service:
            raise DecodeError(f"a {type(message).__name__} of {delivery.user_id!r} lies in the queue for results")
        return asked(message)

    def _on_request(self, consumer: Consumer, delivery: Delivery, request: Request, selector: Selector | None) -> None:
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
        self._handling.take(self._job(consumer, delivery, request, selector))

    def _job(self, consumer: Consumer, delivery: Delivery, request: Request, selector: Selector | None) -> Job:
        sender = sender_of(request, delivery.user_id, self._service, self._proves)
        return Job(consumer, delivery, request, selector, sender, self._clock.monotonic())

    def _goes_on(self, consumer: Consumer, delivery: Delivery, request: Request) -> bool:
        """Whether this message, delivered again after a lost connection, is here still: on its way out, at the app, or waiting
        for its turn, which it then keeps."""
        if self._settler.goes_on(request.id, request.attempt, delivery):
            return True
        if not request.durable:  # whether a waited call had begun, Inbound knows
            return False
        for job in (*self._handling.running, *consumer.unstarted):
            if job.came_as(delivery, request):
                job.delivery = delivery
                return True
        return False

    # --- results --------------------------------------------------------------------------------------------------------------

    def _on_result(self, consumer: Consumer, delivery: Delivery, message: Response | Fault) -> None:
        if delivery.redelivered and self._settler.goes_on(message.id, 0, delivery):
            return
        result = _Result(consumer, delivery, message)
        self._storing.add(result)
        self._take_result(message, delivery.user_id, partial(self._on_stored, result))

    def _on_stored(self, result: "_Result", callback: Request | None) -> None:
        if result not in self._storing:  # it was given back meanwhile
            return
        self._storing.discard(result)
        consumer, delivery = result.consumer, result.delivery
        if callback is None:
            self._settler.end(Move(result.message.id, 0, delivery))
        elif delivery.live and not (delivery.redelivered and self._goes_on(consumer, delivery, callback)):
            self._handling.take_callback(self._job(consumer, delivery, callback, None))
        self.check_idle()

    def _give_back_results(self) -> None:
        """The store is away, so somebody else stores them, or we do after the next start."""
        storing, self._storing = self._storing, set()
        for result in storing:
            result.delivery.requeue()
        self.check_idle()


@dataclass(eq=False)
class _Result:
    """One that is being stored."""

    consumer: Consumer
    delivery: Delivery
    message: Response | Fault
