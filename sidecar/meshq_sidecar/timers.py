"""What is to happen later, for an owner that may be closed before."""

import asyncio
from collections.abc import Callable


class Timers:
    def __init__(self) -> None:
        self._running: set[asyncio.TimerHandle] = set()
        self._closed = False

    def later(self, seconds: float, callback: Callable[..., None], *args: object) -> None:
        """Call it `seconds` from now, unless closed before."""
        if self._closed:
            return

        def due() -> None:
            self._running.discard(timer)
            callback(*args)

        timer = asyncio.get_running_loop().call_later(seconds, due)
        self._running.add(timer)

    def close(self) -> None:
        """Nothing of it happens any more, nor of what comes after this."""
        self._closed = True
        for timer in self._running:
            timer.cancel()
        self._running.clear()
