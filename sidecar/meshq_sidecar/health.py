"""Whether the app can work: probed, with thresholds, and told at once when the app refuses a connection."""

import asyncio
from collections.abc import Awaitable, Callable

Probe = Callable[[], Awaitable[str]]
"""Asks the app once; returns why it is not well, "" when it is."""

FAST = 0.25
"""Seconds between probes while the app is not well: what its recovery waits for."""
SLOW = 5.0
"""Seconds between probes while it is."""
FAILURES = 3
"""Failed probes in a row that make a well app unwell. One good probe makes it well again."""


class Health:
    """`on_change(well, reason)` is called when the state changes, first after the first good probe."""

    def __init__(self, probe: Probe, on_change: Callable[[bool, str], None]) -> None:
        self.well = False
        self.ever_well = False
        self.reason = "the app was not probed yet"
        self._probe = probe
        self._on_change = on_change
        self._failures = 0
        self._wake = asyncio.Event()

    async def run(self) -> None:
        while True:
            self._judge(await self._probe())
            hurry = not self.well or self._failures
            self._wake.clear()
            try:
                async with asyncio.timeout(FAST if hurry else SLOW):
                    await self._wake.wait()
            except TimeoutError:
                pass

    def refused(self) -> None:
        """The app did not accept a connection: no need to ask it three times."""
        self._failures = FAILURES
        self._become(False, "the app refuses connections")
        self._wake.set()

    def _judge(self, reason: str) -> None:
        if not reason:
            self._failures = 0
            self._become(True, "")
            return
        self._failures += 1
        if not self.well:
            self.reason = reason
        elif self._failures >= FAILURES:
            self._become(False, reason)

    def _become(self, well: bool, reason: str) -> None:
        self.reason = reason
        if well != self.well:
            self.well = well
            self.ever_well = self.ever_well or well
            self._on_change(well, reason)
