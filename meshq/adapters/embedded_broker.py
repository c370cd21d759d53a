"""The broker inside this process: RabbitMQ's behaviour as far as meshq uses it, for `meshq dev` and for tests.

`EmbeddedHub` is the broker; an `EmbeddedBroker` (embedded_client) is one client's connection to it. Everything happens on one
event loop: `send` routes and queues at once, and the next turn of the loop hands out what arrived, so that no consumer runs
inside somebody else's `send`. Only what is durable leaves the loop: it goes to the store's thread, and enters its queues (and
is confirmed) when that has committed it. Acknowledgements of it are written behind, in order.

Where to read on: what there is (embedded_topology, embedded_exchange), what becomes of a message (embedded_messages,
embedded_dead), what it lies in (embedded_queue, embedded_log), when that is looked at (embedded_turns), the file (store).

What differs from RabbitMQ:
- There are no users to refuse anything, so the name given to `connect` is believed (it is what proves `user_id` here).
- A message that comes back takes the place it had; there it goes behind others that came back before.
- A dead letter that no queue takes holds up no other, and is tried again when something is declared, not every few minutes.
- A wait in the delay levels is as long as its levels together, through restarts too; there each level begins anew.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from pathlib import Path

from meshq.adapters.embedded_client import EmbeddedBroker
from meshq.adapters.embedded_delivery import Holder
from meshq.adapters.embedded_log import EmbeddedLog, MemoryRecords
from meshq.adapters.embedded_messages import Messages
from meshq.adapters.embedded_place import Place
from meshq.adapters.embedded_queue import EmbeddedQueue
from meshq.adapters.embedded_rows import DiskRecords
from meshq.adapters.embedded_topology import Places
from meshq.adapters.embedded_turns import Turns
from meshq.adapters.store import MessageStore
from meshq.adapters.store_schema import Additions
from meshq.core.topology import Queue, Topology, shared
from meshq.ports import Clock, Publication, Published, QueueStats

log = logging.getLogger(__name__)

MEMORY_LOG_BYTES = 16 * 1024 * 1024
"""Bytes of a log in a hub without a file, whatever the log's own bound says."""


class EmbeddedHub:
    """The broker. `path` is the file of its durable queues (made where there is none; with a `.lock` beside it), None keeps
    them in memory. `bounds` are those of Messages. Raises meshq.adapters.store.StoreUnusable."""

    def __init__(self, path: Path | None, clock: Clock, **bounds: int) -> None:
        self._clock = clock
        self._clients: list[EmbeddedBroker] = []
        self._loop: asyncio.AbstractEventLoop | None = None
        self._store_fault = ""
        self._store = None if path is None else MessageStore(path)
        self._turns = Turns(clock)
        self._places = Places(self._make, self._store)
        self._messages = Messages(clock, self._places, self._turns, self._store, **bounds)
        if self._store is not None:
            stored = self._store.load()
            self._places.restore(stored.topology)
            self._messages.restore(stored)
        self._own_faults = self.declare(shared(), None)

    def connect(self, user: str) -> EmbeddedBroker:
        """A client of its own, not yet open; `user` is what its messages prove."""
        return EmbeddedBroker(self, user)

    async def close(self) -> None:
        """Close every client, write what is to be written and let go of the file."""
        for client in list(self._clients):
            await client.close()
        self._turns.stop()
        if self._store is not None:
            await self._store.close()

    @property
    def fault(self) -> str:
        return "; ".join(filter(None, [self._store_fault, *self._own_faults.values()]))

    def tick(self) -> None:
        """Look at what is over its time now. A timer does it; this is for tests that turn the clock."""
        self._turns.tick()

    # --- clients ----------------------------------------------------------------------------------------------------------

    def attach(self, client: EmbeddedBroker) -> None:
        loop = asyncio.get_running_loop()
        if self._loop is None:
            self._loop = loop
            if self._store is not None:
                self._store.start(loop, self._on_store_fault)
            self._turns.start(loop)
        self._clients.append(client)

    def detach(self, client: EmbeddedBroker) -> None:
        """The client is gone: so are its exclusive queues."""
        self._clients.remove(client)
        self._places.let_go(client)

    async def flush(self) -> None:
        """Return when all that was published before is on the disk or refused, and its senders know."""
        if self._store is not None and self._store.started:
            written = asyncio.Event()
            self._store.append(Additions(), lambda _: written.set())
            await written.wait()

    def _on_store_fault(self, fault: str) -> None:
        self._store_fault = fault
        if fault:
            log.error("%s", fault)
        for client in list(self._clients):
            client.state_changed()

    # --- topology and consumers -------------------------------------------------------------------------------------------

    def declare(self, topology: Topology, client: EmbeddedBroker | None) -> dict[str, str]:
        """Make what is not there. Returns a sentence for each thing that is there and is another, by its name."""
        faults = self._places.declare(topology, client)
        self._messages.try_stuck()
        return faults

    def withdraw(self, unwanted: Topology, client: EmbeddedBroker) -> None:
        self._places.withdraw(unwanted, client)

    def consume(self, name: str, holder: Holder, client: EmbeddedBroker) -> None:
        """Now, or as soon as there is such a queue that the client may use."""
        self._places.consume(name, holder, client)

    def stop_consuming(self, holder: Holder) -> None:
        self._places.stop_consuming(holder)

    def hold(self, name: str, holder: Holder, most: int, client: EmbeddedBroker) -> int:
        """Give the holder the first `most` messages of a queue, if there is such a queue. Returns how many are behind."""
        place = self._places.usable(name, client)
        if not isinstance(place, EmbeddedQueue):
            return 0
        place.hold(holder, most, self._clock.monotonic())
        return place.stats(self._clock.monotonic()).ready or 0

    def _make(self, spec: Queue) -> Place:
        now = self._clock.monotonic()
        if dict(spec.arguments).get("x-queue-type") != "stream":
            return EmbeddedQueue(spec, self._messages, now)
        if self._store is None:
            return EmbeddedLog(spec, self._messages, MemoryRecords(), MEMORY_LOG_BYTES, now)
        made = EmbeddedLog(spec, self._messages, DiskRecords(self._store, spec.name), None, now)
        if not self._store.started:
            made.restore(self._store.record_sizes(spec.name))
        return made

    # --- messages ---------------------------------------------------------------------------------------------------------

    def send(self, publication: Publication, user: str) -> bool | None:
        """True: queued. False: no room, or no such exchange. None: no queue takes it."""
        return self._messages.send(publication, user)

    def publish(self, publication: Publication, user: str, done: Callable[[Published], None]) -> None:
        self._messages.publish(publication, user, done)

    # --- figures ----------------------------------------------------------------------------------------------------------

    @property
    def queue_names(self) -> list[str]:
        return self._places.names

    def stats(self, queues: Sequence[str]) -> list[QueueStats]:
        now = self._clock.monotonic()
        found = [self._places.named(name) for name in queues]
        return [place.stats(now) for place in found if place is not None]
