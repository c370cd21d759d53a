"""Waited calls on their way to the broker: alone or together, at once or when it is back, and again where that is safe."""

from collections.abc import Callable

from meshq.calling_gathering import Gathering
from meshq.calling_holding import Holding
from meshq.calling_waiting import Waiting, WaitingCalls
from meshq.core import topology
from meshq.core.errors import Code, Problem
from meshq.core.instances import Snapshot
from meshq.core.message import encode_request
from meshq.ports import Broker, Clock, Metrics, Publication


class Outgoing:
    """`calls` is the table that they wait in; `refuse` gets one taken out of it because it cannot be sent, and why."""

    def __init__(
        self,
        broker: Broker,
        clock: Clock,
        metrics: Metrics,
        picture: Callable[[], Snapshot],
        calls: WaitingCalls,
        refuse: Callable[[Waiting, Problem], None],
    ) -> None:
        self._broker = broker
        self._clock = clock
        self._metrics = metrics
        self._calls = calls
        self._refuse = refuse
        self._gathering = Gathering(picture, self._still_waits, self._send_group)
        self._holding = Holding(clock, self._refuse_all)
        self._again: set[str] = set()
        """To be asked again when the broker is back."""
        self._packs: dict[str, list[str]] = {}
        """Message id of a pack, which is its first call's -> the other calls in it"""
        broker.on_state(lambda _: self.on_broker_state())
        self.on_broker_state()

    def send(self, waiting: Waiting, left_ms: int, *, whole: bool) -> bool:
        """Send a call that is in the table, now, at the end of this turn of the event loop, or when the broker is back. `whole`: it
        has all the time that calls like it have. False when nothing will become of it."""
        plain = whole and not waiting.call.key and waiting.call.priority is None
        if plain and self._holding.able and self._gathering.room(waiting.route.topic) > 1:
            self._gathering.add(waiting, left_ms)
            return True
        return self._send(waiting, left_ms) or self._holding.hold(waiting.request.id)

    def forget(self, message_id: str) -> None:
        """It waits no more."""
        self._again.discard(message_id)
        self._holding.discard(message_id)
        self._packs.pop(message_id, None)

    def unpack(self, message_id: str) -> list[str]:
        """The calls that went in the message with this id."""
        return [message_id, *self._packs.pop(message_id, ())]

    def sent(self) -> list[tuple[str, Waiting]]:
        """The calls that the broker may have."""
        not_sent = self._gathering.idents() | self._holding.idents()
        return [(ident, waiting) for ident, waiting in self._calls.entries() if ident not in not_sent]

    def ask_again(self, message_id: str) -> None:
        self._again.add(message_id)

    def on_replies_lost(self) -> None:
        self._holding.see(False)  # the state that says so comes a moment later

    def on_broker_state(self) -> None:
        self._holding.see(self._broker.state.publishing and bool(self._broker.reply_to))
        if not self._holding.able:
            return
        again, self._again = self._again, set()
        for message_id in self._holding.release():
            self._send_late(message_id, attempts_before=0)
        for message_id in again:
            self._metrics.count("asked_again")
            self._send_late(message_id, attempts_before=1)

    def away(self) -> Problem:
        """Why nothing can be sent now."""
        state = self._broker.state
        if state.publishing and state.consuming:
            return Problem(Code.OVERLOADED, "more is being sent than the broker takes; the write buffer is full")
        return Problem(Code.UNAVAILABLE, state.fault or "the broker is being connected to")

    # --- inside -----------------------------------------------------------------------------------------------------------

    def _still_waits(self, waiting: Waiting) -> bool:
        return self._calls.get(waiting.request.id) is waiting

    def _send(self, waiting: Waiting, left_ms: int) -> bool:
        return self._publish(waiting, encode_request(waiting.request), left_ms)

    def _publish(self, first: Waiting, body: bytes, left_ms: int) -> bool:
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

    def _send_group(self, group: list[Waiting], left_ms: int) -> None:
        first = group[0]
        if len(group) == 1:
            sent = self._send(first, left_ms)
        else:
            sent = self._publish(first, b"".join([encode_request(each.request) for each in group]), left_ms)
            if sent:
                self._packs[first.request.id] = [each.request.id for each in group[1:]]
        if not sent:
            self._refuse_all([each.request.id for each in group if not self._holding.hold(each.request.id)])

    def _send_late(self, message_id: str, attempts_before: int) -> None:
        waiting = self._calls.get(message_id)
        if waiting is None or waiting.request.deadline_ms is None:
            return
        left_ms = waiting.request.deadline_ms - self._clock.mesh_ms()
        if left_ms <= 0:
            return
        attempt = waiting.request.attempt + attempts_before
        late = waiting._replace(request=waiting.request._replace(left_ms=left_ms, attempt=attempt))
        self._calls.replace(message_id, late)
        if not self._send(late, left_ms):
            self._refuse_all([message_id])

    def _refuse_all(self, message_ids: list[str]) -> None:
        for message_id in message_ids:
            waiting = self._calls.take(message_id)
            if waiting is not None:
                self._refuse(waiting, self.away())
