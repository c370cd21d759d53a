"""What durable messages are taken: queues are consumed while the app is ready, works (its circuit) and has room at all (its
capacity). Results of this service's own calls are taken always, because they need no app.

A circuit that is half open lets one message be tried: every queue is consumed for one, and of those that come one goes to the app;
the others wait here for its outcome.
"""

import logging
from collections.abc import Callable
from functools import partial

from meshq.core.breaker import Breaker, Circuit, unwell
from meshq.core.http import Failed, HttpResponse
from meshq.core.ordering import Lanes
from meshq.ports import Broker, Delivery, Metrics
from meshq_sidecar.job import Consumer, Job, Source
from meshq_sidecar.timers import Timers

logger = logging.getLogger(__name__)


class Consuming:
    """`deliver` takes a delivery, `put_back` gives back a job that has not started. `prefetch`: the most that is fetched at once
    from each queue."""

    def __init__(
        self,
        broker: Broker,
        metrics: Metrics,
        prefetch: int,
        deliver: Callable[[Consumer, Delivery], None],
        put_back: Callable[[Job], None],
    ) -> None:
        self.consumers: dict[str, Consumer] = {}
        """By queue."""
        self.breaker = Breaker()
        self._broker = broker
        self._metrics = metrics
        self._prefetch = prefetch
        self._prefetch_of_results = prefetch
        self._deliver = deliver
        self._put_back = put_back
        self._ready = False
        self._stopped = False
        self._tried = False
        """Half open, and the one message is at the app."""
        self._timers = Timers()

    @property
    def count(self) -> int:
        """Queues consumed."""
        return sum(consumer.subscription is not None for consumer in self.consumers.values())

    @property
    def app_takes(self) -> bool:
        return self._ready and self._prefetch > 0 and self.breaker.circuit is not Circuit.OPEN

    @property
    def lets_begin(self) -> bool:
        """Whether one more may go to the app, as far as the circuit says."""
        return not self._tried or self.breaker.circuit is not Circuit.HALF_OPEN

    # --- the sources --------------------------------------------------------------------------------------------------------

    def add(self, source: Source) -> None:
        """Consume it, whenever the app takes messages. Replaces an earlier source of that queue."""
        self.remove(source.queue)
        self.consumers[source.queue] = Consumer(source)
        self._consume()

    def remove(self, queue: str) -> None:
        consumer = self.consumers.pop(queue, None)
        if consumer is not None:
            self._stop(consumer)

    # --- the app --------------------------------------------------------------------------------------------------------------

    def resume(self) -> None:
        """It is ready. Idempotent."""
        self._ready = True
        self._consume()

    def pause(self) -> None:
        """It is not: give back what has not started. Idempotent."""
        self._ready = False
        self._stop_all_but_results()

    def stop(self) -> None:
        """Take nothing more at all."""
        self._stopped = True
        self.pause()
        for consumer in self.consumers.values():
            self._stop(consumer)

    def close(self) -> None:
        self._timers.close()

    def set_prefetch(self, prefetch: int) -> None:
        """0: nothing but results. What came already stays, as far as the new prefetch has room for it."""
        self._prefetch = prefetch
        for consumer in self.consumers.values():
            if consumer.source.results:
                if not prefetch:  # callbacks that wait for room, of which there will be none
                    self._put_back_beyond(consumer, 0)
            elif not prefetch:
                self._stop(consumer)
            elif consumer.lanes is None:  # of an ordered queue nobody else could take what is not fetched
                self._subscribe_anew(consumer)
        self._consume()

    # --- the circuit ----------------------------------------------------------------------------------------------------------

    def begins(self) -> None:
        """A message goes to the app."""
        if self.breaker.circuit is Circuit.HALF_OPEN:
            self._tried = True

    def ended(self, outcome: HttpResponse | Failed) -> None:
        """What the app made of one."""
        if not unwell(outcome):
            if self.breaker.succeeded():
                logger.info("the app works again: all messages are taken")
                self._take_all()
            return
        seconds = self.breaker.failed()
        if seconds is not None:
            logger.warning("the app failed again and again: no durable messages are taken for %g s", seconds)
            self._metrics.count("circuit_opened")
            self._stop_all_but_results()
            self._timers.later(seconds, self._try_one)

    def _try_one(self) -> None:
        self.breaker.try_one()
        self._tried = False
        self._consume()

    def _take_all(self) -> None:
        """With the whole prefetch again."""
        for consumer in self.consumers.values():
            if consumer.source.results:
                continue
            if consumer.lanes is None:
                self._subscribe_anew(consumer)
            else:
                self._stop(consumer)
        self._consume()

    # --- subscriptions --------------------------------------------------------------------------------------------------------

    def still(self, consumer: Consumer) -> None:
        """One of its jobs ended while it is `stopping`."""
        if not consumer.begun:
            self._stop(consumer)
            self._consume()

    def _consume(self) -> None:
        for consumer in self.consumers.values():
            takes = consumer.source.results or self.app_takes
            if takes and not self._stopped and consumer.subscription is None and not consumer.stopping:
                self._subscribe(consumer)

    def _subscribe(self, consumer: Consumer) -> None:
        source = consumer.source
        if source.results:
            prefetch = self._prefetch_of_results
        else:
            prefetch = 1 if self.breaker.circuit is Circuit.HALF_OPEN else self._prefetch
        consumer.subscription = self._broker.subscribe(source.queue, prefetch, partial(self._deliver, consumer))

    def _subscribe_anew(self, consumer: Consumer) -> None:
        """With the present prefetch. What came before it can be settled still, so only what is beyond is put back."""
        if consumer.subscription is None:
            return
        consumer.subscription.cancel()
        self._put_back_beyond(consumer, self._prefetch - consumer.begun)
        self._subscribe(consumer)

    def _put_back_beyond(self, consumer: Consumer, most: int) -> None:
        for job in list(consumer.unstarted)[max(0, most) :]:
            self._put_back(job)

    def _stop_all_but_results(self) -> None:
        for consumer in self.consumers.values():
            if not consumer.source.results:
                self._stop(consumer)

    def _stop(self, consumer: Consumer) -> None:
        if consumer.subscription is None:
            return
        if consumer.lanes is not None and consumer.begun:
            consumer.stopping = True
            return
        consumer.stopping = False
        subscription, consumer.subscription = consumer.subscription, None
        subscription.cancel()
        self._put_back_beyond(consumer, 0)
        if consumer.lanes is not None:
            consumer.lanes = Lanes()
