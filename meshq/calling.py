"""Waited calls: a Call becomes a message on a topic, its reply or its failure becomes a response (steps 4 to 6 and 10 of
DESIGN part 3). The sidecar's outbound side, the control API and the gateway all call through this.

Everything runs in callbacks: no task is made for a call. A call is in the table of those that wait from before it is sent until
it has exactly one answer; whatever comes for it after that is counted and dropped.
"""

import logging
from collections.abc import Callable

from meshq.calling_copies import Copying
from meshq.calling_counts import CallCounts
from meshq.calling_denials import Denials
from meshq.calling_expected import Expected
from meshq.calling_outgoing import Outgoing
from meshq.calling_waiting import Done, Waiting, WaitingCalls
from meshq.core import topology
from meshq.core.callreq import Call, traced
from meshq.core.delivery import safe_to_repeat
from meshq.core.deprecations import tell
from meshq.core.errors import Code, Problem
from meshq.core.fields import DEFAULT_TIMEOUT_MS
from meshq.core.http import HttpResponse
from meshq.core.instances import Snapshot, State
from meshq.core.message import DecodeError, Fault, Message, Request, Response, decode
from meshq.core.outcomes import as_response
from meshq.core.places import Backlog, Place, call_place
from meshq.core.reports import Calls
from meshq.core.routing import Absent, Routes, unroutable
from meshq.core.standing import panics
from meshq.core.usage import Usage
from meshq.ports import Broker, Clock, Delivery, Metrics
from meshq.randomness import Randomness

logger = logging.getLogger(__name__)


