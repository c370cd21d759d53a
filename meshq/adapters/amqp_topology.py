"""Assert the desired topology on a connection: look first, declare what is missing, say in words what cannot be.

Exchanges are shared by the whole mesh and usually come from broker-config/definitions.json, so a service's user need not
be allowed to declare them: they are looked at passively. A declaration that the broker refuses closes its channel, so each
fault costs one channel and leaves everything else standing.
"""

import re
from collections.abc import Awaitable, Callable
from functools import partial

from meshq.adapters.amqp_channel import Channel, ChannelLost
from meshq.adapters.amqp_connection import FastConnection
from meshq.core.topology import Binding, ExchangeSpec, Queue, Topology

NOT_FOUND, ACCESS_REFUSED, RESOURCE_LOCKED, PRECONDITION_FAILED = 404, 403, 405, 406

_INEQUIVALENT = re.compile(r"inequivalent arg '([^']+)' for \w+ '([^']+)' in vhost '[^']*': (.*)")


class Declarer:
    """Declares on one connection, on a channel of its own that is opened again after a fault."""

    def __init__(self, connection: FastConnection, user: str) -> None:
        self._connection = connection
        self._user = user
        self._channel: Channel | None = None

    async def assert_all(self, wanted: Topology) -> list[str]:
        """Returns the faults, each a sentence. Raises ChannelLost with code 0 when the connection went, TimeoutError."""
        faults = []
        for exchange in wanted.exchanges:
            faults += await self._try(f"exchange {exchange.name}", partial(self._exchange, exchange))
        for queue in wanted.queues:
            faults += await self._try(f"queue {queue.name}", partial(_queue, queue))
        for binding in wanted.bindings:
            what = f"binding of {binding.destination} to {binding.source}"
            faults += await self._try(what, partial(_bind, binding))
        return faults

    def close(self) -> None:
        if self._channel is not None:
            self._channel.close()

    async def _exchange(self, exchange: ExchangeSpec, channel: Channel) -> None:
        try:
            await channel.call(channel.inner.exchange_declare, exchange=exchange.name, passive=True)
        except ChannelLost as lost:
            if lost.code != NOT_FOUND:
                raise
            channel = await self._open()
            await channel.call(
                channel.inner.exchange_declare,
                exchange=exchange.name,
                exchange_type=exchange.kind,
                durable=True,
                internal=exchange.internal,
                arguments=dict(exchange.arguments),
            )

    async def _try(self, what: str, declare: Callable[[Channel], Awaitable[None]]) -> list[str]:
        channel = self._channel if self._channel is not None and not self._channel.lost.done() else await self._open()
        try:
            await declare(channel)
        except ChannelLost as lost:
            if lost.code == 0:
                raise
            return [fault(what, lost, self._user)]
        return []

    async def _open(self) -> Channel:
        self._channel = await Channel.open(self._connection)
        return self._channel


async def _queue(queue: Queue, channel: Channel) -> None:
    await channel.call(
        channel.inner.queue_declare,
        queue=queue.name,
        durable=queue.durable,
        exclusive=queue.exclusive,
        arguments=dict(queue.arguments),
    )


async def _bind(binding: Binding, channel: Channel) -> None:
    if binding.to_exchange:
        await channel.call(
            channel.inner.exchange_bind,
            destination=binding.destination,
            source=binding.source,
            routing_key=binding.key,
        )
    else:
        await channel.call(
            channel.inner.queue_bind, queue=binding.destination, exchange=binding.source, routing_key=binding.key
        )


def fault(what: str, lost: ChannelLost, user: str) -> str:
    """What the broker refused, and what to do about it."""
    match lost.code:
        case 406 if found := _INEQUIVALENT.search(lost.text):
            argument, name, difference = found.groups()
            return (
                f"{what} exists with another {argument} ({difference}). Arguments cannot be changed: once it is empty, "
                f"delete it (rabbitmqctl delete_queue {name}), and it is declared again as it has to be"
            )
        case 403:
            return (
                f"the broker's user {user!r} may not do this with the {what} ({lost.text}): load "
                f"broker-config/definitions.json for the shared parts, and give the user its service's rights"
            )
        case 405:
            return f"{what} belongs to another connection ({lost.text})"
    return f"{what}: the broker says {lost}"
