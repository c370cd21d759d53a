"""An app for tests whose handlers are inside a server: `application` as ASGI or WSGI, as MOUNTED says. What happens it prints."""

import asyncio
import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from meshq import Context, Problem, Service


def say(words: str) -> None:
    print(f"{words} in {os.getpid()}", flush=True)


@asynccontextmanager
async def lifespan() -> AsyncIterator[None]:
    say("lifespan begins")
    yield
    say("lifespan ends")


service = Service("mounted", lifespan=lifespan)


@service.post("/double")
def double(given: dict[str, int]) -> dict[str, int]:
    return {"doubled": 2 * given["number"], "pid": os.getpid()}


@service.get("/nested/{name}")
async def nested(name: str, ctx: Context) -> dict[str, object]:
    said = await ctx.mesh.call("echo", f"GET /of/{ctx.caller_claimed}", returns=bytes, timeout=10)
    return {"name": name, "echo": json.loads(said)}


@service.get("/slow")
async def slow() -> None:
    say("slow begins")
    try:
        await asyncio.Event().wait()
    finally:
        say("slow is cancelled")


@service.on("things.happened@1")
async def happened(thing: dict[str, str], ctx: Context) -> None:
    if ctx.attempt == 1:
        raise Problem("not-yet", status=503, retry_after=0)
    say(f"{thing['what']} happened, attempt {ctx.attempt}")


if os.environ["MOUNTED"] == "asgi":
    application = service.asgi()
else:
    application = service.wsgi()
    if os.environ["MOUNTED"] == "wsgi started":
        application.start()
