"""When the embedded broker looks at which queue: in the next turn of its loop, where something may be delivered, or later,
when something in it is over its time. One heap of deadlines and one timer, for the first of them."""

import asyncio
import heapq
from itertools import count

from meshq.adapters.embedded_place import Place
from meshq.ports import Clock

TURN = 256
"""Messages that one queue hands out in one turn of the loop, so that a long queue does not hold up everything else."""
SHORTEST_TIMER = 0.001
"""Seconds. The loop's timers may ring a little early; then it is asked again, but not at once for ever."""


class Turns:
    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._loop: asyncio.AbstractEventLoop | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._due: list[Place] = []
        self._deadlines: list[tuple[float, int, Place]] = []
        """Each with a number, so that places need not be compared. One that is not when its place is armed for is void."""
        self._numbers = count()

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Before this nothing happens; deadlines are kept."""
        self._loop = loop
        self._set_timer()

    def stop(self) -> None:
        """For good."""
        self._loop = None
        self._set_timer()

    def wake(self, place: Place) -> None:
        if not place.due and self._loop is not None:
            place.due = True
            if not self._due:
                self._loop.call_soon(self._turn)
            self._due.append(place)

    def arm(self, place: Place, when: float) -> None:
        place.armed = when
        heapq.heappush(self._deadlines, (when, next(self._numbers), place))
        if self._deadlines[0][2] is place:
            self._set_timer()

    def tick(self) -> None:
        """Look at what is over its time now. The timer does it; a test that turns the clock may."""
        now = self._clock.monotonic()
        while self._deadlines and self._deadlines[0][0] <= now:
            when, _, place = heapq.heappop(self._deadlines)
            if place.armed == when:
                place.armed = None
                self.wake(place)
        self._set_timer()

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._loop is not None and self._deadlines:
            left = self._deadlines[0][0] - self._clock.monotonic()
            self._timer = self._loop.call_later(max(SHORTEST_TIMER, left), self.tick)

    def _turn(self) -> None:
        due, self._due = self._due, []
        now = self._clock.monotonic()
        for place in due:
            place.due = False
            if place.deliver(now, TURN):
                self.wake(place)
