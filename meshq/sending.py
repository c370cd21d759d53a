"""Durable calls: accepted, answered with 202, and on their way without anybody waiting (INTERFACE part 3, `respond-async`).

The answer to one comes to its caller's service as a result (the results queue), whoever of its instances takes it. Who said
that he would wait a while (`wait=N`) gets a copy of it over the way of waited calls, if it comes in time.

Everything runs in callbacks: no task is made for a call.
"""

from collections.abc import Callable
from typing import Protocol

from meshq.core import topology
from meshq.core.callreq import Call, Durable, traced
from meshq.core.calls import Full
from meshq.core.errors import Code, Problem
from meshq.core.http import HttpResponse
from meshq.core.instances import Snapshot
from meshq.core.message import Fault, Request, Response, encode_request
from meshq.core.outcomes import as_result
from meshq.core.routing import Route, Routes, unheard_of, unroutable
from meshq.ports import Broker, Clock, Metrics, Publication
from meshq.randomness import Randomness
from meshq.sending_handover import Fate, Forwarder, Handover, Told
from meshq.sending_keys import KeyQueues
from meshq.tasks import Tasks

__all__ = ["Answers", "Fate", "Forwarder", "Sender", "Told"]

REQUESTS = "/v1/requests/"

Done = Callable[[HttpResponse], None]
Backlog = Callable[[str, str], Problem | None]
"""Service and queue -> what to refuse a message with because more than enough wait there."""


class Answers(Protocol):
    """The way of waited calls (meshq.calling.Caller)."""

    def expect(
        self, message_id: str, service: str, seconds: float, told: Callable[[Response | Fault | None], None]
    ) -> Callable[[], None]: ...
    def denial(self, exchange: str, key: str) -> Problem | None: ...


