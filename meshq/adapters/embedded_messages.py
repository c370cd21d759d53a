"""Every message in the embedded broker: taken in within bounds, on disk where it has to last, moved when its queue gives it
up, forgotten when it is done.

A message enters its queues when all that has to be on disk of it is there, in one transaction, whatever number of queues
takes it. A dead letter stays in its queue until the transaction that puts it where it goes and takes it out was written, so
that it is never in both places nor in none. One that no queue takes waits until some declaration changes that.
"""

import logging
from collections.abc import Callable, Sequence
from functools import partial

from meshq.adapters.embedded_dead import EXPIRED, Death, Deaths, died
from meshq.adapters.embedded_delivery import OVERHEAD, DiskBody, Entry
from meshq.adapters.embedded_log import EmbeddedLog
from meshq.adapters.embedded_place import Place
from meshq.adapters.embedded_queue import EmbeddedQueue
from meshq.adapters.embedded_rows import message_row, record_row, restored
from meshq.adapters.embedded_topology import Places
from meshq.adapters.embedded_turns import Turns
from meshq.adapters.store import MessageStore
from meshq.adapters.store_schema import Additions, Stored, StoredBody
from meshq.ports import Clock, Publication, Published

log = logging.getLogger(__name__)

MAX_MESSAGES = 200_000
"""Messages in all queues of one hub together; one that goes to three queues counts three times."""
MAX_BYTES = 256 * 1024 * 1024
"""Bytes of the same, each message counted as its body and 512. What is in a log does not count."""
KEPT_BYTES = 32 * 1024 * 1024
"""Bodies that are on disk stay in memory too up to so many bytes. What comes on top is read when it is delivered."""


