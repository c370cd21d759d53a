"""The subscriptions of this app: desired state, and what there is of it on the broker.

They are the service's: its instances share a subscription by its name, and one that is deleted by any of them gets no events any
more. Its queues are those of the instance's own major version, also where it serves others besides. One that the app made is
wanted for as long as this sidecar lives; its queue stays, so that the app finds what came meanwhile when it subscribes again.
"""

import asyncio
import logging
import re
from collections.abc import Awaitable, Iterable
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from meshq.core import topology
from meshq.core.events import EventAddress
from meshq.core.subscriptions import Mode, Subscription, admission, declarations, queues
from meshq.core.topology import Topology
from meshq.ports import Broker, BrokerState, Clock, Store
from meshq.tasks import Tasks
from meshq_sidecar.job import Source
from meshq_sidecar.replay_reading import replay_of
from meshq_sidecar.replaylog import Copier

logger = logging.getLogger(__name__)

MAX_SUBSCRIPTIONS = 200
WITHIN = 10.0
"""Seconds for the broker to declare or to take away; what takes longer goes on by itself."""


class Worker(Protocol):
    """What takes messages off queues: meshq_sidecar.work.Work."""

    def add(self, source: Source) -> None: ...
    def remove(self, queue: str) -> None: ...


class Conflict(Exception):
    """It cannot be as wanted; the message says why and what to do."""


class Denied(Exception):
    """A right is missing on the broker; the message says which."""


class TooMany(Exception):
    """There are MAX_SUBSCRIPTIONS already."""


class Away(Exception):
    """The broker cannot be asked now; the message says why."""


@dataclass
class _Held:
    subscription: Subscription
    declared: Topology
    queues: list[str]
    copier: Copier | None = None
    tasks: Tasks = field(default_factory=Tasks)


class Shown(NamedTuple):
    """A subscription as it is now."""

    subscription: Subscription
    pending: str
    """Why nothing comes through it yet; "" when all is well."""
    doing: str
    """What a replay does."""


class Put(NamedTuple):
    created: bool
    shown: Shown


