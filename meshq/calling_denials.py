"""What the broker refuses us because a right is missing, remembered for a while: each refusal costs the channel that others use."""

from meshq.core.errors import Code, Problem
from meshq.core.queue_names import delay_destination
from meshq.ports import Clock

DENIED_FOR = 5.0
"""Seconds in which a topic that the broker refuses us is not tried again."""


class Denials:
    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._known: dict[tuple[str, str], tuple[float, Problem]] = {}
        """Exchange and destination, "" for all -> until when, and what is answered."""

    def add(self, exchange: str, key: str, reason: str) -> Problem:
        """The broker refuses what is published there; with the key "" all of it."""
        now = self._clock.monotonic()
        problem = Problem(Code.DENIED, reason)
        self._known = {place: denial for place, denial in self._known.items() if denial[0] > now}
        self._known[exchange, _destination(key)] = (now + DENIED_FOR, problem)
        return problem

    def find(self, exchange: str, key: str) -> Problem | None:
        """Why nothing may be published to this exchange with this routing key, as far as is known now."""
        if not self._known:
            return None
        now = self._clock.monotonic()
        for each in ("", _destination(key)):
            until, problem = self._known.get((exchange, each), (0.0, None))
            if until > now:
                return problem
        return None


def _destination(key: str) -> str:
    """What a right is for: of a delayed message, whatever its delay is, where it comes out."""
    return delay_destination(key) or key
