"""Where dead letters lie: a topic's own queue of them, and the one for what found no queue, where those of all topics lie."""

from collections.abc import Awaitable, Callable
from typing import NamedTuple

from meshq.control.unreachable import Unreachable
from meshq.core import names, topology
from meshq.core.dead import LOST_TOPIC
from meshq.core.errors import Code, Refused, refuse
from meshq.core.instances import Snapshot
from meshq.core.names import BadName
from meshq.core.queue_names import read_name
from meshq.ports import Broker, QueueStats


class Queues(NamedTuple):
    names: list[str]
    """To look in, in this order."""
    unknown: str = ""
    """The topic, where nothing is known of it: what lies in topology.LOST can still be its."""


class DeadQueues:
    """`picture` says who is there (raises Unreachable), `listed` gives every queue that the broker tells of."""

    def __init__(
        self,
        broker: Broker,
        picture: Callable[[], Awaitable[Snapshot]],
        listed: Callable[[], Awaitable[list[QueueStats]]],
    ) -> None:
        self._broker = broker
        self._picture = picture
        self._listed = listed

    async def of(self, topic: str | None) -> Queues:
        """`topic` None: of every topic. Raises Refused for what is no topic."""
        if topic is None:
            return Queues([*await self._filled(), topology.LOST])
        if topic == LOST_TOPIC:
            return Queues([topology.LOST])
        try:
            names.parse_topic(topic)
        except BadName as error:
            raise refuse(Code.BAD_REQUEST, f"{error}; {LOST_TOPIC} stands for what found no queue") from error
        own = topology.dead_queue(topic)
        if await self._broker.stats([own]):
            return Queues([own, topology.LOST])
        return Queues([topology.LOST], unknown=topic)

    async def no_such_topic(self, topic: str) -> Refused:
        there = [name.topic for queue in await self._all() if (name := read_name(queue)) and name.topic]
        known = ", ".join(there[:20]) + (f" and {len(there) - 20} more" if len(there) > 20 else "")
        return refuse(
            Code.UNKNOWN_SERVICE, f"there are no dead letters of {topic}; topics known: {known or 'none yet'}"
        )

    async def _filled(self) -> list[str]:
        """Those with something in them, or of which that is not known."""
        return [figures.queue for figures in await self._broker.stats(await self._all()) if figures.ready != 0]

    async def _all(self) -> list[str]:
        queues = {figures.queue for figures in await self._listed() if _is_dead(figures.queue)}
        try:
            services = (await self._picture()).services.values()
        except Unreachable:
            return sorted(queues)
        queues |= {
            topology.dead_queue(names.topic(service.name, major)) for service in services for major in service.majors
        }
        return sorted(queues)


def _is_dead(queue: str) -> bool:
    name = read_name(queue)
    return name is not None and name.kind == "dead"
