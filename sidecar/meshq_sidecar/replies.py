"""Answers on their way back to their callers.

Those to one caller that are ready in the same turn of the event loop leave as one message (a pack, core/message.py): under
load the broker handles fewer messages than there are answers, and an answer alone waits for nobody. A delivery is
acknowledged after its answer was handed to the broker, never before.

While the broker takes nothing, answers are kept: the work is done, and doing it again is not the same.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

from meshq.core import topology
from meshq.ports import Broker, BrokerState, Delivery, Metrics, Publication

MAX_UNSENT = 1_000
"""Messages kept while the broker takes none; answers beyond are dropped and counted."""
PACK_RECORDS = 50
PACK_BYTES = 64 * 1024


class _Answer(NamedTuple):
    message_id: str
    record: bytes
    delivery: Delivery


class _Pack(NamedTuple):
    publication: Publication
    deliveries: list[Delivery]


class Replies:
    """`emptied` is called whenever everything has left."""

    def __init__(self, broker: Broker, metrics: Metrics, emptied: Callable[[], None]) -> None:
        self._broker = broker
        self._metrics = metrics
        self._emptied = emptied
        self._turn: dict[str, list[_Answer]] = {}
        """reply_to -> what became ready in this turn"""
        self._unsent: deque[_Pack] = deque()

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
        """Send what was kept, in order."""
        while state.publishing and self._unsent:
            if not self._broker.send(self._unsent[0].publication):
                return
            _acknowledge(self._unsent.popleft())
        if self.idle:
            self._emptied()

    def _flush(self) -> None:
        turn, self._turn = self._turn, {}
        for reply_to, answers in turn.items():
            for pack in _packs(reply_to, answers):
                self._send(pack)
        if self.idle:
            self._emptied()

    def _send(self, pack: _Pack) -> None:
        if not self._unsent and self._broker.send(pack.publication):
            _acknowledge(pack)
        elif len(self._unsent) < MAX_UNSENT:
            self._unsent.append(pack)
        else:
            self._metrics.count("reply_dropped")
            _acknowledge(pack)


def _packs(reply_to: str, answers: list[_Answer]) -> list[_Pack]:
    packs: list[_Pack] = []
    group: list[_Answer] = []
    size = 0
    for answer in answers:
        if group and (len(group) == PACK_RECORDS or size + len(answer.record) > PACK_BYTES):
            packs.append(_pack(reply_to, group))
            group, size = [], 0
        group.append(answer)
        size += len(answer.record)
    packs.append(_pack(reply_to, group))
    return packs


def _pack(reply_to: str, group: list[_Answer]) -> _Pack:
    body = group[0].record if len(group) == 1 else b"".join([answer.record for answer in group])
    publication = Publication(topology.REPLIES, reply_to, body, group[0].message_id, "reply")
    return _Pack(publication, [answer.delivery for answer in group])


def _acknowledge(pack: _Pack) -> None:
    for delivery in pack.deliveries:
        delivery.ack()