class Caller:
    """`picture` gives the latest snapshot of the registry. `usage` is noted in for every topic that is called; `wake` is called with one
    that nobody is there for."""

    def __init__(
        self,
        broker: Broker,
        clock: Clock,
        metrics: Metrics,
        picture: Callable[[], Snapshot],
        service: str,
        instance: str,
        backlog: Backlog = lambda service, queue: None,
        wake: Callable[[str], None] = lambda topic: None,
    ) -> None:
        self._broker = broker
        self._clock = clock
        self._metrics = metrics
        self._picture = picture
        self._service = service
        self._backlog = backlog
        self._wake = wake
        self._fresh = Randomness()
        self._routes = Routes(service)
        self._waiting = WaitingCalls(clock, lambda waiting: self._outgoing.forget(waiting.request.id), self._on_expired)
        self._denials = Denials(clock)
        self._copying = Copying(broker, metrics, self._objection, self._fresh)
        # Where every service has a broker user of its own name, a reply proves who sent it.
        self._proves = broker.user == service
        self._expected = Expected(clock)
        self.expect = self._expected.expect
        self.denial = self._denials.find
        self.usage = Usage()
        self._counts = CallCounts()
        broker.open_replies(service, instance, self)
        self._outgoing = Outgoing(broker, clock, metrics, picture, self._waiting, self._answer_problem)

    def __len__(self) -> int:
        """How many wait for an answer."""
        return len(self._waiting) + len(self._expected)

    def calls(self) -> dict[str, Calls]:
        """By topic, what became of those with no ordering key."""
        return self._counts.by_topic((each for _, each in self._waiting.entries()), self._clock.monotonic())

    def call(self, call: Call, done: Done) -> Callable[[], None]:
        """Send it; `done` is called exactly once, possibly before this returns. Returns a function to give up waiting, after
        which `done` is not called."""
        random = self._fresh(16)
        message_id = random.hex()
        now = self._clock.monotonic()
        found = self._routes.find(call, self._picture(), random)
        if isinstance(found, Problem):
            if isinstance(found, Absent) and found.wakes:
                self._wake(found.wakes)
            return self._refuse(call, message_id, found, done, now)
        place = call_place(found.topic, call.key)
        problem = self._objection(call.address.service, place)
        if problem is not None:
            return self._refuse(call, message_id, problem, done, now)
        mesh_ms = self._clock.mesh_ms()
        timeout_ms = call.timeout_ms or found.timeout_ms or DEFAULT_TIMEOUT_MS
        left_ms = timeout_ms if call.deadline_ms is None else min(timeout_ms, call.deadline_ms - mesh_ms)
        if left_ms <= 0:
            problem = Problem(Code.DEADLINE, "the deadline had passed before the call was sent", retryable=False)
            return self._refuse(call, message_id, problem, done, now)
        request = self._request(call, message_id, found.selector, mesh_ms + left_ms, left_ms)
        waiting = Waiting(call, request, found, place.key, done, now)
        full = self._waiting.open(message_id, now + left_ms / 1000, waiting)
        if full is not None:
            return self._refuse(call, message_id, full, done, now)
        if not self._outgoing.send(waiting, left_ms, whole=left_ms == timeout_ms):
            self._waiting.take(message_id)
            return self._refuse(call, message_id, self._outgoing.away(), done, now)
        self.usage.note(found.topic, now)
        self._counts.sent(waiting)
        if found.wakes:
            self._wake(found.wakes)
        if found.event:
            self._metrics.count(found.event)
        if found.copies is not None and found.copies.take(random):
            self._copying.copy(found.copies.topic, call.address.service, request, left_ms, call.priority)
        return lambda: self._give_up(message_id)

    # --- answers: ports.ReplyHandler --------------------------------------------------------------------------------------

    def on_reply(self, correlation_id: str, delivery: Delivery) -> None:
        try:
            messages = decode(delivery.body)
        except DecodeError as error:
            logger.error("a reply to %s cannot be read: %s", correlation_id, error)
            self._metrics.count("undecodable")
            return
        for message in messages:
            self._on_message(message, delivery.user_id)

    def on_unroutable(self, message_id: str) -> None:
        for ident in self._outgoing.unpack(message_id):
            waiting = self._waiting.take(ident)
            if waiting is not None:
                self._metrics.count("unroutable")
                self.usage.forget(waiting.route.topic)
                self._counts.forget(waiting)
                call = waiting.call
                self._answer_problem(waiting, unroutable(call.address, self._picture(), call.key))

    def on_replies_lost(self) -> None:
        """What was asked before this may have been done, and its answer cannot arrive: ask again where that is safe."""
        self._outgoing.on_replies_lost()
        for message_id, waiting in self._outgoing.sent():
            if safe_to_repeat(waiting.request):
                self._outgoing.ask_again(message_id)
                continue
            self._waiting.take(message_id)
            problem = Problem(
                Code.BAD_GATEWAY,
                f"the connection to the broker was lost while this {waiting.request.method} waited for its answer; whether "
                "it was done is not known, and it is not repeated because that may do it twice",
                retryable=False,
            )
            self._answer_problem(waiting, problem)

    def on_refused(self, exchange: str, key: str, reason: str) -> None:
        problem = self._denials.add(exchange, key, reason)
        if exchange != topology.CALLS:
            return
        for message_id, waiting in self._outgoing.sent():
            if key in ("", waiting.key):
                self._waiting.take(message_id)
                self._answer_problem(waiting, problem)

    def on_sends_lost(self) -> None:
        """What was sent last may not have reached the broker. Replies still arrive, so the rest just waits."""
        for message_id, waiting in self._outgoing.sent():
            if safe_to_repeat(waiting.request):
                self._outgoing.ask_again(message_id)

    # --- inside -----------------------------------------------------------------------------------------------------------

    def _on_message(self, message: Message, user_id: str) -> None:
        if not isinstance(message, Response | Fault):
            self._metrics.count("undecodable")
            return
        waiting = self._waiting.get(message.id)
        service = self._expected.service(message.id) if waiting is None else waiting.call.address.service
        if not service:
            self._metrics.count("late_reply")
            return
        if self._proves and user_id != service:
            logger.warning("a reply to a call of %s came from the broker's user %r", service, user_id)
            self._metrics.count("forged_reply")
            return
        if waiting is None:
            self._expected.tell(message)
            return
        self._waiting.take(message.id)
        self._answer(waiting, as_response(message, waiting.request.method))

    def _objection(self, service: str, place: Place) -> Problem | None:
        return self.denial(place.exchange, place.key) or self._backlog(service, place.queue)

    def _request(self, call: Call, message_id: str, selector: str, deadline_ms: int, left_ms: int) -> Request:
        headers = traced(call, self._fresh(24)) if call.needs_trace else call.headers
        return Request(
            message_id, call.method, call.target, headers, call.body, self._service, selector, deadline_ms, left_ms,
            key=call.key,
        )  # fmt: skip

    def _give_up(self, message_id: str) -> None:
        waiting = self._waiting.take(message_id)
        if waiting is not None:
            self._counts.answered(waiting)
            self._count(waiting.call, "hung-up", waiting.since)

    # --- answers ----------------------------------------------------------------------------------------------------------

    def _refuse(self, call: Call, message_id: str, problem: Problem, done: Done, since: float) -> Callable[[], None]:
        response = problem.as_response()
        response.headers.append((b"Meshq-Message-Id", message_id.encode()))
        self._count(call, problem.code.value, since)
        done(response)
        return _nothing

    def _answer_problem(self, waiting: Waiting, problem: Problem) -> None:
        self._answer(waiting, problem.as_response())

    def _answer(self, waiting: Waiting, response: HttpResponse) -> None:
        self._counts.answered(waiting)
        self._respond(waiting, response)

    def _respond(self, waiting: Waiting, response: HttpResponse) -> None:
        if waiting.route.told:
            tell(response.headers, waiting.route.told)
        response.headers.append((b"Meshq-Message-Id", waiting.request.id.encode()))
        error = next((v.decode() for n, v in response.headers if n == b"Meshq-Error"), "")
        self._count(waiting.call, error or str(response.status), waiting.since)
        waiting.done(response)

    def _count(self, call: Call, code: str, since: float) -> None:
        # A name that the registry does not know is what a caller made up.
        service = call.address.service if call.address.service in self._picture().services else "unknown"
        self._metrics.call_answered(service, call.route, code, self._clock.monotonic() - since)

    def _on_expired(self, waiting: Waiting) -> None:
        self._counts.expired(waiting)
        safe = safe_to_repeat(waiting.request)
        problem = Problem(Code.DEADLINE, self._why_no_answer(waiting), retryable=safe)
        self._respond(waiting, problem.as_response())

    def _why_no_answer(self, waiting: Waiting) -> str:
        name = waiting.call.address.service
        waited = f"no answer from {waiting.route.topic} within {(waiting.request.left_ms or 0) / 1000:g} s"
        fault = self._broker.state.fault
        if fault:
            return f"{waited}: {fault}"
        service = self._picture().services.get(name)
        if service is not None and panics(service):
            return f"{waited}: every instance of {name} is unhealthy"
        if service is None or not any(i.state is State.READY for i in service.instances):
            return f"{waited}: no instance of {name} is ready"
        return waited


def _nothing() -> None:
    """There is nothing to give up."""
