"""Handing durable messages over: to the broker with its confirm, or to the spool while the broker is away.

A publication is open from when it was given until it has exactly one fate. It may be tried several times within that: what the
broker refused, because its quorum is being found; what was on a connection that was lost, because whether it arrived is not
known. Then a second copy with the same id may exist, so the promise is at least once. Everything runs in callbacks, and one
timer, which runs only while something is open, looks after what is waiting.
"""

import asyncio
import math
from collections.abc import Callable
from enum import Enum
from functools import partial
from itertools import takewhile
from typing import Protocol

from meshq.core.errors import Code, Problem
from meshq.ports import Broker, Clock, Publication, Published, Spooled

MAX_OPEN = 10_000
MAX_OPEN_BYTES = 128 * 2**20
"""Publications without a fate, and their bodies. Beyond either: `overloaded`."""
PATIENCE = {Published.AWAY: 2.0, Published.FULL: 2.0, Published.REFUSED: 5.0, Published.UNKNOWN: 10.0}
"""Seconds in which another attempt may still succeed: finding another node takes less than 2, an election of a queue's leader
a few, both after each other less than 10. AWAY counts from when the broker went."""
LONGEST = 30.0
"""Seconds that a publication is open at most. A channel whose confirms do not come is given up long before (it is UNKNOWN then);
what stays is a broker that blocked publishers just when it was written."""
LOOK_EVERY = 0.1
PAUSE, LONGEST_PAUSE = 0.1, 1.0
"""Seconds between two attempts, doubled from the first to the second."""


class Fate(Enum):
    """What became of a publication that is not a Problem."""

    CONFIRMED = "confirmed"  # the broker has it
    SPOOLED = "spooled"  # this pod's disk has it, the broker gets it later
    UNROUTABLE = "unroutable"  # no queue takes it


Told = Callable[[Fate | Problem], None]


class Forwarder(Protocol):
    """The spool and what empties it into the broker."""

    @property
    def idle(self) -> bool:
        """Nothing waits in it. While something does, what comes goes behind it, so that order holds."""

    def accept(self, publication: Publication, done: Callable[[Spooled], None]) -> None:
        """`done` is called exactly once, possibly before this returns."""


class _Open:
    __slots__ = ("done", "due", "last", "pause", "publication", "put_away", "since", "uncertain", "until")

    def __init__(self, publication: Publication, done: Told, now: float) -> None:
        self.publication = publication
        self.done: Told | None = done
        self.since = now
        self.until = now
        """When there is no further attempt."""
        self.due = now
        self.pause = PAUSE
        self.last: Published | None = None
        """What became of the last attempt that failed."""
        self.uncertain = False
        """One of them was UNKNOWN: the broker may have it."""
        self.put_away = False
        """Given to the spool, which has not answered yet."""


