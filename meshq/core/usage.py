"""Which topics of services this one sends to, for whoever wants to retire a version (ports.Registry.called)."""

MAX_TOPICS = 10_000
"""Beyond, further ones are not remembered: an app calls a few, and what a caller made up is forgotten when no queue takes it."""
TELL_EVERY = 60.0
"""Seconds between two times that the same topic is told of at the least."""


class Usage:
    """Times are seconds of the monotonic clock."""

    def __init__(self) -> None:
        self._sent: dict[str, float] = {}
        """topic -> when something was sent there last"""
        self._told: dict[str, float] = {}
        """topic -> when that was told last"""

    def note(self, topic: str, now: float) -> None:
        """Something was sent there."""
        if topic in self._sent or len(self._sent) < MAX_TOPICS:
            self._sent[topic] = now

    def forget(self, topic: str) -> None:
        """It does not exist."""
        self._sent.pop(topic, None)

    def due(self, now: float) -> list[str]:
        """What to tell now: sent to since it was told of last, and that is a while ago. Until `tell` it stays due."""
        return [
            topic
            for topic, sent in self._sent.items()
            if (told := self._told.get(topic)) is None or (sent > told and now >= told + TELL_EVERY)
        ]

    def tell(self, topics: list[str], now: float) -> None:
        """These were told of. What was not sent to for so long is forgotten with that."""
        self._told.update(dict.fromkeys(topics, now))
        for topic, told in list(self._told.items()):
            if self._sent.get(topic, 0.0) <= told and now >= told + TELL_EVERY:
                del self._told[topic]
                self._sent.pop(topic, None)
