"""The two pauses of this instance: its own, and an operator's, which it obeys and cannot lift (INTERFACE part 6).

Each ends by itself at its time, by the monotonic clock, whether the registry is there or not.
"""

import asyncio
from collections.abc import Callable
from typing import NamedTuple

from meshq.core.instances import Pause
from meshq.ports import Clock


class Held(NamedTuple):
    reason: str
    ends: float | None
    """By the monotonic clock; None: when it is lifted."""


class _Slot:
    """One pause, or none."""

    def __init__(self, clock: Clock, changed: Callable[[], None]) -> None:
        self.held: Held | None = None
        self._clock = clock
        self._changed = changed
        self._timer: asyncio.TimerHandle | None = None

    def put(self, held: Held | None) -> None:
        self.stop()
        if held is not None and held.ends is not None:
            left = max(0.0, held.ends - self._clock.monotonic())
            self._timer = asyncio.get_running_loop().call_later(left, self.put, None)
        if held != self.held:
            self.held = held
            self._changed()

    def stop(self) -> None:
        """No timer is left."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class Pauses:
    """`changed` is called when either begins, ends or is made another."""

    def __init__(self, clock: Clock, changed: Callable[[], None]) -> None:
        self._clock = clock
        self._own = _Slot(clock, changed)
        self._ordered = _Slot(clock, changed)

    @property
    def own(self) -> Held | None:
        return self._own.held

    @property
    def ordered(self) -> Held | None:
        return self._ordered.held

    def pause(self, reason: str, for_ms: int | None) -> None:
        """By the app, from now on. Replaces its own before."""
        self._own.put(Held(reason, None if for_ms is None else self._clock.monotonic() + for_ms / 1000))

    def resume(self) -> None:
        """By the app: ends its own."""
        self._own.put(None)

    def obey(self, order: Pause | None) -> None:
        """An operator's, as the registry has it now."""
        now_ms = self._clock.mesh_ms()
        if order is None or not order.holds(now_ms):
            self._ordered.put(None)
        elif order.until_ms is None:
            self._ordered.put(Held(order.reason, None))
        else:
            self._ordered.put(Held(order.reason, self._clock.monotonic() + (order.until_ms - now_ms) / 1000))

    def as_pause(self, held: Held) -> Pause:
        """With its end in mesh time."""
        if held.ends is None:
            return Pause(held.reason)
        left_ms = round((held.ends - self._clock.monotonic()) * 1000)
        return Pause(held.reason, self._clock.mesh_ms() + max(0, left_ms))

    def close(self) -> None:
        for slot in (self._own, self._ordered):
            slot.stop()
