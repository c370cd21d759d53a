"""Calls of one moment to one topic go together: gathered in one turn of the event loop, sent at its end."""

import asyncio
from collections.abc import Callable

from meshq.calling_waiting import Waiting
from meshq.core.instances import Snapshot
from meshq.core.packing import groups, room_for_calls


class Gathering:
    """`send` gets each group and the milliseconds that its calls have left; `waits` says whether a call still waits."""

    def __init__(
        self,
        picture: Callable[[], Snapshot],
        waits: Callable[[Waiting], bool],
        send: Callable[[list[Waiting], int], None],
    ) -> None:
        self._picture = picture
        self._waits = waits
        self._send = send
        self._gathered: dict[tuple[str, int], list[Waiting]] = {}
        """(topic, milliseconds left) -> calls of this turn of the event loop"""
        self._roomy = picture()
        self._rooms: dict[str, int] = {}

    def room(self, topic: str) -> int:
        """How many calls to `topic` may go together."""
        picture = self._picture()
        if picture is not self._roomy:
            self._roomy, self._rooms = picture, {}
        room = self._rooms.get(topic)
        if room is None:
            room = self._rooms[topic] = room_for_calls(topic, picture)
        return room

    def add(self, waiting: Waiting, left_ms: int) -> None:
        """Send it at the end of this turn, with what else comes for its topic until then. Only calls with the same time left go
        together, because the broker drops a message as a whole when its time is up."""
        if not self._gathered:
            asyncio.get_running_loop().call_soon(self._send_all)
        key = (waiting.route.topic, left_ms)
        together = self._gathered.get(key)
        if together is None:
            self._gathered[key] = [waiting]
        else:
            together.append(waiting)

    def idents(self) -> set[str]:
        """Message ids of what is not sent yet."""
        return {waiting.request.id for together in self._gathered.values() for waiting in together}

    def _send_all(self) -> None:
        gathered, self._gathered = self._gathered, {}
        for (topic, left_ms), together in gathered.items():
            still = [waiting for waiting in together if self._waits(waiting)]
            for group in groups(still, _length, self.room(topic)):
                self._send(group, left_ms)


def _length(waiting: Waiting) -> int:
    """Of its record, about."""
    return 500 + len(waiting.request.body or b"")
