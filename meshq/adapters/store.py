"""The embedded broker's queues on disk: one SQLite file in WAL mode, synced at every commit.

One thread writes. Whoever wants something written adds it to the batch that is being gathered; while one batch is being
committed the next one fills, so the busier it is the more share one sync (group commit). Within a batch definitions go
first, then new messages, then marks and deletions: a deletion is of a message of an earlier batch, because nobody was
given that message before its commit.

A batch that cannot be written (the disk is full) is undone as a whole. Its new messages are refused, because their senders
wait for an answer; the rest is kept and tried again, for ever: a lost deletion would be a message handled twice.
"""

import asyncio
import fcntl
import logging
import os
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import msgpack

from meshq.core.topology import Binding, ExchangeSpec, Queue, Topology

log = logging.getLogger(__name__)

RETRY_SECONDS = 1.0
"""How often a store that could not write tries again."""

Done = Callable[[bool], None]

_SCHEMA = """
CREATE TABLE IF NOT EXISTS exchange (name TEXT PRIMARY KEY, kind TEXT, internal INTEGER, arguments BLOB) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS queue (name TEXT PRIMARY KEY, arguments BLOB) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS binding (source TEXT, destination TEXT, key TEXT, to_exchange INTEGER,
    PRIMARY KEY (source, destination, key, to_exchange)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS message (seq INTEGER PRIMARY KEY, queue TEXT, exchange TEXT, key TEXT, message_id TEXT, kind TEXT,
    reply_to TEXT, user TEXT, expires_ms INTEGER, arrived_ms INTEGER, priority INTEGER, body BLOB);
CREATE TABLE IF NOT EXISTS delivered (seq INTEGER PRIMARY KEY);
CREATE TABLE IF NOT EXISTS probe (one INTEGER PRIMARY KEY, times INTEGER);
"""


class StoreUnusable(Exception):
    """The file cannot be used; the message says why and what to do."""


class StoredMessage(NamedTuple):
    """One message in one durable queue. Times are mesh time, Unix milliseconds."""

    seq: int
    queue: str
    exchange: str
    key: str
    message_id: str
    kind: str
    reply_to: str
    user: str
    expires_ms: int | None
    arrived_ms: int
    priority: int | None
    body: bytes


class Stored(NamedTuple):
    """What an earlier process left."""

    topology: Topology
    messages: list[StoredMessage]
    """In the order in which they came."""
    delivered: set[int]
    """`seq` of those that a consumer was given."""


@dataclass
class _Batch:
    definitions: list[tuple[str, tuple[object, ...]]] = field(default_factory=list)
    messages: list[StoredMessage] = field(default_factory=list)
    delivered: list[tuple[int]] = field(default_factory=list)
    deleted: list[tuple[int]] = field(default_factory=list)
    waiting: list[Done] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.definitions or self.messages or self.delivered or self.deleted or self.waiting)

    def kept(self, after: "_Batch") -> "_Batch":
        """What is still to be written of this batch when it failed, with the next one behind it."""
        return _Batch(
            self.definitions + after.definitions,
            after.messages,
            self.delivered + after.delivered,
            self.deleted + after.deleted,
            after.waiting,
        )


