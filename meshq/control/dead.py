"""Dead letters: looked at, brought back, dropped (INTERFACE part 9).

Looking never loses one: they are held and given back. Those who look through one control API do so one after the other. Of what
another process holds, this one sees nothing for that moment.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

from meshq.control.dead_queues import DeadQueues
from meshq.control.dead_replays import How, Replays, outcome
from meshq.control.holding import Holding, read_delivery
from meshq.control.unreachable import Unreachable
from meshq.core.dead import Letter
from meshq.core.dead_views import Wanted, full, of_topic, row
from meshq.core.errors import Code, Problem, Refused, refuse
from meshq.core.instances import EMPTY, Snapshot
from meshq.core.routing import Route, route
from meshq.core.selectors import Address
from meshq.ports import Broker, BrokerAway, Clock, Delivery, Publication, QueueStats
from meshq.sending import Told

LOOK_SECONDS = 30.0
"""The longest that a look may take, those included who look before us."""
ENOUGH_SECONDS = 15.0
"""After this long no further queue is looked into: of the rest the messages are only counted."""
QUEUES_AT_ONCE = 4
CHANGE_SECONDS = 150.0
"""The longest that bringing back and dropping may take; the first ends by itself before (dead_replays.SECONDS)."""

Change = Callable[[Sequence[Delivery]], Awaitable[list[dict[str, Any]]]]


class Listing(NamedTuple):
    rows: list[dict[str, Any]]
    more: int
    """Others that are wanted, or may be: what was not looked at is among them."""


class Changed(NamedTuple):
    letters: list[dict[str, Any]]
    """Those that were wanted, as dead_replays.outcome has them."""
    more: int
    missing: list[str]
    """Ids that were asked for and are not there."""
    fault: str
    """Why some were not looked at; "" where nothing went wrong."""


class DeadLetters:
    """`publish` is a Sender's; `picture` says who is there (raises Unreachable), `listed` gives every queue that the broker tells
    of. Every method may raise meshq.core.errors.Refused and Unreachable. A topic is one of a service or an event,
    meshq.core.dead.LOST_TOPIC for all that found no queue, or None for all there are."""

    def __init__(
        self,
        broker: Broker,
        clock: Clock,
        publish: Callable[[Publication, Told], None],
        picture: Callable[[], Awaitable[Snapshot]],
        listed: Callable[[], Awaitable[list[QueueStats]]],
    ) -> None:
        self._broker = broker
        self._clock = clock
        self._picture = picture
        self._queues = DeadQueues(broker, picture, listed)
        self._replays = Replays(broker, clock, publish, listed)
        self._turn = asyncio.Lock()

    @property
    def now_ms(self) -> int:
        """Mesh time, by which letters are dated."""
        return self._clock.mesh_ms()

    # --- looking ------------------------------------------------------------------------------------------------------------

    async def rows(self, topic: str | None, wanted: Wanted) -> Listing:
        """As core.dead_views.row makes them, by time."""
        return await self._look(topic, wanted, row)

    async def show(self, topic: str | None, wanted: Wanted, whole: bool) -> Listing:
        """The same with all that is known of each, as core.dead_views.full makes it."""
        return await self._look(topic, wanted, lambda letter: full(letter, whole))

    async def _look(self, topic: str | None, wanted: Wanted, view: Callable[[Letter], dict[str, Any]]) -> Listing:
        rows: list[dict[str, Any]] = []
        more = 0
        async with self._in_turn(LOOK_SECONDS):
            enough = self._clock.monotonic() + ENOUGH_SECONDS
            queues = await self._queues.of(topic)
            for start in range(0, len(queues.names), QUEUES_AT_ONCE):
                some = queues.names[start : start + QUEUES_AT_ONCE]
                left = wanted if self._clock.monotonic() < enough else wanted._replace(limit=0)
                for listing in await _all_of(self._look_into(queue, topic, left, view) for queue in some):
                    rows += listing.rows
                    more += listing.more
            if queues.unknown and not rows:
                raise await self._queues.no_such_topic(queues.unknown)
        rows.sort(key=lambda each: each["at"] or "")
        shown = rows[: wanted.limit]
        return Listing(shown, more + len(rows) - len(shown))

    async def _look_into(
        self, queue: str, topic: str | None, wanted: Wanted, view: Callable[[Letter], dict[str, Any]]
    ) -> Listing:
        async with Holding(self._broker, queue) as holding:
            rows = await holding.find(wanted, _belongs(topic), lambda letter, _: view(letter))
        return Listing(rows, holding.unseen)

    # --- changing -----------------------------------------------------------------------------------------------------------

    async def replay(
        self, topic: str | None, wanted: Wanted, to: Address | None, *, dry_run: bool = False, force: bool = False
    ) -> Changed:
        """Bring back what is wanted, to the queues it came from or to another address. `force` as in core.dead_replay."""
        how = How(None if to is None else await self._route(to), force, dry_run)
        return await self._change(topic, wanted, lambda deliveries: self._replays.bring_back(deliveries, how))

    async def drop(self, topic: str | None, wanted: Wanted, *, dry_run: bool = False) -> Changed:
        """Take them out, for good."""

        async def drop(deliveries: Sequence[Delivery]) -> list[dict[str, Any]]:
            return [_drop(delivery, dry_run) for delivery in deliveries]

        return await self._change(topic, wanted, drop)

    async def _change(self, topic: str | None, wanted: Wanted, change: Change) -> Changed:
        """What was done before something went wrong is told all the same."""
        letters: list[dict[str, Any]] = []
        more, fault = 0, ""
        async with self._in_turn(CHANGE_SECONDS):
            queues = await self._queues.of(topic)
            for queue in queues.names:
                left = wanted if wanted.limit is None else wanted._replace(limit=wanted.limit - len(letters))
                try:
                    async with Holding(self._broker, queue) as holding:
                        found = await holding.find(left, _belongs(topic), _with_id)
                        _check_ids(wanted, [letter["id"] for letter in letters] + [ident for ident, _ in found])
                        letters += await change([delivery for _, delivery in found])
                except BrokerAway as away:
                    if not letters:
                        raise
                    fault = str(away)
                    break
                more += holding.unseen
            if queues.unknown and not letters:
                raise await self._queues.no_such_topic(queues.unknown)
        return Changed(letters, more, wanted.missing(letter["id"] for letter in letters), fault)

    async def _route(self, to: Address) -> Route:
        try:
            picture = await self._picture()
        except Unreachable:
            picture = EMPTY  # an address with a major version needs none
        found = route(to, picture)
        if isinstance(found, Problem):
            raise Refused(found)
        return found

    @asynccontextmanager
    async def _in_turn(self, seconds: float) -> AsyncIterator[None]:
        state = self._broker.state
        if not state.consuming:
            raise Unreachable(state.fault or "the broker is being connected to: try again in a moment")
        try:
            async with asyncio.timeout(seconds), self._turn:
                yield
        except BrokerAway as away:
            raise Unreachable(str(away)) from away
        except TimeoutError as late:
            raise Unreachable(f"the broker did not answer within {seconds:g} s; a smaller --limit asks less") from late


async def _all_of(looks: Iterable[Awaitable[Listing]]) -> list[Listing]:
    """Each to its end, so that all is given back, whatever became of the others."""
    found = await asyncio.gather(*looks, return_exceptions=True)
    for each in found:
        if isinstance(each, BaseException):
            raise each
    return [each for each in found if isinstance(each, Listing)]


def _belongs(topic: str | None) -> Callable[[Letter], bool]:
    return lambda letter: of_topic(letter, topic)


def _with_id(letter: Letter, delivery: Delivery) -> tuple[str, Delivery]:
    return letter.id, delivery


def _check_ids(wanted: Wanted, found: Iterable[str]) -> None:
    if ambiguous := wanted.ambiguous(found):
        raise refuse(
            Code.BAD_REQUEST, f"{ambiguous[0]} stands for several dead letters: give the whole ids (-o json shows them)"
        )


def _drop(delivery: Delivery, dry_run: bool) -> dict[str, Any]:
    letter = read_delivery(delivery)
    if dry_run:
        return outcome(letter, "dropped")
    if not delivery.live:
        return outcome(letter, "kept", "the connection to the broker was lost")
    delivery.ack()
    return outcome(letter, "dropped")
