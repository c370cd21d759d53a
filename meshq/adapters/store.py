"""The embedded broker's queues on disk: one SQLite file in WAL mode, synced at every commit.

One thread writes. Whoever wants something written adds it to the batch that is being gathered; while one batch is being
committed the next one fills, so the busier it is the more share one sync (group commit). Within a batch definitions go
first, then what is added, then marks and deletions: a deletion is of something of an earlier batch, because nobody was
given that before its commit. A dead letter's move is an addition and a deletion of one batch.

A batch that cannot be written (the disk is full) is undone as a whole. Its new messages are refused, because their senders
wait for an answer; the rest is kept and tried again, for ever: a lost deletion would be a message handled twice, a lost
move a message that stays where its time is over.

What is not kept in memory is read by the event loop itself, over a connection of its own.
"""

import asyncio
import logging
import os
import sqlite3
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import msgpack

from meshq.adapters import store_schema as schema
from meshq.adapters.store_file import StoreUnusable, lock_file, open_file, translated
from meshq.adapters.store_schema import Additions, Stored, StoredBody, StoredMessage, StoredRecord
from meshq.core.topology import Binding, ExchangeSpec, Queue, Topology

__all__ = ["MessageStore", "StoreUnusable"]

log = logging.getLogger(__name__)

RETRY_SECONDS = 1.0
"""How often a store that could not write tries again."""
READ_BYTES = 4 * 1024 * 1024
"""Records of a log are read at once up to this size, and one more."""

Done = Callable[[bool], None]

_INSERT_BODY = schema.insert("body", StoredBody)
_INSERT_MESSAGE = schema.insert("message", StoredMessage)
_INSERT_RECORD = schema.insert("record", StoredRecord)
_DELIVERED = "INSERT INTO delivered VALUES (?, 1) ON CONFLICT DO UPDATE SET times = times + 1"
_RECORDS = f"SELECT {schema.columns(StoredRecord)} FROM record WHERE log = ? AND number >= ? ORDER BY number LIMIT ?"
_SINCE = "SELECT number FROM record WHERE log = ? AND number >= ? AND at_ms >= ? ORDER BY number LIMIT 1"


class _Waiting(NamedTuple):
    done: Done
    kept: bool
    """What it waits for is tried again until it is written: it never hears False."""


@dataclass
class _Rows:
    bodies: list[StoredBody] = field(default_factory=list)
    messages: list[StoredMessage] = field(default_factory=list)
    records: list[StoredRecord] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.bodies or self.messages or self.records)

    def add(self, rows: "Additions | _Rows") -> None:
        self.bodies += rows.bodies
        self.messages += rows.messages
        self.records += rows.records

    def write(self, db: sqlite3.Connection) -> None:
        db.executemany(_INSERT_BODY, self.bodies)
        db.executemany(_INSERT_MESSAGE, self.messages)
        db.executemany(_INSERT_RECORD, self.records)


@dataclass
class _Batch:
    definitions: list[tuple[str, tuple[object, ...]]] = field(default_factory=list)
    added: _Rows = field(default_factory=_Rows)
    """New messages, which are refused if this fails."""
    moved: _Rows = field(default_factory=_Rows)
    delivered: list[tuple[int]] = field(default_factory=list)
    messages_gone: list[tuple[int]] = field(default_factory=list)
    bodies_gone: list[tuple[int]] = field(default_factory=list)
    records_gone: list[tuple[str, int]] = field(default_factory=list)
    waiting: list[_Waiting] = field(default_factory=list)

    def __bool__(self) -> bool:
        return any(vars(self).values())

    def kept(self, after: "_Batch") -> "_Batch":
        """What is still to be written of this batch when it failed, with the next one behind it."""
        self.moved.add(after.moved)
        return _Batch(
            self.definitions + after.definitions,
            after.added,
            self.moved,
            self.delivered + after.delivered,
            self.messages_gone + after.messages_gone,
            self.bodies_gone + after.bodies_gone,
            self.records_gone + after.records_gone,
            [w for w in self.waiting if w.kept] + after.waiting,
        )

    def write(self, db: sqlite3.Connection) -> None:
        for sql, row in self.definitions:
            db.execute(sql, row)
        self.moved.write(db)
        self.added.write(db)
        db.executemany(_DELIVERED, self.delivered)
        db.executemany("DELETE FROM message WHERE seq = ?", self.messages_gone)
        db.executemany("DELETE FROM delivered WHERE seq = ?", self.messages_gone)
        db.executemany("DELETE FROM body WHERE number = ?", self.bodies_gone)
        db.executemany("DELETE FROM record WHERE log = ? AND number < ?", self.records_gone)