class Messages:
    """Also what queues and logs ask of their broker (`Hooks`)."""

    def __init__(
        self,
        clock: Clock,
        places: Places,
        turns: Turns,
        store: MessageStore | None,
        *,
        max_messages: int = MAX_MESSAGES,
        max_bytes: int = MAX_BYTES,
        kept_bytes: int = KEPT_BYTES,
    ) -> None:
        self._clock = clock
        self._places = places
        self._turns = turns
        self._store = store
        self._max_messages = max_messages
        self._max_bytes = max_bytes
        self._kept_bytes = kept_bytes
        self._seq = 0
        self._messages = 0
        self._bytes = 0
        self._kept = 0
        self._stuck: list[tuple[Entry, str]] = []
        """Dead letters that no queue takes, with the reason of their death."""

    # --- in ---------------------------------------------------------------------------------------------------------------

    def send(self, publication: Publication, user: str) -> bool | None:
        """True: queued. False: no room, or no such exchange. None: no queue takes it."""
        if not self._places.takes(publication.exchange):
            return False
        places = self._places.route(publication.exchange, publication.key)
        if not places:
            return None
        if not self._room(len(places), publication):
            return False
        now = self._clock.monotonic()
        if any(place.is_log for place in places):
            self._take(self._entries(places, publication, user, now, None), (), _nobody)
            return True
        for place in places:
            entry = Entry(self._next_seq(), place, publication, user, now)
            self._count(entry)
            place.put(entry, now)
        return True

    def publish(self, publication: Publication, user: str, done: Callable[[Published], None]) -> None:
        if not self._places.takes(publication.exchange):
            done(Published.REFUSED)
            return
        places = self._places.route(publication.exchange, publication.key)
        if not places:
            done(Published.UNROUTABLE)
            return
        if not self._room(len(places), publication):
            done(Published.FULL)
            return
        body = self._new_body(places, publication)
        bodies = () if body is None else (StoredBody(body.number, publication.body),)
        self._take(self._entries(places, publication, user, self.now(), body), bodies, done)

    def _room(self, copies: int, publication: Publication) -> bool:
        size = copies * (OVERHEAD + len(publication.body))
        if self._messages + copies <= self._max_messages and self._bytes + size <= self._max_bytes:
            return True
        now = self._clock.monotonic()
        for place in self._places.all():
            place.expire(now)
        return self._messages + copies <= self._max_messages and self._bytes + size <= self._max_bytes

    def _new_body(self, places: Sequence[Place], publication: Publication) -> DiskBody | None:
        if self._store is None or not any(place.lasting and not place.is_log for place in places):
            return None
        size = len(publication.body)
        kept = self._kept + size <= self._kept_bytes
        self._kept += size if kept else 0
        return DiskBody(self._seq + 1, size, kept)

    def _entries(
        self,
        places: Sequence[Place],
        publication: Publication,
        user: str,
        now: float,
        body: DiskBody | None,
        deaths: Deaths = (),
    ) -> list[Entry]:
        """One for each place, counted there as coming. `body` is of those that are to last."""
        without = publication._replace(body=b"") if body is not None and not body.kept else publication
        entries = []
        for place in places:
            place.coming += 1
            if isinstance(place, EmbeddedLog):
                entry = Entry(place.next_number(), place, publication, user, now)
            elif body is not None and place.lasting:
                body.references += 1
                entry = Entry(self._next_seq(), place, without, user, now, body, deaths)
            else:
                entry = Entry(self._next_seq(), place, publication, user, now, None, deaths)
            self._count(entry)
            entries.append(entry)
        return entries

    def _next_seq(self) -> int:
        self._seq += 1
        return self._seq

    def _take(self, entries: list[Entry], bodies: Sequence[StoredBody], done: Callable[[Published], None]) -> None:
        if self._store is None or not any(added := self._additions(entries, bodies)):
            self._arrived(entries, done, True)
        else:
            self._store.append(added, partial(self._arrived, entries, done))

    def _additions(self, entries: list[Entry], bodies: Sequence[StoredBody]) -> Additions:
        """What of these goes to the disk."""
        if self._store is None:
            return Additions()
        now, now_ms = self.now(), self.mesh_ms()
        messages = [message_row(entry, entry.on_disk, now, now_ms) for entry in entries if entry.on_disk is not None]
        records = [record_row(entry, now_ms) for entry in entries if entry.place.is_log]
        return Additions(bodies, messages, records)

    def _arrived(self, entries: list[Entry], done: Callable[[Published], None], written: bool) -> None:
        now = self._clock.monotonic()
        for entry in entries:
            entry.place.coming -= 1
            if written and not entry.place.closed:
                entry.place.put(entry, now)
            else:
                self._uncount(entry)
                self._released(entry.on_disk)
        done(Published.CONFIRMED if written else Published.REFUSED)

    # --- dead letters -----------------------------------------------------------------------------------------------------

    def dead(self, entry: Entry, reason: str) -> None:
        letters = entry.place.dead_letters
        if letters is None:
            self.gone(entry)
            return
        was = entry.publication
        key = was.key if letters.key is None else letters.key
        places = self._places.route(letters.exchange, key)
        # A log writes its own copy, and what does not last is in memory only.
        body = self.read(entry) if any(p.is_log or not p.lasting for p in places) else was.body
        if places and body is not None:
            moved = was._replace(exchange=letters.exchange, key=key, body=body, expiration_ms=None)
            self._move(entry, reason, moved, places)
        elif letters.kept:
            if not self._stuck:
                name = entry.place.spec.name
                log.warning("dead letters of %s wait: no queue takes %r from %r", name, key, letters.exchange)
            entry.place.leaving += 1
            self._stuck.append((entry, reason))
        else:
            self.gone(entry)

    def _move(self, entry: Entry, reason: str, moved: Publication, places: Sequence[Place]) -> None:
        source, was, body = entry.place, entry.publication, entry.on_disk
        death = Death(source.spec.name, reason, was.exchange, was.key, self.mesh_ms(), was.expiration_ms)
        # Its next wait begins when this one ended, not when somebody came to look: so a chain of waits is as long as its sum.
        since = entry.expires if reason == EXPIRED and entry.expires is not None else self.now()
        entries = self._entries(places, moved, entry.user, since, body, died(entry.deaths, death))
        source.leaving += 1
        done = partial(self._moved, entry, entries)
        added = self._additions(entries, ())
        if self._store is not None and (any(added) or body is not None):
            self._store.move(added, None if body is None else entry.seq, self._released(body), done)
        else:
            done()

    def _moved(self, entry: Entry, entries: list[Entry]) -> None:
        entry.place.leaving -= 1
        self._uncount(entry)
        self._arrived(entries, _nobody, True)

    def try_stuck(self) -> None:
        """Something was declared that may take dead letters which nothing took before."""
        stuck, self._stuck = self._stuck, []
        for entry, reason in stuck:
            entry.place.leaving -= 1
            self.dead(entry, reason)

    # --- out --------------------------------------------------------------------------------------------------------------

    def gone(self, entry: Entry) -> None:
        self._uncount(entry)
        unused = self._released(entry.on_disk)
        if self._store is not None and entry.on_disk is not None:
            self._store.delete(entry.seq, unused)

    def given_out(self, entry: Entry) -> None:
        if self._store is not None:
            self._store.mark_delivered(entry.seq)

    def read(self, entry: Entry) -> bytes | None:
        body = entry.on_disk
        if body is None or body.kept or self._store is None:
            return entry.publication.body
        return self._store.body(body.number)

    def _count(self, entry: Entry) -> None:
        self._messages += 1
        self._bytes += entry.size

    def _uncount(self, entry: Entry) -> None:
        self._messages -= 1
        self._bytes -= entry.size

    def _released(self, body: DiskBody | None) -> int | None:
        """One message less has it. Returns its number if that was the last."""
        if body is None:
            return None
        body.references -= 1
        if body.references:
            return None
        self._kept -= body.size if body.kept else 0
        return body.number

    # --- the rest of what places ask --------------------------------------------------------------------------------------

    def now(self) -> float:
        return self._clock.monotonic()

    def mesh_ms(self) -> int:
        return self._clock.mesh_ms()

    def wake(self, place: Place) -> None:
        self._turns.wake(place)

    def arm(self, place: Place, when: float) -> None:
        self._turns.arm(place, when)

    # --- after a restart --------------------------------------------------------------------------------------------------

    def restore(self, stored: Stored) -> None:
        """Take up what an earlier process left: everything confirmed and not acknowledged, in order."""
        now, now_ms = self._clock.monotonic(), self._clock.mesh_ms()
        bodies = {number: DiskBody(number, size, kept=False) for number, size in stored.bodies.items()}
        self._seq = stored.messages[-1].seq if stored.messages else 0  # a dead letter may be moved below
        for row in stored.messages:
            place, body = self._places.named(row.queue), bodies[row.body]
            if isinstance(place, EmbeddedQueue):
                entry = restored(row, place, body, stored.delivered.get(row.seq, 0), now, now_ms)
                body.references += 1
                self._count(entry)
                place.restore(entry)


def _nobody(_: Published) -> None:
    """Nobody waits for what becomes of it."""