class Subscriptions:
    """`topic` is the service's own major's. Use: `open` with what the settings say, `close`."""

    def __init__(self, broker: Broker, store: Store, clock: Clock, work: Worker, topic: str, instance: str) -> None:
        self._broker = broker
        self._store = store
        self._clock = clock
        self._work = work
        self._topic = topic
        self._instance = instance
        self._held: dict[str, _Held] = {}
        self._changing = asyncio.Lock()
        """One change at a time: each is several questions to the broker."""
        broker.on_state(self._on_broker_state)

    def __len__(self) -> int:
        return len(self._held)

    async def open(self, subscribe: Iterable[Subscription], log_events: Iterable[EventAddress]) -> None:
        """What the settings say. A fault shows in the broker's state."""
        held = [self._made_of(subscription) for subscription in subscribe]
        wanted = [topology.dead(self._topic), *(topology.log(event.topic) for event in log_events)]
        # Each by itself, so that each can be withdrawn; all at once, so that the broker is asked once.
        async with self._changing:
            await _in_time(self._declare_all([*wanted, *(each.declared for each in held)]))
            for each in held:
                self._begin(each)

    async def close(self) -> None:
        """Let others go on with what was copied here. Queues are consumed until the work stops."""
        copying = [held for held in self._held.values() if held.copier is not None]
        await asyncio.gather(*(held.tasks.close() for held in copying))
        await asyncio.gather(*(held.copier.let_go() for held in copying if held.copier is not None))

    def all(self) -> list[Shown]:
        return [self._shown(self._held[name]) for name in sorted(self._held)]

    def get(self, name: str) -> Shown | None:
        held = self._held.get(name)
        return None if held is None else self._shown(held)

    async def put(self, subscription: Subscription) -> Put:
        """Make it, or change the one of its name. Returns once the broker has what it needs, or cannot be asked: then that follows
        as soon as it can. Raises Conflict, Denied, TooMany."""
        async with self._changing:
            before = self._held.get(subscription.name)
            if before is None:
                return Put(True, await self._create(subscription))
            if before.subscription.mode is not subscription.mode:
                raise Conflict(
                    f"{subscription.name} is {before.subscription.mode.value}, and its queues cannot become those of "
                    f"{subscription.mode.value}: delete it first, or take another name"
                )
            if before.subscription != subscription:
                await self._change(before, subscription)
            return Put(False, self._shown(self._held[subscription.name]))

    async def delete(self, name: str) -> bool:
        """Take it off the broker; its queue only if nothing is in it and no other instance consumes it. False: there is none.
        Raises Away."""
        async with self._changing:
            held = self._held.get(name)
            if held is None:
                return False
            if not self._broker.state.consuming:
                raise Away(self._broker.state.fault or "the broker is being connected to")
            await self._end(held)
            del self._held[name]
            if held.copier is not None:
                await held.copier.forget()
            await _in_time(self._broker.withdraw(held.declared))
            return True

    # --- changes ------------------------------------------------------------------------------------------------------------

    async def _create(self, subscription: Subscription) -> Shown:
        if len(self._held) >= MAX_SUBSCRIPTIONS:
            raise TooMany
        held = self._made_of(subscription)
        declared = await self._declare(held)
        self._begin(held)
        shown = self._shown(held)
        return shown if declared or shown.pending else shown._replace(pending="the broker takes its time")

    async def _change(self, before: _Held, subscription: Subscription) -> None:
        """The queues stay, with what is in them; what is new in them from now on is other."""
        held = self._made_of(subscription)
        moved = before.declared != held.declared
        if moved:
            await self._declare(held)
        await self._end(before)
        if before.copier is not None:
            await before.copier.forget()
        if moved:
            await _in_time(self._broker.withdraw(before.declared))  # what both want stays
        self._begin(held)

    def _made_of(self, subscription: Subscription) -> _Held:
        declared = declarations(subscription, self._topic, self._instance)
        return _Held(subscription, declared, queues(subscription, self._topic, self._instance))

    async def _declare(self, held: _Held) -> bool:
        """Whether the broker answered in time. Raises Conflict, Denied; then nothing of it is left."""
        declared = await _in_time(self._broker.declare(held.declared))
        if refusal := self._refusal(held):
            await _in_time(self._broker.withdraw(held.declared))
            raise (Denied if "ACCESS_REFUSED" in refusal else Conflict)(refusal)
        return declared

    def _begin(self, held: _Held) -> None:
        subscription = held.subscription
        self._held[subscription.name] = held
        accepts = admission(subscription)
        for queue in held.queues:
            path, ordered = subscription.path.encode(), subscription.mode is Mode.ORDERED
            self._work.add(Source(queue, self._topic, path, accepts, ordered, subscription.name))
        if subscription.mode is Mode.REPLAY:
            replay = replay_of(subscription, self._topic)
            held.copier = Copier(self._broker, self._store, self._clock, replay, self._instance)
            held.tasks.start(held.copier.run(), f"copy the log for {subscription.name}")

    async def _end(self, held: _Held) -> None:
        await held.tasks.close()
        for queue in held.queues:
            self._work.remove(queue)

    # --- the broker ---------------------------------------------------------------------------------------------------------

    async def _declare_all(self, wanted: list[Topology]) -> None:
        await asyncio.gather(*map(self._broker.declare, wanted))

    def _refusal(self, held: _Held) -> str:
        """What the broker refuses of it: a fault names the queue that it is about."""
        state = self._broker.state
        named = any(re.search(rf"{re.escape(queue)}(?!\.?[a-z0-9-])", state.fault) for queue in held.queues)
        return state.fault if state.consuming and named else ""

    def _shown(self, held: _Held) -> Shown:
        state = self._broker.state
        pending = self._refusal(held) if state.consuming else state.fault or "the broker is being connected to"
        return Shown(held.subscription, pending, "" if held.copier is None else held.copier.said)

    def _on_broker_state(self, _: BrokerState) -> None:
        for held in self._held.values():
            if held.copier is not None:
                held.copier.on_broker_state()


async def _in_time(asked: Awaitable[None]) -> bool:
    """Whether it ended WITHIN its time."""
    try:
        async with asyncio.timeout(WITHIN):
            await asked
    except TimeoutError:
        return False
    return True
