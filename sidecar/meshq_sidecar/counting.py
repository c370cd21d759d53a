"""What this sidecar's app made of its messages, counted for whoever scales it (core/reports.py)."""

from meshq.core.reports import Work

WAITED_FOR = 1.0
"""Seconds after it was ready in which the first message comes if it had waited for an app."""


class _Count:
    __slots__ = ("busy", "failed", "handled", "squares")

    def __init__(self) -> None:
        self.busy = self.squares = 0.0
        self.handled = self.failed = 0


class WorkCounts:
    """Times are seconds of the monotonic clock; `began` is when this sidecar did."""

    def __init__(self, began: float) -> None:
        self._began = began
        self._ready: float | None = None
        self._topics: dict[str, _Count] = {}
        self.first_message_after: float | None = None
        """As in core/reports.py."""

    def ready(self, now: float) -> None:
        """Messages are taken. Only the first time counts."""
        if self._ready is None:
            self._ready = now

    def took(self, topic: str, started: float, seconds: float) -> None:
        """The app had a message of this topic of its service."""
        count = self._topics.get(topic)
        if count is None:
            count = self._first_of(topic, started)
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

    def _first_of(self, topic: str, started: float) -> _Count:
        if self.first_message_after is None:
            waited = self._ready is None or started <= self._ready + WAITED_FOR
            self.first_message_after = (started if waited or self._ready is None else self._ready) - self._began
        count = self._topics[topic] = _Count()
        return count
