"""How many messages for each topic lie in this sidecar's spool, for whoever scales services (core/reports.py)."""

from collections.abc import Mapping
from functools import lru_cache

from meshq.core import topology
from meshq.core.queue_names import PREFIX, read_name
from meshq.ports import Publication, Spool

MOST_FOUND = 10_000
"""Of those that an earlier process left: so many take a tenth of a second to look at, and the counts are too low until the rest has gone."""


class SpoolCounts:
    """Durable calls. Who subscribes to an event is not known here, and what is to be delayed is no work yet. Made before anything is
    taken out of the spool."""

    def __init__(self, spool: Spool) -> None:
        self._topics: dict[str, int] = {}
        for _ in range(min(spool.waiting, MOST_FOUND)):
            record = spool.take()
            if record is not None:
                self.came(record.publication)
        spool.rewind()

    @property
    def by_topic(self) -> Mapping[str, int]:
        return self._topics

    def came(self, publication: Publication) -> None:
        topic = _topic(publication.exchange, publication.key)
        if topic is not None:
            self._topics[topic] = self._topics.get(topic, 0) + 1

    def went(self, publication: Publication) -> None:
        topic = _topic(publication.exchange, publication.key)
        if topic is None or topic not in self._topics:
            return
        self._topics[topic] -= 1
        if not self._topics[topic]:
            del self._topics[topic]

    def clear(self) -> None:
        """The spool is empty. What turned out to be damaged never went."""
        self._topics.clear()


@lru_cache(maxsize=1024)  # an app sends to the same few again and again
def _topic(exchange: str, key: str) -> str | None:
    name = read_name(f"{PREFIX}{key}") if exchange == topology.CALLS else None
    return None if name is None else name.topic
