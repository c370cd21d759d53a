"""How long a confirm may take before its channel counts as dumb (amqp_publisher says what that is).

A broker that has too much to do confirms late and still confirms; whoever then gives its channels up sends everything again, and so
gives it twice as much. So the patience follows what confirms took of late, and grows each time that it was in vain. A channel that is
dumb for one queue only, while others are confirmed as quickly as ever, is given up as soon as before.
"""

LEAST, MOST = 3.0, 30.0
"""Seconds. A majority writes to disk in milliseconds, and an election is over in a few seconds."""
TIMES = 4.0
"""As often as long as the slowest confirm of the last second."""
FADES = 0.8
"""What is left of it after a second with quicker ones."""


class Patience:
    def __init__(self) -> None:
        self.seconds = LEAST
        self._slowest: float | None = None

    def confirmed(self, took: float) -> None:
        """One came after `took` seconds."""
        if self._slowest is None or took > self._slowest:
            self._slowest = took

    def look(self) -> None:
        """To be called once a second."""
        slowest, self._slowest = self._slowest, None
        if slowest is not None:
            self.seconds = min(MOST, max(LEAST, TIMES * slowest, FADES * self.seconds))

    def gave_up(self) -> None:
        """It was in vain."""
        self.seconds = min(MOST, 2 * self.seconds)
