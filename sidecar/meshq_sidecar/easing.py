"""How much the app is given at once, as it wants it: what it says with its capacity, and less for a while when its probe says 429."""

from collections.abc import Callable

STEPS = 16
"""Good probes that bring back all of it, one step each."""


class Easing:
    """`most` is MESHQ_APP_CONCURRENCY. `apply` is called with what the app is to be given, 0 to `most`, whenever that changes."""

    def __init__(self, most: int, apply: Callable[[int], None]) -> None:
        self._most = most
        self._apply = apply
        self._wanted = most
        self._level = most
        """What its probes leave of it."""
        self.now = most

    def limit(self, capacity: int | None) -> None:
        """The app wants so much at once, 0 to be given nothing; None: MESHQ_APP_CONCURRENCY. Raises ValueError."""
        if capacity is not None and capacity > self._most:
            raise ValueError(f"capacity: {capacity} is more than MESHQ_APP_CONCURRENCY, {self._most}: raise that")
        self._wanted = self._level = self._most if capacity is None else capacity
        self._set()

    def ease(self, less: bool) -> bool:
        """A probe of a well app. Half of it when it wants `less`, a step more when not. Returns whether it has less than it could."""
        if less:
            self._level = max(1, self._level // 2)
        else:
            self._level += max(1, self._wanted // STEPS)
        self._level = min(self._level, self._wanted)
        self._set()
        return self._level < self._wanted

    def _set(self) -> None:
        if self._level != self.now:
            self.now = self._level
            self._apply(self.now)
