"""boxoffice: a FastAPI app with HTTP routes of its own, for people, that is a service of the mesh as well.

For people, at the app's port:      POST /bookings   DELETE /bookings/{id}   GET /news
For the mesh, over the link:        GET /bookings of `boxoffice`, and the event `seats.freed`

`serving()` serves the mesh's side while the app runs, on the same event loop: both sides share what is in memory.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import count

from fastapi import FastAPI, HTTPException
from pydantic import BaseModel

from meshq import Mesh, Problem, Service

mesh = Mesh()
boxoffice = Service("boxoffice", version="1.0.0", mesh=mesh)


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    async with boxoffice.serving():
        yield


app = FastAPI(title="Box office", lifespan=lifespan)


class Booking(BaseModel):
    show: str
    count: int


class Left(BaseModel):
    show: str
    left: int


bookings: dict[int, Booking] = {}
news: list[str] = []
numbers = count(1)


# --- for people -------------------------------------------------------------------------------------------------------------


@app.post("/bookings", status_code=201)
async def book(booking: Booking) -> dict[str, int]:
    try:
        seats = await mesh.call("seats", "POST /take", booking, returns=Left, timeout=5)
    except Problem as problem:
        raise HTTPException(problem.status, problem.detail) from None
    number = next(numbers)
    bookings[number] = booking
    return {"booking": number, "left": seats.left}


@app.delete("/bookings/{number}", status_code=202)
async def cancel(number: int) -> dict[str, int]:
    if number not in bookings:
        raise HTTPException(404, "no such booking")
    # Durable: whatever becomes of seats in this moment, they are given back, and once.
    await mesh.send("seats", "POST /give-back", bookings.pop(number), idempotency_key=f"cancel-{number}")
    return {"cancelled": number}


@app.get("/news")
async def latest() -> list[str]:
    return news


# --- for the mesh -----------------------------------------------------------------------------------------------------------


@boxoffice.get("/bookings")
async def booked(show: str) -> dict[str, int]:
    return {"booked": sum(each.count for each in bookings.values() if each.show == show)}


@boxoffice.on("seats.freed@1")
async def freed(seats: Left) -> None:
    news.append(f"{seats.show}: {seats.left} seats to have")
