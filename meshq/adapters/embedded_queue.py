"""One queue of the embedded broker: what waits, who has what, and when a message is given up."""

import heapq
from collections import deque
from typing import Any

from meshq.adapters.embedded_dead import DELIVERY_LIMIT, EXPIRED, dead_letters, table
from meshq.adapters.embedded_delivery import EmbeddedDelivery, Entry, Holder
from meshq.adapters.embedded_place import Hooks, Place
from meshq.core.topology import Queue
from meshq.ports import QueueStats

NO_PRIORITY = 4
"""What a message without a priority counts as, in a RabbitMQ quorum queue and here."""


class EmbeddedQueue(Place):
    """Messages in order of priority, then of arrival. A message that comes back takes the place it had: the front.

    A message over its time is given up at the head, as in RabbitMQ: one behind the head waits for its turn. Where the
    queue itself says how long messages wait, that is order of arrival without priorities, so none waits for another."""

    def __init__(self, spec: Queue, hooks: Hooks, now: float) -> None:
        super().__init__(spec, hooks, now)
        arguments = dict(spec.arguments)
        ttl, limit = arguments.get("x-message-ttl"), arguments.get("x-delivery-limit")
        self.ttl_ms = None if ttl is None else int(ttl)
        self.dead_letters = dead_letters(arguments)
        self._limit = None if limit is None else int(limit)
        self._single = arguments.get("x-single-active-consumer") is True
        self._counts = arguments.get("x-queue-type") == "quorum"
        self._ready: list[tuple[int, int, Entry]] = []
        self._out: dict[int, Entry] = {}
        self._holders: deque[Holder] = deque()
        self._left = 0
        """Messages acknowledged or given up, since this process has the queue."""

    # --- messages ---------------------------------------------------------------------------------------------------------

    def put(self, entry: Entry, now: float) -> None:
        self._arrivals.count(now)
        self._push(entry)

    def put_back(self, entry: Entry) -> None:
        if not self.closed:
            self._out.pop(entry.seq, None)
            entry.deliveries += 1
            self._take_back(entry)

    def done(self, entry: Entry) -> None:
        if not self.closed:
            self._out.pop(entry.seq, None)
            self._left += 1
            self._departures.count(self._hooks.now())
            self._hooks.gone(entry)
            self._wake()

    def restore(self, entry: Entry) -> None:
        """Put in what an earlier process left, with its `deliveries`."""
        self._take_back(entry)

    def expire(self, now: float) -> None:
        self._give_up(now)
        self._arm()

    def close(self) -> None:
        self.closed = True
        for entry in [*(place[2] for place in self._ready), *self._out.values()]:
            self._hooks.gone(entry)
        self._ready.clear()
        self._out.clear()

    def headers(self, delivery: EmbeddedDelivery) -> dict[str, Any]:
        found: dict[str, Any] = {"x-delivery-count": delivery.deliveries} if self._counts else {}
        if delivery.entry.deaths:
            found["x-death"] = table(delivery.entry.deaths)
        return found

    # --- consumers --------------------------------------------------------------------------------------------------------

    def attach(self, holder: Holder) -> None:
        holder.place = self
        self._holders.append(holder)
        self._wake()

    def detach(self, holder: Holder) -> None:
        """Where only one consumer gets messages, it is the next one's turn only when this one has settled what it was given:
        else that one would overtake what may yet come back."""
        holder.place = None
        if self._single and holder.unsettled:
            holder.leaving = self
        else:
            self.left(holder)

    def left(self, holder: Holder) -> None:
        self._holders.remove(holder)
        self._wake()

    def deliver(self, now: float, most: int) -> bool:
        """Give out at most `most` messages, to consumers in turn; those that are given up instead count too."""
        ready = self._ready
        while ready:
            expires = ready[0][2].expires
            if expires is not None and expires <= now:
                if most == 0:
                    return True
                self._drop(heapq.heappop(ready)[2], EXPIRED)
            else:
                holder = self._free_holder()
                if holder is None:
                    break
                if most == 0:
                    return True
                if not self._give(holder):
                    break
            most -= 1
        self._arm()
        return False

    def hold(self, holder: Holder, most: int, now: float) -> None:
        """Give it the first `most` messages; it is no consumer and gets no others."""
        self._give_up(now)
        while most > 0 and self._ready and self._give(holder):
            most -= 1
            self._give_up(now)
        self._arm()

    def _give(self, holder: Holder) -> bool:
        """The first message. False: it cannot be read now."""
        entry = self._ready[0][2]
        if entry.on_disk is None or entry.on_disk.kept:
            body: bytes | None = entry.publication.body
        else:
            body = self._hooks.read(entry)
        if body is None:
            return False
        heapq.heappop(self._ready)
        self._out[entry.seq] = entry
        if entry.on_disk is not None:
            self._hooks.given_out(entry)
        holder.take(entry, body)
        return True

    def _free_holder(self) -> Holder | None:
        holders = self._holders
        if self._single:
            return holders[0] if holders and holders[0].room > 0 else None
        for _ in range(len(holders)):
            holder = holders[0]
            holders.rotate(-1)
            if holder.room > 0:
                return holder
        return None

    def _take_back(self, entry: Entry) -> None:
        if self._limit is not None and entry.deliveries > self._limit:
            self._drop(entry, DELIVERY_LIMIT)
        else:
            self._push(entry)

    def _push(self, entry: Entry) -> None:
        priority = entry.publication.priority
        if priority is None or self.ttl_ms is not None:
            priority = NO_PRIORITY
        heapq.heappush(self._ready, (-priority, entry.seq, entry))
        self._arm()
        self._wake()

    def _give_up(self, now: float) -> None:
        """What is over its time at the head."""
        ready = self._ready
        while ready and (expires := ready[0][2].expires) is not None and expires <= now:
            self._drop(heapq.heappop(ready)[2], EXPIRED)

    def _drop(self, entry: Entry, reason: str) -> None:
        self._left += 1
        self._hooks.dead(entry, reason)

    def _arm(self) -> None:
        """Ask for a look when the first message is over its time. A look too early does no harm, so one that is asked for
        stays until it was taken."""
        expires = self._ready[0][2].expires if self._ready else None
        if expires is not None and (self.armed is None or expires < self.armed):
            self._hooks.arm(self, expires)

    def _wake(self) -> None:
        if self._holders and self._ready:
            self._hooks.wake(self)

    # --- figures ----------------------------------------------------------------------------------------------------------

    def stats(self, now: float) -> QueueStats:
        self.expire(now)
        oldest = min((entry.arrived for _, _, entry in self._ready), default=None)
        return QueueStats(
            self.spec.name,
            ready=len(self._ready),
            in_flight=len(self._out),
            consumers=len(self._holders),
            oldest_age_seconds=None if oldest is None else max(0.0, now - oldest),
            in_rate=self._arrivals.per_second(now),
            out_rate=self._departures.per_second(now),
            done=float(self._left),
            single=self._single,
        )
