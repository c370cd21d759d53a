"""The spool for tests: lives of a process that has it, and what lies in its directory."""

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

from meshq.adapters.clock import ManualClock
from meshq.adapters.spool import DiskSpool
from meshq.core.topology import CALLS
from meshq.ports import Publication, Spooled, SpoolRecord
from tests.contract.broker_rigs import Recorder

T = TypeVar("T")

LIMIT = 64 * 2**20
NOW_MS = 1_790_000_000_000


def life(directory: Path, story: Callable[[DiskSpool], Awaitable[T]], limit: int = LIMIT, records: int = 10**6) -> T:
    """One process: open the spool, do things, close it."""

    async def told() -> T:
        spool = DiskSpool(directory, limit, ManualClock(mesh_ms=NOW_MS), max_records=records)
        try:
            return await asyncio.wait_for(story(spool), 60)
        finally:
            await spool.close()

    return asyncio.run(told())


def publication(number: int, body: bytes = b"") -> Publication:
    return Publication(CALLS, "orders.v1.work", body or b"body %d" % number, f"m{number}", "call", "shop.results")


async def appended(spool: DiskSpool, *publications: Publication) -> list[Spooled]:
    """Append them in one turn of the loop. Returns what became of each, in their order."""
    fates: list[Spooled | None] = [None] * len(publications)
    told = Recorder[int]()

    def done(at: int, fate: Spooled) -> None:
        assert fates[at] is None, "told twice"
        fates[at] = fate
        told(at)

    for at, each in enumerate(publications):
        spool.append(each, partial(done, at))
    await told.count(len(publications))
    return [fate for fate in fates if fate is not None]


async def filled(spool: DiskSpool, *numbers: int) -> None:
    assert await appended(spool, *map(publication, numbers)) == [Spooled.WRITTEN] * len(numbers)


def taken(spool: DiskSpool) -> list[SpoolRecord]:
    """Everything that can be taken now."""
    found = []
    while (record := spool.take()) is not None:
        found.append(record)
    return found


def ids(records: list[SpoolRecord]) -> list[int]:
    """The numbers that `publication` gave them."""
    return [int(record.publication.message_id[1:]) for record in records]


def left(directory: Path) -> list[int]:
    """What the next process finds."""

    async def story(spool: DiskSpool) -> list[int]:
        found = ids(taken(spool))
        assert spool.waiting == len(found)
        return found

    return life(directory, story)


def segments(directory: Path) -> list[Path]:
    return sorted(directory.glob("*.v1"))