class MessageStore:
    """Opened by its constructor (raises StoreUnusable), read once with `load`, then written to from one event loop."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock_fd = _lock(path)
        try:
            self._db = _open(path)
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
        with _translated(self._path):
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
            messages = [StoredMessage(*row) for row in rows(f"SELECT {_COLUMNS} FROM message ORDER BY seq")]
            delivered = {seq for (seq,) in rows("SELECT seq FROM delivered")}
        return Stored(Topology(tuple(exchanges), tuple(queues), tuple(bindings)), messages, delivered)

    def start(self, loop: asyncio.AbstractEventLoop, on_fault: Callable[[str], None]) -> None:
        """Start writing. Every callback comes on `loop`. `on_fault` gets a sentence when writing begins to fail, "" when it
        works again."""
        self._loop, self._on_fault = loop, on_fault
        self._thread.start()

    @property
    def started(self) -> bool:
        return self._loop is not None

    # --- what to write ------------------------------------------------------------------------------------------------------

    def put_exchange(self, spec: ExchangeSpec) -> None:
        row = (spec.name, spec.kind, spec.internal, msgpack.packb(spec.arguments))
        self._define("INSERT OR REPLACE INTO exchange VALUES (?, ?, ?, ?)", row)

    def put_queue(self, queue: Queue) -> None:
        self._define("INSERT OR REPLACE INTO queue VALUES (?, ?)", (queue.name, msgpack.packb(queue.arguments)))

    def put_binding(self, binding: Binding) -> None:
        row = (binding.source, binding.destination, binding.key, binding.to_exchange)
        self._define("INSERT OR REPLACE INTO binding VALUES (?, ?, ?, ?)", row)

    def append(self, messages: list[StoredMessage], done: Done) -> None:
        """`done(True)` once they are on the disk, `done(False)` when they could not be written (and then are not there)."""
        with self._gathering:
            self._batch.messages += messages
            self._batch.waiting.append(done)
            self._gathering.notify()

    def mark_delivered(self, seq: int) -> None:
        with self._gathering:
            self._batch.delivered.append((seq,))
            self._gathering.notify()

    def delete(self, seq: int) -> None:
        with self._gathering:
            self._batch.deleted.append((seq,))
            self._gathering.notify()

    async def close(self) -> None:
        """Write what is gathered, then let go of the file."""
        with self._gathering:
            self._closing = True
            self._gathering.notify()
        if self.started:
            await asyncio.to_thread(self._thread.join)
        self._db.close()
        os.close(self._lock_fd)

    def _define(self, sql: str, row: tuple[object, ...]) -> None:
        with self._gathering:
            self._batch.definitions.append((sql, row))
            self._gathering.notify()

    # --- the writing thread ---------------------------------------------------------------------------------------------------

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
            if self._failing and not self._closing and not self._batch.waiting:
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
            for sql, row in batch.definitions:
                self._db.execute(sql, row)
            self._db.executemany(_INSERT, batch.messages)
            self._db.executemany("INSERT OR IGNORE INTO delivered VALUES (?)", batch.delivered)
            self._db.executemany("DELETE FROM message WHERE seq = ?", batch.deleted)
            self._db.executemany("DELETE FROM delivered WHERE seq = ?", batch.deleted)

    def _failed(self, batch: _Batch, error: Exception) -> None:
        with self._gathering:
            if self._closing:
                log.error("%s: closed with changes unwritten (%s); some messages will come again", self._path, error)
            else:
                self._batch = batch.kept(self._batch)
        self._report(
            batch.waiting,
            False,
            f"the queues in {self._path.parent} cannot be written ({error}): free some space there; "
            "durable messages are refused until then, and it goes on by itself",
        )

    def _report(self, waiting: list[Done], written: bool, fault: str) -> None:
        changed, self._failing = fault != self._failing, fault

        def report() -> None:
            if changed:
                self._on_fault(fault)
            for done in waiting:
                done(written)

        if self._loop is not None and (changed or waiting):
            try:
                self._loop.call_soon_threadsafe(report)
            except RuntimeError:  # the loop was closed before this store: nobody is left to tell
                log.debug("no event loop to report to")


_COLUMNS = ", ".join(StoredMessage._fields)
_INSERT = f"INSERT INTO message ({_COLUMNS}) VALUES ({', '.join('?' * len(StoredMessage._fields))})"


def _lock(path: Path) -> int:
    """Hold `<path>.lock` as long as this process lives. The file stays; the lock goes with its holder, however it ends."""
    lock = path.with_name(path.name + ".lock")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        fd = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise StoreUnusable(f"{path} cannot be opened: {error}") from error
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        holder = os.pread(fd, 20, 0).decode(errors="replace").strip()
        os.close(fd)
        raise StoreUnusable(
            f"{path} is in use by process {holder or '(unknown)'}: stop that one, or use another directory"
        ) from error
    os.ftruncate(fd, 0)
    os.pwrite(fd, b"%d\n" % os.getpid(), 0)
    return fd


def _open(path: Path) -> sqlite3.Connection:
    with _translated(path):
        # Opened and read by the loop's thread, then handed to the writing one; closed when that one has ended.
        db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        try:
            db.execute("PRAGMA journal_mode = WAL")
            db.execute("PRAGMA synchronous = FULL")
            db.executescript(_SCHEMA)
        except BaseException:
            db.close()
            raise
        return db


@contextmanager
def _translated(path: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        raise StoreUnusable(
            f"{path} cannot be used ({error}): move it away to start empty, or put a good copy in its place"
        ) from error


def _arguments(packed: bytes) -> tuple[tuple[str, str | int], ...]:
    return tuple((name, value) for name, value in msgpack.unpackb(packed))
