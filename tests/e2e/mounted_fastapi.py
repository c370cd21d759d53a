"""A FastAPI app for tests: a Mesh for as long as it runs, and handlers mounted below /mesh, asked at the app's port."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request

from meshq import Mesh, Service

service = Service("mounted")


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    async with Mesh() as mesh:
        app.state.mesh = mesh
        await service.subscribe("/mesh")
        yield
    await service.mesh.close()


application = FastAPI(lifespan=lifespan)
application.mount("/mesh", service.asgi())


@application.get("/ask/{what}")
async def ask(what: str, request: Request) -> Any:
    return json.loads(await request.app.state.mesh.call("echo", f"GET /{what}", returns=bytes, timeout=10))


@service.get("/hello/{name}")
async def hello(name: str) -> str:
    return f"hello {name}"


@service.on("things.happened@1")
async def happened(thing: dict[str, str]) -> None:
    print(f"{thing['what']} happened", flush=True)
