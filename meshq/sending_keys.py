"""Which topics take messages with an ordering key. Only the broker knows, and for a delayed message it says so when it is too
late for the sender; so it is asked before, and what it says is remembered for a while."""

import asyncio
from collections.abc import Callable

from meshq.core import topology
from meshq.ports import Broker, BrokerAway, Clock
from meshq.tasks import Tasks

REMEMBERED = 30.0
"""Seconds."""
MAX_TOPICS = 1000
ASK_WITHIN = 2.0

Told = Callable[[bool], None]


class KeyQueues:
    def __init__(self, broker: Broker, clock: Clock, tasks: Tasks) -> None:
        self._broker = broker
        self._clock = clock
        self._tasks = tasks
        self._known: dict[str, tuple[float, bool]] = {}
        """topic -> since when, and what"""
        self._asking: dict[str, list[Told]] = {}

    def ask(self, topic: str, told: Told) -> None:
        """Whether `topic` takes keys; True where nobody can say. `told` may be called before this returns."""
        since, known = self._known.get(topic, (0.0, False))
        if topic in self._known and since + REMEMBERED > self._clock.monotonic():
            told(known)
        elif topic in self._asking:
            self._asking[topic].append(told)
        else:
            self._asking[topic] = [told]
            self._tasks.start(self._look(topic), f"look for the queues of {topic}")

    async def _look(self, topic: str) -> None:
        takes = True
        try:
            async with asyncio.timeout(ASK_WITHIN):
                queues = (topology.work_queue(topic), topology.key_queue(topic, 0))
                there = {figures.queue for figures in await self._broker.stats(queues)}
            takes = queues[1] in there or queues[0] not in there
            if len(self._known) >= MAX_TOPICS:
                self._known.clear()
            self._known[topic] = (self._clock.monotonic(), takes)
        except (BrokerAway, TimeoutError):
            pass
        finally:
            for told in self._asking.pop(topic):
                told(takes)