class Sender:
    """`accepted(id, service)` is called for every call that was accepted. `has_app`: there is an app to which a result could be
    posted. `always_spool`: MESHQ_ACK=spool."""

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
    ) -> None:
        self._broker = broker
        self._clock = clock
        self._metrics = metrics
        self._picture = picture
        self._service = service
        self._answers = answers
        self._accepted = accepted
        self._has_app = has_app
        self._backlog = backlog
        self._fresh = Randomness()
        self._routes = Routes()
        self._keys = KeyQueues(broker, clock, tasks)
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
        sending = _Sending(self, call, self._fresh(16).hex(), done, self._clock.monotonic())
        found = self._routes.find(call.address, self._picture())
        if isinstance(found, Problem):
            sending.refuse(found)
        else:
            self._check(sending, found, call.durable)
        return sending.give_up

    # --- a call -------------------------------------------------------------------------------------------------------------

    def _check(self, sending: "_Sending", found: Route, durable: Durable) -> None:
        call = sending.call
        queue = _queue(found.topic, call.key)
        if problem := self._objection(call, durable, queue):
            sending.refuse(problem)
        elif durable.delay and call.key:
            self._keys.ask(found.topic, lambda takes: self._go_keyed(sending, found, durable, takes))
        else:
            self._go(sending, found, durable)

    def _objection(self, call: Call, durable: Durable, queue: str) -> Problem | None:
        if durable.callback and not self._has_app:
            return Problem(Code.BAD_HEADER, "Meshq-Callback: there is no app behind this sidecar (MESHQ_APP_PORT)")
        if call.deadline_ms is not None and call.deadline_ms <= self._clock.mesh_ms():
            return Problem(Code.DEADLINE, "the deadline had passed before the call was sent", retryable=False)
        if durable.delay and (unknown := unheard_of(call.address, self._picture())):
            return unknown
        return self._backlog(call.address.service, queue)

    def _go_keyed(self, sending: "_Sending", found: Route, durable: Durable, takes_keys: bool) -> None:
        if takes_keys:
            self._go(sending, found, durable)
        else:
            sending.refuse(unroutable(sending.call.address, self._picture(), sending.call.key))

    def _go(self, sending: "_Sending", found: Route, durable: Durable) -> None:
        sending.topic = found.topic
        answer_to = self._broker.reply_to if durable.wait else ""
        if answer_to:
            try:
                sending.wait(self._answers, durable.wait)
            except Full:
                sending.refuse(Problem(Code.OVERLOADED, "too many calls already wait for an answer"))
                return
        self._handover.publish(self._publication(sending, found, durable, answer_to), sending.on_fate)

    def _publication(self, sending: "_Sending", found: Route, durable: Durable, answer_to: str) -> Publication:
        call = sending.call
        request = Request(
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
        if durable.delay:
            exchange, key = topology.DELAY, topology.delay_key(durable.delay, _queue(found.topic, call.key))
        else:
            exchange, key = topology.CALLS, _key(found.topic, call.key)
        reply_to = topology.results_key(self._service)
        return Publication(
            exchange, key, encode_request(request), sending.ident, "call", reply_to, priority=call.priority
        )

    def _denial(self, publication: Publication) -> Problem | None:
        return self._answers.denial(publication.exchange, publication.key)

    # --- what became of it --------------------------------------------------------------------------------------------------

    def note_accepted(self, sending: "_Sending") -> None:
        self._accepted(sending.ident, sending.call.address.service)

    def no_queue(self, call: Call) -> Problem:
        self._metrics.count("unroutable")
        return unroutable(call.address, self._picture(), call.key)

    def count(self, call: Call, code: str, since: float) -> None:
        # A name that the registry does not know is what a caller made up.
        service = call.address.service if call.address.service in self._picture().services else "unknown"
        self._metrics.call_answered(service, call.route, code, self._clock.monotonic() - since)


class _Sending:
    """One durable call until its sender has an answer."""

    __slots__ = ("_accepted", "_done", "_forget", "_sender", "_since", "_wait", "call", "ident", "topic")

    def __init__(self, sender: Sender, call: Call, ident: str, done: Done, since: float) -> None:
        self.call = call
        self.ident = ident
        self.topic = ""
        self._sender = sender
        self._done: Done | None = done
        self._since = since
        self._wait = 0
        """Seconds in which the answer itself would do, while that is so."""
        self._forget: Callable[[], None] | None = None
        self._accepted = False

    def wait(self, answers: Answers, seconds: int) -> None:
        """Raises Full."""
        self._forget = answers.expect(self.ident, self.call.address.service, seconds, self._on_answer)
        self._wait = seconds

    def give_up(self) -> None:
        """Nobody is there any more to take an answer."""
        if self._done is not None:
            self._end("hung-up")

    def refuse(self, problem: Problem) -> None:
        self._answer(problem.as_response(), problem.code.value)

    def on_fate(self, fate: Fate | Problem) -> None:
        if isinstance(fate, Problem):
            self.refuse(fate)
            return
        if fate is Fate.UNROUTABLE:
            self.refuse(self._sender.no_queue(self.call))
            return
        self._sender.note_accepted(self)
        # What the spool has goes out later, and by then there may be nobody at `answer_to`.
        if fate is Fate.CONFIRMED and self._wait:
            self._accepted = True
        else:
            self._answer(self._receipt(), "202")

    def _on_answer(self, answer: Response | Fault | None) -> None:
        wait, self._wait = self._wait, 0
        if answer is not None:
            response = as_result(answer, self.call.method)
            response.headers.append((b"Preference-Applied", b"respond-async, wait=%d" % wait))
            self._answer(response, str(response.status))
        elif self._accepted:
            self._answer(self._receipt(), "202")

    def _receipt(self) -> HttpResponse:
        ident = self.ident.encode()
        headers = [
            (b"Content-Type", b"application/json"),
            (b"Location", REQUESTS.encode() + ident),
            (b"Preference-Applied", b"respond-async"),
        ]
        body = b'{"id": "%b", "status": "accepted", "topic": "%b"}\n' % (ident, self.topic.encode())
        return HttpResponse(202, headers, body)

    def _answer(self, response: HttpResponse, code: str) -> None:
        done = self._done
        if done is not None:
            self._end(code)
            response.headers.append((b"Meshq-Message-Id", self.ident.encode()))
            done(response)

    def _end(self, code: str) -> None:
        self._done = None
        if self._forget is not None:
            self._forget()
        self._sender.count(self.call, code, self._since)


def _queue(topic: str, key: str) -> str:
    return topology.key_queue(topic, topology.partition_of(key)) if key else topology.work_queue(topic)


def _key(topic: str, key: str) -> str:
    return topology.key_key(topic, topology.partition_of(key)) if key else topology.work_key(topic)
