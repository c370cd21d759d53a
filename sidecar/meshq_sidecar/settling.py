"""What becomes of a delivery when it is over: first what follows from it (a result, a copy to try again, a dead letter) is
published and confirmed, then it is acknowledged. Whatever is lost in between, the message is still in its queue.

A move whose publications the broker does not take now is kept and tried again. When the connection is lost, the broker delivers
the message again; if it comes back to us, the move goes on with the new delivery and the app is not asked twice. A result for
which the right to publish it is missing would be tried for ever: a dead letter keeps it instead, and its message is over.

Results to one service that are ready in the same turn of the event loop leave as one message (a pack).
"""

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from meshq.core import dead, topology
from meshq.core.delivery import Bury
from meshq.core.errors import Problem
from meshq.core.message import (
    CONTENT_TYPE,
    DeadLetter,
    Request,
    decode,
    encode,
    encode_dead_letter,
    encode_request,
    is_id,
)
from meshq.core.packing import groups
from meshq.ports import Broker, Clock, Delivery, Metrics, Publication, Published
from meshq_sidecar.identity import Sender
from meshq_sidecar.timers import Timers

logger = logging.getLogger(__name__)

TRY_AGAIN, MOST_AGAIN = 1.0, 15.0
"""Seconds before something that the broker did not take is published again, doubled up to the second."""
REMEMBERED = 10_000
"""Messages that are over but could not be acknowledged, known here should the broker deliver them again."""
FULL_AGAIN = 0.05
"""The same where only the window of unconfirmed messages was full."""
PACK_RECORDS = 50


@dataclass(eq=False)
class Move:
    """One message on its way out of its queue; `left` publications are not confirmed yet."""

    ident: str
    attempt: int
    delivery: Delivery
    topic: str = ""
    """The service's: where its dead letter goes, should there be one."""
    ended: Callable[[], None] | None = None
    """Called once it is acknowledged, or the broker's again."""
    left: int = 0
    buried: bool = False
    """It has a dead letter."""

    @property
    def key(self) -> tuple[str, str, int]:
        return self.delivery.queue, self.ident, self.attempt