class Handover:
    """`denial` says whether the broker refuses us this publication because a right is missing. `always_spool`: the spool is
    asked first, not only while the broker is away."""

    def __init__(
        self,
        broker: Broker,
        clock: Clock,
        denial: Callable[[Publication], Problem | None],
        spool: Forwarder | None = None,
        *,
        always_spool: bool = False,
    ) -> None:
        self._broker = broker
        self._clock = clock
        self._denial = denial
        self._spool = spool
        self._always_spool = always_spool
        self._open: dict[_Open, None] = {}
        """In the order in which they came."""
        self._bytes = 0
        self._again: dict[_Open, None] = {}
        """Of these, what waits for another attempt."""
        self._timer: asyncio.TimerHandle | None = None
        self._able = broker.state.publishing
        self._lost_at = clock.monotonic()
        broker.on_state(lambda state: self._on_state(state.publishing))

    def __len__(self) -> int:
        return len(self._open)

    def publish(self, publication: Publication, done: Told) -> None:
        """`done` is called exactly once, possibly before this returns."""
        size = len(publication.body)
        if len(self._open) >= MAX_OPEN or self._bytes + size > MAX_OPEN_BYTES:
            done(Problem(Code.OVERLOADED, f"{len(self._open)} durable messages already wait for the broker's confirm"))
            return
        pending = _Open(publication, done, self._clock.monotonic())
        self._open[pending] = None
        self._bytes += size
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(LOOK_EVERY, self._look)
        if self._spool is not None and (self._always_spool or not self._spool.idle):
            self._put_away(self._spool, pending)
        else:
            self._try(pending)

    # --- the broker ---------------------------------------------------------------------------------------------------------

    def _try(self, pending: _Open) -> None:
        denied = self._denial(pending.publication)
        if denied is not None:
            self._end(pending, denied)
        else:
            self._broker.publish(pending.publication, partial(self._on_published, pending))

    def _on_published(self, pending: _Open, outcome: Published) -> None:
        if pending.done is None:
            return
        if outcome is Published.CONFIRMED:
            self._end(pending, Fate.CONFIRMED)
        elif outcome is Published.UNROUTABLE:
            self._end(pending, Fate.UNROUTABLE)
        elif pending.put_away:  # it is the spool's now
            return
        elif outcome in (Published.AWAY, Published.FULL) and self._spool is not None:
            self._put_away(self._spool, pending)
        else:
            self._put_off(pending, outcome)

    def _put_off(self, pending: _Open, outcome: Published) -> None:
        now = self._clock.monotonic()
        pending.last = outcome
        pending.uncertain |= outcome is Published.UNKNOWN
        began = self._lost_at if outcome is Published.AWAY and not self._able else pending.since
        pending.until = max(pending.until, began + PATIENCE[outcome])
        if pending.until <= now:
            self._give_up(pending)
            return
        if outcome in (Published.REFUSED, Published.UNKNOWN):
            pending.due = now + pending.pause
            pending.pause = min(2 * pending.pause, LONGEST_PAUSE)
        self._again[pending] = None

    def _on_state(self, able: bool) -> None:
        if self._able and not able:
            self._lost_at = self._clock.monotonic()
        self._able = able
        if able:
            self._try_again(math.inf)

    def _try_again(self, due: float) -> None:
        """What is due by then, in order, until the broker takes no more."""
        for pending in [each for each in self._again if each.due <= due]:
            if pending not in self._again:
                continue
            del self._again[pending]
            self._try(pending)
            if pending in self._again and pending.last in (Published.FULL, Published.AWAY):
                return

    # --- time ---------------------------------------------------------------------------------------------------------------

    def _look(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(LOOK_EVERY, self._look) if self._open else None
        now = self._clock.monotonic()
        if self._able != self._broker.state.publishing:  # a socket that takes no more, or does again, is not told of
            self._on_state(not self._able)
        for pending in [each for each in self._again if each.until <= now]:
            self._give_up(pending)
        if self._able:
            self._try_again(now)
        for pending in self._older_than(LONGEST, now):
            self._end(pending, self._never_heard())
        if self._spool is not None:
            for pending in self._older_than(PATIENCE[Published.UNKNOWN], now):
                if not pending.put_away:
                    self._give_up(pending)

    def _older_than(self, seconds: float, now: float) -> list[_Open]:
        return list(takewhile(lambda pending: pending.since + seconds <= now, self._open))

    def _give_up(self, pending: _Open) -> None:
        """The broker had its chances."""
        self._again.pop(pending, None)
        if self._spool is not None:
            self._put_away(self._spool, pending)
        else:
            self._end(pending, self._why_not(pending))

    def _why_not(self, pending: _Open) -> Problem:
        if pending.uncertain:
            return self._unavailable(
                "the connection to the broker was lost before it confirmed; whether the message was taken is not known"
            )
        if pending.last is Published.REFUSED:
            return self._unavailable("the broker refused the message again and again")
        if pending.last is Published.FULL or self._able:
            return Problem(Code.OVERLOADED, "more is being sent than the broker takes")
        return Problem(Code.UNAVAILABLE, self._broker.state.fault or "the broker is being connected to")

    def _never_heard(self) -> Problem:
        return self._unavailable(f"no confirm within {LONGEST:g} s; whether the message was taken is not known")

    def _unavailable(self, detail: str) -> Problem:
        fault = self._broker.state.fault
        return Problem(Code.UNAVAILABLE, f"{detail} ({fault})" if fault else detail)

    # --- the spool ----------------------------------------------------------------------------------------------------------

    def _put_away(self, spool: Forwarder, pending: _Open) -> None:
        pending.put_away = True
        spool.accept(pending.publication, partial(self._on_spooled, pending))

    def _on_spooled(self, pending: _Open, outcome: Spooled) -> None:
        match outcome:
            case Spooled.WRITTEN:
                self._end(pending, Fate.SPOOLED)
            case Spooled.FULL:
                self._end(pending, self._unavailable("the spool has reached MESHQ_SPOOL_LIMIT"))
            case Spooled.FAILED:
                self._end(pending, Problem(Code.DISK_FULL, "the spool cannot be written; its log says why"))

    def _end(self, pending: _Open, fate: Fate | Problem) -> None:
        done, pending.done = pending.done, None
        if done is not None:
            del self._open[pending]
            self._again.pop(pending, None)
            self._bytes -= len(pending.publication.body)
            done(fate)
