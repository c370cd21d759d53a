"""Dead letters brought back: each is published first, and acknowledged once the broker has confirmed that. Whatever is lost in
between, the letter is still there, and may come a second time."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, NamedTuple

from meshq.control.holding import read_delivery
from meshq.core import topology
from meshq.core.dead import Letter
from meshq.core.dead_replay import Resend, Stays, resend
from meshq.core.dead_views import row
from meshq.core.errors import Problem
from meshq.core.routing import Route
from meshq.ports import Broker, Clock, Delivery, Publication, QueueStats
from meshq.sending import Fate, Told

AT_ONCE = 200
"""Replays that wait for their confirms at the same time."""
SECONDS = 60.0
"""After this long no more of a queue are brought back; the rest stays."""


class How(NamedTuple):
    to: Route | None
    """Another address; None: where each came from."""
    force: bool
    """As in core.dead_replay."""
    dry_run: bool


class _Plan(NamedTuple):
    letter: Letter
    delivery: Delivery
    what: Resend | Stays


class Replays:
    """`publish` is a Sender's; `listed` gives every queue that the broker tells of."""

    def __init__(
        self,
        broker: Broker,
        clock: Clock,
        publish: Callable[[Publication, Told], None],
        listed: Callable[[], Awaitable[list[QueueStats]]],
    ) -> None:
        self._broker = broker
        self._clock = clock
        self._hand_over = publish
        self._listed = listed

    async def bring_back(self, deliveries: Sequence[Delivery], how: How) -> list[dict[str, Any]]:
        """A few hundred at a time; where the broker takes no more, the rest is not tried. Returns their `outcome`s."""
        until = self._clock.monotonic() + SECONDS
        letters: list[dict[str, Any]] = []
        stop = ""
        for start in range(0, len(deliveries), AT_ONCE):
            group = deliveries[start : start + AT_ONCE]
            if stop:
                letters += [outcome(read_delivery(delivery), "kept", f"not tried: {stop}") for delivery in group]
                continue
            plans = await self._plans(group, how)
            fates = [self._publish(plan, how.dry_run) for plan in plans]
            for plan, told in zip(plans, fates, strict=True):
                fate = None if told is None else await told
                if isinstance(fate, Problem):
                    stop = fate.detail
                letters.append(_brought_back(plan, fate))
            if self._clock.monotonic() > until:
                stop = f"{SECONDS:g} s are over"
        return letters

    async def _plans(self, deliveries: Sequence[Delivery], how: How) -> list[_Plan]:
        now_ms = self._clock.mesh_ms()
        letters = [read_delivery(delivery) for delivery in deliveries]
        plans = [
            _Plan(letter, delivery, resend(letter, how.to, now_ms, how.force))
            for letter, delivery in zip(letters, deliveries, strict=True)
        ]
        # What finds no queue at the end of the delay levels is confirmed all the same, and is a dead letter again.
        asked = {p.what.queue for p in plans if isinstance(p.what, Resend) and p.what.exchange == topology.DELAY}
        gone = asked - await self._there(asked) if asked else asked
        return [
            plan._replace(what=Stays("", f"{plan.what.queue} does not exist; --to names an address"))
            if isinstance(plan.what, Resend) and plan.what.queue in gone
            else plan
            for plan in plans
        ]

    async def _there(self, queues: set[str]) -> set[str]:
        """Those that exist. Of one that belongs to another connection the broker itself says nothing."""
        return {figures.queue for figures in [*await self._broker.stats(sorted(queues)), *await self._listed()]}

    def _publish(self, plan: _Plan, dry_run: bool) -> "asyncio.Future[Fate | Problem] | None":
        """None: it is not to be published."""
        what = plan.what
        if dry_run or isinstance(what, Stays):
            return None
        told: asyncio.Future[Fate | Problem] = asyncio.get_running_loop().create_future()

        def tell(fate: Fate | Problem) -> None:
            if not told.done():
                told.set_result(fate)

        self._hand_over(Publication(what.exchange, what.key, what.body, plan.letter.id, what.kind, what.reply_to), tell)
        return told


def outcome(letter: Letter, what: str, detail: str = "", queue: str | None = None) -> dict[str, Any]:
    """Its row, with `outcome`: `replayed`, `dropped` or `kept` (of a dry run, what it would be); `queue`: where a replay goes,
    else None; `detail`: why it was kept, or what else there is to say, "" for nothing."""
    return {**row(letter), "outcome": what, "queue": queue, "detail": detail}


def _brought_back(plan: _Plan, fate: Fate | Problem | None) -> dict[str, Any]:
    """Takes it out of the dead letters, if it was confirmed. `fate` None: it was not published."""
    letter, what = plan.letter, plan.what
    if isinstance(what, Stays):
        return outcome(letter, "kept", f"{what.detail} ({what.reason})" if what.reason else what.detail)
    match fate:
        case Problem():
            return outcome(letter, "kept", fate.detail, what.queue)
        case Fate.UNROUTABLE:
            return outcome(letter, "kept", f"no queue takes it: {what.queue} is not there", what.queue)
        case None:
            return outcome(letter, "replayed", what.note, what.queue)
    if not plan.delivery.live:
        detail = "it was replayed, but the connection was lost before it could be taken out of the dead letters"
        return outcome(letter, "kept", detail, what.queue)
    plan.delivery.ack()
    return outcome(letter, "replayed", what.note, what.queue)