class MessageStore:
    """Opened by its constructor (raises StoreUnusable), read once with `load`, then written to from one event loop."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock_fd = lock_file(path)
        try:
            self._db = _open(path)
            self._reading = _open(path)
        except BaseException:
            os.close(self._lock_fd)
            raise
        self._gathering = threading.Condition()
        self._batch = _Batch()
        self._closing = False
        self._failing = ""
        self._loop: asyncio.AbstractEventLoop | None = None
        self._on_fault: Callable[[str], None] = lambda fault: None
        self._thread = threading.Thread(target=self._write_batches, name="meshq-store", daemon=True)

    def load(self) -> Stored:
        with translated(self._path):
            rows = self._db.execute
            exchanges = [
                ExchangeSpec(name, kind, bool(internal), _arguments(packed))
                for name, kind, internal, packed in rows("SELECT name, kind, internal, arguments FROM exchange")
            ]
            queues = [Queue(name, _arguments(packed)) for name, packed in rows("SELECT name, arguments FROM queue")]
            bindings = [
                Binding(source, destination, key, bool(to_exchange))
                for source, destination, key, to_exchange in rows(
                    "SELECT source, destination, key, to_exchange FROM binding"
                )
            ]
            columns = schema.columns(StoredMessage)
            messages = [StoredMessage(*row) for row in rows(f"SELECT {columns} FROM message ORDER BY seq")]
            delivered = dict(rows("SELECT seq, times FROM delivered"))
            bodies = dict(rows("SELECT number, length(content) FROM body"))
        return Stored(Topology(tuple(exchanges), tuple(queues), tuple(bindings)), messages, delivered, bodies)

    def record_sizes(self, log_name: str) -> Iterator[tuple[int, int, int]]:
        """Number, time and bytes of each record of a log, in order; before `start`."""
        with translated(self._path):
            sql = "SELECT number, at_ms, length(body) FROM record WHERE log = ? ORDER BY number"
            yield from self._db.execute(sql, (log_name,))

    def start(self, loop: asyncio.AbstractEventLoop, on_fault: Callable[[str], None]) -> None:
        """Start writing. Every callback comes on `loop`. `on_fault` gets a sentence when writing begins to fail, "" when it
        works again."""
        self._loop, self._on_fault = loop, on_fault
        self._thread.start()

    @property
    def started(self) -> bool:
        return self._loop is not None

    # --- what to read -----------------------------------------------------------------------------------------------------

    def body(self, number: int) -> bytes | None:
        """None: it cannot be read now; the log says why."""
        found = self._read("SELECT content FROM body WHERE number = ?", (number,))
        return found[0][0] if found else None

    def records(self, log_name: str, start: int, most: int) -> list[StoredRecord]:
        """From the number `start` on, at most `most`. None where they cannot be read now; the log says why."""
        found = self._read(_RECORDS, (log_name, start, most), READ_BYTES)
        return [StoredRecord(*row) for row in found]

    def record_since(self, log_name: str, start: int, at_ms: int) -> int | None:
        """The number of the first record from `start` on that was written at `at_ms` or later."""
        found = self._read(_SINCE, (log_name, start, at_ms))
        return found[0][0] if found else None

    def _read(self, sql: str, parameters: tuple[object, ...], most_bytes: int = 0) -> list[Any]:
        """Rows whose last column is a body end at `most_bytes` of bodies."""
        found = []
        size = 0
        try:
            cursor = self._reading.execute(sql, parameters)
            for row in cursor:
                found.append(row)
                size += len(row[-1]) if most_bytes else 0
                if size > most_bytes:
                    break
            cursor.close()  # what is read half way would keep the file's log from being written back
        except sqlite3.Error as error:
            log.error("%s cannot be read (%s); what is in it waits until it can", self._path, error)
        return found

    # --- what to write ----------------------------------------------------------------------------------------------------

    def put_exchange(self, spec: ExchangeSpec) -> None:
        row = (spec.name, spec.kind, spec.internal, msgpack.packb(spec.arguments))
        self._define("INSERT OR REPLACE INTO exchange VALUES (?, ?, ?, ?)", row)

    def put_queue(self, queue: Queue) -> None:
        self._define("INSERT OR REPLACE INTO queue VALUES (?, ?)", (queue.name, msgpack.packb(queue.arguments)))

    def put_binding(self, binding: Binding) -> None:
        self._define("INSERT OR REPLACE INTO binding VALUES (?, ?, ?, ?)", _row(binding))

    def delete_queue(self, name: str) -> None:
        """There is nothing in it."""
        self._define("DELETE FROM queue WHERE name = ?", (name,))

    def delete_binding(self, binding: Binding) -> None:
        sql = "DELETE FROM binding WHERE source = ? AND destination = ? AND key = ? AND to_exchange = ?"
        self._define(sql, _row(binding))

    def append(self, added: Additions, done: Done) -> None:
        """`done(True)` once it is on the disk, `done(False)` when it could not be written (and then is not there)."""
        with self._gathering:
            self._batch.added.add(added)
            self._batch.waiting.append(_Waiting(done, kept=False))
            self._gathering.notify()

    def move(self, added: Additions, seq: int | None, body: int | None, done: Callable[[], None]) -> None:
        """Put something in instead of the message `seq` and the body of that number, where there is one; `done` once it is
        on the disk, however long that takes."""
        with self._gathering:
            self._batch.moved.add(added)
            self._batch.waiting.append(_Waiting(lambda _: done(), kept=True))
            self._delete(seq, body)
            self._gathering.notify()

    def mark_delivered(self, seq: int) -> None:
        with self._gathering:
            self._batch.delivered.append((seq,))
            self._gathering.notify()

    def delete(self, seq: int, body: int | None) -> None:
        """A message, and its body where no other has it."""
        with self._gathering:
            self._delete(seq, body)
            self._gathering.notify()

    def cut_log(self, log_name: str, start: int) -> None:
        """Delete the records before the number `start`."""
        with self._gathering:
            self._batch.records_gone.append((log_name, start))
            self._gathering.notify()

    async def close(self) -> None:
        """Write what is gathered, then let go of the file."""
        with self._gathering:
            self._closing = True
            self._gathering.notify()
        if self.started:
            await asyncio.to_thread(self._thread.join)
        self._reading.close()
        self._db.close()
        os.close(self._lock_fd)

    def _delete(self, seq: int | None, body: int | None) -> None:
        if seq is not None:
            self._batch.messages_gone.append((seq,))
        if body is not None:
            self._batch.bodies_gone.append((body,))

    def _define(self, sql: str, row: tuple[object, ...]) -> None:
        with self._gathering:
            self._batch.definitions.append((sql, row))
            self._gathering.notify()

    # --- the writing thread -----------------------------------------------------------------------------------------------

    def _write_batches(self) -> None:
        while (batch := self._next_batch()) is not None:
            try:
                self._commit(batch)
            except (sqlite3.Error, OverflowError, ValueError) as error:  # the latter two: a value SQLite cannot hold
                self._failed(batch, error)
            else:
                self._report(batch.waiting, True, "")

    def _next_batch(self) -> _Batch | None:
        """Wait for something to write; while writing fails, no longer than RETRY_SECONDS. None: closing, all is written."""
        with self._gathering:
            if self._failing and not self._closing and all(w.kept for w in self._batch.waiting):
                self._gathering.wait(RETRY_SECONDS)
            while not (self._batch or self._closing or self._failing):
                self._gathering.wait()
            batch, self._batch = self._batch, _Batch()
            return None if self._closing and not batch else batch

    def _commit(self, batch: _Batch) -> None:
        with self._db:
            self._db.execute("BEGIN IMMEDIATE")
            if self._failing:  # there may be nothing else in the batch that shows whether writing works again
                self._db.execute("INSERT INTO probe VALUES (1, 1) ON CONFLICT DO UPDATE SET times = times + 1")
            batch.write(self._db)

    def _failed(self, batch: _Batch, error: Exception) -> None:
        with self._gathering:
            if self._closing:
                log.error("%s: closed with changes unwritten (%s); some messages will come again", self._path, error)
            else:
                self._batch = batch.kept(self._batch)
        self._report(
            [w for w in batch.waiting if not w.kept],
            False,
            f"the queues in {self._path.parent} cannot be written ({error}): free some space there; "
            "durable messages are refused until then, and it goes on by itself",
        )

    def _report(self, waiting: list[_Waiting], written: bool, fault: str) -> None:
        changed, self._failing = fault != self._failing, fault

        def report() -> None:
            if changed:
                self._on_fault(fault)
            for each in waiting:
                each.done(written)

        if self._loop is not None and (changed or waiting):
            try:
                self._loop.call_soon_threadsafe(report)
            except RuntimeError:  # the loop was closed before this store: nobody is left to tell
                log.debug("no event loop to report to")


def _open(path: Path) -> sqlite3.Connection:
    """With its tables, made or brought up to what this version needs."""
    db = open_file(path, "")
    try:
        with translated(path):
            (version,) = db.execute("PRAGMA user_version").fetchone()
            if version > schema.VERSION:
                raise StoreUnusable(f"{path} is of a later version of meshq: run that one, or use another directory")
            if version < schema.VERSION:
                old = db.execute("SELECT 1 FROM sqlite_master WHERE name = 'message'").fetchone()
                tables = schema.BEFORE_VERSIONS if old else schema.TABLES
                db.executescript(f"BEGIN IMMEDIATE; {tables} PRAGMA user_version = {schema.VERSION}; COMMIT")
    except BaseException:
        db.close()
        raise
    return db


def _row(binding: Binding) -> tuple[object, ...]:
    return (binding.source, binding.destination, binding.key, binding.to_exchange)


def _arguments(packed: bytes) -> tuple[tuple[str, str | int], ...]:
    return tuple((name, value) for name, value in msgpack.unpackb(packed))
