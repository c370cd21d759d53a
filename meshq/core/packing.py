"""Several records as one message (a pack, core/message.py): how many may go together."""

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from meshq.core.instances import LIVE, Snapshot
from meshq.core.names import parse_topic

T = TypeVar("T")

PACK_BYTES = 64 * 1024
MAX_CALLS = 16
SHARE = 4
"""A pack of calls goes to one instance, so it takes at most this part (a quarter) of what an instance works on at once: calls
that arrive in the same moment still spread over instances, and an app that takes few at once gets them one by one."""


def groups(items: Iterable[T], size: Callable[[T], int], most: int) -> Iterator[list[T]]:
    """`items` in order, in groups of at most `most` and PACK_BYTES; one larger than that goes alone."""
    group: list[T] = []
    total = 0
    for item in items:
        length = size(item)
        if group and (len(group) == most or total + length > PACK_BYTES):
            yield group
            group, total = [], 0
        group.append(item)
        total += length
    if group:
        yield group


def room_for_calls(topic: str, snapshot: Snapshot) -> int:
    """How many calls to `topic` may go in one message; 1 where it is not known what its instances take."""
    name, major = parse_topic(topic)
    service = snapshot.services.get(name)
    if service is None:
        return 1
    capacity = min((i.load.capacity for i in service.of_major(major) if i.state in LIVE), default=0)
    return max(1, min(capacity // SHARE, MAX_CALLS))
