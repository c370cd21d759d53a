"""Looks at the broker, the registry and the sidecars' reports every few seconds, and decides. A `Signals` for whoever serves it.

What does not answer makes figures unknown, never 0. A wake (somebody sends to a topic without replicas) does not wait for the next
look.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from meshq.core.instances import Snapshot
from meshq.core.reports import Reported
from meshq.core.scaling_values import EVERY, USUAL, ScalingPolicy
from meshq.ports import Clock, QueueStats, Registry, RegistryAway
from meshq.signals.continued import Continued
from meshq.signals.figures import NO_WISHES, Signal, Wishes
from meshq.signals.leading import Leading
from meshq.signals.sampling import Sampling, Seen, Topic, topics
from meshq.signals.table import Table

logger = logging.getLogger(__name__)

ANSWERS_WITHIN = 4.0
"""Seconds: what takes longer is not known for this look."""
WAKES_WAIT = 20.0
AGAIN = 1.0
"""Seconds until a registry that is away is asked for wakes again."""

T = TypeVar("T")
ListQueues = Callable[[], Awaitable[Sequence[QueueStats]]]
"""Every queue of the broker with its figures. Raises OSError when nobody answers."""


class Sampler:
    """`run` looks and decides until it is cancelled. `own_policy` says what is wanted of a topic whose route policy says nothing;
    `role`: which of several replicas this is, None where there are no others; `missing`: why some figures of an answer are missing, "" where none
    is known to be."""

    def __init__(
        self,
        list_queues: ListQueues,
        registry: Registry,
        clock: Clock,
        *,
        every: float = EVERY,
        own_policy: Callable[[Topic], ScalingPolicy | None] = lambda topic: None,
        role: Leading | None = None,
        missing: Callable[[], str] = lambda: "",
    ) -> None:
        self.every = every
        """Seconds between two looks."""
        self.pass_seconds: float | None = None
        """What the last look took; None before the first."""
        self._list_queues = list_queues
        self._registry = registry
        self._clock = clock
        self._own_policy = own_policy
        self._role = role
        self._missing = missing
        self._sampling = Sampling()
        self._table = Table(self._policy)
        self._continued = Continued()
        self._faults: dict[str, str] = {}
        """By what was asked: why it did not answer."""
        self._callbacks: list[Callable[[str], None]] = []
        self._look_took: Callable[[float], None] = lambda seconds: None

    # --- Signals ----------------------------------------------------------------------------------------------------------------

    def of_topic(self, topic: str, wishes: Wishes = NO_WISHES) -> Signal | None:
        return self._table.signal(topic, wishes)

    def of_service(self, service: str) -> list[Signal]:
        return self._signals(self._table.of_service(service))

    def all(self) -> list[Signal]:
        return self._signals(self._table.names())

    def _signals(self, names: Sequence[str]) -> list[Signal]:
        return [signal for name in names if (signal := self._table.signal(name)) is not None]

    @property
    def fault(self) -> str:
        if self.pass_seconds is None:
            return "nothing was counted yet: try again in a moment"
        return "; ".join(dict.fromkeys(filter(None, (*self._faults.values(), self._missing()))))

    @property
    def leading(self) -> bool | None:
        return None if self._role is None else self._role.now

    @property
    def leader(self) -> str:
        return self._role.owner if self._role is not None and self._role.now else ""

    @property
    def picture(self) -> Snapshot:
        """The registry's, as it was last known."""
        return self._continued.picture

    def on_change(self, callback: Callable[[str], None]) -> Callable[[], None]:
        self._callbacks.append(callback)
        return lambda: self._callbacks.remove(callback)

    def on_look(self, callback: Callable[[float], None]) -> None:
        """Call back with the seconds that each look took; one callback, the last one set."""
        self._look_took = callback

    def _tell(self, topic: str) -> None:
        for callback in tuple(self._callbacks):
            callback(topic)

    # --- looking ------------------------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(self._look_for_ever())
            group.create_task(self._follow_wakes())

    async def _look_for_ever(self) -> None:
        due = self._clock.monotonic()
        while True:
            await self.look()
            due = max(due + self.every, self._clock.monotonic())
            await asyncio.sleep(due - self._clock.monotonic())

    async def look(self) -> None:
        """Once."""
        begun = self._clock.monotonic()
        queues, picture, reports = await asyncio.gather(
            self._ask("queues", self._list_queues()),
            self._ask("registry", self._registry.snapshot()),
            self._ask("reports", self._registry.reports()),
        )
        if picture is not None:
            self._continued.see(picture, self._clock.monotonic())
        self._decide(queues, picture, reports)
        self.pass_seconds = self._clock.monotonic() - begun
        self._look_took(self.pass_seconds)
        for name in self._table.names():
            self._tell(name)

    def _decide(
        self, queues: Sequence[QueueStats] | None, picture: Snapshot | None, reports: Sequence[Reported] | None
    ) -> None:
        wanted = topics(self.picture)
        seen = Seen(self._clock.monotonic(), queues, picture, reports)
        samples = self._sampling.samples(wanted, seen, {each.name: self._table.lead(each.name) for each in wanted})
        self._table.take(wanted, samples, self._clock.mesh_ms())

    async def _ask(self, what: str, answer: Awaitable[T]) -> T | None:
        try:
            async with asyncio.timeout(ANSWERS_WITHIN):
                found = await answer
        except (OSError, RegistryAway) as error:
            said = str(error) or f"the {what} did not answer within {ANSWERS_WITHIN:g} s"
            if self._faults.get(what) != said:
                logger.warning("%s; what is not known is not taken for 0", said)
            self._faults[what] = said
            return None
        self._faults.pop(what, None)
        return found

    async def _follow_wakes(self) -> None:
        after = ""
        while True:
            try:
                after, woken = await self._registry.woken(after, WAKES_WAIT)
            except RegistryAway:
                await asyncio.sleep(AGAIN)
                continue
            for topic in woken:
                if self._table.wake(topic, self._clock.monotonic(), self._clock.mesh_ms()):
                    logger.info("%s has no replica and a message", topic)
                    self._tell(topic)

    # --- what is wanted -------------------------------------------------------------------------------------------------------------

    def _policy(self, topic: Topic) -> ScalingPolicy:
        policy = self.picture.policies.get(topic.service)
        said = None if policy is None else policy.scale
        return (said.of(topic.major) if said is not None else self._own_policy(topic)) or USUAL.of(topic.major)
