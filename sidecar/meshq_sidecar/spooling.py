"""From the spool to the broker: what was accepted while the broker was away (or is always accepted that way, MESHQ_ACK=spool)
is put to it in order, and leaves the disk when the broker has confirmed it.

Up to WINDOW messages are under way at once. When one of them fails, no more are sent until the others are settled; then, after
a pause, the spool is taken from the oldest that is left on: one alone, and for each that is confirmed one more at once. A
message that makes the broker close the channel takes all that are under way with it, and only alone it shows which one it is.
Messages whose order matters (a `Meshq-Key`) are under way one at a time for each key, because the broker may refuse one and
take the next.

A broker that comes back may not know every queue yet, and a queue that has lost its leader refuses for a moment. So refusals
are counted by destination, and after PATIENCE a message is moved to this service's own dead letters; what comes next for the
same destination gets one try. When the destination takes one again the count begins anew. What not even the dead letters
take is left on the disk until the next start, and the rest goes on. An event that no queue takes has no subscriber: it is
counted and gone.

The delay of a delayed message counts from when it is forwarded, because it is the broker that waits: one that lay in the spool
for an hour comes an hour late. A deadline counts from when the app gave it, and is looked at where the message is handled.
"""

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import NamedTuple

from meshq.core import dead, topology
from meshq.core.message import DeadLetter, DecodeError, Request, decode, encode_dead_letter, is_id
from meshq.core.names import parse_topic
from meshq.ports import Broker, BrokerState, Clock, Metrics, Publication, Published, Spool, Spooled, SpoolRecord
from meshq_sidecar import spooling_patience as patience
from meshq_sidecar.spool_counts import SpoolCounts
from meshq_sidecar.spooling_patience import WHY, Refusals, destination

logger = logging.getLogger(__name__)

WINDOW = 500
"""Messages under way at once: half of what the broker's adapter takes, so that others can publish meanwhile."""
WINDOW_BYTES = 32 * 2**20
TURN = 256
"""Messages given to the broker in one turn of the loop."""
MAX_QUEUE = 255
"""Characters of the destination that a dead letter tells."""
Lane = tuple[str, str, str]
"""Exchange, routing key and ordering key: what goes one at a time."""


class _Sent(NamedTuple):
    """A record under way."""

    record: SpoolRecord
    lanes: frozenset[Lane]
    alone: bool
    """Nothing else was sent before it was settled."""


class _Held(NamedTuple):
    record: SpoolRecord
    why: str = ""
    """Not to be sent but to be buried, for this reason."""


