"""Who calls which version, as the embedded registry was told it."""

from collections.abc import Mapping, Sequence

from meshq.core.names import parse_topic

KEPT_MS = 24 * 3_600_000
"""What was said is forgotten after a day, so that a version can be retired that nobody called for so long."""


class Callers:
    def __init__(self) -> None:
        self._services: dict[str, dict[tuple[int, str], int]] = {}

    def add(self, caller: str, topics: Sequence[str], now_ms: int) -> None:
        """Raises BadName for what is not a topic."""
        for service, major in map(parse_topic, topics):
            self._services[service] = {**self.of(service, now_ms), (major, caller): now_ms}

    def of(self, service: str, now_ms: int) -> Mapping[tuple[int, str], int]:
        said = self._services.get(service, {})
        return {who: at for who, at in said.items() if now_ms < at + KEPT_MS}
