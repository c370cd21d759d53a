"""How much a store (ports.Store) keeps for one mesh, and for how long: the same numbers for every adapter.

Large things (stored answers, results) are counted against `room`; where there is none left only a status is kept. Small ones
are not counted: a status, a claim or a mark takes about 200 bytes, so a mesh needs besides `room` that much for each key of
the last day, each durable call of the last hour and on its way, and each of the last day up to `tombstones`.
"""

from typing import NamedTuple

DAY = 24 * 3600.0
MAX_ANSWER = 64 * 1024
"""Bytes of an answer's body that are kept for repeats of its idempotency key; of a larger one, only the status."""
MAX_FIELDS = 128 * 1024
"""Bytes that an encoded answer may have beyond its body: the HTTP adapters take at most 64 KiB of header fields."""
MAX_RESULT = 4 * 1024 * 1024
"""As MAX_ANSWER, of a result: what MESHQ_MAX_BODY is unless set."""


class Keeping(NamedTuple):
    """Times are seconds."""

    room: int = 256 * 1024 * 1024
    """Bytes of answers and results of one mesh. Choose it below Redis's `maxmemory`, with the above for the small things."""
    result: float = 3600.0
    """How long a result can be asked for."""
    tombstone: float = DAY
    """How long it is remembered that there was a result, after its time."""
    tombstones: int = 200_000
    """Results so remembered at once; those beyond are unknown after their time."""
    started: float = DAY
    """How long a started call cannot be cancelled any more, if no result of it comes."""
    settled: float = 60.0
    """The same after its result came: for a cancellation that was under way then; later ones see the result."""
    cancelled: float = 26 * DAY
    """How long a cancelled call is not started: longer than the longest delay, with its retries."""


def kept_answer(encoded: bytes) -> bool:
    """Whether this answer of a keyed message may be kept. Its body was looked at before (core/once.py)."""
    return 0 < len(encoded) <= MAX_ANSWER + MAX_FIELDS


def kept_result(encoded: bytes) -> bool:
    return 0 < len(encoded) <= MAX_RESULT + MAX_FIELDS
