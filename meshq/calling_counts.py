"""How many waited calls went to each topic and what became of them, for whoever scales the called (core/reports.py): the broker drops
one whose time is over without counting it, so these are what its queue is judged by.
"""

from collections.abc import Iterable

from meshq.calling_waiting import Waiting
from meshq.core.reports import Calls
from meshq.core.usage import MAX_TOPICS


class _Count:
    __slots__ = ("answered", "expired", "sent")

    def __init__(self) -> None:
        self.sent = self.answered = self.expired = 0


class CallCounts:
    """Calls with an ordering key are left out: core/reports.py."""

    def __init__(self) -> None:
        self._topics: dict[str, _Count] = {}

    def sent(self, waiting: Waiting) -> None:
        if waiting.call.key:
            return
        topic = waiting.route.topic
        count = self._topics.get(topic)
        if count is None:
            if len(self._topics) >= MAX_TOPICS:
                return
            count = self._topics[topic] = _Count()
        count.sent += 1

    def answered(self, waiting: Waiting) -> None:
        """Or nobody wants an answer any more."""
        if (count := self._of(waiting)) is not None:
            count.answered += 1

    def expired(self, waiting: Waiting) -> None:
        if (count := self._of(waiting)) is not None:
            count.expired += 1

    def forget(self, waiting: Waiting) -> None:
        """Where it was sent to does not exist."""
        if not waiting.call.key:
            self._topics.pop(waiting.route.topic, None)

    def by_topic(self, waiting: Iterable[Waiting], now: float) -> dict[str, Calls]:
        """`waiting`: those that wait now, the oldest first; `now` of the monotonic clock."""
        open_now: dict[str, int] = {}
        oldest: dict[str, float] = {}
        for each in waiting:
            if not each.call.key:
                topic = each.route.topic
                open_now[topic] = open_now.get(topic, 0) + 1
                oldest.setdefault(topic, each.since)
        return {
            topic: Calls(
                count.sent,
                count.answered,
                count.expired,
                open_now.get(topic, 0),
                max(0.0, now - oldest.get(topic, now)),
            )
            for topic, count in self._topics.items()
        }

    def _of(self, waiting: Waiting) -> _Count | None:
        return None if waiting.call.key else self._topics.get(waiting.route.topic)
