"""seats: how many are left of each show. The whole app is its handlers: `run` serves them to the sidecar."""

from pydantic import BaseModel, Field

from meshq import Context, Problem, Service

seats = Service("seats", version="1.0.0")
left = {"hamlet": 3, "macbeth": 120}


class Wish(BaseModel):
    show: str
    count: int = Field(ge=1, le=10)


class Left(BaseModel):
    show: str
    left: int


@seats.post("/take")
async def take(wish: Wish) -> Left:
    if wish.show not in left:
        raise Problem("no-such-show", f"{wish.show} is not played here", status=404)
    if left[wish.show] < wish.count:
        raise Problem("sold-out", f"of {wish.show} {left[wish.show]} seats are left", status=409)
    left[wish.show] -= wish.count
    return Left(show=wish.show, left=left[wish.show])


@seats.post("/give-back")
async def give_back(wish: Wish, ctx: Context) -> None:
    left[wish.show] += wish.count
    await ctx.mesh.publish("seats.freed", Left(show=wish.show, left=left[wish.show]))


if __name__ == "__main__":
    seats.run()
