"""Acknowledgements of one channel, collected for a loop turn. Tags that are settled without a gap from the lowest on are
acknowledged by one frame (`multiple`), which at a broker with quorum queues is worth more than a factor of two in a drain; those
beyond a gap by one frame each, so that a slow message never holds back the credit of the others.
"""

import asyncio

from meshq.adapters import amqp_frames as frames
from meshq.adapters.amqp_channel import Channel
from meshq.adapters.amqp_connection import FastConnection


class Settling:
    def __init__(self, connection: FastConnection, channel: Channel) -> None:
        self._connection = connection
        self._channel = channel
        self._low = 0
        """Every tag up to here is settled."""
        self._settled: set[int] = set()
        """Settled tags above `_low`; what is not yet on the wire of them is in `_unsent`."""
        self._unsent: list[int] = []

    def ack(self, tag: int) -> None:
        if not self._unsent:
            asyncio.get_running_loop().call_soon(self.flush)
        self._unsent.append(tag)

    def requeue(self, tag: int) -> None:
        # The acknowledgements before it first: `multiple` must not come to stand behind a tag it would cover.
        self.flush()
        self._connection.write(frames.requeue(self._channel.number, tag))
        self._settled.add(tag)
        self._advance()

    def flush(self) -> None:
        unsent, self._unsent = self._unsent, []
        if not unsent or not self._channel.inner.is_open:
            return
        fresh = set(unsent)
        self._settled |= fresh
        covered = [tag for tag in range(self._low + 1, self._advance() + 1) if tag in fresh]
        out = []
        if covered:
            out.append(frames.ack(self._channel.number, covered[-1], multiple=len(covered) > 1))
        out += [frames.ack(self._channel.number, tag, multiple=False) for tag in unsent if tag > self._low]
        self._connection.write(b"".join(out))

    def _advance(self) -> int:
        while self._low + 1 in self._settled:
            self._low += 1
            self._settled.discard(self._low)
        return self._low