class Settler:
    """`emptied` is called whenever nothing is on its way any more. `denial`: exchange and routing key -> why nothing may be published
    there because a right is missing, as far as is known now."""

    def __init__(
        self,
        broker: Broker,
        clock: Clock,
        metrics: Metrics,
        identity: str,
        emptied: Callable[[], None],
        denial: Callable[[str, str], Problem | None] = lambda exchange, key: None,
    ) -> None:
        self._broker = broker
        self._clock = clock
        self._metrics = metrics
        self._identity = identity
        self._emptied = emptied
        self._denial = denial
        self._timers = Timers()
        self._moves: set[Move] = set()
        """What is on its way."""
        self._by_key: dict[tuple[str, str, int], Move] = {}
        self._over: OrderedDict[tuple[str, str, int], None] = OrderedDict()
        """What is over but could not be acknowledged."""
        self._results: dict[str, list[tuple[bytes, Move]]] = {}
        """reply_to -> results of this turn"""

    @property
    def idle(self) -> bool:
        return not self._moves

    def __len__(self) -> int:
        return len(self._moves)

    def close(self) -> None:
        """Nothing is tried again after this. What is not settled stays in its queue."""
        self._timers.close()

    # --- the ways out -----------------------------------------------------------------------------------------------------

    def finish(self, move: Move, reply_to: str, record: bytes) -> None:
        """It is handled: its result, a record, goes to `reply_to`."""
        self._begin(move, 1)
        if not self._results:
            asyncio.get_running_loop().call_soon(self._send_results)
        self._results.setdefault(reply_to, []).append((record, move))

    def again(self, move: Move, request: Request, delay: int, reply_to: str, priority: int | None) -> None:
        """Back to the queue it came from, as `request`, after `delay` seconds in the broker."""
        key = topology.delay_key(delay, move.delivery.queue)
        self._publish_all(
            move,
            Publication(topology.DELAY, key, encode_request(request), request.id, "retry", reply_to, None, priority),
        )

    def bury(
        self,
        move: Move,
        why: Bury,
        attempts: int,
        sender: Sender,
        result: Publication | None,
        request: Request | None = None,
    ) -> None:
        """To the dead letters of its topic, and to its sender the result that says so. `request` is what it was read as: kept
        instead of a message of another publisher, which could not be brought back."""
        delivery = move.delivery
        foreign = request is not None and delivery.content_type != CONTENT_TYPE
        body = encode_request(request) if request is not None and foreign else delivery.body
        letter = self._dead_letter(move, why, delivery.queue, body, attempts, sender)
        self._publish_all(move, letter, *([] if result is None else [result]))

    def bury_unread(self, delivery: Delivery, topic: str, why: Bury) -> None:
        """The same for what could not be read."""
        ident = delivery.message_id if is_id(delivery.message_id) else "unknown"
        self.bury(Move(ident, 0, delivery, topic), why, 0, Sender("", False), None)

    def end(self, move: Move) -> None:
        """Nothing follows from it."""
        self._moves.add(move)
        self._end(move)

    def goes_on(self, ident: str, attempt: int, delivery: Delivery) -> bool:
        """Whether this message, delivered again, is on its way out already; it then goes on with this delivery."""
        key = (delivery.queue, ident, attempt)
        if key in self._over:
            del self._over[key]
            delivery.ack()
            return True
        move = self._by_key.get(key)
        if move is None or move.delivery.live:  # in the latter case it is another with this id: a sender's repetition
            return False
        move.delivery = delivery
        return True

    # --- inside -----------------------------------------------------------------------------------------------------------

    def _begin(self, move: Move, publications: int) -> None:
        move.left = publications
        self._moves.add(move)
        self._by_key[move.key] = move

    def _dead_letter(
        self, move: Move, why: Bury, queue: str, body: bytes, attempts: int, sender: Sender
    ) -> Publication:
        """`queue`: where it was, or the routing key that it could not be sent with."""
        logger.error("a message of %s is dead (%s): %s", move.delivery.queue, why.reason, why.detail)
        self._metrics.count(f"dead_lettered:{why.reason}")
        move.buried = True
        letter = DeadLetter(
            move.ident,
            why.reason,
            why.detail,
            queue,
            self._clock.mesh_ms(),
            self._identity,
            body,
            None if why.answer is None else why.answer.status,
            why.excerpt,
            attempts,
            sender.name if sender.proved else "",
        )
        body, reply_to = encode_dead_letter(letter), move.delivery.reply_to
        return Publication(topology.DEAD, topology.dead_queue(move.topic), body, move.ident, "dead", reply_to)

    def _publish_all(self, move: Move, *publications: Publication) -> None:
        self._begin(move, len(publications))
        for publication in publications:
            self._publish([move], publication, 0)

    def _send_results(self) -> None:
        turn, self._results = self._results, {}
        for reply_to, results in turn.items():
            for group in groups(results, lambda result: len(result[0]), PACK_RECORDS):
                body = group[0][0] if len(group) == 1 else b"".join([record for record, _ in group])
                first = group[0][1]
                publication = Publication(topology.REPLIES, reply_to, body, first.ident, "result")
                self._publish([move for _, move in group], publication, 0)

    def _publish(self, moves: list[Move], publication: Publication, tries: int) -> None:
        if publication.exchange == topology.REPLIES:
            problem = self._denial(publication.exchange, publication.key)
            if problem is not None:
                self._bury_results(moves, publication, problem)
                return
        self._broker.publish(publication, partial(self._on_fate, moves, publication, tries))

    def _bury_results(self, moves: list[Move], publication: Publication, problem: Problem) -> None:
        """They may not be sent. Where the message itself is dead, that says it all."""
        logger.error("results for %s are not sent: %s", publication.key, problem.detail)
        records = {record.id: record for record in decode(publication.body)}
        for move in moves:
            if move.buried:
                self._one_less(move)
            else:
                why = Bury(
                    dead.UNSENDABLE, f"its message was handled, and its result may not be sent: {problem.detail}"
                )
                body, nobody = encode(records[move.ident]), Sender("", False)
                self._publish([move], self._dead_letter(move, why, publication.key, body, move.attempt, nobody), 0)

    def _on_fate(self, moves: list[Move], publication: Publication, tries: int, fate: Published) -> None:
        if fate is Published.UNROUTABLE and publication.exchange == topology.REPLIES:
            # Whoever asked has no queue for results any more: nobody is left to tell.
            self._metrics.count("result_unroutable")
        elif fate is not Published.CONFIRMED:
            self._retry(moves, publication, tries, fate)
            return
        for move in moves:
            self._one_less(move)

    def _one_less(self, move: Move) -> None:
        move.left -= 1
        if move.left == 0:
            self._end(move)

    def _retry(self, moves: list[Move], publication: Publication, tries: int, fate: Published) -> None:
        """Also of a delivery whose connection is gone: the message is handled, and may come again to anybody."""
        if tries == 0 and fate in (Published.UNROUTABLE, Published.REFUSED):
            logger.error(
                "the %s of a message of %s was not taken (%s): exchange %s, key %s; trying again",
                publication.kind, moves[0].delivery.queue, fate.value, publication.exchange, publication.key,
            )  # fmt: skip
        delay = FULL_AGAIN if fate is Published.FULL else min(TRY_AGAIN * 2**tries, MOST_AGAIN)
        self._timers.later(delay, self._publish, moves, publication, min(tries + 1, 8))

    def _end(self, move: Move) -> None:
        if move.delivery.live:
            move.delivery.ack()
        else:
            self._over[move.key] = None
            if len(self._over) > REMEMBERED:
                self._over.popitem(last=False)
        self._moves.discard(move)
        if self._by_key.get(move.key) is move:
            del self._by_key[move.key]
        if move.ended is not None:
            move.ended()
        if not self._moves:
            self._emptied()