class SpoolForwarder:
    """`identity` is <service>/<version>/<instance>; dead letters go to the dead queue of `own_topic`. Use: `start`, later
    `close`; the spool is closed by whoever opened it."""

    def __init__(
        self, spool: Spool, broker: Broker, clock: Clock, metrics: Metrics, own_topic: str, identity: str
    ) -> None:
        self._spool = spool
        self._broker = broker
        self._clock = clock
        self._metrics = metrics
        self._service = parse_topic(own_topic)[0]
        self._dead_queue = topology.dead_queue(own_topic)
        self._identity = identity
        self.fault = ""
        """Why the oldest message does not leave, and what to do; "" when all is well or the broker is only away."""
        self.counts = SpoolCounts(spool)
        self._appending = 0
        self._left: set[int] = set()
        """Numbers of records that nobody takes, not even the dead letters."""
        # Under way:
        self._sent: dict[int, _Sent] = {}
        """By number of the record."""
        self._sent_bytes = 0
        self._lanes: set[Lane] = set()
        self._held: _Held | None = None
        """Taken, and to go before anything else is taken."""
        self._window = WINDOW
        """How many may be under way now."""
        # After a failure:
        self._stalled = False
        """Nothing is sent until what is under way is settled."""
        self._failures = 0
        """In a row."""
        self._looks = 0
        """In a row."""
        self._refusals = Refusals()
        self._timer: asyncio.TimerHandle | None = None
        self._looking = False
        """The timer is for a look at the broker, not a pause."""
        self._pumping = False
        self._closed = False
        self._emptied = asyncio.Event()
        broker.on_state(self._on_broker_state)

    # --- in ---------------------------------------------------------------------------------------------------------------

    def accept(self, publication: Publication, done: Callable[[Spooled], None]) -> None:
        """Keep it on the disk and forward it when its turn comes; `done` says whether it is kept."""
        self._appending += 1
        self._spool.append(publication, partial(self._on_spooled, publication, done))

    def _on_spooled(self, publication: Publication, done: Callable[[Spooled], None], fate: Spooled) -> None:
        self._appending -= 1
        if fate is Spooled.WRITTEN:
            self.counts.came(publication)
        try:
            done(fate)
        finally:
            self._pump()

    @property
    def idle(self) -> bool:
        """Nothing waits here, so a message may go to the broker directly without overtaking another."""
        return not self._appending and self._spool.waiting == len(self._left)

    # --- life -------------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin with what an earlier process left."""
        if self._spool.waiting:
            logger.info("%d messages wait in the spool for the broker", self._spool.waiting)
        self._pump()

    async def close(self, timeout: float) -> None:
        """Try for `timeout` seconds to empty the spool, then stop. What is left stays on the disk; what the broker has and has
        not confirmed yet will be sent again by the next process."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                while not self.idle:
                    self._emptied.clear()
                    await self._emptied.wait()
        self._closed = True
        self._stop_waiting()
        if self._spool.waiting:
            logger.warning("%d messages stay in the spool", self._spool.waiting)

    # --- sending ----------------------------------------------------------------------------------------------------------

    def _pump(self) -> None:
        """Send as much as may be under way."""
        if self._pumping:
            return
        self._pumping = True
        try:
            if self._send_some():
                asyncio.get_running_loop().call_soon(self._pump)
        finally:
            self._pumping = False
            if self.idle:
                self._emptied.set()

    def _send_some(self) -> bool:
        """True: there may be more."""
        for _ in range(TURN):
            if not self._may_send():
                return False
            held, self._held = self._held, None
            record = self._take() if held is None else held.record
            if record is None:
                return False
            if held is not None and held.why:
                self._bury(record, held.why)
            else:
                self._send(record)
            if self._held is not None:
                return False
        return True

    def _may_send(self) -> bool:
        if self._closed or self._stalled or self._timer is not None:
            return False
        return len(self._sent) < self._window and self._sent_bytes < WINDOW_BYTES

    def _take(self) -> SpoolRecord | None:
        record = self._spool.take()
        while record is not None and record.number in self._left:
            record = self._spool.take()
        return record

    def _send(self, record: SpoolRecord) -> None:
        """Hand it to the broker, or hold it until it may go."""
        lanes = _lanes(record.publication)
        if not self._lanes.isdisjoint(lanes):
            self._held = _Held(record)
            return
        self._under_way(_Sent(record, lanes, self._window == 1))
        try:
            self._broker.publish(record.publication, partial(self._on_fate, record.number))
        except (ValueError, OverflowError) as error:  # it has what no message can have
            if record.number in self._sent:
                self._settled(record.number)
                self._bury(record, f"it cannot be made into a message for the broker: {error}")

    def _under_way(self, sent: _Sent) -> None:
        self._sent[sent.record.number] = sent
        self._sent_bytes += len(sent.record.publication.body)
        self._lanes |= sent.lanes

    def _settled(self, number: int) -> _Sent:
        sent = self._sent.pop(number)
        self._sent_bytes -= len(sent.record.publication.body)
        self._lanes -= sent.lanes
        return sent

    # --- what became of it ------------------------------------------------------------------------------------------------

    def _on_fate(self, number: int, fate: Published) -> None:
        sent = self._settled(number)
        publication = sent.record.publication
        if fate is Published.CONFIRMED:
            self._done(sent.record)
        elif fate is Published.UNROUTABLE and publication.exchange == topology.EVENTS:
            self._metrics.count("event_unrouted")
            self._done(sent.record)
        elif fate in (Published.AWAY, Published.FULL):
            self._hold(_Held(sent.record))
        else:
            self._failed(sent, fate)
        self._go_on()

    def _done(self, record: SpoolRecord) -> None:
        self._refusals.took(destination(record.publication))
        self._gone(record)

    def _gone(self, record: SpoolRecord) -> None:
        """It need not stay on the disk."""
        self._spool.remove(record)
        self.counts.went(record.publication)
        if not self._spool.waiting:
            self.counts.clear()
        if not self._stalled:
            self._window = min(self._window + 1, WINDOW)
            self._failures = self._looks = 0
            self.fault = ""

    def _hold(self, held: "_Held") -> None:
        """It was not sent: the broker is away, or has its hands full."""
        self._held = held
        if not self._sent and self._timer is None:
            self._looking = True
            self._wait(patience.look(self._looks))
            self._looks += 1
            self.fault = ""

    def _failed(self, sent: _Sent, fate: Published) -> None:
        if self._stalled:  # with one that failed before: it is sent again anyway
            return
        publication = sent.record.publication
        against = self._refusals.count(destination(publication), fate, sent.alone)
        hopeless = against >= patience.PATIENCE
        if hopeless and sent.alone:
            self._bury(sent.record, WHY[fate])
            return
        self._stall()
        if not hopeless:
            # What was not alone may be all right, and only its connection went.
            self._pause(f"the broker does not take a message for {publication.key}: {WHY[fate]}" if against else "")

    def _stall(self) -> None:
        self._stalled = True
        self._window = 1

    def _pause(self, fault: str) -> None:
        self.fault = fault
        self._failures += 1
        self._looking = False
        self._wait(patience.pause(self._failures))

    def _go_on(self) -> None:
        """One was settled."""
        if self._stalled and not self._sent:
            self._stalled = False
            self._held = None
            self._spool.rewind()
        self._pump()

    # --- what cannot be sent ----------------------------------------------------------------------------------------------

    def _bury(self, record: SpoolRecord, why: str) -> None:
        """Move it to our own dead letters."""
        publication = record.publication
        ident = publication.message_id if is_id(publication.message_id) else "unknown"
        letter = DeadLetter(
            ident, dead.UNSENDABLE, why, publication.key[:MAX_QUEUE], self._clock.mesh_ms(), self._identity,
            publication.body, sender=self._service,
        )  # fmt: skip
        burial = Publication(topology.DEAD, self._dead_queue, encode_dead_letter(letter), ident, "dead")
        self._under_way(_Sent(record, frozenset(), self._window == 1))
        self._broker.publish(burial, partial(self._on_buried, record.number, why))

    def _on_buried(self, number: int, why: str, fate: Published) -> None:
        record = self._settled(number).record
        key, queue = record.publication.key, self._dead_queue
        if fate is Published.CONFIRMED:
            logger.error("message %s for %s is dead: %s", record.publication.message_id, key, why)
            self._metrics.count(f"dead_lettered:{dead.UNSENDABLE}")
            self._refusals.took((topology.DEAD, queue))
            self._gone(record)
        elif fate in (Published.AWAY, Published.FULL):
            self._hold(_Held(record, why))
        elif self._refusals.count((topology.DEAD, queue), fate, alone=True) < patience.PATIENCE:
            self._stall()
            self._pause(f"a message for {key} cannot be sent ({why}), and {queue} does not take it either: {WHY[fate]}")
        else:
            self.fault = (
                f"messages stay in the spool: they cannot be sent ({why}), and {queue} does not take them ({WHY[fate]}). "
                "Put that right and restart the sidecar"
            )
            logger.error("message %s for %s is left: %s", record.publication.message_id, key, self.fault)
            self._left.add(number)
        self._go_on()

    # --- waiting ----------------------------------------------------------------------------------------------------------

    def _wait(self, seconds: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(seconds, self._waited)

    def _waited(self) -> None:
        self._stop_waiting()
        self._pump()

    def _stop_waiting(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None

    def _on_broker_state(self, state: BrokerState) -> None:
        if state.publishing and self._looking and self._timer is not None:
            self._waited()


def _lanes(publication: Publication) -> frozenset[Lane]:
    """In what this message has its place in an order; mostly in nothing."""
    exchange, key = publication.exchange, publication.key
    if exchange != topology.EVENTS and not (exchange == topology.CALLS and ".key." in key):
        return frozenset()
    try:
        messages = decode(publication.body)
    except DecodeError:
        return frozenset()
    return frozenset((exchange, key, m.key) for m in messages if isinstance(m, Request) and m.key)
