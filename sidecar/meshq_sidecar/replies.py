"""Answers on their way back to their callers.

Those to one caller that are ready in the same turn of the event loop leave as one message (a pack, core/message.py): under
load the broker handles fewer messages than there are answers, and an answer alone waits for nobody. A delivery is
acknowledged after its answer was handed to the broker, never before.

While the broker takes nothing, answers are kept: the work is done, and doing it again is not the same. For the same reason
those of the last moment are sent again when the connection was lost: what was written last may not have arrived. A caller
that has its answer drops the second.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

from meshq.core import topology
from meshq.core.packing import groups
from meshq.ports import Broker, BrokerState, Clock, Delivery, Metrics, Publication

MAX_UNSENT = 1_000
"""Messages kept while the broker takes none; answers beyond are dropped and counted."""
AGAIN_SECONDS = 1.0
AGAIN_BYTES = 8 * 2**20
"""Answers written this long before a connection was lost, the last so many bytes of them, are sent again on the next."""
PACK_RECORDS = 50


class _Answer(NamedTuple):
    message_id: str
    record: bytes
    delivery: Delivery


class _Pack(NamedTuple):
    publication: Publication
    deliveries: list[Delivery]


class Replies:
    """`emptied` is called whenever everything has left."""

    def __init__(self, broker: Broker, clock: Clock, metrics: Metrics, emptied: Callable[[], None]) -> None:
        self._broker = broker
        self._clock = clock
        self._metrics = metrics
        self._emptied = emptied
        self._turn: dict[str, list[_Answer]] = {}
        """reply_to -> what became ready in this turn"""
        self._unsent: deque[_Pack] = deque()
        self._sent: deque[tuple[float, Publication]] = deque()
        """The last that were written, with the time."""
        self._sent_bytes = 0
        self._lost_at: float | None = None

    @property
    def idle(self) -> bool:
        """Everything has left."""
        return not self._turn and not self._unsent

    def put(self, message_id: str, record: bytes, delivery: Delivery) -> None:
        """Send `record`, the encoded answer to `message_id`, to whoever asked, then acknowledge `delivery`."""
        if not self._turn:
            asyncio.get_running_loop().call_soon(self._flush)
        answer = _Answer(message_id, record, delivery)
        answers = self._turn.get(delivery.reply_to)
        if answers is None:
            self._turn[delivery.reply_to] = [answer]
        else:
            answers.append(answer)

    def on_state(self, state: BrokerState) -> None:
        """Note when the broker goes; when it is back, send what may not have arrived and what was kept, in order."""
        if not state.publishing:
            if self._lost_at is None:
                self._lost_at = self._clock.monotonic()
            return
        if self._lost_at is not None:
            since, self._lost_at = self._lost_at - AGAIN_SECONDS, None
            for _, publication in [entry for entry in self._sent if entry[0] >= since]:
                self._broker.send(publication)
        while state.publishing and self._unsent:
            if not self._broker.send(self._unsent[0].publication):
                return
            self._sent_now(self._unsent.popleft())
        if self.idle:
            self._emptied()

    def _flush(self) -> None:
        turn, self._turn = self._turn, {}
        for reply_to, answers in turn.items():
            for group in groups(answers, lambda answer: len(answer.record), PACK_RECORDS):
                self._send(_pack(reply_to, group))
        if self.idle:
            self._emptied()

    def _send(self, pack: _Pack) -> None:
        if not self._unsent and self._broker.send(pack.publication):
            self._sent_now(pack)
        elif len(self._unsent) < MAX_UNSENT:
            self._unsent.append(pack)
        else:
            self._metrics.count("reply_dropped")
            _acknowledge(pack)

    def _sent_now(self, pack: _Pack) -> None:
        now = self._clock.monotonic()
        self._sent.append((now, pack.publication))
        self._sent_bytes += len(pack.publication.body)
        while self._sent and (self._sent[0][0] < now - AGAIN_SECONDS or self._sent_bytes > AGAIN_BYTES):
            _, publication = self._sent.popleft()
            self._sent_bytes -= len(publication.body)
        _acknowledge(pack)


def _pack(reply_to: str, group: list[_Answer]) -> _Pack:
    body = group[0].record if len(group) == 1 else b"".join([answer.record for answer in group])
    publication = Publication(topology.REPLIES, reply_to, body, group[0].message_id, "reply")
    return _Pack(publication, [answer.delivery for answer in group])


def _acknowledge(pack: _Pack) -> None:
    for delivery in pack.deliveries:
        delivery.ack()
