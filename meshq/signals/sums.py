"""Counters that come, begin anew and go, as one sum that only grows."""

from collections.abc import Mapping

FORGOTTEN = 200
"""Looks after which a part that is gone is forgotten: it may only have been missing."""


class Sum:
    """What was counted between two looks is added up. A part that is new counts from 0, because it began since the last look; the
    first look of all adds what there is."""

    def __init__(self) -> None:
        self.total = 0.0
        self._seen: dict[str, tuple[float, int]] = {}
        """Part -> its last value, and the look that brought it."""
        self._looks = 0

    @property
    def begun(self) -> bool:
        """Whether there was a look."""
        return self._looks > 0

    def add(self, parts: Mapping[str, float]) -> None:
        """Each part's counter as it stands now. One that fell has begun anew and counts from 0."""
        self._looks += 1
        for name, value in parts.items():
            before, _ = self._seen.get(name, (0.0, 0))
            self.total += value - before if value >= before else value
            self._seen[name] = (value, self._looks)
        if len(self._seen) > len(parts):
            oldest = self._looks - FORGOTTEN
            self._seen = {name: seen for name, seen in self._seen.items() if seen[1] > oldest}
