"""Calls that could not be sent are held for a moment after the broker went: finding another node takes less than that."""

import asyncio
from collections.abc import Callable, KeysView

from meshq.ports import Clock

PATIENCE = 2.0
"""Seconds that calls are held after the broker went, before they are refused."""


class Holding:
    """`refuse` gets the message ids of calls that were held for too long."""

    def __init__(self, clock: Clock, refuse: Callable[[list[str]], None]) -> None:
        self._clock = clock
        self._refuse = refuse
        self._unsent: dict[str, None] = {}
        """In order."""
        self._lost_at = clock.monotonic()
        self.able = False
        """Whether the broker takes calls, as far as was said."""

    def see(self, able: bool) -> None:
        if self.able and not able:
            self._lost_at = self._clock.monotonic()
        self.able = able

    def idents(self) -> KeysView[str]:
        return self._unsent.keys()

    def hold(self, message_id: str) -> bool:
        """Keep an unsent call for when the broker is back, if it went only just now."""
        left = self._left()
        if self.able or left <= 0:
            return False
        if not self._unsent:
            asyncio.get_running_loop().call_later(left, self._look)
        self._unsent[message_id] = None
        return True

    def discard(self, message_id: str) -> None:
        self._unsent.pop(message_id, None)

    def release(self) -> list[str]:
        """All that is held, to be sent now."""
        unsent, self._unsent = self._unsent, {}
        return list(unsent)

    def _left(self) -> float:
        return self._lost_at + PATIENCE - self._clock.monotonic()

    def _look(self) -> None:
        left = self._left()
        if self._unsent and left > 0:  # the broker came back and went again since
            asyncio.get_running_loop().call_later(left, self._look)
        elif self._unsent:
            self._refuse(list(self._unsent))
