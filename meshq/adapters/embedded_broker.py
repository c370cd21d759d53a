"""The broker inside this process: RabbitMQ's behaviour as far as meshq uses it, for `meshq dev` and for tests.

`EmbeddedHub` is the broker; an `EmbeddedBroker` (embedded_client) is one client's connection to it. Everything happens on one event loop:
`send` routes and queues at once, and the next turn of the loop hands out what arrived, so that no consumer runs inside
somebody else's `send`. Only durable publications leave the loop: they go to the store's thread, and enter their queues
(and are confirmed) when it has committed them. Acknowledgements of them are written behind, in order.

What differs from RabbitMQ: there are no users to refuse anything, so the name given to `connect` is believed (it is what
proves `user_id` here); no dead-letter exchanges and no queue TTL; everything that waits is in memory as well.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from meshq.adapters.embedded_client import EmbeddedBroker
from meshq.adapters.embedded_exchange import Routes
from meshq.adapters.embedded_queue import OVERHEAD, EmbeddedQueue, Entry, Holder
from meshq.adapters.store import MessageStore, StoredMessage
from meshq.core.topology import Queue, Topology, shared
from meshq.ports import (
    Clock,
    Publication,
    Published,
    QueueStats,
)

log = logging.getLogger(__name__)

MAX_MESSAGES = 200_000
"""Messages in all queues of one hub together; one that goes to three queues counts three times."""
MAX_BYTES = 256 * 1024 * 1024
"""Bytes of the same, each message counted as its body and 512."""
TURN = 256
"""Messages that one queue hands out in one turn of the loop, so that a long queue does not hold up everything else."""


class EmbeddedHub:
    """The broker. `path` is the file of its durable queues (made where there is none; with a `.lock` beside it), None keeps
    them in memory. Raises meshq.adapters.store.StoreUnusable."""

    def __init__(
        self, path: Path | None, clock: Clock, *, max_messages: int = MAX_MESSAGES, max_bytes: int = MAX_BYTES
    ) -> None:
        self._clock = clock
        self._max_messages = max_messages
        self._max_bytes = max_bytes
        # Process:
        self._routes = Routes()
        self._queues: dict[str, EmbeddedQueue] = {}
        self._owners: dict[str, EmbeddedBroker] = {}
        """Who has declared each exclusive queue."""
        self._seq = 0
        self._messages = 0
        self._bytes = 0
        self._clients: list[EmbeddedBroker] = []
        self._waiting: list[tuple[str, Holder, EmbeddedBroker]] = []
        """Consumers whose queue is not there yet, or belongs to another client."""
        self._store_fault = ""
        # One turn of the loop:
        self._due: list[EmbeddedQueue] = []
        self._loop: asyncio.AbstractEventLoop | None = None
        self._store = None if path is None else MessageStore(path)
        if self._store is not None:
            self._restore(self._store)
        self._own_faults = self.declare(shared(), None)

    def connect(self, user: str) -> EmbeddedBroker:
        """A client of its own, not yet open; `user` is what its messages prove."""
        return EmbeddedBroker(self, user)

    async def close(self) -> None:
        """Close every client, write what is to be written and let go of the file."""
        for client in list(self._clients):
            await client.close()
        if self._store is not None:
            await self._store.close()

    @property
    def fault(self) -> str:
        return "; ".join(filter(None, [self._store_fault, *self._own_faults.values()]))

    # --- clients ----------------------------------------------------------------------------------------------------------

    def attach(self, client: EmbeddedBroker) -> None:
        loop = asyncio.get_running_loop()
        if self._loop is None:
            self._loop = loop
            if self._store is not None:
                self._store.start(loop, self._on_store_fault)
        self._clients.append(client)

    def detach(self, client: EmbeddedBroker) -> None:
        """The client is gone: so are its exclusive queues."""
        self._clients.remove(client)
        for name in [name for name, owner in self._owners.items() if owner is client]:
            self._delete(self._queues[name])

    async def flush(self) -> None:
        """Return when all that was published before is on the disk or refused, and its senders know."""
        if self._store is not None and self._store.started:
            written = asyncio.Event()
            self._store.append([], lambda _: written.set())
            await written.wait()

    # --- topology ---------------------------------------------------------------------------------------------------------

    def declare(self, topology: Topology, client: EmbeddedBroker | None) -> dict[str, str]:
        """Make what is not there. Returns a sentence for each thing that is there and is another, by its name; everything
        else is made all the same."""
        faults: dict[str, str] = {}
        for exchange in topology.exchanges:
            known = self._routes.has(exchange.name)
            if fault := self._routes.declare(exchange):
                faults[exchange.name] = fault
            elif self._store is not None and not known:
                self._store.put_exchange(exchange)
        for queue in topology.queues:
            if fault := self._declare_queue(queue, client):
                faults[queue.name] = fault
        for binding in topology.bindings:
            target = (
                self._routes.has(binding.destination) if binding.to_exchange else binding.destination in self._queues
            )
            if not target or not self._routes.has(binding.source):
                missing = binding.source if target else binding.destination
                faults[missing] = (
                    f"{missing!r} does not exist, so {binding.source!r} is not bound to {binding.destination!r}"
                )
                continue
            durable = binding.to_exchange or self._queues[binding.destination].stored
            if self._routes.bind(binding) and durable and self._store is not None:
                self._store.put_binding(binding)
        return faults

    def _declare_queue(self, spec: Queue, client: EmbeddedBroker | None) -> str:
        existing = self._queues.get(spec.name)
        if existing is None:
            queue = self._queues[spec.name] = EmbeddedQueue(spec, self, self._clock.monotonic())
            if spec.exclusive and client is not None:
                self._owners[spec.name] = client
            if queue.stored and self._store is not None:
                self._store.put_queue(spec)
            waiting, self._waiting = self._waiting, []
            for name, holder, consumer in waiting:
                self.consume(name, holder, consumer)
            return ""
        if existing.spec.exclusive and self._owners.get(spec.name) is not client:
            return f"queue {spec.name!r} belongs to another connection: give this instance an id of its own"
        return _difference(existing.spec, spec)

    def consume(self, name: str, holder: Holder, client: EmbeddedBroker) -> None:
        """Now, or as soon as there is such a queue that the client may use."""
        queue = self._queues.get(name)
        if queue is None or self._owners.get(name, client) is not client:
            self._waiting.append((name, holder, client))
        else:
            queue.attach(holder)

    def stop_consuming(self, holder: Holder) -> None:
        if holder.queue is not None:
            holder.queue.detach(holder)
        else:
            self._waiting = [w for w in self._waiting if w[1] is not holder]

    def _delete(self, queue: EmbeddedQueue) -> None:
        """Only exclusive queues go: they are not stored, and their owner consumes no more."""
        name = queue.spec.name
        queue.close()
        del self._queues[name]
        self._owners.pop(name, None)
        self._routes.unbind_queue(name)

    # --- messages ---------------------------------------------------------------------------------------------------------

    def send(self, publication: Publication, user: str) -> bool | None:
        """True: queued. False: no room, or no such exchange. None: no queue takes it."""
        if not self._routes.takes(publication.exchange):
            return False
        queues = self._targets(publication)
        if not queues:
            return None
        if not self._room(len(queues), publication):
            return False
        now = self._clock.monotonic()
        for queue in queues:
            queue.put(self._entry(queue, publication, user, now, stored=False), now)
        return True

    def publish(self, publication: Publication, user: str, done: Callable[[Published], None]) -> None:
        if not self._routes.takes(publication.exchange):
            done(Published.REFUSED)
            return
        queues = self._targets(publication)
        if not queues:
            done(Published.UNROUTABLE)
            return
        if not self._room(len(queues), publication):
            done(Published.FULL)
            return
        now = self._clock.monotonic()
        entries = [self._entry(q, publication, user, now, stored=self._store is not None and q.stored) for q in queues]
        stored = [entry for entry in entries if entry.stored]
        if self._store is None or not stored:
            self._take_in(entries, done, True)
            return
        self._store.append([self._row(entry) for entry in stored], partial(self._take_in, entries, done))

    def _targets(self, publication: Publication) -> list[EmbeddedQueue]:
        if publication.exchange == "":  # AMQP's default exchange: the key is the name of a queue
            return [self._queues[publication.key]] if publication.key in self._queues else []
        return [self._queues[name] for name in self._routes.route(publication.exchange, publication.key)]

    def _room(self, copies: int, publication: Publication) -> bool:
        size = copies * (OVERHEAD + len(publication.body))
        if self._messages + copies <= self._max_messages and self._bytes + size <= self._max_bytes:
            return True
        now = self._clock.monotonic()
        for queue in self._queues.values():
            queue.expire(now)
        return self._messages + copies <= self._max_messages and self._bytes + size <= self._max_bytes

    def _entry(self, queue: EmbeddedQueue, publication: Publication, user: str, now: float, stored: bool) -> Entry:
        self._seq += 1
        entry = Entry(self._seq, queue, publication, user, now, stored)
        self._messages += 1
        self._bytes += entry.size
        return entry

    def _take_in(self, entries: list[Entry], done: Callable[[Published], None], written: bool) -> None:
        now = self._clock.monotonic()
        for entry in entries:
            if written and not entry.queue.closed:
                entry.queue.put(entry, now)
            else:
                self._forget(entry)
        done(Published.CONFIRMED if written else Published.REFUSED)

    def _forget(self, entry: Entry) -> None:
        self._messages -= 1
        self._bytes -= entry.size

    # --- what the queues ask (QueueHooks) ---------------------------------------------------------------------------------

    def now(self) -> float:
        return self._clock.monotonic()

    def wake(self, queue: EmbeddedQueue) -> None:
        if not queue.due and self._loop is not None:
            queue.due = True
            if not self._due:
                self._loop.call_soon(self._turn)
            self._due.append(queue)

    def gone(self, entry: Entry) -> None:
        self._forget(entry)
        if entry.stored and self._store is not None:
            self._store.delete(entry.seq)

    def given_out(self, entry: Entry) -> None:
        if self._store is not None:
            self._store.mark_delivered(entry.seq)

    def _turn(self) -> None:
        due, self._due = self._due, []
        now = self._clock.monotonic()
        for queue in due:
            queue.due = False
            if queue.deliver(now, TURN):
                self.wake(queue)

    # --- figures, storage -------------------------------------------------------------------------------------------------

    @property
    def queue_names(self) -> list[str]:
        return list(self._queues)

    def stats(self, queues: Sequence[str]) -> list[QueueStats]:
        now = self._clock.monotonic()
        return [self._queues[name].stats(now) for name in queues if name in self._queues]

    def _on_store_fault(self, fault: str) -> None:
        self._store_fault = fault
        if fault:
            log.error("%s", fault)
        for client in list(self._clients):
            client.state_changed()

    def _row(self, entry: Entry) -> StoredMessage:
        p = entry.publication
        now_ms = self._clock.mesh_ms()
        return StoredMessage(
            entry.seq,
            entry.queue.spec.name,
            p.exchange,
            p.key,
            p.message_id,
            p.kind,
            p.reply_to,
            entry.user,
            None if p.expiration_ms is None else now_ms + p.expiration_ms,
            now_ms,
            p.priority,
            p.body,
        )

    def _restore(self, store: MessageStore) -> None:
        """Take up what an earlier process left: everything confirmed and not acknowledged, in order."""
        stored = store.load()
        now, now_ms = self._clock.monotonic(), self._clock.mesh_ms()
        for spec in stored.topology.exchanges:
            self._routes.declare(spec)
        for queue in stored.topology.queues:
            self._queues[queue.name] = EmbeddedQueue(queue, self, now)
        for binding in stored.topology.bindings:
            self._routes.bind(binding)
        for row in stored.messages:
            left = None if row.expires_ms is None else max(0, row.expires_ms - now_ms)
            publication = Publication(
                row.exchange, row.key, row.body, row.message_id, row.kind, row.reply_to, left, row.priority
            )
            entry = Entry(row.seq, self._queues[row.queue], publication, row.user, now, stored=True)
            entry.arrived = now - max(0, now_ms - row.arrived_ms) / 1000
            entry.deliveries = 1 if row.seq in stored.delivered else 0
            self._seq = row.seq
            self._messages += 1
            self._bytes += entry.size
            entry.queue.restore(entry)


def _difference(existing: Queue, wanted: Queue) -> str:
    """What is wrong with a queue that is there already, with what to do about it; "" when it is the same."""
    there, here = dict(existing.arguments), dict(wanted.arguments)
    differing = [
        f"{name} is {there.get(name, 'unset')} and should be {here.get(name, 'unset')}"
        for name in sorted(there.keys() | here.keys())
        if there.get(name) != here.get(name)
    ]
    if existing.durable != wanted.durable:
        differing.append(f"durable is {existing.durable} and should be {wanted.durable}")
    if existing.exclusive != wanted.exclusive:
        differing.append(f"exclusive is {existing.exclusive} and should be {wanted.exclusive}")
    if not differing:
        return ""
    return (
        f"queue {wanted.name!r} exists with other arguments: {', '.join(differing)}. Run the same version of meshq "
        "everywhere, or drain the queue, delete it and restart: it is made anew"
    )
