"""How long replicas take from their order to their first message, measured from outside: whoever orders them, and however."""

import math
from collections import deque

KEPT = 20
"""Starts that count, the latest."""
QUANTILE = 0.9
LOST = 600.0
"""Seconds after which an order is not waited for any more."""


class Leads:
    """Of one consumer group. Times are seconds of one clock that never goes backwards."""

    def __init__(self) -> None:
        self._ordered: deque[float] = deque()
        self._took: deque[float] = deque(maxlen=KEPT)
        self._wanted = 0
        self._ready: int | None = None

    def note(self, at: float, desired: int | None, ready: int | None) -> None:
        """What was decided last, and how many take messages now. The first time says only where it begins."""
        if self._ready is None:
            self._ready, self._wanted = ready, max(desired or 0, ready or 0)
            return
        while self._ordered and at - self._ordered[0] > LOST:
            self._ordered.popleft()
        if ready is not None:
            for _ in range(ready - self._ready):
                if self._ordered:
                    self._took.append(at - self._ordered.popleft())
            self._ready = ready
        if desired is not None:
            self._ordered.extend([at] * (desired - self._wanted))
            for _ in range(self._wanted - desired):
                if self._ordered:
                    self._ordered.pop()
            self._wanted = desired

    @property
    def lead(self) -> float | None:
        """Seconds, p90; None before anything was measured."""
        if not self._took:
            return None
        ordered = sorted(self._took)
        return ordered[min(len(ordered) - 1, math.ceil(QUANTILE * len(ordered)) - 1)]
