"""Waited calls: a Call becomes a message on a topic, its reply or its failure becomes a response (steps 4 to 6 and 10 of
DESIGN part 3). The sidecar's outbound side, the control API and the gateway all call through this.

Everything runs in callbacks: no task is made for a call. A call is in the pending table from before it is sent until it has
exactly one answer; whatever comes for it after that is counted and dropped.
"""

import asyncio
import logging
from collections.abc import Callable
from typing import NamedTuple

from meshq.calling_expected import Expected
from meshq.core import topology
from meshq.core.callreq import Call, traced
from meshq.core.calls import Full, PendingCalls
from meshq.core.delivery import safe_to_repeat
from meshq.core.errors import Code, Problem
from meshq.core.http import HttpResponse
from meshq.core.instances import Snapshot
from meshq.core.message import DecodeError, Fault, Message, Request, Response, decode, encode_request
from meshq.core.outcomes import as_response
from meshq.core.packing import groups, room_for_calls
from meshq.core.queue_names import delay_destination
from meshq.core.routing import Routes, unroutable
from meshq.ports import Broker, Clock, Delivery, Metrics, Publication
from meshq.randomness import Randomness

logger = logging.getLogger(__name__)

MAX_PENDING = 10_000
MAX_PENDING_BYTES = 128 * 2**20
"""Calls that wait at once, and the request bodies kept with them to ask again. Beyond either: `overloaded`."""
PATIENCE = 2.0
"""Seconds that calls are held after the broker went, before they are refused: finding another node takes less."""
SHARE_PER_SERVICE = 0.5
"""The part of MAX_PENDING that calls to one service may take, so that one slow service cannot shut out all others."""

DENIED_FOR = 5.0
"""Seconds in which a topic that the broker refuses us is not tried again: each refusal costs the channel that others use."""

Done = Callable[[HttpResponse], None]
Backlog = Callable[[str, str], Problem | None]
"""Service and queue -> what to refuse a message with because more than enough wait there."""


class _Waiting(NamedTuple):
    call: Call
    request: Request
    topic: str
    key: str
    """Routing key."""
    done: Done
    since: float


