"""How long the forwarder of the spool goes on with what the broker does not take, and how long it waits in between."""

import random

from meshq.ports import Publication, Published

PATIENCE = 30
"""How much refusing makes a destination hopeless, by WEIGHT: ten refusals, which take about half a minute."""
WEIGHT = {
    Published.REFUSED: 3,
    Published.UNROUTABLE: 6,  # five times, about ten seconds: whoever is called may be connecting again itself
    Published.UNKNOWN: 1,  # the connection may be to blame
}
WHY = {
    Published.REFUSED: "the broker refuses it: a queue behind it has reached a limit, or it is without a leader",
    Published.UNROUTABLE: "no queue takes it: nobody by that address was ever there",
    Published.UNKNOWN: "the broker closes the channel over it, as where a right is missing, or does not confirm it",
}
MAX_DESTINATIONS = 1_000
"""Destinations whose refusals are counted."""
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 5.0
"""Seconds, after a failure and after many in a row."""
FIRST_LOOK, LONGEST_LOOK = 0.05, 5.0
"""Seconds between looks whether the broker takes messages again, should it not say so."""

Destination = tuple[str, str]
"""Exchange and routing key."""


def destination(publication: Publication) -> Destination:
    return publication.exchange, publication.key


class Refusals:
    """What was counted against each destination since it took something."""

    def __init__(self) -> None:
        self._against: dict[Destination, int] = {}

    def __len__(self) -> int:
        return len(self._against)

    def count(self, where: Destination, fate: Published, alone: bool) -> int:
        """One more failure. Returns what it comes to; PATIENCE is hopeless. `alone`: no other message was under way, so that
        it is this one that the broker does not take."""
        against = self._against.pop(where, 0)
        if alone or fate is not Published.UNKNOWN:
            against = min(against + WEIGHT[fate], PATIENCE)
        if len(self._against) >= MAX_DESTINATIONS:
            self._against.pop(next(iter(self._against)))
        self._against[where] = against
        return against

    def took(self, where: Destination) -> None:
        self._against.pop(where, None)


def pause(failures: int) -> float:
    """Seconds after so many failures in a row."""
    return random.uniform(FIRST_PAUSE, min(FIRST_PAUSE * (1 << min(failures - 1, 20)), LONGEST_PAUSE))


def look(looks: int) -> float:
    """Seconds after so many looks in vain."""
    return min(FIRST_LOOK * (1 << min(looks, 20)), LONGEST_LOOK)
