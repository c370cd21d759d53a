"""Whether the app can work: probed, with thresholds, and told at once when the app refuses a connection. And how much it wants: an
app that answers its probe with 429 is well, but is to be given less.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import NamedTuple


class Probed(NamedTuple):
    """What one probe found."""

    fault: str = ""
    """Why the app is not well; "" when it is."""
    wants_less: bool = False


Probe = Callable[[], Awaitable[Probed]]

FAST = 0.25
"""Seconds between probes while the app is not well: what its recovery waits for."""
EASED = 1.0
"""Seconds between probes while it is given less than it could be: each good one gives it a little more."""
SLOW = 5.0
"""Seconds between probes otherwise."""
FAILURES = 3
"""Failed probes in a row that make a well app unwell. One good probe makes it well again."""


class Health:
    """`on_change(well, reason)` is called when the state changes, first after the first good probe. `ease(less)` is called with every
    probe of a well app: whether it is to be given less; it returns whether it is given less than it could be."""

    def __init__(
        self, probe: Probe, on_change: Callable[[bool, str], None], ease: Callable[[bool], bool] = lambda less: False
    ) -> None:
        self.well = False
        self.ever_well = False
        self.reason = "the app was not probed yet"
        self._probe = probe
        self._on_change = on_change
        self._ease = ease
        self._eased = False
        self._failures = 0
        self._wake = asyncio.Event()

    async def run(self) -> None:
        while True:
            self._judge(await self._probe())
            self._wake.clear()
            try:
                async with asyncio.timeout(self._pace):
                    await self._wake.wait()
            except TimeoutError:
                pass

    def look(self) -> None:
        """Probe it now."""
        self._wake.set()

    def refused(self) -> None:
        """The app did not accept a connection: no need to ask it three times."""
        self._failures = FAILURES
        self._become(False, "the app refuses connections")
        self._wake.set()

    @property
    def _pace(self) -> float:
        if not self.well or self._failures:
            return FAST
        return EASED if self._eased else SLOW

    def _judge(self, found: Probed) -> None:
        if not found.fault:
            self._failures = 0
            self._eased = self._ease(found.wants_less)
            self._become(True, "")
            return
        self._failures += 1
        if not self.well:
            self.reason = found.fault
        elif self._failures >= FAILURES:
            self._become(False, found.fault)

    def _become(self, well: bool, reason: str) -> None:
        self.reason = reason
        if well != self.well:
            self.well = well
            self.ever_well = self.ever_well or well
            self._on_change(well, reason)
