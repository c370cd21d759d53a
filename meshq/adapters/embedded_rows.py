"""Between the embedded broker's messages and the rows of its file."""

from meshq.adapters import embedded_dead
from meshq.adapters.embedded_delivery import DiskBody, Entry
from meshq.adapters.embedded_log import Record
from meshq.adapters.embedded_place import Place
from meshq.adapters.store import MessageStore
from meshq.adapters.store_schema import StoredMessage, StoredRecord
from meshq.ports import Publication


def message_row(entry: Entry, body: DiskBody, now: float, now_ms: int) -> StoredMessage:
    """`now` by the monotonic clock, `now_ms` by mesh time, which goes on while no process has the file."""
    p = entry.publication
    return StoredMessage(
        entry.seq,
        entry.place.spec.name,
        p.exchange,
        p.key,
        p.message_id,
        p.kind,
        p.reply_to,
        entry.user,
        p.expiration_ms,
        now_ms - round((now - entry.arrived) * 1000),
        p.priority,
        embedded_dead.pack(entry.deaths),
        body.number,
    )


def restored(row: StoredMessage, place: Place, body: DiskBody, deliveries: int, now: float, now_ms: int) -> Entry:
    """`now` and `now_ms` as in `message_row`."""
    arrived = now - max(0, now_ms - row.arrived_ms) / 1000
    publication = Publication(
        row.exchange, row.key, b"", row.message_id, row.kind, row.reply_to, row.expiration_ms, row.priority
    )
    entry = Entry(row.seq, place, publication, row.user, arrived, body, embedded_dead.unpack(row.deaths))
    entry.deliveries = deliveries
    return entry


def record_row(entry: Entry, now_ms: int) -> StoredRecord:
    p = entry.publication
    return StoredRecord(
        entry.place.spec.name,
        entry.seq,
        p.exchange,
        p.key,
        p.message_id,
        p.kind,
        p.reply_to,
        entry.user,
        now_ms,
        p.priority,
        p.body,
    )


class DiskRecords:
    """`Records` of one log in the file."""

    def __init__(self, store: MessageStore, log: str) -> None:
        self._store = store
        self._log = log

    def add(self, record: Record) -> None:
        """It is there: it was written with everything else of its publication."""

    def read(self, start: int, most: int) -> list[Record]:
        return [_record(row) for row in self._store.records(self._log, start, most)]

    def since(self, start: int, at_ms: int) -> int | None:
        return self._store.record_since(self._log, start, at_ms)

    def cut(self, start: int) -> None:
        self._store.cut_log(self._log, start)


def _record(row: StoredRecord) -> Record:
    publication = Publication(
        row.exchange, row.key, row.body, row.message_id, row.kind, row.reply_to, None, row.priority
    )
    return Record(row.number, row.at_ms, publication, row.user)
