"""Deleting queues that nobody wants any more, and never one that holds a message.

The broker's own flags for that (if-empty, if-unused) do not exist for quorum queues: they close the whole connection with
NOT_IMPLEMENTED (rabbitmq-server issue 10543). So the queue is asked how many messages are ready and how many consumers there
are; of a quorum queue whoever holds a message counts as a consumer, cancelled or not (tried on 3.10 and 4.0). In an election it
answers zero and zero, whatever is in it. That this is not so is proved by being a consumer: it has to say one then, and zero
when we are none any more.
"""

import asyncio
from collections.abc import Sequence

from meshq.adapters.amqp_channel import Channel, ChannelLost
from meshq.adapters.amqp_connection import FastConnection
from meshq.adapters.amqp_topology import NOT_FOUND, fault

LOOK_EVERY = 0.1
QUIET_LOOKS = 5
"""Looks in a row that have to find a queue empty and unused: what was routed to it before its bindings went may still be on its
way from another node."""
MOST_LOOKS = 30
ANSWER_WITHIN = 0.25
"""Seconds. A queue without a leader makes the broker wait as long before it answers zero and zero."""
PROOFS = 5
"""Attempts at a proof, which a busy broker may be too slow for."""


async def quiet(connection: FastConnection, queues: Sequence[str]) -> list[str]:
    """Watch them for a few seconds at most. Returns those that were empty and unused all through the last half second. Raises
    ChannelLost with code 0, TimeoutError."""
    looks = dict.fromkeys(queues, 0)
    found = []
    for _ in range(MOST_LOOKS):
        for queue in list(looks):
            ready, consumers = await _figures(connection, queue)
            looks[queue] = 0 if consumers else looks[queue] + 1
            if ready:
                del looks[queue]
            elif looks[queue] >= QUIET_LOOKS:
                del looks[queue]
                found.append(queue)
        if not looks:
            break
        await asyncio.sleep(LOOK_EVERY)
    return found


async def delete(connection: FastConnection, queue: str, user: str) -> list[str]:
    """Delete it if it is empty and unused now. Returns the faults. Raises ChannelLost with code 0, TimeoutError."""
    channel = await Channel.open(connection)
    try:
        for _ in range(PROOFS):
            if await _empty(connection, channel, queue):
                await channel.call(channel.inner.queue_delete, queue=queue)
                break
    except ChannelLost as lost:
        if lost.code == 0:
            raise
        return [] if lost.code == NOT_FOUND else [fault(f"queue {queue}", lost, user, {queue: "configure"})]
    finally:
        channel.close()
    return []


async def _figures(connection: FastConnection, queue: str) -> tuple[int, int]:
    """(messages ready, consumers); of a queue that is not there (1, 0), so that it is left alone."""
    channel = await Channel.open(connection)
    try:
        return await channel.figures(queue)
    except ChannelLost as lost:
        if lost.code == 0:
            raise
        return 1, 0
    finally:
        channel.close()


async def _empty(connection: FastConnection, channel: Channel, queue: str) -> bool:
    """Whether it certainly is, and nobody else consumes it."""
    got: list[None] = []
    connection.on_deliver[channel.number] = lambda *_: got.append(None)
    inner = channel.inner
    seen = []
    await channel.call(inner.basic_qos, prefetch_count=1)
    for tag in ("meshq-first", "meshq-second"):
        await channel.call(inner.basic_consume, queue=queue, consumer_tag=tag, on_message_callback=lambda *_: None)
        seen.append(await _soon(channel, queue))
        await channel.call(inner.basic_cancel, consumer_tag=tag)
        seen.append(await _soon(channel, queue))
    return not got and seen == [(0, 1), (0, 0)] * 2


async def _soon(channel: Channel, queue: str) -> tuple[int, int] | None:
    """Its figures; None if they took so long that they may be wrong."""
    clock = asyncio.get_running_loop()
    asked = clock.time()
    figures = await channel.figures(queue)
    return figures if clock.time() - asked < ANSWER_WITHIN else None
