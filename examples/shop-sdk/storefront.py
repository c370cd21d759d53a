"""storefront, with the SDK: the API of ../shop/storefront.py.

    GET  /             what is for sale
    GET  /bestsellers  how many of each were ordered, by whatever way
    POST /buy          a Wish -> 201 with the Sale

It names who it calls (`billing@1`, `orders`), and what they are written in, it need not know.
"""

from shop import Charge, Line, Order, Sale, Wish

from meshq import Context, Problem, Reply, Service

UNIT_CENTS = {"tea": 450, "teapot": 3900, "samovar": 64000}
KEPT = 10_000

storefront = Service("storefront", version="1.0.0")
ordered = dict.fromkeys(UNIT_CENTS, 0)
counted: dict[str, None] = {}  # ids of orders, oldest first: an event may come twice


@storefront.get("/")
async def items() -> dict[str, object]:
    return {"items": [{"item": item, "unit_cents": cents} for item, cents in UNIT_CENTS.items()]}


@storefront.get("/bestsellers")
async def bestsellers() -> dict[str, object]:
    return {"ordered": dict(sorted(ordered.items(), key=lambda pair: -pair[1]))}


@storefront.post("/buy")
async def buy(wish: Wish, ctx: Context) -> Reply:
    if wish.item not in UNIT_CENTS:
        raise Problem("not-for-sale", f"{wish.item} is not for sale", status=404)
    unit_cents = UNIT_CENTS[wish.item]
    # The charge first: where it is declined there is no order to take back. A Problem that is not caught is this app's answer,
    # so a declined card (402) is told to the customer as billing said it. If this message comes a second time, both calls carry
    # the idempotency keys of the first, and are done once.
    wanted = {"reference": ctx.idempotency_key, "amount_cents": unit_cents * wish.quantity}
    charge = await ctx.mesh.call("billing@1", "POST /charges", wanted, returns=Charge)
    line = Line(**wish.model_dump(), unit_cents=unit_cents, charge=charge.id)
    order = await ctx.mesh.call("orders", "POST /orders", line, returns=Order)
    return Reply(Sale(order=order, charge=charge), status=201)


@storefront.on("orders.placed@1")
async def count(order: Order) -> None:
    if order.id not in counted and (order.item in ordered or len(ordered) < KEPT):
        ordered[order.item] = ordered.get(order.item, 0) + order.quantity
        counted[order.id] = None
    if len(counted) > KEPT:
        del counted[next(iter(counted))]


if __name__ == "__main__":
    storefront.run()
