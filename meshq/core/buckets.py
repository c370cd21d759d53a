"""A token bucket: how often something may be done that others cause, at once at first and then at a steady rate."""


class Bucket:
    """`burst` at once, then `rate` a second. `now` is in seconds of any clock that does not go back."""

    def __init__(self, rate: float, burst: int) -> None:
        self._rate = rate
        self._burst = burst
        self._tokens = float(burst)
        self._since: float | None = None

    def take(self, now: float) -> float:
        """Take one. Returns the seconds to wait before it may be used; 0.0 for at once."""
        if self._since is not None:
            self._tokens = min(self._burst, self._tokens + (now - self._since) * self._rate)
        self._since = now
        self._tokens -= 1
        return max(0.0, -self._tokens / self._rate)
