"""Time: the machine's own, and one that tests turn. The only place that reads either of the system's clocks."""

import time
from collections import deque

SAMPLES = 8
"""How many answers of the registry the offset is taken from: 40 s of renewals."""
FARTHEST_BEHIND_MS = 4000
"""An answer that is older than this was never in time (a registry call takes 2 s at most), so the registry's clock moved."""


class SystemClock:
    """`ports.Clock` on the monotonic clock. The wall clock is read once, here at the start; a step of it changes nothing."""

    def __init__(self) -> None:
        self._offset = time.time() * 1000 - time.monotonic() * 1000
        self._offsets: deque[float] = deque(maxlen=SAMPLES)

    monotonic = staticmethod(time.monotonic)  # asked for several times a message

    def mesh_ms(self) -> int:
        return int(time.monotonic() * 1000 + self._offset)

    def learn(self, mesh_ms: int) -> None:
        """An answer tells what the time was when it was sent. So every sample is behind by its way here, and the one that is
        ahead of the others was the quickest: the best of the last few counts."""
        sample = mesh_ms - time.monotonic() * 1000
        if self._offsets and max(self._offsets) - sample > FARTHEST_BEHIND_MS:
            self._offsets.clear()
        self._offsets.append(sample)
        self._offset = max(self._offsets)

    @property
    def synchronised(self) -> bool:
        return bool(self._offsets)


class ManualClock:
    """`ports.Clock` for tests: it moves when it is told to."""

    def __init__(self, monotonic: float = 1000.0, mesh_ms: int = 1_700_000_000_000) -> None:
        self._monotonic = monotonic
        self._offset = mesh_ms - monotonic * 1000
        self._synchronised = False

    def advance(self, seconds: float) -> None:
        """Let `seconds` pass. Raises ValueError for a negative number: no clock here goes backwards."""
        if seconds < 0:
            raise ValueError(f"a monotonic clock does not go back {-seconds} s")
        self._monotonic += seconds

    def monotonic(self) -> float:
        return self._monotonic

    def mesh_ms(self) -> int:
        return round(self._monotonic * 1000 + self._offset)

    def learn(self, mesh_ms: int) -> None:
        self._offset = mesh_ms - self._monotonic * 1000
        self._synchronised = True

    @property
    def synchronised(self) -> bool:
        return self._synchronised
