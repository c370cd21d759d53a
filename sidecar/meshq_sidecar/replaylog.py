"""Replays: one instance of the service copies an event's log into the subscription's own queue, from where it is worked on like
any shared one. A log has no competing consumers, hence the detour (DESIGN part 4).

Who copies holds a lease in the store and renews it while it lives; after its death another takes over within LEASE. A message
is read from the log, published to the queue and confirmed; then the store learns how far the copy has come; then the log may
send more. So whatever ends in between, nothing is left out, and at most a window of messages is copied twice.
"""

import asyncio
import logging
from collections.abc import Coroutine
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

from meshq.core.subscriptions import Start
from meshq.core.times import show_timestamp
from meshq.ports import Broker, Clock, Store, StoreAway
from meshq_sidecar.replay_reading import Reading, Replay

logger = logging.getLogger(__name__)

LEASE = 15.0
RENEW_EVERY = 5.0
"""Seconds, both. A leader that cannot renew its lease stops when it is over."""
LOOK_EVERY = 1.0
"""Seconds between looks for what is missing: the store, the log."""
LETTING_GO = 0.5
"""Seconds at the most for giving the lease back."""

NOTHING = -1
"""In the store instead of an offset: nothing was copied. Below it a negative number is the time, in Unix milliseconds, at which a
copy of what is `next` began and found nothing yet."""


class Copier:
    """One replay; `owner` is this instance. `run` it until it is cancelled, then `let_go` or `forget`."""

    def __init__(self, broker: Broker, store: Store, clock: Clock, replay: Replay, owner: str) -> None:
        self._broker = broker
        self._store = store
        self._clock = clock
        self._replay = replay
        self._owner = owner
        self._leads_until = clock.monotonic()
        self._look = asyncio.Event()
        self._reading: Reading | None = None
        self._said = "starts"

    @property
    def said(self) -> str:
        """What it does, for people."""
        return self._said

    def on_broker_state(self) -> None:
        if self._reading is not None and not self._broker.state.consuming:
            # What was read is the log's again. Ended at once: a new connection would begin where this one did.
            self._reading.end()
        self._look.set()

    async def run(self) -> None:
        while True:
            try:
                if await self._renew(LEASE):
                    await self._lead()
                    self._say("another instance copies now")
                else:
                    self._say("another instance copies")
                await self._pause(RENEW_EVERY)
            except StoreAway as away:
                self._say(f"waits for the store: {away}")
                await self._pause(LOOK_EVERY)

    async def let_go(self) -> None:
        """Let another go on at once."""
        if self._leading:
            await self._in_short(self._renew(0.1))

    async def forget(self) -> None:
        """A subscription of this name begins at its start again; unless another instance copies on."""
        await self._in_short(self._forget())

    async def _forget(self) -> None:
        if await self._renew(LEASE):
            await self._store.put_offset(self._replay.name, NOTHING)
            await self._renew(0.1)

    async def _in_short(self, asked: Coroutine[Any, Any, object]) -> None:
        with suppress(TimeoutError, StoreAway):
            async with asyncio.timeout(LETTING_GO):
                await asked

    # --- leading ------------------------------------------------------------------------------------------------------------

    @property
    def _leading(self) -> bool:
        return self._clock.monotonic() < self._leads_until

    async def _renew(self, seconds: float) -> bool:
        asked = self._clock.monotonic()
        leads = await self._store.lead(self._replay.name, self._owner, seconds)
        self._leads_until = asked + seconds if leads else asked
        return leads

    async def _lead(self) -> None:
        """Until the lease is lost. Raises StoreAway once it is over."""
        while self._leading:
            try:
                await self._read()
                if not await self._renew(LEASE):
                    return
            except StoreAway:
                if not self._leading:
                    raise
            await self._pause(LOOK_EVERY)

    async def _read(self) -> None:
        """From where the copy has come to, until the connection or the lease is lost."""
        if not await self._broker.stats([self._replay.log]):
            missing = f"a log: name {self._replay.event_topic} in MESHQ_LOG_EVENTS of any sidecar, and it begins"
            self._say(f"waits for {missing if self._broker.state.consuming else 'the broker'}")
            return
        offset = await self._store.offset(self._replay.name)
        start = self._replay.start if offset is None or offset == NOTHING else _from(offset)
        if start == "next":
            await self._store.put_offset(self._replay.name, -self._clock.mesh_ms())
        self._say("copies")
        reading = self._reading = Reading(self._broker, self._clock, self._replay, start, self._look)
        try:
            await self._follow(reading)
        finally:
            reading.end()
            self._reading = None

    async def _follow(self, reading: Reading) -> None:
        due = self._clock.monotonic() + RENEW_EVERY
        while self._leading and not reading.ended:
            done = reading.confirmed
            if done is not None:
                await self._store.put_offset(self._replay.name, done + 1)
                reading.acknowledge(done)
            left = due - self._clock.monotonic()
            if left <= 0:
                due += RENEW_EVERY
                if not await self._renew(LEASE):
                    return
            elif reading.confirmed is None:
                await self._pause(left)

    async def _pause(self, seconds: float) -> None:
        """Or until there is something to look at."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._look.wait()
        self._look.clear()

    def _say(self, text: str) -> None:
        if text != self._said:
            self._said = text
            logger.info("replay of %s into %s: %s", self._replay.event_topic, self._replay.queue, text)


def _from(stored: int) -> Start:
    # To the second, and the earlier one: RabbitMQ knows no finer times.
    return stored if stored >= 0 else show_timestamp(datetime.fromtimestamp(-stored // 1000, UTC))
