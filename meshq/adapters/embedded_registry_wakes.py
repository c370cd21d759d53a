"""Topics that something is sent to while nobody is there, as the embedded registry was told it."""

import asyncio
from collections import deque
from collections.abc import Sequence
from contextlib import suppress

KEPT = 1000


class Wakes:
    def __init__(self) -> None:
        self._kept: deque[Sequence[str]] = deque(maxlen=KEPT)
        """The latest calls."""
        self._count = 0
        """Of all there ever were."""
        self._added = asyncio.Event()
        """Set, and replaced by a new one, at each call."""

    def add(self, topics: Sequence[str]) -> None:
        self._kept.append(tuple(topics))
        self._count += 1
        self._added.set()
        self._added = asyncio.Event()

    async def after(self, last: str, timeout: float) -> tuple[str, Sequence[str]]:
        """As `ports.Registry.woken`."""
        seen = int(last) if last else self._count
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                while self._count == seen:
                    await self._added.wait()
        new = list(self._kept)[max(0, len(self._kept) - (self._count - seen)) :]
        return str(self._count), tuple(dict.fromkeys(topic for topics in new for topic in topics))
