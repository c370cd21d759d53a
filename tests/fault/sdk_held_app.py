"""A service whose handlers wait until they are let go: `python -m tests.fault.sdk_held_app JOURNAL`, with MESHQ_URL.

Each writes `begin NAME ATTEMPT` to the journal, waits for SIGUSR1 (not with HOLD=0 in the environment), and writes `end NAME ATTEMPT`.
"""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from meshq import Context, Mesh, Service

released = asyncio.Event()
journal = os.open(sys.argv[1], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
if os.environ.get("HOLD") == "0":
    released.set()


def note(what: str, name: str, ctx: Context) -> None:
    os.write(journal, f"{what} {name} {ctx.attempt}\n".encode())


@asynccontextmanager
async def lifespan() -> AsyncIterator[None]:
    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, released.set)
    yield
    os.write(journal, b"over all 0\n")


service = Service("orders", mesh=Mesh(link=os.environ["WAY"] == "link"), lifespan=lifespan)


@service.post("/work/{name}")
async def work(name: str, ctx: Context) -> str:
    note("begin", name, ctx)
    await released.wait()
    if ctx.headers.get("x-asks"):  # what finishes may still have to call
        await ctx.mesh.services()
    note("end", name, ctx)
    return name


if __name__ == "__main__":
    service.run()
