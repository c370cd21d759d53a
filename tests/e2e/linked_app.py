"""An app of the SDK, without a port, that serves its sidecar over a link: `python -m tests.e2e.linked_app JOURNAL [hold]`.

What it handles it writes to the journal first, as held_app.py does. With `hold` it answers nothing.
"""

import asyncio
import json
import os
import sys

from meshq import Context, Service

app = Service("orders", version="1.0.0")
journal = os.open(sys.argv[1], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
holds = "hold" in sys.argv[2:]


async def take(path: str, ctx: Context) -> dict[str, int]:
    record = {"method": "POST", "path": path, "pid": os.getpid(), "headers": {"meshq-attempt": str(ctx.attempt)}}
    os.write(journal, json.dumps(record).encode() + b"\n")
    if holds:
        await asyncio.Event().wait()
    return {"attempt": ctx.attempt}


@app.post("/{name}")
async def handle(name: str, ctx: Context) -> dict[str, int]:
    return await take(f"/{name}", ctx)


@app.on("stock.counted@1")
async def counted(ctx: Context) -> None:
    await take("/counted", ctx)


if __name__ == "__main__":
    app.run()
