"""Durable calls: accepted, answered with 202, and on their way without anybody waiting (INTERFACE part 3, `respond-async`).

The answer to one comes to its caller's service as a result (the results queue), whoever of its instances takes it. Who said
that he would wait a while (`wait=N`) gets a copy of it over the way of waited calls, if it comes in time.

Everything runs in callbacks: no task is made for a call.
"""

from collections.abc import Callable

from meshq.core import topology
from meshq.core.callreq import Call, Durable, traced
from meshq.core.calls import Full
from meshq.core.errors import Code, Problem
from meshq.core.instances import Snapshot
from meshq.core.message import Request, encode_request
from meshq.core.places import Backlog, Place, work_place
from meshq.core.routing import Absent, Route, Routes, unheard_of, unroutable
from meshq.ports import Broker, Clock, Metrics, Publication
from meshq.randomness import Randomness
from meshq.sending_call import REQUESTS, Answers, Done, Sending
from meshq.sending_copies import Copying
from meshq.sending_handover import Fate, Forwarder, Handover, Told
from meshq.sending_keys import KeyQueues
from meshq.tasks import Tasks

__all__ = ["REQUESTS", "Answers", "Fate", "Forwarder", "Sender", "Told"]


class Sender:
    """`accepted(id, service)` is called for every call that was accepted. `has_app`: there is an app to which a result could be
    posted. `always_spool`: MESHQ_ACK=spool. `wake` is called with a topic that nobody is there for."""

    def __init__(
        self,
        broker: Broker,
        clock: Clock,
        metrics: Metrics,
        picture: Callable[[], Snapshot],
        service: str,
        answers: Answers,
        tasks: Tasks,
        accepted: Callable[[str, str], None],
        *,
        has_app: bool,
        spool: Forwarder | None = None,
        always_spool: bool = False,
        backlog: Backlog = lambda service, queue: None,
        wake: Callable[[str], None] = lambda topic: None,
    ) -> None:
        self._broker = broker
        self._clock = clock
        self._metrics = metrics
        self._picture = picture
        self._service = service
        self._answers = answers
        self._accepted = accepted
        self.has_app = has_app
        self._backlog = backlog
        self._wake = wake
        self._fresh = Randomness()
        self._routes = Routes(service)
        self._keys = KeyQueues(broker, clock, tasks)
        self._copying = Copying(broker, metrics, self._keys, self._objection_to_copy, self._fresh)
        self._handover = Handover(broker, clock, self._denial, spool, always_spool=always_spool)

    def __len__(self) -> int:
        """Publications whose fate is not known yet."""
        return len(self._handover)

    def publish(self, publication: Publication, done: Told) -> None:
        """Hand over any durable message: `done` gets what became of it, exactly once, possibly before this returns. With
        CONFIRMED and SPOOLED it will not be lost; with a Problem its sender has to be told."""
        self._handover.publish(publication, done)

    def send(self, call: Call, done: Done) -> Callable[[], None]:
        """A call with `durable` set. `done` is called exactly once, possibly before this returns. Returns a function for a
        caller that is gone: the call goes on, `done` is not called any more."""
        assert call.durable is not None
        sending = Sending(self, call, self._fresh(16), done, self._clock.monotonic())
        found = self._routes.find(call, self._picture(), sending.random)
        if isinstance(found, Problem):
            if isinstance(found, Absent) and found.wakes:
                self._wake(found.wakes)
            sending.refuse(found)
        else:
            self._check(sending, found, call.durable)
        return sending.give_up

    # --- a call -------------------------------------------------------------------------------------------------------------

    def _check(self, sending: Sending, found: Route, durable: Durable) -> None:
        call = sending.call
        place = work_place(found.topic, call.key, durable.delay)
        if problem := self._objection(call, durable, place):
            sending.refuse(problem)
        elif durable.delay and call.key:
            self._keys.ask(found.topic, lambda takes: self._go_keyed(sending, found, durable, place, takes))
        else:
            self._go(sending, found, durable, place)

    def _objection(self, call: Call, durable: Durable, place: Place) -> Problem | None:
        if durable.callback and not self.has_app:
            return Problem(
                Code.BAD_HEADER,
                "Meshq-Callback: no app is there behind this sidecar (MESHQ_APP_PORT, or a link that serves)",
            )
        if call.deadline_ms is not None and call.deadline_ms <= self._clock.mesh_ms():
            return Problem(Code.DEADLINE, "the deadline had passed before the call was sent", retryable=False)
        if durable.delay and (unknown := unheard_of(call.address, self._picture())):
            return unknown
        return self._backlog(call.address.service, place.queue)

    def _go_keyed(self, sending: Sending, found: Route, durable: Durable, place: Place, takes_keys: bool) -> None:
        if takes_keys:
            self._go(sending, found, durable, place)
        else:
            sending.refuse(unroutable(sending.call.address, self._picture(), sending.call.key))

    def _go(self, sending: Sending, found: Route, durable: Durable, place: Place) -> None:
        sending.route = found
        answer_to = self._broker.reply_to if durable.wait else ""
        if answer_to:
            try:
                sending.wait(self._answers, durable.wait)
            except Full:
                sending.refuse(Problem(Code.OVERLOADED, "too many calls already wait for an answer"))
                return
        self._answers.usage.note(found.topic, self._clock.monotonic())
        if found.wakes and not durable.delay:
            self._wake(found.wakes)
        if found.event:
            self._metrics.count(found.event)
        sending.request = self._request(sending, found, durable, answer_to)
        reply_to = topology.results_key(self._service)
        made = Publication(
            place.exchange, place.key, encode_request(sending.request), sending.ident, "call", reply_to,
            priority=sending.call.priority,
        )  # fmt: skip
        self._handover.publish(made, sending.on_fate)

    def _request(self, sending: Sending, found: Route, durable: Durable, answer_to: str) -> Request:
        call = sending.call
        return Request(
            sending.ident,
            call.method,
            call.target,
            traced(call, self._fresh(24)) if call.needs_trace else call.headers,
            call.body,
            self._service,
            found.selector,
            call.deadline_ms,
            accepted_ms=self._clock.mesh_ms(),
            key=call.key,
            callback=durable.callback,
            answer_to=answer_to,
        )

    def _denial(self, publication: Publication) -> Problem | None:
        return self._answers.denial(publication.exchange, publication.key)

    def _objection_to_copy(self, service: str, place: Place) -> Problem | None:
        return self._answers.denial(place.exchange, place.key) or self._backlog(service, place.queue)

    # --- what became of it: meshq.sending_call.Owner ------------------------------------------------------------------------

    def note_accepted(self, sending: Sending) -> None:
        call, route, request = sending.call, sending.route, sending.request
        self._accepted(sending.ident, call.address.service)
        assert route is not None
        assert request is not None
        assert call.durable is not None
        sending.request = None
        if route.copies is not None and route.copies.take(sending.random):
            self._copying.copy(route.copies.topic, call.address.service, request, call.durable.delay, call.priority)

    def no_queue(self, sending: Sending) -> Problem:
        self._metrics.count("unroutable")
        call = sending.call
        if sending.route is not None:
            self._answers.usage.forget(sending.route.topic)
        return unroutable(call.address, self._picture(), call.key)

    def count(self, call: Call, code: str, since: float) -> None:
        # A name that the registry does not know is what a caller made up.
        service = call.address.service if call.address.service in self._picture().services else "unknown"
        self._metrics.call_answered(service, call.route, code, self._clock.monotonic() - since)
