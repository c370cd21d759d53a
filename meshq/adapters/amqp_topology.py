"""Assert the desired topology on a connection: look first, declare what is missing, say in words what cannot be. A declaration
that the broker refuses closes its channel, so each fault costs one channel and leaves everything else standing.

The shared part (core.topology.shared) belongs to the mesh and usually comes from broker-config/definitions.json, so a
service's user need have no right to declare or bind it. Its exchanges and queues are looked at passively. Bindings cannot be
looked at, so the rule is: where all of it that is wanted is there, so are its bindings; where something is missing, it is
declared and every binding asserted. For this the exchange of events is the mark: whoever makes the shared part declares it
last, after the bindings, so that one who died half-way has left something missing.

Everything else is the service's own and declared outright, because only that finds another argument.
"""

import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial

from meshq.adapters.amqp_channel import Channel, ChannelLost
from meshq.adapters.amqp_connection import FastConnection
from meshq.core.desired import without
from meshq.core.topology import EVENTS, Binding, ExchangeSpec, Queue, Topology, shared
from meshq.ports import QueueStats

NOT_FOUND, ACCESS_REFUSED = 404, 403

_SHARED_EXCHANGES, _SHARED_QUEUES, _SHARED_BINDINGS = map(
    frozenset, (shared().exchanges, shared().queues, shared().bindings)
)

Rights = Mapping[str, str]
"""Name of a queue or exchange -> the right (configure, write or read) that an operation needs on it."""

_PUBLISH_REFUSED = re.compile(r"access to (?:topic '([^']+)' in )?exchange '([^']+)'")
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
        shared = Topology(
            tuple(exchange for exchange in wanted.exchanges if exchange in _SHARED_EXCHANGES),
            tuple(queue for queue in wanted.queues if queue in _SHARED_QUEUES),
            tuple(binding for binding in wanted.bindings if binding in _SHARED_BINDINGS),
        )
        return await self._assert_shared(shared) + await self._assert_own(without(wanted, shared))

    async def _assert_shared(self, shared: Topology) -> list[str]:
        """See the module."""
        mark = tuple(exchange for exchange in shared.exchanges if exchange.name == EVENTS)
        complete = not await self.missing(mark)
        faults = []
        for exchange in shared.exchanges:
            if exchange not in mark and await self.missing((exchange,)):
                complete = False
                faults += await self._declare_exchange(exchange)
        for queue in shared.queues:
            if await self.stats(queue.name) is None:
                complete = False
                faults += await self._declare_queue(queue)
        if complete or faults:
            return faults
        for binding in shared.bindings:
            faults += await self._bind(binding)
        for exchange in () if faults else mark:
            faults += await self._declare_exchange(exchange)
        return faults

    async def _assert_own(self, own: Topology) -> list[str]:
        faults = []
        for exchange in own.exchanges:
            if await self.missing((exchange,)):
                faults += await self._declare_exchange(exchange)
        for queue in own.queues:
            faults += await self._declare_queue(queue)
        for binding in own.bindings:
            faults += await self._bind(binding)
        return faults

    async def missing(self, exchanges: Sequence[ExchangeSpec]) -> str:
        """The first of these that is not there, "" when all are. Raises ChannelLost with code 0, TimeoutError."""
        for exchange in exchanges:
            if not await self._there(partial(_look_at_exchange, exchange)):
                return exchange.name
        return ""

    async def take_away(self, unwanted: Topology) -> list[str]:
        """Unbind; returns the faults. Unbinding what is not there is none."""
        faults = []
        for binding in unwanted.bindings:
            what = f"binding of {binding.destination} to {binding.source}"
            faults += await self._try(what, partial(_unbind, binding), _binding_rights(binding))
        return faults

    async def stats(self, queue: str) -> QueueStats | None:
        """Messages ready, and consumers; None where there is no such queue."""
        found: list[QueueStats] = []

        async def look(channel: Channel) -> None:
            ready, consumers = await channel.figures(queue)
            found.append(QueueStats(queue, ready=ready, consumers=consumers))

        await self._there(look)
        return found[0] if found else None

    def close(self) -> None:
        if self._channel is not None:
            self._channel.close()

    async def _declare_exchange(self, exchange: ExchangeSpec) -> list[str]:
        what, rights = f"exchange {exchange.name}", {exchange.name: "configure"}
        return await self._try(what, partial(_declare_exchange, exchange), rights)

    async def _declare_queue(self, queue: Queue) -> list[str]:
        return await self._try(f"queue {queue.name}", partial(_declare_queue, queue), {queue.name: "configure"})

    async def _bind(self, binding: Binding) -> list[str]:
        what = f"binding of {binding.destination} to {binding.source}"
        return await self._try(what, partial(_bind, binding), _binding_rights(binding))

    async def _there(self, look: Callable[[Channel], Awaitable[None]]) -> bool:
        """Whether what `look` looks at is there. Raises ChannelLost with code 0, TimeoutError."""
        try:
            await look(await self._usable())
        except ChannelLost as lost:
            if lost.code == 0:
                raise
            return lost.code != NOT_FOUND
        except TimeoutError:
            self.close()  # as soon as the answer is there: until then nothing else is answered on this channel
            self._channel = None
            raise
        return True

    async def _usable(self) -> Channel:
        if self._channel is None or self._channel.lost.done():
            self._channel = await Channel.open(self._connection)
        return self._channel

    async def _try(self, what: str, declare: Callable[[Channel], Awaitable[None]], rights: Rights) -> list[str]:
        channel = await self._usable()
        try:
            await declare(channel)
        except ChannelLost as lost:
            if lost.code == 0:
                raise
            return [fault(what, lost, self._user, rights)]
        return []


async def _look_at_exchange(exchange: ExchangeSpec, channel: Channel) -> None:
    await channel.call(channel.inner.exchange_declare, exchange=exchange.name, passive=True)


async def _declare_exchange(exchange: ExchangeSpec, channel: Channel) -> None:
    await channel.call(
        channel.inner.exchange_declare,
        exchange=exchange.name,
        exchange_type=exchange.kind,
        durable=True,
        internal=exchange.internal,
        arguments=dict(exchange.arguments),
    )


async def _declare_queue(queue: Queue, channel: Channel) -> None:
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


async def _unbind(binding: Binding, channel: Channel) -> None:
    if binding.to_exchange:
        await channel.call(
            channel.inner.exchange_unbind,
            destination=binding.destination,
            source=binding.source,
            routing_key=binding.key,
        )
    else:
        await channel.call(
            channel.inner.queue_unbind, queue=binding.destination, exchange=binding.source, routing_key=binding.key
        )


def _binding_rights(binding: Binding) -> Rights:
    return {binding.destination: "write", binding.source: "read"}


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
            return f"{what}: {refused(lost.text, user, rights)}"
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


def refused_publish(text: str) -> tuple[str, str] | None:
    """Exchange and routing key that may not be published to, the key "" where none may; None if it is not about that."""
    found = _PUBLISH_REFUSED.search(text)
    return None if found is None else (found[2], found[1] or "")
