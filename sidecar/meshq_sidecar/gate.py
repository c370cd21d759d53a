"""Room at the app: at most so many requests at once, whatever queues they came from.

Whoever has requests that wait for room registers once with `pull`; when room comes free each is asked in turn for one, so that
neither waited calls nor durable messages can shut out the other.
"""

from collections import deque
from collections.abc import Callable

Pull = Callable[[], bool]
"""Begin one of what waits. False: nothing waits."""


class Gate:
    def __init__(self, limit: int) -> None:
        self._limit = limit
        self.in_flight = 0
        self._pulls: deque[Pull] = deque()
        self._filling = False

    def set_limit(self, limit: int) -> None:
        """From now on. What has begun beyond a lower one goes on; 0: nothing more begins."""
        self._limit = limit
        self.fill()

    @property
    def free(self) -> bool:
        return self.in_flight < self._limit

    def pull(self, pull: Pull) -> None:
        self._pulls.append(pull)

    def enter(self) -> None:
        self.in_flight += 1

    def leave(self) -> None:
        self.in_flight -= 1

    def fill(self) -> None:
        """Let begin what there is room for. What begins may end at once and call this again, so it does not nest."""
        if self._filling:
            return
        self._filling = True
        try:
            idle = 0
            while self.in_flight < self._limit and idle < len(self._pulls):
                pull = self._pulls[0]
                self._pulls.rotate(-1)
                idle = 0 if pull() else idle + 1
        finally:
            self._filling = False
