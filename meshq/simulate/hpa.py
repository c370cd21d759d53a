"""Kubernetes' HorizontalPodAutoscaler, as far as it decides: tolerance, stabilization, policies. For the rules that go through one."""

import math
from collections import deque

SYNC = 15
"""Seconds between two looks at the metric."""
TOLERANCE = 0.1
STEP_PODS = 4
"""By default it grows by this in a sync, or doubles, whichever is more."""
_NOISE = 1e-9
"""So that 3.0000000000000004 replicas are 3."""


def of_average(total: float, target: float, current: int, tolerance: float = TOLERANCE) -> int:
    """An external metric with an AverageValue: `total` is of all replicas, `target` of each."""
    if current and abs(1 - total / (target * current)) <= tolerance:
        return current
    return math.ceil(total / target - _NOISE)


def of_utilisation(used: float, target: float, current: int, ready: int, tolerance: float = TOLERANCE) -> int:
    """A resource metric: `used` is the share that the ready replicas use, on average. Those that are not ready yet count as idle where
    it would grow."""
    ratio = used / target
    if ratio > 1 and ready < current:
        ratio = used * ready / current / target
        if ratio < 1:
            return current
        return current if abs(1 - ratio) <= tolerance else math.ceil(ratio * current - _NOISE)
    if abs(1 - ratio) <= tolerance:
        return current
    return math.ceil(ratio * ready - _NOISE)


class Hpa:
    """One of them. Asked every SYNC seconds, while there are replicas."""

    def __init__(self, least: int, most: int, window: float, *, at_once: bool = False) -> None:
        """`window`: seconds of stabilization on the way down. `at_once`: its policies allow any growth, as those of meshq's manifests
        do."""
        self._least = max(1, least)
        self._most = most
        self._window = window
        self._at_once = at_once
        self._wanted: deque[tuple[float, int]] = deque()

    def step(self, now: float, current: int, wanted: int) -> int:
        """What the metric wants, as stabilization, policies and bounds leave it."""
        while self._wanted and self._wanted[0][0] <= now - self._window:
            self._wanted.popleft()
        self._wanted.append((now, wanted))
        if wanted < current:
            wanted = min(current, max(each for _, each in self._wanted))
        if not self._at_once:
            wanted = min(wanted, max(2 * current, current + STEP_PODS))
        return max(self._least, min(wanted, self._most))