class Caller:
    """`picture` gives the latest snapshot of the registry."""

    def __init__(
        self,
        broker: Broker,
        clock: Clock,
        metrics: Metrics,
        picture: Callable[[], Snapshot],
        service: str,
        instance: str,
        backlog: Backlog = lambda service, queue: None,
    ) -> None:
        self._broker = broker
        self._clock = clock
        self._metrics = metrics
        self._picture = picture
        self._service = service
        self._backlog = backlog
        self._pending: PendingCalls[_Waiting] = PendingCalls(MAX_PENDING, MAX_PENDING_BYTES)
        self._by_service: dict[str, int] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0
        self._ask_again: set[str] = set()
        self._unsent: dict[str, None] = {}
        """Held until there is a connection, in order."""
        self._denied: dict[tuple[str, str], tuple[float, Problem]] = {}
        """Exchange and routing key, "" for all -> until when, and what is answered."""
        self._able = False
        self._lost_at = clock.monotonic()
        self._fresh = Randomness()
        self._routes = Routes()
        self._roomy = picture()
        self._rooms: dict[str, int] = {}
        self._gathered: dict[tuple[str, int], list[_Waiting]] = {}
        """(topic, milliseconds left) -> calls of this turn of the event loop"""
        self._packs: dict[str, list[str]] = {}
        """Message id of a pack, which is its first call's -> the other calls in it"""
        # Where every service has a broker user of its own name, a reply proves who sent it.
        self._proves = broker.user == service
        self._expected = Expected(clock)
        self.expect = self._expected.expect
        broker.open_replies(service, instance, self)
        broker.on_state(lambda _: self._on_broker_state())
        self._on_broker_state()

    def __len__(self) -> int:
        """How many wait for an answer."""
        return len(self._pending) + len(self._expected)

    def call(self, call: Call, done: Done) -> Callable[[], None]:
        """Send it; `done` is called exactly once, possibly before this returns. Returns a function to give up waiting, after
        which `done` is not called."""
        message_id = self._fresh(16).hex()
        now = self._clock.monotonic()
        found = self._routes.find(call.address, self._picture())
        if isinstance(found, Problem):
            return self._refuse(call, message_id, found, done, now)
        key, queue = _place(found.topic, call.key)
        problem = self.denial(topology.CALLS, key) or self._backlog(call.address.service, queue)
        if problem is not None:
            return self._refuse(call, message_id, problem, done, now)
        mesh_ms = self._clock.mesh_ms()
        left_ms = call.timeout_ms if call.deadline_ms is None else min(call.timeout_ms, call.deadline_ms - mesh_ms)
        if left_ms <= 0:
            problem = Problem(Code.DEADLINE, "the deadline had passed before the call was sent", retryable=False)
            return self._refuse(call, message_id, problem, done, now)
        request = self._request(call, message_id, found.selector, mesh_ms + left_ms, left_ms)
        waiting = _Waiting(call, request, found.topic, key, done, now)
        full = self._open(message_id, now + left_ms / 1000, waiting)
        if full is not None:
            return self._refuse(call, message_id, full, done, now)
        plain = not call.key and call.priority is None and left_ms == call.timeout_ms
        if plain and self._able and self._room(found.topic) > 1:
            self._gather(waiting)
        elif not self._send(waiting, left_ms) and not self._hold(message_id, now):
            self._take(message_id)
            return self._refuse(call, message_id, self._away(), done, now)
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
        for ident in (message_id, *self._packs.pop(message_id, ())):
            waiting = self._take(ident)
            if waiting is not None:
                self._metrics.count("unroutable")
                call = waiting.call
                self._answer(waiting, unroutable(call.address, self._picture(), call.key).as_response())

    def on_replies_lost(self) -> None:
        """What was asked before this may have been done, and its answer cannot arrive: ask again where that is safe."""
        if self._able:  # the state that says so comes a moment later
            self._able, self._lost_at = False, self._clock.monotonic()
        not_sent = self._not_sent()
        for message_id, waiting in self._pending.entries():
            if message_id in not_sent:
                continue
            if safe_to_repeat(waiting.request):
                self._ask_again.add(message_id)
                continue
            self._take(message_id)
            problem = Problem(
                Code.BAD_GATEWAY,
                f"the connection to the broker was lost while this {waiting.request.method} waited for its answer; whether "
                "it was done is not known, and it is not repeated because that may do it twice",
                retryable=False,
            )
            self._answer(waiting, problem.as_response())

    def on_refused(self, exchange: str, key: str, reason: str) -> None:
        now = self._clock.monotonic()
        problem = Problem(Code.DENIED, reason)
        self._denied = {place: denial for place, denial in self._denied.items() if denial[0] > now}
        self._denied[exchange, _destination(key)] = (now + DENIED_FOR, problem)
        if exchange != topology.CALLS:
            return
        not_sent = self._not_sent()
        for message_id, waiting in self._pending.entries():
            if message_id not in not_sent and key in ("", waiting.key):
                self._take(message_id)
                self._answer(waiting, problem.as_response())

    def on_sends_lost(self) -> None:
        """What was sent last may not have reached the broker. Replies still arrive, so the rest just waits."""
        not_sent = self._not_sent()
        self._ask_again.update(
            ident
            for ident, waiting in self._pending.entries()
            if ident not in not_sent and safe_to_repeat(waiting.request)
        )

    def denial(self, exchange: str, key: str) -> Problem | None:
        """Why nothing may be published to this exchange with this routing key, as far as is known now."""
        if not self._denied:
            return None
        now = self._clock.monotonic()
        for each in ("", _destination(key)):
            until, problem = self._denied.get((exchange, each), (0.0, None))
            if until > now:
                return problem
        return None

    # --- inside -----------------------------------------------------------------------------------------------------------

    def _on_message(self, message: Message, user_id: str) -> None:
        if not isinstance(message, Response | Fault):
            self._metrics.count("undecodable")
            return
        waiting = self._pending.get(message.id)
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
        self._take(message.id)
        self._answer(waiting, as_response(message, waiting.request.method))

    def _open(self, message_id: str, deadline: float, waiting: _Waiting) -> Problem | None:
        service = waiting.call.address.service
        count = self._by_service.get(service, 0)
        if count >= MAX_PENDING * SHARE_PER_SERVICE:
            return Problem(Code.OVERLOADED, f"{count} calls to {service} already wait for an answer")
        try:
            self._pending.open(message_id, deadline, len(waiting.request.body or b""), waiting)
        except Full:
            return Problem(Code.OVERLOADED, f"{len(self._pending)} calls already wait for an answer")
        self._by_service[service] = count + 1
        self._watch(deadline)
        return None

    def _take(self, message_id: str) -> _Waiting | None:
        waiting = self._pending.resolve(message_id)
        if waiting is not None:
            self._forget(waiting)
        return waiting

    def _forget(self, waiting: _Waiting) -> None:
        self._ask_again.discard(waiting.request.id)
        self._unsent.pop(waiting.request.id, None)
        self._packs.pop(waiting.request.id, None)
        service = waiting.call.address.service
        left = self._by_service[service] - 1
        if left:
            self._by_service[service] = left
        else:
            del self._by_service[service]

    def _give_up(self, message_id: str) -> None:
        waiting = self._take(message_id)
        if waiting is not None:
            self._count(waiting.call, "hung-up", waiting.since)

    def _request(self, call: Call, message_id: str, selector: str, deadline_ms: int, left_ms: int) -> Request:
        headers = traced(call, self._fresh(24)) if call.needs_trace else call.headers
        return Request(
            message_id, call.method, call.target, headers, call.body, self._service, selector, deadline_ms, left_ms,
            key=call.key,
        )  # fmt: skip

    def _send(self, waiting: _Waiting, left_ms: int) -> bool:
        return self._publish(waiting, encode_request(waiting.request), left_ms)

    def _publish(self, first: _Waiting, body: bytes, left_ms: int) -> bool:
        reply_to = self._broker.reply_to
        return bool(reply_to) and self._broker.send(
            Publication(
                topology.CALLS,
                first.key,
                body,
                first.request.id,
                "call",
                reply_to,
                max(1, left_ms),
                first.call.priority,
            )
        )

    # --- calls of one moment to one topic go together -----------------------------------------------------------------------

    def _room(self, topic: str) -> int:
        picture = self._picture()
        if picture is not self._roomy:
            self._roomy, self._rooms = picture, {}
        room = self._rooms.get(topic)
        if room is None:
            room = self._rooms[topic] = room_for_calls(topic, picture)
        return room

    def _gather(self, waiting: _Waiting) -> None:
        """Send it at the end of this turn of the event loop, with what else comes for its topic until then. Only calls with the
        same time left go together, because the broker drops a message as a whole when its time is up."""
        if not self._gathered:
            asyncio.get_running_loop().call_soon(self._send_gathered)
        key = (waiting.topic, waiting.call.timeout_ms)
        together = self._gathered.get(key)
        if together is None:
            self._gathered[key] = [waiting]
        else:
            together.append(waiting)

    def _send_gathered(self) -> None:
        gathered, self._gathered = self._gathered, {}
        for (topic, left_ms), together in gathered.items():
            still = [waiting for waiting in together if self._pending.get(waiting.request.id) is waiting]
            for group in groups(still, _length, self._room(topic)):
                if not self._send_group(group, left_ms):
                    self._hold_or_answer(group)

    def _send_group(self, group: list[_Waiting], left_ms: int) -> bool:
        first = group[0]
        if len(group) == 1:
            return self._send(first, left_ms)
        sent = self._publish(first, b"".join([encode_request(each.request) for each in group]), left_ms)
        if sent:
            self._packs[first.request.id] = [each.request.id for each in group[1:]]
        return sent

    def _not_sent(self) -> set[str]:
        gathered = {waiting.request.id for together in self._gathered.values() for waiting in together}
        return gathered | self._unsent.keys()

    def _hold_or_answer(self, group: list[_Waiting]) -> None:
        now = self._clock.monotonic()
        for waiting in group:
            if not self._hold(waiting.request.id, now) and self._take(waiting.request.id) is not None:
                self._answer(waiting, self._away().as_response())

    def _hold(self, message_id: str, now: float) -> bool:
        """Keep an unsent call for when the broker is back, if it went only just now."""
        left = self._lost_at + PATIENCE - now
        if self._able or left <= 0:
            return False
        if not self._unsent:
            asyncio.get_running_loop().call_later(left, self._refuse_unsent)
        self._unsent[message_id] = None
        return True

    def _refuse_unsent(self) -> None:
        left = self._lost_at + PATIENCE - self._clock.monotonic()
        if self._unsent and left > 0:  # the broker came back and went again since
            asyncio.get_running_loop().call_later(left, self._refuse_unsent)
            return
        for message_id in list(self._unsent):
            waiting = self._take(message_id)
            if waiting is not None:
                self._answer(waiting, self._away().as_response())

    def _on_broker_state(self) -> None:
        able = self._broker.state.publishing and bool(self._broker.reply_to)
        if self._able and not able:
            self._lost_at = self._clock.monotonic()
        self._able = able
        if not able:
            return
        unsent, self._unsent = self._unsent, {}
        again, self._ask_again = self._ask_again, set()
        for message_id in unsent:
            self._send_late(message_id, attempts_before=0)
        for message_id in again:
            self._metrics.count("asked_again")
            self._send_late(message_id, attempts_before=1)

    def _send_late(self, message_id: str, attempts_before: int) -> None:
        waiting = self._pending.get(message_id)
        if waiting is None or waiting.request.deadline_ms is None:
            return
        left_ms = waiting.request.deadline_ms - self._clock.mesh_ms()
        if left_ms <= 0:
            return
        attempt = waiting.request.attempt + attempts_before
        late = waiting._replace(request=waiting.request._replace(left_ms=left_ms, attempt=attempt))
        self._pending.replace(message_id, late)
        if not self._send(late, left_ms):
            self._take(message_id)
            self._answer(waiting, self._away().as_response())

    def _away(self) -> Problem:
        state = self._broker.state
        if state.publishing and state.consuming:
            return Problem(Code.OVERLOADED, "more is being sent than the broker takes; the write buffer is full")
        return Problem(Code.UNAVAILABLE, state.fault or "the broker is being connected to")

    def _refuse(self, call: Call, message_id: str, problem: Problem, done: Done, since: float) -> Callable[[], None]:
        response = problem.as_response()
        response.headers.append((b"Meshq-Message-Id", message_id.encode()))
        self._count(call, problem.code.value, since)
        done(response)
        return _nothing

    def _answer(self, waiting: _Waiting, response: HttpResponse) -> None:
        response.headers.append((b"Meshq-Message-Id", waiting.request.id.encode()))
        error = next((v.decode() for n, v in response.headers if n == b"Meshq-Error"), "")
        self._count(waiting.call, error or str(response.status), waiting.since)
        waiting.done(response)

    def _count(self, call: Call, code: str, since: float) -> None:
        # A name that the registry does not know is what a caller made up.
        service = call.address.service if call.address.service in self._picture().services else "unknown"
        self._metrics.call_answered(service, call.route, code, self._clock.monotonic() - since)

    # --- deadlines: one timer for all -------------------------------------------------------------------------------------

    def _watch(self, deadline: float) -> None:
        if self._timer is None or deadline < self._timer_at:
            if self._timer is not None:
                self._timer.cancel()
            self._timer_at = deadline
            delay = max(0.0, deadline - self._clock.monotonic())
            self._timer = asyncio.get_running_loop().call_later(delay, self._expire)

    def _expire(self) -> None:
        self._timer = None
        for waiting in self._pending.expire(self._clock.monotonic()):
            self._forget(waiting)
            safe = safe_to_repeat(waiting.request)
            problem = Problem(Code.DEADLINE, self._why_no_answer(waiting), retryable=safe)
            self._answer(waiting, problem.as_response())
        following = self._pending.next_deadline()
        if following is not None:
            self._watch(following)

    def _why_no_answer(self, waiting: _Waiting) -> str:
        waited = f"no answer from {waiting.topic} within {(waiting.request.left_ms or 0) / 1000:g} s"
        fault = self._broker.state.fault
        if fault:
            return f"{waited}: {fault}"
        service = self._picture().services.get(waiting.call.address.service)
        ready = [i for i in service.instances if i.state.value == "ready"] if service is not None else []
        return waited if ready else f"{waited}: no instance of {waiting.call.address.service} is ready"


def _place(topic: str, key: str) -> tuple[str, str]:
    """Routing key and queue of a call."""
    if not key:
        return topology.call_key(topic), topology.call_queue(topic)
    partition = topology.partition_of(key)
    return topology.key_key(topic, partition), topology.key_queue(topic, partition)


def _destination(key: str) -> str:
    """What a right is for: of a delayed message, whatever its delay is, where it comes out."""
    return delay_destination(key) or key


def _length(waiting: _Waiting) -> int:
    """Of its record, about."""
    return 500 + len(waiting.request.body or b"")


def _nothing() -> None:
    """There is nothing to give up."""
