"""Handled once per key: which messages are the same one, which answers end it, and how an answer is kept.

A key is one caller's, for one method and path of one topic. Whoever uses it again gets the stored answer; with another body
or query it is refused, because that is another request.
"""

from hashlib import blake2b

from meshq.core.http import HttpResponse
from meshq.core.keeping import DAY, MAX_ANSWER
from meshq.core.message import DecodeError, Response, decode, encode_response

WINDOW = DAY
"""Seconds for which an answer is kept (INTERFACE part 3)."""
AGAIN = frozenset({408, 425, 429})
"""Answers below 500 that ask for another attempt."""


def scope(caller: str, service: str, major: int, method: str, path: bytes, key: bytes) -> str:
    """What makes two messages the same: 32 hex digits. A query in `path` is left out. Of an event `method` is its topic."""
    return _digest(caller.encode(), service.encode(), b"%d" % major, method.encode(), path.partition(b"?")[0], key)


def digest(body: bytes | None, query: bytes = b"") -> str:
    """Of what must be the same when a key is used again: 32 hex digits."""
    return _digest(query, body or b"")


def _digest(*parts: bytes) -> str:
    """128 bits: to find two that agree takes 2^64 tries, and who does cheats only itself, because its own name is a part."""
    hashed = blake2b(digest_size=16)
    for part in parts:
        hashed.update(len(part).to_bytes(8, "big"))
        hashed.update(part)
    return hashed.hexdigest()


def final(status: int) -> bool:
    """Whether an answer ends its key. After another one the next message with the key is handled."""
    return status < 500 and status not in AGAIN


def encode_answer(ident: str, answer: HttpResponse, served_by: str, attempt: int) -> bytes:
    """`answer` as it is kept; b"" where it is too large for that. `ident` is the id of the message that was handled."""
    if len(answer.body) > MAX_ANSWER:
        return b""
    return encode_response(Response(ident, answer.status, answer.headers, answer.body, served_by, attempt))


def decode_answer(stored: bytes) -> Response:
    """Raises DecodeError, also for what an earlier or a later version may have kept instead."""
    message, *more = decode(stored)
    if more or not isinstance(message, Response):
        raise DecodeError("what was kept for the key is not one response")
    return message
