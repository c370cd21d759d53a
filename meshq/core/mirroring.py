"""The copies that a route policy's `mirror` asks for."""

from meshq.core.message import Request


def copy_of(request: Request, ident: str) -> Request:
    """`request` as another version is to see it too, under an id of its own. Its answer is nobody's, so it names no place for one;
    with the id the app that gets it has another idempotency key where the caller gave none."""
    return request._replace(
        id=ident, selector="", attempt=1, misses=0, proved_caller="", callback=b"", answer_to="", mirrored=True
    )
