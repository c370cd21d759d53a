"""A process with a spool, for tests that kill it: `python -m tests.fault.spool_process DIRECTORY FIRST`.

It appends publications numbered from FIRST for ever, AT_ONCE at once, and writes `+<number>` as each is acknowledged; of
those that wait it removes some, and writes `-<number>` before it does."""

import asyncio
import os
import sys
from functools import partial
from pathlib import Path

import uvloop

from meshq.adapters.clock import SystemClock
from meshq.adapters.spool import DiskSpool
from meshq.ports import Spooled
from tests.spools import publication

AT_ONCE = 64
LIMIT = 1_000_000
"""Small, so that segments come and go."""


def say(word: str) -> None:
    os.write(1, f"{word}\n".encode())


async def main(directory: Path, first: int) -> None:
    spool = DiskSpool(directory, LIMIT, SystemClock())
    room = asyncio.Semaphore(AT_ONCE)
    number = first

    def done(number: int, fate: Spooled) -> None:
        room.release()
        if fate is Spooled.WRITTEN:
            say(f"+{number}")

    while True:
        await room.acquire()
        spool.append(publication(number, b"%d " % number + bytes(number % 3000)), partial(done, number))
        number += 1
        while spool.waiting > 150 and (record := spool.take()) is not None:
            say(f"-{record.publication.message_id[1:]}")
            spool.remove(record)


if __name__ == "__main__":
    uvloop.run(main(Path(sys.argv[1]), int(sys.argv[2])))
