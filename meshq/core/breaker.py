"""A circuit breaker for one app: when it fails again and again for reasons that are not the message's, stop giving it messages.

Open means: consume nothing, what waits stays in its queue. After a while one message at a time is tried (half-open); a success
closes it, a failure opens it again for twice as long. What counts as a failure is `unwell`: no answer, or an answer that says
that the app cannot work now. A 500 does not: it is what a handler that meets a bad message says.
"""

from enum import Enum

from meshq.core.http import Failed, Failure, HttpResponse

THRESHOLD = 10
"""Failures in a row that open it."""
FIRST_SECONDS, MOST_SECONDS = 1.0, 30.0


class Circuit(Enum):
    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half-open"


def unwell(outcome: HttpResponse | Failed) -> bool:
    if isinstance(outcome, HttpResponse):
        return outcome.status in (429, 502, 503, 504)
    return outcome.failure not in (Failure.TOO_LARGE, Failure.CANCELLED)


class Breaker:
    def __init__(self) -> None:
        self.circuit = Circuit.CLOSED
        self._failures = 0
        self._seconds = FIRST_SECONDS

    def succeeded(self) -> bool:
        """Whether this closed it."""
        self._failures, self._seconds = 0, FIRST_SECONDS
        closed, self.circuit = self.circuit is not Circuit.CLOSED, Circuit.CLOSED
        return closed

    def failed(self) -> float | None:
        """The seconds to stay open, if this opened it."""
        self._failures += 1
        if self.circuit is Circuit.OPEN or (self.circuit is Circuit.CLOSED and self._failures < THRESHOLD):
            return None
        self.circuit = Circuit.OPEN
        seconds, self._seconds = self._seconds, min(2 * self._seconds, MOST_SECONDS)
        return seconds

    def try_one(self) -> None:
        """The seconds are over. What began before it opened may have closed it meanwhile."""
        if self.circuit is Circuit.OPEN:
            self.circuit = Circuit.HALF_OPEN
