"""Order per key: of messages with one key at most one is being handled, in the order in which they came; other keys go on
beside it. A message that fails and is to be tried again keeps its key's lane."""

from collections import deque
from typing import Generic, TypeVar

T = TypeVar("T")


class Lanes(Generic[T]):
    """What waits, by key. Bounded by whoever fills it: the prefetch."""

    def __init__(self) -> None:
        self._lanes: dict[str, deque[T]] = {}

    def arrive(self, key: str, item: T) -> bool:
        """Whether its turn is now; else it waits behind others of its key."""
        lane = self._lanes.get(key)
        if lane is None:
            self._lanes[key] = deque()
            return True
        lane.append(item)
        return False

    def leave(self, key: str) -> T | None:
        """The one whose turn it was is over. Returns the next of its key, whose turn it is now."""
        lane = self._lanes[key]
        if lane:
            return lane.popleft()
        del self._lanes[key]
        return None

    def __len__(self) -> int:
        """Keys that have a turn."""
        return len(self._lanes)
