"""What the embedded broker's file holds: its tables, and the rows that go in and come out."""

from collections.abc import Sequence
from typing import NamedTuple

from meshq.core.topology import Topology

VERSION = 1
"""Kept in the file as `user_version`."""

TABLES = """
CREATE TABLE IF NOT EXISTS exchange (name TEXT PRIMARY KEY, kind TEXT, internal INTEGER, arguments BLOB) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS queue (name TEXT PRIMARY KEY, arguments BLOB) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS binding (source TEXT, destination TEXT, key TEXT, to_exchange INTEGER,
    PRIMARY KEY (source, destination, key, to_exchange)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS body (number INTEGER PRIMARY KEY, content BLOB);
CREATE TABLE IF NOT EXISTS message (seq INTEGER PRIMARY KEY, queue TEXT, exchange TEXT, key TEXT, message_id TEXT, kind TEXT,
    reply_to TEXT, user TEXT, expiration_ms INTEGER, arrived_ms INTEGER, priority INTEGER, deaths BLOB, body INTEGER);
CREATE TABLE IF NOT EXISTS delivered (seq INTEGER PRIMARY KEY, times INTEGER);
CREATE TABLE IF NOT EXISTS record (log TEXT, number INTEGER, exchange TEXT, key TEXT, message_id TEXT, kind TEXT,
    reply_to TEXT, user TEXT, at_ms INTEGER, priority INTEGER, body BLOB, PRIMARY KEY (log, number));
CREATE TABLE IF NOT EXISTS probe (one INTEGER PRIMARY KEY, times INTEGER);
"""

BEFORE_VERSIONS = f"""
ALTER TABLE message RENAME TO old_message;
ALTER TABLE delivered RENAME TO old_delivered;
{TABLES}
INSERT INTO body SELECT seq, body FROM old_message;
INSERT INTO message SELECT seq, queue, exchange, key, message_id, kind, reply_to, user, expires_ms - arrived_ms, arrived_ms,
    priority, NULL, seq FROM old_message;
INSERT INTO delivered SELECT seq, 1 FROM old_delivered;
DROP TABLE old_message;
DROP TABLE old_delivered;
"""
"""Brings up a file that has no version yet: bodies lay in the messages, and how often one was delivered was not counted."""


class StoredMessage(NamedTuple):
    """One message in one durable queue."""

    seq: int
    queue: str
    exchange: str
    key: str
    message_id: str
    kind: str
    reply_to: str
    user: str
    expiration_ms: int | None
    """How long it may wait, by its own word."""
    arrived_ms: int
    """Mesh time, Unix milliseconds, as every time here."""
    priority: int | None
    deaths: bytes | None
    """As meshq.adapters.embedded_dead packs them."""
    body: int
    """The number of its body: several messages may have one."""


class StoredBody(NamedTuple):
    number: int
    content: bytes


class StoredRecord(NamedTuple):
    """One record of a log."""

    log: str
    number: int
    exchange: str
    key: str
    message_id: str
    kind: str
    reply_to: str
    user: str
    at_ms: int
    priority: int | None
    body: bytes


class Additions(NamedTuple):
    """What one publication, or one dead letter on its way, puts into the file, all at once or not at all."""

    bodies: Sequence[StoredBody] = ()
    messages: Sequence[StoredMessage] = ()
    records: Sequence[StoredRecord] = ()


class Stored(NamedTuple):
    """What an earlier process left."""

    topology: Topology
    messages: list[StoredMessage]
    """In the order in which they came."""
    delivered: dict[int, int]
    """`seq` -> how often it was given to a consumer."""
    bodies: dict[int, int]
    """Number -> bytes."""


def insert(table: str, row: type[StoredMessage] | type[StoredBody] | type[StoredRecord]) -> str:
    return f"INSERT INTO {table} ({', '.join(row._fields)}) VALUES ({', '.join('?' * len(row._fields))})"


def columns(row: type[StoredMessage] | type[StoredRecord]) -> str:
    return ", ".join(row._fields)
