"""Assert the desired topology on a connection: look first, declare what is missing, say in words what cannot be.

Exchanges are shared by the whole mesh and usually come from broker-config/definitions.json, so a service's user need not
be allowed to declare them: they are looked at passively. A declaration that the broker refuses closes its channel, so each
fault costs one channel and leaves everything else standing.
"""

import re
from collections.abc import Awaitable, Callable, Mapping
from functools import partial

from meshq.adapters.amqp_channel import Channel, ChannelLost
from meshq.adapters.amqp_connection import FastConnection
from meshq.core.topology import CALLS, Binding, ExchangeSpec, Queue, Topology

NOT_FOUND, ACCESS_REFUSED = 404, 403

Rights = Mapping[str, str]
"""Name of a queue or exchange -> the right (configure, write or read) that an operation needs on it."""

_CALLS_REFUSED = re.compile(rf"access to (?:exchange|topic '([^']+)' in exchange) '{re.escape(CALLS)}'")
_ACCESS = re.compile(r"access to (\w+ '([^']+)')")
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
            rights = {exchange.name: "configure"}
            faults += await self._try(f"exchange {exchange.name}", partial(self._exchange, exchange), rights)
        for queue in wanted.queues:
            faults += await self._try(f"queue {queue.name}", partial(_queue, queue), {queue.name: "configure"})
        for binding in wanted.bindings:
            what = f"binding of {binding.destination} to {binding.source}"
            rights = {binding.destination: "write", binding.source: "read"}
            faults += await self._try(what, partial(_bind, binding), rights)
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

    async def _try(self, what: str, declare: Callable[[Channel], Awaitable[None]], rights: Rights) -> list[str]:
        channel = self._channel if self._channel is not None and not self._channel.lost.done() else await self._open()
        try:
            await declare(channel)
        except ChannelLost as lost:
            if lost.code == 0:
                raise
            return [fault(what, lost, self._user, rights)]
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


def fault(what: str, lost: ChannelLost, user: str, rights: Rights) -> str:
    """What the broker refused, and what to do about it."""
    match lost.code:
        case 406 if found := _INEQUIVALENT.search(lost.text):
            argument, name, difference = found.groups()
            return (
                f"{what} exists with another {argument} ({difference}). Arguments cannot be changed: once it is empty, "
                f"delete it (rabbitmqctl delete_queue {name}), and it is declared again as it has to be"
            )
        case 403:
            return refused(lost.text, user, rights)
        case 405:
            return f"{what} belongs to another connection ({lost.text})"
    return f"{what}: the broker says {lost}"


def refused(text: str, user: str, rights: Rights) -> str:
    """Which right `user` has not. RabbitMQ before 3.11 says only on what: which right, the operation knows."""
    found = _ACCESS.search(text)
    missing = f"the {rights[found[2]]} right on {found[1]}" if found and found[2] in rights else "a right"
    return (
        f"the broker's user {user!r} lacks {missing} ({text}): load broker-config/definitions.json for the shared parts, and "
        "give the user its service's rights (rabbitmqctl set_permissions)"
    )


def refused_calls(text: str) -> str | None:
    """The routing key that may not be published to the exchange of calls, "" where nothing may; None if it is not about that."""
    found = _CALLS_REFUSED.search(text)
    return None if found is None else found[1] or ""
