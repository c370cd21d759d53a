"""Looking at the dead letters of a queue without taking them: they are held, read, and given back to their place."""

from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Self, TypeVar

from meshq.core.dead import Letter, read
from meshq.core.dead_views import Wanted
from meshq.ports import Broker, BrokerAway, Delivery, Held

MAX_HELD = 10_000
"""Messages of one queue that one question looks at. Their bytes the broker's adapter bounds, at 64 MiB."""

T = TypeVar("T")


class Holding:
    """The dead letters of one queue, held for as long as the `async with` lasts. Acknowledge what is to go before its end."""

    def __init__(self, broker: Broker, queue: str) -> None:
        self._broker = broker
        self._queue = queue
        self._held: Held | None = None
        self.unseen = 0
        """Messages that were not looked at."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._held is not None:
            with suppress(BrokerAway):  # it has them again
                await self._held.release()

    async def find(
        self, wanted: Wanted, belongs: Callable[[Letter], bool], keep: Callable[[Letter, Delivery], T]
    ) -> list[T]:
        """What `keep` makes of those that are wanted, oldest first. Once only. Raises meshq.ports.BrokerAway."""
        if wanted.limit == 0:
            self.unseen = sum(figures.ready or 0 for figures in await self._broker.stats([self._queue]))
            return []
        most = min(wanted.limit or MAX_HELD, MAX_HELD) if wanted.everything else MAX_HELD
        held = self._held = await self._broker.hold(self._queue, most)
        self.unseen = held.behind + len(held.deliveries)
        found: list[T] = []
        for delivery in held.deliveries:
            if len(found) == wanted.limit:
                break
            self.unseen -= 1
            letter = read_delivery(delivery)
            if belongs(letter) and wanted.takes(letter):
                found.append(keep(letter, delivery))
        return found


def read_delivery(delivery: Delivery) -> Letter:
    headers = delivery.properties().get("headers")
    return read(
        delivery.body,
        delivery.queue,
        delivery.content_type,
        delivery.message_id,
        delivery.user_id,
        delivery.reply_to,
        headers if isinstance(headers, dict) else {},
    )
