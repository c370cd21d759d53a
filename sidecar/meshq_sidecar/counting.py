"""What this sidecar's app made of its messages, counted for whoever scales it (core/reports.py)."""

from meshq.core.reports import Work


class _Count:
    __slots__ = ("busy", "failed", "handled", "squares")

    def __init__(self) -> None:
        self.busy = self.squares = 0.0
        self.handled = self.failed = 0


class WorkCounts:
    def __init__(self) -> None:
        self._topics: dict[str, _Count] = {}

    def took(self, topic: str, seconds: float) -> None:
        """The app had a message of this topic of its service."""
        count = self._topics.get(topic)
        if count is None:
            count = self._topics[topic] = _Count()
        count.busy += seconds
        count.squares += seconds * seconds
        count.handled += 1

    def failed(self, topic: str) -> None:
        """One that it had was not done."""
        if (count := self._topics.get(topic)) is not None:
            count.failed += 1

    def by_topic(self) -> dict[str, Work]:
        return {
            topic: Work(count.busy, count.squares, count.handled, count.failed) for topic, count in self._topics.items()
        }
