"""The copies that a route policy's `mirror` asks for."""

from meshq.core.message import Request

DURABLE_LASTS_MS = 60_000
"""A copy of a durable call that nobody started within this is dropped: what it stands for was long ago."""


def copy_of(request: Request, ident: str, delay: int = 0) -> Request:
    """`request` as another version is to see it too, under an id of its own. Its answer is nobody's, so it names no place for one;
    with the id the app that gets it has another idempotency key where the caller gave none. `delay`: seconds in which a durable one
    is not delivered."""
    deadline_ms, left_ms = request.deadline_ms, request.left_ms
    if request.accepted_ms is not None and deadline_ms is None:
        left_ms = delay * 1000 + DURABLE_LASTS_MS
        deadline_ms = request.accepted_ms + left_ms
    return request._replace(
        id=ident, selector="", attempt=1, misses=0, proved_caller="", callback=b"", answer_to="", mirrored=True,
        deadline_ms=deadline_ms, left_ms=left_ms,
    )  # fmt: skip
